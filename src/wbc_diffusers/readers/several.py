"""The mean of a figure over readers, and what it might have been of other readers and other cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.evaluation.intervals import LEVEL, Estimate, fewer, mean_of_drawn_rows, percentiles
from wbc_diffusers.readers import detection
from wbc_diffusers.readers.certainty import INTERVALS, MARGIN, Equivalence, check_margin
from wbc_diffusers.readers.detection import Numbers, count_answers

REPLICATES = 2000
LEAST_REPLICATES = 100
"""Of fewer no interval is read."""
_UNBOUNDED = ("d_prime", "criterion")


@dataclass(frozen=True)
class OverReaders:
    """The mean of a figure over readers.

    Attributes:
        value: The mean over the readers of whom it is defined, not a number if it is of none.
        drawn: The same of each replicate (B,), but for those in which it is not defined.
    """

    value: float
    drawn: Numbers

    @property
    def interval(self) -> Estimate:
        """The mean with its 95 % interval; bounds are no numbers where most replicates have no value."""
        if len(self.drawn) < LEAST_REPLICATES:
            return Estimate(self.value, float("nan"), float("nan"))
        return percentiles(self.value, self.drawn)

    def equivalence(self, margin: float = MARGIN) -> Equivalence:
        """Test that the mean is 0.5 for all practical purposes: the 90 % interval must lie within the margin."""
        check_margin(margin)
        if len(self.drawn) < LEAST_REPLICATES:
            return Equivalence(margin, 1.0)
        outside = max(np.mean(self.drawn <= 0.5 - margin), np.mean(self.drawn >= 0.5 + margin))
        return Equivalence(margin, float((outside * len(self.drawn) + 1) / (len(self.drawn) + 1)))


def over_readers(
    answers: NDArray[np.integer],
    signal: NDArray[np.bool_],
    levels: int,
    figures: Sequence[str],
    strata: NDArray[np.integer],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, OverReaders]:
    """The mean of each figure over readers, with replicates that draw readers and cells anew.

    Each replicate draws cells, the same for all readers, of each stratum as many as it has, and readers; one fewer than
    there are, so that the variance of few is not too small (McCarthy and Snowden 1985). A reader whose table has an
    empty cell has the same one empty in every draw, as if that were sure: his own interval is added to the scatter, for
    all such readers at once, as if they had erred together. Where readers differ by chance alone, intervals are wider
    than need be (Owen 2007). With one reader only the cells are drawn: the figure is of that reader alone.
    docs/readers.md has what the intervals covered.

    Args:
        answers: Of each reader to each cell (R, N), as `count_answers` takes them.
        signal: Which cells are signals (N,), or are so for each reader (R, N).
        levels: How many answers there are.
        figures: Names of `INTERVALS`.
        strata: Which stratum each cell is of (N,): real and synthetic ones are of different strata.
        replicates: How many are drawn.
        seed: Of the draws.
    """
    counts = count_answers(answers, signal, levels)
    drawn = count_answers(answers, signal, levels, _draw_cells(strata, replicates, seed))
    return {name: _mean(name, counts, drawn, seed) for name in figures}


def _mean(name: str, counts: Numbers, drawn: Numbers, seed: int) -> OverReaders:
    """The mean of a figure of readers' counts (R, 2, L) and of those of each draw of cells (R, B, 2, L).

    It is not defined for readers who answered no signal, or no noise, and in replicates that drew none.
    """
    measure = getattr(detection, name)
    values = measure(counts)
    there = ~np.isnan(values)
    if not there.any():
        return OverReaders(float("nan"), np.array([]))
    means = mean_of_drawn_rows(measure(drawn[there]), [seed, 1])
    means = means + _unseen(name, counts[there], len(means), seed)
    means = means if name in _UNBOUNDED else np.clip(means, 0.0, 1.0)
    return OverReaders(float(values[there].mean()), means[~np.isnan(means)])


def _unseen(name: str, counts: Numbers, replicates: int, seed: int) -> Numbers:
    """What no draw sees of the error of the mean (B,): that of readers whose table has an empty cell."""
    rows = {"recall": slice(0, 1), "specificity": slice(1, 2)}.get(name, slice(0, 2))
    empty = (detection.confusion(counts)[:, rows] == 0).any((1, 2))
    own = [INTERVALS[name](each) for each in counts[empty]]
    below, above = (
        sum(reach) / len(counts) for reach in ([e.value - e.low for e in own], [e.high - e.value for e in own])
    )
    scatter = np.random.default_rng([seed, 2]).standard_normal(replicates) / stats.norm.ppf(0.5 + LEVEL / 2)
    return np.where(scatter < 0, below, above) * scatter


def _draw_cells(strata: NDArray[np.integer], replicates: int, seed: int) -> NDArray[np.int64]:
    """How often each cell is drawn (N, B), with repetition, of each stratum one fewer than there are."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((len(strata), replicates), np.int64)
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        shares = np.full(len(places), 1 / len(places))
        drawn[places] = rng.multinomial(fewer(len(places)), shares, size=replicates).T
    return drawn
