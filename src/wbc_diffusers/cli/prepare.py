"""`wbc prepare`: check, crop, label and split cell images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wbc_diffusers.data.report import Report


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Folder of classes, folder with metadata.csv or .jsonl, Parquet, or a data set's id."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to make; absent or empty.")],
    crop: Annotated[int, typer.Option(help="Side of the square cut from the centre, in pixels.")] = 192,
    size: Annotated[int | None, typer.Option(help="Side that the crop is shrunk to; by default the crop's.")] = None,
    split: Annotated[
        str, typer.Option(help="Fractions of train, validation, test, where the source has no split.")
    ] = "0.8,0.1,0.1",
    resplit: Annotated[bool, typer.Option("--resplit", help="Split anew even where the source has a split.")] = False,
    group_column: Annotated[
        str | None, typer.Option(help="Column never divided between splits; by default patient, slide and the like.")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="Label rule column=value:abnormality:grade; repeat it for more.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="Filter column=value; repeat it for more.")] = None,
    background: Annotated[
        str | None,
        typer.Option(help="Bring the slide background to one colour: R,G,B in 1..255, or auto for the set's median."),
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Keep one of each set of copies, the training one first.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; by default one for each CPU.")] = None,
) -> None:
    """Check, crop, label and split a folder of cell images into a new folder; the source is not changed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from wbc_diffusers.data.parallel import available_workers
    from wbc_diffusers.data.prepare import prepare as run

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {stage: bar.add_task(stage, total=None) for stage in ("check", "write")}
        report = run(
            source,
            out,
            crop=crop,
            size=size,
            seed=seed,
            split=_numbers(split, "--split"),
            resplit=resplit,
            group_column=group_column,
            maps=map_ or (),
            where=where or (),
            normalise_background=_background(background),
            drop_duplicates=drop_duplicates,
            workers=available_workers() if workers is None else workers,
            progress=lambda stage, done, total: bar.update(tasks[stage], completed=done, total=total),
        )
    _show(report, out)


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: wanted three numbers parted by commas") from None


def _background(text: str | None) -> bool | list[float]:
    if text is None:
        return False
    return True if text == "auto" else _numbers(text, "--background")


def _show(report: "Report", out: Path) -> None:
    """Print how many images were kept, by split and label, and how many files were left out, by reason."""
    from rich.console import Console
    from rich.table import Table

    from wbc_diffusers.data.check import REASONS

    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"Kept: {sum(report.kept.values())} images in {out}")
    kept = Table()
    for heading in ("split", "cell type", "abnormality", "grade", "images"):
        kept.add_column(heading, justify="right" if heading == "images" else "left")
    for row in report.labels:
        kept.add_row(*(str(row[key]) for key in ("split", "cell_type", "abnormality", "grade", "images")))
    console.print(kept)
    if report.left_out:
        console.print(f"Left out: {len(report.left_out)} files, listed in report.json")
        gone = Table()
        gone.add_column("reason")
        gone.add_column("files", justify="right")
        gone.add_column("meaning")
        for reason, number in report.reasons.items():
            gone.add_row(reason, str(number), REASONS[reason])
        console.print(gone)
    else:
        console.print("Left out: no file.")
    if report.filtered_out:
        console.print(f"Not looked at, by --where: {report.filtered_out} images.")
    for note in report.notes:
        console.print(f"Note: {note}.")
