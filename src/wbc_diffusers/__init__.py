"""Synthetic white blood cells by diffusion: a diffusers plugin for training, sampling and judging them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "R2AttnUNet": "wbc_diffusers.models.r2_attn_unet",
    "SigmoidDDIMScheduler": "wbc_diffusers.schedulers.scheduling_sigmoid_ddim",
    "WBCDDIMPipeline": "wbc_diffusers.pipelines",
    "WBCDiscriminator": "wbc_diffusers.models.wbc_discriminator",
    "WBCGANPipeline": "wbc_diffusers.pipelines",
    "WBCGenerator": "wbc_diffusers.models.wbc_generator",
}

__all__ = [
    "R2AttnUNet",
    "SigmoidDDIMScheduler",
    "WBCDDIMPipeline",
    "WBCDiscriminator",
    "WBCGANPipeline",
    "WBCGenerator",
    "__version__",
]

if TYPE_CHECKING:
    from wbc_diffusers.models.r2_attn_unet import R2AttnUNet
    from wbc_diffusers.models.wbc_discriminator import WBCDiscriminator
    from wbc_diffusers.models.wbc_generator import WBCGenerator
    from wbc_diffusers.pipelines import WBCDDIMPipeline, WBCGANPipeline
    from wbc_diffusers.schedulers.scheduling_sigmoid_ddim import SigmoidDDIMScheduler


def __getattr__(name: str) -> Any:
    """Import a public class when it is first asked for, so that `import wbc_diffusers` loads no torch (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
