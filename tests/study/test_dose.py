"""Exchange rates are those that the curves were made with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from wbc_diffusers.study.compare import Runs
from wbc_diffusers.study.dose import exchange_rate
from wbc_diffusers.study.predictions import Predictions

NORMALS, ABNORMALS = 100, 1000
NAMES = tuple(map(str, range(NORMALS + ABNORMALS)))


def runs_of(recall: float, spread: Sequence[float] = (-0.01, 0.0, 0.01)) -> Runs:
    """Runs whose recalls are `spread` about one, to a thousandth, in images that are found in the same order by all."""
    runs = []
    for part in spread:
        found = np.arange(ABNORMALS) < round((recall + part) * ABNORMALS)
        scores = np.concatenate([np.linspace(0.2, 0.4, NORMALS), np.where(found, 0.9, 0.1)])
        labels = np.repeat([0, 1], [NORMALS, ABNORMALS])
        runs.append(Predictions(labels, np.stack([1 - scores, scores], 1), NAMES, ("",) * len(NAMES)))
    return runs


def by_formula(real: float) -> float:
    """The recall of so many real images: 0.1 more with each doubling of 50."""
    return 0.4 + 0.1 * float(np.log2(real / 50))


REAL = {m: runs_of(by_formula(m)) for m in (50, 100, 200, 400)}


def test_synthetic_images_are_worth_what_the_formula_says() -> None:
    doses = {n: runs_of(by_formula(50 + n / 10)) for n in (2000, 300, 1000)}
    found = exchange_rate(doses, REAL, 50, replicates=300)
    assert [row.synthetic for row in found] == [300, 1000, 2000]
    for row, worth in zip(found, (30, 100, 200), strict=True):
        # A thousandth of recall, to which the runs are made, is 0.7 % of the images.
        assert row.worth.value == pytest.approx(worth, abs=0.007 * (50 + worth))
        assert row.recall.value == pytest.approx(by_formula(50 + worth), abs=0.001)
        assert row.worth.low < row.worth.value < row.worth.high
        assert (row.bound, row.low_open, row.high_open) == ("", False, False)


def test_the_interval_is_that_of_the_recall_read_off_the_curve() -> None:
    # One seed each, and the curve's images are those of the dose: what is drawn moves both alike.
    real = {m: runs_of(by_formula(m), [0.0]) for m in (50, 100, 200, 400)}
    same = exchange_rate({1: runs_of(0.5, [0.0])}, real, 50, replicates=300)[0]
    assert (same.worth.low, same.worth.value, same.worth.high) == pytest.approx((50, 50, 50))
    # Seeds at 0.45 and 0.55, and images that scatter little: half a doubling of real images up and down.
    wide = exchange_rate({1: runs_of(0.5, [-0.05, 0.05])}, real, 50, replicates=300)[0]
    assert wide.worth.low + 50 == pytest.approx(100 / 2**0.5, rel=0.1)
    assert wide.worth.high + 50 == pytest.approx(100 * 2**0.5, rel=0.1)


def test_fewer_real_images_than_the_baseline_has_may_be_what_harmful_ones_are_worth() -> None:
    found = exchange_rate({500: runs_of(by_formula(100))}, REAL, 200, replicates=50)[0]
    assert found.worth.value == pytest.approx(-100, abs=1)


def test_beyond_the_curve_there_is_only_a_bound() -> None:
    below, above = exchange_rate({10: runs_of(0.2), 20: runs_of(0.9)}, REAL, 50, replicates=300)
    assert (below.bound, below.low_open, below.high_open) == ("less than", True, False)
    assert (below.worth.value, below.worth.high) == (0, 0)
    assert (above.bound, above.low_open, above.high_open) == ("at least", False, True)
    assert (above.worth.value, above.worth.low) == (350, 350)


def test_an_interval_that_leaves_the_curve_at_one_end_is_open_there() -> None:
    near_top, near_bottom = exchange_rate({9: runs_of(0.69), 8: runs_of(0.41)}, REAL, 50, replicates=300)[::-1]
    assert (near_top.bound, near_top.low_open, near_top.high_open) == ("", False, True)
    assert near_top.worth.high == 350
    assert (near_bottom.bound, near_bottom.low_open, near_bottom.high_open) == ("", True, False)
    assert near_bottom.worth.low == 0


def test_a_curve_that_falls_is_made_level_by_the_mean_of_its_runs() -> None:
    # 0.6 of two runs and 0.45 of one make 0.55 for both numbers; the least that reaches it counts.
    real = {50: runs_of(0.4), 100: runs_of(0.6, [0.0, 0.0]), 200: runs_of(0.45, [0.0]), 400: runs_of(0.7)}
    found = exchange_rate({1: runs_of(0.55 - 1e-3), 2: runs_of(0.625)}, real, 50, replicates=50)
    assert found[0].worth.value == pytest.approx(50, abs=1)
    assert found[1].worth.value == pytest.approx(200 * 2**0.5 - 50, abs=1)


def test_of_numbers_that_reach_the_same_the_least_counts() -> None:
    real = {50: runs_of(0.5), 100: runs_of(0.5), 200: runs_of(0.6), 300: runs_of(0.6)}
    for recall, worth in ((0.5, 0), (0.6, 150)):
        found = exchange_rate({1: runs_of(recall)}, real, 50, replicates=50)[0]
        assert (found.worth.value, found.bound) == (pytest.approx(worth), "")


@pytest.mark.parametrize(
    ("doses", "real", "error"),
    [
        ({5: "runs"}, {50: "runs"}, r"runs with \[50\] real images, .* baseline has 50: a curve needs two numbers"),
        ({5: "runs"}, {60: "runs", 70: "runs"}, r"runs with \[60, 70\] real images, and the baseline has 50"),
        ({0: "runs", 5: "runs"}, {50: "runs", 70: "runs"}, r"\[0, 5\] synthetic images, .* numbers of 1 or more"),
        ({5: "runs"}, {0: "runs", 50: "runs"}, r"with \[0, 50\] real ones: give numbers of 1 or more"),
        ({}, {50: "runs", 70: "runs"}, r"runs with \[\] synthetic images"),
    ],
)
def test_numbers_that_give_no_curve_are_refused(doses: dict[int, Any], real: dict[int, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        exchange_rate(doses, real, 50)
