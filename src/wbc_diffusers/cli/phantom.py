"""`wbc phantom`: render smear images whose truth is known."""

from pathlib import Path
from typing import Annotated

import typer


def phantom(
    out: Annotated[Path, typer.Option(help="New or empty folder for the PNGs and their metadata.csv.")],
    num: Annotated[int, typer.Option(help="Number of cells.")] = 100,
    size: Annotated[int, typer.Option(help="Pixels a side, 32 to 4096.")] = 64,
    seed: Annotated[
        int, typer.Option(help="Seed of the first cell; the others follow it. Forty seeds are a slide.")
    ] = 0,
    abnormality: Annotated[
        str, typer.Option(help="none, hypersegmentation, dohle_bodies or hypergranulation.")
    ] = "none",
    grade: Annotated[int, typer.Option(help="0 with none; 1 (slight) or 2 (severe) with an abnormality.")] = 0,
) -> None:
    """Render neutrophils among red cells, with known lobes, granules and Döhle bodies."""
    import time

    from wbc_diffusers.data.phantom import render_folder

    start = time.perf_counter()
    render_folder(out, num=num, size=size, seed=seed, abnormality=abnormality, grade=grade)
    typer.echo(f"{num} phantom cells of {size} x {size} px in {out}, {time.perf_counter() - start:.1f} s")
