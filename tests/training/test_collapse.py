"""The measure of a generator's variety, on images whose distances are known."""

import numpy as np
import pytest
import torch

from wbc_diffusers.training.collapse import COLLAPSED_BELOW, nearest_distance, variety


def plain(*values: float) -> torch.Tensor:
    """Images of one value on 0..255 each."""
    return (torch.tensor(values) / 127.5 - 1.0)[:, None, None, None].expand(-1, 3, 32, 32)


def test_the_distance_to_the_nearest_is_in_steps_of_grey() -> None:
    assert nearest_distance(plain(10, 13, 20, 100, 104)) == pytest.approx(4, abs=1e-3)  # 3, 3, 7, 4, 4
    assert nearest_distance(plain(0, 50, 200)) == pytest.approx(50, abs=1e-3)


def test_it_equals_a_loop_over_pairs_in_float64() -> None:
    square = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    shrunk = square.double().numpy().reshape(9, 3, 16, 2, 16, 2).mean(axis=(3, 5)) * 127.5
    nearest = [
        min(np.sqrt(np.mean((a - b) ** 2)) for j, b in enumerate(shrunk) if j != i) for i, a in enumerate(shrunk)
    ]
    assert nearest_distance(square) == pytest.approx(np.median(nearest), rel=1e-5)


def test_ten_cells_with_grain_are_a_collapse_though_most_pairs_differ() -> None:
    random = torch.Generator().manual_seed(0)
    real = torch.rand(64, 3, 8, 8, generator=random).repeat_interleave(4, 2).repeat_interleave(4, 3) * 2 - 1
    ten = real[torch.arange(64) % 10] + 0.2 * torch.randn(64, 3, 32, 32, generator=random)
    assert variety(ten, real) < COLLAPSED_BELOW
    assert variety(real.flip(3), real) == pytest.approx(1.0)


def test_real_images_with_twins_tell_nothing() -> None:
    assert variety(plain(0, 50, 200), plain(7, 7, 9, 9, 30)) is None
    assert variety(plain(0, 0, 0), plain(7, 8, 9)) == 0.0


def test_one_image_has_no_nearest() -> None:
    with pytest.raises(ValueError, match="give 2 or more"):
        nearest_distance(plain(3))
