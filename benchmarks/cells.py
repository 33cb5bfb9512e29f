"""How near the measurements of a cell come to the phantom's truth, and which defects they see, as Markdown tables.

    uv run python benchmarks/cells.py --pbc PBC_FOLDER

The seeds are far from those that constants were chosen on, and each cell lies on another slide. `--pbc` is the folder
of PBC granulocytes: of its training neutrophils, some are the real set, and as many others pose as generated ones, all
with the same defect.
"""

import argparse
import csv
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from phantom import KINDS, table
from PIL import Image, ImageFilter
from scipy import stats
from sklearn.metrics import roc_auc_score

from wbc_diffusers.data.images import centre_square
from wbc_diffusers.data.phantom import CELLS_PER_SLIDE, PHANTOM_VERSION, PhantomCell, render_cell
from wbc_diffusers.evaluation.appearance import compare_cells, sharpened
from wbc_diffusers.evaluation.by_eye import ABNORMALITIES
from wbc_diffusers.evaluation.cells import MEASURES, Regions, measure_cell, segment_cell, shares_of_grades

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

FIRST_SEED = 7_600_000
GRADES = [f"{abnormality} {grade}" for abnormality in ABNORMALITIES for grade in (0, 1, 2)]


@dataclass(frozen=True)
class Measured:
    """One phantom cell: its truth, its regions and its measurements."""

    truth: PhantomCell
    regions: Regions
    measures: NDArray[np.float32]


@dataclass(frozen=True)
class Defect:
    """A change of an image, and the measure that is meant to see it."""

    change: Callable[[Pixels, np.random.Generator], Pixels]
    measure: str


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def noisy(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return np.rint(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255)).astype(np.uint8)


def blurred(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7)))


def flatter(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    mean = pixels.mean(axis=(0, 1))
    return np.rint(mean + 0.9 * (pixels - mean)).astype(np.uint8)


def cast(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return np.maximum(pixels, (3, 0, 0)).astype(np.uint8) - np.array((3, 0, 0), np.uint8)


DEFECTS = {
    "none": [Defect(lambda pixels, rng: pixels, name) for name in ("background_red_mean", "contrast", "detail_4")],
    "red 3 levels lower": [Defect(cast, "background_red_mean"), Defect(cast, "red_mean")],
    "contrast 10 % lower": [Defect(flatter, "contrast")],
    "blur, deviation 0.7 px": [Defect(blurred, "detail_4")],
    "noise, deviation 4 levels": [Defect(noisy, "detail_4"), Defect(noisy, "background_green_spread")],
    "JPEG, quality 50": [
        Defect(lambda pixels, rng: jpeg(pixels, 50), "detail_4"),
        Defect(lambda pixels, rng: jpeg(pixels, 50), "nucleus_blue_spread"),
    ],
    "contrast sharpening 20": [Defect(lambda pixels, rng: sharpened(pixels), "contrast")],
}


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


def pbc_neutrophils(pbc: Path, count: int, size: int) -> tuple[list[Pixels], list[Pixels]]:
    """Two sets of `count` centre crops of training neutrophils that share none, spread over the list."""
    with (pbc / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["cell_type"] == "neutrophil" and r["split"] == "train"]
    chosen = np.random.default_rng(0).permutation(len(rows))[: 2 * count]
    crops = []
    for i in chosen:
        with Image.open(pbc / rows[i]["file_name"]) as image:
            crops.append(np.asarray(centre_square(image.convert("RGB"), 192, size)))
    return crops[:count], crops[count:]


def with_defects(images: list[Pixels]) -> dict[str, NDArray[np.float32]]:
    """Measurements (N, M) of the images after each change."""
    found = {}
    for name, defects in DEFECTS.items():
        rng = np.random.default_rng(1)
        found[name] = np.stack([measure_cell(defects[0].change(pixels, rng)) for pixels in images])
    return found


def report_defects(size: int, real: list[Pixels], other: list[Pixels]) -> None:
    print(f"{size} px, {len(real)} real PBC neutrophils, and {len(other)} others with a defect:\n")
    ours, changed = np.stack([measure_cell(pixels) for pixels in real]), with_defects(other)
    rows = []
    for name, defects in DEFECTS.items():
        by_measure = {d.measure: d for d in compare_cells(ours, changed[name], (ours, changed["none"]))}
        for found in (by_measure[defect.measure] for defect in defects):
            low, high = found.difference.low, found.difference.high
            told = f"{found.difference.value:+.2f} ({low:+.2f} to {high:+.2f})"
            seen = "" if low <= found.floor.value <= high else "yes"
            figures = [f"{found.real:.2f}", told, f"{found.standardised:+.2f}", f"{found.floor.value:+.2f}", seen]
            rows.append([name, found.measure, *figures])
    head = ["defect", "measure", "real", "difference (95 %)", "standardised", "floor", "floor excluded"]
    print(table(head, rows))
    print("Grades told of the same cells, %; what changes them is the defect alone:\n")
    rows = []
    for name, measures in changed.items():
        missing = np.isnan(measures[:, MEASURES.index("lobes")]).mean()
        rows.append([name, f"{100 * missing:.1f}", *shares_told(measures)])
    print(table(["defect", "no nucleus", *GRADES], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100, help="phantom cells of each kind and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 192], help="pixels a side")
    parser.add_argument("--pbc", type=Path, help="folder of the PBC granulocytes")
    parser.add_argument("--count", type=int, default=300, help="PBC neutrophils of each of the two sets")
    arguments = parser.parse_args()
    print(f"Phantom version {PHANTOM_VERSION}, seeds from {FIRST_SEED}.")
    for size in arguments.sizes:
        if arguments.cells:
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
        if arguments.pbc:
            report_defects(size, *pbc_neutrophils(arguments.pbc, arguments.count, size))


if __name__ == "__main__":
    main()
