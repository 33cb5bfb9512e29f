"""How far readers agree with each other, and with themselves, beyond what chance would give."""

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.evaluation.intervals import Estimate, percentiles
from wbc_diffusers.readers.detection import Numbers, share

Answers = NDArray[np.integer]
REPLICATES = 2000


def cohens_kappa(
    first: Answers, second: Answers, levels: int, *, graded: bool = False, weights: Numbers | None = None
) -> Numbers:
    """Agreement of two readers, or of one with itself (Cohen 1960): 1 is always, 0 is as often as by chance.

    Args:
        first: Answers of the one, from 0 to `levels` - 1, or -1 where there is none (N,).
        second: Answers of the other to the same images (N,).
        levels: How many answers there are.
        graded: Whether answers are grades, so that a disagreement weighs the square of its distance (Cohen 1968).
        weights: How much each image counts (N, B); all once if left out.

    Returns:
        The kappa (B,), not a number where both always gave the same one answer, or nothing was answered by both.
    """
    counted = np.ones((len(first), 1)) if weights is None else weights
    both = (first >= 0) & (second >= 0)
    cells = (first * levels + second)[both] == np.arange(levels**2)[:, None]
    table = (cells.astype(np.float64) @ counted[both]).reshape(levels, levels, -1)
    places = np.arange(levels)
    apart = places[:, None] - places
    worth = (apart**2 if graded else apart != 0)[..., None]
    by_chance = table.sum(1)[:, None] * table.sum(0)[None]
    return 1 - share(table.sum((0, 1)) * (worth * table).sum((0, 1)), (worth * by_chance).sum((0, 1)))


def fleiss_kappa(answers: Answers, levels: int, weights: Numbers | None = None) -> Numbers:
    """Agreement of several readers (Fleiss 1971), over the images that all of them answered.

    Args:
        answers: Of each reader to each image, from 0 to `levels` - 1, or -1 where there is none (R, N).
        levels: How many answers there are.
        weights: How much each image counts (N, B); all once if left out.

    Returns:
        The kappa (B,), not a number where all always gave the same one answer, or no image was answered by all.
    """
    readers, counted = len(answers), np.ones((answers.shape[1], 1)) if weights is None else weights
    by_all = (answers >= 0).all(0)
    given = np.stack([(answers[:, by_all] == level).sum(0) for level in range(levels)]).astype(np.float64)
    counted = counted[by_all]
    images = counted.sum(0)
    agreed = share(((given**2).sum(0) - readers) @ counted, images * readers * (readers - 1))
    by_chance = (share(given @ counted, np.broadcast_to(images * readers, (levels, len(images)))) ** 2).sum(0)
    return share(agreed - by_chance, 1 - by_chance)


def kappa_with_interval(answers: Answers, levels: int, *, graded: bool = False, seed: int = 0) -> Estimate:
    """Cohen's kappa of two readers or Fleiss's of more, over the images that all answered, with its 95 % interval.

    The interval is that of a Bayesian bootstrap (Rubin 1981) in which each pair of answers, given by turns, was seen
    beforehand as often as 1 / `levels`: of readers who agreed on each image nobody knows that they always will.

    Args:
        answers: Of each reader to each image (R, N), -1 where there is none.
        levels: How many answers there are.
        graded: Whether answers are grades, of two readers.
        seed: Of the draws.

    Returns:
        The kappa; its bounds are no numbers where it is none.
    """
    answers = answers[:, (answers >= 0).all(0)]
    pairs = np.indices((levels, levels)).reshape(2, -1)
    with_prior = np.concatenate([answers, pairs[np.arange(len(answers)) % 2]], axis=1)
    shapes = np.concatenate([np.ones(answers.shape[1]), np.full(levels**2, 1 / levels)])
    weights = np.random.default_rng(seed).standard_gamma(shapes[:, None], (len(shapes), REPLICATES))

    def kappa(given: Answers, counted: Numbers | None) -> Numbers:
        if len(given) == 2:
            return cohens_kappa(given[0], given[1], levels, graded=graded, weights=counted)
        return fleiss_kappa(given, levels, counted)

    value, drawn = kappa(answers, None), kappa(with_prior, weights)
    if np.isnan(value[0]):
        return Estimate(float("nan"), float("nan"), float("nan"))
    found = percentiles(float(value[0]), drawn)
    return Estimate(found.value, min(found.low, found.value), max(found.high, found.value))
