"""How sure the figures of a reader study are: of one reader's answers, and of several readers and other cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.evaluation.intervals import LEVEL, Estimate, fewer, mean_of_drawn_rows, percentiles
from wbc_diffusers.readers.detection import Numbers, count_answers

REPLICATES = 2000
LEAST_REPLICATES = 100
"""Of fewer no interval is read."""
MARGIN = 0.1
"""Shares within 0.5 ± 0.1 are called as good as chance."""
ALPHA = 0.05

Measure = Callable[[Numbers], Numbers]


@dataclass(frozen=True)
class Equivalence:
    """A test that a share is 0.5 for all practical purposes: that it is neither 0.5 - margin or below, nor above.

    Attributes:
        margin: How far from 0.5 is still as good as chance.
        p: Chance of such a share or one nearer to 0.5, were the true one at the margin.
        shown: Whether `p` is below 0.05.
    """

    margin: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the share is shown to be as good as chance; if not, it may be so all the same."""
        return self.p < ALPHA


def wilson(hits: int, count: int) -> Estimate:
    """A share and its score interval (Wilson 1927)."""
    found = stats.binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return Estimate(hits / count, float(found.low), float(found.high))


def equivalence(hits: int, count: int, margin: float = MARGIN) -> Equivalence:
    """Test that independent answers are right as often as by chance: two exact one-sided tests (Schuirmann 1987)."""
    _check_margin(margin)
    above = stats.binomtest(hits, count, 0.5 - margin, alternative="greater").pvalue
    below = stats.binomtest(hits, count, 0.5 + margin, alternative="less").pvalue
    return Equivalence(margin, float(max(above, below)))


# -- several readers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OverReaders:
    """The mean of a measure over readers, and what it might have been of other readers and other cells.

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
        _check_margin(margin)
        if len(self.drawn) < LEAST_REPLICATES:
            return Equivalence(margin, 1.0)
        outside = max(np.mean(self.drawn <= 0.5 - margin), np.mean(self.drawn >= 0.5 + margin))
        return Equivalence(margin, float((outside * len(self.drawn) + 1) / (len(self.drawn) + 1)))


def over_readers(
    answers: NDArray[np.integer],
    signal: NDArray[np.bool_],
    levels: int,
    measures: Mapping[str, Measure],
    strata: NDArray[np.integer],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, OverReaders]:
    """The mean of each measure over readers, with replicates that draw readers and cells anew.

    Each replicate draws cells, the same for all readers, of each stratum as many as it has, and readers; one fewer than
    there are, so that the variance of few is not too small (McCarthy and Snowden 1985). Where readers differ by chance
    alone, intervals are wider than need be (Owen 2007). With one reader only the cells are drawn: the figure is of that
    reader alone. docs/readers.md has what the intervals covered.

    Args:
        answers: Of each reader to each cell (R, N), as `count_answers` takes them.
        signal: Which cells are signals (N,), or are so for each reader (R, N).
        levels: How many answers there are.
        measures: Functions of `detection`, by name.
        strata: Which stratum each cell is of (N,): real and synthetic ones are of different strata.
        replicates: How many are drawn.
        seed: Of the draws.
    """
    counts = count_answers(answers, signal, levels)
    drawn = count_answers(answers, signal, levels, _draw_cells(strata, replicates, seed))
    return {name: _mean(measure(counts), measure(drawn), [seed, 1]) for name, measure in measures.items()}


def _mean(values: Numbers, drawn: Numbers, seed: Sequence[int]) -> OverReaders:
    """The mean of readers' values (R,) and of those of each draw of cells (R, B), where they are defined.

    They are not where a reader answered no signal, or no noise, or none was drawn.
    """
    there = ~np.isnan(values)
    if not there.any():
        return OverReaders(float("nan"), np.array([]))
    means = mean_of_drawn_rows(drawn[there], seed)
    return OverReaders(float(values[there].mean()), means[~np.isnan(means)])


def _draw_cells(strata: NDArray[np.integer], replicates: int, seed: int) -> NDArray[np.int64]:
    """How often each cell is drawn (N, B), with repetition, of each stratum one fewer than there are."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((len(strata), replicates), np.int64)
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        shares = np.full(len(places), 1 / len(places))
        drawn[places] = rng.multinomial(fewer(len(places)), shares, size=replicates).T
    return drawn


def _check_margin(margin: float) -> None:
    if not 0.0 < margin < 0.5:
        raise ValueError(f"the margin is {margin}; it must lie between 0 and 0.5, such as {MARGIN}")
