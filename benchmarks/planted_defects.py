"""Is each defect seen by the measure that is meant for it, and the worse the more of it? A table, as Markdown.

    uv run --extra evaluate python benchmarks/planted_defects.py --phantom
    uv run --extra evaluate python benchmarks/planted_defects.py --pbc PBC_FOLDER

Real images pose as generated, all with the same defect, and go through the whole of `evaluate`. The phantom has cells
of seven kinds; of PBC all three cell types are taken, its validation split as the real set. Training images are given
where copies are looked for.
"""

import argparse
import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from phantom import KINDS, table
from PIL import Image, ImageFilter

from wbc_diffusers.data.images import centre_square, write_png
from wbc_diffusers.data.phantom import CELLS_PER_SLIDE, render_cell
from wbc_diffusers.evaluation.planted import plant_copies
from wbc_diffusers.evaluation.rows import Row

Pixels = NDArray[np.uint8]

ENCODER = "efficientnet-lite0"
FIRST_SEED = 8_100_000
PHANTOM_SIZES = 420, 1020


@dataclass(frozen=True)
class Cell:
    """An image, and which of the set's modes it is of."""

    pixels: Pixels
    mode: str


@dataclass(frozen=True)
class Sets:
    """Real cells, others that pose as generated, those of the training, and the modes in the order they go missing."""

    real: list[Cell]
    posing: list[Cell]
    train: list[Cell]
    modes: Sequence[str]


Plant = Callable[[Sets, float], list[Pixels]]


def noise(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    return np.rint(np.clip(pixels + rng.normal(0, deviation, pixels.shape), 0, 255)).astype(np.uint8)


def blur(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(deviation)))


