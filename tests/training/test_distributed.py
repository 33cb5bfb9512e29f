"""Two real processes that talk by gloo, beside one with the same global batch."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.launchers import debug_launcher
from datasets import Dataset, Image
from safetensors.torch import load_file

from tests.shaded import SMALL as SMALL_CLASSIFIER
from tests.shaded import write_splits
from wbc_diffusers.training.classifier import train_classifier
from wbc_diffusers.training.ddim import train_ddim
from wbc_diffusers.training.gan import train_gan
from wbc_diffusers.training.recipe import ClassifierRecipe

OPTIONS = {
    "max_train_steps": 6,
    "train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "lr_scheduler": "cosine",
    "random_flip": True,
    "checkpoint_every": 3,
    "keep_checkpoints": 9,
    "log_every": 1,
    "validation_images": 4,
    "sample_images": 2,
    "sample_steps": 2,
}


@pytest.fixture(scope="module")
def launch(processes: ForkServerContext) -> Callable[..., int]:
    """Give a launcher: launch(count, recipe, data, output, resume=None) returns the exit code."""

    def run(count: int, *arguments: Any) -> int:
        # The launcher forks, which only a process without threads of torch may do.
        train = {"ddim": train_ddim, "gan": train_gan, "classifier": train_classifier}[arguments[0].kind]
        target, given = (debug_launcher, (train, arguments, count)) if count > 1 else (train, arguments)
        process = processes.Process(target=target, args=given)
        process.start()
        process.join(240)
        return process.exitcode or 0

    return run


@pytest.fixture(scope="module")
def runs(launch: Any, small: Any, cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Give the output of one process and that of two."""
    folder = tmp_path_factory.mktemp("distributed")
    for count in (1, 2):
        assert launch(count, small(**OPTIONS), str(cells), folder / str(count)) == 0
    return {count: folder / str(count) for count in (1, 2)}


def assert_same(one: Path, two: Path) -> None:
    """Compare the published average and the trained weights."""
    for name in ("unet/diffusion_pytorch_model.safetensors", "checkpoints/checkpoint-6/model.safetensors"):
        theirs = load_file(two / name)
        for key, value in load_file(one / name).items():
            torch.testing.assert_close(theirs[key], value, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(runs: dict[int, Path], log_of: Any) -> None:
    assert_same(runs[1], runs[2])
    assert json.loads((runs[2] / "checkpoints/checkpoint-6/progress.json").read_text())["processes"] == 2
    for one, two in zip(log_of(runs[1]), log_of(runs[2]), strict=True):
        assert {k: v for k, v in two.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in one.items() if k != "seconds"}, abs=1e-4
        )
    manifests = [json.loads((run / "training_manifest.json").read_text()) for run in runs.values()]
    assert manifests[0]["image_pixel_sha256"] == manifests[1]["image_pixel_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_checkpoint_goes_on_under_another_number_of_processes(
    runs: dict[int, Path], launch: Any, small: Any, cells: Path, tmp_path: Path, first: int, then: int
) -> None:
    checkpoint = runs[first] / "checkpoints" / "checkpoint-3"
    assert launch(then, small(**OPTIONS), str(cells), tmp_path / "run", str(checkpoint)) == 0
    progress = json.loads((tmp_path / "run" / "checkpoints" / "checkpoint-6" / "progress.json").read_text())
    assert progress["processes"] == then
    assert_same(runs[1], tmp_path / "run")


