"""The engine: updates, resuming, what stops a run, what is written."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import is_wandb_available
from torch import Tensor

from wbc_diffusers import WBCDDIMPipeline
from wbc_diffusers.data.check import RefusedImageError, check_image
from wbc_diffusers.data.dataset import Batch
from wbc_diffusers.training.checkpoints import CheckpointError
from wbc_diffusers.training.ddim import DDIMTask
from wbc_diffusers.training.engine import NonFiniteLossError
from wbc_diffusers.training.optimizer import make_optimizer

EVERYTHING = {
    "model": {"block_out_channels": (4, 8), "dropout": 0.2},
    "max_train_steps": 9,
    "train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "random_flip": True,
    "random_turn": True,
    "num_workers": 2,
    "checkpoint_every": 3,
    "validation_images": 4,
    "validate_every": 2,
    "sample_images": 2,
    "sample_every": 4,
    "sample_steps": 2,
}
"""All that could make a resumed run differ."""


def at_batch(number: int, act: Callable[[Any, Tensor], Tensor | None]) -> type[DDIMTask]:
    """Make a task that does something to the loss of its n-th batch, counted from 1."""

    class Acting(DDIMTask):
        batches = 0

        def loss(self, phase: str, models: Any, batch: Batch) -> Tensor:
            loss = super().loss(phase, models, batch)
            self.batches += 1
            changed = act(models[phase], loss) if self.batches == number else None
            return loss if changed is None else changed

    return Acting


def told_to_stop(model: Any, loss: Tensor) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def poisoned_gradient(model: Any, loss: Tensor) -> Tensor:
    """Leave the loss as it is, and make its gradient NaN: the root of a square at 0."""
    weight = next(model.parameters())
    return loss + (weight - weight.detach()).square().sqrt().sum()


@pytest.fixture(scope="module")
def uninterrupted(trainer: Any, small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert trainer(small(**EVERYTHING), output).run()
    return output


def all_states(checkpoint: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl")
    return {name: (checkpoint / name).read_bytes() for name in names}


def test_resumed_run_ends_with_the_same_weights(
    uninterrupted: Path, trainer: Any, small: Any, log_of: Any, tmp_path: Path
) -> None:
    recipe, output = small(**EVERYTHING), tmp_path / "run"
    assert not trainer(recipe, output, task=at_batch(2 * 5, told_to_stop)).run()
    assert [p.name for p in sorted((output / "checkpoints").iterdir())] == ["checkpoint-3", "checkpoint-5"]
    assert not (output / "model_index.json").exists()
    assert trainer(recipe, output, "latest").run()
    for place in ("checkpoints/checkpoint-9", "checkpoints/checkpoint-6"):
        assert all_states(output / place) == all_states(uninterrupted / place)
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (output / weights).read_bytes() == (uninterrupted / weights).read_bytes()
    figures = [{k: v for k, v in row.items() if k.startswith("validation")} for row in log_of(output)]
    expected = [{k: v for k, v in row.items() if k.startswith("validation")} for row in log_of(uninterrupted)]
    assert [f for f in figures if f] == [f for f in expected if f]


def test_a_finished_run_resumed_writes_its_pipeline_again(trainer: Any, small: Any, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert trainer(small(), output).run()
    weights = output / "unet" / "diffusion_pytorch_model.safetensors"
    before, rows = weights.read_bytes(), (output / "log.jsonl").read_text()
    (output / "model_index.json").unlink()
    weights.write_bytes(before[:100])
    assert trainer(small(), output, "latest").run()
    assert weights.read_bytes() == before
    assert (output / "log.jsonl").read_text() == rows
    WBCDDIMPipeline.from_pretrained(output)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_updates_are_those_of_a_plain_torch_loop(trainer: Any, small: Any, tmp_path: Path, optimizer: str) -> None:
    recipe = small(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1, max_grad_norm=0.05, ema_decay=0.15)
    ours = trainer(recipe, tmp_path / "run")
    model, average = deepcopy(ours.task.unet), deepcopy(ours.task.unet)
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "foreach": False}
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    plain = kind(model.parameters(), **options, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    batches = ours.feed.batches(0)
    for n in range(4):
        ours.task._errors(model, batch := next(batches), batch["timestep"]).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        plain.step()
        plain.zero_grad()
        decay = min(0.15, (1 + n) / (10 + n))
        for mine, new in zip(average.parameters(), model.parameters(), strict=True):
            mine.data = decay * mine.data + (1 - decay) * new.data
    ours.run()
    # Where a gradient is almost zero Adam divides rounding by rounding, so 1/500 of a step is left to it.
    for name, theirs in average.named_parameters():
        torch.testing.assert_close(
            ours.trained["unet"].average.model.get_parameter(name), theirs.detach(), rtol=0, atol=2e-5
        )
    for name, theirs in model.named_parameters():
        torch.testing.assert_close(ours.trained["unet"].bare.get_parameter(name), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("change", [{"gradient_accumulation_steps": 4}, {"gradient_checkpointing": True}])
def test_accumulation_and_gradient_checkpointing_change_no_result(
    trainer: Any, small: Any, published: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    trainer(small(), tmp_path / "plain").run()
    trainer(small(**change), tmp_path / "changed").run()
    plain, changed = published(tmp_path / "plain"), published(tmp_path / "changed")
    for name in plain:
        torch.testing.assert_close(changed[name], plain[name], rtol=0, atol=2e-5)


def test_a_compiled_run_gives_the_same_and_resumes_uncompiled(
    trainer: Any, small: Any, published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # a C++ compiler takes 20 s
    trainer(small(), tmp_path / "plain").run()
    stop = at_batch(2, told_to_stop)
    assert not trainer(small(compile=True), tmp_path / "compiled", task=stop).run()
    assert trainer(small(), tmp_path / "compiled", "latest").run()
    plain, compiled = published(tmp_path / "plain"), published(tmp_path / "compiled")
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=0, atol=2e-5)


def test_rates_follow_the_schedule(trainer: Any, small: Any, log_of: Any, tmp_path: Path) -> None:
    recipe = small(max_train_steps=8, lr_scheduler="cosine", lr_warmup_steps=2, learning_rate=0.1, log_every=1)
    trainer(recipe, tmp_path / "run").run()
    rates = [row["learning_rate/unet"] for row in log_of(tmp_path / "run")]
    rising = [0.05, 0.1]
    falling = [0.1 * (1 + math.cos(math.pi * n / 6)) / 2 for n in range(1, 7)]
    assert rates == pytest.approx(rising + falling)


def test_bf16_trains_and_publishes_float32(trainer: Any, small: Any, published: Any, tmp_path: Path) -> None:
    seen = []

    class Watching(DDIMTask):
        def loss(self, phase: str, models: Any, batch: Batch) -> Tensor:
            models[phase].conv_out.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
            return super().loss(phase, models, batch)

    trainer(small(mixed_precision="bf16"), tmp_path / "bf16", task=Watching).run()
    assert torch.bfloat16 in seen
    weights = published(tmp_path / "bf16")
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works here")
def test_fp16_is_refused_on_a_cpu(trainer: Any, small: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fp16 needs an accelerator, .* set bf16 or no"):
        trainer(small(mixed_precision="fp16"), tmp_path / "run")


def test_an_update_that_the_scaler_skips_moves_neither_average_nor_rate(
    trainer: Any, small: Any, tmp_path: Path
) -> None:
    recipe = small(lr_scheduler="constant_with_warmup", lr_warmup_steps=100, max_grad_norm=None)
    ours = trainer(recipe, tmp_path / "run")
    # What accelerate does for fp16 on a GPU; a hundred times the loss overflows at this scale, and not at the next few.
    ours.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    optimizer = make_optimizer(
        replace(recipe, mixed_precision="fp16"), ours.trained["unet"].parameters, recipe.learning_rate
    )
    ours.trained["unet"].optimizer = AcceleratedOptimizer(optimizer, False, ours.accelerator.scaler)
    loss = ours.task.loss
    ours.task.loss = lambda *arguments: 100.0 * loss(*arguments)
    start = deepcopy(ours.trained["unet"].bare.state_dict())
    batches, taken = ours.feed.batches(0), 0
    for _ in range(12):
        rate, updates = ours._learning_rates(), ours.trained["unet"].average.updates
        ours.update(batches)
        skipped = ours.trained["unet"].optimizer.step_was_skipped
        taken += not skipped
        assert (ours._learning_rates() == rate and ours.trained["unet"].average.updates == updates) == bool(skipped)
        if not taken:
            assert all(torch.equal(start[k], v) for k, v in ours.trained["unet"].average.model.state_dict().items())
    assert 0 < taken < 12


def test_a_loss_that_is_not_finite_stops_before_the_next_checkpoint(trainer: Any, small: Any, tmp_path: Path) -> None:
    recipe, output = small(max_train_steps=8, checkpoint_every=2, log_every=100), tmp_path / "run"
    task = at_batch(3, lambda model, loss: loss * math.nan)
    good = output / "checkpoints" / "checkpoint-2"
    with pytest.raises(NonFiniteLossError, match=f"nan between updates 3 and 4. The last good checkpoint is {good}"):
        trainer(recipe, output, task=task).run()
    assert list((output / "checkpoints").iterdir()) == [good]
    assert not (output / "model_index.json").exists()
    assert trainer(recipe, output, "latest").run()


@pytest.mark.parametrize("poisoned", [4, 8])
def test_weights_that_are_not_finite_are_never_saved(trainer: Any, small: Any, tmp_path: Path, poisoned: int) -> None:
    output = tmp_path / "run"
    task = at_batch(poisoned, poisoned_gradient)
    with pytest.raises(NonFiniteLossError, match=f"no longer finite after update {poisoned}. The last good .*-"):
        trainer(small(max_train_steps=8, checkpoint_every=2), output, task=task).run()
    assert max(p.name for p in (output / "checkpoints").iterdir()) == f"checkpoint-{poisoned - 2}"
    assert not (output / "model_index.json").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl", "progress.json", "checksums.json"]
)
@pytest.mark.parametrize("damage", [cut, flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_is_named_with_the_one_before_it(
    uninterrupted: Path, trainer: Any, small: Any, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    for number in (6, 9):
        copy_tree(uninterrupted / "checkpoints" / f"checkpoint-{number}", output / "checkpoints")
    damage(output / "checkpoints" / "checkpoint-9" / name)
    before = output / "checkpoints" / "checkpoint-6"
    with pytest.raises(CheckpointError, match=f"checkpoint-9 cannot be read .*: go on with .* --resume {before}"):
        trainer(small(**EVERYTHING), output, "latest")
    assert len(list((output / "checkpoints").iterdir())) == 2


def copy_tree(folder: Path, into: Path) -> None:
    (into / folder.name).mkdir(parents=True)
    for path in folder.iterdir():
        (into / folder.name / path.name).write_bytes(path.read_bytes())


def test_going_on_from_an_older_checkpoint_sets_the_newer_aside(
    uninterrupted: Path, trainer: Any, small: Any, published: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "run"
    for number in (6, 9):
        copy_tree(uninterrupted / "checkpoints" / f"checkpoint-{number}", output / "checkpoints")
    old = output / "checkpoints" / "checkpoint-6"
    # Two updates more: were checkpoint-9 still there, it would be the newest, and the newest two would be 8 and 9.
    assert trainer(small(**{**EVERYTHING, "max_train_steps": 8}), output, str(old)).run()
    assert sorted(p.name for p in (output / "checkpoints").iterdir()) == [
        "checkpoint-6",
        "checkpoint-8",
        "superseded-9",
    ]
    assert "a newer checkpoint is now" in caplog.text


def test_an_output_that_holds_something_is_left_alone(trainer: Any, small: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"is not empty: give another --output, or .* --resume latest"):
        trainer(small(), tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        trainer(small(), tmp_path, "latest")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_latest_starts_anew_where_there_is_no_checkpoint_yet(
    trainer: Any, small: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "run"
    with pytest.raises(NonFiniteLossError, match="There is no checkpoint yet"):
        trainer(small(), output, "latest", task=at_batch(1, lambda model, loss: loss * math.inf)).run()
    assert trainer(small(), output, "latest").run()
    assert caplog.text.count("the training starts anew") == 2


def test_latest_does_not_overwrite_a_finished_model_without_checkpoints(
    trainer: Any, small: Any, tmp_path: Path
) -> None:
    trainer(small(), tmp_path / "run").run()
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        trainer(small(), tmp_path / "run", "latest")


def test_a_run_goes_on_with_the_same_recipe_and_data_only(
    trainer: Any, small: Any, cells: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    trainer(small(), output).run()
    with pytest.raises(ValueError, match=r"another learning_rate \(0.0003 there, 0.1 now\): resume with the same"):
        trainer(small(learning_rate=0.1), output, "latest")
    with pytest.raises(ValueError, match="trained on other images, or other classes of them, than those given"):
        trainer(small(), output, "latest", source=cells / "validation")
    assert trainer(small(max_train_steps=6, num_workers=1, sample_steps=3), output, "latest").run()
    assert json.loads((output / "training_manifest.json").read_text())["training"]["steps"] == 6


def test_a_run_does_not_go_on_with_other_classes(trainer: Any, small: Any, cells: Path, tmp_path: Path) -> None:
    source = tmp_path / "cells"
    shutil.copytree(cells, source)
    recipe = small(model={"block_out_channels": [4, 8], "num_class_embeds": 3}, class_column="abnormality")
    trainer(recipe, tmp_path / "run", source=source).run()
    table = source / "train" / "metadata.csv"
    table.write_text(table.read_text().replace("dohle_bodies", "hypergranulation"))
    with pytest.raises(ValueError, match="other images, or other classes of them"):
        trainer(recipe, tmp_path / "run", "latest", source=source)


def test_a_run_does_not_go_on_from_another_parent(trainer: Any, small: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    trainer(small(), base).run()
    recipe = small(model={}, pretrained=str(base))
    trainer(recipe, tmp_path / "run").run()
    assert trainer(recipe, tmp_path / "run", "latest").run()
    shutil.rmtree(base)
    trainer(small(seed=1), base).run()
    with pytest.raises(ValueError, match=r"was started from another model than .*base is now"):
        trainer(recipe, tmp_path / "run", "latest")


def test_a_run_that_has_gone_farther_than_is_wanted_is_refused(trainer: Any, small: Any, tmp_path: Path) -> None:
    trainer(small(), tmp_path / "run").run()
    with pytest.raises(ValueError, match="checkpoint-4 has 4 updates, more than the 3 that are wanted"):
        trainer(small(max_train_steps=3), tmp_path / "run", "latest")


def test_sheets_of_samples_say_that_a_model_made_them(trainer: Any, small: Any, tmp_path: Path) -> None:
    trainer(small(sample_images=2, sample_steps=2), tmp_path / "run").run()
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["step-0000004.png"]
    with pytest.raises(RefusedImageError, match="made by a trained model"):
        check_image((tmp_path / "run" / "samples" / "step-0000004.png").read_bytes(), 1)


def test_a_run_told_to_stop_while_it_samples_does_without_the_sheet(
    trainer: Any, small: Any, published: Any, tmp_path: Path
) -> None:
    class Interrupted(DDIMTask):
        def samples(self, *arguments: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().samples(*arguments)

    recipe = small(sample_images=2, sample_steps=2, sample_every=2)
    assert not trainer(recipe, tmp_path / "run", task=Interrupted).run()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert not (tmp_path / "run" / "samples").exists()
    assert trainer(recipe, tmp_path / "run", "latest").run()
    trainer(small(), tmp_path / "whole").run()
    whole, resumed = (published(tmp_path / name) for name in ("whole", "run"))
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def test_the_log_of_a_killed_run_goes_on_without_gap_or_repetition(
    trainer: Any, small: Any, log_of: Any, tmp_path: Path
) -> None:
    output, recipe = tmp_path / "run", small(max_train_steps=6, checkpoint_every=2, log_every=1)
    with pytest.raises(ZeroDivisionError):
        trainer(recipe, output, task=at_batch(6, lambda model, loss: loss / 0 if 1 // 0 else None)).run()
    with (output / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "los')
    trainer(recipe, output, "latest").run()
    assert [row["step"] for row in log_of(output)] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_what_the_log_holds(trainer: Any, small: Any, log_of: Any, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = small(tracker="tensorboard", log_every=1, validation_images=4, validate_every=2)
    trainer(recipe, tmp_path / "run").run()
    reader = event_accumulator.EventAccumulator(str(tmp_path / "run" / "wbc-diffusers"))
    reader.Reload()
    for name in ("loss/unet", "learning_rate/unet", "validation/mean"):
        logged = [(row["step"], row[name]) for row in log_of(tmp_path / "run") if name in row]
        shown = [(event.step, event.value) for event in reader.Scalars(name)]
        assert logged
        assert shown == [(step, pytest.approx(value)) for step, value in logged]


def test_a_tracker_that_is_not_installed_is_refused(trainer: Any, small: Any, tmp_path: Path) -> None:
    if is_wandb_available():
        pytest.skip("wandb is installed")
    with pytest.raises(ValueError, match="The tracker wandb is not installed: pip install wandb"):
        trainer(small(tracker="wandb"), tmp_path / "run")


# Publishing.


class FakeHub:
    """Notes what it is asked for, and what the folder holds then."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.asked = fails, []

    def reserve(self) -> None:
        self.asked.append("reserve")
        if self.fails == "reserve":
            raise OSError("taken")

    def publish(self, folder: Path) -> str:
        self.asked.append(WBCDDIMPipeline.from_pretrained(folder).training_manifest["training"]["steps"])
        if self.fails == "publish":
            raise OSError("no network")
        return "https://hub/commit"


