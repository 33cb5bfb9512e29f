"""Predictions are what a classifier can say, and come back from a file as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbc_diffusers.study.predictions import Predictions


def three_images(**changes: Any) -> Predictions:
    fields = {
        "labels": np.array([0, 2, 1]),
        "probabilities": np.array([[0.5, 0.25, 0.25], [0.125, 0.375, 0.5], [0.25, 0.5, 0.25]]),
        "names": ("a/1.png", "b/ü.png", "c.png"),
        "groups": ("slide 7", "", "slide 7"),
    }
    return Predictions(**{**fields, **changes})


def test_any_grade_is_abnormal_and_the_score_is_the_probability_of_any() -> None:
    found = three_images()
    assert found.abnormal.tolist() == [False, True, True]
    assert found.scores.tolist() == [0.5, 0.875, 0.75]
    assert found.decided.tolist() == [0, 2, 1]


def test_scores_tell_apart_what_is_surely_normal_and_are_never_above_1() -> None:
    sure = np.array([[1.0, 1e-20, 0.0], [1.0, 2e-20, 0.0], [0.0, 0.7, 0.3000001]])
    assert three_images(probabilities=sure).scores.tolist() == [1e-20, 2e-20, 1.0]


def test_images_of_a_group_have_its_number() -> None:
    found = three_images().group_numbers
    assert found[0] == found[2] != found[1]
    assert max(found) == 1


@pytest.mark.parametrize("names", [("1", "7", "2"), ("1", "group 7", "2"), ("1", "7", "image 7")])
@pytest.mark.parametrize("groups", [("7", "", ""), ("group 7", "", ""), ("image 7", "", "")])
def test_an_image_of_no_known_group_is_its_own_whatever_it_is_called(names: Any, groups: Any) -> None:
    assert sorted(three_images(names=names, groups=groups).group_numbers) == [0, 1, 2]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = three_images(probabilities=np.random.default_rng(0).dirichlet(np.ones(3), 3))
    saved.save(tmp_path / "test.npz")
    loaded = Predictions.load(tmp_path / "test.npz")
    np.testing.assert_array_equal(loaded.probabilities, saved.probabilities)
    np.testing.assert_array_equal(loaded.labels, saved.labels)
    assert (loaded.names, loaded.groups) == (saved.names, saved.groups)
    assert (loaded.labels.dtype, loaded.probabilities.dtype) == (np.int64, np.float64)
    assert [path.name for path in tmp_path.iterdir()] == ["test.npz"]


def test_a_file_that_is_cut_off_anywhere_is_told(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    three_images().save(path)
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 9), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"test\.npz holds no predictions .*let the classifier predict again"):
            Predictions.load(path)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_of_something_else_is_told_and_none_of_it_is_run(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones(3))
    np.savez(tmp_path / "other.npz", labels=np.zeros(3, np.int64))
    np.savez(tmp_path / "pickle.npz", labels=np.array([Touch(tmp_path / "run")]))
    for name in ("one.npy", "other.npz", "pickle.npz"):
        with pytest.raises(ValueError, match=f"{name} holds no predictions"):
            Predictions.load(tmp_path / name)
    assert not (tmp_path / "run").exists()
    with pytest.raises(FileNotFoundError):
        Predictions.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"labels": np.array([0, 1])}, r"labels are \(2,\), but must be \(3,\): one for each row"),
        ({"names": ("a", "b")}, r"names are \(2,\), but must be \(3,\)"),
        ({"groups": ()}, r"groups are \(0,\), but must be \(3,\)"),
        ({"probabilities": np.ones(3)}, r"probabilities are \(3,\), but must be \(N, C\)"),
        ({"probabilities": np.ones((3, 1))}, r"probabilities are \(3, 1\), but must be .* two classes or more"),
        ({"labels": np.array([0.0, 1.0, 2.0])}, "are float64 and float64, but must be whole and"),
        ({"labels": np.array([0, 3, 1])}, r"label of 'b/ü.png' is 3, but .* of 3 classes: labels must be 0 to 2"),
        ({"labels": np.array([0, 1, -1])}, r"label of 'c.png' is -1"),
        ({"names": ("a", "b", "a")}, "'a' is the name of several images: give each its own"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        three_images(**changes)


@pytest.mark.parametrize(
    "wrong", [[0.5, 0.25, 0.2], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5], [np.inf, 0, 0], [2.0, -3, 1]]
)
def test_what_are_no_probabilities_is_refused(wrong: list[float]) -> None:
    rows = np.array([[0.5, 0.25, 0.25], wrong, [1.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"probabilities of 'b/ü.png' are \[.*\], but must be 0 or more and sum to 1"):
        three_images(probabilities=rows)


def test_a_softmax_in_single_precision_is_taken() -> None:
    logits = np.random.default_rng(1).normal(0, 8, (3, 3)).astype(np.float32)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = three_images(probabilities=odds / odds.sum(axis=1, keepdims=True))
    assert found.probabilities.dtype == np.float64
