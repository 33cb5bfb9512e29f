"""Means over readers, by simulated studies."""

import numpy as np
import pytest
from scipy import stats

from wbc_diffusers.readers import detection
from wbc_diffusers.readers.certainty import INTERVALS
from wbc_diffusers.readers.detection import count_answers
from wbc_diffusers.readers.several import over_readers

FIGURES = ["balanced_accuracy", "auc", "d_prime", "recall"]
CUTS = np.array([-1.0, -0.4, 0.0, 0.4, 1.0])


def a_study(
    rng: np.random.Generator, readers: int, scatter: float, cells: int = 100, apart: float = 1.0, habit: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Answers of readers who see a common and an own part of each cell, and scatter in skill and in habit."""
    signal = np.arange(cells) % 2 == 0
    skill, own = (scatter * rng.standard_normal((readers, 1)) for _ in range(2))
    seen = 0.7 * rng.standard_normal(cells) + np.sqrt(1 - 0.7**2) * rng.standard_normal((readers, cells))
    seen += np.where(signal, apart / 2, -apart / 2) * (1 + skill)
    return (seen[:, :, None] > habit + own[:, :, None] + CUTS).sum(-1), signal


@pytest.mark.parametrize(
    ("readers", "scatter", "apart", "habit"),
    [
        (3, 0.0, 1.0, 0.0),
        (3, 0.4, 1.0, 0.0),
        (6, 0.4, 1.0, 0.0),
        (3, 0.2, 3.5, 0.0),  # nearly perfect
        (3, 0.2, 0.0, -2.0),  # nearly always "real"
        (2, 0.4, 1.0, 0.0),
    ],
)
def test_intervals_over_readers_hold_the_truth_in_most_simulated_studies(
    readers: int, scatter: float, apart: float, habit: float
) -> None:
    many, signal = a_study(np.random.default_rng(7), 3000, scatter, 2000, apart, habit)
    truth = {name: float(getattr(detection, name)(count_answers(many, signal, 6)).mean()) for name in FIGURES}
    rng = np.random.default_rng(readers)
    held = dict.fromkeys(FIGURES, 0.0)
    for _ in range(150):
        answers, signal = a_study(rng, readers, scatter, apart=apart, habit=habit)
        found = over_readers(answers, signal, 6, FIGURES, signal.astype(int))
        for name, mean in found.items():
            held[name] += (mean.interval.low <= truth[name] <= mean.interval.high) / 150
    # The recall of three readers of different habits is the hardest: docs/readers.md has longer simulations.
    assert min(held.values()) > 0.85, held


@pytest.mark.parametrize(("readers", "scatter"), [(2, 0.0), (3, 0.0), (3, 0.3), (6, 0.3)])
def test_equivalence_is_seldom_shown_where_the_mean_lies_at_the_margin(readers: int, scatter: float) -> None:
    apart = 2 * stats.norm.ppf(0.6)
    many, signal = a_study(np.random.default_rng(7), 3000, scatter, 2000, apart)
    margin = float(detection.balanced_accuracy(count_answers(many, signal, 6)).mean()) - 0.5
    rng, shown = np.random.default_rng(readers), 0
    for _ in range(300):
        answers, signal = a_study(rng, readers, scatter, 200, apart)
        mean = over_readers(answers, signal, 6, ["balanced_accuracy"], signal.astype(int))["balanced_accuracy"]
        shown += mean.equivalence(margin).shown
    assert shown / 300 <= 0.08


@pytest.mark.parametrize("choice", ["always real", "always synthetic", "perfect", "always wrong"])
def test_readers_who_are_all_alike_are_no_surer_than_one_of_them(choice: str) -> None:
    signal = np.arange(40) % 2 == 0
    of_choice = {
        "always real": np.full(40, 5), "always synthetic": np.zeros(40, int),
        "perfect": np.where(signal, 5, 0), "always wrong": np.where(signal, 0, 5),
    }  # fmt: skip
    answers = of_choice[choice][None].repeat(4, 0)
    found = over_readers(answers, signal, 6, [*FIGURES, "specificity"], signal.astype(int))
    one = count_answers(answers[0], signal, 6)
    for name, mean in found.items():
        assert mean.interval.low <= mean.value <= mean.interval.high, name
        wanted = INTERVALS[name](one)
        assert mean.interval.high - mean.interval.low == pytest.approx(wanted.high - wanted.low, rel=0.01), name
    d_prime = found["d_prime"].interval
    assert (d_prime.low < 0 < d_prime.high) == (choice in ("always real", "always synthetic"))
    assert not found["balanced_accuracy"].equivalence(0.05).shown


def test_more_readers_make_it_surer_but_no_surer_than_the_cells_are() -> None:
    def width(readers: int, cells: int) -> float:
        answers, signal = a_study(np.random.default_rng(0), readers, 0.2, cells)
        found = over_readers(answers, signal, 6, FIGURES, signal.astype(int))["balanced_accuracy"].interval
        return found.high - found.low

    assert width(10, 100) < width(2, 100)
    assert width(10, 400) < width(10, 100) < 2 * width(300, 100)


def test_readers_at_chance_are_shown_to_be_so_by_many_cells_alone() -> None:
    signal = np.arange(1000) % 2 == 0
    guesses = np.random.default_rng(0).integers(0, 6, (4, 1000))

    def shown(answers: np.ndarray, cells: int) -> bool:
        found = over_readers(answers[:, :cells], signal[:cells], 6, FIGURES, signal[:cells].astype(int))
        return found["balanced_accuracy"].equivalence().shown

    assert shown(guesses, 1000)
    assert not shown(guesses, 20)
    assert not shown(np.where(signal, 5, 0)[None].repeat(4, 0), 1000)


def test_where_strata_decide_all_answers_nothing_is_sure() -> None:
    # Within each stratum every answer is the same, so that no cell that is left out changes anything.
    signal = np.array([True] * 20 + [False] * 5 + [True] * 5 + [False] * 20)
    strata = np.repeat([0, 1, 2, 3], [20, 5, 5, 20])
    answers = np.where(strata < 2, 1, 0)[None].repeat(3, 0)
    for name, mean in over_readers(answers, signal, 2, FIGURES, strata).items():
        assert mean.interval.low < mean.value < mean.interval.high, name
        assert mean.interval.high - mean.interval.low > 0.05, name


@pytest.mark.parametrize("sizes", [[20, 20], [20, 20, 2, 2, 2, 2, 2, 2], [20, 5, 5, 20], [1, 3]])
def test_a_mean_lies_within_its_interval_whatever_the_strata(sizes: list[int]) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    signal = strata % 2 == 0
    rng = np.random.default_rng(0)
    for _ in range(20):
        answers = np.where(rng.random((3, len(strata))) < 0.7, 5 * signal, rng.integers(0, 6, (3, len(strata))))
        for name, mean in over_readers(answers, signal, 6, FIGURES, strata).items():
            assert mean.interval.low <= mean.value <= mean.interval.high, name


def test_the_variance_between_cells_is_the_binomial_one_of_readers_who_answer_alike() -> None:
    signal = np.arange(100) % 2 == 0
    right = np.random.default_rng(0).random(100) < 0.7
    answers = np.where(right == signal, 1, 0)[None].repeat(2, 0)
    found = over_readers(answers, signal, 2, ["balanced_accuracy"], signal.astype(int))["balanced_accuracy"]
    shares = right[signal].mean(), right[~signal].mean()
    wanted = sum(share * (1 - share) / 49 for share in shares) / 4
    assert found.below == pytest.approx(np.sqrt(wanted))
    assert found.freedom == np.inf


def test_the_mean_of_whom_a_figure_is_not_defined_of_is_that_of_the_others() -> None:
    signal = np.array([True, False] * 10)
    perfect = np.where(signal, 1, 0)
    only_signals = np.where(signal, 1, -1)
    found = over_readers(np.stack([perfect, only_signals]), signal, 2, ["specificity", "recall"], signal.astype(int))
    assert found["specificity"].value == 1.0
    assert found["recall"].value == 1.0
    nobody = over_readers(only_signals[None], signal, 2, ["specificity"], signal.astype(int))["specificity"]
    assert np.isnan([nobody.value, nobody.interval.low]).all()
