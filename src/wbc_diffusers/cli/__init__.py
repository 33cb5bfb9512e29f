"""The command line `wbc`. Each command is a function in a module of its name.

The modules import what they need when called, so that `wbc --help` loads no torch.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from wbc_diffusers import __version__
from wbc_diffusers.cli.card import card
from wbc_diffusers.cli.classify import classify
from wbc_diffusers.cli.demo import demo
from wbc_diffusers.cli.evaluate import evaluate
from wbc_diffusers.cli.generate import generate
from wbc_diffusers.cli.inspect import inspect
from wbc_diffusers.cli.phantom import phantom
from wbc_diffusers.cli.prepare import prepare
from wbc_diffusers.cli.publish import publish
from wbc_diffusers.cli.readers import readers
from wbc_diffusers.cli.train import train

app = typer.Typer(
    name="wbc",
    help="Synthetic images of white blood cells with rare abnormalities, by diffusion.",
    epilog="WBC_TRACEBACK=1 in the environment shows where an error came from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of options off at 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, phantom, prepare, generate, inspect, evaluate, classify, card, publish):
    app.command()(command)
app.add_typer(readers, name="readers")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what the user can put right is told in a line, with exit code 2.

    Set WBC_TRACEBACK=1 to see where an error came from.
    """
    try:
        app(args=None if arguments is None else list(arguments))
    except (ValueError, OSError, RuntimeError) as error:
        told = _what_to_tell(error)
        if told is None or os.environ.get("WBC_TRACEBACK"):
            raise
        typer.secho(f"wbc: {' '.join(told.split())}", fg="red", err=True)
        sys.exit(2)


def _what_to_tell(error: Exception) -> str | None:
    """The line for an error that the user can put right; None for one of the program."""
    if not isinstance(error, RuntimeError) or type(error).__module__.startswith("wbc_diffusers"):
        return str(error)
    # torch's of a GPU has a class of its own, that of the processor's memory none.
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return (
            "There is not enough memory: work on fewer images at a time (--batch-size, or --train-batch-size to "
            "train), on smaller ones, or with --mixed-precision bf16."
        )
    return None
