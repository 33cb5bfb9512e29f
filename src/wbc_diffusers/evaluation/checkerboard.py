"""Checkerboard artefacts: the energy that images have at the frequencies of a generator's stride.

Transposed convolutions of stride 2 overlap unevenly, and stacked they leave patterns that repeat every 2, 4, 8, ...
pixels (Odena et al. 2016): lines of the spectrum at multiples of 1/2, 1/4, 1/8, ... cycles a pixel on both axes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERIODS = (2, 4, 8)
"""Pixels after which the patterns repeat."""

LUMA = np.array([0.299, 0.587, 0.114])

ROUNDING = 1 / 12
"""Power of rounding to whole levels; files of 8 bits hold nothing fainter."""

LEAST_IMAGES = 32

BATCH = 64


@dataclass(frozen=True)
class Excess:
    """How much stronger the lines of a pattern are than the spectrum beside them.

    Args:
        value: Power of the lines over that of their neighbours; 1 means no pattern.
        error: Its standard error, over images.
        levels: Root mean square of the pattern in grey levels of 255.
    """

    value: float
    error: float
    levels: float


@dataclass(frozen=True)
class Checkerboard:
    """What [`checkerboard`] measures.

    Args:
        by_period: The patterns that repeat after 2, 4 and 8 pixels, and after no fewer.
        total: The mean of their values, and the pattern of all of them together.
    """

    by_period: dict[int, Excess]
    total: Excess


def checkerboard(images: NDArray[np.uint8]) -> Checkerboard:
    """Measure the patterns that repeat every 2, 4 and 8 pixels, in the luminance of images.

    A line is compared with what the bins around it let expect. The window keeps a line to the bins next to it, out of
    that ring. Where real images come from JPEG files, their blocks and halved colours can be measured too.

    Args:
        images: uint8 (N, S, S, 3), 32 or more; S divisible by 8, 32 or more.

    Raises:
        ValueError: If the array has another shape or type.
    """
    _check(images)
    size = images.shape[1]
    lines, periods = _lines(size)
    rings = [_ring(line, size) for line in lines]
    wanted = np.concatenate([lines, *(bins for bins, _ in rings)])
    powers = np.concatenate([power[:, wanted[:, 0], wanted[:, 1]] for power in _powers(images)]) + ROUNDING

    # The mean of all images and, for the error (the jackknife's), of all but one.
    means = np.concatenate([powers.mean(axis=0)[None], (powers.sum(axis=0) - powers) / (len(powers) - 1)])
    line, beside = means[:, : len(lines)], np.log(means[:, len(lines) :]).reshape(len(means), len(lines), -1)
    background = np.exp(np.einsum("nlk,lk->nl", beside, np.stack([weights for _, weights in rings])))
    ratio = line / background
    values = np.stack([ratio[:, periods == period].mean(axis=1) for period in PERIODS], axis=1)

    # What a sine of amplitude 1 adds to its bin is the square of the window's sum, of a noise the sum of its squares.
    window = _window(size)
    energy = (line[0] - background[0]) * (window**2).sum() / window.sum() ** 2
    energies = [float(energy[periods == period].sum()) for period in PERIODS]

    found = [_excess(values[:, i], energies[i]) for i in range(len(PERIODS))]
    return Checkerboard(dict(zip(PERIODS, found, strict=True)), _excess(values.mean(axis=1), sum(energies)))


def mean_spectrum(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Power spectrum (S, S) of the luminance of images, the mean over them; zero frequency comes first.

    In squared grey levels: white noise of variance v has v everywhere. Raises what [`checkerboard`] does.
    """
    _check(images)
    return np.sum([power.sum(axis=0) for power in _powers(images)], axis=0) / len(images)


def _check(images: NDArray[np.uint8]) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} {images.shape}, but must be uint8 (N, S, S, 3)")
    height, width = images.shape[1:3]
    least = 4 * max(PERIODS)
    if height != width or height % max(PERIODS) or height < least:
        raise ValueError(
            f"images are {width} x {height} px, but patterns of {max(PERIODS)} px are measured in squares whose side "
            f"is a multiple of that, {least} or more: crop them"
        )
    if len(images) < LEAST_IMAGES:
        raise ValueError(f"{len(images)} images were given, but fewer than {LEAST_IMAGES} have no steady spectrum")


def _window(size: int) -> NDArray[np.float64]:
    """Hann's window (S, S): it takes the images' edges away, which else lie as a cross over the lines."""
    hann = np.hanning(size + 1)[:-1]
    return hann[:, None] * hann


def _powers(images: NDArray[np.uint8]) -> Iterator[NDArray[np.float64]]:
    """Power spectra (B, S, S) of the luminance, batch by batch."""
    window = _window(images.shape[1])
    for first in range(0, len(images), BATCH):
        grey = images[first : first + BATCH] @ LUMA
        grey -= (grey * window).sum(axis=(1, 2), keepdims=True) / window.sum()
        yield np.abs(np.fft.fft2(grey * window)) ** 2 / (window**2).sum()


def _lines(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bins (L, 2) of the lines of all periods, and the shortest period of each (L,)."""
    most = max(PERIODS)
    steps = np.stack(np.meshgrid(np.arange(most), np.arange(most), indexing="ij"), axis=-1).reshape(-1, 2)[1:]
    # A frequency of n / 8 repeats after 8, 4 or 2 pixels, as n shares 1, 2 or 4 with 8; so do two frequencies.
    return steps * (size // most), most // np.gcd(np.gcd(steps[:, 0], steps[:, 1]), most)


def _ring(line: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bins (16, 2) two beside a line, and the weights (16,) that make of their log powers what is expected at the line.

    That is a straight line fitted over the log of the distance from zero frequency, along which the spectrum of any
    image falls: at the highest frequencies all neighbours lie lower, and their mean would be too high.
    """
    ring = np.array([(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if max(abs(dy), abs(dx)) == 2])
    bins = (line + ring) % size
    away, own = (np.hypot(*np.minimum(place, size - place).T) for place in (bins, line))
    return bins, np.linalg.pinv(np.stack([np.ones(len(bins)), np.log(away / own)], axis=1))[0]


def _excess(values: NDArray[np.float64], energy: float) -> Excess:
    """The value of all images, its error from those of all but one, and the pattern's root mean square."""
    left_out = values[1:]
    error = np.sqrt((len(left_out) - 1) * left_out.var())
    return Excess(float(values[0]), float(error), float(np.sqrt(max(0.0, energy))))
