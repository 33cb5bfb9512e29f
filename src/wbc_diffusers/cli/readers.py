"""`wbc readers`: can people tell synthetic cells from real ones?"""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

readers = typer.Typer(
    help="Blinded reader studies: plan one, build it, serve it to readers in the browser, and score it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@readers.command()
def plan(
    width: Annotated[float, typer.Option(help="Half the width of the 95 % interval that is wanted.")] = 0.1,
    margin: Annotated[float, typer.Option(help="How far from 0.5 is still as good as chance.")] = 0.1,
    power: Annotated[float, typer.Option(help="Wanted chance to show it, if readers are at chance.")] = 0.8,
    number: Annotated[int, typer.Option(min=1, help="Readers.")] = 1,
    scatter: Annotated[float, typer.Option(help="Standard deviation of readers' true accuracies.")] = 0.05,
    shared: Annotated[float, typer.Option(help="Correlation of two readers' answers to a cell.")] = 0.3,
) -> None:
    """Say how many cells a study needs, for an interval and to show that readers are at chance."""
    from wbc_diffusers.readers.planning import plan_in_words

    for line in plan_in_words(width, margin, power, number, scatter, shared):
        typer.echo(line)


@readers.command()
def build(
    config: Annotated[Path, typer.Option(help="The study: a YAML file.")],
    out: Annotated[Path, typer.Option(help="New folder, to be served; it tells nothing.")],
    key: Annotated[Path, typer.Option(help="New folder for the key and the readers' links; keep it to yourself.")],
    address: Annotated[str, typer.Option(help="Where the study will be served.")] = "http://127.0.0.1:8000",
) -> None:
    """Draw cells, blind them, and write the study with its key."""
    from wbc_diffusers.data.sources import shown
    from wbc_diffusers.readers.build import build_study
    from wbc_diffusers.readers.config import load_reader_study
    from wbc_diffusers.readers.folder import LINKS_NAME

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half written is taken away
    study = load_reader_study(config)
    for risk in build_study(study, out, key, address):
        typer.secho(f"WARNING: {risk}", fg="yellow", err=True)
    further = "".join(
        f", {number} {what}"
        for number, what in ((study.practice, "for practice"), (study.repeats, "repeated"))
        if number
    )
    for name, sources in study.sources.items():
        numbers = " and ".join(f"{source.number} {each}" for each, source in sources.items())
        typer.echo(f"{name}: {numbers}{' in pairs' if study.question == 'which_is_real' else ''}")
    typer.echo(f"Wrote {shown(out)}, with {study.items} items{further} for each of {len(study.readers)} readers.")
    typer.echo(f"Their links are in {shown(key / LINKS_NAME)}. Serve with: wbc readers serve {shown(out)}")


@readers.command()
def links(
    key: Annotated[Path, typer.Argument(help="Folder of a study's key.")],
    address: Annotated[str, typer.Option(help="Where the study will be served.")],
) -> None:
    """Write the readers' links anew for another address; their secret parts stay."""
    from wbc_diffusers.data.sources import shown
    from wbc_diffusers.readers.build import change_address
    from wbc_diffusers.readers.folder import LINKS_NAME

    change_address(key, address)
    typer.echo(f"The links are in {shown(key / LINKS_NAME)}.")


@readers.command()
def serve(
    study: Annotated[Path, typer.Argument(help="Folder of `wbc readers build`.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    certificate: Annotated[Path | None, typer.Option(help="PEM file with the certificate, for TLS.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="PEM file with its key.")] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Serve other machines without TLS, as behind a proxy that has it.")
    ] = False,
) -> None:
    """Serve a study to its readers until Ctrl-C."""
    try:
        from wbc_diffusers.readers.server import serve_study
    except ModuleNotFoundError as error:
        raise ValueError(f"There is no {error.name}: pip install 'wbc-diffusers[readers]'.") from error

    scheme = "http" if certificate is None else "https"
    told = (
        f"Serving {study} at {scheme}://{host}:{port}, where the readers' links must lead (`wbc readers links` changes "
        "them). Stop with Ctrl-C; every answer is kept."
    )
    serve_study(
        study, host, port, certificate, private_key, allow_http=allow_http, say=lambda: typer.echo(told)
    )  # fmt: skip


@readers.command()
def status(study: Annotated[Path, typer.Argument(help="Folder of `wbc readers build`.")]) -> None:
    """Say how far readers are, and nothing of their answers."""
    from wbc_diffusers.readers.reading import progress

    for name, (answered, total) in progress(study).items():
        typer.echo(f"{name}: {answered} of {total}")


@readers.command()
def score(
    study: Annotated[Path, typer.Argument(help="Folder of `wbc readers build`, with the readers' answers.")],
    key: Annotated[Path, typer.Option(help="Folder of its key.")],
    out: Annotated[Path, typer.Option(help="Folder for tables, plots and page.")],
    names: Annotated[bool, typer.Option("--names", help="Call readers by their names, not by numbers.")] = False,
) -> None:
    """Score what readers answered, with intervals, and write tables, plots and a page."""
    from wbc_diffusers.data.sources import shown
    from wbc_diffusers.readers.report import PAGE_NAME, score_study
    from wbc_diffusers.readers.words import findings

    for line in findings(score_study(study, key, out, names=names)):
        typer.echo(line)
    typer.echo(f"Wrote {shown(out / PAGE_NAME)}.")
