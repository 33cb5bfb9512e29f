"""Publishing of a pipeline folder: all of it is checked before anything is sent, and sent in one commit."""

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token, hf_hub_download
from huggingface_hub.errors import (
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image

from wbc_diffusers import __version__
from wbc_diffusers.data.images import image_grid, write_png
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.hub.card import (
    CARD_NAME,
    EVALUATION_NAME,
    SAMPLES_NAME,
    CardError,
    Statement,
    build_card,
    check_weights,
    read_evaluation,
)
from wbc_diffusers.pipelines.pipeline_wbc_ddim import MANIFEST_NAME
from wbc_diffusers.pipelines.pretrained import HUB_ERRORS, PIPELINES, components_of, read_raw_index
from wbc_diffusers.sampling import load_sampler

SAMPLES = 16
_SAMPLE_COLUMNS = 8
_REVISION_OF_CARD = re.compile(r"revision of the weights: `([0-9a-f]+)`")
_EMPTY = {".gitattributes"}
"""What a repository may hold where nothing was published yet."""


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
        made: What is made only once it is sent, in words; a dry run lists it.
        left_out: What lies in the folder and stays there.
    """

    folder: Path
    revision: str
    files: list[HubFile]
    made: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


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
    _check_id(repo_id)
    if not folder.is_dir():
        raise PublishError(f"There is no folder {folder}: give the pipeline folder to publish.")
    index = read_raw_index(folder, str(folder))
    paths = _parts(folder, index)
    check_weights(folder)
    sampler: Any = load_sampler(str(folder), torch.device("cpu"))
    revision = sampler.settings()["revision"]

    own = folder / EVALUATION_NAME
    judged = evaluation or (own if own.is_file() else None)
    files = [HubFile(path.relative_to(folder).as_posix(), path) for path in paths]
    if judged is not None:
        public = json.dumps(read_evaluation(judged, revision), indent=1)
        files.append(HubFile(EVALUATION_NAME, public.encode()))
    made: dict[str, Callable[[], bytes]] = {}
    sheet = folder / SAMPLES_NAME
    if sheet.is_file():
        _check_samples(sheet, revision)
        files.append(HubFile(SAMPLES_NAME, sheet))
    elif samples:
        made[SAMPLES_NAME] = lambda: _sheet_of_samples(sampler, samples)
    files.append(_card(folder, repo_id, judged, said, revision, has_samples=bool(samples) or sheet.is_file()))
    for file in files:
        if isinstance(file.content, Path) and not file.content.resolve().is_relative_to(folder.resolve()):
            raise PublishError(f"{file.content} is a link that leads out of the folder: put the file itself there.")
    sent = {file.path for file in files}
    left = sorted(path.name for path in folder.iterdir() if not any(_is_under(name, path.name) for name in sent))
    return Shipment(folder, revision, sorted(files, key=lambda file: file.path), made, left)


def publish(
    shipment: Shipment,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    update: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Send what was packed in one commit; weights that an interrupted upload has sent already are not sent again.

    Args:
        shipment: What `pack` gave.
        repo_id: The repository, made if there is none.
        private: Whether it must be private.
        revision: A branch, made if there is none; `main` if left out.
        update: Whether to publish over what the repository holds.
        say: Called with a line as each stage begins.

    Returns:
        The address of the commit.

    Raises:
        PublishError: If there is no token, right, network or free name, or the hub says no.
    """
    reserve(repo_id, private=private, revision=revision, update=update)
    api = HfApi()
    files = list(shipment.files)
    for path, make in shipment.made.items():
        say(f"making {path}")
        files.append(HubFile(path, make()))
    operations: list[Any] = [CommitOperationAdd(file.path, file.content) for file in files]
    with _told(repo_id):
        head = api.model_info(repo_id, revision=revision).sha
        stale = _belonging(repo_id, head) - {file.path for file in files}
        operations += [CommitOperationDelete(path) for path in sorted(stale)]
        say(f"sending {len(files)} files")
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=f"Weights {shipment.revision}, by wbc-diffusers {__version__}",
            revision=revision,
            parent_commit=head,  # what somebody else publishes meanwhile is not written over
        )
    return str(commit.commit_url)


