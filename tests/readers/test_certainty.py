"""How sure a reader study's figures are: against scipy and statsmodels, and by simulated studies."""

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from wbc_diffusers.readers.certainty import equivalence, over_readers, wilson
from wbc_diffusers.readers.detection import auc, balanced_accuracy, count_answers, d_prime, recall

MEASURES = {"accuracy": balanced_accuracy, "auc": auc, "d_prime": d_prime, "recall": recall}
CUTS = np.array([-1.0, -0.4, 0.0, 0.4, 1.0])


@pytest.mark.parametrize(("hits", "count"), [(19, 40), (0, 20), (50, 50), (64, 100)])
def test_the_interval_of_a_share_is_statsmodels(hits: int, count: int) -> None:
    found = wilson(hits, count)
    assert (found.low, found.high) == pytest.approx(proportion_confint(hits, count, method="wilson"))
    assert found.value == hits / count


@pytest.mark.parametrize("share", [0.1, 0.5, 0.64])
def test_the_interval_of_a_share_holds_the_truth_about_95_times_in_100(share: float) -> None:
    found = [wilson(hits, 100) for hits in range(101)]
    holds = np.array([one.low <= share <= one.high for one in found])
    assert 0.93 <= binom.pmf(np.arange(101), 100, share)[holds].sum() <= 0.97


@pytest.mark.parametrize("share", [0.4, 0.6])
@pytest.mark.parametrize("count", [100, 215, 400])
def test_who_is_as_far_from_chance_as_the_margin_is_called_equivalent_5_times_in_100_at_most(
    share: float, count: int
) -> None:
    shown = np.array([equivalence(hits, count).shown for hits in range(count + 1)])
    size = binom.pmf(np.arange(count + 1), count, share)[shown].sum()
    assert size <= 0.05
    assert count == 100 or size > 0.03


def test_few_answers_show_nothing() -> None:
    assert not equivalence(10, 20).shown
    assert equivalence(150, 300).shown


def test_a_margin_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the margin is 0\.5"):
        equivalence(1, 2, 0.5)


def a_study(rng: np.random.Generator, readers: int, scatter: float, cells: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Answers of readers who see a common and an own part of each cell, and scatter in skill and in habit."""
    signal = np.arange(cells) % 2 == 0
    skill, habit = (scatter * rng.standard_normal((readers, 1)) for _ in range(2))
    seen = 0.7 * rng.standard_normal(cells) + np.sqrt(1 - 0.7**2) * rng.standard_normal((readers, cells))
    seen += np.where(signal, 0.5, -0.5) * (1 + skill)
    return (seen[:, :, None] > habit[:, :, None] + CUTS).sum(-1), signal


@pytest.mark.parametrize(("readers", "scatter"), [(1, 0.0), (3, 0.0), (3, 0.4), (6, 0.4)])
def test_intervals_over_readers_hold_the_truth_in_most_simulated_studies(readers: int, scatter: float) -> None:
    many, signal = a_study(np.random.default_rng(7), 3000, scatter, 2000)
    truth = {name: float(measure(count_answers(many, signal, 6)).mean()) for name, measure in MEASURES.items()}
    rng = np.random.default_rng(readers)
    held = dict.fromkeys(MEASURES, 0.0)
    for study in range(150):
        answers, signal = a_study(rng, readers, scatter)
        for name, found in over_readers(
            answers, signal, 6, MEASURES, signal.astype(int), replicates=300, seed=study
        ).items():
            held[name] += (found.interval.low <= truth[name] <= found.interval.high) / 150
    # The recall of three readers of different habits is the hardest: 0.91 in longer simulations.
    assert min(held.values()) > 0.85, held


def test_more_readers_make_it_surer_but_no_surer_than_the_cells_are() -> None:
    def width(readers: int, cells: int) -> float:
        answers, signal = a_study(np.random.default_rng(0), readers, 0.2, cells)
        found = over_readers(answers, signal, 6, MEASURES, signal.astype(int), seed=0)["accuracy"].interval
        return found.high - found.low

    assert width(10, 100) < width(2, 100)
    assert width(10, 400) < width(10, 100) < 2 * width(300, 100)


def test_readers_at_chance_are_shown_to_be_so_by_many_cells_alone() -> None:
    rng = np.random.default_rng(0)
    signal = np.arange(1000) % 2 == 0
    guesses = rng.integers(0, 6, (4, 1000))
    found = over_readers(guesses, signal, 6, MEASURES, signal.astype(int))["accuracy"]
    assert found.equivalence().shown
    assert (
        not over_readers(guesses[:, :20], signal[:20], 6, MEASURES, signal[:20].astype(int))["accuracy"]
        .equivalence()
        .shown
    )
    expert = np.where(signal, 5, 0)[None].repeat(4, 0)
    assert not over_readers(expert, signal, 6, MEASURES, signal.astype(int))["accuracy"].equivalence().shown


def test_strata_keep_their_numbers_in_every_draw() -> None:
    # All that differs lies between strata: drawn within them, nothing scatters.
    signal = np.array([True, False] * 40)
    strata = np.repeat([0, 1], 40)
    answers = np.where(strata == 0, np.where(signal, 1, 0), np.where(signal, 0, 1))[None]
    found = over_readers(answers, signal, 2, MEASURES, 2 * strata + signal)["accuracy"]
    assert found.value == 0.5
    assert np.ptp(found.drawn) == 0
