"""Leaks: images of the evaluation that the model, or one that it was fine-tuned from, was trained on."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wbc_diffusers.data.duplicates import copied_among, oriented_hashes, thumbnail
from wbc_diffusers.data.manifest import MANIFEST_NAME, check_manifest
from wbc_diffusers.evaluation.images import ImageSet, load

NEAR_BITS = 4
"""Most bits of 64 in which the perceptual hash of a training image, or of its flips and turns, differs from a copy's.

Of 320 x 1,866 pairs of different PBC neutrophils at 64 px none was as near; docs/data.md has what copies differ by.
"""

_BLOCK = 4096


@dataclass(frozen=True)
class Leaks:
    """Real images that are, or look like, training images of a model.

    Attributes:
        exact: Files whose pixels are those of a training image.
        near: Further files that look like one: to its perceptual hash, or, where its file is there, by its thumbnail.
        known: Training images that are known, to the manifest and its parents or by their files.
        hashed: How many of them there is a perceptual hash of; near copies of others can't be found.
    """

    exact: tuple[Path, ...]
    near: tuple[Path, ...]
    known: int
    hashed: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """Images that leaked either way."""
        return self.exact + self.near

    @property
    def in_words(self) -> str:
        """How many of the real images, and what could not be looked for; no names, which may tell about patients."""
        told = f"{len(self.exact)} of the real images are among its training images ({self.known} different ones)"
        if self.hashed:
            told += f", and {len(self.near)} others look like one of them, or one turned or flipped"
        if self.hashed < self.known:
            told += f"; copies of {self.known - self.hashed} of them that are not exact could not be looked for"
        return f"{told}."


def read_manifest(model: Path) -> dict[str, Any]:
    """Read the training manifest of a pipeline folder, or a manifest's own file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no manifest, or one that knows no training image.
    """
    path = model / MANIFEST_NAME if model.is_dir() else model
    if not path.is_file():
        raise FileNotFoundError(
            f"{model} has no {MANIFEST_NAME}, so that nobody can say what it was trained on: give the folder of a "
            "model that `wbc train` wrote."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): take it again from where the model came from.") from error
    manifest = check_manifest(manifest, str(model))
    if not known_images(manifest):
        raise ValueError(
            f"{path} names no training image, so that nobody can say what the model was trained on: give the manifest "
            "that `wbc train` wrote."
        )
    return manifest


def find_leaks(images: ImageSet, manifest: Mapping[str, Any]) -> Leaks:
    """Find the images that a model was trained on, by the hashes in its manifest and in its parents'.

    Exact copies are found where the images are prepared as the training images were; near copies at any size.
    """
    return find_leaks_among(images.paths, images.pixel_hashes, lambda i: load(images.paths[i]).image, manifest)


def find_leaks_among(
    names: Sequence[Path],
    pixel_hashes: Sequence[str],
    image_of: Callable[[int], Image.Image],
    manifest: Mapping[str, Any],
) -> Leaks:
    """The same of images that are no set to evaluate: their names, the hashes of their pixels, and each by number."""
    known = known_images(manifest)
    hashes = np.array(sorted({int(each, 16) for each in _all(manifest, "image_perceptual_hash")}), np.uint64)
    exact, near = [], []
    for i, (path, pixel_hash) in enumerate(zip(names, pixel_hashes, strict=True)):
        if pixel_hash in known:
            exact.append(path)
        elif len(hashes) and _least_bits(oriented_hashes(thumbnail(image_of(i))), hashes) <= NEAR_BITS:
            near.append(path)
    return Leaks(tuple(exact), tuple(near), len(known), len(hashes))


def known_images(manifest: Mapping[str, Any]) -> set[str]:
    """The pixel hashes of all images that a model, or one that it was fine-tuned from, was trained on."""
    return set(_all(manifest, "image_pixel_sha256"))


def find_shared(images: ImageSet, training: ImageSet) -> Leaks:
    """Find the images that are training images, by the files of these: near copies as `find_duplicates` does."""
    known = set(training.pixel_hashes)
    exact = np.array([each in known for each in images.pixel_hashes])
    small, small_known = (np.stack([thumbnail(load(path).image) for path in each.paths]) for each in (images, training))
    near = copied_among(small, small_known) & ~exact
    places = (np.nonzero(each)[0] for each in (exact, near))
    found, alike = (tuple(images.paths[i] for i in each) for each in places)
    return Leaks(found, alike, len(known), len(known))


def _all(manifest: Mapping[str, Any], name: str) -> Iterator[str]:
    for each in (manifest, *manifest.get("parents", [])):
        yield from each.get(name, [])


def _least_bits(views: NDArray[np.uint64], known: NDArray[np.uint64]) -> int:
    return min(
        int(np.bitwise_count(views[:, None] ^ known[start : start + _BLOCK]).min())
        for start in range(0, len(known), _BLOCK)
    )
