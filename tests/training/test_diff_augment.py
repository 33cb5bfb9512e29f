"""Differentiable augmentation against a loop over pixels in float64."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wbc_diffusers.training.diff_augment import NUMBERS, POLICIES, augment, parse_policy

SIZE = 17


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


@pytest.fixture(scope="module")
def uniform() -> torch.Tensor:
    numbers = torch.rand(6, NUMBERS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers[0], numbers[1] = 0.0, 1.0
    return numbers


def coloured(image: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    image = image + (numbers[0] - 0.5)
    grey = image.mean(axis=0)
    image = grey + (image - grey) * 2 * numbers[1]
    return image.mean() + (image - image.mean()) * (numbers[2] + 0.5)


def shifted(image: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.zeros_like(image)
    down, right = (min(int(n * 5), 4) - 2 for n in numbers[3:5])  # an eighth of 17 px is 2
    for y in range(SIZE):
        for x in range(SIZE):
            if 0 <= y - down < SIZE and 0 <= x - right < SIZE:
                result[:, y, x] = image[:, y - down, x - right]
    return result


def cut(image: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    result = image.copy()
    top, left = (min(int(n * 17), 16) - 4 for n in numbers[5:7])  # half of 17 px is 9, its middle the fifth
    for y in range(top, top + 9):
        for x in range(left, left + 9):
            if 0 <= y < SIZE and 0 <= x < SIZE:
                result[:, y, x] = 0
    return result


@pytest.mark.parametrize(("part", "by_hand"), [("color", coloured), ("translation", shifted), ("cutout", cut)])
def test_each_part_equals_the_loop(part: str, by_hand, images: torch.Tensor, uniform: torch.Tensor) -> None:
    expected = np.stack([by_hand(i, n) for i, n in zip(images.numpy(), uniform.numpy(), strict=True)])
    np.testing.assert_allclose(augment(images, (part,), uniform).numpy(), expected, atol=1e-12)


def test_all_parts_follow_one_another_and_none_changes_nothing(images: torch.Tensor, uniform: torch.Tensor) -> None:
    one_by_one = images
    for part in POLICIES:
        one_by_one = augment(one_by_one, (part,), uniform)
    assert torch.equal(augment(images, POLICIES, uniform), one_by_one)
    assert augment(images, (), uniform) is images


def test_gradients_pass_through(images: torch.Tensor, uniform: torch.Tensor) -> None:
    small = images[:, :, :6, :6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, POLICIES, uniform), (small,))


def test_an_image_depends_on_its_own_numbers_only(images: torch.Tensor, uniform: torch.Tensor) -> None:
    alone = torch.cat([augment(images[i : i + 1], POLICIES, uniform[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(augment(images, POLICIES, uniform), alone)


def test_policies_are_read_and_unknown_ones_named() -> None:
    assert parse_policy("color, cutout") == ("color", "cutout")
    assert parse_policy(None) == ()
    with pytest.raises(ValueError, match="diff_augment holds colour: choose from color, translation, cutout"):
        parse_policy("colour,cutout")
