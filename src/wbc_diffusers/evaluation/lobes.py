"""Counting the lobes of a neutrophil's nucleus by classical image analysis.

Everything is measured at a working width of 192 px, in which a nucleus is some 80 px across, so that one set of
constants serves images of 48 px and more. They were chosen on phantom cells; `docs/phantom.md` has the accuracy.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

WORK = 192
"""Pixels a side at which nuclei are segmented and measured."""

LEAST_CONTRAST = 25
"""Levels of 255 between dark and bright that an image with a nucleus has at the least."""

DARKEST_SHARE = 0.6
"""Share of the bright red that the dark parts pass at the most; of PBC neutrophils, none passed more than 0.49."""

DARK_SHARE = 0.38
"""Where the threshold lies between the nucleus's and the surroundings' red, 0 to 1."""

SMALLEST_PIECE = 90
"""Dark pieces of fewer pixels are granules or platelets, not nucleus."""

REACH = 68
"""Pieces whose middle is farther than this from the image's are not the central cell's."""

NECK = 0.56
"""Two lobes are one if the half width of the neck between them exceeds this share of the smaller one's."""

SMALLEST_LOBE = 0.035
"""Parts below this share of the nucleus's area are not counted as lobes."""


_AXIS = np.arange(WORK) - (WORK - 1) / 2
_MIDDLE = np.hypot(_AXIS[:, None], _AXIS) < 72


def _check(pixels: NDArray[np.uint8]) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, but must be uint8 (H, W, 3)")
    if min(pixels.shape[:2]) < 32:
        raise ValueError(f"the image is {pixels.shape[1]} x {pixels.shape[0]} px, but lobes need at least 32 a side")


def nucleus_at_work(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Segment the nucleus at the working size: bool (192, 192).

    Red is the channel: it passes through red cells, cytoplasm and background, but not through chromatin.
    """
    _check(pixels)
    red = Image.fromarray(np.ascontiguousarray(pixels[..., 0])).resize((WORK, WORK), Image.Resampling.BICUBIC)
    smooth = ndimage.gaussian_filter(np.asarray(red, dtype=np.float32), 0.8)
    values = np.sort(smooth[_MIDDLE])
    low, high = values[len(values) // 30], values[-len(values) // 10]
    if high - low < LEAST_CONTRAST or low > DARKEST_SHARE * high:
        return np.zeros((WORK, WORK), bool)
    start = low + 0.45 * (high - low)
    dark, bright = np.median(values[values < start]), np.median(values[values >= start])
    level = dark + DARK_SHARE * (bright - dark)
    mask = smooth < level
    # Granules that touch the nucleus would make bumps on it; filaments are wide enough to stay.
    mask = ndimage.binary_opening(mask, ndimage.generate_binary_structure(2, 1))
    holes = label(~mask, connectivity=1)
    small = np.bincount(holes.ravel()) < SMALLEST_PIECE
    small[0] = False
    return _central_pieces(mask | small[holes])


def _central_pieces(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the pieces large enough and near enough to the centre to be the central cell's nucleus."""
    pieces = label(mask, connectivity=2)
    count = int(pieces.max())
    if count == 0:
        return mask
    index = np.arange(1, count + 1)
    area = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    middle = np.array(ndimage.center_of_mass(mask, pieces, index))
    far = np.hypot(*(middle - (WORK - 1) / 2).T)
    keep = (area >= SMALLEST_PIECE) & (far <= REACH)
    return np.concatenate([[False], keep])[pieces]


def segment_nucleus(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find the nucleus of the white cell in the image's centre.

    Args:
        pixels: uint8 (H, W, 3), 32 px or more a side; the cell takes half of the width or more, as in the phantom.

    Returns:
        bool (H, W); all False if nothing dark lies near the centre.

    Raises:
        ValueError: If the array has another shape or type.
    """
    mask = Image.fromarray(nucleus_at_work(pixels).astype(np.float32))
    height, width = pixels.shape[:2]
    return np.asarray(mask.resize((width, height), Image.Resampling.BOX)) > 0.5


def count_lobes(pixels: NDArray[np.uint8]) -> int:
    """Count the lobes of the central nucleus: 1 is a band, 0 that no nucleus was found.

    The nucleus is split at its necks by a watershed of the distance to its edge; parts joined by a wide neck, and parts
    too small to be lobes, are put back together.

    Args:
        pixels: uint8 (H, W, 3), 48 to 192 px a side.

    Raises:
        ValueError: If the array has another shape or type.
    """
    return lobes_of(nucleus_at_work(pixels))


def lobes_of(mask: NDArray[np.bool_]) -> int:
    """Count the lobes of a nucleus that was segmented at the working size."""
    if not mask.any():
        return 0
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 0.7) * mask
    parts = watershed(-depth, label(h_maxima(depth, 0.6)), mask=mask, connectivity=2)
    return len(_merge(parts, depth))


def _necks(parts: NDArray[np.int32], depth: NDArray[np.floating]) -> dict[tuple[int, int], float]:
    """Half width of the neck between each two parts that touch."""
    necks: dict[tuple[int, int], float] = {}
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, WORK - dy), slice(max(0, -dx), WORK - max(0, dx)))
        there = (slice(dy, WORK), slice(max(0, dx), WORK - max(0, -dx)))
        a, b = parts[here], parts[there]
        touching = (a != b) & (a > 0) & (b > 0)
        width = np.minimum(depth[here], depth[there])[touching]
        for i, j, w in zip(a[touching].tolist(), b[touching].tolist(), width.tolist(), strict=True):
            pair = (min(i, j), max(i, j))
            necks[pair] = max(necks.get(pair, 0.0), w)
    return necks


def _merge(parts: NDArray[np.int32], depth: NDArray[np.floating]) -> list[int]:
    """Merge parts over their widest relative neck first, and give the areas of those that remain as lobes."""
    count = int(parts.max())
    area = dict(enumerate(np.bincount(parts.ravel(), minlength=count + 1).tolist()))
    del area[0]
    peak = {i: float(p) for i, p in enumerate(ndimage.maximum(depth, parts, np.arange(1, count + 1)), start=1)}
    necks = _necks(parts, depth)
    least = SMALLEST_LOBE * sum(area.values())

    def strength(pair: tuple[int, int]) -> float:
        tiny = min(area[i] for i in pair) < least
        return necks[pair] / min(peak[i] for i in pair) + (1.0 if tiny else 0.0)

    while necks:
        keep, gone = pair = max(necks, key=strength)
        if strength(pair) < NECK:
            break
        del necks[pair]
        area[keep] += area.pop(gone)
        peak[keep] = max(peak[keep], peak.pop(gone))
        for i, j in [p for p in necks if gone in p]:
            other = j if i == gone else i
            merged = (min(keep, other), max(keep, other))
            necks[merged] = max(necks.get(merged, 0.0), necks.pop((i, j)))
    return [a for a in area.values() if a >= least]
