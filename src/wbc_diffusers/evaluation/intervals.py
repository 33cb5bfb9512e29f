"""95 % intervals.

Those of distances between sets of features draw nothing twice: an image drawn twice would be its own nearest neighbour,
so the jackknife is used, which leaves images out. Those of what is counted image by image are a bootstrap's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
GROUPS = 20


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def groups_of(count: int, groups: int = GROUPS, seed: int = 0) -> NDArray[np.int64]:
    """Deal images out to groups at random, as evenly as can be: the number of its group for each."""
    return np.random.default_rng(seed).permutation(np.arange(count) % groups)


def jackknife(value: float, left_out: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """The interval of a value from those with one group of images left out each (Efron and Stein 1981).

    Where two samples are compared, group i of both is left out at once: the variances add up.
    """
    return around(value, jackknife_error(left_out), len(left_out) - 1)


def jackknife_share(value: float, left_out: Sequence[float] | NDArray[np.float64], count: int) -> Estimate:
    """The same of a share between 0 and 1, of `count` images.

    Where it is 0 or 1 whatever is left out, the jackknife sees no error; the binomial interval (exact) does.
    """
    if value in (0, 1) and not jackknife_error(left_out):
        return share(round(value * count), count)
    found = jackknife(value, left_out)
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))


def halves(count: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of `count` images, dealt out to two halves at random."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // 2], order[count // 2 :]


def jackknife_error(left_out: Sequence[float] | NDArray[np.float64]) -> float:
    """Standard error from the values with one group left out each."""
    values = np.asarray(left_out, np.float64)
    return float(np.sqrt((len(values) - 1) * np.mean((values - values.mean()) ** 2)))


def around(value: float, error: float, freedom: float) -> Estimate:
    """The interval of a value with a standard error, by Student's t."""
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * error
    return Estimate(value, value - reach, value + reach)


def share(hits: int, count: int) -> Estimate:
    """A share and its exact binomial interval (Clopper and Pearson 1934)."""
    found = stats.binomtest(hits, count).proportion_ci(LEVEL, method="exact")
    return Estimate(hits / count, float(found.low), float(found.high))


def percentiles(value: float, drawn: NDArray[np.float64]) -> Estimate:
    """The interval between the percentiles of a figure's bootstrap replicates."""
    low, high = np.quantile(drawn, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Estimate(value, float(low), float(high))


def mean_of_drawn_rows(values: NDArray[np.float64], seed: Sequence[int]) -> NDArray[np.float64]:
    """The mean (B,) of a figure's values (R, B), such as of seeds or readers, over the rows that each replicate draws.

    Drawn are `fewer` than there are.
    """
    count, replicates = values.shape
    chosen = np.random.default_rng(seed).integers(0, count, (fewer(count), replicates))
    drawn: NDArray[np.float64] = np.take_along_axis(values, chosen, axis=0).mean(axis=0)
    return drawn


def fewer(count: int) -> int:
    """How many of few a bootstrap draws: one less, so that their variance is not too small.

    McCarthy and Snowden (1985), The bootstrap and finite population sampling.
    """
    return max(count - 1, 1)


def curve(measure: Callable[[int], float], largest: int, steps: int = 8) -> list[tuple[int, float]]:
    """A measure by number of images, from a quarter to all of them, evenly spread in 1 / n."""
    counts = np.unique(np.round(1 / np.linspace(1 / largest, 4 / largest, steps)).astype(int))
    return [(int(n), measure(int(n))) for n in counts]


def extrapolate(points: Sequence[tuple[int, float]], error: float) -> Estimate:
    """What a measure would be of infinitely many images, where its bias falls as 1 / n (Chong and Forsyth 2020, 4).

    Args:
        points: The measure by number of images.
        error: Standard error of the measure of all images. The interval holds it, and the line's own.
    """
    counts, values = np.array(points, np.float64).T
    line = stats.linregress(1 / counts, values)
    return around(float(line.intercept), sqrt(line.intercept_stderr**2 + error**2), GROUPS - 1)
