"""Measurements of a cell against what was drawn, and against formulas in float64."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from wbc_diffusers.data.phantom import render_cell
from wbc_diffusers.evaluation.cells import (
    HYPERGRANULATED,
    HYPERSEGMENTED,
    MEASURES,
    WIDTH,
    WITH_BODIES,
    blocks,
    bluish_area,
    detail,
    measure_cell,
    segment_cell,
    shares_of_grades,
)
from wbc_diffusers.evaluation.lobes import count_lobes

KINDS = [("none", 0), ("hypersegmentation", 2), ("hypergranulation", 1), ("hypergranulation", 2), ("dohle_bodies", 2)]


def at(measures: np.ndarray, name: str) -> float:
    return float(measures[MEASURES.index(name)])


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the union of two masks that both hold, at the size of the found one."""
    sized = np.asarray(Image.fromarray(truth.astype(np.float32)).resize(found.shape, Image.Resampling.BOX)) > 0.5
    return float((found & sized).sum() / (found | sized).sum())


@pytest.mark.parametrize("size", [64, 192])
def test_regions_are_those_that_were_drawn(size: int) -> None:
    of_nucleus, of_cell = [], []
    for i in range(20):
        cell = render_cell(size, 9_000_000 + 41 * i, *KINDS[i % 5])
        found = segment_cell(cell.pixels)
        of_nucleus.append(overlap(found.nucleus, cell.nucleus_mask))
        of_cell.append(overlap(found.nucleus | found.cytoplasm, cell.cell_mask))
        assert not (found.nucleus & found.cytoplasm).any()
        outside = np.asarray(Image.fromarray(~cell.cell_mask).resize((WIDTH, WIDTH), Image.Resampling.NEAREST))
        assert not (found.background & ~outside).any()
    assert np.median(of_cell) > 0.96
    assert min(of_cell) > 0.93
    assert np.median(of_nucleus) > 0.9


def test_colours_areas_and_contrast_of_a_drawn_disc_are_its_own() -> None:
    # A nucleus of radius 20 in a cell of radius 45, of 128 px, without a red cell.
    y, x = np.mgrid[:128, :128] - 63.5
    away = np.hypot(y, x)
    pixels = np.full((128, 128, 3), (250, 235, 230), np.uint8)
    pixels[away < 45] = (200, 170, 200)
    pixels[away < 20] = (80, 50, 130)
    found = measure_cell(pixels)
    for region, colour in (("background", (250, 235, 230)), ("cytoplasm", (200, 170, 200)), ("nucleus", (80, 50, 130))):
        for channel, level in zip(("red", "green", "blue"), colour, strict=True):
            # Means over regions whose edges are those of 96 px.
            assert at(found, f"{region}_{channel}_mean") == pytest.approx(level, abs=4), (region, channel)
    assert at(found, "nucleus_area") == pytest.approx(np.pi * 20**2 / 128**2, rel=0.06)
    assert at(found, "cell_area") == pytest.approx(np.pi * 45**2 / 128**2, rel=0.04)
    assert at(found, "background_red_spread") < 1
    assert at(found, "lobes") == 1
    grey = pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert at(found, "contrast") == pytest.approx(np.sqrt(((grey - grey.mean()) ** 2).mean()), rel=1e-6)
    assert at(found, "green_mean") == pytest.approx(pixels[..., 1].astype(np.float64).mean(), rel=1e-6)
    assert at(found, "green_spread") == pytest.approx(pixels[..., 1].astype(np.float64).std(), rel=1e-6)


@pytest.mark.parametrize(("waves", "band"), [(3, 0), (11, 1), (20, 2), (31, 3)])
def test_a_sine_is_in_the_band_of_its_frequency_with_its_energy(waves: int, band: int) -> None:
    sine = 100 + 12 * np.sin(2 * np.pi * waves * np.arange(64) / 64)
    found = detail(np.broadcast_to(sine, (64, 64)))
    assert found[band] == pytest.approx(12 / np.sqrt(2), rel=1e-9)
    assert sum(found) == pytest.approx(found[band], rel=1e-6)


