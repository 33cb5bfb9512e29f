"""Intervals hold the truth as often as they say."""

import numpy as np
import pytest
from scipy import stats

from wbc_diffusers.evaluation.intervals import (
    GROUPS,
    around,
    curve,
    extrapolate,
    groups_of,
    halves,
    jackknife,
    jackknife_share,
    share,
)


def test_groups_are_as_large_as_can_be_alike_and_the_same_every_time() -> None:
    groups = groups_of(107)
    assert np.bincount(groups, minlength=GROUPS).tolist() == [6] * 7 + [5] * 13
    assert (groups == groups_of(107)).all()
    assert (groups != groups_of(107, seed=1)).any()


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=GROUPS)  # a group for each
    found = jackknife(float(x.mean()), [float(np.delete(x, i).mean()) for i in range(GROUPS)])
    reach = stats.t.ppf(0.975, GROUPS - 1) * x.std(ddof=1) / np.sqrt(GROUPS)
    assert found.high - found.value == pytest.approx(reach, rel=1e-12)
    assert found.value - found.low == pytest.approx(reach, rel=1e-12)


def test_interval_of_a_difference_of_two_samples_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        x, y = rng.exponential(2.0, 120), rng.exponential(1.0, 300)
        gx, gy = groups_of(len(x)), groups_of(len(y), seed=1)
        left_out = [float(x[gx != i].mean() - y[gy != i].mean()) for i in range(GROUPS)]
        found = jackknife(float(x.mean() - y.mean()), left_out)
        held += found.low <= 1.0 <= found.high
    assert 0.92 < held / 400 < 0.98


def test_share_has_the_exact_binomial_interval() -> None:
    found = share(0, 320)
    assert found.value == found.low == 0
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 320), rel=1e-6)
    assert share(320, 320).high == 1


def test_a_bias_of_one_in_n_is_taken_away() -> None:
    points = curve(lambda n: 7.0 + 300.0 / n, 1000)
    assert points[0][0] == 250
    assert points[-1] == (1000, 7.3)
    found = extrapolate(points, error=0.5)
    assert found.value == pytest.approx(7.0, abs=1e-9)
    assert found.high - found.value == pytest.approx(around(7.0, 0.5, GROUPS - 1).high - 7.0, rel=1e-6)


def test_a_share_at_a_bound_has_the_binomial_interval() -> None:
    found = jackknife_share(0.0, [0.0] * 20, 50)
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 50))
    inside = jackknife_share(0.97, np.linspace(0.9, 1.0, 20), 50)
    assert inside.high == 1
    assert 0 < inside.low < 0.97


def test_halves_share_no_image_and_leave_none_out() -> None:
    first, second = halves(11)
    assert sorted([*first, *second]) == list(range(11))
    assert (len(first), len(second)) == (5, 6)
