"""Planted copies are what their kinds say, and the same again."""

import numpy as np
import pytest

from wbc_diffusers.evaluation.planted import KINDS, draw_originals, plant_copies

Cells = dict[int, np.ndarray]


@pytest.fixture(scope="module")
def originals(cells: Cells) -> np.ndarray:
    return np.stack([cells[i] for i in range(16)])


def views(image: np.ndarray) -> list[np.ndarray]:
    """Left to right, upside down, and the three quarter turns."""
    return [image[:, ::-1], image[::-1], *(np.rot90(image, k) for k in (1, 2, 3))]


def sharpness(images: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(images.astype(float), axis=2)).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_each_image_and_gives_the_same_again(kind: str, originals: np.ndarray):
    copies = plant_copies(originals, kind, 3)
    assert copies.shape == originals.shape
    assert copies.dtype == np.uint8
    assert all((copy != own).any() for copy, own in zip(copies, originals, strict=True))
    np.testing.assert_array_equal(plant_copies(originals[:5], kind, 3), copies[:5])
    assert (plant_copies(originals, kind, 4) != copies).any()


def test_flips_and_turns_are_all_drawn_and_nothing_else(originals: np.ndarray):
    for kind, allowed in (("flip", {0, 1}), ("turn", {2, 3, 4})):
        copies = plant_copies(originals, kind, 0)
        found = [
            [i for i, view in enumerate(views(own)) if (view == copy).all()]
            for own, copy in zip(originals, copies, strict=True)
        ]
        assert all(len(which) == 1 for which in found)
        assert {which[0] for which in found} == allowed


def test_shifts_move_by_whole_pixels_within_their_bound():
    images = np.random.default_rng(0).integers(0, 256, (24, 50, 50, 3), dtype=np.uint8)
    moves = set()
    for own, copy in zip(images, plant_copies(images, "shift", 0), strict=True):
        inside = copy[3:47, 3:47]
        fits = [(y, x) for y in range(7) for x in range(7) if (own[y : y + 44, x : x + 44] == inside).all()]
        assert len(fits) == 1
        moves.add(fits[0])
    assert len(moves) > 12


@pytest.mark.parametrize("size", [64, 192])
def test_crops_keep_85_to_95_percent_of_the_width(size: int):
    steps = np.rint(np.linspace(20, 220, size)).astype(np.uint8)
    ramp = np.repeat(np.broadcast_to(steps, (30, size, size))[..., None], 3, axis=3)
    kept = np.ptp(plant_copies(ramp, "crop", 0)[:, :, :, 0].astype(float), axis=(1, 2)) / 200
    assert 0.83 < kept.min() < 0.87
    assert 0.92 < kept.max() < 0.96


def test_colours_change_within_their_bounds_and_nothing_moves():
    grey = np.full((40, 32, 32, 3), 100, np.uint8)
    grey[:, 16:] = 140
    copies = plant_copies(grey, "colour", 0).astype(float)
    assert (copies[:, 0] == copies[:, 15]).all()
    levels = copies.mean(axis=(1, 2, 3))
    assert 94 < levels.min() < 104  # 120 by 0.8 to 1.2
    assert 136 < levels.max() < 146
    contrast = (copies[:, 20] - copies[:, 0]).mean(axis=(1, 2)) / levels * 3
    assert 0.78 < contrast.min() < 0.88
    assert 1.12 < contrast.max() < 1.25  # levels are whole


def test_blur_and_jpeg_cost_detail(originals: np.ndarray):
    before = sharpness(originals)
    assert (sharpness(plant_copies(originals, "blur", 0)) < 0.9 * before).all()
    once = plant_copies(originals, "JPEG", 0)
    error = np.abs(once.astype(float) - originals).mean(axis=(1, 2, 3))
    assert 1 < error.min() < error.max() < 15


def test_originals_are_drawn_once_each_and_the_same_again():
    drawn = draw_originals(500, "crop", 7, 40)
    assert len(set(drawn.tolist())) == 40
    assert drawn.tolist() == sorted(drawn.tolist()) == draw_originals(500, "crop", 7, 40).tolist()
    assert 0 <= drawn.min() < drawn.max() < 500
    assert draw_originals(500, "blur", 7, 40).tolist() != drawn.tolist() != draw_originals(500, "crop", 8, 40).tolist()
    assert draw_originals(3, "crop", 0).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("images", "kind", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.uint8), "wish", "kind is 'wish', but must be one of: flip; turn; "),
        (np.zeros((2, 32, 48, 3), np.uint8), "flip", r"uint8 \(2, 32, 48, 3\), but must be uint8 \(N, S, S, 3\)"),
        (np.zeros((2, 32, 32, 3)), "flip", "float64"),
    ],
)
def test_other_kinds_and_arrays_are_refused(images, kind, message):
    with pytest.raises(ValueError, match=message):
        plant_copies(images, kind, 0)
