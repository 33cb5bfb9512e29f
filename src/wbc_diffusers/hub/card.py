"""The card of a model: what it is, for whom, from what, and every figure that was measured of it; the others say so."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from wbc_diffusers import __version__
from wbc_diffusers.data.manifest import check_manifest
from wbc_diffusers.evaluation.record import SCHEMA_VERSION
from wbc_diffusers.evaluation.rows import MEANINGS, Row, figure
from wbc_diffusers.pages import percent
from wbc_diffusers.pipelines.pipeline_wbc_ddim import MANIFEST_NAME, manifest_for, read_manifest, weight_hashes
from wbc_diffusers.pipelines.pretrained import load_pipeline, read_index
from wbc_diffusers.sampling import SAMPLERS, revision_of
from wbc_diffusers.shelves import find_entry
from wbc_diffusers.training.recipe import load_recipe

CARD_NAME = "README.md"
EVALUATION_NAME = "evaluation.json"
SAMPLES_NAME = "samples.png"
NOT_MEASURED = "not measured"

_ALWAYS = ("fid", "kid", "precision", "recall", "coverage", "probe_auc", "copies", "copies_at_most", "lobes_difference")
"""What a reader looks for: a line of its own says where it was not measured."""

_NAMES = {
    **{key: name for key, (name, _) in MEANINGS.items()},
    "copies": "generated images taken for copies of training images",
    "copies_at_most": "copies, upper bound of their share",
    "copies_excess": "copies, beyond false alarms",
    "copies_found": "planted copies that the search found",
    "authenticity": "authenticity (of features)",
    "contrast_difference": "contrast, difference of the means in levels of 255",
    "lobes_difference": "lobes of the nucleus, difference of the means",
    "nucleus_area_difference": "area of the nucleus, difference of the means in shares of the image",
    "granularity_difference": "granularity of the cytoplasm, difference of the means",
    "share_without_nucleus": "cells without a nucleus",
    "share_hypersegmentation": "cells with hypersegmentation, by their lobes",
    "share_dohle_bodies": "cells with Döhle bodies, by bluish area",
    "share_hypergranulation": "cells with hypergranulation, by granularity",
}
"""The measures that a card tells, in words; the evaluation's page has more."""

_SHARES = ("share_", "copies", "authenticity")

_RECIPE_FIELDS = (
    "resolution", "where", "class_column", "num_train_epochs", "max_train_steps", "train_batch_size", "optimizer",
    "learning_rate", "lr_scheduler", "weight_decay", "loss", "snr_gamma", "r1_weight", "diff_augment", "frozen_layers",
    "ema_decay", "mixed_precision", "random_flip", "random_turn", "seed", "model", "generator", "discriminator",
    "scheduler", "solver",
)  # fmt: skip


class CardError(ValueError):
    """A card that would say what nobody knows to be true of the model."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What whoever publishes a model says of it, since no file does; empty where nothing was said.

    Attributes:
        licence: Identifier of the model's licence, as the hub knows it.
        dataset: The training data: an id on the hub, or a name.
        dataset_licence: Licence of the training data.
        base_model: Id of the model that it was fine-tuned from, where the manifest has only a folder's name.
        notes: Further known failures, or whatever a reader must know.
    """

    licence: str | None = None
    dataset: str | None = None
    dataset_licence: str | None = None
    base_model: str | None = None
    notes: str | None = None


@dataclass(frozen=True)
class Figure:
    """One line of the table of results."""

    name: str
    value: str
    interval: str = ""
    floor: str = ""
    images: str = ""


