"""The images of the studies in docs/classifying.md, as prepared folders.

    python benchmarks/study_data.py phantom --seed 1000000 --out phantom-development
    python benchmarks/study_data.py phantom --seed 2000000 --out phantom
    python benchmarks/study_data.py phantom --seed 3000000 --out phantom-table-4 --kinds none:0:6600 \\
        hypersegmentation:1:3000 hypersegmentation:2:3000 dohle_bodies:1:3000 dohle_bodies:2:3000 \\
        hypergranulation:1:3000 hypergranulation:2:3000
    python benchmarks/study_data.py pbc --source ../shared/data/pbc --out pbc-study

Phantom: 8,000 normal and 8,000 hypersegmented cells on the same 200 slides, split by slide. PBC: neutrophils, whose
multilobed nuclei stand for hypersegmentation; the validation split of WBCAtt becomes the test, and one image in seven
of its training split the validation. A second folder, OUT-development, holds images of the training split alone.
"""

import argparse
import csv
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from wbc_diffusers.data.phantom import render_folder
from wbc_diffusers.data.prepare import prepare

CELLS, SIZE = 8000, 64
SPLIT = (0.64, 0.08, 0.28)
ONE_IN = 7
PBC_RARE = 30


def phantom(out: Path, seed: int, kinds: list[tuple[str, int, int]]) -> None:
    """Draw so many cells of each kind (abnormality, grade, number) with the same seeds, and prepare them."""
    with TemporaryDirectory(dir=out.parent) as place:
        with ProcessPoolExecutor(2) as pool:
            jobs = [
                pool.submit(
                    render_folder, Path(place) / f"{kind}-{grade}", num=cells, size=SIZE, seed=seed, abnormality=kind,
                    grade=grade,
                )
                for kind, grade, cells in kinds
            ]  # fmt: skip
            for job in jobs:
                job.result()
        prepare(place, out, crop=SIZE, split=SPLIT)


def pbc(source: Path, out: Path) -> None:
    """Prepare the neutrophils of PBC twice: to report on, and of its training split alone to choose by."""
    with TemporaryDirectory(dir=out.parent) as place:
        prepared = Path(place) / "prepared"
        prepare(
            source, prepared, size=SIZE, where=["cell_type=neutrophil"],
            maps=["nucleus_shape=segmented-multilobed:hypersegmentation:2"],
        )  # fmt: skip
        columns, train = read_rows(prepared / "train")
        _, test = read_rows(prepared / "validation")
        rows = [{**row, "place": str(prepared / "train" / row["file_name"])} for row in train]
        test = [{**row, "place": str(prepared / "validation" / row["file_name"])} for row in test]
        validation = [row for row in rows if drawn(row) % ONE_IN == 0]
        rest = sorted((row for row in rows if drawn(row) % ONE_IN), key=lambda row: row["pixel_sha256"])
        write_folder(out, columns, {"train": rest, "validation": validation, "test": test})

        # Neither the report's rare cells nor its test images are part of what is chosen by.
        rare = [row for row in rest if row["abnormality"] != "none"]
        normal = [row for row in rest if row["abnormality"] == "none"]
        judges = [row for row in normal if drawn(row) % 10 < 3]
        learn = [row for row in normal if drawn(row) % 10 >= 3]
        development = {
            "train": learn + rare[PBC_RARE : 2 * PBC_RARE], "validation": validation,
            "test": judges + rare[2 * PBC_RARE :],
        }  # fmt: skip
        write_folder(out.with_name(out.name + "-development"), columns, development)


def drawn(row: dict[str, str]) -> int:
    """A number that depends on the image alone."""
    return int(row["pixel_sha256"][-8:], 16)


def write_folder(out: Path, columns: list[str], splits: dict[str, list[dict[str, str]]]) -> None:
    for split, rows in splits.items():
        (out / split).mkdir(parents=True)
        for row in rows:
            shutil.copy(row["place"], out / split / row["file_name"])
        write_rows(out / split, columns, rows)


def read_rows(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        return list(table.fieldnames or []), list(table)


def write_rows(folder: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def kind_of(text: str) -> tuple[str, int, int]:
    kind, grade, cells = text.split(":")
    return kind, int(grade), int(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["phantom", "pbc"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--kinds", nargs="+", default=[f"none:0:{CELLS}", f"hypersegmentation:2:{CELLS}"])
    given = parser.parse_args()
    if given.which == "pbc":
        pbc(given.source, given.out)
    else:
        phantom(given.out, given.seed, [kind_of(each) for each in given.kinds])


if __name__ == "__main__":
    main()
