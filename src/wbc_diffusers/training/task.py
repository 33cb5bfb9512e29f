"""What one kind of training is, for the engine."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image
from torch import Tensor, nn

from wbc_diffusers.data.dataset import Batch, first_by_hash
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.data.manifest import check_manifest
from wbc_diffusers.pipelines import load_pipeline
from wbc_diffusers.training.fields import plain
from wbc_diffusers.training.output import LAST_NAME
from wbc_diffusers.training.recipe import Recipe

logger = logging.getLogger(__name__)


class Task(ABC):
    """What one kind of training is: its models, its losses, what it shows and what it saves.

    `models` are trained in the order of the dictionary, every one with an optimiser and an average of its own. Weights
    that are not to be trained have `requires_grad` False.
    """

    recipe: Recipe
    models: dict[str, nn.Module]
    num_timesteps: int = 1
    noise_size: int | None = None
    """How many numbers of noise an image gets; None for as many as it has values, in its shape."""
    validates_on_train: bool = False
    """Whether training images do for the validation where there is no split for it."""
    parent_manifest: dict[str, Any] | None = None
    class_names: list[str] | None = None
    class_column: str | None = None
    """The column of the classes, where the recipe does not name it."""
    draw_options: Mapping[str, Any] = MappingProxyType({})
    """What else is drawn for a training image: further fields of `DrawSpec`."""
    last_file: str = LAST_NAME
    """The file without which what is saved cannot be loaded, so that it is written last."""
    best_figure: str | None = None
    """The figure of the validation by whose lowest value the weights are chosen that are published; None for the last
    weights."""
    facts: Mapping[str, Any] = MappingProxyType({})
    """What the manifest tells of the training beside what it tells of every training."""

    def load(self, source: str, split: str) -> Any:
        """The images of a split, as a `datasets` object; see `load_cells` for the errors."""
        recipe = self.recipe
        data = load_cells(source, split, where=recipe.where, streaming=recipe.streaming and split == "train")
        if split == "train" and recipe.max_train_samples is not None:
            return first_by_hash(data, recipe.max_train_samples, f"Split train of {source}")
        return data

    def check_classes(self, names: list[str]) -> None:  # noqa: B027  (most tasks take any)
        """Raise ValueError if the model has no room for the classes of the data; an empty list is no classes."""

    @property
    def averaged(self) -> set[str]:
        """The models whose average of `ema_decay` is published; others are published as they are."""
        return set(self.models)

    @property
    def gradient_penalised(self) -> set[str]:
        """The models with a penalty on their gradient, whose own gradient is of second derivatives."""
        return set()

    def learning_rate(self, name: str) -> float:
        """The learning rate of a model."""
        return self.recipe.learning_rate

    def phases(self, step: int) -> list[str]:
        """The models that the update after `step` updates trains, in turn."""
        return list(self.models)

    @abstractmethod
    def loss(self, phase: str, models: dict[str, nn.Module], batch: Batch) -> Tensor:
        """The scalar loss of one batch in the phase that trains `models[phase]`; the others collect no gradients."""

    @abstractmethod
    def validate(self, averages: dict[str, nn.Module], batches: Iterator[Batch]) -> dict[str, float]:
        """Figures on validation batches, by name; the same for the same weights."""

    def samples(self, averages: dict[str, nn.Module], count: int, batch_size: int) -> list[Image.Image]:
        """Images of the averaged models, of the same seeds each time; a task that makes none has no recipe with any."""
        raise NotImplementedError(f"A {type(self).__name__} makes no images.")

    @abstractmethod
    def save(self, averages: dict[str, nn.Module], folder: Path, manifest: dict[str, Any]) -> None:
        """Write the pipeline folder with the averaged weights and the manifest."""


def build(component: type, options: dict[str, Any], field: str) -> Any:
    """Make a component of a recipe's field, or raise ValueError if the options don't fit."""
    if hidden := sorted(name for name in options if name.startswith("_")):  # which diffusers would leave out unseen
        raise ValueError(f"The recipe's {field} doesn't fit {component.__name__}: it has no {', '.join(hidden)}.")
    try:
        return component(**options)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, where there is too little memory
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"The recipe's {field} doesn't fit {component.__name__}: {reason}.") from error


def check_options(own: Mapping[str, Any], wanted: Mapping[str, Any], field: str, pretrained: str) -> None:
    """Raise ValueError if a pretrained component has some of the options of a recipe's field otherwise."""
    if changed := sorted(name for name, value in wanted.items() if plain(own.get(name)) != plain(value)):
        raise ValueError(
            f"The recipe's {field} differs from {pretrained} in {', '.join(changed)}: take it out of the recipe, or "
            "train anew without --pretrained."
        )


def load_pretrained(kind: type, pretrained: str) -> Any:
    """Load the pipeline that a training starts from, or raise ValueError if it is of another kind."""
    pipe = load_pipeline(pretrained)
    if not isinstance(pipe, kind):
        raise ValueError(
            f"{pretrained} is a {type(pipe).__name__}, and the recipe trains a {kind.__name__}: give another "
            "--pretrained, or a --config of that kind."
        )
    return pipe


def manifest_of(pipe: Any, pretrained: str) -> dict[str, Any] | None:
    """The manifest of the pipeline that a training starts from; warns if it has none."""
    if pipe.training_manifest is None:
        logger.warning("%s has no training manifest: the new one can't tell the images of that model.", pretrained)
        return None
    return check_manifest(pipe.training_manifest, pretrained)
