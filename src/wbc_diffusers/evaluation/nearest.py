"""The training image nearest to each of many others, in pixels and in features.

Every image's answer is the same to the last digit whatever else is searched for with it and in blocks of whatever size:
pixels are compared in sums of whole numbers, which floating point holds exactly, and nearly equal distances of features
are computed anew one by one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

SIDE = 32
"""Pixels a side of the thumbnails that are compared; 40 found no more planted copies, in 1.6 times the time."""

SIZES = range(25, 36)
"""Sides to which an image is brought before it is looked for in a training image: crops of 0.78 to 1.09 of that."""

MARGIN = 0.1
"""Share of the width left out at each edge: by so much an image may be shifted."""

BAND = (0.5, 2.0)
"""Detail between blurs of these deviations counts, in pixels of the thumbnail: finer is noise, coarser is all alike."""

CANDIDATES = 8
"""Training images compared in full with each image; of 22,429, the originals of 7 in 1,800 copies were left out."""

PART = (0.88, 0.0, 0.0)
"""Width of the part of an image by which candidates are found, and how far down and right it lies, of the width."""

WINDOWS = [
    (width, step * down, step * right)
    for width, step in ((0.85, 0.05), (0.73, 0.065))
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
]
"""Parts of a training image that may look like that one, by width and place."""

COSINES = 8
PRECISION = 2048
"""Length of a descriptor: its square is below 2^24, so float32 holds every sum of products exactly."""

LEVELS = 16
"""Steps that a grey level is divided into when whole numbers are made of it."""

CANDIDATES_BLOCK = 4096
TRAINING_BLOCK = 1024
QUERY_BLOCK = 64
PAIR_BLOCK = 32
FEATURE_BLOCK = 512

Thumbnails = NDArray[np.uint8]
Features = NDArray[np.floating]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each of N images.

    Attributes:
        index: Its place among the training images, int64 (N,); of equally near ones the first.
        distance: float64 (N,), 0 for the same image: 1 less the correlation of pixels, or Euclidean of features.
    """

    index: NDArray[np.int64]
    distance: Numbers


