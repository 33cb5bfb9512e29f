"""Folders of phantom cells, real-looking and defective, for the measures of sets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.phantom import render_cell

Pixels = np.ndarray


@pytest.fixture(scope="session")
def cells() -> dict[int, Pixels]:
    """Phantom cells of 48 px by their seeds, 0 to 119."""
    return {seed: render_cell(48, seed, "none", 0).pixels for seed in range(120)}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write images (N, H, W, 3) as a folder of PNG files."""

    def write(name: str, images: list[Pixels], source_type: str | None = "algorithmicMedia") -> Path:
        out = tmp_path / name
        out.mkdir()
        for i, pixels in enumerate(images):
            write_png(out / f"{i:04d}.png", np.asarray(pixels, np.uint8), source_type)
        return out

    return write


@pytest.fixture
def jpeg_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write images as a folder of JPEG files of a quality."""

    def write(name: str, images: list[Pixels], quality: int = 60) -> Path:
        out = tmp_path / name
        out.mkdir()
        for i, pixels in enumerate(images):
            Image.fromarray(pixels).save(out / f"{i:04d}.jpg", quality=quality)
        return out

    return write
