"""The plots of a study, as a paper would print them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbc_diffusers.pages import COLOURS, INK, MUTED, new_chart
from wbc_diffusers.study.measures import precision_recall_points, reliability, roc_points
from wbc_diffusers.study.results import ArmRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRID = np.linspace(0.0, 1.0, 201)


def draw_figures(record: Mapping[str, Any], arms: Sequence[ArmRuns]) -> "dict[str, Figure]":
    """All plots of a study, by the name of their file."""
    shown = [runs for runs in arms if runs.arm.dose is None and runs.arm.more_real is None]
    figures = {
        "recall": recall_chart(record),
        "roc": roc_chart(shown, record["study"]["specificity"]),
        "precision-recall": precision_recall_chart(shown),
        "confusion": confusion_chart(record, "confusion_at_specificity", ["normal", "abnormal"]),
        "most-probable": confusion_chart(record, "confusion", record["class_names"]),
        "calibration": calibration_chart(shown),
    }
    if record["dose"] is not None:
        figures["dose"] = dose_chart(record["dose"])
    return figures


def recall_chart(record: Mapping[str, Any]) -> "Figure":
    """Recall of each arm with its interval, and a dot for each seed."""
    arms = record["arms"]
    figure, axes = new_chart(7.0, 0.9 + 0.34 * len(arms))
    places = np.arange(len(arms))[::-1]
    for place, arm in zip(places, arms, strict=True):
        found, colour = arm["estimates"]["recall_at_specificity"], COLOURS[1 if arm["synthetic"] else 0]
        axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(found["value"], place, "o", color=colour, markersize=7)
        seeds = [each["recall_at_specificity"] for each in arm["seeds"]]
        axes.plot(seeds, [place - 0.24] * len(seeds), "|", color=colour, alpha=0.6, markersize=6)
        if arm["name"] == record["reference"]:
            axes.axvline(found["value"], color=MUTED, linewidth=1, linestyle=":")
    axes.set_yticks(places, [arm["name"] for arm in arms], fontsize=9)
    axes.set_ylim(-0.7, len(arms) - 0.3)
    axes.set_xlabel(f"recall at {100 * record['study']['specificity']:g} % specificity", color=INK, fontsize=9)
    axes.grid(axis="x", color="#e6e7ea", linewidth=0.8)
    axes.grid(visible=False, axis="y")
    return figure


def roc_chart(arms: Sequence[ArmRuns], specificity: float) -> "Figure":
    """The ROC curve of each arm, the mean over its seeds."""
    figure, axes = new_chart(5.6, 4.6)
    for number, runs in enumerate(arms):
        points = [roc_points(test.scores, test.abnormal) for test in runs.test]
        curve = np.mean([np.interp(_GRID, false, true) for false, true in points], axis=0)
        axes.plot(_GRID, curve, label=runs.arm.name, **_line(number))
    axes.axvline(1 - specificity, color=MUTED, linewidth=1, linestyle=":")
    _label(axes, "share of normal cells called abnormal", "recall")
    return figure


def precision_recall_chart(arms: Sequence[ArmRuns]) -> "Figure":
    """The precision-recall curve of each arm, the mean over its seeds."""
    figure, axes = new_chart(5.6, 4.6)
    for number, runs in enumerate(arms):
        points = [precision_recall_points(test.scores, test.abnormal) for test in runs.test]
        curve = np.mean([np.interp(_GRID, recall[::-1], precision[::-1]) for recall, precision in points], axis=0)
        axes.plot(_GRID[1:], curve[1:], label=runs.arm.name, **_line(number))
    _label(axes, "recall", "precision")
    return figure


def calibration_chart(arms: Sequence[ArmRuns]) -> "Figure":
    """Share of abnormal cells by the probability that the classifiers gave, all seeds of an arm together."""
    figure, axes = new_chart(5.6, 4.6)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    for number, runs in enumerate(arms):
        scores = np.concatenate([test.scores for test in runs.test])
        abnormal = np.concatenate([test.abnormal for test in runs.test])
        found = reliability(scores, abnormal)
        axes.plot(found.scores, found.shares, marker=".", label=runs.arm.name, **_line(number))
    _label(axes, "probability given", "share of abnormal cells")
    return figure


def confusion_chart(record: Mapping[str, Any], which: str, classes: Sequence[str]) -> "Figure":
    """The confusion matrix of each arm, mean over the seeds: shares of the true class, and numbers (figures 24-26).

    Args:
        record: The study's.
        which: `confusion`, by the most probable class, or `confusion_at_specificity`.
        classes: What its rows and columns are.
    """
    from matplotlib.figure import Figure

    arms = [arm for arm in record["arms"] if arm["dose"] is None and arm["more_real"] is None]
    names = [name.replace("_", " ") for name in classes]
    columns = min(4, len(arms))
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.6 * rows), layout="constrained")
    for place, arm in enumerate(arms):
        axes = figure.add_subplot(rows, columns, place + 1)
        counts = np.array(arm[which])
        shares = counts / counts.sum(axis=1, keepdims=True)
        axes.imshow(shares, cmap="Purples", vmin=0.0, vmax=1.0)
        for (row, column), share in np.ndenumerate(shares):
            axes.text(
                column, row, f"{share:.2f}\n({counts[row, column]:.0f})", ha="center", va="center", fontsize=8,
                color="white" if share > 0.6 else INK,
            )  # fmt: skip
        ticks = range(len(names))
        axes.set_xticks(ticks, names, fontsize=7)
        axes.set_yticks(ticks, names, fontsize=7, rotation=90, va="center")
        axes.set_title(arm["name"], fontsize=8, color=INK)
        if place % columns == 0:
            axes.set_ylabel("true", fontsize=8)
        if place // columns == rows - 1:
            axes.set_xlabel("predicted", fontsize=8)
    return figure


def dose_chart(dose: Mapping[str, Any]) -> "Figure":
    """Recall against synthetic images added, and against real ones, which the doses are read off."""
    figure, axes = new_chart(7.0, 3.6)
    base = dose["real_images"]
    start = next(each for each in dose["real_curve"] if each["real"] == base)
    synthetic = [{"count": 0, "recall": start["recall"]}]
    synthetic += [{"count": each["synthetic"], "recall": each["recall"]} for each in dose["doses"]]
    real = [{"count": each["real"] - base, "recall": each["recall"]} for each in dose["real_curve"]]
    for points, label, colour in ((real, "real", COLOURS[0]), (synthetic, "synthetic", COLOURS[1])):
        counts = [each["count"] for each in points]
        value, low, high = ([each["recall"][key] for each in points] for key in ("value", "low", "high"))
        errors = [np.subtract(value, low), np.subtract(high, value)]
        axes.errorbar(counts, value, errors, marker="o", capsize=3, color=colour, label=f"{label} cells added")
    axes.set_xscale("symlog", linthresh=25)
    ticks = sorted({each["count"] for each in (*real, *synthetic)})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8, rotation=45)
    axes.set_xticks([], minor=True)
    _label(axes, f"abnormal cells added to {base} real ones", "recall")
    return figure


def _line(number: int) -> dict[str, Any]:
    styles = ("-", "--", ":")
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": styles[number // len(COLOURS) % len(styles)],
        "linewidth": 1.6,
    }


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    axes.legend(frameon=False, fontsize=8)