def reserve(repo_id: str, *, private: bool = False, revision: str | None = None, update: bool = False) -> None:
    """See that a model can be published under a name, and make the repository, and the branch, if there is none.

    Raises:
        PublishError: As `publish`.
    """
    _check_id(repo_id)
    if get_token() is None:
        raise PublishError("There is no token for the hub: run `hf auth login`, or set HF_TOKEN to one that may write.")
    api = HfApi()
    with _told(repo_id):
        api.whoami()  # a token that is not valid is told as such, not as a repository that is not there
        try:
            found = api.model_info(repo_id)
        except RepositoryNotFoundError:
            api.create_repo(repo_id, private=private)
            found = api.model_info(repo_id)
        if private and not found.private:
            raise PublishError(f"{repo_id} is public, and a private one was asked for: give another name.")
        if revision is not None:
            try:
                found = api.model_info(repo_id, revision=revision)
            except RevisionNotFoundError:
                api.create_branch(repo_id, branch=revision)
                return  # it begins as a copy of main, which stays as it is
        if (files := _names(found) - _EMPTY) and not update:
            raise PublishError(
                f"{repo_id} is taken: it holds {len(files)} files. Give another name, or publish over them by "
                "`wbc publish --update`."
            )


class HubTarget:
    """Where a training publishes its pipeline, once it is done; never over what is there.

    Args:
        repo_id: The repository.
        private: Whether it must be private.
    """

    def __init__(self, repo_id: str, *, private: bool = False) -> None:
        self.repo_id, self.private = repo_id, private

    def reserve(self) -> None:
        """See, before hours of training, that the model can be published."""
        reserve(self.repo_id, private=self.private)

    def publish(self, folder: Path) -> str:
        """Publish the folder and give the address of the commit."""
        try:
            return publish(pack(folder, self.repo_id), self.repo_id, private=self.private)
        except HUB_ERRORS as error:
            raise PublishError(
                f"The training is done, and its pipeline is in {folder}, but it was not published: {error} Then run "
                f"`wbc publish {folder} {self.repo_id}{' --private' if self.private else ''}`."
            ) from error


def _check_id(repo_id: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id, re.ASCII):
        raise PublishError(
            f"{repo_id!r} is no name of a repository: give its owner and its name, such as somebody/wbc-neutrophils."
        )


def _parts(folder: Path, index: dict[str, Any]) -> list[Path]:
    """The files of the pipeline itself: index, manifest, code, configurations and weights."""
    paths = [folder / "model_index.json", *([path] if (path := folder / MANIFEST_NAME).is_file() else [])]
    for part, file in _code(index).items():
        if file is not None and not (folder / part / file).is_file():
            raise PublishError(
                f"{folder / part} holds no {file}, so that nobody without this package could load it: load the "
                "pipeline by from_pretrained and save it again by save_pretrained."
            )
        found = [path for path in sorted((folder / part).iterdir()) if _is_of_part(path.name, file, root=not part)]
        paths += [path for path in found if path not in paths]
    return paths


def _code(index: dict[str, Any]) -> dict[str, str | None]:
    """The code file of each part, None for diffusers' own classes; the pipeline's is that of the empty name."""
    kind = index.get("_class_name")
    if not isinstance(kind, list) or kind[-1] not in PIPELINES:
        raise PublishError(
            f"Its model_index.json says {kind!r} of the pipeline's class, where the file and the name of one of "
            f"{', '.join(PIPELINES)} are wanted: load it by from_pretrained and save it again by save_pretrained."
        )
    places = {part: index.get(part) for part in components_of(PIPELINES[kind[-1]])}
    there = {part: place for part, place in places.items() if isinstance(place, list) and place[0] is not None}
    modules = {"": kind[0], **{part: place[0] for part, place in there.items()}}
    return {part: None if module == "diffusers" else f"{Path(module).name}.py" for part, module in modules.items()}


def _is_of_part(name: str, code: str | None, *, root: bool) -> bool:
    """Whether a file in the folder of a part, or of the pipeline, belongs to it by its name."""
    if name == code or root:
        return name == code
    return name in ("config.json", "scheduler_config.json") or bool(
        re.search(r"\.safetensors(\.index(\..+)?\.json)?$", name)
    )


def _belonging(repo_id: str, head: str | None) -> set[str]:
    """The files of a repository that belong to the model which is published there now; others are left alone."""
    names = _names(HfApi().model_info(repo_id, revision=head))
    if "model_index.json" not in names:
        return set()
    try:
        code = _code(read_raw_index(Path(hf_hub_download(repo_id, "model_index.json", revision=head)).parent, repo_id))
    except (PublishError, ValueError):  # a model of another kind, of which nobody here knows what belongs to it
        code = {}
    own = {"model_index.json", MANIFEST_NAME, EVALUATION_NAME, SAMPLES_NAME}
    for path in names:
        part, _, name = path.rpartition("/")
        if part in code and _is_of_part(name, code[part], root=not part):
            own.add(path)
    return names & own