def test_bands_hold_what_the_benchmark_of_the_docs_finds() -> None:
    grey = np.random.default_rng(0).uniform(0, 255, (64, 64))
    power = np.abs(np.fft.fft2(grey)) ** 2 / 64**4
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)) * 2
    expected = [np.sqrt(power[(radius > low) & (radius <= low + 0.25)].sum()) for low in (0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(detail(grey), expected, rtol=1e-9)


def test_granularity_follows_the_truth_and_not_the_size() -> None:
    cells = [(6_500_000 + 41 * i, *KINDS[(0, 2, 3)[i % 3]]) for i in range(30)]
    small = [at(measure_cell(render_cell(64, *cell).pixels), "granularity") for cell in cells]
    large = [at(measure_cell(render_cell(192, *cell).pixels), "granularity") for cell in cells]
    np.testing.assert_allclose(small, large, rtol=0.1)
    truth = [render_cell(64, *cell) for cell in cells]
    ink = [cell.granule_density * cell.granule_darkness * cell.granule_radius**2 for cell in truth]
    assert stats.spearmanr(small, ink).statistic > 0.9
    grades = np.searchsorted(HYPERGRANULATED, small, side="right")
    assert (grades == [cell.grade for cell in truth]).mean() >= 0.9


def test_dohle_bodies_are_told_and_graded() -> None:
    kinds = [("none", 0), ("dohle_bodies", 1), ("dohle_bodies", 2), ("hypergranulation", 2)]
    cells = [render_cell(64, 9_200_000 + 41 * i, *kinds[i % 4]) for i in range(32)]
    found = [at(measure_cell(cell.pixels), "bluish_area") for cell in cells]
    truth = [cell.grade if cell.abnormality == "dohle_bodies" else 0 for cell in cells]
    assert (np.searchsorted(WITH_BODIES, found, side="right") == truth).mean() >= 0.95
    drawn = [float((cell.body_labels > 0).mean()) for cell in cells]
    assert stats.pearsonr(found, drawn).statistic > 0.95


def test_the_bluish_area_of_a_drawn_patch_is_its_own() -> None:
    y, x = np.mgrid[:192, :192] - 95.5
    pixels = np.full((192, 192, 3), (250, 235, 230), np.uint8)
    pixels[np.hypot(y, x) < 70] = (220, 180, 200)
    pixels[np.hypot(y, x) < 28] = (80, 50, 130)
    plain = pixels.copy()
    pixels[np.hypot(y - 48, x) < 9] = (160, 165, 195)
    found = bluish_area(pixels, segment_cell(pixels))
    assert found == pytest.approx(np.pi * 9**2 / 192**2, rel=0.15)
    # Neither a granule's colour nor a pale spot is bluish.
    plain[np.hypot(y - 48, x) < 9] = (160, 80, 160)
    plain[np.hypot(y + 48, x) < 9] = (245, 225, 225)
    assert bluish_area(plain, segment_cell(plain)) == 0


def test_blocks_are_the_steps_between_jpegs_blocks() -> None:
    # A ramp of 1 level a pixel on both axes, and 4 more from block to block: 5 at the edges.
    axis = np.arange(40.0) + 4 * (np.arange(40) // 8)
    assert blocks(axis[:, None] + axis) == pytest.approx(5)
    assert blocks(np.roll(axis[:, None] + axis, 3, axis=(0, 1))[4:36, 4:36]) < 1
    assert np.isnan(blocks(np.full((40, 40), 7.0)))


def test_lobes_are_the_counters() -> None:
    cell = render_cell(64, 9_100_000, "hypersegmentation", 2)
    assert at(measure_cell(cell.pixels), "lobes") == count_lobes(cell.pixels)


def test_shares_of_grades_leave_out_what_was_not_measured() -> None:
    lobes = np.array([1, 3, 4, 5, 5, 6, 7, 9, np.nan, 2])
    assert shares_of_grades(lobes, HYPERSEGMENTED) == pytest.approx((4 / 9, 2 / 9, 3 / 9))
    assert np.isnan(shares_of_grades(np.array([np.nan]), HYPERSEGMENTED)).all()


def test_an_image_without_a_cell_has_colours_and_no_nucleus() -> None:
    blank = np.full((64, 64, 3), 240, np.uint8)
    found = measure_cell(blank)
    assert at(found, "background_green_mean") == 240
    assert at(found, "contrast") < 1e-9
    for name in (
        "nucleus_area",
        "cell_area",
        "lobes",
        "granularity",
        "bluish_area",
        "nucleus_red_mean",
        "cytoplasm_blue_spread",
    ):
        assert np.isnan(at(found, name)), name
    assert found.shape == (len(MEASURES),)


def test_pixels_that_are_none_are_told() -> None:
    with pytest.raises(ValueError, match="uint8"):
        measure_cell(np.zeros((64, 64, 3), np.float32))
