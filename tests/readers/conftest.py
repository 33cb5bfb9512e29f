"""Small folders of real and synthetic cells, and studies of them."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.readers.build import build_study
from wbc_diffusers.readers.config import ReaderStudy
from wbc_diffusers.readers.folder import LINKS_NAME

SIDE = 24
STRATA = {"hypersegmentation": 20, "dohle_bodies": 15, "hypergranulation": 15}
"""The thesis's: so many real cells, and so many synthetic ones."""


def a_cell(rng: np.random.Generator, level: int = 150) -> np.ndarray:
    """Draw pixels that no other cell has."""
    return np.clip(rng.normal(level, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def write_source(
    folder: Path, counts: dict[str, int], *, synthetic: bool, seed: int, level: int = 150, file_type: str = "png"
) -> Path:
    """Write so many cells of each abnormality, grade 2."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "abnormality", "grade", *(["synthetic"] if synthetic else [])])
        for abnormality, count in counts.items():
            for number in range(count):
                name = f"{abnormality}-{number:04}.{file_type}"
                if file_type == "png":
                    write_png(folder / name, a_cell(rng, level), TRAINED if synthetic else None)
                else:
                    Image.fromarray(a_cell(rng, level)).save(folder / name, quality=75)
                table.writerow([name, abnormality, 2, *(["true"] if synthetic else [])])
    return folder


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of real cells."""
    counts = {name: number + 5 for name, number in STRATA.items()}
    return write_source(tmp_path_factory.mktemp("sources") / "real", counts, synthetic=False, seed=1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of synthetic cells."""
    counts = {name: number + 5 for name, number in STRATA.items()}
    return write_source(tmp_path_factory.mktemp("sources") / "made", counts, synthetic=True, seed=2)


def thesis_strata(real: Path, made: Path, **counts: int) -> dict[str, Any]:
    """Give strata as in the thesis, or of other numbers."""
    return {
        name: {
            source: {"folder": str(folder), "where": {"abnormality": name}, "number": number}
            for source, folder in (("real", real), ("ddim", made))
        }
        for name, number in (counts or STRATA).items()
    }


class Built:
    """A study that was built, with its key and its readers' tokens."""

    def __init__(self, config: ReaderStudy, place: Path) -> None:
        self.config, self.folder, self.key = config, place / "study", place / "key"
        self.risks = build_study(config, self.folder, self.key)
        with (self.key / LINKS_NAME).open(newline="") as file:
            self.tokens = {row["reader"]: row["link"].partition("#")[2] for row in csv.DictReader(file)}


@pytest.fixture
def build(real: Path, made: Path, tmp_path: Path) -> Callable[..., Built]:
    """Give a function that builds a study of small numbers, or of those that are given."""

    def build_it(**changes: Any) -> Built:
        fields = {"title": "Cells", "strata": thesis_strata(real, made, hypersegmentation=4), "readers": ["anna"]}
        return Built(ReaderStudy.from_dict({**fields, "confidences": 1, "seed": 0, **changes}), tmp_path)

    return build_it
