"""Cells that a classifier learns in a few updates: dark ones are normal, bright ones hypersegmented, by grade."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.runs import Run, all_runs

SIDE = 16
LEVELS = {("none", 0): 70, ("hypersegmentation", 1): 140, ("hypersegmentation", 2): 190}
SMALL: dict[str, Any] = {
    "pretrained": None,
    "model": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "resolution": SIDE,
    "train_batch_size": 8,
    "max_train_steps": 8,
    "learning_rate": 1e-2,
    "num_workers": 0,
    "validate_every": 2,
    "log_every": 2,
}
"""Fields of a recipe of a classifier that trains in a blink."""


def write_cells(folder: Path, counts: dict[tuple[str, int], int], first: int, synthetic: bool = False) -> Path:
    """Write so many cells of each abnormality and grade; `first` is the seed of the first one."""
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "abnormality", "grade", "group", *(["synthetic"] if synthetic else [])])
        number = first
        for (abnormality, grade), count in counts.items():
            for _ in range(count):
                rng = np.random.default_rng(number)
                level = LEVELS[abnormality, grade] + rng.integers(-25, 26)
                pixels = np.clip(rng.normal(level, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
                name = f"{number:08}.png"
                write_png(folder / name, pixels, TRAINED if synthetic else None)
                row = [name, abnormality, grade, f"slide-{number // 4}", *(["true"] if synthetic else [])]
                table.writerow(row)
                number += 1
    return folder


def write_splits(folder: Path, grades: tuple[int, ...] = (2,)) -> Path:
    """Write 40 normal and 12 abnormal training cells of each grade, and half as many to validate and to test."""
    for first, (split, share) in enumerate((("train", 1.0), ("validation", 0.5), ("test", 0.5))):
        counts = {("none", 0): round(40 * share), **{("hypersegmentation", g): round(12 * share) for g in grades}}
        write_cells(folder / split, counts, 1000 * (first + 1))
    return folder


def run_of(config: StudyConfig, arm: str) -> Run:
    """The first run of an arm."""
    return next(run for run in all_runs(config) if run.arm.name == arm)
