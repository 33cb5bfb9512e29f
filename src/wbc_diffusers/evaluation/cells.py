"""What can be measured of the white cell in the middle of one image: its colours, sharpness, nucleus and granules.

Regions are segmented at a working width of 96 px and granules at 64, so that images of all sizes are measured alike.
`docs/evaluating.md` has the accuracy on phantom cells; `benchmarks/cells.py` measures it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.morphology import disk

from wbc_diffusers.data.background import estimate_background
from wbc_diffusers.evaluation import lobes

WIDTH = 96
GRANULE_WIDTH = 64

FAINTEST = 0.05
"""Optical density in green above which a pixel is no empty slide."""
FAINT = 0.4
"""The same as a share of the cytoplasm's."""

RED_CELL = 0.35
"""Share of its density in green that blue has beyond haemoglobin's: red cells absorb blue, cytoplasm green."""
APART = 0.04
"""Red cells are told from cytoplasm where they differ by so much in that."""

LEAST_CYTOPLASM = 50
"""Pixels of cytoplasm below which its stain is not measured."""

GRAIN = (0.6, 2.0)
"""Deviations, in pixels, of the blurs between which granules are seen."""

BLUISH = (0.8, 0.1, 0.03)
"""Cytoplasm is grey-blue where red's density exceeds this share of green's by so much more than in the cell's middling
cytoplasm, and by so much at all: granules, which absorb green, and pale spots are not."""

CHANNELS = ("red", "green", "blue")
REGIONS = ("background", "cytoplasm", "nucleus")
BANDS = 4
JPEG_BLOCK = 8
"""Pixels a side of the squares that JPEG encodes."""
_LUMA = np.array([0.299, 0.587, 0.114])

MEASURES = (
    "contrast",
    *(f"detail_{band}" for band in range(1, BANDS + 1)),
    "blocks",
    *(f"{channel}_{figure}" for channel in CHANNELS for figure in ("mean", "spread")),
    *(f"{region}_{c}_{figure}" for region in REGIONS for c in CHANNELS for figure in ("mean", "spread")),
    "nucleus_area",
    "cell_area",
    "lobes",
    "granularity",
    "bluish_area",
)
"""Names of what `measure_cell` gives, in its order."""

