"""Distances against torch-fidelity, formulas in float64 and brute force, and their intervals against repeated draws."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_poly, mmd2
from torch_fidelity.metric_prc import calculate_precision_recall_full

from wbc_diffusers.evaluation import distances
from wbc_diffusers.evaluation.distances import (
    compare,
    frechet,
    frechet_line,
    kernel,
    kernel_without_groups,
    moments,
    neighbour_values,
    values,
)
from wbc_diffusers.evaluation.intervals import GROUPS, groups_of


def draw(count: int, seed: int, width: int = 12, shift: float = 0.0) -> np.ndarray:
    """Features that correlate, as an encoder's do."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return (rng.normal(shift, 1.0, (count, width)) @ mixing).astype(np.float32)


def test_moments_are_those_of_numpy_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(300, 0) + 50
    mean, covariance = moments(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9)
    monkeypatch.setattr(distances, "BLOCK", 7)
    np.testing.assert_allclose(moments(x)[1], covariance, rtol=1e-12)


def test_frechet_distance_is_torch_fidelitys_and_the_formulas() -> None:
    x, y = draw(200, 1), draw(350, 2, shift=0.2)
    theirs = [fid_features_to_statistics(torch.from_numpy(each.astype(np.float64))) for each in (x, y)]
    expected = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    assert frechet(x, y) == pytest.approx(expected, rel=1e-9)
    (m, s), (n, t) = ((each["mu"], each["sigma"]) for each in theirs)
    formula = ((m - n) ** 2).sum() + np.trace(s + t - 2 * linalg.sqrtm(s @ t).real)
    assert frechet(x, y) == pytest.approx(formula, rel=1e-7)


def test_frechet_distance_of_few_images_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(20, 50, width=60), draw(30, 51, width=60, shift=0.2)  # fewer than 60
    statistics = [fid_features_to_statistics(torch.from_numpy(each.astype(np.float64))) for each in (x, y)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "other"), [(200, 350), (350, 200), (30, 350), (40, 30)])
def test_frechet_distances_without_a_group_are_those_of_the_rest(count: int, other: int) -> None:
    x, y = draw(count, 3, width=40), draw(other, 4, width=40, shift=0.1)
    groups = groups_of(count), groups_of(other, seed=1)
    found = list(distances._frechet_without_groups(x, y, *groups))
    expected = [frechet(x[groups[0] != i], y[groups[1] != i]) for i in range(GROUPS)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_line_ends_at_the_distance_of_all() -> None:
    x, y = draw(200, 3), draw(200, 4, shift=0.1)
    line = dict(frechet_line(x, y))
    assert line[200] == pytest.approx(frechet(x, y), rel=1e-6)
    chosen = np.sort(np.random.default_rng(50).choice(200, 50, replace=False))
    others = np.sort(np.random.default_rng(51).choice(200, 50, replace=False))
    assert line[50] == pytest.approx(frechet(x[chosen], y[others]), rel=1e-6)


def test_kernel_distance_of_whole_sets_is_the_unbiased_estimate() -> None:
    x, y = draw(150, 5).astype(np.float64), draw(150, 6, shift=0.2).astype(np.float64)
    expected = mmd2(kernel_poly(x, x), kernel_poly(x, y), kernel_poly(y, y))
    # torch-fidelity draws 100 subsets, which here are all images in another order, in float32.
    assert kernel(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_kernel_distances_without_a_group_are_those_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK", 16)
    x, y = draw(90, 7), draw(140, 8, shift=0.3)
    groups = groups_of(90), groups_of(140, seed=1)
    found = kernel_without_groups(x, y, *groups)
    for i in range(GROUPS):
        a, b = x[groups[0] != i].astype(np.float64), y[groups[1] != i].astype(np.float64)
        k = [(np.add(p @ q.T / 12, 1)) ** 3 for p, q in ((a, a), (b, b), (a, b))]
        n, m = len(a), len(b)
        same = (k[0].sum() - np.trace(k[0])) / (n * (n - 1)) + (k[1].sum() - np.trace(k[1])) / (m * (m - 1))
        assert found[i] == pytest.approx(same - 2 * k[2].mean(), rel=1e-9)


def test_neighbour_measures_are_those_of_brute_force() -> None:
    real, other = draw(60, 9), draw(80, 10, shift=0.3)

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))

    def radius(a: np.ndarray, k: int) -> np.ndarray:
        return np.sort(apart(a, a), axis=1)[:, k]

    found = neighbour_values(real, other)
    inside = apart(real, other) < radius(real, 5)[:, None]
    assert found["density"] == pytest.approx(inside.sum() / (5 * 80), rel=1e-6)
    assert found["coverage"] == pytest.approx(inside.any(axis=1).mean(), rel=1e-6)
    assert found["precision"] == pytest.approx((apart(real, other) <= radius(real, 3)[:, None]).any(0).mean(), rel=1e-6)
    assert found["recall"] == pytest.approx((apart(real, other) <= radius(other, 3)).any(1).mean(), rel=1e-6)
    theirs = calculate_precision_recall_full(torch.from_numpy(other), torch.from_numpy(real))
    assert (found["precision"], found["recall"]) == pytest.approx(theirs)


