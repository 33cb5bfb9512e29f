"""WBCGANPipeline: from a noise vector to images of white blood cells, by one run of a generator.

This file is shipped with checkpoints: it imports nothing of the package.
"""

import hashlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image
from torch import Tensor, nn

logger = logging.getLogger(__name__)

MANIFEST_NAME = "training_manifest.json"
OUTPUT_TYPES = ("pil", "np", "pt")
_PUSH_OPTIONS = ("push_to_hub", "repo_id", "commit_message", "private", "token", "create_pr")


def truncated(latents: Tensor, truncation: float) -> Tensor:
    """Normal noise as if each value had been drawn again until it lay within +-truncation (Brock et al. 2019, 3.1).

    A value goes to the same quantile of the truncated normal distribution, so it stays a function of its seed. In
    float64 on the CPU: not every accelerator has it.
    """
    z = latents.to("cpu", torch.float64)
    inside = math.erf(truncation / math.sqrt(2.0))
    z = math.sqrt(2.0) * torch.erfinv(inside * torch.erf(z / math.sqrt(2.0)))
    return z.clamp(-truncation, truncation).to(latents)  # beyond 8 or so, erf is 1 and its inverse infinite


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run a network in eval mode: by batch statistics an image would depend on the others of its batch."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:  # a fine-tuning may have some of them in eval mode
            module.training = True


