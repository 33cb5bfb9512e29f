"""The lobe counter: on nuclei drawn by hand here, and on phantom cells it was not tuned on."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wbc_diffusers.data.phantom import PhantomCell, render_cell
from wbc_diffusers.evaluation.lobes import count_lobes, segment_nucleus

BACKGROUND, CYTOPLASM, CHROMATIN = (245, 230, 215), (220, 180, 190), (70, 35, 130)
SEED = 8_100_000


def smear(*, cell: bool = True) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Start a drawing of 384 px: background, one red cell, and the cytoplasm of a white cell."""
    image = Image.new("RGB", (384, 384), BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.ellipse((-30, -30, 90, 90), fill=(195, 150, 165))
    if cell:
        pen.ellipse((62, 62, 322, 322), fill=CYTOPLASM)
    return image, pen


def finished(image: Image.Image, size: int) -> NDArray[np.uint8]:
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def segmented(lobes: int, size: int = 64) -> NDArray[np.uint8]:
    """Draw a nucleus of round lobes on an arc, joined by threads."""
    image, pen = smear()
    radius = min(38.0, 210.0 / lobes)
    angles = np.linspace(0, 2 * np.pi * (1 - 1 / max(lobes, 4)), lobes) + 0.4
    centres = [(192 + 78 * np.cos(a), 192 + 78 * np.sin(a)) for a in angles]
    pen.line(centres, fill=CHROMATIN, width=6)
    for x, y in centres:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=CHROMATIN)
    return finished(image, size)


@pytest.mark.parametrize("size", [48, 64, 192])
@pytest.mark.parametrize("lobes", [2, 3, 4, 5, 6, 7])
def test_round_lobes_on_threads_are_counted(lobes: int, size: int) -> None:
    assert count_lobes(segmented(lobes, size)) == lobes


@pytest.mark.parametrize("size", [48, 64, 192])
def test_a_band_is_one_lobe(size: int) -> None:
    image, pen = smear()
    pen.arc((112, 112, 272, 272), 20, 230, fill=CHROMATIN, width=50)
    assert count_lobes(finished(image, size)) == 1


def test_a_dumbbell_is_two_lobes_only_if_its_neck_is_narrow() -> None:
    counts = []
    for neck in (14, 66):
        image, pen = smear()
        pen.line((140, 192, 244, 192), fill=CHROMATIN, width=neck)
        for x in (140, 244):
            pen.ellipse((x - 42, 150, x + 42, 234), fill=CHROMATIN)
        counts.append(count_lobes(finished(image, 64)))
    assert counts == [2, 1]


def test_no_nucleus_is_no_lobes() -> None:
    for drawing, _ in (smear(cell=False), smear(cell=True)):
        pixels = finished(drawing, 64)
        assert count_lobes(pixels) == 0
        assert not segment_nucleus(pixels).any()
    for level in (0, 128, 255):
        assert count_lobes(np.full((64, 64, 3), level, np.uint8)) == 0


def test_platelets_and_granules_are_no_lobes() -> None:
    image, pen = smear()
    pen.ellipse((140, 140, 244, 244), fill=CHROMATIN)
    pen.ellipse((340, 20, 372, 52), fill=CHROMATIN)
    for x, y in ((100, 200), (290, 200), (200, 95), (200, 290)):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(110, 60, 130))
    assert count_lobes(finished(image, 64)) == 1


def test_flips_and_turns_keep_the_count() -> None:
    pixels = segmented(5)
    for view in (pixels[::-1], pixels[:, ::-1], np.rot90(pixels), np.rot90(pixels, 2)):
        assert count_lobes(view) == 5


@pytest.mark.parametrize("size", [48, 64, 192])
def test_the_segmented_nucleus_is_the_one_drawn(size: int) -> None:
    for i in range(6):
        cell = render_cell(size, SEED + 41 * i, *(("none", 0), ("hypersegmentation", 2))[i % 2])
        found = segment_nucleus(cell.pixels)
        assert found.shape == cell.nucleus_mask.shape
        assert (found & cell.nucleus_mask).sum() / (found | cell.nucleus_mask).sum() > 0.9


def count_phantoms(size: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give truth and count of `number` normal cells and of as many of each grade of hypersegmentation."""
    kinds = (("none", 0), ("hypersegmentation", 1), ("hypersegmentation", 2))
    cells: list[PhantomCell] = [render_cell(size, SEED + i, *kind) for kind in kinds for i in range(number)]
    return np.array([cell.lobes for cell in cells]), np.array([count_lobes(cell.pixels) for cell in cells])


def test_phantoms_at_64_px_are_counted_right_nine_times_in_ten() -> None:
    truth, counted = count_phantoms(64, 20)
    assert set(truth.tolist()) == {1, 2, 3, 4, 5, 6, 7}
    assert (truth == counted).mean() >= 0.9
    assert (np.abs(truth - counted) <= 1).mean() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("size", "floor"), [(64, 0.95), (192, 0.98)])
def test_every_number_of_lobes_is_counted_right(size: int, floor: float) -> None:
    truth, counted = count_phantoms(size, 120)
    assert (truth == counted).mean() >= floor
    for lobes in range(1, 8):
        cells = truth == lobes
        assert cells.sum() >= 15
        assert (counted[cells] == lobes).mean() >= 0.88
        assert (np.abs(counted[cells] - lobes) <= 1).mean() >= 0.95


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((64, 64), np.uint8), r"uint8 \(64, 64\), but must be uint8 \(H, W, 3\)"),
        (np.zeros((64, 64, 4), np.uint8), r"uint8 \(64, 64, 4\), but must be"),
        (np.zeros((64, 64, 3), np.float32), r"float32 \(64, 64, 3\), but must be"),
        (np.zeros((64, 24, 3), np.uint8), "the image is 24 x 64 px, but lobes need at least 32 a side"),
    ],
)
def test_other_arrays_are_refused(pixels: NDArray[np.generic], message: str) -> None:
    for function in (count_lobes, segment_nucleus):
        with pytest.raises(ValueError, match=message):
            function(pixels)
