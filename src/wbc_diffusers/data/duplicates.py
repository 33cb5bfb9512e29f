"""Find images that are copies of each other: the same pixels, or nearly so, in any of the eight flips and turns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_DISTANCE = 12
"""Most bits of 64 in which the perceptual hashes of near copies differ; measured in docs/data.md."""
MEAN_DIFFERENCE = 9.0
"""Largest difference of near copies: of 4,873 different cells, no two with hashes as near came below 13.9 levels."""
THUMBNAIL = 32

_BLOCK_ELEMENTS = 8_000_000
_BATCH = 10_000


@dataclass(frozen=True)
class Pair:
    """Two images, by their positions (first < second), that are copies: `kind` is exact or near."""

    first: int
    second: int
    kind: str
    hash_distance: int
    """Bits that differ between the perceptual hashes, of 64, in the best of the eight flips and turns."""
    mean_difference: float
    """Mean absolute difference of the grey thumbnails, brought to one brightness and contrast, in levels of 255."""


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Shrink an image to 32 x 32 grey pixels, uint8 (32, 32), as `imagehash.phash` does."""
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS))


def perceptual_hash(image: Image.Image) -> str:
    """Give the 64-bit DCT hash of an image as 16 hexadecimal digits (`imagehash.phash`)."""
    import imagehash

    return str(imagehash.phash(image))


