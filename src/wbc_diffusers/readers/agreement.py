"""How far readers agree with each other, and with themselves, beyond what chance would give."""

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.evaluation.intervals import Estimate, fewer, percentiles
from wbc_diffusers.readers.detection import Numbers
from wbc_diffusers.readers.several import LEAST_REPLICATES, REPLICATES

Answers = NDArray[np.integer]
Weights = NDArray[np.integer]


def cohens_kappa(
    first: Answers, second: Answers, levels: int, *, graded: bool = False, weights: Weights | None = None
) -> Numbers:
    """Agreement of two readers, or of one with itself (Cohen 1960): 1 is always, 0 is as often as by chance.

    Args:
        first: Answers of the one, from 0 to `levels` - 1, or -1 where there is none (N,).
        second: Answers of the other to the same images (N,).
        levels: How many answers there are.
        graded: Whether answers are grades, so that a disagreement weighs the square of its distance (Cohen 1968).
        weights: How often each image counts (N, B); all once if left out.

    Returns:
        The kappa (B,), not a number where both always gave the same one answer, or nothing was answered by both.
    """
    counted = np.ones((len(first), 1), np.int64) if weights is None else weights
    both = (first >= 0) & (second >= 0)
    cells = (first * levels + second)[both] == np.arange(levels**2)[:, None]
    table = (cells.astype(np.float64) @ counted[both]).reshape(levels, levels, -1)
    places = np.arange(levels)
    apart = places[:, None] - places
    worth = (apart**2 if graded else apart != 0)[..., None]
    by_chance = table.sum(1)[:, None] * table.sum(0)[None]
    return 1 - _share(table.sum((0, 1)) * (worth * table).sum((0, 1)), (worth * by_chance).sum((0, 1)))


def fleiss_kappa(answers: Answers, levels: int, weights: Weights | None = None) -> Numbers:
    """Agreement of several readers (Fleiss 1971), over the images that all of them answered.

    Args:
        answers: Of each reader to each image, from 0 to `levels` - 1, or -1 where there is none (R, N).
        levels: How many answers there are.
        weights: How often each image counts (N, B); all once if left out.

    Returns:
        The kappa (B,), not a number where all always gave the same one answer, or no image was answered by all.
    """
    readers, counted = len(answers), np.ones((answers.shape[1], 1), np.int64) if weights is None else weights
    by_all = (answers >= 0).all(0)
    given = np.stack([(answers[:, by_all] == level).sum(0) for level in range(levels)]).astype(np.float64)
    counted = counted[by_all]
    images = counted.sum(0).astype(np.float64)
    agreed = _share(((given**2).sum(0) - readers) @ counted, images * readers * (readers - 1))
    by_chance = (_share(given @ counted, np.broadcast_to(images * readers, (levels, len(images)))) ** 2).sum(0)
    return _share(agreed - by_chance, 1 - by_chance)


def draw_images(count: int, *, replicates: int = REPLICATES, seed: int = 0) -> Weights:
    """How often each of so many images is drawn in each replicate of a bootstrap (N, B)."""
    shares = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(fewer(count), shares, size=replicates).T


def with_interval(value: Numbers, drawn: Numbers) -> Estimate:
    """A kappa (1,) with its 95 % interval by its replicates (B,), of which those that are no numbers don't count."""
    found = drawn[~np.isnan(drawn)]
    if len(found) < LEAST_REPLICATES:
        return Estimate(float(value[0]), float("nan"), float("nan"))
    return percentiles(float(value[0]), found)


def _share(part: Numbers, whole: Numbers) -> Numbers:
    """A share, not a number where there is nothing to share."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.abs(whole) > 1e-12)
