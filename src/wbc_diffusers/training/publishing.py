"""The pipeline folders that a training writes: the last one, snapshots to choose among, and the best by a judge."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate.utils import gather_object
from PIL import Image
from torch import nn

from wbc_diffusers.data.manifest import build_manifest
from wbc_diffusers.training.checkpoints import CheckpointError
from wbc_diffusers.training.feed import Feed
from wbc_diffusers.training.files import move_in
from wbc_diffusers.training.task import Task

BEST_NAME = "best"
_SCORE_NAME = "score.json"


class Verdict(Protocol):
    """What a judge says: figures for the log, and a score, of which the lowest is the best."""

    @property
    def figures(self) -> dict[str, float]:
        """Figures by their name in the log."""
        ...

    @property
    def score(self) -> float:
        """The lower, the better."""
        ...


@dataclass(frozen=True)
class Score:
    """A verdict of the validation."""

    figures: dict[str, float]
    score: float


class Judge(Protocol):
    """Judges images of a model that is being trained, `count` of them; who calls the training brings it."""

    count: int

    def __call__(self, images: Sequence[Image.Image]) -> Verdict:
        """Judge images of seeds 0, 1, ..."""
        ...


class Hub(Protocol):
    """Where a pipeline is published once its training is done; who calls the training brings it."""

    def reserve(self) -> None:
        """See, before the training, that it can be published, or raise OSError."""
        ...

    def publish(self, folder: Path) -> str:
        """Publish a pipeline folder and give its address, or raise OSError."""
        ...


class Publisher:
    """Writes pipeline folders with the averaged weights and the manifest of the training so far.

    Args:
        task: What is trained.
        feed: What it is trained on.
        output: The folder of the training.
        agree: Tells whether all processes say yes; they all call it alike.
        is_main: Whether this is the process that writes.
    """

    def __init__(self, task: Task, feed: Feed, output: Path, agree: Callable[[bool], bool], *, is_main: bool) -> None:
        self.task, self.feed, self.output, self.agree, self.is_main = task, feed, output, agree, is_main

    def write(
        self,
        folder: Path,
        averages: dict[str, nn.Module],
        step: int,
        seconds: float,
        verdict: Verdict | None = None,
    ) -> None:
        """Write the pipeline and a judge's verdict into a folder, model_index.json last; every process calls it.

        Raises:
            CheckpointError: If it cannot be written.
        """
        hashes, perceptual = (set(gather_object(each)) for each in (self.feed.hashes(), self.feed.perceptual_hashes()))

        def make(partial: Path) -> None:
            progress = {
                "steps": step,
                "seconds": round(seconds, 1),
                "classes": self.feed.class_names,
                **self.task.facts,
            }
            manifest = build_manifest(
                self.task.recipe.to_dict(), hashes, perceptual, parent=self.task.parent_manifest, progress=progress
            )
            # Copies: files hold contiguous tensors, and an average of another layout than its model is slow.
            contiguous = {
                name: deepcopy(model).to(memory_format=torch.contiguous_format) for name, model in averages.items()
            }
            self.task.save(contiguous, partial, manifest)
            if verdict is not None:
                told = {"step": step, "score": verdict.score, **verdict.figures}
                (partial / _SCORE_NAME).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

        self._write(folder, make)

    def publish_best(self) -> bool:
        """Make the best pipeline so far the published one, for a task that chooses so; every process calls it.

        Returns:
            False if the task chooses no best one, or there was no validation to choose by.

        Raises:
            CheckpointError: If it cannot be written.
        """
        best = self.output / BEST_NAME
        if self.task.best_figure is None or not self.agree((best / self.task.last_file).is_file()):
            return False
        self._write(self.output, lambda partial: shutil.copytree(best, partial))
        return True

    def _write(self, folder: Path, make: Callable[[Path], object]) -> None:
        """Move what `make` writes into a folder, the file that makes it whole last; every process calls it."""
        error: Exception | None = None
        if self.is_main:
            partial = self.output / ".partial-pipeline"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                make(partial)
                folder.mkdir(parents=True, exist_ok=True)
                move_in(partial, folder, last=self.task.last_file)
            except Exception as caught:
                error = caught
                shutil.rmtree(partial, ignore_errors=True)
        if not self.agree(error is None):
            raise CheckpointError(
                f"The pipeline folder {folder} could not be written ({error or 'another process failed'})."
            ) from error

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot_folder(self, step: int) -> Path | None:
        """The folder of the snapshot that is due after an update, None if none is (thesis section 4.2)."""
        every = self.task.recipe.snapshot_every_epochs
        if every is None or step == 0 or self._snapshots_until(step, every) == self._snapshots_until(step - 1, every):
            return None
        epochs = self._snapshots_until(step, every) * every
        name = f"{epochs:04.0f}" if every.is_integer() else f"{epochs:07.2f}"
        return self.output / "snapshots" / f"epoch-{name}"

    def _snapshots_until(self, step: int, every: float) -> int:
        # Rounded: 0.3 / 0.1 is a little below 3.
        return math.floor(round(self.feed.epochs_at(step) / every, 9))

    # -- the best ----------------------------------------------------------------------------------------------------

    def is_best(self, score: float, step: int) -> bool:
        """Whether a score is lower than that of the best pipeline so far; one of a later update is of another run.

        Raises:
            CheckpointError: If there is a best one whose score can't be read: it would be lost.
        """
        path = self.output / BEST_NAME / _SCORE_NAME
        if not math.isfinite(score):
            return False
        try:
            best = json.loads(path.read_text(encoding="utf-8"))
            return bool(best["step"] >= step or score < best["score"])
        except FileNotFoundError:
            return True
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): move {path.parent} away.") from error
