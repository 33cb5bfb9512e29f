"""The table of a study: a row for each arm, as text for people and for spreadsheets."""

from collections.abc import Mapping
from typing import Any

from wbc_diffusers.pages.tables import p_value
from wbc_diffusers.study.measures import MAIN


def headers(record: Mapping[str, Any]) -> list[str]:
    """The columns."""
    at = f"{100 * record['study']['specificity']:g} %"
    return [
        "arm", "real cells", "synthetic cells", f"recall at {at} specificity", "95 % interval",
        "difference to the best without", "95 % interval", "McNemar p", "difference to its like", "AUROC", "AUPRC",
        "F1 of the most probable class", "recall, specificity at the validation's threshold", "calibration error",
        "source swap",
    ]  # fmt: skip


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A row for each arm, in the order of the study, as texts."""
    return [_row(arm, record) for arm in record["arms"]]


def _row(arm: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    recall, means = arm["estimates"][MAIN], arm["means"]
    difference, p = ["", ""], ""
    if "differences" in arm:
        found = arm["differences"][MAIN]
        difference, p = (
            [points(found["value"]), f"{points(found['low'])} to {points(found['high'])}"],
            p_value(arm["mcnemar"]["p"]),
        )
    elif arm["name"] == record["reference"]:
        difference = ["the best without", ""]
    return [
        f"{arm['name']} (primary)" if arm["name"] == record["study"]["primary"] else arm["name"],
        numbers(arm, "real_images"),
        numbers(arm, "synthetic_images"),
        f"{100 * recall['value']:.1f}",
        f"{100 * recall['low']:.1f} to {100 * recall['high']:.1f}",
        *difference,
        p,
        with_interval(arm["counterpart"]["difference"]) if "counterpart" in arm else "",
        f"{means['auroc']:.4f}",
        f"{means['auprc']:.4f}",
        f"{means['f1']:.3f}",
        ", ".join(f"{100 * means[f'{name}_at_validation_threshold']:.1f}" for name in ("recall", "specificity")),
        f"{means['calibration_error']:.3f}",
        swap_in_words(arm["swap"]),
    ]


def points(difference: float) -> str:
    """A difference of shares in points of percent, with its sign."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # + 0.0: nothing is -0.0


def numbers(arm: Mapping[str, Any], which: str) -> str:
    """Images of each class, normal ones first: of both trainings where there are two, from the least of the runs on."""
    found: dict[str, list[int]] = {}
    for run in arm["trained_on"]:
        for name in run[0][which]:
            counts = [stage[which][name] for stage in run]
            taken = max(count if isinstance(count, int) else count["taken"] for count in counts)
            found.setdefault(name, []).append(taken)
    ranges = ((min(counts), max(counts)) for counts in found.values())
    return " + ".join(f"{least} to {most}" if least < most else str(most) for least, most in ranges)


def swap_in_words(swap: Mapping[str, Any] | None) -> str:
    """By how many points more often synthetic normal cells are called abnormal than real ones."""
    if swap is None or "normal" not in swap:
        return ""
    return with_interval(swap["normal"]["difference"])


def with_interval(difference: Mapping[str, float]) -> str:
    """A difference of shares in points of percent, with its interval."""
    return f"{points(difference['value'])} ({points(difference['low'])} to {points(difference['high'])})"
