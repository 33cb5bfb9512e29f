"""How sure the figures of one reader are, and what tests of them say: exact, or by formulas that hold at 0 and 1 too.

Nothing is drawn here: a table with an empty cell would come out of every draw with that cell empty, as if it were sure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from wbc_diffusers.evaluation.intervals import LEVEL, Estimate
from wbc_diffusers.readers import detection
from wbc_diffusers.readers.detection import Numbers

MARGIN = 0.1
"""Balanced accuracies within 0.5 ± 0.1 are called as good as chance."""
LARGEST_MARGIN = 0.45
ALPHA = 0.05
_EDGE = 1e-9
Z = float(stats.norm.ppf(0.5 + LEVEL / 2))
"""How many standard errors an interval reaches to each side."""


@dataclass(frozen=True)
class Equivalence:
    """A test that a share is 0.5 for all practical purposes: that it is neither 0.5 - margin or below, nor above.

    Attributes:
        margin: How far from 0.5 is still as good as chance.
        p: Chance of such a share or one nearer to 0.5, were the true one at the margin.
    """

    margin: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the share is shown to be as good as chance; if not, it may be so all the same."""
        return self.p < ALPHA


def wilson(hits: float, count: float) -> Estimate:
    """A share and its score interval (Wilson 1927)."""
    found = stats.binomtest(int(hits), int(count)).proportion_ci(LEVEL, method="wilson")
    return Estimate(hits / count, float(found.low), float(found.high))


def accuracy(counts: Numbers) -> Estimate:
    """The share of right answers, of (2, L) counts of `detection`, with Wilson's interval."""
    table = detection.confusion(counts)
    return wilson(np.trace(table), table.sum())


def recall(counts: Numbers) -> Estimate:
    """The share of signals that are called so, with Wilson's interval."""
    (hits, misses), _ = detection.confusion(counts)
    return wilson(hits, hits + misses)


def specificity(counts: Numbers) -> Estimate:
    """The share of noise that is called so, with Wilson's interval."""
    _, (alarms, rejected) = detection.confusion(counts)
    return wilson(rejected, alarms + rejected)


def balanced_accuracy(counts: Numbers) -> Estimate:
    """The mean of recall and specificity, with the interval of a difference of two shares (Newcombe 1998, 10)."""
    one, two = recall(counts), specificity(counts)
    return _of_both(one, two, (one.value + two.value) / 2, 0.5)


def d_prime(counts: Numbers) -> Estimate:
    """Sensitivity, its interval put together from those of z(hits) and z(false alarms), as Newcombe's is."""
    hits, alarms = _deviates(counts)
    return _of_both(hits, Estimate(-alarms.value, -alarms.high, -alarms.low), float(detection.d_prime(counts)))


def criterion(counts: Numbers) -> Estimate:
    """The habit of answering, with its interval likewise."""
    hits, alarms = (Estimate(-each.value, -each.high, -each.low) for each in _deviates(counts))
    return _of_both(hits, alarms, float(detection.criterion(counts)), 0.5)


def auc(counts: Numbers) -> Estimate:
    """The area under the ROC curve, with the score interval of Mann and Whitney's statistic (Newcombe 2006, 5)."""
    value, (signals, noise) = float(detection.auc(counts)), counts.sum(-1)
    more = (signals + noise) / 2 - 1

    def beyond(area: float) -> float:
        scatter = area * (1 - area) * (1 + more * ((1 - area) / (2 - area) + area / (1 + area))) / (signals * noise)
        return float((area - value) ** 2 - Z**2 * scatter)

    low = 0.0 if value == 0 else optimize.brentq(beyond, 0.0, min(value, 1 - _EDGE))
    high = 1.0 if value == 1 else optimize.brentq(beyond, max(value, _EDGE), 1.0)
    return Estimate(value, low, high)


INTERVALS: dict[str, Callable[[Numbers], Estimate]] = {
    "accuracy": accuracy, "recall": recall, "specificity": specificity, "balanced_accuracy": balanced_accuracy,
    "d_prime": d_prime, "criterion": criterion, "auc": auc,
}  # fmt: skip
"""The figures of a reader by the names of the functions in `detection`."""


def sees_difference(counts: Numbers) -> float:
    """p of Fisher's exact test that signals and noise are called signal equally often, whatever the habit."""
    return float(stats.fisher_exact(detection.confusion(counts)).pvalue)


def equivalence(counts: Numbers, margin: float = MARGIN) -> Equivalence:
    """Test that the balanced accuracy is 0.5 for all practical purposes: two one-sided score tests.

    Recall and false alarms differ by twice as much as the balanced accuracy does from 0.5 (Schuirmann 1987; Farrington
    and Manning 1990, eq. 1 with the restricted estimate).
    """
    check_margin(margin)
    (hits, _), (alarms, _) = table = detection.confusion(counts)
    signals, noise = table.sum(1)
    sides = []
    for gap in (-2 * margin, 2 * margin):
        one, two = _restricted(hits / signals, alarms / noise, signals, noise, gap)
        error = sqrt(one * (1 - one) / signals + two * (1 - two) / noise)
        sides.append(np.sign(-gap) * (hits / signals - alarms / noise - gap) / error)
    return Equivalence(margin, float(stats.norm.sf(min(sides))))


def check_margin(margin: float) -> None:
    """Raise ValueError for a margin that can't be one."""
    if not 0.0 < margin <= LARGEST_MARGIN:
        raise ValueError(f"the margin is {margin}; it must lie between 0 and {LARGEST_MARGIN}, such as {MARGIN}")


def _restricted(one: float, two: float, first: float, second: float, gap: float) -> tuple[float, float]:
    """The likeliest shares that differ by so much, where `one` and `two` of so many were found."""

    def unlikely(lower: float) -> float:
        shares = np.array([lower + gap, lower])
        found, counts = np.array([one, two]), np.array([first, second])
        return -float((counts * (found * np.log(shares) + (1 - found) * np.log1p(-shares))).sum())

    bounds = (max(0.0, -gap) + _EDGE, min(1.0, 1.0 - gap) - _EDGE)
    best = float(optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x)
    return best + gap, best


def _deviates(counts: Numbers) -> tuple[Estimate, Estimate]:
    """z of the hit rate and of the false alarm rate, with those of the ends of their Jeffreys intervals.

    These intervals' ends are never 0 or 1, and their mean is the log-linear correction.
    """
    table = detection.confusion(counts)
    values = detection.deviates(counts)
    tails = np.array([0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    ends: NDArray[np.float64] = stats.norm.ppf(stats.beta.ppf(tails, table[:, :1] + 0.5, table[:, 1:] + 0.5))
    hits, alarms = (
        Estimate(float(value), float(low), float(high)) for value, (low, high) in zip(values, ends, strict=True)
    )
    return hits, alarms


def _of_both(one: Estimate, two: Estimate, value: float, factor: float = 1.0) -> Estimate:
    """The interval of a sum of two independent figures, times a factor, from their own (Zou and Donner 2008)."""
    low = factor * sqrt((one.value - one.low) ** 2 + (two.value - two.low) ** 2)
    high = factor * sqrt((one.high - one.value) ** 2 + (two.high - two.value) ** 2)
    return Estimate(value, value - low, value + high)
