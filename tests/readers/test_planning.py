"""How many cells a reader study needs, against other formulas and simulated studies."""

from collections.abc import Callable

import numpy as np
import pytest
from statsmodels.stats.proportion import binom_tost_reject_interval, power_binom_tost, proportion_confint

from wbc_diffusers.readers.certainty import equivalence
from wbc_diffusers.readers.planning import (
    answers_for_equivalence,
    answers_for_width,
    cells_for_error,
    equivalence_power,
    error_for_equivalence,
)


def half_width(count: int, share: float) -> float:
    low, high = proportion_confint(share * count, count, method="wilson")
    return float(high - low) / 2


@pytest.mark.parametrize("share", [0.5, 0.8, 0.98])
@pytest.mark.parametrize("wanted", [0.05, 0.1, 0.2])
def test_so_many_answers_are_enough_for_the_width_and_one_fewer_is_not(wanted: float, share: float) -> None:
    count = answers_for_width(wanted, share)
    assert half_width(count, share) <= wanted < half_width(count - 1, share)


def test_a_hundred_answers_are_known_to_a_tenth() -> None:
    assert answers_for_width(0.1) == 93


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.2])
def test_the_power_is_that_of_the_test_itself(margin: float) -> None:
    count = 150
    rng = np.random.default_rng(0)
    shown = [equivalence(int(hits), count, margin).shown for hits in rng.binomial(count, 0.5, 2000)]
    assert np.mean(shown) == pytest.approx(equivalence_power(count, margin), abs=0.035)


@pytest.mark.parametrize("margin", [0.05, 0.2, 0.35, 0.49])
def test_no_larger_number_has_less_power(margin: float) -> None:
    count = answers_for_equivalence(margin, 0.9)
    assert equivalence_power(count - 1, margin) < 0.9
    assert all(equivalence_power(more, margin) >= 0.9 for more in range(count, 2 * count + 60))


def test_so_many_answers_have_the_power_from_there_on_and_one_fewer_has_not() -> None:
    count = answers_for_equivalence(0.1, 0.8)
    assert equivalence_power(count - 1, 0.1) < 0.8
    assert all(equivalence_power(more, 0.1) >= 0.8 for more in range(count, count + 400))
    # Normal theory, by statsmodels; the exact test takes a few more.
    reject = lambda n: binom_tost_reject_interval(0.4, 0.6, n)  # noqa: E731
    about = next(n for n in range(10, 1000) if power_binom_tost(0.4, 0.6, n, 0.5) >= 0.8 and reject(n))
    assert about <= count < about + 25


def test_cells_for_several_readers_give_the_standard_error_of_simulated_studies() -> None:
    readers, scatter, shared, error = 4, 0.05, 0.3, 0.04
    cells = cells_for_error(error, readers, scatter, shared)
    assert cells is not None
    rng = np.random.default_rng(0)
    means = []
    for _ in range(3000):
        share = np.clip(0.5 + scatter * rng.standard_normal((readers, 1)), 0, 1)
        # With a chance of the root of their correlation, readers give the answer that the cell gives to all of them.
        common = rng.random((readers, cells)) < np.sqrt(shared)
        of_cell = rng.random(cells)
        means.append((np.where(common, of_cell, rng.random((readers, cells))) < share).mean())
    assert np.std(means) == pytest.approx(error, rel=0.06)


def test_no_number_of_cells_makes_up_for_too_few_readers() -> None:
    assert cells_for_error(0.02, 2, scatter=0.05) is None
    assert cells_for_error(0.02, 12, scatter=0.05) is not None


@pytest.mark.parametrize("call", [lambda: answers_for_width(0.5), lambda: error_for_equivalence(0.1, 1.0),
                                  lambda: answers_for_equivalence(0.0)])  # fmt: skip
def test_what_cannot_be_is_refused(call: Callable[[], float]) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 0\.5"):
        call()