def _names(found: Any) -> set[str]:
    return {each.rfilename for each in found.siblings or []}


def _card(
    folder: Path, repo_id: str, judged: Path | None, said: Statement | None, revision: str, *, has_samples: bool
) -> HubFile:
    """The folder's own card, checked, or a new one."""
    path = folder / CARD_NAME
    if not path.is_file():
        card = build_card(folder, judged, said, repo_id=repo_id, has_samples=has_samples, revision=revision)
        return HubFile(CARD_NAME, card.content.encode())
    anew = f"make it anew by `wbc card {folder} --repo-id {repo_id} --overwrite`"
    if said not in (None, Statement()):
        raise CardError(f"{path} is there, so what you say of the model would not be on its card: {anew} with that.")
    try:
        text = path.read_text(encoding="utf-8")
        metadata = ModelCard(text).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise CardError(f"{path} can't be read as a card ({error}): mend it, or {anew}.") from error
    if not metadata:
        raise CardError(f"{path} has no metadata block: {anew}, or move it away.")
    told = _REVISION_OF_CARD.search(text)
    if told and told.group(1) != revision:
        raise CardError(f"{path} was made for weights of revision {told.group(1)}, and these are {revision}: {anew}.")
    if told and f'"{repo_id}"' not in text:
        raise CardError(f"{path} was made for another name, by which nobody could load {repo_id}: {anew}.")
    return HubFile(CARD_NAME, path)


def _check_samples(path: Path, revision: str) -> None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            told = image.info.get("wbc:revision")
    except (OSError, SyntaxError, ValueError) as error:
        raise PublishError(f"{path} is no PNG ({error}): remove it, and it is made anew.") from error
    if told != revision:
        raise PublishError(f"{path} is not of these weights: remove it, and it is made anew.")


def _sheet_of_samples(sampler: Any, count: int) -> bytes:
    """Cells of the first seeds on one sheet, as PNG with its origin."""
    settings = {name: str(value) for name, value in sampler.settings().items() if value not in (None, "")}
    marks = {"wbc:synthetic": "true", "wbc:seeds": f"0 to {count - 1}"} | {f"wbc:{k}": v for k, v in settings.items()}
    sheet = image_grid(sampler(list(range(count))), columns=min(count, _SAMPLE_COLUMNS))
    buffer = io.BytesIO()
    write_png(buffer, sheet, TRAINED, text=marks)
    return buffer.getvalue()


def _is_under(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}/")


@contextmanager
def _told(repo_id: str) -> Iterator[None]:
    """Turn what clients of the hub raise into a line that says what to do."""
    again = "Say it again later: what the hub has already is not sent twice, and nothing shows before all is sent."
    try:
        yield
    except PublishError:
        raise
    except OfflineModeIsEnabled as error:
        raise PublishError("The hub is switched off by HF_HUB_OFFLINE: unset it, and say it again.") from error
    except HUB_ERRORS as error:
        told = " ".join(str(getattr(error, "server_message", None) or error).split()) or type(error).__name__
        match getattr(getattr(error, "response", None), "status_code", None):
            case 401:
                advice = "the hub does not know the token, or it may not see that: run `hf auth login` anew"
            case 403:
                advice = "the token may not write there: take one that may, or a name of your own"
            case 412:
                advice = "somebody else published there meanwhile: look at it, and say it again"
            case int(status) if 400 <= status < 500:
                advice = "the hub does not take that: put it right, and say it again"
            case _:
                advice = f"the hub could not be reached, or not to the end. {again}"
        raise PublishError(f"{repo_id} was not published ({told}): {advice.removesuffix('.')}.") from error


def listing(shipment: Shipment) -> str:
    """The files of a shipment with their sizes, as a dry run shows them."""
    rows = [(file.path, f"{file.size:,}") for file in shipment.files]
    rows += [(path, "made when sent") for path in shipment.made]
    width = max(len(path) for path, _ in rows)
    right = max(len(size) for _, size in rows)
    lines = [f"{path:{width}}  {size:>{right}}" for path, size in sorted(rows)]
    total = sum(file.size for file in shipment.files)
    return "\n".join([*lines, f"{'in all, bytes':{width}}  {total:>{right},}"])
