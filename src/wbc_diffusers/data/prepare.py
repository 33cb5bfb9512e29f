"""Turn a source of cell images into a prepared folder: checked, cropped, labelled and split without leaks.

Two passes over the files: the first decodes and measures every one, the second writes the crops; between them stands
all that can refuse the whole, so nothing is written for a set that leaks.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wbc_diffusers import __version__
from wbc_diffusers.data.background import Colour
from wbc_diffusers.data.crops import Cell, Geometry, Job, measure, write_crop
from wbc_diffusers.data.duplicates import Pair, clusters, find_duplicates
from wbc_diffusers.data.labels import (
    ASSUMED_GRADE,
    Label,
    check_conditions,
    keep_row,
    label_of,
    parse_rule,
    parse_where,
)
from wbc_diffusers.data.output import check_output, make_way, output_names, whole_folder
from wbc_diffusers.data.parallel import parallel_map
from wbc_diffusers.data.report import Report
from wbc_diffusers.data.sources import Item, Source, read_source
from wbc_diffusers.data.split import SPLITS, assign_splits, check_fractions, groups_on_two_sides, split_name

COLUMNS = (
    "file_name", "cell_type", "abnormality", "grade", "group", "source", "source_sha256", "pixel_sha256",
    "perceptual_hash", "microns_per_pixel", "stain", "scanner",
)  # fmt: skip
"""Columns of every `metadata.csv`; those of the source that are none of these follow."""

GROUP_COLUMNS = (
    "patient", "patient_id", "subject", "subject_id", "donor", "donor_id", "case", "case_id", "slide", "slide_id",
    "smear", "smear_id", "group",
)  # fmt: skip
"""Columns taken as the group where none is named, the first that is there; a patient can have several slides."""

Progress = Callable[[str, int, int], None]


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    crop: int = 192,
    size: int | None = None,
    seed: int = 0,
    split: Sequence[float] = (0.8, 0.1, 0.1),
    resplit: bool = False,
    group_column: str | None = None,
    maps: Sequence[str] = (),
    where: Sequence[str] = (),
    normalise_background: bool | Sequence[float] = False,
    drop_duplicates: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Check, crop, label and split the images of a source into a new prepared folder; the source is never changed.

    Args:
        source: A folder of classes, a folder with metadata.csv or metadata.jsonl, Parquet, or the id of a data set.
        out: The folder to make; it may exist if it is empty. It appears whole or not at all.
        crop: Side in pixels of the square cut from the centre of each image.
        size: Side in pixels that the crop is shrunk to (Lanczos); None keeps the crop's. At most `crop`.
        seed: Another seed gives another split.
        split: Fractions of train, validation and test, where the source has no split of its own.
        resplit: Split anew even where the source has a split.
        group_column: Column whose values are never divided between splits; None takes the first of `GROUP_COLUMNS`.
        maps: Rules `column=value:abnormality:grade`; the first that fits a row makes its label.
        where: Filters `column=value`.
        normalise_background: Scale each image so that its slide background has one colour: True for the median of the
            set, or that colour as red, green, blue in 1..255.
        drop_duplicates: Keep one of each set of copies, the training one first, instead of refusing copies that lie on
            two sides of the split.
        workers: Processes that decode and write. With more than one, call this from under
            `if __name__ == "__main__":`, as for all Python multiprocessing.
        progress: Called with the pass (`check` or `write`), the images done, and how many there are.

    Returns:
        What was kept, what was left out and why; also written as `report.json`.

    Raises:
        FileNotFoundError: If the source does not exist.
        FileExistsError: If `out` holds something.
        ValueError: For options, columns, labels or splits that cannot be, for copies across splits, for an `out` that
            cannot be replaced, and if no image is left.
    """
    geometry = Geometry(crop, crop if size is None else size)
    fractions, target = check_fractions(split), _target(normalise_background)
    rules, wheres = [parse_rule(text) for text in maps], [parse_where(text) for text in where]
    if workers < 1:
        raise ValueError(f"workers {workers}: wanted 1 or more")
    out = check_output(Path(out), source)
    make_way(out)
    listed = read_source(source)
    report = Report(str(source), str(out), {
        "version": __version__, "source_kind": listed.kind, "crop": crop, "size": geometry.size, "seed": seed,
        "split": list(fractions), "resplit": resplit, "maps": list(maps), "where": list(where),
        "drop_duplicates": drop_duplicates,
    })  # fmt: skip
    report.left_out += listed.left_out
    report.other_files = listed.other_files
    rows = [item.fields for item in listed.items]
    check_conditions(rules, rows, "--map")
    check_conditions(wheres, rows, "--where")
    items = [item for item in listed.items if keep_row(item.fields, wheres)]
    report.filtered_out = len(listed.items) - len(items)
    labels = [label_of(item.fields, rules, item.name) for item in items]
    for item in items:
        _scaled(item, geometry)  # refused before the work, not after it
    cells = _measure_all(items, labels, listed, geometry, normalise_background is not False, workers, report, progress)
    report.options["group_column"] = _group(cells, items, group_column, report)
    _split(cells, fractions, seed, resplit, report)
    cells = _without_duplicates(cells, drop_duplicates, report)
    target = target or _median_background(cells, normalise_background is not False)
    report.options["background"] = list(target) if target else None
    with whole_folder(out) as folder:
        written = _write_all(cells, listed, geometry, target, folder, workers, progress)
        _write_tables(folder, cells, written, geometry)
        report.count(cells)
        (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return report


def _target(normalise: bool | Sequence[float]) -> Colour | None:
    if isinstance(normalise, bool):
        return None
    values = tuple(float(value) for value in normalise)
    if len(values) != 3 or not all(1 <= value <= 255 for value in values):
        raise ValueError(f"background {list(normalise)}: wanted red, green and blue in 1..255, such as 240,235,230")
    return values[0], values[1], values[2]


def _measure_all(
    items: list[Item], labels: list[Label], listed: Source, geometry: Geometry, background: bool, workers: int,
    report: Report, progress: Progress | None,
) -> list[Cell]:  # fmt: skip
    """First pass: decode every image, report the unfit ones, and give the others with their measures."""
    jobs = [Job(item, geometry, background) for item in items]
    cells: list[Cell] = []
    results = parallel_map(measure, jobs, workers, listed)
    for item, label, facts in zip(items, labels, _watched(results, "check", len(jobs), progress), strict=True):
        if facts.reason:
            report.left_out.append((item.name, facts.reason, facts.detail))
        else:
            cells.append(Cell(item, facts, label))
    report.left_out.sort()
    if not cells:
        name, reason, detail = report.left_out[0]
        example = f" The first is {name}: {detail}." if detail else ""
        advice = f" Give another --crop; {geometry.crop} is wanted now." if reason == "too_small" else ""
        raise ValueError(
            f"no image of {report.source} is fit for training. {report.reasons_in_words()}{example}{advice}"
        )
    report.turned = sum(cell.facts.turned for cell in cells)
    report.grades_assumed = sum(cell.label.grade_assumed for cell in cells)
    if report.grades_assumed:
        report.notes.append(
            f"{report.grades_assumed} images name an abnormality without its grade; grade {ASSUMED_GRADE} was assumed"
        )
    blank = [not cell.item.fields.get("abnormality", "").strip() for cell in cells if cell.label.abnormality == "none"]
    if any(blank) and any(cell.item.fields.get("abnormality", "").strip() for cell in cells):
        report.notes.append(
            f"{sum(blank)} images have an empty abnormality, as of cells that nobody looked at, and count as none; "
            "--where abnormality=... leaves them out"
        )
    return cells


def _group(cells: list[Cell], items: list[Item], wanted: str | None, report: Report) -> str | None:
    """Find the columns of groups and give each cell its group; returns the columns, None where there are none.

    Sets that were put together may name them otherwise: each cell's group is in the first column that has one for it.
    """
    columns = {name.lower(): name for item in items for name, value in item.fields.items() if value.strip()}
    if wanted is not None and wanted.lower() not in columns:
        raise ValueError(f"--group-column {wanted}: no such column with values; there are {', '.join(sorted(columns))}")
    prepared = {"group", "source_sha256", "pixel_sha256"} <= columns.keys()  # where somebody chose the column before
    order = (wanted.lower(),) if wanted else ("group", *GROUP_COLUMNS) if prepared else GROUP_COLUMNS
    used: dict[str, None] = {}
    for cell in cells:
        fields = {name.lower(): value.strip() for name, value in cell.item.fields.items() if value.strip()}
        if (found := next((name for name in order if name in fields), None)) is not None:
            cell.group = fields[found]
            used[found] = None
    if not used:
        report.notes.append("no patient or slide column: images of one patient may lie on two sides of the split")
        return None
    names = " or ".join(columns[name] for name in dict.fromkeys(order) if name in used)
    if without := sum(not cell.group for cell in cells):
        report.notes.append(f"{without} images have no {names}; each was split by itself")
    return names


def _split(cells: list[Cell], fractions: Sequence[float], seed: int, resplit: bool, report: Report) -> None:
    """Give each cell its split: the source's, or one by a hash of its group."""
    given = [cell.item.split or cell.item.fields.get("split", "").strip() for cell in cells]
    if any(given) and not resplit:
        for cell, name in zip(cells, given, strict=True):
            known = split_name(name)
            if known is None:
                raise ValueError(
                    f"{cell.item.name}: split {name!r}, wanted train, validation or test in every row; "
                    "or split anew with --resplit"
                )
            cell.split = known
        report.options["split"] = "given"
    else:
        # The file's hash stands in for a missing group: the split then depends neither on names nor on the crop.
        keys = [f"group:{cell.group}" if cell.group else f"image:{cell.facts.source_sha256}" for cell in cells]
        places = assign_splits(keys, fractions, seed)
        for cell, key in zip(cells, keys, strict=True):
            cell.split = places[key]
    torn = groups_on_two_sides((cell.group, cell.split) for cell in cells if cell.group)
    if torn:
        some = "; ".join(f"{group} in {' and '.join(splits)}" for group, splits in list(torn.items())[:5])
        raise ValueError(
            f"the source's own split divides {len(torn)} groups: {some}. Correct it, or split anew with --resplit"
        )


def _without_duplicates(cells: list[Cell], drop: bool, report: Report) -> list[Cell]:
    """Leave out copies that contradict each other; refuse others across splits, or with `drop` keep one of each set."""
    pairs = find_duplicates(
        np.stack([cell.facts.hashes for cell in cells]),
        np.stack([cell.facts.thumbnail for cell in cells]),
        [cell.facts.pixel_sha256 for cell in cells],
    )
    report.add_pairs(pairs, cells)
    gone: dict[int, tuple[str, str]] = {}
    for members in clusters(pairs, len(cells)):
        contradictions = _contradictions([cells[place] for place in members])
        if contradictions:  # nothing tells which label is true
            gone |= {i: ("conflicting_labels", text) for i, text in zip(members, contradictions, strict=True)}
        elif drop:
            best = min(members, key=lambda place: (SPLITS.index(cells[place].split), cells[place].item.name))
            gone |= {i: ("duplicate", f"of {cells[best].item.name}") for i in members if i != best}
    staying = [pair for pair in pairs if pair.first not in gone and pair.second not in gone]
    across = [pair for pair in staying if cells[pair.first].split != cells[pair.second].split]
    if across:
        raise ValueError(_refusal(across, cells))
    if staying:
        report.notes.append(
            f"{len(staying)} pairs of copies inside one split were kept; --drop-duplicates removes them"
        )
    conflicting = sum(reason == "conflicting_labels" for reason, _ in gone.values())
    if conflicting:
        report.notes.append(
            f"{conflicting} images are copies of others with another label, and none of them was kept; "
            "report.json names them: correct their labels"
        )
    report.left_out += [(cells[place].item.name, reason, detail) for place, (reason, detail) in gone.items()]
    report.left_out.sort()
    kept = [cell for place, cell in enumerate(cells) if place not in gone]
    if not kept:
        raise ValueError(f"no image of {report.source} is left. {report.reasons_in_words()}")
    for split in sorted({cell.split for cell in cells} - {cell.split for cell in kept}, key=SPLITS.index):
        report.notes.append(f"the {split} split is empty: all its images were left out as copies")
    return kept


def _contradictions(copies: list[Cell]) -> list[str]:
    """Name for each of a set of copies the first one whose label is another; empty where all labels are the same."""
    labels = [(cell.label.cell_type, cell.label.abnormality, cell.label.grade) for cell in copies]
    if len(set(labels)) == 1:
        return []
    others = [next(place for place, other in enumerate(labels) if other != label) for label in labels]
    return [
        f"copy of {copies[place].item.name}, labelled {labels[place][0] or 'no cell type'}, {labels[place][1]}, "
        f"grade {labels[place][2]}"
        for place in others
    ]


def _refusal(pairs: list[Pair], cells: list[Cell], most: int = 5) -> str:
    some = "; ".join(
        f"{cells[p.first].item.name} ({cells[p.first].split}) and {cells[p.second].item.name} "
        f"({cells[p.second].split}), {p.kind}, mean difference {p.mean_difference} of 255"
        for p in pairs[:most]
    )
    return (
        f"{len(pairs)} pairs of copies lie on two sides of the split, so scores on them mean nothing: {some}"
        f"{f'; and {len(pairs) - most} more' if len(pairs) > most else ''}. Keep one of each set of copies with "
        "--drop-duplicates (the training one first), or put them on one side with --group-column or a split column"
    )


def _median_background(cells: list[Cell], wanted: bool) -> Colour | None:
    if not wanted:
        return None
    red, green, blue = np.median([cell.facts.background for cell in cells], axis=0).round(1).tolist()
    return red, green, blue


def _write_all(
    cells: list[Cell], listed: Source, geometry: Geometry, target: Colour | None, folder: Path, workers: int,
    progress: Progress | None,
) -> list[tuple[str, str, str]]:  # fmt: skip
    """Second pass: write the crops; gives file name, hash of the pixels and perceptual hash of each."""
    for split in {cell.split for cell in cells}:
        (folder / split).mkdir()
    names = output_names([(cell.split, cell.item.name) for cell in cells])
    jobs = [
        Job(cell.item, geometry, target is not None, cell.facts, target, str(folder / cell.split / name))
        for cell, name in zip(cells, names, strict=True)
    ]
    results = _watched(parallel_map(write_crop, jobs, workers, listed), "write", len(jobs), progress)
    return [(name, *hashes) for name, hashes in zip(names, results, strict=True)]


def _write_tables(folder: Path, cells: list[Cell], written: list[tuple[str, str, str]], geometry: Geometry) -> None:
    further = _further_columns(cells)
    rows: dict[str, list[dict[str, str]]] = {}
    for cell, (name, digest, perceptual) in zip(cells, written, strict=True):
        fields = cell.item.fields
        own = {
            "file_name": name, "cell_type": cell.label.cell_type, "abnormality": cell.label.abnormality,
            "grade": str(cell.label.grade), "group": cell.group, "source": cell.item.name,
            "source_sha256": cell.facts.source_sha256, "pixel_sha256": digest, "perceptual_hash": perceptual,
            "microns_per_pixel": _scaled(cell.item, geometry),
            "stain": fields.get("stain", ""), "scanner": fields.get("scanner", ""),
        }  # fmt: skip
        rows.setdefault(cell.split, []).append(own | {new: fields.get(old, "") for old, new in further.items()})
    for split, table in rows.items():
        # Before Python 3.13, csv puts no quotes around a \r that then ends the line.
        bare = any("\r" in text for row in table for pair in row.items() for text in pair)
        with (folder / split / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file,
                [*COLUMNS, *further.values()],
                lineterminator="\n",
                quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL,
            )
            writer.writeheader()
            writer.writerows(table)


def _further_columns(cells: list[Cell]) -> dict[str, str]:
    """Name the source's further columns as they are written: names that are taken get `original_` before them."""
    replaced = {"cell_type", "abnormality", "grade", "microns_per_pixel", "stain", "scanner", "split"}
    there = dict.fromkeys(
        name for cell in cells for name, value in cell.item.fields.items() if name != "group" or value.strip()
    )
    names = {name: name for name in there if name not in replaced}
    for name in [name for name in names if name in COLUMNS]:
        while names[name] in COLUMNS or list(names.values()).count(names[name]) > 1:
            names[name] = f"original_{names[name]}"
    return names


def _scaled(item: Item, geometry: Geometry) -> str:
    """Bring the width of a pixel from the source's to the output's; empty stays empty."""
    text = item.fields.get("microns_per_pixel", "").strip()
    if not text:
        return ""
    try:
        microns = float(text)
    except ValueError:
        microns = math.nan
    if not 0 < microns < math.inf:
        raise ValueError(f"{item.name}: microns_per_pixel {text!r}, wanted a number above 0 such as 0.1, or empty")
    return f"{microns * geometry.crop / geometry.size:.6g}"


def _watched(results: Iterator[Any], stage: str, total: int, progress: Progress | None) -> Iterator[Any]:
    for done, result in enumerate(results, start=1):
        if progress is not None:
            progress(stage, done, total)
        yield result
