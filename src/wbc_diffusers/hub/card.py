"""The card of a model: what it is, for whom, from what, and every figure that was measured of it; the others say so."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from jinja2 import Environment, PackageLoader, StrictUndefined

from wbc_diffusers import __version__
from wbc_diffusers.data.manifest import check_manifest
from wbc_diffusers.evaluation.rows import MEANINGS, Row, figure
from wbc_diffusers.hub.judged import EVALUATION_NAME, CardError, read_evaluation, row_of
from wbc_diffusers.pages import percent
from wbc_diffusers.pipelines.pipeline_wbc_ddim import MANIFEST_NAME, manifest_for, read_manifest, weight_hashes
from wbc_diffusers.pipelines.pretrained import PIPELINES, load_pipeline, read_index
from wbc_diffusers.sampling import SAMPLERS, revision_of
from wbc_diffusers.shelves import find_entry
from wbc_diffusers.training.recipe_files import load_recipe

CARD_NAME = "README.md"
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

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

_SHARES = ("share_", "copies", "authenticity")

_RECIPE_FIELDS = (
    "resolution", "where", "class_column", "num_train_epochs", "max_train_steps", "train_batch_size", "optimizer",
    "learning_rate", "lr_scheduler", "weight_decay", "loss", "snr_gamma", "r1_weight", "diff_augment", "frozen_layers",
    "ema_decay", "mixed_precision", "random_flip", "random_turn", "seed", "model", "generator", "discriminator",
    "scheduler", "solver",
)  # fmt: skip


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

    def __post_init__(self) -> None:
        if self.licence is not None and not re.fullmatch(r"[a-z0-9.-]+", self.licence):
            raise CardError(
                f"{self.licence!r} is no licence as the hub calls them: give its identifier, such as cc-by-4.0, "
                "apache-2.0 or other."
            )


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
    pipe: Any = None,
) -> ModelCard:
    """Make the card of a pipeline folder.

    Args:
        folder: The pipeline folder; one without weights gets a card of its configuration.
        evaluation: `evaluation.json` of images of this model; the folder's own is taken if there is one.
        said: What no file says.
        repo_id: Where the model is, or will be, published; the folder's name stands for it if left out.
        has_samples: Whether a sheet of samples will lie beside the card, though none does now.
        pipe: The pipeline of the folder, where it is loaded already.

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
    if has_weights and pipe is None:
        pipe = load_pipeline(folder)
    if index["_class_name"] not in PIPELINES:
        raise CardError(f"{folder} is a {index['_class_name']}: a card is for one of {', '.join(PIPELINES)}.")
    judged = None if path is None else read_evaluation(path, pipe)
    recipe = _recipe(folder.resolve().name, manifest)
    name = (repo_id or folder.resolve().name).split("/")[-1]
    rows = [] if judged is None else _told(judged)
    text = _environment().get_template("card.md.j2").render(
        name=name,
        place=repo_id or name,
        pipeline=index["_class_name"],
        is_gan="GAN" in index["_class_name"],
        has_weights=has_weights,
        revision=None if pipe is None else revision_of(getattr(pipe, SAMPLERS[type(pipe)].parts[0])),
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
    rows = [row_of(each) for each in judged["rows"]]
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


def figures_of(card: ModelCard) -> dict[str, float]:
    """The measured figures in a card's metadata, by measure."""
    index = card.data.to_dict().get("model-index")
    found = model_index_to_eval_results(index)[1] if index else []
    return {each.metric_type: each.metric_value for each in found}


def figures_in(judged: dict[str, Any] | None) -> dict[str, float]:
    """The figures that a card of an evaluation has."""
    return {} if judged is None else {row.measure: row.value for row in _told(judged)}


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
    dataset = said.dataset if said.dataset and _REPOSITORY.fullmatch(said.dataset) else None
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=dataset or "not-published",
            dataset_name=f"{row.n_real} images ({judged['sets'][0]['folder']})",
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
        base_model=parent if said.base_model or _REPOSITORY.fullmatch(parent or "") else None,
        datasets=[dataset] if dataset else None,
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
