"""Two sets of images compared by one encoder: each figure with its interval and its floor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.evaluation.distances import compare, frechet_line, some, values
from wbc_diffusers.evaluation.encoders import Encoder
from wbc_diffusers.evaluation.features import Features
from wbc_diffusers.evaluation.intervals import halves
from wbc_diffusers.evaluation.probe import area_under_curve, tell_apart
from wbc_diffusers.evaluation.rows import Row


@dataclass(frozen=True)
class Comparison:
    """What an encoder says of two sets.

    Attributes:
        encoder: Its name.
        rows: Its figures.
        line: The Fréchet distance by number of images of both sets, and the same of the floor.
        floor_line: The same for real images in the place of the generated ones.
        convincing: Places of the generated images, no more than 2,000, by the probe's score, the most convincing first.
        fingerprint: SHA-256 of its weights.
        features: Features of an image; with fewer images than four times that, the distance is not extrapolated.
    """

    encoder: str
    rows: list[Row]
    line: list[tuple[int, float]]
    floor_line: list[tuple[int, float]]
    convincing: NDArray[np.int64]
    fingerprint: str
    features: int


def compare_by(
    encoder: Encoder, real: Features, generated: Features, train: Features | None = None, seed: int = 0
) -> Comparison:
    """Compare features of generated images with those of real ones.

    The floor is what training images are at, where they are given; else what one half of the real images is at from
    the other; as many as there are generated ones, if there are enough.

    Args:
        encoder: What the features are of.
        real: Of the real images (M, D).
        generated: Of the generated ones (N, D).
        train: Of real images that are not among them, such as those of the training.
        seed: Of all draws.
    """
    found = compare(real, generated, seed)
    ours, other = _floor_sets(real, train, len(generated), seed)
    sizes = len(ours), len(other)
    floor = _values(ours, other, seed)
    at_floor: dict[str, float] = {}
    if sizes != (len(real), len(generated)):
        at_floor = _values(some(real, sizes[0], seed), some(generated, sizes[1], seed), seed)
    probe = tell_apart(real, generated, seed)
    counts = {**found.counts, "probe_auc": (probe.count, len(probe.scored))}
    rows = []
    for measure, estimate in {**found.estimates, "probe_auc": probe.auc}.items():
        used, known = counts[measure], measure in floor
        row = Row.of(
            encoder.named(measure),
            estimate,
            encoder=encoder.name,
            floor=floor.get(measure),
            n_real=used[0],
            n_generated=used[1],
            floor_n_real=min(used[0], sizes[0]) if known else None,
            floor_n_other=min(used[1], sizes[1]) if known else None,
            value_at_floor=at_floor.get(measure),
        )
        rows.append(row)
    floor_line = frechet_line(ours, other, seed)
    convincing = probe.scored[np.argsort(probe.scores, kind="stable")]
    return Comparison(encoder.name, rows, found.line, floor_line, convincing, encoder.fingerprint, real.shape[1])


def _values(real: Features, other: Features, seed: int) -> dict[str, float]:
    return {**values(real, other, seed), "probe_auc": area_under_curve(real, other, seed)}


def _floor_sets(real: Features, train: Features | None, count: int, seed: int) -> tuple[Features, Features]:
    if train is not None:
        return real, some(train, count, seed)
    first, second = halves(len(real), seed)
    return real[first], some(real[second], count, seed)
