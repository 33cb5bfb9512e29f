"""`wbc evaluate`: generated cells judged against real ones."""

import os
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

FLOORS = {"share": "real", "authenticity": "real", "copies": "false alarms"}
"""What the floor is of measures that begin so, in a word."""


def evaluate(
    real: Annotated[Path, typer.Option(help="Folder of real images that the model was not trained on.")],
    generated: Annotated[Path, typer.Option(help="Folder of generated images.")],
    out: Annotated[Path, typer.Option(help="Folder for evaluation.json and the page; new or empty.")],
    train: Annotated[
        Path | None, typer.Option(help="Folder of the training images: the floor, and what copies are looked for in.")
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="inception-v3 if left out (FID, KID); efficientnet-lite0, dinobloom-s, dinov2-vit-s-14; repeat it."
        ),
    ] = None,
    inception_weights: Annotated[Path | None, typer.Option(help="File of Inception's weights.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Pipeline folder of the model: its manifest tells what it was trained on.")
    ] = None,
    allow_leaks: Annotated[bool, typer.Option(help="Go on though the model was trained on some real images.")] = False,
    where: Annotated[
        list[str] | None, typer.Option(help="Filter column=value of the real and training images; repeat it for more.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels that images are brought to; the smallest set's.")] = None,
    crop: Annotated[float, typer.Option(help="Share of an image's side that is looked at.")] = 1.0,
    cache: Annotated[
        Path | None, typer.Option(help="File that keeps features; in ~/.cache/wbc-diffusers if left out.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws.")] = 0,
) -> None:
    """Judge generated cells; under `accelerate launch -m wbc_diffusers evaluate ...` every device encodes images."""
    if find_spec("sklearn") is None:
        raise ValueError("There is no scikit-learn, which the probe needs: pip install 'wbc-diffusers[evaluate]'.")

    from wbc_diffusers.data.sources import shown
    from wbc_diffusers.evaluation.encoders import INCEPTION
    from wbc_diffusers.evaluation.evaluate import PAGE_NAME
    from wbc_diffusers.evaluation.evaluate import evaluate as run
    from wbc_diffusers.evaluation.found import Plan
    from wbc_diffusers.evaluation.rows import figure

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    plan = Plan(
        real=real,
        generated=generated,
        train=train,
        encoders=tuple(dict.fromkeys(encoder or (INCEPTION,))),
        inception_weights=inception_weights,
        size=size,
        share=crop,
        where=tuple(where or ()),
        model=model,
        allow_leaks=allow_leaks,
        cache=None if no_cache else cache or home / "wbc-diffusers" / "features.sqlite",
        seed=seed,
    )
    found = run(plan, out, say=lambda line: typer.echo(line, err=True))
    if found is None:
        return
    for row in found.main_rows:
        if not isfinite(row.value):
            typer.echo(f"{row.measure:32}   not measured")
            continue
        interval = "" if row.low is None else f"  ({figure(row.low)} to {figure(row.high)})"
        floor = FLOORS.get(row.measure.partition("_")[0], "floor")
        beside = "" if row.floor is None else f"  {floor} {figure(row.floor)}"
        if row.value_at_floor is not None:  # of fewer images, as the floor is: a distance falls with their number
            beside += f" (beside it {figure(row.value_at_floor)})"
        typer.echo(f"{row.measure:32} {figure(row.value):>8}{interval}{beside}")
    typer.echo(f"Wrote {shown(out / PAGE_NAME)}.")