def test_neighbour_measures_without_a_group_are_those_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK", 16)
    real, other = draw(130, 11), draw(150, 12, shift=0.3)
    groups = groups_of(130), groups_of(150, seed=1)
    found = distances._neighbours_without_groups(real, other, *groups, range(GROUPS))
    for i in range(GROUPS):
        expected = neighbour_values(real[groups[0] != i], other[groups[1] != i])
        assert {measure: values[i] for measure, values in found.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_intervals_hold_what_repeated_draws_give_on_average() -> None:
    names = ("fd", "kd", "precision", "recall", "density", "coverage")
    pairs = [(draw(120, 2 * i, 6), draw(160, 2 * i + 1, 6, shift=0.35)) for i in range(120)]
    found = [compare(*pair) for pair in pairs]
    for name in names:
        each = [f.estimates[name] for f in found]
        truth = np.mean([e.value for e in each])
        held = np.mean([e.low <= truth <= e.high for e in each])
        assert held >= 0.88, (name, held)
        # Nor are they so wide that they say nothing.
        half = np.mean([(e.high - e.low) / 2 for e in each])
        assert half < 2 * 1.96 * np.std([e.value for e in each]), name


def test_the_bias_of_few_images_is_taken_off_where_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "MOST_NEIGHBOURED", 100)
    x, y = draw(4000, 20, 8), draw(4000, 21, 8, shift=0.15)
    mixing = np.random.default_rng(99).normal(size=(8, 8))
    truth = ((np.full(8, 0.15) @ mixing) ** 2).sum()  # the covariances are the same
    found = compare(x, y).estimates["fd_infinity"]
    assert found.low < truth < found.high
    few = compare(x[:200], y[:200])
    assert few.estimates["fd"].value > truth
    assert few.line[0][1] > few.line[-1][1]
    assert "fd_infinity" not in compare(x[:28], y[:28]).estimates  # a quarter of them would be fewer than features


def test_the_same_sets_give_the_same_figures_to_the_last_digit() -> None:
    x, y = draw(100, 30), draw(130, 31)
    first, second = compare(x, y), compare(x.copy(), y.copy())
    assert first == second
    assert values(x, y)["kd"] == first.estimates["kd"].value
    assert first.line == frechet_line(x, y)


def test_only_so_many_images_are_neighboured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "MOST_NEIGHBOURED", 50)
    found = compare(draw(120, 32), draw(40, 33))
    assert found.counts["precision"] == (50, 40)
    assert found.counts["fd"] == (120, 40)


def test_real_images_are_nearer_than_others() -> None:
    real, same, other = draw(300, 40), draw(300, 41), draw(300, 42, shift=0.5)
    near, far = values(real, same), values(real, other)
    assert near["fd"] < far["fd"]
    assert near["kd"] < far["kd"]
    assert near["precision"] > far["precision"]
    assert near["coverage"] > far["coverage"]
