"""How many cells a reader study needs: for an interval of a wanted width, and to show that readers are at chance."""

from collections.abc import Callable
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.evaluation.intervals import LEVEL
from wbc_diffusers.readers.certainty import ALPHA, MARGIN, Z
from wbc_diffusers.readers.detection import Numbers

POWER = 0.8
SCATTER = 0.05
"""Standard deviation of readers' true shares, where nothing is known of them."""
SHARED = 0.3
"""Correlation of two readers' answers to the same cell, where nothing is known of them."""
MOST = 20_000
"""Cells that anybody could show."""


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
    counts = np.arange(1, ceil((Z / half_width) ** 2) + 1)
    reach = Z * np.sqrt(share * (1 - share) / counts + Z**2 / (4 * counts**2)) / (1 + Z**2 / counts)
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


def error_of_mean(cells: Numbers, readers: int, scatter: float, shared: float) -> tuple[Numbers, Numbers]:
    """The standard error to expect of the mean of readers' accuracies near 0.5, and its degrees of freedom.

    As `over_readers` has them: (scatter² + (1 - shared) / (4 N)) / R + shared / (4 N), and Hillis's.

    Args:
        cells: N, all shown to each reader.
        readers: R, two or more.
        scatter: Standard deviation of the readers' true accuracies.
        shared: Correlation of two readers' answers to the same cell.
    """
    of_cells = shared / (4 * cells)
    between = scatter**2 + (1 - shared) / (4 * cells)
    freedom = (between + readers * of_cells) ** 2 / (between**2 / (readers - 1))
    return np.sqrt(between / readers + of_cells), freedom


def cells_for_width(half_width: float, readers: int, scatter: float = SCATTER, shared: float = SHARED) -> int | None:
    """How many cells, all shown to each of several readers, give their mean accuracy such an interval to expect.

    Returns:
        N, or None if more than `MOST` would be needed: it takes more readers.

    Raises:
        ValueError: If the scatter is below 0, or the correlation not between 0 and 1.
    """
    tail = 0.5 + LEVEL / 2
    return _least(lambda error, freedom: stats.t.ppf(tail, freedom) * error <= half_width, readers, scatter, shared)


def cells_for_equivalence(
    margin: float, power: float, readers: int, scatter: float = SCATTER, shared: float = SHARED
) -> int | None:
    """How many cells show with such a power that the mean of readers at chance is within the margin; None likewise."""

    def shows(error: Numbers, freedom: Numbers) -> NDArray[np.bool_]:
        reach = stats.t.ppf(1 - ALPHA, freedom) + stats.t.ppf(0.5 + power / 2, freedom)
        return np.asarray(reach * error <= margin)

    return _least(shows, readers, scatter, shared)


def _least(
    enough: Callable[[Numbers, Numbers], NDArray[np.bool_]], readers: int, scatter: float, shared: float
) -> int | None:
    """The least number of cells that is enough by its error and freedom."""
    if scatter < 0 or not 0 <= shared <= 1:
        raise ValueError(f"a scatter of {scatter} and a correlation of {shared}: give 0 or more, and 0 to 1")
    numbers = np.arange(4, MOST + 1)
    found = numbers[enough(*error_of_mean(numbers.astype(np.float64), readers, scatter, shared))]
    return int(found[0]) if len(found) else None


def plan_in_words(width: float, margin: float, power: float, readers: int, scatter: float, shared: float) -> list[str]:
    """Say how many cells a study needs: for one reader by himself, and for the mean of several."""
    one = [
        f"One reader's accuracy is known to ± {width:g} after {answers_for_width(width)} answers.",
        f"One reader at chance is shown to be within 0.5 ± {margin:g}, with power {power:g}, by "
        f"{answers_for_equivalence(margin, power)} answers, half of them to real cells.",
    ]
    if readers == 1:
        return one
    means = (
        (f"is known to ± {width:g}, as a rule,", cells_for_width(width, readers, scatter, shared)),
        (
            f"is shown to be within 0.5 ± {margin:g}, if it is 0.5, with power {power:g},",
            cells_for_equivalence(margin, power, readers, scatter, shared),
        ),
    )
    several = []
    for what, cells in means:
        by = "by no number of cells: it takes more readers" if cells is None else f"by {cells} cells shown to each"
        several.append(f"The mean accuracy of {readers} readers {what} {by}.")
    assumed = (
        f"The mean is to hold for readers who were not asked, too: that takes more cells than to know one reader, and "
        f"more readers rather than cells. Assumed: true accuracies scatter by {scatter:g} (--scatter), and answers of "
        f"two readers to a cell correlate by {shared:g} (--shared)."
    )
    return [*one, *several, assumed]
