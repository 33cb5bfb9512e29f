"""How far readers agree with each other, and with themselves, beyond what chance would give."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.evaluation.intervals import Estimate, fewer, percentiles
from wbc_diffusers.readers.certainty import REPLICATES

Answers = NDArray[np.integer]


def cohens_kappa(first: Answers, second: Answers, levels: int, *, graded: bool = False) -> float:
    """Agreement of two readers, or of one with itself (Cohen 1960): 1 is always, 0 is as often as by chance.

    Args:
        first: Answers of the one, from 0 to `levels` - 1, or -1 where there is none (N,).
        second: Answers of the other to the same images (N,).
        levels: How many answers there are.
        graded: Whether answers are grades, so that a disagreement weighs the square of its distance (Cohen 1968).

    Returns:
        The kappa, not a number where both always gave the same one answer, or nothing was answered by both.
    """
    both = (first >= 0) & (second >= 0)
    table = np.bincount(first[both] * levels + second[both], minlength=levels**2).reshape(levels, levels)
    places = np.arange(levels)
    apart = places[:, None] - places
    weights = apart**2 if graded else apart != 0
    count = table.sum()
    by_chance = np.outer(table.sum(1), table.sum(0))
    if not count or not (weights * by_chance).sum():
        return float("nan")
    return float(1 - count * (weights * table).sum() / (weights * by_chance).sum())


def fleiss_kappa(answers: Answers, levels: int) -> float:
    """Agreement of several readers (Fleiss 1971), over the images that all of them answered.

    Args:
        answers: Of each reader to each image, from 0 to `levels` - 1, or -1 where there is none (R, N).
        levels: How many answers there are.

    Returns:
        The kappa, not a number where all always gave the same one answer, or no image was answered by all.
    """
    whole = answers[:, (answers >= 0).all(0)]
    readers, images = whole.shape
    if readers < 2 or not images:
        return float("nan")
    given = np.stack([(whole == level).sum(0) for level in range(levels)], axis=1)
    agreed = ((given**2).sum(1) - readers) / (readers * (readers - 1))
    by_chance = ((given.sum(0) / (readers * images)) ** 2).sum()
    return float("nan") if by_chance == 1 else float((agreed.mean() - by_chance) / (1 - by_chance))


def with_interval(
    kappa: Callable[[Answers], float], answers: Answers, *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """A kappa of answers (R, N) with its 95 % interval: a bootstrap draws images anew.

    Args:
        kappa: A function of the answers.
        answers: Of each reader, or of each time that a reader saw them.
        replicates: How many are drawn.
        seed: Of the draws.
    """
    value = kappa(answers)
    rng, count = np.random.default_rng(seed), answers.shape[1]
    drawn = [kappa(answers[:, rng.integers(0, count, fewer(count))]) for _ in range(replicates if count else 0)]
    found = np.array([one for one in drawn if not np.isnan(one)])
    return percentiles(value, found) if len(found) else Estimate(value, float("nan"), float("nan"))
