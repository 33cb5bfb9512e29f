"""What is done to one image: measure it in the first pass, write its crop in the second."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wbc_diffusers.data.background import Colour, estimate_background, scale_to_background
from wbc_diffusers.data.check import CheckedImage, RefusedImageError, check_image, check_origin
from wbc_diffusers.data.duplicates import oriented_hashes, perceptual_hash, thumbnail
from wbc_diffusers.data.images import centre_square, pixel_sha256, write_png
from wbc_diffusers.data.labels import Label
from wbc_diffusers.data.sources import Item, read_bytes


@dataclass(frozen=True)
class Geometry:
    """A square of `crop` pixels from the centre, shrunk to `size` pixels."""

    crop: int
    size: int

    def __post_init__(self) -> None:
        if self.crop < 1 or not 1 <= self.size <= self.crop:
            raise ValueError(
                f"crop {self.crop} and size {self.size}: wanted 1 <= size <= crop; enlarging would invent detail, "
                "so take a larger crop"
            )


@dataclass(frozen=True)
class Facts:
    """Measures of one image, or the `reason` (a key of `check.REASONS`) and `detail` for leaving it out."""

    reason: str = ""
    detail: str = ""
    source_sha256: str = ""
    pixel_sha256: str = ""
    """Of the cropped and shrunk pixels before any change of the background."""
    turned: bool = False
    background: Colour | None = None
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(8, np.uint64))
    thumbnail: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((32, 32), np.uint8))


@dataclass(frozen=True)
class Job:
    """One image to measure or, with `facts` and `path`, to write."""

    item: Item
    geometry: Geometry
    background: bool = False
    """Whether the slide background has to be estimated."""
    facts: Facts | None = None
    target: Colour | None = None
    path: str = ""


@dataclass
class Cell:
    """One image on its way: its place in the source, what was measured, and what was decided."""

    item: Item
    facts: Facts
    label: Label
    group: str = ""
    split: str = "train"


def measure(job: Job, tables: Mapping[str, Any], image_column: str) -> Facts:
    """Decode one image, check it, and measure what duplicates, split and background need."""
    try:
        data = read_bytes(job.item, tables, image_column)
        checked = check_image(data, job.geometry.crop)
        check_origin(job.item.fields, checked)
        background = estimate_background(np.asarray(checked.image)) if job.background else None
        if job.background and background is None:
            raise RefusedImageError("no_background")
    except RefusedImageError as error:
        return Facts(error.reason, error.detail)
    image = centre_square(checked.image, job.geometry.crop, job.geometry.size)
    grey = thumbnail(image)
    return Facts(
        source_sha256=hashlib.sha256(data).hexdigest(),
        pixel_sha256=pixel_sha256(image),
        turned=checked.turned,
        background=background,
        hashes=oriented_hashes(grey),
        thumbnail=grey,
    )


def write_crop(job: Job, tables: Mapping[str, Any], image_column: str) -> tuple[str, str]:
    """Write one image's crop as PNG; returns the SHA-256 of its pixels and its perceptual hash."""
    facts = job.facts
    assert facts is not None
    data = read_bytes(job.item, tables, image_column)
    if hashlib.sha256(data).hexdigest() != facts.source_sha256:
        raise ValueError(f"{job.item.name} changed while it was prepared; run again when nothing writes to the source")
    checked = check_image(data, job.geometry.crop)
    image = centre_square(_at_background(checked, job, facts), job.geometry.crop, job.geometry.size)
    write_png(Path(job.path), image, checked.origin.source_type, checked.origin.creator or "unknown")
    return pixel_sha256(image), perceptual_hash(image)


def _at_background(checked: CheckedImage, job: Job, facts: Facts) -> Image.Image:
    if job.target is None or facts.background is None:
        return checked.image
    return Image.fromarray(scale_to_background(np.asarray(checked.image), facts.background, job.target))