class WBCGANPipeline(DiffusionPipeline):
    r"""Pipeline that makes images of white blood cells by a generator that was trained against a discriminator.

    It is the baseline to [`WBCDDIMPipeline`] (thesis section 4.2).

    Args:
        generator ([`WBCGenerator`]):
            Network that turns noise vectors into images.
        discriminator ([`WBCDiscriminator`], *optional*):
            Network that it was trained against; only a further training needs it.
    """

    model_cpu_offload_seq = "generator"
    _optional_components = ["discriminator"]  # noqa: RUF012 - diffusers reads a list

    # Optional: diffusers 0.36 reads no other spelling of it.
    def __init__(self, generator: ModelMixin, discriminator: Optional[ModelMixin] = None) -> None:  # noqa: UP045
        super().__init__()
        self.register_modules(generator=generator, discriminator=discriminator)
        self.training_manifest: dict[str, Any] | None = None
        """What the model was trained on: the `training_manifest.json` of its folder; `save_pretrained` writes it."""

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        truncation: float | None = None,
        contrast: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[list[Image.Image] | np.ndarray | Tensor]:
        r"""Make images from noise.

        Args:
            batch_size (`int`, defaults to 1):
                Number of images.
            generator (`torch.Generator` or a sequence of them, *optional*):
                Source of the noise (not the network, which is `pipe.generator`). In a sequence each image has its own,
                and depends on its seed alone.
            latents (`torch.Tensor`, *optional*):
                Normal noise (B, latent_dim) to start from, instead of drawing it.
            truncation (`float`, *optional*):
                Largest absolute value of the noise; what lies beyond counts as drawn again. Smaller values give more
                typical cells that differ less.
            contrast (`float`, *optional*):
                Sharpens the contrast as `image * (contrast / 127 + 1) - contrast` on 0..255; the thesis's value is 20.
            output_type (`str`, defaults to `"pil"`):
                `"pil"` for a list of `PIL.Image`, `"np"` for an array (B, H, W, C), `"pt"` for a tensor (B, C, H, W),
                the last two with floats in [0, 1].
            return_dict (`bool`, defaults to `True`):
                Whether to return an [`~pipelines.ImagePipelineOutput`] rather than a tuple.

        Returns:
            [`~pipelines.ImagePipelineOutput`] or `tuple`: The images, as `.images` or as the tuple's first element.

        Raises:
            ValueError: If an argument doesn't fit, or if an image is not finite.

        Example:

        ```py
        >>> import torch
        >>> from wbc_diffusers import WBCGANPipeline

        >>> pipe = WBCGANPipeline.from_pretrained("path/to/pipeline")  # doctest: +SKIP
        >>> seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
        >>> images = pipe(batch_size=4, generator=seeds, truncation=1.5).images  # doctest: +SKIP
        ```
        """
        generator = self._checked_request(batch_size, generator, contrast, output_type)
        if truncation is not None and not 0 < truncation < math.inf:
            raise ValueError(f"truncation={truncation}: give a number above 0, such as 1.5, or None for none.")

        noise = self._initial_noise(batch_size, generator, latents)
        if truncation is not None:
            noise = truncated(noise, truncation)
        with evaluating(self.generator):
            sample = self.generator(noise.to(self.generator.dtype), return_dict=False)[0].float()

        self._check_finite(sample)
        images = self._to_output((sample / 2 + 0.5).clamp(0, 1), contrast, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _initial_noise(
        self, batch_size: int, generator: torch.Generator | list[torch.Generator] | None, latents: Tensor | None
    ) -> Tensor:
        """Noise (B, latent_dim) where the generator network runs, in float32 whatever the network's precision."""
        # The pipeline's own device may be that of the discriminator.
        offloaded = hasattr(self.generator, "_hf_hook")
        device = self._execution_device if offloaded else self.generator.device
        shape = (batch_size, self.generator.config.latent_dim)
        if latents is None:
            return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        if latents.shape != shape:
            raise ValueError(f"latents has shape {tuple(latents.shape)}; {shape} is wanted: (batch_size, latent_dim).")
        return latents.to(device, torch.float32)

    def _check_finite(self, sample: Tensor) -> None:
        """Raise if a sample (B, C, H, W) is no image: as bytes it would be black, and look like a result."""
        broken = (~sample.isfinite()).flatten(1).any(dim=1)
        if broken.any():
            raise ValueError(
                f"{int(broken.sum())} of {len(sample)} images are not finite (NaN or infinite): see that the "
                "generator's weights and the latents are finite, and that it runs in float32 or bfloat16."
            )

    # From here on the files of both pipelines hold the same text: neither can import from the other.

    @staticmethod
    def _checked_request(
        batch_size: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        contrast: float | None,
        output_type: str,
    ) -> torch.Generator | list[torch.Generator] | None:
        """The generators as diffusers takes them, or ValueError if an argument of a call doesn't fit."""
        if not is_integer(batch_size) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: give the number of images, 1 or more.")
        if contrast is not None and not 0 <= contrast < math.inf:
            raise ValueError(f"contrast={contrast}: give 0 or more (the thesis's value is 20), or None for none.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}.")
        if generator is None or isinstance(generator, torch.Generator):
            return generator
        if len(generator) != batch_size:
            raise ValueError(
                f"generator is a list of {len(generator)}, but batch_size={batch_size}: give one generator per image, "
                "or a single one for all."
            )
        return list(generator)

    def _to_output(
        self, images: Tensor, contrast: float | None, output_type: str
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Turn images (B, C, H, W) in [0, 1] into what the caller asked for."""
        if contrast:
            images = sharpen_contrast(images, contrast)
        if output_type == "pt":
            return images
        array = images.cpu().permute(0, 2, 3, 1).numpy()
        return self.numpy_to_pil(array) if output_type == "pil" else array

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Save the pipeline as a folder with weights in safetensors, its training manifest included.

        Args:
            save_directory: The folder; made if it doesn't exist.
            safe_serialization: Must stay True.
            kwargs: Further arguments of [`DiffusionPipeline.save_pretrained`], such as `variant` or `push_to_hub`.

        Raises:
            ValueError: If another format than safetensors is asked for.
        """
        if not safe_serialization or kwargs.get("use_flashpack"):
            raise ValueError(
                f"{type(self).__name__} is saved in safetensors only: leave safe_serialization=True and "
                "use_flashpack=False."
            )
        self._there_before = weight_states(Path(save_directory))
        push = {name: kwargs.pop(name) for name in _PUSH_OPTIONS if name in kwargs}
        super().save_pretrained(str(save_directory), safe_serialization=True, **kwargs)
        if push.pop("push_to_hub", False):
            # By way of a folder of its own: what else lies in this one, such as images, is nobody's business.
            repo_id = push.pop("repo_id", Path(save_directory).resolve().name)
            self.push_to_hub(repo_id, variant=kwargs.get("variant"), **push)

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write model_index.json, the code of the classes, and the manifest with the hashes of the weights there.

        `save_pretrained` calls this when it has written the weights, and before it uploads the folder.

        Args:
            save_directory: The folder.
            push_to_hub: Whether to upload the folder.
            kwargs: Further arguments of [`ConfigMixin.save_config`].
        """
        folder = Path(save_directory)
        manifest = self._find_manifest()
        folder.mkdir(parents=True, exist_ok=True)
        if manifest is not None:
            text = json.dumps({**manifest, "weights_sha256": self._hashes_to_tell(folder, manifest)}, indent=1)
            (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
        for part, (name, code) in self._shipped_code().items():
            (folder / part).mkdir(exist_ok=True)
            (folder / part / f"{name}.py").write_bytes(code)
        for path in (path for part in self._registered() for path in (folder / part).glob("*config.json")):
            # diffusers writes where the part was loaded from, which may tell about the user.
            config = {key: value for key, value in read_object(path).items() if key != "_name_or_path"}
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        super().save_config(str(folder), push_to_hub=push_to_hub, **kwargs)

    def to_json_string(self) -> str:
        """Give model_index.json: it names each class by the file that is shipped, as diffusers loads such code."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)
        code = self._shipped_code()
        for part, (name, _) in code.items():
            index[part or "_class_name"] = [name, self._class_of(part).__name__]
        network = self._network_name()
        if network in code:
            index["auto_map"] = {"AutoModel": ".".join(index[network])}  # AutoModel looks here, and for one class only
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def register_modules(self, **kwargs: Any) -> None:
        """Take over components, and their code: a later load may put other code into the files that it is run from."""
        super().register_modules(**kwargs)
        classes = [self._class_of(part) for part in ("", *kwargs)]
        known = getattr(self, "_code_at_start", {})
        self._code_at_start = known | {cls: code for cls in classes if (code := code_of(cls)) is not None}

    def _registered(self) -> dict[str, Any]:
        """The components so far; diffusers' own `components` raises until all of them are there."""
        return {name: getattr(self, name) for name in self._get_signature_keys(self)[0] if hasattr(self, name)}

    def _network_name(self) -> str | None:
        """The network that makes the images, None where there is none."""
        names = [name for name, part in self._registered().items() if isinstance(part, nn.Module)]
        return next((name for name in names if name not in self._optional_components), None)

    def _class_of(self, part: str) -> type:
        """The class of a component, or that of the pipeline for an empty name."""
        if part:
            component = getattr(self, part)
            return type(getattr(component, "_orig_mod", component))  # of a compiled network
        # A class of the same name further down is the installed package's, which adds its way of loading only.
        return next(cls for cls in reversed(type(self).__mro__) if cls.__name__ == type(self).__name__)

    def _shipped_code(self) -> dict[str, tuple[str, bytes]]:
        """Name and text of the file of each class that isn't diffusers' own, by the folder it is shipped in."""
        classes = {part: self._class_of(part) for part in ("", *self._registered())}
        found = {part: self._code_at_start.get(cls) or code_of(cls) for part, cls in classes.items()}
        for part, cls in classes.items():
            if found[part] is None and cls.__module__.partition(".")[0] not in ("builtins", "diffusers"):
                logger.warning("%s is defined in no file that could be shipped: the folder won't load without it.", cls)
        return {part: code for part, code in found.items() if code is not None}

    def _hashes_to_tell(self, folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
        """Hashes of the weights that were just written, and of others of the same training, such as a variant."""
        before, now = getattr(self, "_there_before", {}), weight_states(folder)
        written = {name for name, state in now.items() if before.get(name) != state}
        earlier = read_manifest(folder) or {}
        own = ("weights_sha256", "weights_changed")
        same = {k: v for k, v in earlier.items() if k not in own} == {k: v for k, v in manifest.items() if k not in own}
        known = earlier.get("weights_sha256") or {} if same else {}
        hashes = weight_hashes(folder)
        return {name: found for name, found in hashes.items() if name in written or known.get(name) == found}

    def _find_manifest(self) -> dict[str, Any] | None:
        """The manifest that came with the pipeline, None if none did; it marks weights that are not those it names."""
        if self.training_manifest is not None or self.name_or_path is None:
            return self.training_manifest
        folder = Path(self.name_or_path)
        if not folder.is_dir():
            # A repository: diffusers' own download of it leaves the manifest out.
            network = getattr(self, self._network_name() or "", None)
            folder = Path(getattr(network, "config", {}).get("_name_or_path") or "").parent
            if folder.parent.name != "snapshots":
                self._warn_of_no_manifest("it is no longer there")
                return None
            cache = folder.parents[2]
            try:
                hf_hub_download(self.name_or_path, MANIFEST_NAME, revision=folder.name, cache_dir=cache)
            except Exception as error:  # whatever a client raises: weights that are written already are worth more
                if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                    self._warn_of_no_manifest(error)
                return None
        manifest = read_manifest(folder)
        return None if manifest is None else manifest_for(folder, manifest)

    def _warn_of_no_manifest(self, reason: object) -> None:
        logger.warning(
            "The training manifest of %s can't be had (%s), so what is saved has none: copy %s there.",
            self.name_or_path,
            reason,
            MANIFEST_NAME,
        )


def code_of(cls: type) -> tuple[str, bytes] | None:
    """Name and text of the file that defines a class; None for diffusers' own classes and those of no such file."""
    file = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
    if cls.__module__.partition(".")[0] in ("__main__", "diffusers") or file.suffix != ".py" or not file.is_file():
        return None
    return file.stem, file.read_bytes()


def manifest_for(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest, with `weights_changed` where a weight file of the folder is not the one that it was written for.

    A pipeline that is saved again gets new hashes, and would else hide that.
    """
    known: Any = manifest.get("weights_sha256")
    hashes = weight_hashes(folder) if isinstance(known, dict) and known else {}
    changed = [name for name, found in hashes.items() if known.get(name, found) != found]
    return {**manifest, "weights_changed": changed} if changed else manifest


def sharpen_contrast(images: Tensor, contrast: float) -> Tensor:
    """Sharpen images in [0, 1] as the thesis does on 0..255: image x (contrast / 127 + 1) - contrast (section 6.2)."""
    return (images * (contrast / 127.0 + 1.0) - contrast / 255.0).clamp(0.0, 1.0)


def read_manifest(folder: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """Read the training manifest of a pipeline folder; None if it has none.

    Raises:
        ValueError: If it is no JSON object.
    """
    path = None if folder is None else Path(folder, MANIFEST_NAME)
    return None if path is None or not path.is_file() else read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of a pipeline folder that holds a JSON object, or raise ValueError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): take it again from where the model came from.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object: take it again from where the model came from.")
    return found


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the weight files of a pipeline folder, by their paths in it."""
    hashes = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def weight_states(folder: Path) -> dict[str, tuple[int, ...]]:
    """What changes where a weight file of a pipeline folder is written anew, by the paths in it."""
    states = {path.relative_to(folder).as_posix(): path.stat() for path in folder.glob("*/*.safetensors")}
    return {name: (state.st_ino, state.st_mtime_ns, state.st_size) for name, state in states.items()}


def is_integer(value: object) -> bool:
    """Whether a value is an integer, and no bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
