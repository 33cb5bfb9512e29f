"""The measure of checkerboards: on noise of known spectrum, with known patterns in it, and on real cells."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wbc_diffusers.evaluation.checkerboard import PERIODS, Checkerboard, checkerboard, mean_spectrum

Grey = NDArray[np.float64]


def noise(count: int, size: int, slope: float, contrast: float = 20.0, seed: int = 0) -> Grey:
    """Images (N, S, S) around 128 whose power falls with frequency as f^-slope; white with 0."""
    across, down = np.fft.fftfreq(size), np.fft.fftfreq(size)[:, None]
    frequency = np.hypot(across, down)
    frequency[0, 0] = 1.0
    white = np.random.default_rng(seed).normal(size=(count, size, size))
    found = np.fft.ifft2(np.fft.fft2(white) * frequency ** (-slope / 2)).real
    return 128 + contrast * found / found.std()


def stored(grey: Grey) -> NDArray[np.uint8]:
    return np.repeat(np.clip(grey.round(), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def wave(size: int, across: float, down: float) -> Grey:
    """A cosine (S, S) of amplitude 1, of so many cycles a pixel on each axis."""
    place = np.arange(size)
    return np.cos(2 * np.pi * (across * place + down * place[:, None]))


def in_errors(found: Checkerboard, expected: dict[int, float]) -> list[float]:
    """How many standard errors each figure lies from what is expected."""
    return [abs(found.by_period[p].value - expected[p]) / found.by_period[p].error for p in PERIODS]


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_noise_of_any_slope_has_no_excess(slope, size):
    found = checkerboard(stored(noise(200, size, slope)))
    assert max(in_errors(found, dict.fromkeys(PERIODS, 1.0))) < 3.5
    assert abs(found.total.value - 1) < 3.5 * found.total.error < 0.2


def test_errors_are_those_of_repeated_draws():
    runs = [checkerboard(stored(noise(60, 32, 1.0, seed=seed))) for seed in range(60)]
    for excess in zip(*([*run.by_period.values(), run.total] for run in runs), strict=True):
        spread = np.std([one.value for one in excess], ddof=1)
        assert np.mean([one.error for one in excess]) == pytest.approx(spread, rel=0.3)
        assert abs(np.mean([one.value for one in excess]) - 1) < 0.05


@pytest.mark.parametrize(
    ("across", "down", "period", "bins", "lines"),
    [
        (1 / 2, 1 / 2, 2, 1, 3),
        (1 / 2, 0, 2, 1, 3),
        (1 / 4, 1 / 2, 4, 2, 12),
        (0, 1 / 4, 4, 2, 12),
        (3 / 8, 1 / 4, 8, 2, 48),
    ],
)
def test_faint_pattern_in_noise_has_the_excess_of_the_formula(across, down, period, bins, lines):
    size, amplitude, contrast = 64, 3.0, 20.0
    pattern = amplitude * wave(size, across, down)
    found = checkerboard(stored(noise(300, size, 0.0, contrast) + pattern))
    # A pattern of mean square m lies in `bins` lines; a window w gathers m / bins * sum(w)^2 / sum(w^2) in each, and
    # for Hann's that is (4/9) S^2.
    gathered = (pattern**2).mean() / bins * 4 / 9 * size**2
    expected = dict.fromkeys(PERIODS, 1.0) | {period: 1 + bins / lines * gathered / (contrast**2 + 1 / 6)}
    assert found.by_period[period].value > 1.3
    assert max(in_errors(found, expected)) < 3.5
    assert found.by_period[period].levels == pytest.approx(np.sqrt((pattern**2).mean()), rel=0.1)
    assert found.total.value == pytest.approx(np.mean([one.value for one in found.by_period.values()]))


def test_uneven_overlap_of_a_transposed_kernel_shows_at_its_period():
    gain = np.array([[4.0, 6.0], [6.0, 9.0]]) / 6.25  # of a kernel of 5 at stride 2 (Odena et al. 2016)
    plain = noise(100, 64, 2.0, contrast=10.0)
    once = checkerboard(stored(plain * np.tile(gain, (32, 32)) * 0.5))
    assert once.by_period[2].value > 100
    # Brightness 64 times the square root of the gain's variance; the window's lobes are not counted.
    assert once.total.levels == pytest.approx(64 * gain.std(), rel=0.02)
    assert max(once.by_period[p].value for p in (4, 8)) < 1.2
    twice = np.kron(gain, np.ones((2, 2)))
    assert checkerboard(stored(plain * np.tile(twice, (16, 16)) * 0.5)).by_period[4].value > 100


def test_brightness_and_contrast_change_nothing():
    grey = noise(64, 64, 2.0, contrast=15.0) + 2 * wave(64, 0.25, 0.25)
    plain, brighter, stronger = (checkerboard(stored(g)) for g in (grey, grey + 40, 128 + 1.5 * (grey - 128)))
    for period in PERIODS:
        value = plain.by_period[period].value
        assert brighter.by_period[period].value == pytest.approx(value, rel=0.01)
        assert stronger.by_period[period].value == pytest.approx(value, rel=0.05)


def test_colours_count_as_their_luminance():
    grey = noise(64, 32, 1.0)
    coloured = stored(np.zeros_like(grey))
    coloured[..., 1] = stored(grey)[..., 1]
    green, white = mean_spectrum(coloured), mean_spectrum(stored(grey))
    np.testing.assert_allclose(green[1:, 1:], 0.587**2 * white[1:, 1:])


def test_steps_of_8_px_that_strong_jpeg_makes_of_a_slope_show():
    def jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=5)
        return np.asarray(Image.open(buffer))

    plain = stored(noise(60, 64, 2.0, contrast=5.0) + np.arange(64) - 32)
    blocks = checkerboard(np.stack([jpeg(one) for one in plain])).by_period[8]
    assert blocks.value > 2
    assert blocks.levels > 1
    assert checkerboard(plain).by_period[8].value < 1.2


def test_empty_images_have_no_excess():
    found = checkerboard(np.full((32, 32, 32, 3), 200, np.uint8))
    assert [one.value for one in (*found.by_period.values(), found.total)] == pytest.approx([1.0] * 4)
    assert found.total.error + found.total.levels == pytest.approx(0, abs=1e-6)


def test_spectrum_of_white_noise_is_its_variance():
    spectrum = mean_spectrum(stored(noise(400, 32, 0.0, contrast=20.0)))
    assert spectrum.shape == (32, 32)
    assert spectrum[0, 0] == pytest.approx(0, abs=1e-9)
    assert spectrum[2:-1, 2:-1].mean() == pytest.approx(400, rel=0.01)


def test_real_cells_have_none_but_that_of_their_jpeg_files(pbc_dir: Path):
    paths = sorted((pbc_dir / "neutrophil").glob("*"))[:300]
    cells = [Image.open(path).convert("RGB").crop((84, 84, 276, 276)) for path in paths]
    small = checkerboard(np.stack([np.asarray(cell.resize((64, 64), Image.Resampling.LANCZOS)) for cell in cells]))
    assert all(0.85 < one.value < 1.15 for one in (*small.by_period.values(), small.total))
    # At full scale the blocks of 8 px and the halved colours of JPEG can be measured, far below what an eye sees.
    full = checkerboard(np.stack([np.asarray(cell) for cell in cells]))
    assert 1.2 < full.total.value < 3
    assert full.total.levels < 0.5


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 64, 64), np.uint8), r"uint8 \(32, 64, 64\), but must be uint8 \(N, S, S, 3\)"),
        (np.zeros((32, 64, 64, 3)), r"float64 \(32, 64, 64, 3\), but must be uint8"),
        (np.zeros((32, 3, 64, 64), np.uint8), r"uint8 \(32, 3, 64, 64\), but must be"),
        (np.zeros((32, 64, 96, 3), np.uint8), "images are 96 x 64 px, but patterns of 8 px are measured in squares"),
        (np.zeros((32, 60, 60, 3), np.uint8), "60 x 60 px.*a multiple of that, 32 or more: crop them"),
        (np.zeros((32, 24, 24, 3), np.uint8), "24 x 24 px.*32 or more"),
        (np.zeros((31, 64, 64, 3), np.uint8), "31 images were given, but fewer than 32 have no steady spectrum"),
    ],
)
def test_other_arrays_are_refused(images, message):
    for function in (checkerboard, mean_spectrum):
        with pytest.raises(ValueError, match=message):
            function(images)
