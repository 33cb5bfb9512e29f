"""The engine that every training runs on: set-up, data, updates, checkpoints, averages, logging, in that order.

What differs between trainings is a `Task`; the engine knows neither diffusion nor GANs.
"""

import contextlib
import json
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from PIL import Image
from torch import Tensor, nn

from wbc_diffusers.data.dataset import Batch, DrawSpec, seed_of
from wbc_diffusers.training.checkpoints import CheckpointError, Checkpoints
from wbc_diffusers.training.ema import EMA
from wbc_diffusers.training.feed import Feed
from wbc_diffusers.training.manifest import build_manifest
from wbc_diffusers.training.progress import Progress
from wbc_diffusers.training.recipe import Recipe

MAY_CHANGE = {
    "name", "num_train_epochs", "max_train_steps", "gradient_accumulation_steps", "num_workers", "checkpoint_every",
    "keep_checkpoints", "validate_every", "validation_images", "sample_every", "sample_images", "log_every", "tracker",
    "gradient_checkpointing", "compile", "channels_last",
}  # fmt: skip
"""Fields that a resumed run may have otherwise than the run that it goes on with."""


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or not a number; the message names the last good checkpoint."""


class Task(ABC):
    """What one kind of training is: its models, its losses, what it shows and what it saves.

    `models` are trained in the order of the dictionary, one phase an update each, every one with an optimiser and an
    average of its own.
    """

    models: dict[str, nn.Module]
    num_timesteps: int = 1
    parent_manifest: dict[str, Any] | None = None
    class_names: list[str] | None = None

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


class Trainer:
    """Trains a task on a folder or dataset of images, from a recipe, into an output folder.

    Args:
        task: What is trained.
        recipe: How.
        source: A folder of images, or a dataset's id.
        output: Becomes the pipeline folder; holds checkpoints, samples and log.jsonl beside it.
        resume: "latest", or the path of a checkpoint; None starts anew.
    """

    def __init__(self, task: Task, recipe: Recipe, source: str, output: Path, resume: str | None = None) -> None:
        self.task, self.recipe, self.output = task, recipe, output
        tracker = None if recipe.tracker == "none" else recipe.tracker
        self.accelerator = Accelerator(mixed_precision=recipe.mixed_precision, log_with=tracker, project_dir=output)
        self.checkpoints = Checkpoints(output / "checkpoints", recipe.keep_checkpoints)
        self._check_output(resume)

        spec = DrawSpec(recipe.resolution, task.num_timesteps, recipe.random_flip, recipe.random_turn)
        self.feed = Feed(
            recipe, source, spec, self.accelerator.process_index, self.accelerator.num_processes, task.class_names
        )
        self.total_steps = self.feed.total_steps()
        self._prepare_models()
        self.step, self.seconds = 0, 0.0
        if resume is not None:
            self._resume(self.checkpoints.find(resume))
        self.stop_signal = False

    # -- set-up ------------------------------------------------------------------------------------------------------

    def _check_output(self, resume: str | None) -> None:
        if resume is None and self.output.is_dir() and any(self.output.iterdir()):
            raise FileExistsError(
                f"{self.output} is not empty: give another --output, or go on with the run there by --resume latest."
            )
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.output.mkdir(parents=True, exist_ok=True)

    def _prepare_models(self) -> None:
        recipe = self.recipe
        self.models: dict[str, nn.Module] = {}
        self.averages: dict[str, EMA] = {}
        self.optimizers: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}
        for name, bare in self.task.models.items():
            model: Any = bare.to(self.accelerator.device).train()
            if recipe.channels_last:
                model = model.to(memory_format=torch.channels_last)
            if recipe.gradient_checkpointing:
                model.enable_gradient_checkpointing()
            self.averages[name] = EMA(model, recipe.ema_decay)
            optimizer = make_optimizer(recipe, model)
            self.schedules[name] = get_scheduler(
                recipe.lr_scheduler,
                optimizer,
                num_warmup_steps=recipe.lr_warmup_steps,
                num_training_steps=self.total_steps,
            )
            if recipe.compile:
                model = torch.compile(model)
            self.models[name], self.optimizers[name] = self.accelerator.prepare(model, optimizer)
        # The schedules are stepped once an update, whatever the number of processes, so they are not prepared.
        self.accelerator.register_for_checkpointing(*self.averages.values(), *self.schedules.values())

    def _resume(self, checkpoint: Path) -> None:
        state = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
        mine, theirs = self.recipe.to_dict(), state["recipe"]
        changed = sorted(k for k in mine if k not in MAY_CHANGE and mine[k] != theirs.get(k))
        if changed:
            words = ", ".join(f"{k} ({theirs.get(k)} there, {mine[k]} now)" for k in changed)
            raise ValueError(
                f"{checkpoint} was trained with another {words}: resume with the same, or start a new output."
            )
        if state["data"] != self.feed.fingerprint:
            raise ValueError(f"{checkpoint} was trained on other images than those given: give the same --data.")
        self.accelerator.load_state(str(checkpoint))
        self.step, self.seconds = state["step"], state["seconds"]
        mine_of_stream = checkpoint / f"feed-{self.accelerator.process_index}.json"
        if self.feed.train is None and state["processes"] == self.accelerator.num_processes:
            self.feed.load_state_dict(json.loads(mine_of_stream.read_text(encoding="utf-8")))
        elif self.feed.train is None:
            # Shards are dealt out anew, so places in the old shares mean nothing.
            self.feed.skip_to_next_epoch(json.loads((checkpoint / "feed-0.json").read_text(encoding="utf-8")))

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Train to the last update and write the pipeline folder.

        Returns:
            True when done; False if SIGTERM stopped the run, after a checkpoint was written.

        Raises:
            NonFiniteLossError: If the loss becomes infinite or not a number.
            CheckpointError: If a checkpoint cannot be written.
        """
        recipe = self.recipe
        self._start_trackers()
        started, seconds_before = time.monotonic(), self.seconds
        progress = Progress(self.step, self.total_steps, recipe.train_batch_size, show=self.accelerator.is_main_process)
        sums = {name: torch.zeros((), device=self.accelerator.device) for name in self.models}
        logged = self.step
        batches = self.feed.batches(self.step)
        with self._listening(), contextlib.closing(progress):
            while self.step < self.total_steps:
                for name, loss in self._update(batches).items():
                    sums[name] += loss
                self.step += 1
                self.seconds = seconds_before + time.monotonic() - started
                last = self.step == self.total_steps
                stop = self._told_to_stop()
                checkpoint = last or stop or self.step % recipe.checkpoint_every == 0
                if checkpoint or self.step % recipe.log_every == 0:
                    losses = self._mean_losses(sums, self.step - logged)
                    logged = self.step
                    progress.show_step(self.step, losses)
                    self._log({**{f"loss/{k}": v for k, v in losses.items()}, "learning_rate": self._learning_rate()})
                if recipe.validation_images and (last or self.step % recipe.validate_every == 0):
                    self._validate()
                if recipe.sample_images and (last or self.step % recipe.sample_every == 0):
                    self._draw_samples()
                if checkpoint:
                    self._write_checkpoint()
                if stop and not last:
                    self.accelerator.end_training()
                    return False
        self._finish()
        return True

    def _update(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One update of every model on the next images; returns the mean loss of each phase."""
        recipe = self.recipe
        torch.manual_seed(seed_of(recipe.seed, self.step, self.accelerator.process_index))  # dropout's draws
        micro = [self._to_device(next(batches)) for _ in range(recipe.gradient_accumulation_steps)]
        losses = {}
        for phase, model in self.models.items():
            total = torch.zeros((), device=self.accelerator.device)
            for i, batch in enumerate(micro):
                last = i == len(micro) - 1
                with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                    loss = self.task.loss(phase, self.models, batch) / len(micro)
                    self.accelerator.backward(loss)
                total += loss.detach()
            if recipe.max_grad_norm is not None:
                self.accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            self.optimizers[phase].step()
            self.optimizers[phase].zero_grad()
            self.schedules[phase].step()
            self.averages[phase].update(self._bare(model))
            losses[phase] = total
        return losses

    def _to_device(self, batch: Batch) -> Batch:
        moved = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
        if self.recipe.channels_last:
            moved = {k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in moved.items()}
        return moved

    # -- what happens now and then -----------------------------------------------------------------------------------

    def _mean_losses(self, sums: dict[str, Tensor], count: int) -> dict[str, float]:
        """Mean losses since the last call, over all processes; stops the run if one is not finite."""
        means = {}
        for name, value in sums.items():
            means[name] = float(self.accelerator.reduce(value / max(count, 1), reduction="mean"))
            value.zero_()
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise NonFiniteLossError(
                    f"The loss of {name} became {mean} between updates {self.step - count + 1} and {self.step}. "
                    f"{self.checkpoints.describe_latest()}. Lower the learning rate, or use mixed_precision no or bf16."
                )
        return means

    def _write_checkpoint(self) -> None:
        def save(folder: Path) -> None:
            self.accelerator.save_state(str(folder))
            place = json.dumps(self.feed.state_dict())
            (folder / f"feed-{self.accelerator.process_index}.json").write_text(place, encoding="utf-8")
            if self.accelerator.is_main_process:
                state = {
                    "step": self.step,
                    "seconds": self.seconds,
                    "recipe": self.recipe.to_dict(),
                    "data": self.feed.fingerprint,
                    "processes": self.accelerator.num_processes,
                }
                (folder / "progress.json").write_text(json.dumps(state), encoding="utf-8")

        self.checkpoints.write(
            self.step, save, is_main=self.accelerator.is_main_process, wait=self.accelerator.wait_for_everyone
        )

    def _validate(self) -> None:
        if self.feed.has_validation:
            if self.accelerator.is_main_process:
                batches = (self._to_device(b) for b in self.feed.validation_batches())
                with torch.no_grad():
                    self._log(self.task.validate(self._average_models(), batches))
            self.accelerator.wait_for_everyone()

    def _draw_samples(self) -> None:
        if self.accelerator.is_main_process:
            folder = self.output / "samples"
            folder.mkdir(exist_ok=True)
            sheet = self.task.sample_grid(self._average_models(), self.recipe.sample_images)
            sheet.save(folder / f"step-{self.step:07d}.png")
        self.accelerator.wait_for_everyone()

    def _finish(self) -> None:
        hashes = set(gather_object(self.feed.hashes()))
        if self.accelerator.is_main_process:
            progress = {"steps": self.step, "seconds": round(self.seconds, 1), "classes": self.feed.class_names}
            manifest = build_manifest(
                self.recipe.to_dict(), hashes, parent=self.task.parent_manifest, progress=progress
            )
            self.task.save(self._average_models(), self.output, manifest)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    # -- small things ------------------------------------------------------------------------------------------------

    def _bare(self, model: nn.Module) -> nn.Module:
        return self.accelerator.unwrap_model(model, keep_torch_compile=False)

    def _average_models(self) -> dict[str, nn.Module]:
        return {name: average.model for name, average in self.averages.items()}

    def _learning_rate(self) -> float:
        return next(iter(self.schedules.values())).get_last_lr()[0]

    def _start_trackers(self) -> None:
        if self.accelerator.is_main_process:
            (self.output / "recipe.yaml").write_text(yaml.safe_dump(self.recipe.to_dict(), sort_keys=False))
            _drop_rows_after(self.output / "log.jsonl", self.step)
        if self.recipe.tracker != "none":
            self.accelerator.init_trackers("wbc-diffusers", {k: str(v) for k, v in self.recipe.to_dict().items()})

    def _log(self, figures: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            row = {"step": self.step, "seconds": round(self.seconds, 2), **figures}
            with (self.output / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.recipe.tracker != "none":
            self.accelerator.log(figures, step=self.step)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Note SIGTERM instead of dying of it."""

        def note(number: int, frame: FrameType | None) -> None:
            self.stop_signal = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _told_to_stop(self) -> bool:
        """Whether any process got SIGTERM; all of them answer alike, at the same update."""
        if self.accelerator.num_processes == 1:
            return self.stop_signal
        if self.step % self.recipe.log_every:
            return False
        told = torch.tensor(float(self.stop_signal), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told, reduction="sum") > 0)


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser over a model's parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, recipe.learning_rate, recipe.adam_betas, weight_decay=recipe.weight_decay, fused=True)


def _drop_rows_after(log: Path, step: int) -> None:
    """Drop the rows that a resumed run will write again, and a last row cut off by a kill."""
    if log.is_file():
        kept = []
        for line in log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        log.write_text("".join(kept), encoding="utf-8")


__all__ = ["CheckpointError", "NonFiniteLossError", "Task", "Trainer", "make_optimizer"]
