"""`wbc classify`: do synthetic images help a classifier? From images and arms to one table, one page and one record."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wbc_diffusers import __version__
from wbc_diffusers.pages import chart_svg, save_charts, write_page
from wbc_diffusers.pages.tables import as_csv, as_markdown
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.figures import draw_figures
from wbc_diffusers.study.images import check_images, fingerprints
from wbc_diffusers.study.results import ArmRuns, build_record, read_runs
from wbc_diffusers.study.runs import runs_left
from wbc_diffusers.study.tables import headers, points, rows, swap_in_words
from wbc_diffusers.study.words import findings
from wbc_diffusers.study.workers import do_runs
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
    """Raise ValueError if what the study decides by is not what it was when the trainings that are done began.

    That is the primary arm, what it is held against, and how: all of it could be chosen by its results.
    """
    if not (out / STUDY_NAME).is_file() or not any(out.glob("runs/*/*/run.json")):
        return
    before = StudyConfig.from_dict(yaml.safe_load((out / STUDY_NAME).read_text(encoding="utf-8")))
    compared = ("primary",) if before.primary is None else ("primary", "specificity", "seeds")
    changed = [name for name in compared if getattr(before, name) != getattr(config, name)]
    if before.primary is not None:
        old, new = (
            {arm.name: arm for arm in each.all_arms() if not arm.synthetic or arm.name == before.primary}
            for each in (before, config)
        )
        changed += [f"the arm {name}" for name in {**old, **new} if old.get(name) != new.get(name)]
    if changed:
        began = "no primary arm" if before.primary is None else f"the primary arm {before.primary!r}"
        raise ValueError(
            f"The study in {out} was begun with {began}, and has trainings that are done: what it decides by, and "
            f"against what, is fixed before. Undo what changed ({', '.join(changed)}), or begin anew in another "
            "folder, with other test images."
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
