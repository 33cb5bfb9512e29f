"""One figure of an evaluation, as evaluation.json has it."""

from dataclasses import dataclass
from typing import Any, Self

from wbc_diffusers.evaluation.intervals import Estimate


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of an evaluation.

    Attributes:
        measure: Its name; `fid` and `kid` are Inception's alone.
        encoder: The encoder whose features it is of, or "" for one of pixels.
        value: The figure.
        low: Lower end of its 95 % interval.
        high: Upper end.
        floor: What the same measure is for real images in the place of the generated ones; of a share, that of the
            real images themselves.
        n_real: Real images that it is of.
        n_generated: Generated ones.
        floor_n_real: Real images that the floor is of.
        floor_n_other: Other real images, in the place of the generated ones.
        value_at_floor: The figure for as many images as the floor has, where they are fewer: what to hold beside it.
    """

    measure: str
    encoder: str = ""
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    n_real: int
    n_generated: int
    floor_n_real: int | None = None
    floor_n_other: int | None = None
    value_at_floor: float | None = None

    @classmethod
    def of(cls, measure: str, found: Estimate, **about: Any) -> Self:
        """The row of an estimate; what it is of are the other attributes."""
        return cls(measure=measure, value=found.value, low=found.low, high=found.high, **about)
