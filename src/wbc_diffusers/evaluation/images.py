"""Sets of images to compare, and what is done to every image of all of them before anything is measured.

Two sets that were cropped, shrunk or encoded otherwise differ by that alone (Parmar et al. 2022): all go the same way.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from wbc_diffusers.data.check import REASONS, CheckedImage, RefusedImageError, check_image, check_origin, read_file
from wbc_diffusers.data.images import centre_square, pixel_sha256
from wbc_diffusers.data.labels import check_conditions, keep_row, parse_where
from wbc_diffusers.data.sources import Item, Source, holds_tables, read_source, shown

LEAST_IMAGES = 20
"""Fewer images give no interval that means anything."""

LEAST_SIDE = 32

Pixels = NDArray[np.uint8]


class ImageSetError(ValueError):
    """A folder that cannot be evaluated; the message says what is wrong with it."""


@dataclass(frozen=True)
class Jpeg:
    """How a set of JPEG files was encoded: quantisation tables, and the subsampling of colours by Pillow's number."""

    tables: tuple[tuple[int, ...], ...]
    subsampling: int

    @property
    def coarseness(self) -> int:
        """Sum of the tables' steps: the larger, the more was thrown away."""
        return sum(map(sum, self.tables))


@dataclass(frozen=True)
class ImageSet:
    """The images of a folder, all of one size.

    Attributes:
        role: What they are here, such as "real".
        folder: Where they lie.
        paths: Files, in the order of their names.
        hashes: SHA-256 of each file.
        pixel_hashes: SHA-256 of the pixels of each, as a training manifest knows them.
        width: Pixels.
        height: Pixels.
        jpeg: The coarsest encoding of those that are JPEG files; None if there is none.
        other_files: Names of files beside them that are no images, by name and by content.
    """

    role: str
    folder: Path
    paths: tuple[Path, ...]
    hashes: tuple[str, ...]
    pixel_hashes: tuple[str, ...]
    width: int
    height: int
    jpeg: Jpeg | None
    other_files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def only(self, wanted: NDArray[np.bool_]) -> "ImageSet":
        """Those of the images that are wanted (N,)."""
        chosen = np.flatnonzero(wanted)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            hashes=tuple(self.hashes[i] for i in chosen),
            pixel_hashes=tuple(self.pixel_hashes[i] for i in chosen),
        )

    @property
    def repeated(self) -> int:
        """How many images have the same pixels as one before them."""
        return len(self) - len(set(self.pixel_hashes))


def read_set(folder: Path, role: str, *, where: Sequence[str] = (), generated: bool = False) -> ImageSet:
    """List and check the images of a folder: each is decoded once.

    Args:
        folder: A folder of images of one size, with or without metadata.csv; of a prepared one, a split.
        role: What they are here: it stands in the errors.
        where: Filters `column=value` of the metadata, as those of `wbc prepare`.
        generated: Whether images of a trained model are wanted; else they are refused.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a filter fits no image.
        ImageSetError: If it holds too few images, images of several sizes or splits, or images that are left out since
            they cannot be read, or nobody knows whether they belong to it.
    """
    if not folder.is_dir():
        told = "is a file, and no folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{shown(folder)} {told}: give the folder of the {role} images.")
    paths: list[Path] = []
    files: list[str] = []
    pixels: list[str] = []
    sizes: Counter[tuple[int, int]] = Counter()
    jpegs: list[Jpeg] = []
    other_files: list[str] = []
    source, items = _list(folder, role, where)
    # A row that stands there twice leaves no image out.
    refused = [f"{name}: {REASONS[reason]}" for name, reason, _ in source.left_out if reason != "repeated_row"]
    for item in items:
        try:
            data = read_file(item.path or "")
            checked = check_image(data, LEAST_SIDE, may_be_generated=generated)
            if not generated:
                check_origin(item.fields, checked)
        except RefusedImageError as error:
            if error.reason in ("not_an_image", "empty") and not _is_called_image(source, item):
                other_files.append(item.name)
            else:
                refused.append(f"{item.name}: {error}")
            continue
        paths.append(Path(item.path or ""))
        files.append(hashlib.sha256(data).hexdigest())
        pixels.append(pixel_sha256(checked.image))
        sizes[checked.image.size] += 1
        jpegs += _jpeg_of(data)
    if refused:
        raise ImageSetError(
            f"{len(refused)} of {len(refused) + len(paths)} {role} images in {shown(folder)} cannot be used, such as "
            f"{refused[0]}. Nothing is left out silently: remove or repair them, or prepare the folder with "
            "`wbc prepare`."
        )
    _check_sizes(sizes, folder, role, where)
    coarsest = max(jpegs, key=lambda jpeg: jpeg.coarseness, default=None)
    hashes = tuple(files), tuple(pixels)
    return ImageSet(role, folder, tuple(paths), *hashes, *next(iter(sizes)), coarsest, tuple(other_files))


def _check_sizes(sizes: Counter[tuple[int, int]], folder: Path, role: str, where: Sequence[str]) -> None:
    """Refuse too few images, or such of several sizes (width, height)."""
    count = sizes.total()
    if count < LEAST_IMAGES:
        chosen = f" with {', '.join(where)}" if where else ""
        raise ImageSetError(
            f"{shown(folder)} holds {count} {role} images{chosen}; at least {LEAST_IMAGES} are needed for a figure "
            "with an interval."
        )
    if len(sizes) > 1:
        told = ", ".join(f"{of_size} of {w} x {h}" for (w, h), of_size in sizes.most_common(4))
        raise ImageSetError(
            f"The {role} images in {shown(folder)} have {len(sizes)} sizes ({told} px), and would not be comparable: "
            "bring them to one size, as `wbc prepare` does."
        )