def jpeg(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


def cast(pixels: Pixels, levels: float, rng: np.random.Generator) -> Pixels:
    return np.clip(pixels.astype(int) - (int(levels), 0, 0), 0, 255).astype(np.uint8)


def flatter(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    mean = pixels.mean(axis=(0, 1))
    return np.rint(mean + (1 - share) * (pixels - mean)).astype(np.uint8)


def each_cell(change: Callable[[Pixels, float, np.random.Generator], Pixels]) -> Plant:
    """Plant a defect into every posing image."""

    def plant(sets: Sets, amount: float) -> list[Pixels]:
        rng = np.random.default_rng(1)
        return [change(cell.pixels, amount, rng) for cell in sets.posing]

    return plant


def without_modes(sets: Sets, share: float) -> list[Pixels]:
    """Leave out the cells of that share of the modes."""
    missing = set(sets.modes[: round(share * len(sets.modes))])
    return [cell.pixels for cell in sets.posing if cell.mode not in missing]


def with_copies(sets: Sets, share: float) -> list[Pixels]:
    """Put copies of training images in the place of that share of the posing ones."""
    rng = np.random.default_rng(2)
    posing = [cell.pixels for cell in sets.posing]
    places = rng.choice(len(posing), round(share * len(posing)), replace=False)
    originals = rng.choice(len(sets.train), len(places), replace=False)
    copies = plant_copies(np.stack([sets.train[i].pixels for i in originals]), "all", 3)
    for place, copy in zip(places, copies, strict=True):
        posing[place] = copy
    return posing


@dataclass(frozen=True)
class Defect:
    """A defect, from little to much of it, and the measure that is meant to see it."""

    plant: Plant
    amounts: tuple[float, ...]
    unit: str
    measure: str


DEFECTS = {
    "noise": Defect(each_cell(noise), (2, 4, 8), "{:g} levels", "background_green_spread_difference"),
    "blur": Defect(each_cell(blur), (0.4, 0.7, 1.0), "{:g} px", "detail_4_difference"),
    "JPEG": Defect(each_cell(jpeg), (90, 75, 50), "quality {:g}", "blocks_difference"),
    "red lower": Defect(each_cell(cast), (1, 3, 6), "{:g} levels", "background_red_mean_difference"),
    "contrast lower": Defect(each_cell(flatter), (0.05, 0.1, 0.2), "{:.0%}", "contrast_difference"),
    "modes missing": Defect(without_modes, (0.34, 0.5, 0.84), "{modes} of {all}", "recall_efficientnet_lite0"),
    "copies": Defect(with_copies, (0.02, 0.05, 0.1), "{:.0%}", "copies_excess"),
}
ALL_SEE = ("kd_efficientnet_lite0", "probe_auc_efficientnet_lite0")
"""Measures that have no defect of their own, and are told of each."""


def phantoms(size: int) -> Sets:
    posing, train = PHANTOM_SIZES
    kinds = list(KINDS)

    def cells(first: int, count: int) -> list[Cell]:
        chosen = [kinds[i % len(kinds)] for i in range(count)]
        seeds = (FIRST_SEED + (first + i) * (CELLS_PER_SLIDE + 1) for i in range(count))
        return [Cell(render_cell(size, seed, *KINDS[k]).pixels, k) for seed, k in zip(seeds, chosen, strict=True)]

    return Sets(cells(0, posing), cells(posing, posing), cells(2 * posing, train), kinds[::-1])


def pbc_cells(pbc: Path, size: int) -> Sets:
    """The modes are cell types and shapes of nuclei; those with fewer than 100 training cells are one."""
    with (pbc / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cells: dict[str, list[Cell]] = {"train": [], "validation": []}
    named = [f"{row['cell_type']} {row['nucleus_shape']}" for row in rows]
    common = [mode for mode in sorted(set(named)) if named.count(mode) >= 100]
    for row, mode in zip(rows, named, strict=True):
        with Image.open(pbc / row["file_name"]) as image:
            pixels = np.asarray(centre_square(image.convert("RGB"), 192, size))
        cells[row["split"]].append(Cell(pixels, mode if mode in common else "others"))
    order = np.random.default_rng(0).permutation(len(cells["train"]))
    train = [cells["train"][i] for i in order]
    return Sets(cells["validation"], train[:400], train[400:1900], common)


def write(folder: Path, images: Sequence[Pixels]) -> Path:
    folder.mkdir()
    for i, pixels in enumerate(images):
        write_png(folder / f"{i:05d}.png", pixels)
    return folder


def run(sets: Sets, folder: Path, places: Sequence[int]) -> dict[str, dict[str, Row]]:
    """Evaluate without a defect and with each amount of each: rows by defect and amount, and by measure."""
    # Here, since the processes that measure cells import this file, and need no torch.
    from wbc_diffusers.evaluation.evaluate import evaluate
    from wbc_diffusers.evaluation.found import Plan

    real = write(folder / "real", [cell.pixels for cell in sets.real])
    train = write(folder / "train", [cell.pixels for cell in sets.train])
    planted: dict[str, list[Pixels]] = {"none": [cell.pixels for cell in sets.posing]}
    for name, defect in DEFECTS.items():
        for amount in (defect.amounts[place] for place in places):
            gone = round(amount * len(sets.modes))
            unit = defect.unit.format(amount, modes=gone, all=len(sets.modes))
            planted[f"{name}, {unit}"] = defect.plant(sets, amount)
    found = {}
    for name, images in planted.items():
        generated = write(folder / name, images)
        # The search for copies takes the most time, and no other measure needs the training images.
        known = train if name.startswith(("none", "copies")) else None
        plan = Plan(real, generated, known, encoders=(ENCODER,), cache=folder / "cache.sqlite")
        judged = evaluate(plan, folder / f"of {name}")
        assert judged is not None
        wanted = {*(defect.measure for defect in DEFECTS.values()), *ALL_SEE}
        found[name] = {row.measure: row for row in judged.rows if row.measure in wanted}
        print(name, {m: f"{r.value:.4g}" for m, r in found[name].items()}, flush=True)
    return found


def told(row: Row) -> str:
    return f"{row.value:.3g} ({row.low:.3g} to {row.high:.3g})"


def seen(row: Row, none: Row) -> bool:
    """Whether the interval leaves out what the measure is without the defect, and that one's interval the figure."""
    (low, high), (none_low, none_high) = (interval(each) for each in (row, none))
    return not low <= none.value <= high and not none_low <= row.value <= none_high


def interval(row: Row) -> tuple[float, float]:
    assert row.low is not None
    assert row.high is not None
    return row.low, row.high


def report(found: dict[str, dict[str, Row]]) -> None:
    rows = []
    for name, defect in DEFECTS.items():
        none = found["none"][defect.measure]
        values = [none.value]
        for key in (each for each in found if each.startswith(f"{name}, ")):
            row = found[key][defect.measure]
            values.append(row.value)
            marks = "yes" if seen(row, none) else "no"
            others = [f"{found[key][each].value:.3g}" for each in ALL_SEE]
            rows.append([key, defect.measure.removesuffix("_difference"), told(none), told(row), marks, *others])
        steps = np.sign(np.diff(values))
        print(f"{name}: {'in order' if abs(steps.sum()) == len(steps) else 'NOT in order'}")
    others = [f"{found['none'][each].value:.3g}" for each in ALL_SEE]
    print(table(["defect", "measure", "without", "with", "seen", *ALL_SEE], [["none", "", "", "", "", *others], *rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", action="store_true", help="plant defects into phantom cells")
    parser.add_argument("--pbc", type=Path, help="folder of the PBC granulocytes")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--amounts", type=int, nargs="+", default=[0, 1, 2], help="which of the amounts of a defect")
    parser.add_argument("--out", type=Path, help="file for all figures, as JSON")
    options = parser.parse_args()
    sets = ([phantoms(options.size)] if options.phantom else []) + (
        [pbc_cells(options.pbc, options.size)] if options.pbc else []
    )
    kept = []
    for each in sets:
        print(f"{len(each.real)} real, {len(each.posing)} posing, {len(each.train)} training images, {options.size} px")
        with TemporaryDirectory() as folder:
            found = run(each, Path(folder), options.amounts)
        report(found)
        kept.append({name: [asdict(row) for row in rows.values()] for name, rows in found.items()})
    if options.out:
        options.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