@pytest.mark.slow
def test_a_stream_is_shared_out_and_all_images_seen_are_in_the_manifest(
    launch: Any, small: Any, cells: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    images = sorted((cells / "train").glob("*.png"))
    for shard in range(4):
        rows = {"image": [str(p) for p in images[shard::4]]}
        Dataset.from_dict(rows).cast_column("image", Image()).to_parquet(shards / f"train-{shard}.parquet")
    recipe = small(streaming=True, shuffle_buffer=2, max_train_steps=2, train_batch_size=8, checkpoint_every=1)
    output = tmp_path / "run"
    assert launch(2, recipe, str(shards), output) == 0
    seen = json.loads((output / "training_manifest.json").read_text())["image_pixel_sha256"]
    assert len(seen) == 16  # two updates of eight images, none of them twice
    assert launch(1, replace(recipe, max_train_steps=3), str(shards), output, "latest") == 0
    later = json.loads((output / "training_manifest.json").read_text())["image_pixel_sha256"]
    assert set(seen) <= set(later)


NO_NORMS = {"generator": {"norm_type": "none"}, "discriminator": {"norm_type": "none"}}


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_two_processes_train_the_gan_that_one_does_where_no_batch_norm_counts(
    launch: Any, small_gan: Any, cells: Path, published: Any, tmp_path: Path, frozen: bool
) -> None:
    gan: dict[str, Any] = {
        "max_train_steps": 4,
        "train_batch_size": 8,
        "discriminator_updates": 2,
        "loss": "non_saturating",
        "diff_augment": "color,translation,cutout",
        "random_flip": True,
        "learning_rate": 1e-4,
        "adam_betas": (0.0, 0.99),
        "ema_decay": 0.9,
    }
    small = small_gan()
    networks = {part: {**getattr(small, part), **NO_NORMS[part]} for part in NO_NORMS}
    if frozen:
        # All norms of both: the generator's, and the one of the discriminator's second block.
        base = tmp_path / "base"
        assert launch(1, small_gan(max_train_steps=2), str(cells), base) == 0
        networks = {part: {} for part in NO_NORMS}
        gan |= {"pretrained": str(base), "frozen_layers": 2, "freeze_generator_norms": True}
    else:
        gan |= {"r1_weight": 0.5}
    for count in (1, 2):
        assert launch(count, small_gan(**gan, **networks), str(cells), tmp_path / str(count)) == 0
    for part in NO_NORMS:
        one, two = published(tmp_path / "1", part), published(tmp_path / "2", part)
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_with_batch_norm_two_processes_keep_the_same_weights_and_resume(
    launch: Any, small_gan: Any, cells: Path, published: Any, tmp_path: Path
) -> None:
    options = {"train_batch_size": 8, "checkpoint_every": 2, "keep_checkpoints": 9}
    for steps, output, resume in ((4, "whole", None), (2, "parts", None), (4, "parts", "latest")):
        recipe = small_gan(**options, max_train_steps=steps)
        assert launch(2, recipe, str(cells), tmp_path / output, resume) == 0
    for part in NO_NORMS:
        whole, parts = published(tmp_path / "whole", part), published(tmp_path / "parts", part)
        assert all(torch.equal(parts[name], value) for name, value in whole.items())


NO_BATCH_NORM = {
    "model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_the_classifier_that_one_does_and_publish_the_same_best(
    launch: Any, log_of: Any, tmp_path: Path
) -> None:
    data = write_splits(tmp_path / "cells")
    options = {
        "model": NO_BATCH_NORM, "max_train_steps": 8, "gradient_accumulation_steps": 2, "oversample": True,
        "rand_augment": [2, 9], "random_flip": True, "log_every": 1, "validate_every": 2, "checkpoint_every": 4,
        "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 40, "learning_rate": 1.0, "optimizer": "sgd",
    }  # fmt: skip
    recipe = ClassifierRecipe.from_dict({**SMALL_CLASSIFIER, **options})
    for count in (1, 2):
        assert launch(count, recipe, str(data), tmp_path / str(count)) == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=2e-5)
    for mine, theirs in zip(log_of(tmp_path / "1"), log_of(tmp_path / "2"), strict=True):
        assert {k: v for k, v in theirs.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in mine.items() if k != "seconds"}, abs=1e-4
        )
    scores = [json.loads((tmp_path / name / "score.json").read_text()) for name in ("1", "2")]
    assert scores[0]["step"] == scores[1]["step"]
    # From a checkpoint of the two one goes on to the same.
    shutil.copytree(tmp_path / "2" / "checkpoints" / "checkpoint-4", tmp_path / "checkpoint-4")
    assert launch(1, recipe, str(data), tmp_path / "3", str(tmp_path / "checkpoint-4")) == 0
    third = load_file(tmp_path / "3" / "checkpoints" / "checkpoint-8" / "model.safetensors")
    for key, value in load_file(tmp_path / "1" / "checkpoints" / "checkpoint-8" / "model.safetensors").items():
        torch.testing.assert_close(third[key], value, rtol=0, atol=2e-5)
