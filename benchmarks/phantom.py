"""How fast the phantom is rendered and how often the lobe counter is right, as Markdown tables.

    uv run python benchmarks/phantom.py --pbc PBC_FOLDER --sheet sheet.png

The seeds are far from those that the counter's constants were chosen on. `--pbc` is the folder of PBC granulocytes
with the WBCAtt attributes, whose neutrophils are counted too and are the first row of the sheet.
"""

import argparse
import csv
import time
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from wbc_diffusers.data.images import centre_square
from wbc_diffusers.data.phantom import PHANTOM_VERSION, render_cell
from wbc_diffusers.evaluation.lobes import count_lobes

FIRST_SEED = 7_300_000
KINDS = {
    "normal": ("none", 0),
    "hypersegmentation 1": ("hypersegmentation", 1),
    "hypersegmentation 2": ("hypersegmentation", 2),
    "hypergranulation 1": ("hypergranulation", 1),
    "hypergranulation 2": ("hypergranulation", 2),
    "Döhle bodies 1": ("dohle_bodies", 1),
    "Döhle bodies 2": ("dohle_bodies", 2),
}
MOST = 8
LOBES_OF_SHAPES = {"unsegmented-band": 1, "segmented-bilobed": 2, "segmented-multilobed": 3}
"""Lobes that people mean by a shape, three and more taken together."""


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def share(counts: Counter[tuple[int, int]], true: int | None, off: int) -> str:
    """Percentage of the cells with `true` lobes (None: of all) whose count is off by no more than `off`."""
    cells = {pair: n for pair, n in counts.items() if true is None or pair[0] == true}
    return f"{100 * sum(n for (t, c), n in cells.items() if abs(t - c) <= off) / sum(cells.values()):.1f}"


def mean_error(counts: Counter[tuple[int, int]]) -> str:
    return f"{sum(n * abs(t - c) for (t, c), n in counts.items()) / sum(counts.values()):.3f}"


def count_phantoms(cells: int, size: int, kind: str) -> Counter[tuple[int, int]]:
    """Count the lobes of phantom cells: (true, counted) -> cells."""
    counts: Counter[tuple[int, int]] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + cells):
        cell = render_cell(size, seed, *KINDS[kind])
        counts[cell.lobes, count_lobes(cell.pixels)] += 1
    return counts


def report_phantoms(cells: int, size: int) -> None:
    by_kind = {kind: count_phantoms(cells, size, kind) for kind in KINDS}
    print(f"\n{size} px, by kind:\n")
    by_kind["all"] = sum(by_kind.values(), Counter())
    rows = [[k, str(sum(c.values())), share(c, None, 0), share(c, None, 1), mean_error(c)] for k, c in by_kind.items()]
    print(table(["cells", "number", "exact, %", "within one, %", "mean absolute error"], rows))
    plain = by_kind["normal"] + by_kind["hypersegmentation 1"] + by_kind["hypersegmentation 2"]
    print(f"{size} px, normal and hypersegmented cells, by true lobes:\n")
    head = ["true", "cells", "exact, %", "within one, %", *(f"counted {c}" for c in range(MOST + 1))]
    rows = [
        [str(t), str(sum(n for (true, _), n in plain.items() if true == t)), share(plain, t, 0), share(plain, t, 1)]
        + [str(plain[t, c] or "") for c in range(MOST + 1)]
        for t in sorted({true for true, _ in plain})
    ]
    print(table(head, rows))


def pbc_crops(pbc: Path, size: int, every: int) -> dict[str, list[NDArray[np.uint8]]]:
    """Centre crops of every so manieth PBC neutrophil, by WBCAtt's shape of the nucleus."""
    with (pbc / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["cell_type"] == "neutrophil"][::every]
    crops: dict[str, list[NDArray[np.uint8]]] = {}
    for row in rows:
        with Image.open(pbc / row["file_name"]) as image:
            pixels = np.asarray(centre_square(image.convert("RGB"), 192, size))
        crops.setdefault(row["nucleus_shape"], []).append(pixels)
    return crops


def report_pbc(pbc: Path, size: int) -> None:
    print(f"{size} px, PBC neutrophils, by the shape that people gave the nucleus:\n")
    rows = []
    people: list[int] = []
    counted: list[int] = []
    for shape, crops in sorted(pbc_crops(pbc, size, every=3).items()):
        counts = Counter(count_lobes(crop) for crop in crops)
        if shape in LOBES_OF_SHAPES:
            people += [LOBES_OF_SHAPES[shape]] * len(crops)
            counted += [min(max(count, 1), 3) for count in counts.elements()]
        rows.append([shape, str(len(crops)), *(str(counts[c] or "") for c in range(MOST + 1))])
    print(table(["shape", "cells", *(f"counted {c}" for c in range(MOST + 1))], rows))
    alike, kappa = np.mean(np.equal(people, counted)), cohen_kappa_score(people, counted, weights="quadratic")
    error = np.mean(np.abs(np.subtract(people, counted)))
    print(
        f"One, two, or three lobes and more in {len(people)} cells: {100 * alike:.1f} % alike, mean absolute error "
        f"{error:.2f}, weighted kappa {kappa:.2f}, rank correlation {stats.spearmanr(people, counted).statistic:.2f}.\n"
    )


def draw_sheet(path: Path, pbc: Path | None, size: int = 96, columns: int = 7, label: int = 118) -> None:
    """Draw the first seeds of each kind, one kind a row, below real cells; 256 colours keep the file small."""
    rows: dict[str, list[NDArray[np.uint8]]] = {}
    if pbc is not None:
        shapes = pbc_crops(pbc, size, every=150)
        rows["real (PBC)"] = [crop for crops in shapes.values() for crop in crops][:columns]
    for abnormality, grade in KINDS.values():
        rows[f"{abnormality} {grade}"] = [render_cell(size, 41 * i, abnormality, grade).pixels for i in range(columns)]
    sheet = Image.new("RGB", (label + columns * (size + 2), len(rows) * (size + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (kind, cells) in enumerate(rows.items()):
        pen.text((4, y * (size + 2) + size // 2 - 6), kind, fill="black")
        for x, cell in enumerate(cells):
            sheet.paste(Image.fromarray(cell), (label + x * (size + 2), y * (size + 2)))
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=400, help="phantom cells of each kind and size")
    parser.add_argument("--pbc", type=Path, help="folder of the PBC granulocytes")
    parser.add_argument("--sheet", type=Path, help="PNG to draw a sheet of cells into")
    arguments = parser.parse_args()
    if arguments.sheet:
        draw_sheet(arguments.sheet, arguments.pbc)
    print(f"Phantom version {PHANTOM_VERSION}, seeds from {FIRST_SEED}.\n")
    for size in (64, 192):
        started = time.process_time()
        for seed in range(100):
            render_cell(size, seed)
        print(f"{size} px: {(time.process_time() - started) * 20:.0f} s of one core for 2,000 cells")
    for size in (64, 192):
        report_phantoms(arguments.cells, size)
        if arguments.pbc:
            report_pbc(arguments.pbc, size)


if __name__ == "__main__":
    main()
