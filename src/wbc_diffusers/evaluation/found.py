"""What an evaluation is asked for, and all that it found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wbc_diffusers.evaluation.by_encoder import Comparison
from wbc_diffusers.evaluation.by_eye import ByEye
from wbc_diffusers.evaluation.copying import Copying
from wbc_diffusers.evaluation.encoders import INCEPTION
from wbc_diffusers.evaluation.images import ImageSet, Processing
from wbc_diffusers.evaluation.leaks import Leaks
from wbc_diffusers.evaluation.rows import Row


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and how.

    Attributes:
        real: Folder of real images that no model was trained on.
        generated: Folder of generated images.
        train: Folder of the real images that the model was trained on: the floor of the distances, and what copies are
            looked for in.
        encoders: Names of the encoders that images are compared by.
        inception_weights: File of Inception's weights; None takes the cached ones, or downloads them.
        size: Pixels a side that images are brought to; None for those of the smallest set.
        share: Share of the shorter side that is looked at, from the centre.
        where: Filters `column=value` that real and training images must pass.
        model: Pipeline folder of the model, or its manifest: images that it knows are no judges of it.
        allow_leaks: Whether to go on where there are such images.
        cache: File in which features are kept; None for none.
        seed: Of all draws.
    """

    real: Path
    generated: Path
    train: Path | None = None
    encoders: Sequence[str] = (INCEPTION,)
    inception_weights: Path | None = None
    size: int | None = None
    share: float = 1.0
    where: Sequence[str] = ()
    model: Path | None = None
    allow_leaks: bool = False
    cache: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """All that was found.

    Attributes:
        plan: What was asked for.
        real: The real images.
        generated: The generated ones.
        train: The training images, if they were given.
        processing: What was done to every image.
        comparisons: By encoder.
        by_eye: What was measured of the cells.
        copying: What was found of copies; None without training images, or with too few real ones.
        leaks: Real images that the model was trained on, by what says so.
        notes: What a reader of the figures must know, in sentences.
    """

    plan: Plan
    real: ImageSet
    generated: ImageSet
    train: ImageSet | None
    processing: Processing
    comparisons: list[Comparison]
    by_eye: ByEye
    copying: Copying | None
    leaks: dict[str, Leaks]
    notes: list[str]

    @property
    def sets(self) -> list[ImageSet]:
        """The sets that there are."""
        return [each for each in (self.real, self.generated, self.train) if each is not None]

    @property
    def rows(self) -> list[Row]:
        """All figures."""
        rows = [row for comparison in self.comparisons for row in comparison.rows]
        return [*rows, *self.by_eye.rows, *([] if self.copying is None else self.copying.rows)]

    @property
    def main_rows(self) -> list[Row]:
        """The figures without those of single measures of cells, which are many; of copies, those by pixels alone."""
        return [
            row
            for row in self.rows
            if not row.measure.endswith("_difference") and not (row.measure.startswith("copies") and row.encoder)
        ]
