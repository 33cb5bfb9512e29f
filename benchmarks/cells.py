"""How near the measurements of a cell come to the phantom's truth, as Markdown tables.

    uv run python benchmarks/cells.py

The seeds are far from those that constants were chosen on, and each cell lies on another slide.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from phantom import KINDS, table
from PIL import Image
from scipy import stats
from sklearn.metrics import roc_auc_score

from wbc_diffusers.data.phantom import CELLS_PER_SLIDE, PHANTOM_VERSION, PhantomCell, render_cell
from wbc_diffusers.evaluation.by_eye import ABNORMALITIES
from wbc_diffusers.evaluation.cells import MEASURES, Regions, measure_cell, segment_cell, shares_of_grades

Mask = NDArray[np.bool_]

FIRST_SEED = 7_600_000
GRADES = [f"{abnormality} {grade}" for abnormality in ABNORMALITIES for grade in (0, 1, 2)]


@dataclass(frozen=True)
class Measured:
    """One phantom cell: its truth, its regions and its measurements."""

    truth: PhantomCell
    regions: Regions
    measures: NDArray[np.float32]


def value(measures: NDArray[np.float32], name: str) -> float:
    return float(measures[MEASURES.index(name)])


def measured_phantoms(cells: int, size: int) -> dict[str, list[Measured]]:
    """`cells` cells of each kind, each on a slide of its own."""
    found: dict[str, list[Measured]] = {}
    for kind, drawn in KINDS.items():
        truths = [render_cell(size, FIRST_SEED + i * (CELLS_PER_SLIDE + 1), *drawn) for i in range(cells)]
        found[kind] = [Measured(t, segment_cell(t.pixels), measure_cell(t.pixels)) for t in truths]
    return found


def overlap(found: Mask, truth: Mask) -> float:
    """Intersection over union, at the size of the truth."""
    sized = Image.fromarray(found.astype(np.float32)).resize(truth.shape, Image.Resampling.BILINEAR)
    mask = np.asarray(sized) > 0.5
    return float((mask & truth).sum() / (mask | truth).sum())


def report_regions(size: int, cells: dict[str, list[Measured]]) -> None:
    print(f"\n{size} px, intersection over union of regions with the truth, mean (least), and areas over true ones:\n")
    rows = []
    for kind, each in cells.items():
        of_nucleus = [overlap(m.regions.nucleus, m.truth.nucleus_mask) for m in each]
        of_cell = [overlap(m.regions.nucleus | m.regions.cytoplasm, m.truth.cell_mask) for m in each]
        nucleus = np.mean([value(m.measures, "nucleus_area") / m.truth.nucleus_mask.mean() for m in each])
        cell = np.mean([value(m.measures, "cell_area") / m.truth.cell_mask.mean() for m in each])
        overlaps = [f"{np.mean(ious):.3f} ({min(ious):.3f})" for ious in (of_nucleus, of_cell)]
        rows.append([kind, str(len(each)), *overlaps, f"{nucleus:.3f}", f"{cell:.3f}"])
    print(table(["cells", "number", "nucleus", "cell", "area of nucleus", "area of cell"], rows))


def report_granules(size: int, cells: dict[str, list[Measured]]) -> None:
    each = [m for one in cells.values() for m in one]
    found = np.array([value(m.measures, "granularity") for m in each])
    density = np.array([m.truth.granule_density for m in each])
    ink = density * [m.truth.granule_darkness * m.truth.granule_radius**2 for m in each]
    grade = np.array([m.truth.grade if m.truth.abnormality == "hypergranulation" else 0 for m in each])
    print(f"{size} px, rank correlation of granularity with the truth:\n")
    rows = []
    for name, chosen in {"all cells": grade >= 0, **{f"grade {g}": grade == g for g in (0, 1, 2)}}.items():
        ranks = [stats.spearmanr(found[chosen], truth[chosen]).statistic for truth in (density, ink)]
        low, high = np.percentile(found[chosen], [5, 95])
        rows.append([name, str(chosen.sum()), *(f"{rank:.2f}" for rank in ranks), f"{low:.3f} to {high:.3f}"])
    print(table(["cells", "number", "density", "density x darkness x radius^2", "5th to 95th percentile"], rows))
    pairs = {(a, b): np.isin(grade, (a, b)) for a, b in ((0, 1), (1, 2))}
    told = [f"{a} from {b}: {roc_auc_score(grade[among] == b, found[among]):.3f}" for (a, b), among in pairs.items()]
    print(f"AUC of granularity, grade {', '.join(told)}.\n")


def shares_told(measures: NDArray[np.float32]) -> list[str]:
    """Percentages of cells (N, M) by abnormality and grade, in the order of `GRADES`."""
    shares = [shares_of_grades(measures[:, MEASURES.index(by)], levels) for by, levels in ABNORMALITIES.values()]
    return [f"{100 * share:.1f}" for each in shares for share in each]


def report_grades(size: int, cells: dict[str, list[Measured]]) -> None:
    print(f"{size} px, share of cells by grade, %:\n")
    rows = []
    for kind, each in cells.items():
        rows.append([kind, str(len(each)), *shares_told(np.stack([m.measures for m in each]))])
    print(table(["cells", "number", *GRADES], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100, help="phantom cells of each kind and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 192], help="pixels a side")
    arguments = parser.parse_args()
    print(f"Phantom version {PHANTOM_VERSION}, seeds from {FIRST_SEED}.")
    for size in arguments.sizes:
        cells = measured_phantoms(arguments.cells, size)
        report_regions(size, cells)
        report_granules(size, cells)
        report_grades(size, cells)
        timed = [m.truth.pixels for m in cells["normal"]]
        started = time.process_time()
        for pixels in timed:
            measure_cell(pixels)
        spent = (time.process_time() - started) / len(timed)
        print(f"{size} px: {1000 * spent:.0f} ms of one core for an image.\n")


if __name__ == "__main__":
    main()