def oriented_hashes(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Give the hashes of the eight flips and turns of a (32, 32) thumbnail, uint64 (8,); the first is its own."""
    return _hashes_of(orientations(grey))


def _hashes_of(thumbnails: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint64]:
    import imagehash

    bits = [imagehash.phash(Image.fromarray(grey)).hash.ravel() for grey in thumbnails]
    return np.packbits(np.asarray(bits, dtype=np.uint8), axis=1).view(">u8").ravel().astype(np.uint64)


def orientations(grey: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Give the eight flips and quarter turns of a square array, itself first."""
    turns = [np.rot90(grey, k) for k in range(4)]
    return [np.ascontiguousarray(view) for view in turns + [np.fliplr(turn) for turn in turns]]


def find_duplicates(
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    digests: Sequence[str],
    hash_distance: int = HASH_DISTANCE,
    mean_difference: float = MEAN_DIFFERENCE,
) -> list[Pair]:
    """Find all pairs of images that are copies of each other.

    A pair is exact when the digests of its pixels are equal. It is near when the perceptual hashes differ by few bits
    and the thumbnails then differ by little: hashes alone confuse different cells, which look much alike.

    Args:
        hashes: uint64 (N, 8) from `oriented_hashes`.
        thumbnails: uint8 (N, 32, 32).
        digests: SHA-256 of each image's pixels.
        hash_distance: Most bits of 64 that may differ.
        mean_difference: Largest mean absolute difference of the thumbnails, in levels of 255.

    Returns:
        The pairs, ordered by position.
    """
    found = candidates(hashes, hash_distance)
    pairs = {}
    for start in range(0, len(found), _BATCH):
        part = found[start : start + _BATCH]
        differences, distances = compare(part, hashes, thumbnails, hash_distance)
        for place in np.nonzero(differences <= mean_difference)[0]:
            i, j = (int(index) for index in part[place])
            pairs[i, j] = Pair(i, j, "near", int(distances[place]), round(float(differences[place]), 2))
    places: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        for earlier in places.setdefault(digest, []):
            pairs[earlier, index] = Pair(earlier, index, "exact", 0, 0.0)
        places[digest].append(index)
    return [pairs[key] for key in sorted(pairs)]


def copied_among(
    images: NDArray[np.uint8],
    known: NDArray[np.uint8],
    hash_distance: int = HASH_DISTANCE,
    mean_difference: float = MEAN_DIFFERENCE,
) -> NDArray[np.bool_]:
    """Say of each image whether it is a copy of a known one, exact or near, as `find_duplicates` would.

    Args:
        images: Thumbnails, uint8 (N, 32, 32).
        known: Thumbnails of the known images, uint8 (M, 32, 32).
        hash_distance: Most bits of 64 that may differ.
        mean_difference: Largest mean absolute difference of the thumbnails, in levels of 255.

    Returns:
        bool (N,).
    """
    thumbnails = np.concatenate([images, known])
    # Of two images it is enough to turn one.
    hashes = np.concatenate(
        [np.stack([oriented_hashes(each) for each in images]), np.repeat(_hashes_of(known)[:, None], 8, axis=1)]
    )
    copied = np.zeros(len(images), bool)
    for place in range(len(images)):
        bits = np.bitwise_count(hashes[place, :, None] ^ hashes[None, len(images) :, 0]).min(axis=0)
        near = np.nonzero(bits <= hash_distance)[0] + len(images)
        pairs = np.stack([near, np.full_like(near, place)], axis=1)
        copied[place] = bool((compare(pairs, hashes, thumbnails, hash_distance)[0] <= mean_difference).any())
    return copied


def candidates(hashes: NDArray[np.uint64], hash_distance: int) -> NDArray[np.int64]:
    """Give the pairs (M, 2), first < second, whose hashes (N, 8) differ by few bits in one of the flips and turns."""
    count = len(hashes)
    rows = max(1, _BLOCK_ELEMENTS // max(count, 1))
    found = []
    for start in range(0, count, rows):
        own = hashes[start : start + rows, 0, None]
        least = np.full((len(own), count - start), 64, np.uint8)
        for k in range(hashes.shape[1]):
            np.minimum(least, np.bitwise_count(own ^ hashes[None, start:, k]), out=least)
        first, second = np.nonzero(least <= hash_distance)
        keep = first < second
        found.append(np.stack([first[keep], second[keep]], axis=1) + start)
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def compare(
    pairs: NDArray[np.int64], hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8], hash_distance: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Compare pairs (M, 2) in the flips and turns of the second whose hash is near the first one's.

    Returns:
        The least mean difference of each pair and the hash distance in that flip or turn, both (M,).
    """
    least = np.full(len(pairs), np.inf, np.float32)
    bits = np.full(len(pairs), 64, np.uint8)
    for k in range(hashes.shape[1]):
        distances = np.bitwise_count(hashes[pairs[:, 0], 0] ^ hashes[pairs[:, 1], k])
        near = np.nonzero(distances <= hash_distance)[0]
        first = thumbnails[pairs[near, 0]].astype(np.float32)
        second = _oriented(thumbnails[pairs[near, 1]], k).astype(np.float32)
        difference = np.abs(first - _matched(second, first)).mean(axis=(1, 2))
        better = difference < least[near]
        least[near[better]] = difference[better]
        bits[near[better]] = distances[near[better]]
    return least, bits


def clusters(pairs: Sequence[Pair], count: int) -> list[list[int]]:
    """Join pairs into sets of copies of each other: lists of positions, each ascending, of two members or more."""
    parent = list(range(count))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for pair in pairs:
        first, second = sorted((root(pair.first), root(pair.second)))
        parent[second] = first
    sets: dict[int, list[int]] = {}
    for place in sorted({place for pair in pairs for place in (pair.first, pair.second)}):
        sets.setdefault(root(place), []).append(place)
    return list(sets.values())


def _oriented(stack: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Bring a stack (M, H, W) into flip or turn number k of `orientations`."""
    turned = np.rot90(stack, k % 4, axes=(1, 2))
    return turned if k < 4 else turned[:, :, ::-1]


def _matched(stack: NDArray[np.float32], like: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give each image of a stack (M, H, W) the mean and the standard deviation of its counterpart."""
    axes = (1, 2)
    gain = like.std(axes, keepdims=True) / np.maximum(stack.std(axes, keepdims=True), 1e-3)
    return (stack - stack.mean(axes, keepdims=True)) * gain + like.mean(axes, keepdims=True)
