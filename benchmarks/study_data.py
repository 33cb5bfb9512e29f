"""The images of the studies in docs/classifying.md, as prepared folders.

    python benchmarks/study_data.py phantom --seed 1000000 --out phantom-development
    python benchmarks/study_data.py pbc --source ../shared/data/pbc --out pbc-study

Phantom: 8,000 normal and 8,000 hypersegmented cells on the same 200 slides, split by slide. PBC: neutrophils, whose
multilobed nuclei stand for hypersegmentation; the validation split of WBCAtt becomes the test, and one image in seven
of its training split the validation.
"""

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from wbc_diffusers.data.phantom import render_folder
from wbc_diffusers.data.prepare import prepare

CELLS, SIZE = 8000, 64
SPLIT = (0.64, 0.08, 0.28)
ONE_IN = 7


def phantom(out: Path, seed: int, kinds: list[tuple[str, int]], cells: int) -> None:
    """Draw cells of each kind (abnormality and grade) with the same seeds, and prepare them."""
    with TemporaryDirectory(dir=out.parent) as place:
        with ProcessPoolExecutor(2) as pool:
            jobs = [
                pool.submit(
                    render_folder, Path(place) / f"{kind}-{grade}", num=cells, size=SIZE, seed=seed, abnormality=kind,
                    grade=grade,
                )
                for kind, grade in kinds
            ]  # fmt: skip
            for job in jobs:
                job.result()
        prepare(place, out, crop=SIZE, split=SPLIT)


def pbc(source: Path, out: Path) -> None:
    """Prepare the neutrophils of PBC, and make the validation split the test."""
    prepare(
        source, out, size=SIZE, where=["cell_type=neutrophil"],
        maps=["nucleus_shape=segmented-multilobed:hypersegmentation:2"],
    )  # fmt: skip
    (out / "validation").rename(out / "test")
    (out / "validation").mkdir()
    columns, rows = read_rows(out / "train")
    # By the hash of the pixels, so that an image's place depends on no other.
    moved = [row for row in rows if int(row["pixel_sha256"][:8], 16) % ONE_IN == 0]
    for row in moved:
        (out / "train" / row["file_name"]).rename(out / "validation" / row["file_name"])
    write_rows(out / "validation", columns, moved)
    write_rows(out / "train", columns, [row for row in rows if row not in moved])


def read_rows(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        return list(table.fieldnames or []), list(table)


def write_rows(folder: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["phantom", "pbc"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--cells", type=int, default=CELLS)
    parser.add_argument("--kinds", nargs="+", default=["none:0", "hypersegmentation:2"])
    given = parser.parse_args()
    if given.which == "pbc":
        pbc(given.source, given.out)
    else:
        kinds = [(kind, int(grade)) for kind, grade in (each.split(":") for each in given.kinds)]
        phantom(given.out, given.seed, kinds, given.cells)


if __name__ == "__main__":
    main()
