"""Folders of small random images for the tests of data."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ImageFolder = Callable[..., Path]


@pytest.fixture
def image_folder(tmp_path: Path) -> ImageFolder:
    """Give a function that writes a random image of 16 x 16 px for each name or row, and metadata.csv for rows."""

    def write(entries: Sequence[str] | Sequence[dict[str, str]], name: str = "cells") -> Path:
        top = tmp_path / name
        top.mkdir()
        rng = np.random.default_rng(len(name))
        for entry in entries:
            path = top / (entry if isinstance(entry, str) else entry["file_name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
        rows = [entry for entry in entries if not isinstance(entry, str)]
        if rows:
            with (top / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        return top

    return write
