"""`wbc demo`: the whole way from images to synthetic cells, in minutes."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="New or empty folder for everything that is made.")] = Path("wbc-demo"),
) -> None:
    """Render phantom cells, train on them, fine-tune for hypersegmentation, sample, count lobes, write a page."""
    from wbc_diffusers.demo import run_demo

    page = run_demo(out, say=typer.echo)
    typer.echo(f"Done. Open {page} in a browser.")
