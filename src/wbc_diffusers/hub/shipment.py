"""What of a pipeline folder goes to a hub: decided and checked before anything is sent; nothing is written."""

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from wbc_diffusers.data.images import image_grid, write_png
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.hub.card import (
    CARD_NAME,
    SAMPLES_NAME,
    Statement,
    build_card,
    check_weights,
    figures_in,
    figures_of,
)
from wbc_diffusers.hub.judged import EVALUATION_NAME, CardError, read_evaluation
from wbc_diffusers.pipelines.pipeline_wbc_ddim import MANIFEST_NAME, weight_hashes
from wbc_diffusers.pipelines.pretrained import PIPELINES, components_of, is_pair, load_pipeline, read_raw_index
from wbc_diffusers.sampling import SAMPLERS, revision_of

SAMPLES = 16
_SAMPLE_COLUMNS = 8
_REVISION_OF_CARD = re.compile(r"revision of the weights: `?([0-9a-f]+)")


class PublishError(OSError):
    """The model was not published; the message says why, and what to do."""


@dataclass(frozen=True)
class HubFile:
    """A file as it goes to the hub: its path there, and where its bytes are."""

    path: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


@dataclass(frozen=True)
class Shipment:
    """All that is sent of a folder.

    Attributes:
        folder: The pipeline folder.
        revision: The revision of its weights.
        files: What is sent, by path.
        made: What is made only once it is sent; a dry run lists it.
        weights: SHA-256 of the weight files, as they were checked.
        left_out: What lies in the folder and stays there.
        notes: What is worth a second thought, in sentences.
    """

    folder: Path
    revision: str
    files: list[HubFile]
    made: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pack(
    folder: Path,
    repo_id: str,
    evaluation: Path | None = None,
    said: Statement | None = None,
    *,
    samples: int = SAMPLES,
) -> Shipment:
    """Decide what of a pipeline folder is sent, and check all of it; nothing is written, and no network is needed.

    Args:
        folder: The pipeline folder.
        repo_id: Where it is to go.
        evaluation: `evaluation.json` of images of this model, where the folder has none.
        said: What no file says, for the card; of a folder that has a card already, nothing is asked.
        samples: Generated cells on the sheet of samples; 0 for none.

    Raises:
        PublishError: If the folder holds no pipeline with weights and code, or weights that can't be published.
        CardError: If card or evaluation are of other weights.
        ValueError: If a file is broken.
    """
    check_id(repo_id)
    if not folder.is_dir():
        raise PublishError(f"There is no folder {folder}: give the pipeline folder to publish.")
    index = read_raw_index(folder, str(folder))
    if not any(folder.glob("*/*.safetensors")):
        raise PublishError(
            f"{folder} holds no weights in safetensors: publish what `wbc train` or save_pretrained wrote. A folder of "
            f"configuration becomes one by `wbc train --config {folder.resolve().name}`, if that is a recipe."
        )
    paths = _parts(folder, index)
    manifest = check_weights(folder)
    pipe: Any = load_pipeline(folder)
    pipe.training_manifest = manifest
    revision = revision_of(getattr(pipe, SAMPLERS[type(pipe)].parts[0]))

    own = folder / EVALUATION_NAME
    path = evaluation or (own if own.is_file() else None)
    judged = None if path is None else read_evaluation(path, pipe)
    files = [HubFile(each.relative_to(folder).as_posix(), each) for each in paths]
    if judged is not None:
        files.append(HubFile(EVALUATION_NAME, json.dumps(judged, indent=1).encode()))
    made = {SAMPLES_NAME: lambda: _sheet_of_samples(pipe, samples, repo_id)} if samples else {}
    card = build_card(folder, path, said, repo_id=repo_id, has_samples=bool(samples), pipe=pipe)
    files.append(_own_card(folder, repo_id, judged, said, revision) or HubFile(CARD_NAME, card.content.encode()))
    for file in files:
        _check_file(file, folder)
    sent = {file.path for file in files}
    left = sorted(each.name for each in folder.iterdir() if not any(_is_under(name, each.name) for name in sent))
    notes = [] if judged is not None else ["There is no evaluation: every figure on a new card reads 'not measured'."]
    if not (folder / CARD_NAME).is_file() and (said is None or said.licence is None):
        notes.append("No licence is stated: --license says under which the model may be used.")
    ordered = sorted(files, key=lambda file: file.path)
    return Shipment(folder, revision, ordered, made, weight_hashes(folder), left, notes)


def listing(shipment: Shipment) -> str:
    """The files of a shipment with their sizes, as a dry run shows them."""
    rows = [(file.path, f"{file.size:,}") for file in shipment.files]
    rows += [(path, "made when sent") for path in shipment.made]
    width = max(len(path) for path, _ in rows)
    right = max(len(size) for _, size in rows)
    lines = [f"{path:{width}}  {size:>{right}}" for path, size in sorted(rows)]
    total = sum(file.size for file in shipment.files)
    return "\n".join([*lines, f"{'in all, bytes':{width}}  {total:>{right},}"])