def _list(folder: Path, role: str, where: Sequence[str]) -> tuple[Source, list[Item]]:
    """List what a folder holds, and the files of it that are wanted."""
    if holds_tables(folder):
        raise ImageSetError(
            f"{shown(folder)} holds Parquet files: turn the {role} images into image files with `wbc prepare` first."
        )
    source = read_source(folder)
    splits = {item.split for item in source.items if _is_called_image(source, item)}
    if len(splits) > 1:
        named = sorted(split for split in splits if split)
        beside = ", and images beside them" if None in splits else ""
        raise ImageSetError(
            f"{shown(folder)} holds the splits {', '.join(named)}{beside}: give one of them, such as "
            f"{shown(folder / named[-1])}."
        )
    wheres = [parse_where(text) for text in where]
    check_conditions(wheres, [item.fields for item in source.items], f"{shown(folder)}, --where")
    return source, [item for item in source.items if keep_row(item.fields, wheres)]


def _is_called_image(source: Source, item: Item) -> bool:
    """Whether a row of the metadata, or the suffix of its name, says that a file is an image."""
    Image.init()  # Pillow knows the suffixes only once its readers are loaded
    return source.kind == "metadata" or Path(item.name).suffix.lower() in Image.registered_extensions()


def _jpeg_of(data: bytes) -> list[Jpeg]:
    if not data.startswith(b"\xff\xd8\xff"):
        return []
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))
        return [Jpeg(tables, JpegImagePlugin.get_sampling(image))]


@dataclass(frozen=True)
class Processing:
    """What is done to every image: a central square, shrunk to one size, and, if a set came as JPEG, encoded alike.

    Attributes:
        size: Pixels a side that are measured.
        share: Share of the shorter side that the square takes, over 0 and at most 1.
        jpeg: The encoding that all images go through, once shrunk; None for none.
    """

    size: int
    share: float = 1.0
    jpeg: Jpeg | None = None

    def __call__(self, image: Image.Image) -> Pixels:
        """Pixels (size, size, 3) of an RGB image."""
        square = centre_square(image, round(self.share * min(image.size)), self.size)
        if self.jpeg is not None:
            buffer = io.BytesIO()
            tables = [list(table) for table in self.jpeg.tables]
            square.save(buffer, format="JPEG", qtables=tables, subsampling=self.jpeg.subsampling)
            square = Image.open(buffer)
        return np.asarray(square)

    @property
    def key(self) -> str:
        """Text that differs wherever the pixels may."""
        return repr(self)

    def in_words(self, sets: Sequence[ImageSet]) -> list[str]:
        """What was done, in sentences for the report."""
        square = "the whole central square" if self.share == 1 else f"the central {self.share:.0%} of the square"
        each = "; ".join(f"{s.role}: {s.width} x {s.height} px" for s in sets)
        words = [f"Of every image {square} was taken and brought to {self.size} x {self.size} px by Lanczos ({each})."]
        if self.jpeg is not None:
            coded = " and ".join(s.role for s in sets if s.jpeg)
            words.append(
                f"The {coded} images are JPEG files, so all images were then encoded alike, with the coarsest of their "
                "quantisation tables: else the encoding would be measured."
            )
        return words


def same_processing(sets: Sequence[ImageSet], size: int | None = None, share: float = 1.0) -> Processing:
    """The processing that brings sets to the size of the smallest, or to a given one.

    Raises:
        ImageSetError: If an image would have to be enlarged, or the share is none.
    """
    if not 0 < share <= 1:
        raise ImageSetError(f"crop {share} is no share of an image: give a number over 0 and at most 1.")
    sides = {s.role: round(share * min(s.width, s.height)) for s in sets}
    size = min(sides.values()) if size is None else size
    for role, side in sides.items():
        if side < size:
            raise ImageSetError(
                f"The {role} images are {side} px after the crop, smaller than the size of {size}: lower it."
            )
    if size < LEAST_SIDE:
        raise ImageSetError(f"Cells of {size} px show too little to be judged: at least {LEAST_SIDE} px are needed.")
    jpegs = [s.jpeg for s in sets if s.jpeg]
    return Processing(size, share, max(jpegs, key=lambda jpeg: jpeg.coarseness, default=None))


def check_disjoint(first: ImageSet, second: ImageSet) -> None:
    """Refuse two sets that are the same, or share images.

    Raises:
        ImageSetError: With how many images they share.
    """
    shared = set(first.pixel_hashes) & set(second.pixel_hashes)
    if shared:
        whole = "are the same" if len(shared) == len(set(first.pixel_hashes)) else f"share {len(shared)} images"
        raise ImageSetError(
            f"The {first.role} images in {shown(first.folder)} and the {second.role} images in {shown(second.folder)} "
            f"{whole}: a comparison would flatter. Give sets that share none."
        )


def load(path: Path) -> CheckedImage:
    """Decode an image of a set again."""
    return check_image(read_file(path), LEAST_SIDE, may_be_generated=True)


def batches(paths: Sequence[Path], processing: Processing, size: int) -> Iterator[Pixels]:
    """Processed images (n, S, S, 3) of some files, at most `size` at once."""
    for first in range(0, len(paths), size):
        yield np.stack([processing(load(path).image) for path in paths[first : first + size]])
