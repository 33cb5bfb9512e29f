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
from wbc_diffusers.readers.config import ALL, REAL
from wbc_diffusers.readers.detection import count_answers
from wbc_diffusers.readers.folder import IMAGES_NAME
from wbc_diffusers.readers.score import score
from wbc_diffusers.training.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD_NAME, PAGE_NAME, TABLE_NAME, ANSWERS_NAME = "score.json", "index.html", "table.csv", "answers.csv"


def score_study(folder: Path, key: Path, out: Path) -> dict[str, Any]:
    """Score a study and write what came out.

    Args:
        folder: The study, with its answers.
        key: The folder of its key.
        out: Folder for the record, the tables, the plots and the page; not in the study's, which is served.

    Returns:
        The record.

    Raises:
        FileNotFoundError: If study, key or answers are not there, or nobody answered anything yet.
        ValueError: If they don't belong together, or `out` lies in the study.
    """
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"{out} lies in {folder}, which is served, and the score tells the key: give another folder.")
    sheet = read_sheet(folder, key)
    if not (sheet.answers != NONE).any():
        raise FileNotFoundError(f"Nobody has answered anything in {folder} yet, but for practice.")
    record = score(sheet)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / RECORD_NAME, (json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())
    write_whole(out / TABLE_NAME, as_csv(HEAD, rows(record)).encode())
    write_whole(out / ANSWERS_NAME, as_csv(*answer_rows(sheet)).encode())
    charts = {"readers": readers_chart(record)}
    if sheet.levels > 2:
        charts["roc"] = roc_chart(sheet)
    save_charts(charts, out / "figures")
    write_page(
        "readers.html.j2",
        out / PAGE_NAME,
        version=__version__,
        record=record,
        words=words_of(record),
        methods=methods(record),
        findings=findings(record),
        charts={name: chart_svg(chart) for name, chart in charts.items()},
        missed=[[_shown(folder, sheet, cell) for cell in each["cells"]] for each in record["missed"]],
        half_up=half_up,
        p_value=p_value,
        with_interval=with_interval,
    )
    return record


def _shown(folder: Path, sheet: Sheet, cell: str) -> str:
    """A cell as readers saw it, with the mark of its origin, which what was served must not have."""
    with Image.open(folder / IMAGES_NAME / f"{cell}.png") as image:
        return image_uri(image, None if sheet.key["cells"][cell]["source"] == REAL else TRAINED)


def words_of(record: Mapping[str, Any]) -> dict[str, str]:
    """How signals and noise, recall and specificity are called."""
    if record["question"] == "which_is_real":
        return {
            "signal": "on the left", "noise": "on the right", "called": "chose left", "not": "chose right",
            "recall": "right if on the left", "specificity": "right if on the right",
        }  # fmt: skip
    return {
        "signal": "real", "noise": "synthetic", "called": "called real", "not": "called synthetic",
        "recall": "recall", "specificity": "specificity",
    }  # fmt: skip


# -- tables -----------------------------------------------------------------------------------------------------------

