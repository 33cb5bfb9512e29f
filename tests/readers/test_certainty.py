"""How sure one reader's figures are: against scipy and statsmodels, and by all the answers that there could be."""

from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom, hypergeom, norm
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from wbc_diffusers.readers import detection
from wbc_diffusers.readers.certainty import INTERVALS, Equivalence, equivalence, sees_difference, wilson

EXTREMES = [[[50, 0], [50, 0]], [[0, 50], [0, 50]], [[50, 0], [0, 50]], [[0, 50], [50, 0]], [[1, 0], [0, 1]]]


def of_table(table: list[list[int]]) -> np.ndarray:
    """Rows are signals and noise, columns called signal and called noise."""
    return np.array(table, np.float64)[:, ::-1]


@pytest.mark.parametrize(("hits", "count"), [(19, 40), (0, 20), (50, 50), (64, 100)])
def test_the_interval_of_a_share_is_statsmodels(hits: int, count: int) -> None:
    found = wilson(hits, count)
    assert (found.low, found.high) == pytest.approx(proportion_confint(hits, count, method="wilson"))
    assert found.value == hits / count


@pytest.mark.parametrize("table", [[[48, 2], [34, 16]], [[12, 28], [30, 30]], [[20, 0], [7, 5]]])
def test_the_interval_of_the_balanced_accuracy_is_that_of_a_difference(table: list[list[int]]) -> None:
    (hits, misses), (alarms, rejected) = table
    found = INTERVALS["balanced_accuracy"](of_table(table))
    wanted = confint_proportions_2indep(hits, hits + misses, alarms, alarms + rejected, method="newcomb")
    assert (2 * found.low - 1, 2 * found.high - 1) == pytest.approx(wanted)
    assert found.value == pytest.approx(detection.balanced_accuracy(of_table(table)))


@pytest.mark.parametrize("table", EXTREMES)
def test_nothing_is_sure_where_a_cell_of_the_table_is_empty(table: list[list[int]]) -> None:
    for name, interval in INTERVALS.items():
        found = interval(of_table(table))
        assert found.low <= found.value <= found.high, name
        assert found.high - found.low > 0.02, name
        assert np.isfinite([found.low, found.high]).all(), name


@pytest.mark.parametrize("table", [*EXTREMES[:2], [[20, 0], [10, 0]], [[0, 7], [0, 60]]])
def test_who_always_says_the_same_sees_no_difference(table: list[list[int]]) -> None:
    found = INTERVALS["d_prime"](of_table(table))
    assert found.value == pytest.approx(0)
    assert found.low < -1 < 1 < found.high
    assert sees_difference(of_table(table)) == 1.0


def test_the_interval_of_the_area_is_that_of_the_equation_it_solves() -> None:
    counts = np.array([[1, 4, 15], [9, 8, 3]], float)
    counts = np.concatenate([counts, np.zeros((2, 1))], axis=1)
    found = INTERVALS["auc"](counts)
    for bound in (found.low, found.high):
        # Hanley and McNeil's variance with both numbers put to their mean, as Newcombe writes it.
        q1, q2, more = bound / (2 - bound), 2 * bound**2 / (1 + bound), (20 + 20) / 2 - 1
        variance = (bound * (1 - bound) + more * (q1 - bound**2) + more * (q2 - bound**2)) / (20 * 20)
        assert abs(found.value - bound) == pytest.approx(norm.ppf(0.975) * np.sqrt(variance))


# -- every table that there could be ----------------------------------------------------------------------------------


@cache
def all_tables(signals: int, noise: int) -> dict[tuple[int, int], np.ndarray]:
    """Every table of so many signals and noise, by hits and false alarms."""
    return {
        (hits, alarms): of_table([[hits, signals - hits], [alarms, noise - alarms]])
        for hits in range(signals + 1)
        for alarms in range(noise + 1)
    }


def chances(signals: int, noise: int, hit_rate: float, alarm_rate: float) -> np.ndarray:
    """How likely each of them is."""
    return np.outer(
        binom.pmf(np.arange(signals + 1), signals, hit_rate), binom.pmf(np.arange(noise + 1), noise, alarm_rate)
    )


@pytest.mark.parametrize(("signals", "noise"), [(20, 20), (40, 25)])
@pytest.mark.parametrize(
    ("d_prime", "criterion"), [(0, 0), (0, -1), (0, -2), (0.5, 0), (1.28, -1.1), (2, 0), (3, 0), (3, -1), (4, 0)]
)
def test_intervals_hold_the_truth_about_95_times_in_100(
    signals: int, noise: int, d_prime: float, criterion: float
) -> None:
    hit_rate, alarm_rate = norm.cdf(d_prime / 2 - criterion), norm.cdf(-d_prime / 2 - criterion)
    truth = {
        "d_prime": d_prime, "criterion": criterion, "balanced_accuracy": (hit_rate + 1 - alarm_rate) / 2,
    }  # fmt: skip
    likely = chances(signals, noise, hit_rate, alarm_rate)
    held = dict.fromkeys(truth, 0.0)
    for (hits, alarms), counts in all_tables(signals, noise).items():
        if likely[hits, alarms] > 1e-7:
            for name, true in truth.items():
                found = INTERVALS[name](counts)
                held[name] += likely[hits, alarms] * (found.low <= true <= found.high)
    assert min(held.values()) > 0.91, held


