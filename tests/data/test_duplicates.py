"""Copies are found however they were turned, recompressed or brightened; different cells are never called copies."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from wbc_diffusers.data.duplicates import (
    Pair,
    candidates,
    clusters,
    copied_among,
    find_duplicates,
    orientations,
    oriented_hashes,
    thumbnail,
)
from wbc_diffusers.data.phantom import render_cell

NUMBER = 24


@pytest.fixture(scope="module")
def cells() -> list[Image.Image]:
    """Give different neutrophils, 96 x 96 px: four slides, each with the same red cells and stain about it."""
    return [Image.fromarray(render_cell(96, seed=40 * (i % 4) + i).pixels) for i in range(NUMBER)]


def pairs_of(images: list[Image.Image]) -> list[Pair]:
    small = [thumbnail(image) for image in images]
    hashes = np.stack([oriented_hashes(grey) for grey in small])
    return find_duplicates(hashes, np.stack(small), [str(hash(image.tobytes())) for image in images])


def jpeg(image: Image.Image, quality: int = 40) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def shifted(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(image), (1, -1), axis=(0, 1)))


def brightened(image: Image.Image) -> Image.Image:
    return image.point(lambda v: min(255, round(v * 1.08 + 4)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": jpeg,
    "shifted by a pixel": shifted,
    "brightened": brightened,
    "darkened": lambda image: image.point(lambda v: round(v * 0.85)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "shrunk and enlarged": lambda image: image.resize((64, 64)).resize((96, 96)),
    "turned, mirrored, brightened and recompressed": lambda image: jpeg(
        brightened(image.transpose(Image.Transpose.ROTATE_90).transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    ),
}


def test_different_cells_are_no_copies(cells: list[Image.Image]) -> None:
    assert pairs_of(cells) == []


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_all_cells_are_found_and_nothing_else(cells: list[Image.Image], way: str) -> None:
    pairs = pairs_of(cells + [COPIES[way](cell) for cell in cells])
    assert [(p.first, p.second) for p in pairs] == [(i, NUMBER + i) for i in range(NUMBER)]
    assert {p.kind for p in pairs} == {"near"}


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_known_images_are_told_from_other_images(cells: list[Image.Image], way: str) -> None:
    known, others = cells[::2], cells[1::2]
    asked = np.stack([thumbnail(image) for image in [*map(COPIES[way], known), *others]])
    found = copied_among(asked, np.stack([thumbnail(image) for image in known]))
    assert found.tolist() == [True] * len(known) + [False] * len(others)


@pytest.mark.parametrize("transpose", list(Image.Transpose))
def test_flips_and_turns_are_found_as_the_same_image(cells: list[Image.Image], transpose: Image.Transpose) -> None:
    pairs = pairs_of(cells[:6] + [cell.transpose(transpose) for cell in cells[:6]])
    assert [(p.first, p.second) for p in pairs] == [(i, 6 + i) for i in range(6)]
    assert max(p.mean_difference for p in pairs) < 1


def test_the_same_pixels_are_exact_copies_every_pair_of_them(cells: list[Image.Image]) -> None:
    pairs = pairs_of([cells[0], cells[1], cells[0], cells[0]])
    assert pairs == [Pair(i, j, "exact", 0, 0.0) for i, j in ((0, 2), (0, 3), (2, 3))]


def test_candidates_are_those_of_a_plain_comparison_of_all() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (60, 8)).astype(np.uint64)
    hashes[40:, 3] = hashes[:20, 0] ^ np.uint64(0b1011)  # three bits away in one orientation
    expected = [
        (i, j)
        for i in range(60)
        for j in range(i + 1, 60)
        if min(int(hashes[i, 0] ^ hashes[j, k]).bit_count() for k in range(8)) <= 3
    ]
    assert candidates(hashes, 3).tolist() == [list(pair) for pair in expected]
    assert len(expected) == 20
    assert candidates(hashes, 2).tolist() == []


def test_eight_orientations_are_all_different_and_the_first_is_the_image() -> None:
    grey: NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8)
    views = orientations(grey)
    np.testing.assert_array_equal(views[0], grey)
    group = {np.rot90(g, k).tobytes() for g in (grey, grey.T) for k in range(4)}
    assert {view.tobytes() for view in views} == group
    assert len(group) == 8


def test_clusters_join_pairs_that_share_an_image() -> None:
    pairs = [Pair(i, j, "near", 0, 0.0) for i, j in ((1, 4), (4, 7), (2, 3), (0, 7))]
    assert clusters(pairs, 9) == [[0, 1, 4, 7], [2, 3]]
    assert clusters([], 9) == []
