"""What one kind of training is, for the engine."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from wbc_diffusers.data.dataset import Batch


class Task(ABC):
    """What one kind of training is: its models, its losses, what it shows and what it saves.

    `models` are trained in the order of the dictionary, one phase an update each, every one with an optimiser and an
    average of its own.
    """

    models: dict[str, nn.Module]
    num_timesteps: int = 1
    parent_manifest: dict[str, Any] | None = None
    class_names: list[str] | None = None

    def check_classes(self, names: list[str]) -> None:  # noqa: B027  (most tasks take any)
        """Raise ValueError if the model has no room for the classes of the data; an empty list is no classes."""

    @abstractmethod
    def loss(self, phase: str, models: dict[str, nn.Module], batch: Batch) -> Tensor:
        """The scalar loss of one batch in the phase that trains `models[phase]`."""

    @abstractmethod
    def validate(self, averages: dict[str, nn.Module], batches: Iterator[Batch]) -> dict[str, float]:
        """Figures on validation batches, by name; the same for the same weights."""

    @abstractmethod
    def sample_grid(self, averages: dict[str, nn.Module], count: int) -> Image.Image:
        """A sheet of samples of the averaged models, of the same seeds each time."""

    @abstractmethod
    def save(self, averages: dict[str, nn.Module], folder: Path, manifest: dict[str, Any]) -> None:
        """Write the pipeline folder with the averaged weights and the manifest."""
