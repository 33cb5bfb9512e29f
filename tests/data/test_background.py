"""The empty slide's colour is found beside cells, in noise and after JPEG, and brought to another."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wbc_diffusers.data.background import estimate_background, scale_to_background


def smear(background: tuple[int, int, int], covered: float, noise: float = 2.0) -> NDArray[np.uint8]:
    """Draw a slide of which red cells cover a part and a nucleus a tenth."""
    rng = np.random.default_rng(3)
    pixels = np.empty((100, 100, 3))
    pixels[:] = background
    pixels[: round(100 * covered)] = np.array(background) * (0.92, 0.74, 0.8)
    pixels[45:55] = (110, 70, 150)
    return np.clip(np.rint(pixels + rng.normal(0, noise, pixels.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("background", [(250, 226, 201), (220, 215, 225), (180, 160, 150)])
@pytest.mark.parametrize("covered", [0.0, 0.4, 0.8])
def test_background_is_found_beside_cells(background: tuple[int, int, int], covered: float) -> None:
    estimate = estimate_background(smear(background, covered))
    assert estimate is not None
    np.testing.assert_allclose(estimate, background, atol=1.5)


def test_background_is_found_after_jpeg() -> None:
    buffer = io.BytesIO()
    Image.fromarray(smear((240, 225, 210), 0.5)).save(buffer, "JPEG", quality=75)
    estimate = estimate_background(np.asarray(Image.open(buffer)))
    assert estimate is not None
    np.testing.assert_allclose(estimate, (240, 225, 210), atol=2.5)


def test_dark_image_has_no_background() -> None:
    assert estimate_background(np.full((50, 50, 3), 60, np.uint8)) is None


def test_scaling_brings_the_background_to_the_target_and_keeps_absorbances() -> None:
    pixels = smear((240, 220, 200), 0.4, noise=0)
    scaled = scale_to_background(pixels, (240.0, 220.0, 200.0), (250.0, 240.0, 230.0)).astype(np.float64)
    np.testing.assert_array_equal(scaled[-1, -1], (250, 240, 230))
    # Beer and Lambert: what a cell absorbs is the logarithm of its light over the background's.
    before, after = np.log(pixels / (240, 220, 200)), np.log(scaled / (250, 240, 230))
    np.testing.assert_allclose(after, before, atol=0.01)
    assert scale_to_background(pixels, (100.0, 100.0, 100.0), (200.0, 200.0, 200.0)).max() == 255
