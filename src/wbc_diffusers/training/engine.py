"""The engine that every training runs on: set-up, data, updates, checkpoints, averages, logging, in that order.

What differs between trainings is a `Task`; the engine knows neither diffusion nor GANs.
"""

import contextlib
import hashlib
import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from wbc_diffusers.data.dataset import Batch, DrawSpec, seed_of
from wbc_diffusers.data.images import image_grid, write_png
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.training.checkpoints import CheckpointError, Checkpoints
from wbc_diffusers.training.feed import Feed
from wbc_diffusers.training.files import append_line, write_whole
from wbc_diffusers.training.output import checkpoint_to_resume, only_run
from wbc_diffusers.training.progress import Progress, drop_rows_after
from wbc_diffusers.training.publishing import BEST_NAME, Hub, Judge, Publisher, Score, Verdict
from wbc_diffusers.training.recipe import Recipe
from wbc_diffusers.training.stopping import StopSignal
from wbc_diffusers.training.task import Task
from wbc_diffusers.training.trained import set_up

logger = logging.getLogger(__name__)

MAY_CHANGE = {
    "name", "num_train_epochs", "max_train_steps", "gradient_accumulation_steps", "num_workers", "checkpoint_every",
    "keep_checkpoints", "validate_every", "validation_images", "sample_every", "sample_images", "sample_steps",
    "solver", "log_every", "tracker", "gradient_checkpointing", "compile", "channels_last", "snapshot_every_epochs",
    "evaluate_every", "evaluate_images", "push_to_hub", "hub_model_id", "hub_private_repo",
    "synthetic_held_out",
}  # fmt: skip
"""Fields that a resumed run may have otherwise than the run that it goes on with."""
CHOOSES_WEIGHTS = {"validate_every", "validation_images"}
"""Those of them that may not where the validation chooses the weights: the choice would be none of either run."""

_PATIENCE = timedelta(hours=4)
"""How long other processes wait for the main one, which alone prepares the judge, judges, and writes."""
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class NonFiniteLossError(RuntimeError):
    """The loss or a weight became infinite or not a number; the message names the last good checkpoint."""


