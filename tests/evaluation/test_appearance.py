"""Differences of measurements, and that each defect is seen by the measure meant for it."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import stats

from wbc_diffusers.data.phantom import render_cell
from wbc_diffusers.evaluation.appearance import Difference, compare_cells, sharpened, welch
from wbc_diffusers.evaluation.cells import MEASURES, measure_cell

COUNT = 50


def table(change=lambda pixels, i: pixels, first: int = 0) -> np.ndarray:
    """Measurements of phantom cells of 64 px, each of another slide, changed."""
    cells = (render_cell(64, 41 * (first + i), "none", 0).pixels for i in range(COUNT))
    return np.stack([measure_cell(change(pixels, i)) for i, pixels in enumerate(cells)])


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return table()


@pytest.fixture(scope="module")
def other() -> np.ndarray:
    return table(first=1000)


def differences(real: np.ndarray, generated: np.ndarray, other: np.ndarray) -> dict[str, Difference]:
    return {each.measure: each for each in compare_cells(real, generated, (real, other))}


def test_other_real_cells_differ_no_more_than_chance(real: np.ndarray, other: np.ndarray) -> None:
    found = differences(real, other, other)
    assert list(found) == list(MEASURES)
    seen = [name for name, each in found.items() if each.seen]
    assert len(seen) <= 0.15 * len(MEASURES), seen
    assert all(each.difference == each.floor for each in found.values())


def _jpeg(pixels: np.ndarray, i: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=50)
    return np.asarray(Image.open(buffer))


DEFECTS = {
    "noise": (lambda p, i: np.clip(p + np.random.default_rng(i).normal(0, 4, p.shape), 0, 255).astype(np.uint8),
              "background_green_spread", +1),
    "blur": (lambda p, i: np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(0.7))), "detail_4", -1),
    "contrast": (lambda p, i: np.rint(200 + 0.9 * (p - 200.0)).astype(np.uint8), "contrast", -1),
    "JPEG": (_jpeg, "blocks", +1),
    "nucleus": (lambda p, i: np.clip(p + 12 * (p.mean(-1, keepdims=True) < 120), 0, 255).astype(np.uint8),
                "nucleus_green_mean", +1),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_seen_by_its_measure(name: str, other: np.ndarray, real: np.ndarray) -> None:
    change, measure, sign = DEFECTS[name]
    found = differences(real, table(change, first=1000), other)[measure]
    assert found.seen
    assert np.sign(found.difference.value) == sign
    assert found.floor.low <= 0 <= found.floor.high
    assert abs(found.difference.value) > 2 * abs(found.floor.value)


def test_a_colour_cast_is_measured_to_its_level(real: np.ndarray, other: np.ndarray) -> None:
    cast = table(lambda p, i: np.clip(p + np.array([-3, 0, 0]), 0, 255).astype(np.uint8), first=1000)
    before, after = differences(real, other, other), differences(real, cast, other)
    moved = after["red_mean"].difference.value - before["red_mean"].difference.value
    assert moved == pytest.approx(-3, abs=0.05)
    moved = after["background_red_mean"].difference.value - before["background_red_mean"].difference.value
    assert moved == pytest.approx(-3, abs=0.2)
    assert after["green_mean"].difference.value == pytest.approx(before["green_mean"].difference.value, abs=1e-6)


def test_the_effect_of_sharpening_is_the_theses(real: np.ndarray, other: np.ndarray) -> None:
    found = differences(other, table(lambda p, i: sharpened(p), first=1000), other)
    assert found["contrast"].generated / found["contrast"].real == pytest.approx(1 + 20 / 127, abs=0.03)
    pixels = np.array([[[0, 17, 127, 150, 240, 255]]], np.uint8)
    expected = [max(0, min(255, round(v * (20 / 127 + 1) - 20))) for v in (0, 17, 127, 150, 240, 255)]
    assert sharpened(pixels).ravel().tolist() == expected


def test_intervals_are_welchs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 40), rng.normal(1, 3, 90)
    found = welch(x, y)
    theirs = stats.ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert np.isnan(welch(x[:1], y).value)
    assert welch(np.ones(5), np.full(5, 3.0)).value == 2


def test_what_is_missing_is_left_out_and_counted(real: np.ndarray) -> None:
    holes = real.copy()
    holes[:10, MEASURES.index("lobes")] = np.nan
    found = differences(real, holes, real)["lobes"]
    assert (found.n_real, found.n_generated, found.n_floor) == (COUNT, COUNT - 10, (COUNT, COUNT))
    assert found.generated == pytest.approx(float(np.nanmean(holes[:, MEASURES.index("lobes")])), rel=1e-6)
    none = np.full_like(real, np.nan)
    assert np.isnan(differences(real, none, real)["contrast"].difference.value)


def test_less_variety_is_told(real: np.ndarray) -> None:
    twins = np.repeat(real[:2], COUNT // 2, axis=0)
    found = differences(real, twins, real)
    assert found["cell_area"].spread < 0.8


def test_a_difference_that_other_real_cells_have_too_is_not_seen(real: np.ndarray) -> None:
    shifted, far = real.copy(), real.copy()
    shifted[:, 0] += 10  # another slide, say
    far[:, 0] += 30
    assert not differences(real, shifted, shifted)["contrast"].seen
    assert differences(real, far, shifted)["contrast"].seen
