"""How many cells a reader study needs, against other formulas and simulated studies."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from tests.readers.test_certainty import of_table
from wbc_diffusers.readers.certainty import equivalence
from wbc_diffusers.readers.planning import (
    answers_for_equivalence,
    answers_for_width,
    cells_for_equivalence,
    cells_for_width,
    error_for_equivalence,
    error_of_mean,
)
from wbc_diffusers.readers.several import over_readers


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


@pytest.mark.parametrize(("margin", "power"), [(0.1, 0.8), (0.15, 0.9)])
def test_so_many_answers_have_the_power_by_the_test_itself(margin: float, power: float) -> None:
    half = answers_for_equivalence(margin, power) // 2

    def has(each: int) -> float:
        """Add up all outcomes of a reader who calls half of all cells real; the test depends on their difference."""
        likely = binom.pmf(np.arange(each + 1), each, 0.5)
        there = np.argwhere(np.outer(likely, likely) > 1e-6)
        shown = [equivalence(of_table([[h, each - h], [a, each - a]]), margin).shown for h, a in there]
        return float(sum(likely[h] * likely[a] for (h, a), it in zip(there, shown, strict=True) if it))

    assert has(half) == pytest.approx(power, abs=0.03)
    assert has(half) > has(half - 15)


def test_the_thesiss_hundred_answers_could_not_have_shown_it() -> None:
    assert answers_for_equivalence(0.1, 0.8) > 200


def at_chance(rng: np.random.Generator, readers: int, cells: int, scatter: float, shared: float) -> np.ndarray:
    """Which answers of readers at chance are right (R, N)."""
    share = np.clip(0.5 + scatter * rng.standard_normal((readers, 1)), 0, 1)
    # With a chance of the root of their correlation, readers give the answer that the cell gives to all of them.
    common = rng.random((readers, cells)) < np.sqrt(shared)
    return np.where(common, rng.random(cells), rng.random((readers, cells))) < share


def test_the_error_of_a_mean_is_that_of_simulated_studies() -> None:
    rng = np.random.default_rng(0)
    means = [at_chance(rng, 4, 60, 0.05, 0.3).mean() for _ in range(3000)]
    assert np.std(means) == pytest.approx(error_of_mean(np.array(60.0), 4, 0.05, 0.3)[0], rel=0.06)


def test_so_many_cells_give_the_interval_and_the_power_of_the_score_itself() -> None:
    rng, widths, shown = np.random.default_rng(0), [], 0.0
    for cells in (cells_for_width(0.1, 5), cells_for_equivalence(0.1, 0.8, 5)):
        assert cells is not None
        signal = np.arange(cells) % 2 == 0
        for _ in range(120):
            answers = (at_chance(rng, 5, cells, 0.05, 0.3) == signal).astype(int)
            found = over_readers(answers, signal, 2, ["balanced_accuracy"], signal.astype(int))["balanced_accuracy"]
            if cells == cells_for_width(0.1, 5):
                widths.append(found.interval.high - found.interval.low)
            else:
                shown += found.equivalence(0.1).shown / 120
    assert np.median(widths) / 2 == pytest.approx(0.1, rel=0.12)
    assert shown == pytest.approx(0.8, abs=0.1)


def test_no_number_of_cells_makes_up_for_too_few_readers() -> None:
    assert cells_for_width(0.05, 2) is None
    assert cells_for_equivalence(0.1, 0.8, 3) is None
    more = [cells_for_equivalence(0.1, 0.8, readers) for readers in (5, 8, 20)]
    assert more == sorted(more, reverse=True, key=lambda cells: cells or 0)
    with pytest.raises(ValueError, match=r"a scatter of -0\.1 and a correlation"):
        cells_for_width(0.1, 3, scatter=-0.1)


@pytest.mark.parametrize("call", [lambda: answers_for_width(0.5), lambda: error_for_equivalence(0.1, 1.0),
                                  lambda: answers_for_equivalence(0.0)])  # fmt: skip
def test_what_cannot_be_is_refused(call: Callable[[], float]) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 0\.5"):
        call()
