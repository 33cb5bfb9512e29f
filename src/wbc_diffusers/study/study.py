"""`wbc classify`: do synthetic images help a classifier? From images and arms to one table, one page and one record."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wbc_diffusers import __version__
from wbc_diffusers.pages import chart_svg, save_charts, write_page
from wbc_diffusers.pages.tables import as_csv, as_markdown
from wbc_diffusers.study.config import LEAST_SEEDS, StudyConfig
from wbc_diffusers.study.figures import draw_figures
from wbc_diffusers.study.images import check_images, fingerprints
from wbc_diffusers.study.measures import MAIN
from wbc_diffusers.study.results import ArmRuns, build_record, read_runs
from wbc_diffusers.study.runs import do_runs, runs_left
from wbc_diffusers.study.tables import headers, points, rows, swap_in_words
from wbc_diffusers.training.files import write_whole
from wbc_diffusers.training.output import LOCK_NAME, only_run

STUDY_NAME, RECORD_NAME, PAGE_NAME = "study.yaml", "study.json", "index.html"


def run_study(config: StudyConfig, out: Path, processes: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Do what of a study is not done, and write its record, tables, plots and page.

    Args:
        config: The study.
        out: A new or empty folder, or that of a study to go on with.
        processes: How many trainings run at a time.
        say: Called with a line now and then.

    Returns:
        The record.

    Raises:
        FileExistsError: If the folder holds something else, or another process works in it.
        LeakError: If an image that judges was trained on.
        ValueError: If images or arms don't fit, a run in the folder is of another recipe, or the primary arm was named
            after one.
        OSError: If a folder or model is not there.
    """
    if out.is_dir() and {path.name for path in out.iterdir()} - {LOCK_NAME} and not (out / STUDY_NAME).is_file():
        raise FileExistsError(f"{out} holds something, and no study: give a new or empty folder.")
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out):
        _check_primary(config, out)
        facts, cells = check_images(config), fingerprints(config)
        left = runs_left(config, out, cells)
        write_whole(out / STUDY_NAME, yaml.safe_dump(config.to_dict(), sort_keys=False).encode())
        do_runs(config, left, out, cells, processes, say)
        arms = read_runs(config, out)
        record = build_record(config, arms, facts)
        write_results(record, arms, out)
    return record


def _check_primary(config: StudyConfig, out: Path) -> None:
    """Raise ValueError if the primary arm is another than when the trainings that are done began."""
    if not (out / STUDY_NAME).is_file() or not any(out.glob("runs/*/*/run.json")):
        return
    before = yaml.safe_load((out / STUDY_NAME).read_text(encoding="utf-8")).get("primary")
    if before != config.primary:
        raise ValueError(
            f"The study in {out} was begun with {f'the primary arm {before!r}' if before else 'no primary arm'}, and "
            f"has trainings that are done: what it decides by is named before. Set primary to {before or 'null'}, or "
            "begin anew in another folder, with other test images."
        )


def write_results(record: Mapping[str, Any], arms: Sequence[ArmRuns], out: Path) -> None:
    """Write the record, the table as CSV and Markdown, the plots as SVG and PNG, and the page."""
    head, body = headers(record), rows(record)
    write_whole(out / RECORD_NAME, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    write_whole(out / "table.csv", as_csv(head, body).encode())
    write_whole(out / "table.md", as_markdown(head, body).encode())
    figures = draw_figures(record, arms)
    save_charts(figures, out / "figures")
    write_page(
        "study.html.j2",
        out / PAGE_NAME,
        version=__version__,
        record=record,
        head=head,
        rows=body,
        findings=findings(record),
        figures={name: chart_svg(figure) for name, figure in figures.items()},
        points=points,
        swap_in_words=swap_in_words,
    )


def findings(record: Mapping[str, Any]) -> list[str]:
    """What a study found, in sentences."""
    arms = [arm for arm in record["arms"] if arm["dose"] is None and arm["more_real"] is None]
    seeds = len(record["study"]["seeds"])
    best = next(arm for arm in arms if arm["name"] == record["reference"])["estimates"][MAIN]["value"]
    mean = f"the mean of {seeds} seeds" if seeds > 1 else "of a single seed"
    told = [
        f"The best arm without synthetic cells is {record['reference']}: recall {100 * best:.1f} % at "
        f"{100 * record['study']['specificity']:g} % specificity, {mean}."
    ]
    if seeds < LEAST_SEEDS:
        told.append(f"With fewer than {LEAST_SEEDS} seeds nothing is said of what helps or harms.")
    primary = record["study"]["primary"]
    if primary is not None:
        told.append(f"The study decides by {primary}, which was named before; the other arms are looked at beside it.")
    synthetic = sorted((arm for arm in arms if arm["synthetic"]), key=lambda arm: arm["name"] != primary)
    told += [_verdict(arm, enough=seeds >= LEAST_SEEDS) for arm in synthetic]
    told += [line for arm in synthetic if (line := _swap_verdict(arm))]
    for dose in (record["dose"] or {}).get("doses", []):
        worth = dose["worth"]
        bound = f"{dose['bound']} " if dose["bound"] else ""
        told.append(
            f"{dose['synthetic']} synthetic cells were worth {bound}{worth['value']:.0f} real ones "
            f"({worth['low']:.0f}{' or fewer' if dose['low_open'] else ''} to {worth['high']:.0f}"
            f"{' or more' if dose['high_open'] else ''})."
        )
    return told


def _verdict(arm: Mapping[str, Any], *, enough: bool) -> str:
    """Whether an arm helps, held against the best without, or harms, held against the same without synthetic cells.

    The best was chosen by the images that judge: who is better than it helps, but who is worse need not harm.
    """
    found, same = arm["differences"][MAIN], arm.get("counterpart")
    if found["low"] > 0:
        verdict = "helps"
    elif same is not None and same["difference"]["high"] < 0:
        verdict = "harms"
    else:
        verdict = "can be told neither to help nor to harm"
    line = f"{arm['name']}{f' {verdict}' if enough else ''}: {_in_points(found)} from the best without"
    if same is not None:
        line += f", {_in_points(same['difference'])} from {same['name']}, its like"
    return f"{line}."


def _swap_verdict(arm: Mapping[str, Any]) -> str | None:
    """Whether an arm tells cells by their source; None where it was not seen to."""
    gap = ((arm["swap"] or {}).get("normal") or {}).get("difference")
    if gap is None or gap["low"] <= 0 <= gap["high"]:
        return None
    often = "more" if gap["value"] > 0 else "less"
    size, *bounds = (100 * abs(gap[name]) for name in ("value", "low", "high"))
    return (
        f"{arm['name']} tells cells by their source: it calls synthetic normal ones abnormal {often} often than real "
        f"ones, by {size:.1f} points ({min(bounds):.1f} to {max(bounds):.1f})."
    )


def _in_points(found: Mapping[str, float]) -> str:
    return f"{points(found['value'])} points ({points(found['low'])} to {points(found['high'])})"