def check_id(repo_id: str) -> None:
    """Raise PublishError unless a text names an owner and a repository."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id, re.ASCII):
        raise PublishError(
            f"{repo_id!r} is no name of a repository: give its owner and its name, such as somebody/wbc-neutrophils."
        )


def _parts(folder: Path, index: dict[str, Any]) -> list[Path]:
    """The files of the pipeline itself: index, manifest, code, configurations and weights."""
    paths = [folder / "model_index.json", *([path] if (path := folder / MANIFEST_NAME).is_file() else [])]
    for part, file in code_files(index).items():
        if file is not None and not (folder / part / file).is_file():
            raise PublishError(
                f"{folder / part} holds no {file}, so that nobody without this package could load it: load the "
                "pipeline by from_pretrained and save it again by save_pretrained."
            )
        found = [path for path in sorted((folder / part).iterdir()) if is_of_part(path.name, file, root=not part)]
        paths += [path for path in found if path not in paths]
    return paths


def code_files(index: dict[str, Any]) -> dict[str, str | None]:
    """The code file of each part, None for diffusers' own classes; the pipeline's is that of the empty name."""
    kind: Any = index.get("_class_name")
    if not is_pair(kind) or kind[1] not in PIPELINES:
        raise PublishError(
            f"Its model_index.json says {kind!r} of the pipeline's class, where the file and the name of one of "
            f"{', '.join(PIPELINES)} are wanted: load it by from_pretrained and save it again by save_pretrained."
        )
    places: dict[str, Any] = {part: index.get(part) for part in components_of(PIPELINES[kind[1]])}
    modules = {"": kind[0], **{part: place[0] for part, place in places.items() if is_pair(place)}}
    return {part: None if module == "diffusers" else f"{Path(module).name}.py" for part, module in modules.items()}


def is_of_part(name: str, code: str | None, *, root: bool) -> bool:
    """Whether a file in the folder of a part, or of the pipeline, belongs to it by its name."""
    if name == code or root:
        return name == code
    return name in ("config.json", "scheduler_config.json") or bool(
        re.search(r"\.safetensors(\.index(\..+)?\.json)?$", name)
    )


def _own_card(
    folder: Path, repo_id: str, judged: dict[str, Any] | None, said: Statement | None, revision: str
) -> HubFile | None:
    """The folder's own card, which must agree with weights, name and figures; None if there is none."""
    path = folder / CARD_NAME
    if not path.is_file():
        return None
    anew = f"make it anew by `wbc card {folder} --repo-id {repo_id} --overwrite`"
    if said not in (None, Statement()):
        raise CardError(f"{path} is there, so what you say of the model would not be on its card: {anew} with that.")
    try:
        text = path.read_text(encoding="utf-8")
        card = ModelCard(text)
        figures = figures_of(card)
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise CardError(f"{path} can't be read as a card ({error}): mend it, or {anew}.") from error
    if not card.data.to_dict():
        raise CardError(f"{path} has no metadata block: {anew}, or move it away.")
    told = _REVISION_OF_CARD.search(text)
    if told and told.group(1) != revision:
        raise CardError(f"{path} was made for weights of revision {told.group(1)}, and these are {revision}: {anew}.")
    if told and f'"{repo_id}"' not in text:
        raise CardError(f"{path} was made for another name, by which nobody could load {repo_id}: {anew}.")
    if figures != figures_in(judged):
        raise CardError(
            f"The figures on {path} are not those of {'the evaluation' if judged else 'any evaluation here'}: give the "
            f"--evaluation that they are of, or {anew}."
        )
    return HubFile(CARD_NAME, path)


def _check_file(file: HubFile, folder: Path) -> None:
    """Raise if a file lies elsewhere, or tells a path of whoever made it."""
    if isinstance(file.content, Path) and not file.content.resolve().is_relative_to(folder.resolve()):
        raise PublishError(f"{file.content} is a link that leads out of the folder: put the file itself there.")
    if file.path.endswith(".json"):
        text = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        for value in _texts(json.loads(text)):
            if Path(value).is_absolute() or value.startswith("~") or re.match(r"[A-Za-z]:[\\/]", value):
                raise PublishError(f"{file.path} tells the path {value!r}, which may tell about you: take it out.")


def _texts(value: Any) -> Iterator[str]:
    """All text in what JSON holds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _sheet_of_samples(pipe: Any, count: int, repo_id: str) -> bytes:
    """Cells of the first seeds on one sheet, of each class in turn, as PNG with its origin."""
    classes: list[str | None] = [None]
    if getattr(pipe, "unet", None) is not None and pipe.unet.config.num_class_embeds is not None:
        told = (pipe.training_manifest or {}).get("training", {}).get("classes")
        classes = told or [str(i) for i in range(pipe.unet.config.num_class_embeds)]
    pipe.set_progress_bar_config(disable=True)
    images, each = [], max(1, count // len(classes))
    for name in classes:
        options: dict[str, Any] = {} if name is None else {"class_name": name}
        sampler = SAMPLERS[type(pipe)](pipe=pipe, **options)
        images += sampler(list(range(each)))
    settings = {key: str(value) for key, value in sampler.settings().items() if value not in (None, "")}
    marks = {"synthetic": "true", "model": repo_id, **settings, "seeds": f"0 to {each - 1}"}
    if classes != [None]:
        marks = {key: value for key, value in marks.items() if key not in ("class_label", "abnormality", "grade")}
        marks["classes"] = ", ".join(map(str, classes))
    buffer = io.BytesIO()
    sheet = image_grid(images, columns=min(len(images), _SAMPLE_COLUMNS))
    write_png(buffer, sheet, TRAINED, text={f"wbc:{key}": value for key, value in marks.items()})
    return buffer.getvalue()


def _is_under(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}/")