HYPERSEGMENTED = (5, 6)
"""Lobes from which a nucleus is hypersegmented slightly and severely, as the phantom defines it."""
HYPERGRANULATED = (0.067, 0.125)
"""Granularity from which a cell is hypergranulated slightly and severely; chosen on phantom cells."""
WITH_BODIES = (0.0004, 0.0087)
"""Bluish area from which a cell has slight and severe Döhle bodies; chosen on phantom cells."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Regions:
    """Where the nucleus, the cytoplasm and the empty slide are: bool (96, 96) each, apart from each other.

    Red cells, platelets and other white cells are in none of them.
    """

    nucleus: Mask
    cytoplasm: Mask
    background: Mask


def segment_cell(pixels: Pixels) -> Regions:
    """Segment the cell in the middle of an image.

    Args:
        pixels: uint8 (S, S, 3), 32 px or more a side; the cell takes half of the width or more.

    Returns:
        Its regions; without a nucleus, none of the cell.

    Raises:
        ValueError: If the array has another shape or type.
    """
    return _regions(pixels, lobes.nucleus_at_work(pixels))


def _regions(pixels: Pixels, nucleus_at_work: Mask) -> Regions:
    nucleus = nucleus_at_work.reshape(WIDTH, 2, WIDTH, 2).mean(axis=(1, 3)) >= 0.5
    density = _density(ndimage.gaussian_filter(_resized(pixels, WIDTH), (1, 1, 0)), pixels)
    green, haemoglobin = density[..., 1], density[..., 2] - RED_CELL * density[..., 1]
    if not nucleus.any():
        return Regions(nucleus, nucleus, ~ndimage.binary_dilation(green > FAINTEST, disk(2)))
    away = ndimage.distance_transform_edt(~nucleus)
    beside = (away > 2) & (away < 5)  # cytoplasm, wherever the cell ends
    stained = green > max(FAINTEST, FAINT * float(np.median(green[beside])))
    red_cells = _red_cells(haemoglobin, nucleus, stained & (away > 12), float(np.median(haemoglobin[beside])))
    # Opened, so that what touches the cell comes off; padded, since a cell may leave the image.
    cell = _padded(ndimage.binary_opening, (stained & ~red_cells) | nucleus, 3) | nucleus
    parts, _ = ndimage.label(cell)
    cell = np.isin(parts, np.unique(parts[nucleus]))
    cell = ndimage.binary_fill_holes(_padded(ndimage.binary_closing, cell, 4))
    empty = ~ndimage.binary_dilation(stained | red_cells | cell, disk(3))
    return Regions(nucleus, cell & ~nucleus, empty)


def _red_cells(haemoglobin: NDArray[np.floating], nucleus: Mask, outside: Mask, cytoplasm: float) -> Mask:
    """Where more blue is absorbed than half way from cytoplasm to red cells, if there are any outside."""
    of_red_cells = float(np.percentile(haemoglobin[outside], 90)) if outside.sum() > 30 else cytoplasm
    if of_red_cells - cytoplasm < APART:
        return np.zeros_like(nucleus)
    return ndimage.binary_opening((haemoglobin > (cytoplasm + of_red_cells) / 2) & ~nucleus, disk(2))


def _padded(change: "ndimage.binary_opening", mask: Mask, radius: int) -> Mask:
    pad = radius + 2
    return change(np.pad(mask, pad, mode="edge"), disk(radius))[pad:-pad, pad:-pad]


def _resized(pixels: Pixels, width: int) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, width), Image.Resampling.BICUBIC), dtype=np.float32)


def _density(image: NDArray[np.float32], pixels: Pixels) -> NDArray[np.float32]:
    """Optical density against the empty slide; where none is seen, against the brightest tenth."""
    slide = estimate_background(pixels)
    light = np.asarray(slide if slide is not None else np.percentile(pixels.reshape(-1, 3), 90, axis=0), np.float32)
    return -np.log(np.maximum(image, 1) / np.maximum(light, 1))


def measure_cell(pixels: Pixels) -> NDArray[np.float32]:
    """Measure the cell in the middle of an image.

    Args:
        pixels: uint8 (S, S, 3), 32 px or more a side.

    Returns:
        float32, in the order of `MEASURES`: contrast is the standard deviation of the grey levels; detail_1 to detail_4
        the energy in four bands of the spectrum up to what the size can show, coarse to fine, in levels; blocks the
        steps of grey at the edges of JPEG's blocks over those elsewhere, 1 without a trace of them; means and
        spreads are in levels of 255; areas are shares of the image; granularity is the standard deviation of the
        cytoplasm's optical density in green at the scale of granules; the bluish area is that of grey-blue patches of
        the cytoplasm, such as Döhle bodies. NaN is what the image does not have.

    Raises:
        ValueError: If the array has another shape or type.
    """
    mask = lobes.nucleus_at_work(pixels)
    regions = _regions(pixels, mask)
    grey = pixels @ _LUMA
    flat = pixels.reshape(-1, 3).astype(np.float64)
    small = _resized(pixels, WIDTH).astype(np.float64)
    has_cell = bool(regions.nucleus.any())
    found = [float(grey.std()), *detail(grey), blocks(grey), *_colours(flat)]
    for region in REGIONS:
        found += _colours(small[getattr(regions, region)])
    if not has_cell:
        return np.array([*found, *[np.nan] * 5], np.float32)
    area, of_cell = regions.nucleus.mean(), (regions.nucleus | regions.cytoplasm).mean()
    stains = granularity(pixels, regions), bluish_area(pixels, regions)
    return np.array([*found, area, of_cell, lobes.lobes_of(mask), *stains], np.float32)


def detail(grey: NDArray[np.floating]) -> list[float]:
    """Energy of a grey image (H, W) in four bands of a quarter of the Nyquist frequency, coarse to fine, in levels."""
    height, width = grey.shape
    power = np.abs(np.fft.fft2(grey)) ** 2 / (height * width) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * 2 * BANDS
    band = np.ceil(radius).astype(int)  # 0 is the mean alone
    energy = np.bincount(band.ravel(), power.ravel(), minlength=BANDS + 1)[1 : BANDS + 1]
    return [float(each) for each in np.sqrt(energy)]


def blocks(grey: NDArray[np.floating]) -> float:
    """Mean step at the edges of JPEG's blocks of a grey image (H, W), over that elsewhere; NaN if there is no step."""
    ratios = []
    for image in (grey, grey.T):
        steps = np.abs(np.diff(image, axis=1)).mean(axis=0)
        at_edge = np.arange(len(steps)) % JPEG_BLOCK == JPEG_BLOCK - 1
        ratios.append(steps[at_edge].mean() / steps[~at_edge].mean() if steps[~at_edge].any() else np.nan)
    return float(np.mean(ratios))


