"""One figure of an evaluation, as evaluation.json has it."""

from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from wbc_diffusers.evaluation.intervals import Estimate

MEANINGS = {
    "fid": ("Fréchet distance (FID)", "0 is equal; falls with the number of images"),
    "fd": ("Fréchet distance", "0 is equal; falls with the number of images; no FID"),
    "fid_infinity": ("the same of infinitely many images", "extrapolated"),
    "fd_infinity": ("the same of infinitely many images", "extrapolated"),
    "kid": ("kernel distance (KID)", "0 is equal, and without bias"),
    "kd": ("kernel distance", "0 is equal, and without bias; no KID"),
    "precision": ("precision", "share of generated images among real ones"),
    "recall": ("recall", "share of real images among generated ones"),
    "density": ("density", "about 1 where generated images lie as real ones do"),
    "coverage": ("coverage", "share of real images with a generated one near"),
    "probe_auc": ("linear probe, AUC", "0.5 can't tell them apart, 1 always can"),
}
"""Name and reading of each measure of features, by its key."""


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

    @property
    def key(self) -> str:
        """Its name without the encoder's, such as `fd` of `fd_efficientnet_lite0`."""
        return self.measure.removesuffix("_" + self.encoder.replace("-", "_")) if self.encoder else self.measure

    @classmethod
    def of(cls, measure: str, found: Estimate, **about: Any) -> Self:
        """The row of an estimate; what it is of are the other attributes."""
        return cls(measure=measure, value=found.value, low=found.low, high=found.high, **about)


def figure(value: float | None) -> str:
    """A figure with three digits that count, or to the whole number; "" for none."""
    if value is None or not isfinite(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