class Trainer:
    """Trains a task on a folder or dataset of images, from a recipe, into an output folder.

    Args:
        task: What is trained.
        recipe: How.
        source: A folder of images, or a dataset's id.
        output: Becomes the pipeline folder; holds checkpoints, samples and log.jsonl beside it.
        resume: "latest", or the path of a checkpoint; None starts anew, and so does "latest" where a run was killed
            before its first checkpoint.
        judge: Judges images every `evaluate_every` updates; the best pipeline by it is kept in the output's `best`.
            Only the main process needs it.
        hub: Where the pipeline is published in the end, for a recipe with `push_to_hub`; likewise.

    Raises:
        FileExistsError: If the output holds anything, and nothing is resumed.
        FileNotFoundError: If there is no checkpoint to resume from.
        CheckpointError: If the checkpoint cannot be read; the one before it is named.
        ValueError: If recipe, data and checkpoint don't fit each other.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        source: str,
        output: Path,
        resume: str | None = None,
        judge: Judge | None = None,
        hub: Hub | None = None,
    ) -> None:
        self.task, self.recipe, self.output = task, recipe, output
        self.judge, self.hub = judge, hub
        tracker = None if recipe.tracker == "none" else recipe.tracker
        # accelerate leaves out a tracker that is not installed without a word.
        if tracker is not None and tracker not in map(str, get_available_trackers()):
            raise ValueError(f"The tracker {tracker} is not installed: pip install {tracker}, or set tracker none.")
        # Statistics of batch norm are not handed round: a model that runs twice in an update would change under it.
        handlers = [DistributedDataParallelKwargs(broadcast_buffers=False), InitProcessGroupKwargs(timeout=_PATIENCE)]
        self.accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision, log_with=tracker, project_dir=output, kwargs_handlers=handlers
        )
        if recipe.evaluate_every is not None and judge is None and self.accelerator.is_main_process:
            raise ValueError("The recipe's evaluate_every needs a judge, as `wbc train` brings one: set it null.")
        if recipe.push_to_hub and hub is None and self.accelerator.is_main_process:
            raise ValueError("The recipe's push_to_hub needs a hub, as `wbc train` brings one: set it false.")
        if self.accelerator.distributed_type in _SHARDED:
            raise ValueError(
                f"accelerate was told to use {self.accelerator.distributed_type.value}, but these models are trained "
                "whole on each device: take one of the configurations in training/accelerate."
            )
        if recipe.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":
            raise ValueError("mixed_precision fp16 needs an accelerator, and there is only a CPU: set bf16 or no.")
        self.checkpoints = Checkpoints(output / "checkpoints", recipe.keep_checkpoints)
        checkpoint = checkpoint_to_resume(output, source, self.checkpoints, resume, task.last_file)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            output.mkdir(parents=True, exist_ok=True)

        spec = DrawSpec(
            recipe.resolution,
            task.num_timesteps,
            recipe.random_flip,
            recipe.random_turn,
            task.noise_size,
            **task.draw_options,
        )
        self.feed = Feed(recipe, source, spec, self.accelerator.process_index, self.accelerator.num_processes, task)
        task.check_classes(self.feed.class_names)
        self.total_steps = self.feed.total_steps()
        if recipe.snapshot_every_epochs is not None:
            self.feed.epochs_at(0)  # a stream has no epochs, which is told now
        self.publisher = Publisher(task, self.feed, output, self._all_agree, is_main=self.accelerator.is_main_process)
        self._prepare_models()
        self.step, self.seconds = 0, 0.0
        self.resumed_from = checkpoint
        if checkpoint is not None:
            self._resume(checkpoint)
        if recipe.push_to_hub and hub is not None:
            hub.reserve()  # last, since it makes a repository
        self.stop = StopSignal()

    # -- set-up ------------------------------------------------------------------------------------------------------

    def _prepare_models(self) -> None:
        self.trained = {name: set_up(self.task, name, self.accelerator, self.total_steps) for name in self.task.models}
        # accelerate would save a compiled model with its wrapper's prefix, which a run without compile doesn't know.
        self.accelerator.register_save_state_pre_hook(self._save_bare)
        self.accelerator.register_load_state_pre_hook(self._load_bare)
        each = self.trained.values()
        self.accelerator.register_for_checkpointing(*(t.average for t in each), *(t.schedule for t in each))

    def _save_bare(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        weights[:] = [trained.bare.state_dict() for trained in self.trained.values()]

    def _load_bare(self, models: list[nn.Module], folder: str) -> None:
        models[:] = [trained.bare for trained in self.trained.values()]

    def _resume(self, checkpoint: Path) -> None:
        self.checkpoints.verify(checkpoint)
        try:
            state = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
            theirs, data, parent, processes = state["recipe"], state["data"], state["parent"], state["processes"]
            # Places in the shares of a stream; all of them, since the images seen by every process are in the manifest.
            places = [
                json.loads((checkpoint / f"feed-{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.checkpoints.unreadable(checkpoint, error) from error
        mine = self.recipe.to_dict()
        may_change = MAY_CHANGE - CHOOSES_WEIGHTS if self.task.best_figure else MAY_CHANGE
        changed = sorted(k for k, v in theirs.items() if k not in may_change and mine.get(k) != v)
        if changed:
            words = ", ".join(f"{k} ({theirs[k]} there, {mine.get(k)} now)" for k in changed)
            raise ValueError(
                f"{checkpoint} was trained with another {words}: resume with the same, or start a new output."
            )
        if data != self.feed.fingerprint:
            raise ValueError(
                f"{checkpoint} was trained on other images, or other classes of them, than those given: give the same "
                "--data."
            )
        if parent != self._parent_fingerprint():
            raise ValueError(
                f"{checkpoint} was started from another model than {self.recipe.to_dict().get('pretrained')} is now: "
                "give that one, or start a new output."
            )
        if state["step"] > self.total_steps:
            raise ValueError(
                f"{checkpoint} has {state['step']} updates, more than the {self.total_steps} that are wanted: raise "
                "--max-train-steps, or resume from an earlier checkpoint."
            )
        try:
            self.accelerator.load_state(str(checkpoint))
        except Exception as error:
            raise self.checkpoints.unreadable(checkpoint, error) from error
        self.step, self.seconds = state["step"], state["seconds"]
        self.feed.go_on(places)
        self.accelerator.wait_for_everyone()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Train to the last update and write the pipeline folder.

        Returns:
            True when done; False if SIGTERM stopped the run, after a checkpoint was written.

        Raises:
            NonFiniteLossError: If the loss becomes infinite or not a number.
            CheckpointError: If a checkpoint or the pipeline folder cannot be written.
            OSError: If the pipeline, which is written, can't be published.
        """
        with only_run(self.output) if self.accelerator.is_main_process else contextlib.nullcontext(), self.stop:
            if self.accelerator.is_main_process:
                self._set_aside()
            self._start_trackers()
            if self.accelerator.is_main_process:
                print(self.feed.in_words(), file=sys.stderr)
            due = self.publisher.snapshot_folder(self.step)
            if due is not None and not self._all_agree((due / self.task.last_file).is_file()):
                self._write_snapshot(due)  # SIGTERM came at that very update
            done = self._train()
            if done and not self.publisher.publish_best():
                self._write_pipeline(self.output)
        self.accelerator.end_training()
        if done and self.recipe.push_to_hub and self.hub is not None:
            print(f"Published {self.hub.publish(self.output)}.", file=sys.stderr)
        return done

    def _set_aside(self) -> None:
        """Take away what earlier runs left in the output that is none of this one's."""
        if self.resumed_from is None:
            shutil.rmtree(self.output / BEST_NAME, ignore_errors=True)  # else it might be published as this run's
            return
        for aside in self.checkpoints.set_aside_after(self.resumed_from):
            logger.warning("The run goes on from %s, so a newer checkpoint is now %s.", self.resumed_from, aside)

    def _train(self) -> bool:
        """All updates, and what is due between them; False if SIGTERM cut them short."""
        recipe = self.recipe
        started, seconds_before = time.monotonic(), self.seconds
        progress = Progress(self.step, self.total_steps, recipe.train_batch_size, show=self.accelerator.is_main_process)
        recent: dict[str, list[Tensor]] = {name: [] for name in self.trained}
        logged = self.step
        # Where it chooses the weights, a resumed run would not make up for one that was left out.
        always_validate = self.task.best_figure is not None
        batches = self.feed.batches(self.step)
        with contextlib.closing(progress), contextlib.closing(batches):
            while self.step < self.total_steps:
                for name, loss in self.update(batches).items():
                    recent[name].append(loss)
                self.step += 1
                self.seconds = seconds_before + time.monotonic() - started
                last = self.step == self.total_steps
                stop = self._told_to_stop()
                # A cluster waits some seconds only, so that a run which is told to stop does without these.
                due = last or self.step % recipe.validate_every == 0
                validate = recipe.validation_images != 0 and due and (always_validate or not stop)
                sample = not stop and recipe.sample_images and (last or self.step % recipe.sample_every == 0)
                judge = not stop and recipe.evaluate_every and (last or self.step % recipe.evaluate_every == 0)
                snapshot = None if stop else self.publisher.snapshot_folder(self.step)
                # Before other pipelines too: it is they that fill a disk, and no update should be lost by that.
                checkpoint = last or stop or judge or snapshot or self.step % recipe.checkpoint_every == 0
                if checkpoint or validate or sample or self.step % recipe.log_every == 0:
                    losses = self.mean_losses(recent, logged + 1)
                    logged = self.step
                    progress.show_step(self.step, losses)
                    self._log({**{f"loss/{k}": v for k, v in losses.items()}, **self._learning_rates()})
                if checkpoint or validate or sample:
                    self._check_weights()
                if validate:
                    self._validate()
                if sample:
                    self._draw_samples(self.output / "samples" / f"step-{self.step:07d}.png")
                if checkpoint:
                    self._write_checkpoint()
                if snapshot:
                    self._write_snapshot(snapshot)
                if judge:
                    self._judge_images()
                if stop and not last:
                    return False
        return True

    def update(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One update on the next images, of each model whose turn it is; returns the mean loss of each."""
        micro = [self._to_device(next(batches)) for _ in range(self.recipe.gradient_accumulation_steps)]
        # Dropout's draws. After the batches: a loader that starts takes a number, as it does in a resumed run only.
        torch.manual_seed(seed_of(self.recipe.seed, self.step, self.accelerator.process_index))
        losses = {phase: self._update_model(phase, micro) for phase in self.task.phases(self.step)}
        for name, trained in self.trained.items():
            # It follows the updates of the training, so that a model that is trained now and then sees all of it.
            if name not in losses or not trained.optimizer.step_was_skipped:
                trained.schedule.step()
        return losses

    def _update_model(self, phase: str, micro: list[Batch]) -> Tensor:
        """One update of a model on the batches of an update; returns its mean loss."""
        trained = self.trained[phase]
        models = {name: other.partner for name, other in self.trained.items()} | {phase: trained.model}
        total = torch.zeros((), device=self.accelerator.device)
        with contextlib.ExitStack() as others:
            for name, other in self.trained.items():
                if name != phase:
                    others.enter_context(other.fixed())
            for i, batch in enumerate(micro):
                last = i == len(micro) - 1
                with contextlib.nullcontext() if last else self.accelerator.no_sync(trained.model):
                    loss = self.task.loss(phase, models, batch) / len(micro)
                    self.accelerator.backward(loss)
                total += loss.detach()
        if self.recipe.max_grad_norm is not None:
            self.accelerator.unscale_gradients(trained.optimizer)
            torch.nn.utils.clip_grad_norm_(trained.parameters, self.recipe.max_grad_norm)
        trained.optimizer.step()
        trained.optimizer.zero_grad()
        if not trained.optimizer.step_was_skipped:  # as fp16 does where its gradients overflow
            trained.average.update(trained.bare)
        return total

    def _to_device(self, batch: Batch) -> Batch:
        moved = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
        if self.recipe.channels_last:
            moved = {k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in moved.items()}
        return moved

    # -- what happens now and then -----------------------------------------------------------------------------------

    def mean_losses(self, recent: dict[str, list[Tensor]], since: int = 0) -> dict[str, float]:
        """Means over all processes of the losses since an update, which are forgotten; stops if one is not finite."""
        means = {}
        for name, losses in recent.items():
            if losses:
                mean = float(self.accelerator.reduce(torch.stack(losses).mean(), reduction="mean"))
                if not math.isfinite(mean):
                    raise self._not_finite(f"The loss of {name} became {mean} between updates {since} and {self.step}")
                means[name] = mean
                losses.clear()
        return means

    def _check_weights(self) -> None:
        """Stop the run if a weight is not finite: the loss tells it only one update later."""
        for name, trained in self.trained.items():
            values = [v for v in trained.bare.state_dict().values() if v.is_floating_point()]
            if not torch.stack(torch._foreach_norm(values, math.inf)).isfinite().all():
                raise self._not_finite(f"Weights of {name} are no longer finite after update {self.step}")

    def _not_finite(self, what: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"{what}. {self.checkpoints.describe_latest()}. Lower the learning rate, or use mixed_precision no or bf16."
        )

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
                    "parent": self._parent_fingerprint(),
                    "processes": self.accelerator.num_processes,
                }
                (folder / "progress.json").write_text(json.dumps(state), encoding="utf-8")

        self.checkpoints.write(self.step, save, is_main=self.accelerator.is_main_process, agree=self._all_agree)

    def _validate(self) -> None:
        if not self.feed.has_validation:
            return
        verdict: Verdict | None = None
        best_figure = self.task.best_figure
        if self.accelerator.is_main_process:
            batches = (self._to_device(b) for b in self.feed.validation_batches())
            with self.stop.cutting_short() if best_figure is None else contextlib.nullcontext(), torch.no_grad():
                figures = self.task.validate(self._average_models(), batches)
                self._log(figures)
                verdict = None if best_figure is None else Score(figures, figures[best_figure])
        self.accelerator.wait_for_everyone()
        if best_figure is not None:
            self._keep_if_best(verdict)

    def _draw_samples(self, path: Path) -> None:
        if self.accelerator.is_main_process:
            partial = path.with_name(".partial.png")
            with self.stop.cutting_short(), _not_fatal("a sheet of samples"):
                images = self.task.samples(self._average_models(), self.recipe.sample_images, self.feed.share)
                sheet = image_grid(images, columns=min(len(images), 8))
                path.parent.mkdir(parents=True, exist_ok=True)
                told = {"synthetic": "true", "model": self.output.name, "update": str(self.step)}
                marks = {f"wbc:{key}": value for key, value in {**told, "seeds": f"0 to {len(images) - 1}"}.items()}
                write_png(partial, sheet, TRAINED, text=marks)
                partial.replace(path)
            with contextlib.suppress(OSError):
                partial.unlink()
        self.accelerator.wait_for_everyone()

    def _write_snapshot(self, folder: Path) -> None:
        """Write the pipeline of now and a sheet of samples, to choose among afterwards (thesis section 4.2)."""
        if self.recipe.sample_images:
            self._draw_samples(folder / "samples.png")
        self._write_pipeline(folder)  # last: with it the snapshot counts as written

    def _judge_images(self) -> None:
        """Log what a judge says of images of now, and keep the pipeline if it is the best so far."""
        verdict: Verdict | None = None
        if self.accelerator.is_main_process and self.judge is not None:
            with self.stop.cutting_short():
                verdict = self.judge(self.task.samples(self._average_models(), self.judge.count, self.feed.share))
            if verdict is not None:
                self._log(verdict.figures)
        self._keep_if_best(verdict)

    def _keep_if_best(self, verdict: Verdict | None) -> None:
        """Write the pipeline of now if the main process's verdict is the best so far."""
        best = verdict is not None and self.publisher.is_best(verdict.score, self.step)
        if self._all_agree(best or not self.accelerator.is_main_process):
            self._write_pipeline(self.output / BEST_NAME, verdict)

    def _write_pipeline(self, folder: Path, verdict: Verdict | None = None) -> None:
        try:
            self.publisher.write(folder, self._average_models(), self.step, self.seconds, verdict)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} {self.checkpoints.describe_latest()}: make room there and go on with --resume latest."
            ) from error

    # -- small things ------------------------------------------------------------------------------------------------

    def _all_agree(self, yes: bool) -> bool:
        """Whether every process says yes; waits for all."""
        if self.accelerator.num_processes == 1:
            return yes
        noes = torch.tensor(float(not yes), device=self.accelerator.device)
        return float(self.accelerator.reduce(noes, reduction="sum")) == 0.0

    def _parent_fingerprint(self) -> str | None:
        """What tells the model that the training started from; None if there is none, or none with a manifest."""
        parent = self.task.parent_manifest
        return None if parent is None else hashlib.sha256(json.dumps(parent, sort_keys=True).encode()).hexdigest()

    def _average_models(self) -> dict[str, nn.Module]:
        return {name: trained.average.model for name, trained in self.trained.items()}

    def _learning_rates(self) -> dict[str, float]:
        return {f"learning_rate/{name}": each.schedule.get_last_lr()[0] for name, each in self.trained.items()}

    def _start_trackers(self) -> None:
        if self.accelerator.is_main_process:
            text = yaml.safe_dump(self.recipe.to_dict(), sort_keys=False)
            write_whole(self.output / "recipe.yaml", text.encode())
            drop_rows_after(self.output / "log.jsonl", self.step)
        if self.recipe.tracker != "none":
            self.accelerator.init_trackers("wbc-diffusers", {k: str(v) for k, v in self.recipe.to_dict().items()})

    def _log(self, figures: dict[str, float]) -> None:
        row = {"step": self.step, "seconds": round(self.seconds, 2), **figures}
        with _not_fatal("a row of log.jsonl"):
            if self.accelerator.is_main_process:
                append_line(self.output / "log.jsonl", json.dumps(row))
            if self.recipe.tracker != "none":
                self.accelerator.log(figures, step=self.step)

    def _told_to_stop(self) -> bool:
        """Whether any process got SIGTERM; all of them answer alike, at the same update."""
        if self.accelerator.num_processes == 1:
            return self.stop.given
        if self.step % self.recipe.log_every:
            return False
        return not self._all_agree(not self.stop.given)


@contextlib.contextmanager
def _not_fatal(what: str) -> Iterator[None]:
    """Train on without a thing that could not be written: hours of work are worth more, and checkpoints are checked."""
    try:
        yield
    except OSError as error:
        logger.warning("The training goes on, but %s could not be written: %s", what, error)
