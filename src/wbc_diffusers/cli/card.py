"""`wbc card`: the card of a model, from its manifest and its evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wbc_diffusers.hub.card import Statement

Licence = Annotated[str | None, typer.Option("--license", help="Licence of the model, such as cc-by-4.0.")]
Dataset = Annotated[str | None, typer.Option(help="Training data: an id on the hub, or a name.")]
DatasetLicence = Annotated[str | None, typer.Option("--dataset-license", help="Licence of the training data.")]
BaseModel = Annotated[str | None, typer.Option(help="Id of the model that it was fine-tuned from.")]
Notes = Annotated[Path | None, typer.Option(help="Text file: known failures, and what else a reader must know.")]
Evaluated = Annotated[
    Path | None,
    typer.Option(help="evaluation.json of images of this model; the folder's own if left out."),
]


def card(
    model: Annotated[Path, typer.Argument(help="Pipeline folder, with or without weights.")],
    evaluation: Evaluated = None,
    out: Annotated[Path | None, typer.Option(help="File to write; README.md in the folder if left out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a card that is there.")] = False,
    repo_id: Annotated[str | None, typer.Option(help="Where the model will be published, for the example.")] = None,
    licence: Licence = None,
    dataset: Dataset = None,
    dataset_licence: DatasetLicence = None,
    base_model: BaseModel = None,
    notes: Notes = None,
) -> None:
    """Write the card of a model; what was not measured is told as not measured."""
    from diffusers.utils import logging

    from wbc_diffusers.hub.card import CARD_NAME, build_card
    from wbc_diffusers.training.files import write_whole

    path = out or model / CARD_NAME
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there: give --overwrite, or another --out.")
    logging.disable_progress_bar()
    said = statement(licence, dataset, dataset_licence, base_model, notes)
    made = build_card(model, evaluation, said, repo_id=repo_id, has_samples=repo_id is not None)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, made.content.encode())
    typer.echo(f"Wrote {path}.")


def statement(
    licence: str | None, dataset: str | None, dataset_licence: str | None, base_model: str | None, notes: Path | None
) -> "Statement":
    """What the options say of a model, with the text of the file of notes."""
    from wbc_diffusers.hub.card import Statement

    try:
        text = None if notes is None else notes.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{notes} is no UTF-8 text: give a text file as --notes.") from error
    return Statement(
        licence=licence, dataset=dataset, dataset_licence=dataset_licence, base_model=base_model, notes=text
    )
