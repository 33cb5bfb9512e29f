"""`wbc publish`: a pipeline folder to the hub, with its card, manifest and samples."""

from pathlib import Path
from typing import Annotated

import typer

from wbc_diffusers.cli.card import BaseModel, Dataset, DatasetLicence, Evaluated, Licence, Notes, statement


def publish(
    model: Annotated[Path, typer.Argument(help="Pipeline folder.")],
    repo_id: Annotated[str, typer.Argument(help="Repository, such as somebody/wbc-neutrophils.")],
    private: Annotated[bool, typer.Option("--private", help="Only for those whom you let in.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; made if there is none.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Publish over what the repository holds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")] = False,
    samples: Annotated[int, typer.Option(min=0, help="Cells on the sheet of samples; 0 for none.")] = 16,
    evaluation: Evaluated = None,
    licence: Licence = None,
    dataset: Dataset = None,
    dataset_licence: DatasetLicence = None,
    base_model: BaseModel = None,
    notes: Notes = None,
) -> None:
    """Publish a model: weights, code, card, manifest of hashes and a sheet of samples; never the training images.

    Say it again after an interruption: it goes on.
    """
    from diffusers.utils import logging

    from wbc_diffusers.hub.publish import publish as send
    from wbc_diffusers.hub.shipment import listing, pack

    logging.disable_progress_bar()
    said = statement(licence, dataset, dataset_licence, base_model, notes)
    shipment = pack(model, repo_id, evaluation, said, samples=samples)
    for note in shipment.notes:
        typer.echo(note, err=True)
    if dry_run:
        typer.echo(listing(shipment))
        if shipment.left_out:
            typer.echo(f"Stays here: {', '.join(shipment.left_out)}.")
        return
    address = send(
        shipment,
        repo_id,
        private=private,
        revision=revision,
        update=update,
        say=lambda line: typer.echo(line, err=True),
    )
    typer.echo(f"Published {address}.")
