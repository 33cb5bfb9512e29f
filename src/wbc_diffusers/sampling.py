"""A model as a function of seeds, whatever kind it is: what a folder of generated images rests on."""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from wbc_diffusers.data.manifest import check_manifest, public_name
from wbc_diffusers.pipelines import WBCDDIMPipeline, WBCGANPipeline, load_pipeline
from wbc_diffusers.solvers import SOLVERS, as_solver, name_of

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the network runs in, by mixed precision."""


def revision_of(network: torch.nn.Module) -> str:
    """A hash of the weights themselves, so that a copied or republished model keeps its name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def config_hash_of(parts: Sequence[Any]) -> str:
    """A hash of what the weights don't say: how network and scheduler are built."""
    configs = []
    for part in parts:
        # A swapped scheduler drags the options of the class before it along.
        own = inspect.signature(type(part).__init__).parameters
        configs.append({name: value for name, value in part.config.items() if name in own})
    return hashlib.sha256(json.dumps(configs, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(kw_only=True)
class Sampler(ABC):
    """A pipeline with the options that its images are made by.

    Args:
        pipe: The pipeline.
        contrast: The thesis's contrast sharpening (20 there); None for none.
        mixed_precision: "no", "bf16" or "fp16".
    """

    pipe: Any
    contrast: float | None = None
    mixed_precision: str = "no"

    kind: ClassVar[str]
    """What kind of model it is, in words."""

    parts: ClassVar[tuple[str, ...]]
    """The components that the images come from, the network first."""

    @classmethod
    def options(cls) -> set[str]:
        """Names of the options that only this kind of model has."""
        return {field.name for field in fields(cls)} - {field.name for field in fields(Sampler)}

    @property
    def network(self) -> Any:
        """The network that makes the images."""
        return getattr(self.pipe, self.parts[0])

    @property
    def depicted(self) -> dict[str, Any]:
        """What the model was trained to show, by its manifest."""
        return dict(self._manifest("recipe").get("where") or {})

    def settings(self) -> dict[str, Any]:
        """What an image depends on beside its seed and the size of its batch, as JSON."""
        grade = str(self.depicted.get("grade", ""))
        return {
            "revision": revision_of(self.network),
            "config": config_hash_of([getattr(self.pipe, name) for name in self.parts]),
            **self._own_settings(),
            "contrast": self.contrast,
            "abnormality": str(self.depicted.get("abnormality", "")),
            # Grades are numbers, but a column of one's own may hold words, such as "severe".
            "grade": int(grade) if grade.isdecimal() else grade or None,
            "mixed_precision": self.mixed_precision,
        }

    def __call__(self, seeds: list[int]) -> list[Image.Image]:
        """Make the image of each seed."""
        return self._images(seeds)

    def rehearse(self) -> None:
        """Make an image, so that what doesn't fit together is told before anything is written.

        Raises:
            ValueError: If an option doesn't fit the model, or its images are not finite.
        """
        self._images([0])

    @abstractmethod
    def _own_settings(self) -> dict[str, Any]:
        """What only this kind of model is set by, as JSON."""

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """What this kind of pipeline is called with."""

    def _images(self, seeds: list[int], **arguments: Any) -> list[Image.Image]:
        dtype = DTYPES[self.mixed_precision]
        with torch.autocast(self.pipe.device.type, dtype, enabled=dtype != torch.float32):
            return self.pipe(
                batch_size=len(seeds),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                contrast=self.contrast,
                **self._arguments(),
                **arguments,
            ).images

    def _manifest(self, part: str) -> dict[str, Any]:
        return (self.pipe.training_manifest or {}).get(part, {})


@dataclass(kw_only=True)
class DDIMSampler(Sampler):
    """A diffusion model.

    Args:
        steps: Denoising steps.
        solver: One of `wbc_diffusers.solvers.SOLVERS`, in place of the model's own scheduler.
        eta: Share of DDPM's noise: 0 is DDIM, 1 is DDPM.
        class_name: Class to make, for a model with classes.
    """

    steps: int = 20
    solver: str | None = None
    eta: float = 0.0
    class_name: str | None = None

    kind = "diffusion model"
    parts = ("unet", "scheduler")

    def __post_init__(self) -> None:
        self.pipe.scheduler = as_solver(self.pipe.scheduler, self.solver)
        self.class_label = self._class_label()

    @property
    def depicted(self) -> dict[str, Any]:
        """What the model was trained to show, by its manifest, the class that was asked for included."""
        column = self._manifest("recipe").get("class_column")
        return {**super().depicted, **({column: self.class_name} if column and self.class_name is not None else {})}

    def rehearse(self) -> None:
        """Make the smallest image there is, which costs little and tells the same."""
        smallest = getattr(self.network, "size_divisor", None)
        try:
            self._images([0], height=smallest, width=smallest)
        except NotImplementedError as error:
            solver = name_of(self.pipe.scheduler)
            raise ValueError(f"{solver} can't run this model ({error}): choose another solver.") from error

    def _own_settings(self) -> dict[str, Any]:
        return {
            "solver": name_of(self.pipe.scheduler),
            "steps": self.steps,
            "eta": self.eta,
            "class_label": self.class_label,
        }

    def _arguments(self) -> dict[str, Any]:
        return {"num_inference_steps": self.steps, "eta": self.eta, "class_labels": self.class_label}

    def _class_label(self) -> int | None:
        count, name = self.network.config.get("num_class_embeds"), self.class_name
        if count is None:
            if name is not None:
                raise ValueError(f"The model has no classes: leave out the class {name!r}.")
            return None
        names = self._manifest("training").get("classes") or [str(i) for i in range(count)]
        if name not in names:
            raise ValueError(
                f"The model has classes: give one of {', '.join(names)}" + (f", not {name!r}." if name else ".")
            )
        return names.index(name)


@dataclass(kw_only=True)
class GANSampler(Sampler):
    """The generator of a GAN.

    Args:
        truncation: Largest absolute value of the noise; None for no limit.
    """

    truncation: float | None = None

    kind = "GAN"
    parts = ("generator",)

    def _own_settings(self) -> dict[str, Any]:
        return {"truncation": self.truncation}

    def _arguments(self) -> dict[str, Any]:
        return {"truncation": self.truncation}


SAMPLERS: dict[type, type[Sampler]] = {WBCDDIMPipeline: DDIMSampler, WBCGANPipeline: GANSampler}
"""The sampler of each kind of pipeline."""


def has_made(pipe: Any, settings: Mapping[str, Any]) -> bool:
    """Whether a pipeline is the one whose images have these settings: of its weights, and built as it is."""
    network, *others = (getattr(pipe, name) for name in SAMPLERS[type(pipe)].parts)
    hashes = {config_hash_of([network, *others])}
    if others and settings.get("solver") in SOLVERS:
        hashes.add(config_hash_of([network, as_solver(others[0], settings["solver"])]))
    return settings.get("revision") == revision_of(network) and settings.get("config") in hashes


def check_maker(model: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError if the images of a folder, which have these settings, are of other weights than are there."""
    pipe = load_pipeline(model)
    if settings.get("revision") != revision_of(getattr(pipe, SAMPLERS[type(pipe)].parts[0])):
        raise ValueError(
            f"The images in {folder} were made by another model than {model} is now: name that one, whose manifest "
            "tells what it was trained on, or generate them anew."
        )


def load_sampler(
    model: str,
    device: torch.device,
    contrast: float | None = None,
    mixed_precision: str = "no",
    **options: Any,
) -> Sampler:
    """Load a pipeline onto a device, with the options that its images are to be made by.

    Args:
        model: A pipeline folder, or a hub id.
        device: The device.
        contrast: The thesis's contrast sharpening (20 there); None for none.
        mixed_precision: "no", "bf16" or "fp16".
        options: Options of the sampler's own; those that are None are left at its defaults.

    Raises:
        ValueError: If an option doesn't fit the model, or the model is broken.
        OSError: If there is no such model.
    """
    if mixed_precision not in DTYPES:
        raise ValueError(f"mixed_precision={mixed_precision!r}: choose one of {', '.join(DTYPES)}.")
    pipe: Any = load_pipeline(model)
    sampler = SAMPLERS[type(pipe)]
    given = {name: value for name, value in options.items() if value is not None}
    if foreign := sorted(given.keys() - sampler.options()):
        told, own = (" and ".join(map(_told, names)) for names in (foreign, sorted(sampler.options())))
        raise ValueError(
            f"{public_name(model)} is a {sampler.kind}, which takes {own}, but not {told}: leave out what it doesn't "
            "take."
        )
    if pipe.training_manifest is not None:
        pipe.training_manifest = check_manifest(pipe.training_manifest, model)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    found = sampler(pipe=pipe, contrast=contrast, mixed_precision=mixed_precision, **given)
    found.network.to(memory_format=torch.channels_last)
    return found


def _told(option: str) -> str:
    """An option as the command line spells it."""
    return "--" + option.removesuffix("_name")