def thumbnail(pixels: NDArray[np.uint8]) -> Thumbnails:
    """Shrink an image, uint8 (S, S, 3), to what is compared of it: grey, uint8 (32, 32).

    Raises:
        ValueError: If the array has another shape or type.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape[0] != pixels.shape[1] or pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, but must be uint8 (S, S, 3)")
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def nearest_by_pixels(queries: Thumbnails, training: Thumbnails) -> Nearest:
    """Find the training image that each image is most like in any of the eight flips and turns, shifted and cropped.

    Two images are as like as their fine structure correlates where they lie over each other best: brightness and
    contrast don't count, and colours only as grey levels. Crops keep 0.8 of the width or more; shifts are
    up to a tenth of the width. Candidates are found by the lowest cosines of parts of the images.

    Args:
        queries: uint8 (N, 32, 32), by `thumbnail`.
        training: uint8 (M, 32, 32).

    Returns:
        What is nearest; the distance is 1 less the correlation, 0 to 2.

    Raises:
        ValueError: If an array has another shape or type, or there is no training image.
    """
    for name, images in (("queries", queries), ("training", training)):
        if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or images.dtype != np.uint8:
            raise ValueError(f"{name} are {images.dtype} {images.shape}, but must be uint8 (N, {SIDE}, {SIDE})")
    _check_some(training)
    candidates = np.empty((len(queries), min(CANDIDATES, len(training))), np.int64)
    for part in _blocks(len(queries), CANDIDATES_BLOCK):
        candidates[part] = np.sort(_candidates(queries[part], training), axis=1)
    index, distance = np.empty(len(queries), np.int64), np.empty(len(queries))
    for part in _blocks(len(queries), PAIR_BLOCK):
        found = _correlations(queries[part], training[candidates[part]])
        best = found.argmax(axis=1)
        index[part] = np.take_along_axis(candidates[part], best[:, None], axis=1)[:, 0]
        distance[part] = np.maximum(1 - found.max(axis=1), 0)
    return Nearest(index, distance)


def nearest_by_features(queries: Features, training: Features, own: NDArray[np.int64] | None = None) -> Nearest:
    """Find the training image whose features are nearest to each image's.

    Args:
        queries: (N, D).
        training: (M, D).
        own: Place of each query among the training images (N,), where they are training images themselves: another
            one is wanted.

    Raises:
        ValueError: If the arrays don't fit together, hold what is no number, or there is no training image (no other).
    """
    if queries.ndim != 2 or training.ndim != 2 or queries.shape[1] != training.shape[1]:
        raise ValueError(f"features are {queries.shape} and {training.shape}, but must be (N, D) and (M, D)")
    _check_some(training, least=1 if own is None else 2)
    index, distance = np.full(len(queries), -1), np.full(len(queries), np.inf)
    for train in _blocks(len(training), TRAINING_BLOCK):
        known = training[train].astype(np.float64)
        lengths = (known**2).sum(axis=1)
        if not np.isfinite(lengths).all():
            raise ValueError("features of training images hold infinite values or NaN")
        for part in _blocks(len(queries), FEATURE_BLOCK):
            asked = queries[part].astype(np.float64)
            own_lengths = (asked**2).sum(axis=1)
            if not np.isfinite(own_lengths).all():
                raise ValueError("features of images hold infinite values or NaN")
            squares = own_lengths[:, None] + lengths - 2 * (asked @ known.T)
            if own is not None:
                inside = np.nonzero((own[part] >= train.start) & (own[part] < train.stop))[0]
                squares[inside, own[part][inside] - train.start] = np.inf
            _keep_nearest(index[part], distance[part], asked, known, squares, own_lengths, train.start)
    return Nearest(index, distance)


def _keep_nearest(
    index: NDArray[np.int64],
    distance: Numbers,
    asked: Numbers,
    known: Numbers,
    squares: Numbers,
    lengths: Numbers,
    start: int,
) -> None:
    """Put in what is nearer among the training images from `start` on, by squared distances that are nearly right."""
    doubt = 1e-11 * (lengths + (known**2).sum(axis=1).max())
    least = squares.min(axis=1)
    for row in np.nonzero(least <= np.minimum(distance**2 + doubt, np.finfo(np.float64).max))[0]:
        near = np.nonzero(squares[row] <= least[row] + doubt[row])[0]
        exact = np.sqrt(((known[near] - asked[row]) ** 2).sum(axis=1))
        best = int(exact.argmin())
        if exact[best] < distance[row]:
            index[row], distance[row] = start + near[best], exact[best]


# -- candidates ------------------------------------------------------------------------------------------------------


def _candidates(queries: Thumbnails, training: Thumbnails) -> NDArray[np.int64]:
    """The training images (N, K) that look most like each image by their lowest cosines, the best first."""
    count = min(CANDIDATES, len(training))
    asked = np.stack([_descriptors(view, *PART) for view in _turned(queries)], axis=1)
    scores = np.full((len(queries), count), -np.inf, np.float32)
    index = np.zeros((len(queries), count), np.int64)
    for train in _blocks(len(training), TRAINING_BLOCK):
        images = training[train]
        known = np.concatenate([_descriptors(images, *window) for window in WINDOWS]).T
        for part in _blocks(len(queries), QUERY_BLOCK):
            products = asked[part].reshape(-1, len(known)) @ known
            best = products.reshape(part.stop - part.start, -1, len(images)).max(axis=1)
            # Sorted stably, of equal scores the first image's comes first.
            merged = np.concatenate([scores[part], best], axis=1)
            places = np.broadcast_to(np.arange(train.start, train.stop), best.shape)
            order = np.argsort(-merged, axis=1, kind="stable")[:, :count]
            scores[part] = np.take_along_axis(merged, order, axis=1)
            index[part] = np.take_along_axis(np.concatenate([index[part], places], axis=1), order, axis=1)
    return index


def _descriptors(images: Thumbnails, width: float, down: float, right: float) -> NDArray[np.float32]:
    """Describe a part of each image by its lowest cosines without the mean, whole numbers in float32 (N, 63).

    Each vector has length 2048. Frequencies are weighted about as the spectra of images fall, so that all count.
    """
    across, along = (_cosines((1 - width) / 2 + away, width) for away in (down, right))
    found = (across @ images.astype(np.float64) @ along.T).reshape(len(images), COSINES**2)[:, 1:]
    found *= np.hypot(*np.mgrid[:COSINES, :COSINES]).ravel()[1:] ** 0.75
    length = np.sqrt((found**2).sum(axis=1, keepdims=True))
    return np.rint(found * (PRECISION / np.maximum(length, 1e-9))).astype(np.float32)


def _cosines(start: float, width: float) -> Numbers:
    """The lowest cosines over a part of the width, sampled at the pixels, each weighted by what of it lies inside."""
    edges = np.clip(np.arange(SIDE + 1) / SIDE, start, start + width)
    centres = (edges[1:] + edges[:-1]) / 2
    return np.diff(edges) * np.cos(np.pi * np.arange(COSINES)[:, None] * (centres - start) / width)


# -- comparing in full -----------------------------------------------------------------------------------------------


def _correlations(queries: Thumbnails, candidates: Thumbnails) -> Numbers:
    """The best correlation (N, K) of each of N images with each of its K candidates (N, K, 32, 32)."""
    count, own = candidates.shape[:2]
    detail = _detail(candidates.reshape(-1, SIDE, SIDE))
    spectra, squares = fft.rfft2(detail), fft.rfft2(detail**2)
    best = np.full((count, own), -1.0)
    for size in SIZES:
        cut = round(MARGIN * size)
        small = [np.asarray(Image.fromarray(query).resize((size, size), Image.Resampling.BICUBIC)) for query in queries]
        middle = _detail(np.stack(small))[:, cut : size - cut, cut : size - cut]
        pixels, room = middle.shape[1] ** 2, SIDE - middle.shape[1] + 1
        everywhere = fft.rfft2(np.ones(middle.shape[1:]), s=(SIDE, SIDE)).conj()
        sums, energies = (_whole(spectrum * everywhere, room) for spectrum in (spectra, squares))
        variances = (pixels * energies - sums**2).reshape(count, own, room, room)
        sums = sums.reshape(variances.shape)
        total = middle.sum(axis=(1, 2))[:, None, None, None]
        variance = pixels * (middle**2).sum(axis=(1, 2))[:, None, None, None] - total**2
        below = np.sqrt(np.maximum(variances, 1) * np.maximum(variance, 1))
        for view in _turned(middle):
            asked = fft.rfft2(view, s=(SIDE, SIDE)).conj()[:, None]
            products = _whole(spectra.reshape(count, own, SIDE, SIDE // 2 + 1) * asked, room)
            np.maximum(best, ((pixels * products - total * sums) / below).max(axis=(2, 3)), out=best)
    return best


def _detail(images: Thumbnails) -> Numbers:
    """What of images (N, H, W) is neither too fine nor too coarse, in whole numbers."""
    fine, coarse = (ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma)) for sigma in BAND)
    return np.rint(LEVELS * (fine - coarse))


def _whole(spectra: NDArray[np.complex128], room: int) -> Numbers:
    """Sums of whole numbers from their spectra, for the places where a smaller image lies within."""
    rows = fft.ifft(spectra, axis=-2)[..., :room, :]
    return np.rint(fft.irfft(rows, n=SIDE, axis=-1)[..., :room])


def _turned(images: NDArray) -> Iterator[NDArray]:
    """The eight flips and quarter turns of images (N, S, S)."""
    for turn in range(4):
        turned = np.rot90(images, turn, axes=(1, 2))
        yield turned
        yield turned[:, :, ::-1]


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _check_some(training: NDArray, least: int = 1) -> None:
    if len(training) < least:
        raise ValueError(f"{len(training)} training images were given, but {least} or more are needed")
