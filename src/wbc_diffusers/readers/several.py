"""The mean of a figure over readers, and what it might have been of other readers and other cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.evaluation.intervals import LEVEL, Estimate
from wbc_diffusers.readers import detection
from wbc_diffusers.readers.certainty import INTERVALS, MARGIN, Equivalence, Z, check_margin
from wbc_diffusers.readers.detection import Numbers, count_answers

_UNBOUNDED = ("d_prime", "criterion")


@dataclass(frozen=True)
class OverReaders:
    """The mean of a figure over readers.

    Attributes:
        value: The mean over the readers of whom it is defined, not a number if it is of none.
        below: Standard error of how far the truth may lie below.
        above: The same above.
        freedom: Degrees of freedom of Student's t, infinite where readers don't differ.
        bounded: Whether it is a share.
    """

    value: float
    below: float
    above: float
    freedom: float
    bounded: bool

    @property
    def interval(self) -> Estimate:
        """The mean with its 95 % interval."""
        reach = float(stats.t.ppf(0.5 + LEVEL / 2, self.freedom))
        low, high = self.value - reach * self.below, self.value + reach * self.above
        return Estimate(self.value, max(low, 0.0), min(high, 1.0)) if self.bounded else Estimate(self.value, low, high)

    def equivalence(self, margin: float = MARGIN) -> Equivalence:
        """Test that the mean is 0.5 for all practical purposes: two one-sided t tests (Schuirmann 1987)."""
        check_margin(margin)
        sides = ((self.value - 0.5 + margin, self.below), (0.5 + margin - self.value, self.above))
        far = min(gap / error if error else np.sign(gap) * inf for gap, error in sides)
        return Equivalence(margin, float(stats.t.sf(far, self.freedom)))


def over_readers(
    answers: NDArray[np.integer],
    signal: NDArray[np.bool_],
    levels: int,
    figures: Sequence[str],
    strata: NDArray[np.integer],
) -> dict[str, OverReaders]:
    """The mean of each figure over readers, for other readers and other cells of the same strata.

    The variance is that of Obuchowski and Rockette (1995), the freedom Hillis's (2007): between readers the mean square
    of their figures; between cells, which all readers saw, the covariance that leaving out one cell at a time gives
    (jackknife). With one reader only cells vary: the figure is of that reader alone.

    A reader whose table has an empty cell has the same one empty whatever is left out, as if that were sure: his own
    interval is added, for all such readers at once, as if they had erred together. And no mean is surer than if all
    readers' own errors were independent. docs/readers.md has what the intervals covered.

    Args:
        answers: Of each reader to each cell (R, N), as `count_answers` takes them.
        signal: Which cells are signals (N,), or are so for each reader (R, N).
        levels: How many answers there are.
        figures: Names of `INTERVALS`.
        strata: Which stratum each cell is of (N,): real and synthetic ones are of different strata.
    """
    counts = count_answers(answers, signal, levels)
    left_out = count_answers(answers, signal, levels, 1 - np.eye(len(strata), dtype=np.int64))
    return {name: _mean(name, counts, left_out, strata) for name in figures}


def _mean(name: str, counts: Numbers, left_out: Numbers, strata: NDArray[np.integer]) -> OverReaders:
    """The mean of a figure of readers' counts (R, 2, L), given those without each cell (R, N, 2, L)."""
    measure = getattr(detection, name)
    values = measure(counts)
    there = ~np.isnan(values)
    readers, bounded = int(there.sum()), name not in _UNBOUNDED
    if not readers:
        return OverReaders(nan, nan, nan, nan, bounded)
    between = float(values[there].var(ddof=1)) if readers > 1 else 0.0
    shared = _shared_error(measure(left_out[there]), strata)
    own = [INTERVALS[name](each) for each in counts[there]]
    empty = _has_empty_cell(name, counts[there])
    freedom = (between + readers * shared) ** 2 / (between**2 / (readers - 1)) if between else inf
    below, above = (
        _error(between / readers + shared, np.array(reaches) / Z, empty)
        for reaches in ([each.value - each.low for each in own], [each.high - each.value for each in own])
    )
    return OverReaders(float(values[there].mean()), below, above, freedom, bounded)


def _error(seen: float, own: Numbers, empty: NDArray[np.bool_]) -> float:
    """Standard error of a mean of readers, of the variance that is seen and of the readers' own errors (R,)."""
    unseen = own[empty].sum() / len(own)
    return sqrt(max(seen + unseen**2, (own**2).sum() / len(own) ** 2))


def _shared_error(values: Numbers, strata: NDArray[np.integer]) -> float:
    """The covariance of two readers' figures, which comes of cells that both saw; of one reader the variance.

    By the jackknife within strata, of the figures (R, N) without each cell.
    """
    scatter = np.zeros((len(values), len(values)))
    for stratum in np.unique(strata):
        of_it = values[:, strata == stratum]
        of_it = of_it[:, ~np.isnan(of_it).any(0)]
        if (count := of_it.shape[1]) > 1:
            apart = of_it - of_it.mean(1, keepdims=True)
            scatter += (count - 1) / count * (apart @ apart.T)
    if len(values) == 1:
        return float(scatter[0, 0])
    pairs = ~np.eye(len(values), dtype=bool)
    return max(float(scatter[pairs].mean()), 0.0)


def _has_empty_cell(name: str, counts: Numbers) -> NDArray[np.bool_]:
    """Of which readers the jackknife sees too little, since they never erred in one way, or always."""
    rows = {"recall": slice(0, 1), "specificity": slice(1, 2)}.get(name, slice(0, 2))
    return np.asarray((detection.confusion(counts)[:, rows] == 0).any((1, 2)))