def _colours(values: NDArray[np.float64]) -> list[float]:
    """Mean and spread of red, green and blue of pixels (N, 3)."""
    if len(values) < 2:
        return [np.nan] * 6
    return [float(each) for pair in zip(values.mean(axis=0), values.std(axis=0), strict=True) for each in pair]


def granularity(pixels: Pixels, regions: Regions) -> float:
    """Standard deviation of the cytoplasm's density in green at the scale of granules; NaN if too little is seen."""
    inner = _inner_cytoplasm(regions, 3)
    if inner.sum() < LEAST_CYTOPLASM:
        return np.nan
    if len(pixels) > GRANULE_WIDTH:  # so that larger images show no more of a granule than small ones
        image = Image.fromarray(np.ascontiguousarray(pixels))
        seen = np.asarray(image.resize((GRANULE_WIDTH, GRANULE_WIDTH), Image.Resampling.LANCZOS))
    else:
        seen = pixels
    green = _density(_resized(seen, WIDTH), pixels)[..., 1]
    fine, coarse = (ndimage.gaussian_filter(green, sigma) for sigma in GRAIN)
    return float((fine - coarse)[inner].std())


def bluish_area(pixels: Pixels, regions: Regions) -> float:
    """Share of the image that grey-blue patches of the cytoplasm take; NaN if too little is seen."""
    share, beyond, least = BLUISH
    inner = _inner_cytoplasm(regions, 2)
    if inner.sum() < LEAST_CYTOPLASM:
        return np.nan
    density = _density(_resized(pixels, WIDTH), pixels)
    blue = density[..., 0] - share * density[..., 1]
    weight = ndimage.gaussian_filter(inner.astype(np.float32), 1)
    blue = ndimage.gaussian_filter(np.where(inner, blue, 0), 1) / np.maximum(weight, 1e-3)
    patches = inner & (blue > max(least, float(np.median(blue[inner])) + beyond))
    return float(ndimage.binary_opening(patches).mean())


def _inner_cytoplasm(regions: Regions, away: int) -> Mask:
    """Cytoplasm that is not at the cell's edge, and farther than `away` pixels from the nucleus."""
    cell = ndimage.binary_erosion(regions.nucleus | regions.cytoplasm, disk(3))
    return cell & (ndimage.distance_transform_edt(~regions.nucleus) > away)


def shares_of_grades(values: NDArray[np.floating], thresholds: tuple[float, float]) -> tuple[float, float, float]:
    """Shares of grade 0, 1 and 2 by lobes (`HYPERSEGMENTED`), granularity or bluish area; NaN is left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan, np.nan
    grades = np.searchsorted(thresholds, known, side="right")
    none, slight, severe = np.bincount(grades, minlength=3) / len(known)
    return float(none), float(slight), float(severe)
