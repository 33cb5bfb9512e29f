"""Publishing of a shipment: in one commit, over nothing that is there unless that is asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, hf_hub_download
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from wbc_diffusers import __version__
from wbc_diffusers.hub.card import SAMPLES_NAME
from wbc_diffusers.hub.judged import EVALUATION_NAME
from wbc_diffusers.hub.shipment import HubFile, PublishError, Shipment, check_id, code_files, is_of_part, pack
from wbc_diffusers.pipelines.pipeline_wbc_ddim import MANIFEST_NAME
from wbc_diffusers.pipelines.pretrained import HUB_ERRORS, read_raw_index

_EMPTY = {".gitattributes"}
"""What a repository may hold where nothing was published yet."""


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
        for operation in operations:
            _check_unchanged(operation, shipment.weights)
        say(f"sending {len(files)} files" + (f", removing {', '.join(sorted(stale))}" if stale else ""))
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
    check_id(repo_id)
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


def _belonging(repo_id: str, head: str | None) -> set[str]:
    """The files of a repository that belong to the model which is published there now; others are left alone."""
    names = _names(HfApi().model_info(repo_id, revision=head))
    if "model_index.json" not in names:
        return set()
    try:
        code = code_files(
            read_raw_index(Path(hf_hub_download(repo_id, "model_index.json", revision=head)).parent, repo_id)
        )
    except (PublishError, ValueError):  # a model of another kind, of which nobody here knows what belongs to it
        code = {}
    own = {"model_index.json", MANIFEST_NAME, EVALUATION_NAME, SAMPLES_NAME}
    for path in names:
        part, _, name = path.rpartition("/")
        if part in code and is_of_part(name, code[part], root=not part):
            own.add(path)
    return names & own


def _names(found: Any) -> set[str]:
    return {each.rfilename for each in found.siblings or []}


def _check_unchanged(operation: Any, weights: dict[str, str]) -> None:
    """Raise if a weight file is another by now than the one that was checked."""
    known = weights.get(operation.path_in_repo)
    if isinstance(operation, CommitOperationAdd) and known not in (None, operation.upload_info.sha256.hex()):
        raise PublishError(f"{operation.path_in_repo} was changed after it was checked: say it again.")


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
