"""What the tests of studies share: shaded cells, a tiny diffusion model, its images, a small study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.shaded import SIDE, SMALL, run_of, write_splits
from wbc_diffusers.generation import generate
from wbc_diffusers.study import workers
from wbc_diffusers.study.arms import folder_of
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.images import fingerprints, load_images
from wbc_diffusers.training.ddim import train_ddim
from wbc_diffusers.training.recipe import DDIMRecipe

DIFFUSION: dict[str, Any] = {
    "resolution": SIDE,
    "max_train_steps": 2,
    "train_batch_size": 4,
    "num_workers": 0,
    "validation_images": 0,
    "sample_images": 0,
}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with data (splits), models base and rare, and their images: normal (20) and abnormal (40)."""
    folder = tmp_path_factory.mktemp("study")
    write_splits(folder / "data")
    base = DDIMRecipe(**DIFFUSION, model={"block_out_channels": [4, 8]}, where={"abnormality": "none"})
    train_ddim(base, str(folder / "data"), folder / "base")
    where = {"abnormality": "hypersegmentation", "grade": 2}
    rare = DDIMRecipe(**DIFFUSION, pretrained=str(folder / "base"), where=where, max_train_samples=6)
    train_ddim(rare, str(folder / "data"), folder / "rare")
    for model, name, count in (("base", "normal", 20), ("rare", "abnormal", 40)):
        generate(str(folder / model), folder / name, count, steps=2)
    return folder


@pytest.fixture(scope="session")
def study(place: Path) -> Callable[..., StudyConfig]:
    """Give a maker of studies on the shaded cells; recipe=... changes some of its recipe's fields."""

    def make(recipe: dict[str, Any] | None = None, **changes: Any) -> StudyConfig:
        common = {**SMALL, "sizes": {"train": [20, 6], "validation": [10, 4], "test": [20, 6]}, "max_train_steps": 4}
        sets = [{"folder": str(place / name), "model": str(place / model)} for name, model in
                (("normal", "base"), ("abnormal", "rare"))]  # fmt: skip
        values = {
            "data": str(place / "data"),
            "generated": sets,
            "recipe": {**common, **(recipe or {})},
            "arms": {"real": {"oversample": True}, "with": {"oversample": True, "synthetic_ratio": [0.0, 2.0]}},
            "seeds": [0, 1],
            "swap_images": 8,
            "replicates": 100,
        }
        return StudyConfig.from_dict({**values, **changes})

    return make


@pytest.fixture
def do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[StudyConfig, str], Path]:
    """Give what does a run of an arm in this process, in place of one of the pool: its folder."""

    def begin(config: StudyConfig, arm: str) -> Path:
        here = {"out": tmp_path / "out", "cells": fingerprints(config), "images": load_images(config)}
        monkeypatch.setattr(workers, "_here", {"config": config, **here})
        run = run_of(config, arm)
        workers._do(run)
        return folder_of(run.arm, run.seed, tmp_path / "out" / "runs")

    return begin
