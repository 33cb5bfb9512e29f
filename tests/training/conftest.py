"""What the tests of training share: noise images, a network of a few hundred weights, processes that can be killed."""

import csv
import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from wbc_diffusers.training.ddim import DDIMTask
from wbc_diffusers.training.engine import Trainer
from wbc_diffusers.training.recipe import DDIMRecipe, GANRecipe, Recipe

SMALL: dict[str, Any] = {
    "resolution": 16,
    "model": {"block_out_channels": [4, 8]},
    "max_train_steps": 4,
    "train_batch_size": 4,
    "num_workers": 0,
    "validation_images": 0,
    "sample_images": 0,
}
SMALL_GAN: dict[str, Any] = {
    **SMALL,
    "generator": {"depth": 8, "kernel_size": 4, "latent_dim": 8},
    "discriminator": {"depth": 4, "kernel_size": 4},
    "learning_rate": 1e-3,
    "snapshot_every_epochs": None,
}
del SMALL_GAN["model"]
KINDS = [("none", 0), ("dohle_bodies", 2), ("hypersegmentation", 2)]


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of 24 training and 8 validation images of noise, with three abnormalities in turn."""
    folder, rng = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8)):
        (folder / split).mkdir()
        with (folder / split / "metadata.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "abnormality", "grade"])
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / f"{i:02}.png")
                table.writerow([f"{i:02}.png", *KINDS[i % 3]])
    return folder


@pytest.fixture(scope="session")
def small() -> Callable[..., DDIMRecipe]:
    """Give a maker of recipes that train in a blink."""
    return lambda **changes: DDIMRecipe(**{**SMALL, **changes})


@pytest.fixture(scope="session")
def small_gan() -> Callable[..., GANRecipe]:
    """Give a maker of recipes of a GAN that trains in a blink."""
    return lambda **changes: GANRecipe(**{**SMALL_GAN, **changes})


@pytest.fixture(scope="session")
def trainer(cells: Path) -> Callable[..., Trainer]:
    """Give a maker of trainers on the cells: trainer(recipe, output, resume, task, source, judge, hub)."""

    def make(
        recipe: Recipe,
        output: Path,
        resume: str | None = None,
        task: Any = DDIMTask,
        source: Path = cells,
        judge: Any = None,
        hub: Any = None,
    ) -> Trainer:
        return Trainer(task(recipe), recipe, str(source), output, resume, judge, hub)

    return make


@pytest.fixture(scope="session")
def published() -> Callable[..., dict[str, Tensor]]:
    """Give a reader of the weights of a pipeline folder: published(folder, part="unet")."""
    return lambda folder, part="unet": load_file(folder / part / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="session")
def log_of() -> Callable[[Path], list[dict[str, float]]]:
    """Give a reader of the rows of a run's log."""
    return lambda folder: [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Give a source of real processes that have loaded the package already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wbc_diffusers.training.ddim", "accelerate.launchers", "datasets"])
    return context
