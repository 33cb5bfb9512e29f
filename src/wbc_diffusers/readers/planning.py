"""How many cells a reader study needs: for an interval of a wanted width, and to show that readers are at chance."""

from math import ceil

import numpy as np
from scipy import stats

from wbc_diffusers.evaluation.intervals import LEVEL
from wbc_diffusers.readers.certainty import ALPHA, MARGIN

POWER = 0.8
SCATTER = 0.05
"""Standard deviation of readers' true shares, where nothing is known of them."""
SHARED = 0.3
"""Correlation of two readers' answers to the same cell, where nothing is known of them."""


def answers_for_width(half_width: float, share: float = 0.5) -> int:
    """How many independent answers give a share an interval of Wilson's that is so wide, half of it, or narrower.

    Args:
        half_width: Such as 0.1.
        share: That is expected; 0.5 has the widest interval.

    Raises:
        ValueError: If they don't lie between 0 and 0.5, or 0 and 1.
    """
    if not 0 < half_width < 0.5 or not 0 <= share <= 1:
        raise ValueError(f"a half width of {half_width} at {share}: give one between 0 and 0.5, such as 0.1")
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    counts = np.arange(1, ceil((z / half_width) ** 2) + 1)
    reach = z * np.sqrt(share * (1 - share) / counts + z**2 / (4 * counts**2)) / (1 + z**2 / counts)
    return int(counts[np.flatnonzero(reach > half_width).max(initial=-1) + 1])


def answers_for_equivalence(margin: float = MARGIN, power: float = POWER) -> int:
    """How many answers, half of them to real cells, show with such a power by `equivalence` that a reader is at chance.

    For one who calls half of all cells real; whoever leans to one answer needs fewer.

    Raises:
        ValueError: If the margin does not lie between 0 and 0.5, or the power between 0 and 1.
    """
    return 2 * ceil(error_for_equivalence(margin, power) ** -2 / 8)


def error_for_equivalence(margin: float = MARGIN, power: float = POWER) -> float:
    """The standard error of a share with which two one-sided tests have such a power, if it is 0.5.

    Raises:
        ValueError: If the margin does not lie between 0 and 0.5, or the power between 0 and 1.
    """
    if not 0 < margin < 0.5 or not 0 < power < 1:
        raise ValueError(
            f"a margin of {margin} and a power of {power}: the margin must lie between 0 and 0.5, such as {MARGIN}, "
            f"and the power between 0 and 1, such as {POWER}"
        )
    return float(margin / (stats.norm.ppf(1 - ALPHA) + stats.norm.ppf(0.5 + power / 2)))


def cells_for_error(error: float, readers: int, scatter: float = SCATTER, shared: float = SHARED) -> int | None:
    """How many cells, all shown to each of several readers, give the mean share over readers such a standard error.

    The variance of the mean is scatter² / R + (shared + (1 - shared) / R) / (4 N).

    Args:
        error: The standard error.
        readers: R.
        scatter: Standard deviation of the readers' true shares.
        shared: Correlation of two readers' answers to the same cell.

    Returns:
        N, or None if no number of cells is enough: it takes more readers.

    Raises:
        ValueError: If the scatter is below 0, or the correlation not between 0 and 1.
    """
    if scatter < 0 or not 0 <= shared <= 1:
        raise ValueError(f"a scatter of {scatter} and a correlation of {shared}: give 0 or more, and 0 to 1")
    left = error**2 - scatter**2 / readers
    return ceil((shared + (1 - shared) / readers) / (4 * left)) if left > 0 else None


def plan_in_words(width: float, margin: float, power: float, readers: int, scatter: float, shared: float) -> list[str]:
    """Say how many cells a study needs: for one reader by himself, and for the mean of several."""
    one = [
        f"One reader's accuracy is known to ± {width:g} after {answers_for_width(width)} answers.",
        f"One reader at chance is shown to be within 0.5 ± {margin:g}, with power {power:g}, by "
        f"{answers_for_equivalence(margin, power)} answers, half of them to real cells.",
    ]
    if readers == 1:
        return one
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    means = (
        (f"is known to ± {width:g}", width / z),
        (f"is shown to be within 0.5 ± {margin:g}, if it is 0.5,", error_for_equivalence(margin, power)),
    )
    several = []
    for what, error in means:
        cells = cells_for_error(error, readers, scatter, shared)
        by = "by no number of cells: it takes more readers" if cells is None else f"by {cells} cells"
        several.append(f"The mean accuracy of {readers} readers {what} {by}.")
    assumed = (
        f"Assumed: readers' true accuracies scatter by {scatter:g} (--scatter), which no number of cells mends, and "
        f"answers to a cell correlate by {shared:g} (--shared), so that {readers} answers to a cell tell less than to "
        f"{readers} cells."
    )
    return [*one, *several, assumed]
