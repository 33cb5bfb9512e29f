"""A reader study's record as files: JSON, CSV, plots, and a page with a paragraph for a paper's methods."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from wbc_diffusers import __version__
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.pages import COLOURS, INK, MUTED, chart_svg, image_uri, new_chart, save_charts, write_page
from wbc_diffusers.pages.tables import as_csv, half_up, p_value
from wbc_diffusers.readers.answers import NONE, Sheet, read_sheet
from wbc_diffusers.readers.certainty import INTERVALS
from wbc_diffusers.readers.config import ALL, REAL
from wbc_diffusers.readers.detection import count_answers
from wbc_diffusers.readers.folder import IMAGES_NAME
from wbc_diffusers.readers.score import score
from wbc_diffusers.readers.words import findings, methods, shown_name, terms, with_interval
from wbc_diffusers.training.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD_NAME, PAGE_NAME, TABLE_NAME, GIVEN_NAME = "score.json", "index.html", "table.csv", "answers.csv"


def score_study(folder: Path, key: Path, out: Path, *, names: bool = False) -> dict[str, Any]:
    """Score a study and write what came out.

    Args:
        folder: The study, with its answers.
        key: The folder of its key.
        out: Folder for the record, the tables, the plots and the page; not in the study's, which is served.
        names: Whether readers are called by their names; otherwise by numbers, in the study's order.

    Returns:
        The record.

    Raises:
        FileNotFoundError: If study, key or answers are not there, or nobody answered anything yet.
        ValueError: If they don't belong together, or `out` lies in the study.
    """
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"{out} lies in {folder}, which is served, and the score tells the key: give another folder.")
    sheet = read_sheet(folder, key, names=names)
    if not (sheet.answers != NONE).any():
        raise FileNotFoundError(f"Nobody has answered anything in {folder} yet, but for practice.")
    record = score(sheet)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / RECORD_NAME, (json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())
    write_whole(out / TABLE_NAME, as_csv(HEAD, rows(record)).encode())
    write_whole(out / GIVEN_NAME, as_csv(*answer_rows(sheet)).encode())
    charts = {"readers": readers_chart(record)}
    if sheet.levels > 2 and not record["tables"][0]["confounded"]:
        charts["roc"] = roc_chart(sheet, terms(record))
    save_charts(charts, out / "figures")
    write_page(
        "readers.html.j2",
        out / PAGE_NAME,
        version=__version__,
        record=record,
        terms=terms(record),
        methods=methods(record),
        findings=findings(record),
        name_of=shown_name,
        charts={name: chart_svg(chart) for name, chart in charts.items()},
        images={
            cell: _shown(folder, sheet, cell)
            for each in [*record["missed"], *record["comments"]]
            for cell in each["cells"]
        },
        half_up=half_up,
        p_value=p_value,
        with_interval=with_interval,
    )
    return record


def _shown(folder: Path, sheet: Sheet, cell: str) -> str:
    """A cell as readers saw it, with the mark of its origin, which what was served must not have."""
    with Image.open(folder / IMAGES_NAME / f"{cell}.png") as image:
        return image_uri(image, None if sheet.key["cells"][cell]["source"] == REAL else TRAINED)


# -- tables -----------------------------------------------------------------------------------------------------------

HEAD = [
    "stratum", "generator", "reader", "answers", "positive called so", "positive called negative",
    "negative called positive", "negative called so",
    *(f"{name}{end}" for name in INTERVALS for end in ("", " low", " high")),
    "corrected", "difference p", "equivalence margin", "equivalence p",
]  # fmt: skip


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A row for each table and reader, and the readers' mean, with all digits."""
    body = []
    for table in record["tables"]:
        for row in table["rows"]:
            cells = [count for kind in row["confusion"] for count in kind]
            body.append(_line(table, row["reader"], [sum(cells), *cells], row))
        if table["mean"] is not None:
            body.append(_line(table, f"(mean of {table['mean']['readers']})", [None] * 5, table["mean"]))
    return body


def _line(table: Mapping[str, Any], who: str, counts: list[Any], found: Mapping[str, Any]) -> list[str]:
    figures = [(found.get(name) or {}).get(end) for name in INTERVALS for end in ("value", "low", "high")]
    same = found["equivalence"] or {"margin": None, "p": None}
    tests = [found.get("corrected"), found.get("difference"), same["margin"], same["p"]]
    return _as_text([table["stratum"], table["generator"] or ALL, who, *counts, *figures, *tests])


