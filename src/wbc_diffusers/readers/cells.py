"""The cells of a reader study: drawn from their sources, and all brought to one form."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wbc_diffusers.data.check import RefusedImageError
from wbc_diffusers.data.dataset import hashes_of
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.data.origin import find_origin, says_synthetic
from wbc_diffusers.generation import settings_of
from wbc_diffusers.readers.config import REAL, ReaderStudy, Source

MODES = ("RGB", "RGBA", "L", "P")
"""Images of 8 bits a channel, as Pillow calls them."""
LEAST_SIDE = 8
_HALF_BLOCK = 4


@dataclass(frozen=True)
class Cell:
    """A cell that readers are shown.

    Attributes:
        name: Random, so that it says nothing.
        stratum: Of the study.
        source: `real`, or the name of a generator.
        practice: Whether it is shown with its truth before the study.
        image: RGB, in the form that all have.
        marked: Whether its file or metadata says that a model made it.
        facts: What the key tells of it.
    """

    name: str
    stratum: str
    source: str
    practice: bool
    image: Image.Image
    marked: bool
    facts: dict[str, Any]

    @property
    def real(self) -> bool:
        """Whether it is a photograph."""
        return self.source == REAL


def draw_cells(config: ReaderStudy, rng: np.random.Generator) -> list[Cell]:
    """Draw the cells of every source at random, those for practice last of each.

    Raises:
        ValueError: If a source has too few, or real cells are marked as synthetic, or sources differ in size.
        OSError: If a folder is not there, or an image can't be read.
    """
    cells = [
        cell
        for stratum, sources in config.sources.items()
        for name, source in sources.items()
        for cell in _draw(config, stratum, name, source, rng)
    ]
    if min(cells[0].image.size) < LEAST_SIDE:
        raise ValueError(
            f"The cells of the study are {cells[0].image.size} pixels large; {LEAST_SIDE} a side is the least."
        )
    sizes = sorted({(cell.image.size, cell.stratum, cell.source) for cell in cells})
    if len({size for size, _, _ in sizes}) > 1:
        told = ", ".join(f"{name} of {stratum} {width} x {height}" for (width, height), stratum, name in sizes)
        raise ValueError(
            f"The cells of the study differ in size ({told} pixels), which would give them away: bring all to the size "
            "of the generated ones, real ones by `wbc prepare --size`."
        )
    return cells


def _draw(config: ReaderStudy, stratum: str, name: str, source: Source, rng: np.random.Generator) -> list[Cell]:
    generated = name != REAL
    with _refusing_generated(source.folder):
        data = load_cells(source.folder, source.split, where=source.where, may_be_generated=generated)
    wanted = source.number + config.training
    if wanted > len(data):
        raise ValueError(
            f"{wanted} cells of {source.folder} are wanted for {stratum} ({source.number}, and {config.training} for "
            f"practice), and there are {len(data)}: take fewer, or bring more."
        )
    data = data.select(rng.permutation(len(data))[:wanted])
    with _refusing_generated(source.folder):
        digests = hashes_of(data, may_be_generated=generated)
    settings = (settings_of(Path(source.folder)) if Path(source.folder).is_dir() else None) or {}
    # What generated cells should show is what their model was trained on, if it tells: loading fills gaps.
    model = {field: settings[field] for field in ("model", "revision", "abnormality", "grade") if field in settings}
    columns = [column for column in ("file_name", "abnormality", "grade", "group", "seed") if column in data.features]
    cells = []
    for place, digest in enumerate(digests):
        row = data[place]
        if row["image"].mode not in MODES:
            raise ValueError(
                f"{row.get('file_name')} of {source.folder} is of mode {row['image'].mode}, which no screen shows "
                "as it is: prepare it as 8-bit colours."
            )
        marked = _says_model(row)
        if marked and not generated:
            raise ValueError(
                f"{source.folder} is to give real cells, but {row.get('file_name')} was made by a trained model: take "
                "it out."
            )
        facts = {"folder": source.folder, **{column: row[column] for column in columns}, "pixel_sha256": digest}
        cells.append(
            Cell(
                secrets.token_hex(8), stratum, name, place >= source.number,
                in_one_form(row["image"], config.jpeg_quality), marked, facts | model,
            )
        )  # fmt: skip
    return cells


@contextmanager
def _refusing_generated(folder: str) -> Iterator[None]:
    """Tell of which folder an image is that is refused among real ones."""
    try:
        yield
    except RefusedImageError as error:
        raise ValueError(f"{folder} is to give real cells, but one is {error}.") from error


def _says_model(row: Mapping[str, Any]) -> bool:
    fields = {name: str(value) for name, value in row.items() if name != "image"}
    return says_synthetic(fields) or find_origin(row["image"]).trained


def in_one_form(image: Image.Image, jpeg_quality: int | None) -> Image.Image:
    """Bring an image to RGB without metadata, compressed by JPEG and back twice if all of a study's are.

    Once is not enough: an image that had been compressed before, on the same grid of 8 x 8 pixels, would differ from
    one that had not. So the grid is shifted the first time, and lies as usual the second.
    """
    pixels = np.array(image.convert("RGB"))
    if jpeg_quality is not None:
        wider = np.pad(pixels, ((_HALF_BLOCK, _HALF_BLOCK), (_HALF_BLOCK, _HALF_BLOCK), (0, 0)), mode="reflect")
        inner = slice(_HALF_BLOCK, -_HALF_BLOCK)
        pixels = _through_jpeg(_through_jpeg(wider, jpeg_quality)[inner, inner], jpeg_quality)
    return Image.fromarray(pixels)


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress an image (H, W, 3) and back, colours at half their size (4:2:0), as cameras' files have them."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2)
    return np.array(Image.open(file))


def as_png(image: Image.Image) -> bytes:
    """An image as a PNG without compression: images of one size are files of one size, whatever they show."""
    file = BytesIO()
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()
