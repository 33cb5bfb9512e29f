"""The nearest training image: against searches written out in full, on copies whose original is known."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from wbc_diffusers.data.phantom import render_cell
from wbc_diffusers.evaluation import nearest
from wbc_diffusers.evaluation.nearest import Nearest, nearest_by_features, nearest_by_pixels, thumbnail
from wbc_diffusers.evaluation.planted import KINDS, plant_copies

Cells = dict[int, np.ndarray]


def thumbnails(images) -> np.ndarray:
    return np.stack([thumbnail(each) for each in images])


@pytest.fixture(scope="module")
def known(cells: Cells) -> np.ndarray:
    return np.stack([cells[i] for i in range(60)])


def detail(grey: np.ndarray) -> np.ndarray:
    return gaussian_filter(grey.astype(float), 0.5) - gaussian_filter(grey.astype(float), 2.0)


def best_correlation(query: np.ndarray, training: np.ndarray) -> float:
    """Pearson's, over all flips, turns, sizes and places, one by one."""
    best = -1.0
    field = detail(training)
    for size in range(25, 36):
        small = detail(np.asarray(Image.fromarray(query).resize((size, size), Image.Resampling.BICUBIC)))
        cut = round(0.1 * size)
        middle = small[cut : size - cut, cut : size - cut]
        places = sliding_window_view(field, middle.shape).reshape(-1, middle.size)
        places = places - places.mean(axis=1, keepdims=True)
        for view in (middle, middle.T):
            for flipped in (view, view[::-1], view[:, ::-1], view[::-1, ::-1]):
                own = flipped.ravel() - flipped.mean()
                found = places @ own / np.sqrt((places**2).sum(axis=1) * (own @ own))
                best = max(best, float(found.max()))
    return best


def assert_equal(first: Nearest, second: Nearest) -> None:
    np.testing.assert_array_equal(first.index, second.index)
    np.testing.assert_array_equal(first.distance, second.distance)


def test_of_few_images_the_nearest_is_that_of_a_search_in_full(cells: Cells, known: np.ndarray):
    training = thumbnails(known[:6])
    queries = thumbnails([*plant_copies(known[2:4], "all", 1), cells[100], cells[101]])
    expected = np.array([[best_correlation(query, each) for each in training] for query in queries])
    found = nearest_by_pixels(queries, training)
    np.testing.assert_array_equal(found.index, expected.argmax(axis=1))
    np.testing.assert_allclose(1 - found.distance, expected.max(axis=1), atol=2e-3)  # whole sixteenths of a level


@pytest.mark.parametrize("kind", KINDS)
def test_copies_name_their_original_and_others_are_farther(kind: str, cells: Cells, known: np.ndarray):
    training = thumbnails(known)
    copies = nearest_by_pixels(thumbnails(plant_copies(known[:12], kind, 5)), training)
    others = nearest_by_pixels(thumbnails([cells[i] for i in range(90, 114)]), training)
    np.testing.assert_array_equal(copies.index, np.arange(12))
    assert copies.distance.max() < 0.75 * others.distance.min()


def test_an_image_and_its_flips_and_turns_are_at_distance_0(known: np.ndarray):
    training = thumbnails(known)
    for view in (training, training[:, ::-1], training.transpose(0, 2, 1), np.rot90(training, 1, axes=(1, 2))):
        found = nearest_by_pixels(view[:15], training)
        np.testing.assert_array_equal(found.index, np.arange(15))
        assert found.distance.max() < 1e-9


def test_brightness_and_contrast_change_little(known: np.ndarray):
    training = thumbnails(known)
    found = nearest_by_pixels(np.rint(0.6 * training[:20] + 60).astype(np.uint8), training)
    np.testing.assert_array_equal(found.index, np.arange(20))
    assert found.distance.max() < 0.01


def test_copies_of_another_size_are_found(known: np.ndarray):
    large = np.stack([render_cell(192, seed).pixels for seed in range(4)])
    found = nearest_by_pixels(thumbnails(large), thumbnails(known))
    np.testing.assert_array_equal(found.index, np.arange(4))
    assert found.distance.max() < 0.05


def test_blocks_and_company_change_no_digit(monkeypatch: pytest.MonkeyPatch, cells: Cells, known: np.ndarray):
    training, queries = thumbnails(known), thumbnails([cells[i] for i in range(60, 80)])
    rng = np.random.default_rng(0)
    few, many = (rng.normal(100, 1, (count, 77)).astype(np.float32) for count in (30, 90))
    pixels, features = nearest_by_pixels(queries, training), nearest_by_features(few, many)
    for sizes in ((7, 3, 1, 4), (60, 64, 19, 90), (1, 1, 2, 1)):
        for name, size in zip(("TRAINING", "QUERY", "PAIR", "FEATURE"), sizes, strict=True):
            monkeypatch.setattr(nearest, f"{name}_BLOCK", size)
        assert_equal(nearest_by_pixels(queries, training), pixels)
        assert_equal(nearest_by_features(few, many), features)
    alone = [nearest_by_pixels(queries[i : i + 1], training) for i in range(4)]
    assert [one.distance[0] for one in alone] == pixels.distance[:4].tolist()


