"""What the eye sees of two sets of cells, measured: contrast, sharpness, colours, nuclei, granules, abnormalities."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.data.parallel import available_workers, parallel_map
from wbc_diffusers.data.sources import Source
from wbc_diffusers.evaluation.appearance import Difference, Table, compare_cells, sharpened
from wbc_diffusers.evaluation.cache import Cache
from wbc_diffusers.evaluation.cells import (
    HYPERGRANULATED,
    HYPERSEGMENTED,
    MEASURES,
    WITH_BODIES,
    measure_cell,
    shares_of_grades,
)
from wbc_diffusers.evaluation.images import ImageSet, Processing, load
from wbc_diffusers.evaluation.intervals import Estimate, halves, share
from wbc_diffusers.evaluation.rows import Row

VERSION = 2
"""Of the measurements: another number is another key of the cache."""

ABNORMALITIES = {
    "hypersegmentation": ("lobes", HYPERSEGMENTED),
    "dohle_bodies": ("bluish_area", WITH_BODIES),
    "hypergranulation": ("granularity", HYPERGRANULATED),
}
"""Abnormalities that can be told by a measure, and from which values on."""

WORTH_PROCESSES = 200
"""Images for which it pays to start other processes."""

CONTRAST = 20.0
"""The thesis's sharpening."""


@dataclass(frozen=True)
class Grades:
    """How many cells show an abnormality, and to what grade, by a measure of them.

    Attributes:
        abnormality: Its name.
        real: Shares of grade 0, 1 and 2 of the real cells.
        generated: The same of the generated ones.
        abnormal: Share of the generated cells that show it at all.
        abnormal_real: The same of the real ones.
        n_real: Real cells that the measure can be taken of.
        n_generated: The same of the generated ones.
    """

    abnormality: str
    real: tuple[float, float, float]
    generated: tuple[float, float, float]
    abnormal: Estimate
    abnormal_real: Estimate
    n_real: int
    n_generated: int


@dataclass(frozen=True)
class ByEye:
    """What was measured.

    Attributes:
        differences: By measure.
        sharpened: The same of the generated images after the thesis's contrast sharpening.
        grades: By abnormality.
        without_nucleus: Share of the generated images in which no nucleus is found.
        without_nucleus_real: The same of the real ones.
        n_real: Real images.
        n_generated: Generated ones.
    """

    differences: list[Difference]
    sharpened: list[Difference]
    grades: list[Grades]
    without_nucleus: Estimate
    without_nucleus_real: Estimate
    n_real: int
    n_generated: int

    @property
    def rows(self) -> list[Row]:
        """All figures: for each measure the difference from the real cells, and the shares that are abnormal."""
        rows = [_row_of(d, d.measure) for d in self.differences]
        rows += [_row_of(d, f"sharpened_{d.measure}") for d in self.sharpened]
        shares = [("without_nucleus", self.without_nucleus, self.without_nucleus_real, self.n_real, self.n_generated)]
        shares += [(g.abnormality, g.abnormal, g.abnormal_real, g.n_real, g.n_generated) for g in self.grades]
        for name, found, real, n_real, n_generated in shares:
            about = {"n_real": n_real, "n_generated": n_generated, "floor_n_other": n_real}
            rows.append(Row.of(f"share_{name}", found, floor=real.value, **about))
        return rows


def _row_of(found: Difference, measure: str) -> Row:
    return Row.of(
        f"{measure}_difference",
        found.difference,
        floor=found.floor.value,
        n_real=found.n_real,
        n_generated=found.n_generated,
        floor_n_real=found.n_floor[0],
        floor_n_other=found.n_floor[1],
    )


def measure_set(
    images: ImageSet, processing: Processing, cache: Path | None = None, workers: int = 1, contrast: float | None = None
) -> Table:
    """Measure every cell of a set, in several processes: (N, M) in the order of `MEASURES`.

    Args:
        images: The set.
        processing: What is done to every image before.
        cache: A file in which measurements are kept by the hash of their image file.
        workers: Number of processes.
        contrast: The thesis's contrast sharpening, applied first; None for none.
    """
    kept = Cache(cache, f"cells {VERSION} {contrast} {processing.key}")
    rows: dict[str, NDArray[np.float32]] = dict(kept.get(sorted(set(images.hashes))))
    paths = dict(zip(images.hashes, images.paths, strict=True))
    missing = sorted(set(paths) - set(rows))
    jobs = [(paths[each], processing, contrast) for each in missing]
    found = parallel_map(_measure, jobs, workers if len(jobs) >= WORTH_PROCESSES else 1, Source("folders"))
    new = dict(zip(missing, found, strict=True))
    kept.put(new)
    rows |= new
    return np.stack([rows[each] for each in images.hashes])


def _measure(job: tuple[Path, Processing, float | None], tables: Mapping[str, Any], column: str) -> NDArray[np.float32]:
    path, processing, contrast = job
    pixels = processing(load(path).image)
    return measure_cell(pixels if contrast is None else sharpened(pixels, contrast))


def look_at_cells(
    real: ImageSet,
    generated: ImageSet,
    train: ImageSet | None,
    processing: Processing,
    cache: Path | None = None,
    seed: int = 0,
) -> ByEye:
    """Compare what can be measured of generated cells with real ones.

    The floor is what training images differ by, where they are given; else one half of the real images from the other.
    """
    workers = available_workers()
    ours, theirs = (measure_set(each, processing, cache, workers) for each in (real, generated))
    sharper = measure_set(generated, processing, cache, workers, CONTRAST)
    if train is not None:
        floor = ours, measure_set(train, processing, cache, workers)
    else:
        first, second = halves(len(ours), seed)
        floor = ours[first], ours[second]
    return ByEye(
        differences=compare_cells(ours, theirs, floor),
        sharpened=compare_cells(ours, sharper, floor),
        grades=[_grades(name, ours, theirs) for name in ABNORMALITIES],
        without_nucleus=_without_nucleus(theirs),
        without_nucleus_real=_without_nucleus(ours),
        n_real=len(ours),
        n_generated=len(theirs),
    )


def _without_nucleus(cells: Table) -> Estimate:
    return share(int(np.isnan(cells[:, MEASURES.index("lobes")]).sum()), len(cells))


def _grades(abnormality: str, real: Table, generated: Table) -> Grades:
    measure, thresholds = ABNORMALITIES[abnormality]
    values = [table[:, MEASURES.index(measure)] for table in (real, generated)]
    ours, theirs = (shares_of_grades(each, thresholds) for each in values)
    abnormal_real, abnormal = (_abnormal(each, thresholds) for each in values)
    known_real, known = (int((~np.isnan(each)).sum()) for each in values)
    return Grades(abnormality, ours, theirs, abnormal, abnormal_real, known_real, known)


def _abnormal(values: NDArray[np.floating], thresholds: tuple[float, float]) -> Estimate:
    known = values[~np.isnan(values)]
    return share(int((known >= thresholds[0]).sum()), len(known)) if len(known) else Estimate(np.nan, np.nan, np.nan)