def build_card(
    folder: Path,
    evaluation: Path | None = None,
    said: Statement | None = None,
    *,
    repo_id: str | None = None,
    has_samples: bool = False,
    revision: str | None = None,
) -> ModelCard:
    """Make the card of a pipeline folder.

    Args:
        folder: The pipeline folder; one without weights gets a card of its configuration.
        evaluation: `evaluation.json` of images of this model; the folder's own is taken if there is one.
        said: What no file says.
        repo_id: Where the model is, or will be, published; the folder's name stands for it if left out.
        has_samples: Whether a sheet of samples will lie beside the card, though none does now.
        revision: That of the weights, where it is known: they are not loaded then.

    Raises:
        CardError: If the evaluation is of another model, or nobody knows of which, or the weights are not those that
            the manifest was written for.
        ValueError: If a file is broken or of an unknown schema.
        OSError: If there is no pipeline in the folder.
    """
    said = said or Statement()
    index = read_index(folder, str(folder))
    has_weights = any(folder.glob("*/*.safetensors"))
    manifest = check_weights(folder)
    own = folder / EVALUATION_NAME
    path = evaluation or (own if own.is_file() else None)
    if has_weights and revision is None:
        pipe = load_pipeline(folder)
        revision = revision_of(getattr(pipe, SAMPLERS[type(pipe)].parts[0]))
    judged = None if path is None else read_evaluation(path, revision)
    recipe = _recipe(folder.resolve().name, manifest)
    name = (repo_id or folder.resolve().name).split("/")[-1]
    rows = [] if judged is None else _told(judged)
    text = _environment().get_template("card.md.j2").render(
        name=name,
        place=repo_id or name,
        pipeline=index["_class_name"],
        is_gan="GAN" in index["_class_name"],
        has_weights=has_weights,
        revision=revision,
        recipe=recipe,
        fields=[(field, recipe[field]) for field in _RECIPE_FIELDS if recipe.get(field) not in (None, {}, "")],
        shown=_shown(recipe),
        manifest=manifest,
        parents=[] if manifest is None else manifest["parents"],
        said=said,
        judged=judged,
        figures=_figures(rows),
        copies=None if judged is None else judged["copies"],
        samples=has_samples or (folder / SAMPLES_NAME).is_file(),
        percent=percent,
        version=__version__,
    )  # fmt: skip
    data = _metadata(name, index["_class_name"], recipe, said, rows, judged)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def read_evaluation(path: Path, revision: str | None) -> dict[str, Any]:
    """Read `evaluation.json`, which must be of images of the weights with this revision; without the names of files.

    Names of real images may tell about patients, and what is read here is to be published.

    Raises:
        CardError: If it is of another model, or does not say of which.
        ValueError: If it is no evaluation, or of an unknown schema.
        OSError: If there is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): evaluate anew.") from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {version!r}, and this version of the package reads evaluations of "
            f"{SCHEMA_VERSION}: evaluate anew, or update the package."
        )
    made_by = found.get("generated_by")
    if not isinstance(made_by, dict):
        raise CardError(
            f"{path} does not say which model its images are of, so its figures can't stand on a card: evaluate a "
            "folder that `wbc generate` made."
        )
    if revision is None or made_by.get("revision") != revision:
        raise CardError(
            f"{path} is of images of a model with revision {made_by.get('revision')}, and this one has {revision}: "
            "generate images with it, and evaluate those."
        )
    try:
        return _for_the_public(found)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is no evaluation as `wbc evaluate` writes it ({error}): evaluate anew.") from error


def _for_the_public(found: dict[str, Any]) -> dict[str, Any]:
    """What of an evaluation anybody may see, by name, so that nothing new is published unasked."""
    seeds = found["generated_by"]["seeds"]
    copies = found["copies"]
    return {
        **{key: found[key] for key in ("schema_version", "wbc_diffusers", "seed", "processing")},
        "notes": [str(note) for note in found["notes"]],
        "generated_by": {**found["generated_by"], "seeds": [int(seeds[0]), int(seeds[1])]},
        "sets": [{key: each[key] for key in ("role", "folder", "images", "repeated")} for each in found["sets"]],
        "leaks": [{**each, "exact": len(each["exact"]), "near": len(each["near"])} for each in found["leaks"]],
        "rows": [asdict(_row(each)) for each in found["rows"]],
        "encoders": [
            {key: each[key] for key in ("encoder", "weights_sha256", "features")} for each in found["encoders"]
        ],
        "copies": None if copies is None else {by: _search(copies[by]) for by in ("pixels", "features")},
    }


def _row(found: dict[str, Any]) -> Row:
    """A row, whose figures are numbers or None."""
    row = Row(**{field.name: found[field.name] for field in fields(Row)})
    for figure_of in (row.value, row.low, row.high, row.floor, row.value_at_floor):
        if figure_of is not None and (not isinstance(figure_of, int | float) or not isfinite(figure_of)):
            raise TypeError(f"{row.measure} is {figure_of!r}")
    return row


def _search(found: dict[str, Any]) -> dict[str, Any]:
    """A search for copies, without the names of what it found."""
    estimates = ("false_alarms", "found_of_all", "beyond", "excess")
    return {key: found[key] for key in ("threshold", *estimates, "copies_at_most", "held_out")}


def check_weights(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a pipeline folder, None if there is none; its weights must be those that it names.

    Raises:
        CardError: If a weight file is another.
        ValueError: If the manifest is broken or of an unknown schema.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    manifest = manifest_for(folder, check_manifest(manifest, str(folder)))
    if changed := manifest.get("weights_changed"):
        raise CardError(
            f"{folder / changed[0]} is not the file that {MANIFEST_NAME} was written for, or was not when the pipeline "
            "was saved (its SHA-256 differs): take both again from where the model came from."
        )
    known = manifest.get("weights_sha256")
    unknown = sorted(weight_hashes(folder).keys() - (known.keys() if isinstance(known, dict) else set()))
    if unknown:
        raise CardError(
            f"{folder / unknown[0]} is not among the weights that {MANIFEST_NAME} names: remove it, or save the "
            "pipeline anew into an empty folder."
        )
    return manifest


def _recipe(name: str, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """The recipe of the manifest, or for a folder of configuration the one of its name; empty if there is neither."""
    if manifest is not None:
        recipe = dict(manifest["recipe"])
        return {**recipe, "num_train_epochs": None} if recipe.get("max_train_steps") else recipe
    try:
        return load_recipe(find_entry(name, "training/recipes", ".yaml")).to_dict()
    except FileNotFoundError:
        return {}


def _shown(recipe: dict[str, Any]) -> str:
    """What the cells show, in words."""
    where = recipe.get("where") or {}
    told = [f"{key.replace('_', ' ')} {str(value).replace('_', ' ')}" for key, value in where.items()]
    return ", ".join(told) or "all cells of its training data"


def _told(judged: dict[str, Any]) -> list[Row]:
    """The rows that a card tells."""
    rows = [_row(each) for each in judged["rows"]]
    return [row for row in rows if row.key in _NAMES and row.value is not None]


def _figures(rows: Sequence[Row]) -> list[Figure]:
    """The lines of the table, and one for each measure that a reader looks for in vain."""
    there = {row.key for row in rows}
    lines = [
        Figure(
            _NAMES[row.key] + (f", {row.encoder}" if row.encoder and row.key not in ("fid", "kid") else ""),
            _value(row, row.value),
            "" if row.low is None else f"{_value(row, row.low)} to {_value(row, row.high)}",
            _value(row, row.floor) + (f" (beside it {figure(at)})" if (at := row.value_at_floor) is not None else ""),
            f"{row.n_real}, {row.n_generated}",
        )
        for row in rows
    ]
    return lines + [Figure(_NAMES[key], NOT_MEASURED) for key in _ALWAYS if key not in there]


def _value(row: Row, value: float | None) -> str:
    if value is None:
        return ""
    return percent(value) if row.key.startswith(_SHARES) else figure(value)


def _metadata(
    name: str,
    pipeline: str,
    recipe: dict[str, Any],
    said: Statement,
    rows: Sequence[Row],
    judged: dict[str, Any] | None,
) -> ModelCardData:
    """The block at the head of the card, which the hub reads."""
    parent = said.base_model or recipe.get("pretrained")
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=said.dataset if said.dataset and "/" in said.dataset else "not-published",
            dataset_name=f"{row.n_real} real cells ({judged['sets'][0]['folder']})",
            metric_type=row.measure,
            metric_name=_NAMES[row.key],
            metric_value=row.value,
            metric_args={"n_real": row.n_real, "n_generated": row.n_generated, "seed": judged["seed"]},
        )
        for row in rows
        if judged is not None
    ]
    where = recipe.get("where") or {}
    subject = [str(where["abnormality"]).replace("_", "-")] if "abnormality" in where else []
    kind = ["gan"] if "GAN" in pipeline else ["diffusion", "ddim"]
    return ModelCardData(
        model_name=name,
        license=said.licence or "other",
        license_name=None if said.licence else "not-stated",
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["wbc-diffusers", *kind, *subject, "haematology", "white-blood-cells", "medical", "synthetic-data"],
        base_model=parent if said.base_model or "/" in (parent or "") else None,
        datasets=[said.dataset] if said.dataset and "/" in said.dataset else None,
        metrics=sorted({row.measure for row in rows}) or None,
        eval_results=results or None,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=False, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["cell"] = _cell
    return environment


def _cell(value: Any) -> str:
    """A value as text in a table: on one line, and without what Markdown would take for markup."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for mark in "\\`|<>[]*":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
