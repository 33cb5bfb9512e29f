"""WBCDiscriminator: a DCGAN-like discriminator that tells real cell images from generated ones.

This file is shipped with checkpoints: it imports nothing of the package.
"""

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.nn.utils import parametrizations

NORM_TYPES = ("batch", "none")


def halvings(sample_size: int) -> tuple[int, int]:
    """The grid that an image size is halved down to, and how often: 192 to 6, five times; 64 and 256 to 4.

    Raises:
        ValueError: If the size is not 4, 5, 6 or 7 times a power of two.
    """
    size, times = sample_size, 0
    while size >= 8 and size % 2 == 0:
        size, times = size // 2, times + 1
    if not 4 <= size < 8 or times == 0:
        raise ValueError(
            f"sample_size={sample_size}: it must be 4, 5, 6 or 7 times a power of two, such as 64, 96, 160, 192 or 256."
        )
    return size, times


def check_numbers(negative_slope: float, **counts: int) -> None:
    """Raise a ValueError unless the slope lies in [0, 1] and each count is a whole number above 0."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}={count!r}: give a whole number of 1 or more.")
    if counts["kernel_size"] < 2:
        raise ValueError(f"kernel_size={counts['kernel_size']}: give 2 or more; a stride of 2 would skip pixels.")
    if isinstance(negative_slope, bool) or not isinstance(negative_slope, int | float) or not 0 <= negative_slope <= 1:
        raise ValueError(f"negative_slope={negative_slope!r}: give a number from 0 to 1.")


def initialise(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, inputs: int, norm_type: str, slope: float) -> None:
    """Draw normal weights for a layer of which `inputs` values make one output, and set its bias to zero.

    Where batch norm sets the scale, with 0.02 (Radford et al. 2016, section 4). Without, that would take the signal
    away level by level: so that it keeps its scale through leaky ReLU of `slope` (He et al. 2015, section 2.2).
    """
    nn.init.normal_(layer.weight, 0.0, 0.02 if norm_type == "batch" else (2 / (1 + slope**2) / inputs) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@dataclass
class WBCDiscriminatorOutput(BaseOutput):
    """Output of [`WBCDiscriminator`].

    Args:
        logits: How real each image looks (B,); above 0 means real.
    """

    logits: Tensor


class DownBlock(nn.Module):
    """Convolution of stride 2, norm and leaky ReLU: (B, in_channels, H, W) to (B, out_channels, H/2, W/2).

    `norm_type` is that of the whole network: `norm` says whether this block has one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_type: str,
        norm: bool,
        spectral_norm: bool,
        negative_slope: float,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, 2, (kernel_size - 1) // 2, bias=not norm)
        initialise(conv, in_channels * kernel_size**2, norm_type, negative_slope)
        self.conv = parametrizations.spectral_norm(conv) if spectral_norm else conv
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width."""
        return F.leaky_relu(self.norm(self.conv(x)), self.negative_slope)


class WBCDiscriminator(ModelMixin, ConfigMixin):
    r"""Discriminator of the GAN baseline (thesis section 4.2; DCGAN, Radford et al. 2016).

    Convolutions of stride 2 halve the image down to a grid, each but the first with batch norm; a linear layer gives
    one logit.

    Args:
        sample_size: Height and width of the images in pixels: 4, 5, 6 or 7 times a power of two.
        in_channels: Channels of the images.
        depth: Channels of the first block; each block has twice as many as the one before.
        kernel_size: Of the convolutions.
        norm_type: "batch" or "none".
        spectral_norm: Whether the weights are divided by their largest singular value (Miyato et al. 2018).
        negative_slope: Of the leaky ReLU.

    Raises:
        ValueError: If an argument is not one of its allowed values.
    """

    _no_split_modules = ("DownBlock",)
    _skip_layerwise_casting_patterns = ("norm",)

    @register_to_config
    def __init__(
        self,
        sample_size: int = 192,
        in_channels: int = 3,
        depth: int = 64,
        kernel_size: int = 6,
        norm_type: str = "batch",
        spectral_norm: bool = False,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        check_numbers(
            negative_slope, sample_size=sample_size, in_channels=in_channels, depth=depth, kernel_size=kernel_size
        )
        if norm_type not in NORM_TYPES:
            raise ValueError(f"norm_type={norm_type!r}: choose one of {', '.join(NORM_TYPES)}.")
        if not isinstance(spectral_norm, bool):
            raise ValueError(f"spectral_norm={spectral_norm!r}: give true or false.")
        grid, levels = halvings(sample_size)
        widths = [in_channels, *(depth * 2**level for level in range(levels))]
        self.blocks = nn.ModuleList(
            # None in the first: batch norm would take the image's colours away (Radford et al. 2016, section 3).
            DownBlock(
                before, width, kernel_size, norm_type, norm_type == "batch" and i > 0, spectral_norm, negative_slope
            )
            for i, (before, width) in enumerate(pairwise(widths))
        )
        linear = nn.Linear(widths[-1] * grid**2, 1)
        initialise(linear, linear.in_features, norm_type, negative_slope)
        self.linear_out = parametrizations.spectral_norm(linear) if spectral_norm else linear

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Any:
        """Load a network from a folder or from the hub, all of its weights.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the hub.
            kwargs: Further arguments of [`ModelMixin.from_pretrained`], such as `torch_dtype` or `variant`.

        Raises:
            OSError: If there is no network, or some of its weights are missing: diffusers would leave these at random.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        if missing := sorted(info.get("missing_keys", ())):
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise OSError(
                f"The weights in {pretrained_model_name_or_path} lack {named}: take them again from where the model "
                "came from, with the config.json that belongs to them."
            )
        return (model, info) if wants_info else model

    def forward(self, sample: Tensor, return_dict: bool = True) -> WBCDiscriminatorOutput | tuple[Tensor]:
        """Judge images.

        Args:
            sample: Images (B, in_channels, sample_size, sample_size) in [-1, 1].
            return_dict: Whether to return an output object rather than a tuple.

        Returns:
            Logits (B,), above 0 for images that look real, as `.logits` or in a tuple.

        Raises:
            ValueError: If the images have another shape.
        """
        size = self.config.sample_size
        if sample.shape[1:] != (self.config.in_channels, size, size):
            raise ValueError(
                f"WBCDiscriminator got images of shape {tuple(sample.shape)}: (B, {self.config.in_channels}, {size}, "
                f"{size}) is wanted."
            )
        x = sample
        for block in self.blocks:
            x = block(x)
        logits = self.linear_out(x.flatten(1))[:, 0]
        return WBCDiscriminatorOutput(logits=logits) if return_dict else (logits,)
