"""What synthetic images are worth in real ones: the dose response of both, and the rate at which they exchange."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from wbc_diffusers.evaluation.intervals import LEVEL, Estimate, percentiles
from wbc_diffusers.study.compare import REPLICATES, Runs, bootstrap
from wbc_diffusers.study.measures import SPECIFICITY

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Exchange:
    """How many real rare images some synthetic ones were worth, beyond those that the baseline has.

    The curve of real images is known from its least to its largest number alone. Whatever lies outside is put at the
    end that it lies beyond, and marked.

    Attributes:
        synthetic: Synthetic images.
        recall: Recall at the specificity that was reached with them.
        worth: Real images that reach the same, less the baseline's.
        bound: How to read the value of `worth`: "" as it is; "less than" it, where the recall lies below the curve; "at
            least" it, where the recall lies above.
        low_open: The interval of `worth` goes on below its lower end, by no one knows how much.
        high_open: It goes on above its upper end.
    """

    synthetic: int
    recall: Estimate
    worth: Estimate
    bound: Literal["", "less than", "at least"]
    low_open: bool
    high_open: bool


def exchange_rate(
    doses: Mapping[int, Runs],
    more_real: Mapping[int, Runs],
    real_count: int,
    *,
    specificity: float = SPECIFICITY,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Exchange]:
    """Find how many real images more would have had the effect of synthetic ones.

    The recall by the logarithm of the number of real images, made monotone, is interpolated and read backwards at the
    recall with synthetic images. Intervals are those of `bootstrap`: each replicate draws the curve and what is read
    off it at once, from the same images.

    Args:
        doses: By number of synthetic images the runs with them and the baseline's real ones.
        more_real: By number of real rare images the runs without synthetic ones, the baseline's among them.
        real_count: Real rare images that the baseline has.
        specificity: Least share of the normals that must not be called abnormal.
        replicates: How many are drawn.
        seed: Of the draws.

    Returns:
        What each dose was worth, the smallest dose first.

    Raises:
        ValueError: If there is no curve with the baseline on it, a number is no number of images, an arm has no run, or
            runs are not of the same images.
    """
    _check(doses, more_real, real_count)
    numbers, counts = sorted(doses), sorted(more_real)
    arms = [*(doses[n] for n in numbers), *(more_real[m] for m in counts)]
    values, drawn = bootstrap(arms, specificity=specificity, replicates=replicates, seed=seed)
    runs = [len(more_real[m]) for m in counts]
    # The first column is what was measured, the others are the replicates.
    recalls = np.column_stack([values, drawn])
    found = np.stack([_read_off(column, counts, runs) for column in recalls.T], axis=1)
    return [
        _exchange(n, own, worth, counts, real_count)
        for n, own, worth in zip(numbers, recalls[: len(numbers)], found, strict=True)
    ]


def _read_off(recalls: Numbers, counts: Sequence[int], runs: Sequence[int]) -> Numbers:
    """Read off the real images that each dose is worth (D,): 0 or infinite beyond the ends of the curve.

    Args:
        recalls: Those of the doses and then those of the real curve (D + M,).
        counts: Real images at each point of the curve, ascending (M,).
        runs: Runs at each point: its weight.
    """
    asked, measured = np.split(recalls, [-len(counts)])
    curve = isotonic_regression(measured, weights=runs).x
    logs = np.log(counts)
    # The first point that reaches it: of a level stretch the least number, as no more was needed.
    after = np.searchsorted(curve, asked, "left")
    inside = np.clip(after, 1, len(counts) - 1)
    low, high = curve[inside - 1], curve[inside]
    share = (asked - low) / np.where(high > low, high - low, 1)
    found = np.exp(logs[inside - 1] + share * (logs[inside] - logs[inside - 1]))
    found[asked < curve[0]] = 0
    found[after == len(counts)] = np.inf
    return found


def _exchange(synthetic: int, recalls: Numbers, found: Numbers, counts: Sequence[int], real_count: int) -> Exchange:
    worth = np.clip(found, counts[0], counts[-1]) - real_count
    tail = 0.5 - LEVEL / 2
    return Exchange(
        synthetic=synthetic,
        recall=percentiles(float(recalls[0]), recalls[1:]),
        worth=percentiles(float(worth[0]), worth[1:]),
        bound="less than" if found[0] == 0 else "at least" if np.isinf(found[0]) else "",
        low_open=bool(np.mean(found[1:] == 0) >= tail),
        high_open=bool(np.mean(np.isinf(found[1:])) >= tail),
    )


def _check(doses: Mapping[int, Runs], more_real: Mapping[int, Runs], real_count: int) -> None:
    if len(more_real) < 2 or real_count not in more_real:
        raise ValueError(
            f"there are runs with {sorted(more_real)} real images, and the baseline has {real_count}: a curve needs "
            "two numbers or more, the baseline's among them"
        )
    if not doses or min(*doses, *more_real) < 1:
        raise ValueError(
            f"there are runs with {sorted(doses)} synthetic images, and with {sorted(more_real)} real ones: give "
            "numbers of 1 or more; the baseline without synthetic images is a point of the real curve"
        )
