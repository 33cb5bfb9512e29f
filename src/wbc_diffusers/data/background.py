"""The slide background of a cell image: estimate its colour, and bring an image to another one."""

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]

DARKEST = 100
"""A background darker than this in green is none: brightfield slides are bright where nothing absorbs."""
DEPTH = 40
"""How far below the brightest green a background pixel can lie; red cells lie lower (see docs/data.md)."""


def estimate_background(pixels: NDArray[np.uint8]) -> Colour | None:
    """Estimate the colour of the empty slide in an image as the mode of its bright pixels.

    Bright is judged in green, which haemoglobin and both dyes absorb.

    Args:
        pixels: uint8 (H, W, 3).

    Returns:
        Red, green and blue in 0..255, or None where no bright background is seen.
    """
    flat = pixels.reshape(-1, 3)
    green = flat[:, 1]
    top = float(np.percentile(green, 99.5))
    bright = flat[green >= top - DEPTH]
    peak = _mode(bright[:, 1])
    if peak < DARKEST:
        return None
    # Red and blue are those of the pixels at the peak, so that the three belong to one place.
    near = bright[np.abs(bright[:, 1].astype(np.float32) - peak) <= 3]
    return float(_mode(near[:, 0])), float(peak), float(_mode(near[:, 2]))


def scale_to_background(pixels: NDArray[np.uint8], background: Colour, target: Colour) -> NDArray[np.uint8]:
    """Scale each channel of uint8 pixels (H, W, 3) so that the colour `background` becomes `target`, clipped to 255."""
    gain = np.asarray(target, np.float32) / np.asarray(background, np.float32)
    return np.rint(np.clip(pixels.astype(np.float32) * gain, 0, 255)).astype(np.uint8)


def _mode(values: NDArray[np.uint8]) -> float:
    """Most frequent value after smoothing over five levels; JPEG and stretching leave gaps in histograms."""
    counts = np.bincount(values, minlength=256).astype(np.float64)
    smooth = np.convolve(counts, np.ones(5) / 5, mode="same")
    peak = int(np.argmax(smooth))
    window = slice(max(peak - 2, 0), peak + 3)
    levels = np.arange(256)[window]
    return float((levels * counts[window]).sum() / counts[window].sum())
