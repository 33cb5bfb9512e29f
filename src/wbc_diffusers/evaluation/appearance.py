"""Two sets of cells compared by what can be measured of each: how far their means are apart, with intervals."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.evaluation.cells import MEASURES
from wbc_diffusers.evaluation.intervals import Estimate, around

Table = NDArray[np.float32]
"""Measurements (N, M) of N cells, in the order of `MEASURES`."""


@dataclass(frozen=True)
class Difference:
    """How one measure differs between generated and real cells.

    Attributes:
        measure: Its name, one of `MEASURES`.
        real: Its mean over the real cells.
        generated: Its mean over the generated ones.
        difference: Generated less real, with its interval (Welch).
        standardised: The difference in standard deviations of the real cells.
        floor: The same difference of other real cells, with its interval.
        n_real: Real cells that have the measure; without a nucleus, there are no lobes.
        n_generated: The same of the generated ones.
        n_floor: The same of the two sets of the floor.
        spread: Standard deviation over the generated cells by that over the real ones: below 1 they vary less.
    """

    measure: str
    real: float
    generated: float
    difference: Estimate
    standardised: float
    floor: Estimate
    n_real: int
    n_generated: int
    n_floor: tuple[int, int]
    spread: float

    @property
    def seen(self) -> bool:
        """Whether the difference is beyond what other real cells may differ by: cells of one slide are alike."""
        reach = max(abs(self.floor.low), abs(self.floor.high))
        return self.difference.low > reach or self.difference.high < -reach


def compare_cells(real: Table, generated: Table, floor: tuple[Table, Table]) -> list[Difference]:
    """Compare measurements of generated cells with those of real ones.

    Args:
        real: Of the real cells.
        generated: Of the generated ones.
        floor: Of real cells, and of other real cells in the place of the generated ones.
    """
    found = []
    for i, measure in enumerate(MEASURES):
        kept, made, *others = (_known(table[:, i]) for table in (real, generated, *floor))
        difference = welch(kept, made)
        scale = kept.std(ddof=1) if len(kept) > 1 else np.nan
        found.append(
            Difference(
                measure=measure,
                real=float(kept.mean()) if len(kept) else np.nan,
                generated=float(made.mean()) if len(made) else np.nan,
                difference=difference,
                standardised=float(difference.value / scale) if scale > 0 else np.nan,
                floor=welch(*others),
                n_real=len(kept),
                n_generated=len(made),
                n_floor=(len(others[0]), len(others[1])),
                spread=float(made.std(ddof=1) / scale) if scale > 0 and len(made) > 1 else np.nan,
            )
        )
    return found


def _known(values: NDArray[np.floating]) -> NDArray[np.float64]:
    return values[~np.isnan(values)].astype(np.float64)


def welch(first: NDArray[np.floating], second: NDArray[np.floating]) -> Estimate:
    """The mean of the second sample less that of the first (Welch 1947); NaN where one has fewer than two values."""
    if min(len(first), len(second)) < 2:
        return Estimate(np.nan, np.nan, np.nan)
    first, second = first.astype(np.float64), second.astype(np.float64)
    parts = [each.var(ddof=1) / len(each) for each in (first, second)]
    error = sqrt(sum(parts))
    value = float(second.mean() - first.mean())
    if error == 0:
        return Estimate(value, value, value)
    freedom = sum(parts) ** 2 / sum(p**2 / (len(e) - 1) for p, e in zip(parts, (first, second), strict=True))
    return around(value, error, freedom)


def sharpened(pixels: NDArray[np.uint8], contrast: float = 20.0) -> NDArray[np.uint8]:
    """The thesis's contrast sharpening of pixels (section 4.3): `image * (contrast / 127 + 1) - contrast`, clipped."""
    return np.rint(np.clip(pixels * (contrast / 127 + 1) - contrast, 0, 255)).astype(np.uint8)