def test_pipeline_is_published_once_it_is_whole(trainer, small, tmp_path, capsys):
    hub = FakeHub()
    recipe = small(push_to_hub=True, hub_model_id="lab/cells")
    assert trainer(recipe, tmp_path / "run", hub=hub).run()
    assert hub.asked == ["reserve", 4]
    assert "Published https://hub/commit." in capsys.readouterr().err


def test_hub_is_asked_before_the_training_and_its_failure_loses_nothing(trainer, small, tmp_path):
    recipe = small(push_to_hub=True, hub_model_id="lab/cells")
    with pytest.raises(OSError, match="taken"):
        trainer(recipe, tmp_path / "run", hub=FakeHub("reserve"))
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(OSError, match="no network"):
        trainer(recipe, tmp_path / "run", hub=FakeHub("publish")).run()
    assert WBCDDIMPipeline.from_pretrained(tmp_path / "run").training_manifest["training"]["steps"] == 4
    hub = FakeHub()  # once more: the training is done, and only the publishing is left
    assert trainer(recipe, tmp_path / "run", resume="latest", hub=hub).run()
    assert hub.asked == ["reserve", 4]


def test_training_that_was_stopped_publishes_nothing(trainer, small, tmp_path):
    def stop(model: Any, loss: Tensor) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    hub, recipe = FakeHub(), small(push_to_hub=True, hub_model_id="lab/cells")
    assert not trainer(recipe, tmp_path / "run", task=at_batch(2, stop), hub=hub).run()
    assert hub.asked == ["reserve"]


def test_push_to_hub_wants_a_name_and_a_hub(trainer, small, tmp_path):
    with pytest.raises(ValueError, match="has push_to_hub, but no hub_model_id: set it, such as somebody/wbc"):
        small(push_to_hub=True)
    with pytest.raises(ValueError, match="push_to_hub needs a hub, as `wbc train` brings one: set it false"):
        trainer(small(push_to_hub=True, hub_model_id="lab/cells"), tmp_path / "run")