def test_a_difference_is_seen_in_5_of_100_studies_at_most_where_there_is_none() -> None:
    seen = np.array([sees_difference(counts) < 0.05 for counts in all_tables(40, 25).values()]).reshape(41, 26)
    for rate in (0.02, 0.3, 0.5, 0.9):
        assert chances(40, 25, rate, rate)[seen].sum() <= 0.05


def test_the_test_of_a_difference_is_fishers() -> None:
    # All tables of the same sums that are no likelier than the one that was found.
    likely = hypergeom.pmf(np.arange(26), 65, 40, 25)
    assert sees_difference(of_table([[20, 20], [5, 20]])) == pytest.approx(likely[likely <= likely[20] * 1.0001].sum())


def test_where_a_difference_is_seen_the_interval_of_d_prime_excludes_0() -> None:
    for counts in all_tables(40, 25).values():
        found = INTERVALS["d_prime"](counts)
        assert sees_difference(counts) >= 0.05 or not found.low <= 0 <= found.high


def test_the_test_of_equivalence_is_farrington_and_mannings() -> None:
    # Their appendix: the restricted estimate is a root of a cubic. That of statsmodels 0.14 is less likely.
    one, two, ratio, error = 110 / 200, 95 / 180, 180 / 200, []
    for gap in (-0.2, 0.2):
        cubic = [
            1 + ratio,
            -(1 + ratio + one + ratio * two + gap * (ratio + 2)),
            gap**2 + gap * (2 * one + ratio + 1) + one + ratio * two,
            -one * gap * (1 + gap),
        ]
        first = next(root.real for root in np.roots(cubic) if max(0, gap) < root.real < min(1, 1 + gap))
        second = first - gap
        error.append((one - two - gap) / np.sqrt(first * (1 - first) / 200 + second * (1 - second) / 180))
    found = equivalence(of_table([[110, 90], [95, 85]]))
    assert found.p == pytest.approx(norm.sf(min(error[0], -error[1])), rel=1e-4)
    assert found == Equivalence(0.1, found.p)


def test_the_restricted_estimate_is_the_likeliest() -> None:
    def unlikely(shares: np.ndarray) -> float:
        return -binom.logpmf(18, 20, shares[0]) - binom.logpmf(9, 30, shares[1])

    limits = {"type": "eq", "fun": lambda shares: shares[0] - shares[1] - 0.2}
    best = minimize(unlikely, [0.6, 0.4], bounds=[(0.01, 0.99)] * 2, constraints=limits, tol=1e-10).x
    error = np.sqrt(best[0] * (1 - best[0]) / 20 + best[1] * (1 - best[1]) / 30)
    assert equivalence(of_table([[18, 2], [9, 21]])).p == pytest.approx(norm.sf((0.2 - (0.9 - 0.3)) / error), rel=1e-3)


def test_who_is_as_far_from_chance_as_the_margin_is_called_equivalent_about_5_times_in_100_at_most() -> None:
    shown = {(side, gap): 0.0 for side in ("even", "uneven", "few") for gap in (-0.2, 0.2)}
    for side, (signals, noise) in (("even", (60, 60)), ("uneven", (72, 48)), ("few", (20, 20))):
        told = np.array([equivalence(counts).shown for counts in all_tables(signals, noise).values()])
        told = told.reshape(signals + 1, noise + 1)
        for gap in (-0.2, 0.2):
            for alarms in np.linspace(0, 1, 41):
                if 0 <= alarms + gap <= 1:
                    size = chances(signals, noise, alarms + gap, alarms)[told].sum()
                    shown[side, gap] = max(shown[side, gap], size)
    assert min(shown.values()) > 0.03
    assert max(shown.values()) < 0.07
    assert max(shown["even", 0.2], shown["uneven", 0.2]) < 0.065


def test_few_answers_show_nothing_whatever_they_are() -> None:
    assert not equivalence(of_table([[10, 0], [10, 0]])).shown
    assert not equivalence(of_table([[5, 5], [5, 5]])).shown
    assert equivalence(of_table([[50, 50], [50, 50]]), 0.2).shown
    assert equivalence(of_table([[50, 0], [50, 0]])).shown


def test_a_margin_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the margin is 0\.5"):
        equivalence(of_table([[1, 1], [1, 1]]), 0.5)