def test_sums_of_the_candidates_search_are_exact_in_float32(known: np.ndarray):
    described = nearest._descriptors(thumbnails(known), *nearest.PART)
    assert (described == np.rint(described)).all()
    # No sum of some of the products exceeds that of the squares (Cauchy and Schwarz).
    assert (described.astype(float) ** 2).sum(axis=1).max() < 2**24


def test_empty_images_are_like_nothing(known: np.ndarray):
    flat = np.full((2, 32, 32), 200, np.uint8)
    assert nearest_by_pixels(flat, thumbnails(known)).distance.tolist() == [1.0, 1.0]
    assert nearest_by_pixels(thumbnails(known[:2]), flat).distance.tolist() == [1.0, 1.0]
    assert len(nearest_by_pixels(flat[:0], flat).index) == 0


def test_features_are_compared_by_euclidean_distance():
    rng = np.random.default_rng(1)
    queries, training = (rng.normal(size=(count, 40)).astype(np.float32) for count in (50, 1100))
    expected = cdist(queries.astype(float), training.astype(float))
    found = nearest_by_features(queries, training)
    np.testing.assert_array_equal(found.index, expected.argmin(axis=1))
    np.testing.assert_allclose(found.distance, expected.min(axis=1), rtol=1e-12)


def test_small_distances_between_long_features_are_exact():
    training = np.full((3, 1000), 1e4)
    training[1, 0] += 3e-5
    training[2, 5] += 1e-5
    found = nearest_by_features(np.full((1, 1000), 1e4) + 4e-5 * np.eye(1, 1000), training)
    assert found.index.tolist() == [1]
    np.testing.assert_allclose(found.distance, 1e-5, rtol=1e-6)


def test_of_equally_near_features_the_first_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nearest, "TRAINING_BLOCK", 3)
    training = np.array([[5.0], [1.0], [3.0], [1.0], [3.0]])
    assert nearest_by_features(np.array([[2.0], [1.0], [3.5]]), training).index.tolist() == [1, 1, 2]


def test_a_training_image_is_not_its_own_other():
    rng = np.random.default_rng(2)
    training = rng.normal(size=(40, 8))
    training[7] = training[3]
    apart = cdist(training, training)
    np.fill_diagonal(apart, np.inf)
    own = np.array([3, 7, 20, 39])
    found = nearest_by_features(training[own], training, own)
    np.testing.assert_array_equal(found.index, apart[own].argmin(axis=1))
    assert found.distance[:2].tolist() == [0.0, 0.0]


def test_thumbnail_is_of_grey_levels(known: np.ndarray):
    assert thumbnail(np.full((64, 64, 3), (0, 200, 0), np.uint8)).tolist() == np.full((32, 32), 117).tolist()
    assert thumbnail(known[0]).nbytes == 1024


@pytest.mark.parametrize(
    ("function", "arrays", "message"),
    [
        (thumbnail, [np.zeros((32, 64, 3), np.uint8)], r"uint8 \(32, 64, 3\), but must be uint8 \(S, S, 3\)"),
        (thumbnail, [np.zeros((64, 64, 3))], "float64"),
        (
            nearest_by_pixels,
            [np.zeros((2, 32, 32)), np.zeros((2, 32, 32), np.uint8)],
            r"queries are float64 \(2, 32, 32\)",
        ),
        (nearest_by_pixels, [np.zeros((2, 32, 32), np.uint8), np.zeros((2, 64, 64), np.uint8)], "training are uint8"),
        (nearest_by_pixels, [np.zeros((2, 32, 32), np.uint8), np.zeros((0, 32, 32), np.uint8)], "0 training images"),
        (nearest_by_features, [np.zeros((2, 3)), np.zeros((2, 4))], r"features are \(2, 3\) and \(2, 4\)"),
        (nearest_by_features, [np.zeros((2, 3)), np.zeros((0, 3))], "0 training images were given, but 1 or more"),
        (nearest_by_features, [np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(1, int)], "but 2 or more"),
        (nearest_by_features, [np.full((1, 3), np.nan), np.zeros((1, 3))], "features of images hold infinite"),
        (nearest_by_features, [np.zeros((1, 3)), np.full((1, 3), np.inf)], "of training images hold infinite"),
    ],
)
def test_other_arrays_are_refused(function, arrays, message):
    with pytest.raises(ValueError, match=message):
        function(*arrays)