HEAD = [
    "cells", "generator", "reader", "answers", "accuracy", "low", "high", "recall", "low", "high", "specificity", "low",
    "high", "d'", "low", "high", "corrected", "criterion", "AUC", "low", "high", "equivalence margin", "equivalence p",
]  # fmt: skip


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A row for each table and reader, with all digits."""
    return [
        [
            table["stratum"], table["generator"] or ALL, row["reader"], str(sum(map(sum, row["confusion"]))),
            *_of(row["accuracy"]), *_of(row["recall"]), *_of(row["specificity"]), *_of(row.get("d_prime")),
            "yes" if row["corrected"] else "no", _of(row.get("criterion"))[0], *_of(row.get("auc")),
            str(row["equivalence"]["margin"]), str(row["equivalence"]["p"]),
        ]
        for table in record["tables"]
        for row in table["rows"]
    ]  # fmt: skip


def _of(found: Mapping[str, float | None] | None) -> list[str]:
    figures = [None if found is None else found[name] for name in ("value", "low", "high")]
    return ["" if figure is None else str(figure) for figure in figures]


def answer_rows(sheet: Sheet) -> tuple[list[str], list[list[str]]]:
    """All answers with their truth, one a row."""
    head = [
        "reader", "place", "cell", "stratum", "source", "other cell", "other source", "level", "of levels", "right",
        "seconds", "abnormality", "grade",
    ]  # fmt: skip
    body = []
    for row, name in enumerate(sheet.readers):
        for item in np.argsort(sheet.places[row], kind="stable"):
            if sheet.answers[row, item] == NONE:
                continue
            one = sheet.items[item]
            seen = sheet.abnormalities[sheet.kinds[row, item]] if sheet.abnormalities else ""
            body.append([
                name, str(sheet.places[row, item]), one.cells[0], one.stratum, one.source, *one.cells[1:2],
                *([""] if len(one.cells) == 1 else []), one.other or "", str(sheet.answers[row, item]),
                str(sheet.levels), str(sheet.right[row, item]), f"{sheet.seconds[row, item]:.3f}", seen,
                str(sheet.grades[row, item]) if seen else "",
            ])  # fmt: skip
    return head, body


def with_interval(found: Mapping[str, float] | None, digits: int = 2) -> str:
    """A figure with its interval, for people."""
    if found is None or found["value"] is None:
        return ""
    value, *bounds = (
        None if found[name] is None else half_up(found[name], digits) for name in ("value", "low", "high")
    )
    return f"{value}" if None in bounds else f"{value} ({bounds[0]} to {bounds[1]})"


# -- words ------------------------------------------------------------------------------------------------------------


def findings(record: Mapping[str, Any]) -> list[str]:
    """What a study found, in sentences."""
    told = []
    table = record["tables"][0]
    for row in table["rows"]:
        share = with_interval(row["accuracy"])
        same = row["equivalence"]
        verdict = (
            f"which is as good as chance within ± {same['margin']:g} (p = {p_value(same['p'])})"
            if same["shown"]
            else "better than chance" if row["accuracy"]["low"] > 0.5
            else "worse than chance" if row["accuracy"]["high"] < 0.5
            else f"neither told apart from chance nor shown to be within ± {same['margin']:g} of it"
        )  # fmt: skip
        told.append(f"{row['reader']} was right in {share} of the answers, {verdict}.")
        if "d_prime" in row and (row["d_prime"]["low"] or 0) > 0:
            habit = row["criterion"]["value"]
            side = words_of(record)["signal" if habit < 0 else "noise"]
            told.append(
                f"{row['reader']} saw a difference: d' is {with_interval(row['d_prime'])}"
                + (f", though the habit of answering {side!r} hides some of it." if abs(habit) > 0.5 else ".")
            )
    if table["mean"] is not None:
        told.append(f"The mean accuracy of the readers is {with_interval(table['mean']['accuracy'])}.")
    return told + [
        f"Cells of {each['generator']} were taken for real in {with_interval(each['taken_for_real'])}."
        for each in record["generators"]
    ]


def methods(record: Mapping[str, Any]) -> str:
    """A paragraph for a paper's methods section."""
    readers = [each for each in record["readers"] if each["answered"]]
    names = [table["stratum"] for table in record["tables"] if table["stratum"] != ALL]
    strata = f" of {len(names)} strata ({', '.join(names)})" if names else ""
    rated = f", with a confidence of {record['confidences']} steps" if record["confidences"] > 1 else ""
    what, asked, signal, d_prime = (
        ("cells", "whether each cell was real or synthetic", "real cells", "z(hit rate) - z(false alarm rate)"),
        (
            "pairs of cells",
            "which of two cells was real",
            "pairs whose real cell was on the left",
            "(z(hit rate) - z(false alarm rate)) / √2",
        ),
    )[record["question"] == "which_is_real"]
    sentences = [
        f"{len(readers)} reader{'' if len(readers) == 1 else 's'} judged {record['tables'][0]['items']} {what}{strata}",
        "Each reader had a random order",
        f"They said {asked}{rated}",
        "Images came without metadata, in files of one form and size",
        f"With {signal} as the positive class, accuracy, recall and specificity are given with Wilson's 95 % intervals",
        f"Sensitivity is d' = {d_prime} and bias the criterion c, after the log-linear correction where a cell of the "
        "confusion matrix was empty, with 95 % intervals by a bootstrap over cells",
        *(["The area under the ROC curve is that of the rated confidence"] if rated else []),
        "Equivalence to chance was tested by two exact one-sided binomial tests with a margin of "
        f"{record['margin']:g} at a level of 0.05",
    ]
    if len(readers) > 1:
        sentences.append("Means over readers have 95 % intervals by a bootstrap that draws readers and cells")
        sentences.append("Agreement is Cohen's kappa of each two readers, and Fleiss's of all")
    return ". ".join([*sentences, f"Analysed with wbc-diffusers {record['version']}."])


# -- plots ------------------------------------------------------------------------------------------------------------


def readers_chart(record: Mapping[str, Any]) -> "Figure":
    """Accuracy of each reader in each table with its interval, and chance."""
    shown = [(table, row) for table in record["tables"] for row in table["rows"]]
    figure, axes = new_chart(7.0, 0.9 + 0.3 * len(shown))
    places = np.arange(len(shown))[::-1]
    names = [row["reader"] for row in record["tables"][0]["rows"]]
    for place, (_, row) in zip(places, shown, strict=True):
        colour, found = COLOURS[names.index(row["reader"]) % len(COLOURS)], row["accuracy"]
        axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(found["value"], place, "o", color=colour, markersize=6)
    margin = record["margin"]
    axes.axvspan(0.5 - margin, 0.5 + margin, color=MUTED, alpha=0.15, linewidth=0)
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=":")
    labels = [f"{table['generator'] or table['stratum']}: {row['reader']}" for table, row in shown]
    axes.set_yticks(places, labels, fontsize=9, parse_math=False)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy", color=INK, fontsize=9)
    return figure


def roc_chart(sheet: Sheet) -> "Figure":
    """The ROC curve of each reader's confidence."""
    figure, axes = new_chart(4.2, 4.0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    for row, name in enumerate(sheet.readers):
        counts = count_answers(sheet.answers[row], sheet.signal[row], sheet.levels)
        totals: Sequence[float] = counts.sum(1)
        if min(totals) == 0:
            continue
        steps = np.cumsum(counts[:, ::-1], axis=1) / counts.sum(1, keepdims=True)
        hits, alarms = (np.concatenate([[0.0], each]) for each in steps)
        axes.plot(alarms, hits, "o-", color=COLOURS[row % len(COLOURS)], markersize=4, label=name)
    axes.set_xlabel("synthetic cells called real" if not sheet.in_pairs else "called left, but right", fontsize=9)
    axes.set_ylabel("real cells called real" if not sheet.in_pairs else "called left, and left", fontsize=9)
    axes.set_aspect("equal")
    if axes.get_legend_handles_labels()[1]:
        for text in axes.legend(fontsize=8, frameon=False).get_texts():
            text.set_parse_math(False)
    return figure