def answer_rows(sheet: Sheet) -> tuple[list[str], list[list[str]]]:
    """All answers with their truth as readers gave them, one a row; of a pair the cell on the left comes first."""
    facts_told = ("source", "file_name", "abnormality", "grade")
    head = ["reader", "number", "again", "stratum", "cell", "source", "file", "shows", "shows grade"]
    head += [f"right {name}" for name in head[4:]] if sheet.in_pairs else []
    head += ["choice", "confidence", "signal chosen" if sheet.in_pairs else "correct", "seconds", "changes"]
    body = []
    for given in sheet.given:
        content, cells = given.answer.content, [(name, sheet.key["cells"][name]) for name in given.images]
        values = [sheet.readers[given.reader], given.answer.position + 1, given.again, sheet.items[given.item].stratum]
        values += [value for name, facts in cells for value in (name, *(facts.get(each) for each in facts_told))]
        values += [content["choice"], content.get("confidence"), given.right, f"{given.answer.seconds:.3f}"]
        values += [given.answer.changes, content.get("abnormality"), content.get("grade"), content.get("comment")]
        body.append([_no_formula(text) for text in _as_text(values)])
    return [*head, "abnormality", "grade", "comment"], body


def _as_text(values: Sequence[Any]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _no_formula(text: str) -> str:
    """A comment or file's name as a spreadsheet shows it, and does not run it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


# -- plots ------------------------------------------------------------------------------------------------------------


def readers_chart(record: Mapping[str, Any]) -> "Figure":
    """Balanced accuracy of each reader and of their mean in each table with its interval, and chance."""
    shown = [
        (table, None if row is table["mean"] else row["reader"], row["balanced_accuracy"])
        for table in record["tables"]
        for row in [*table["rows"], table["mean"]]
        if row is not None and row["balanced_accuracy"] and row["balanced_accuracy"]["value"] is not None
    ]
    figure, axes = new_chart(7.0, 0.9 + 0.3 * len(shown))
    places = np.arange(len(shown))[::-1]
    names = [each["name"] for each in record["readers"]]
    for place, (_, who, found) in zip(places, shown, strict=True):
        colour, mark = (INK, "D") if who is None else (COLOURS[names.index(who) % len(COLOURS)], "o")
        axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(found["value"], place, mark, color=colour, markersize=6)
    margin = record["margin"]
    axes.axvspan(0.5 - margin, 0.5 + margin, color=MUTED, alpha=0.15, linewidth=0)
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=":")
    labels = [f"{shown_name(table)}: {who or 'mean'}" for table, who, _ in shown]
    axes.set_yticks(places, labels, fontsize=9, parse_math=False)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlim(0, 1)
    axes.set_xlabel(terms(record)["balanced_accuracy"], color=INK, fontsize=9, parse_math=False)
    return figure


def roc_chart(sheet: Sheet, words: Mapping[str, str]) -> "Figure":
    """The ROC curve of each reader's confidence."""
    figure, axes = new_chart(4.2, 4.0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    for row, name in enumerate(sheet.readers):
        counts = count_answers(sheet.answers[row], sheet.signal[row], sheet.levels)
        totals: Sequence[float] = counts.sum(1)
        if min(totals) == 0:  # nothing of a kind yet
            continue
        steps = np.cumsum(counts[:, ::-1], axis=1) / counts.sum(1, keepdims=True)
        hits, alarms = (np.concatenate([[0.0], each]) for each in steps)
        axes.plot(alarms, hits, "o-", color=COLOURS[row % len(COLOURS)], markersize=4, label=name)
    axes.set_xlabel(f"{words['noise']}, {words['called']}", fontsize=9, parse_math=False)
    axes.set_ylabel(f"{words['signal']}, {words['called']}", fontsize=9, parse_math=False)
    axes.set_aspect("equal")
    if axes.get_legend_handles_labels()[1]:
        for text in axes.legend(fontsize=8, frameon=False, loc="lower right").get_texts():
            text.set_parse_math(False)
    return figure
