"""The hub's stand-in before the client that it is for: huggingface_hub in processes of its own, and bare requests."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest

from tests.hub_stand_in import Blob, HubStandIn, Repo, User

CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download

def error(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return [cls.__name__ for cls in type(error).__mro__], status, str(error)

def loaded(revision):
    folder = Path(snapshot_download("lab/model", revision=revision))
    return {p.relative_to(folder).as_posix(): p.read_bytes().hex() for p in folder.rglob("*") if p.is_file()}

def say(**what):
    print(json.dumps(what))

api, folder = HfApi(), sys.argv[1]
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as hub:
        hub.users |= {"writer": User("ada", ("lab",)), "reader": User("ada", ("lab",), "read"), "other": User("eve")}
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of small and large files, as the hub tells them apart, in two levels."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Cells\n")
    (folder / "with space.txt").write_text("text")
    (folder / "empty.bin").write_bytes(b"")
    for name in ("a", "b"):
        (folder / "unet" / f"{name}.safetensors").write_bytes(os.urandom(200_000))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def client(hub: HubStandIn, folder: Path, script: str, **variables: str) -> subprocess.Popen[str]:
    """Start a process of the client beside a folder, with the writer's token."""
    env = hub.environment(folder.parent / "home", "writer") | variables
    command = [sys.executable, "-c", CLIENT + script, str(folder)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a client, and give what it said."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return json.loads(out)


def data(files: dict[str, str]) -> dict[str, bytes]:
    """Give files as a client said them in the way that content() gives a folder's."""
    return {path: bytes.fromhex(digits) for path, digits in files.items()}


def ask(hub: HubStandIn, method: str, path: str, body: bytes | Iterator[bytes] | None = None) -> HTTPResponse:
    connection = HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    connection.request(method, path, body)
    return connection.getresponse()


def test_what_is_uploaded_comes_back_by_every_revision(hub: HubStandIn, folder: Path) -> None:
    script = """
api.create_repo("lab/model")
api.create_repo("lab/model", exist_ok=True)
first = api.upload_folder(repo_id="lab/model", folder_path=folder, commit_message="First").oid
again = api.upload_folder(repo_id="lab/model", folder_path=folder).oid
api.create_tag("lab/model", tag="v1")
api.create_branch("lab/model", branch="next/one")
api.create_branch("lab/model", branch="next/one", exist_ok=True)
change = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("unet/")]
api.create_commit("lab/model", change, commit_message="Second", revision="next/one")
late = dict(operations=[CommitOperationAdd("late.txt", b"late")], commit_message="Late", parent_commit="0" * 40)
api.upload_file(path_or_fileobj=b"third", path_in_repo="README.md", repo_id="lab/model")
siblings = api.model_info("lab/model", files_metadata=True).siblings
say(
    who=api.whoami()["name"], found=[api.repo_exists("lab/model"), api.repo_exists("lab/none")],
    first=first, again=again, late=error(api.create_commit, "lab/model", **late),
    twice=error(api.create_repo, "lab/model"),
    got={revision: loaded(revision) for revision in ("main", "v1", "next/one", first)},
    one=Path(hf_hub_download("lab/model", "unet/a.safetensors")).read_bytes().hex(),
    sizes={sibling.rfilename: (sibling.size, sibling.lfs is not None) for sibling in siblings},
    listed=api.list_repo_files("lab/model"), top=[entry.path for entry in api.list_repo_tree("lab/model")],
    under=[entry.path for entry in api.list_repo_tree("lab/model", "unet", revision="v1")],
)
"""
    out = said(client(hub, folder, script))

    got = {revision: data(files) for revision, files in out["got"].items()}
    first = {**content(folder), ".gitattributes": got["main"][".gitattributes"]}
    assert got["v1"] == got[out["first"]] == first
    assert got["main"] == hub.files("lab/model") == {**first, "README.md": b"third"}
    kept = {path: each for path, each in first.items() if not path.startswith("unet/")}
    assert got["next/one"] == hub.files("lab/model", "next/one") == {**kept, "new.txt": b"new"}
    assert bytes.fromhex(out["one"]) == first["unet/a.safetensors"]

    assert out["who"] == "ada"
    assert out["found"] == [True, False]
    assert out["again"] == out["first"], "an upload of the same files made another commit"
    assert (out["twice"][1], out["late"][1]) == (409, 412)
    assert out["sizes"]["unet/a.safetensors"] == [200_000, True]
    assert out["sizes"]["empty.bin"] == [0, False]
    assert sorted(out["listed"]) == sorted(first)
    assert sorted(out["top"]) == [".gitattributes", "README.md", "empty.bin", "unet", "with space.txt"]
    assert out["under"] == ["unet/a.safetensors", "unet/b.safetensors"]
    titles = [commit.title for commit in hub.repos["lab/model"].commits.values()]
    assert titles[:3] == ["initial commit", "First", "Second"]
    assert hub.cards[0] == (folder / "README.md").read_text()


def test_refusals_are_the_clients_own_errors(hub: HubStandIn, folder: Path) -> None:
    hub.put("lab/open", folder)
    hub.put("lab/secret", folder, private=True)
    script = """
add = dict(operations=[CommitOperationAdd("a.txt", b"a")], commit_message="Add")
say(
    repo=error(snapshot_download, "lab/none"), repo_as_stranger=error(snapshot_download, "lab/none", token=False),
    revision=error(snapshot_download, "lab/open", revision="none"),
    file=error(hf_hub_download, "lab/open", "none.txt"),
    file_of_revision=error(hf_hub_download, "lab/open", "README.md", revision="none"),
    secret_as_stranger=error(hf_hub_download, "lab/secret", "README.md", token=False),
    secret_as_other=error(api.model_info, "lab/secret", token="other"),
    secret_as_reader=error(api.model_info, "lab/secret", token="reader"),
    commit_to_none=error(api.create_commit, "lab/none", **add),
    commit_to_no_branch=error(api.create_commit, "lab/open", revision="none", **add),
    commit_to_commit=error(api.create_commit, "lab/open", revision=api.model_info("lab/open").sha, **add),
    who=error(api.whoami, token="wrong"), read_wrong=error(api.model_info, "lab/open", token="wrong"),
    wrong=error(api.create_commit, "lab/open", token="wrong", **add),
    reader=error(api.create_commit, "lab/open", token="reader", **add),
    other=error(api.create_commit, "lab/open", token="other", **add),
    create_wrong=error(api.create_repo, "lab/new", token="wrong"),
    create_reader=error(api.create_repo, "lab/new", token="reader", exist_ok=True),
    create_other=error(api.create_repo, "lab/new", token="other", exist_ok=True),
    create_own=error(api.create_repo, "mine", token="other"),
)
"""
    out = said(client(hub, folder, script))

    # The client's error for a missing file has an older and a newer name; the older one is a base of the newer.
    names = ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError")
    kinds = {case: found and (found[1], *(name for name in names if name in found[0])) for case, found in out.items()}
    assert kinds == {
        "repo": (404, "RepositoryNotFoundError"),
        "repo_as_stranger": (401, "RepositoryNotFoundError"),
        "revision": (404, "RevisionNotFoundError"),
        "file": (404, "EntryNotFoundError"),
        "file_of_revision": (404, "RevisionNotFoundError"),
        "secret_as_stranger": (401, "RepositoryNotFoundError"),
        "secret_as_other": (404, "RepositoryNotFoundError"),
        "secret_as_reader": None,
        "commit_to_none": (404, "RepositoryNotFoundError"),
        "commit_to_no_branch": (404, "RevisionNotFoundError"),
        "commit_to_commit": (404, "RevisionNotFoundError"),
        "who": (401,),
        "read_wrong": (401,),
        "wrong": (401,),
        "reader": (403,),
        "other": (403,),
        "create_wrong": (401,),
        "create_reader": (403,),
        "create_other": (403,),
        "create_own": None,
    }
    assert hub.files("lab/open") == content(folder)
    assert "lab/new" not in hub.repos
    assert "eve/mine" in hub.repos


def test_killed_upload_goes_on_where_it_was(hub: HubStandIn, folder: Path) -> None:
    before, held = hub.put("lab/model", folder), content(folder)
    for name in ("a", "b"):
        (folder / "unet" / f"{name}.safetensors").write_bytes(os.urandom(200_000))
    (folder / "new.txt").write_text("new")
    upload = 'say(commit=api.upload_folder(repo_id="lab/model", folder_path=folder).oid)'
    clients: list[subprocess.Popen[str]] = []
    puts: list[str] = []

    def taken() -> list[str]:
        return [request.path for request in hub.requests if request.method == "PUT" and request.status == 200]

    def kill_at_the_second(method: str, path: str) -> None:
        if method == "PUT":
            puts.append(path)
            if len(puts) > 1:
                while not (taken() and clients):
                    time.sleep(0.01)
                clients[0].kill()
                raise ConnectionAbortedError

    hub.on_request = kill_at_the_second
    clients.append(client(hub, folder, upload))
    clients[0].communicate(timeout=600)
    assert clients[0].returncode == -signal.SIGKILL
    (first,) = taken()
    assert hub.repos["lab/model"].branches == {"main": before}
    assert hub.files("lab/model") == held

    hub.on_request = None
    hub.requests.clear()
    out = said(client(hub, folder, upload))
    (second,) = taken()
    assert second != first
    assert hub.repos["lab/model"].branches == {"main": out["commit"]}
    assert hub.files("lab/model") == content(folder)
    assert hub.files("lab/model", before) == held


def test_a_filled_cache_does_without_the_hub(hub: HubStandIn, folder: Path) -> None:
    first, held = hub.put("lab/model", folder), content(folder)
    (folder / "README.md").write_text("second")
    hub.put("lab/model", folder)
    load = f'say(main=loaded("main"), first=loaded("{first}"))'
    online = said(client(hub, folder, load))
    assert data(online["main"]) == content(folder)
    assert data(online["first"]) == held

    hub.stop()
    assert said(client(hub, folder, load, HF_HUB_OFFLINE="1")) == online


@pytest.mark.slow
def test_diffusers_publishes_and_loads(hub: HubStandIn, folder: Path) -> None:
    script = """
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
small = dict(block_out_channels=(4,), norm_num_groups=2, down_block_types=("DownBlock2D",))
for size in (8, 16):
    network = UNet2DModel(sample_size=size, up_block_types=("UpBlock2D",), layers_per_block=1, **small)
    DDPMPipeline(network, DDPMScheduler()).push_to_hub("lab/model")
    api.create_tag("lab/model", tag=f"size-{size}")
options = ({}, {"revision": "size-8"}, {"revision": "size-16"})
pipelines = [DiffusionPipeline.from_pretrained("lab/model", **option) for option in options]
say(sizes=[pipeline.unet.config.sample_size for pipeline in pipelines])
"""
    assert said(client(hub, folder, script)) == {"sizes": [16, 8, 16]}


def test_parts_of_files_over_one_connection(hub: HubStandIn, folder: Path) -> None:
    before, commit = hub.put("lab/model", folder), hub.put("lab/model", folder)
    assert before != commit
    large = content(folder)["unet/a.safetensors"]
    connection = HTTPConnection(hub.url.removeprefix("http://"), timeout=10)

    def asked(method: str, span: str) -> tuple[int, bytes, str | None]:
        headers = {"Range": f"bytes={span}"} if span else {}
        connection.request(method, "/lab/model/resolve/main/unet/a.safetensors", headers=headers)
        response = connection.getresponse()
        if response.status < 300:
            tag = f'"{Blob(large, lfs=True).etag}"'
            assert (response.headers["ETag"], response.headers["X-Linked-ETag"]) == (tag, tag)
            assert response.headers["X-Repo-Commit"] == commit
        return response.status, response.read(), response.headers["Content-Range"]

    assert asked("HEAD", "") == (200, b"", None)
    assert asked("GET", "") == (200, large, None)
    assert asked("GET", "10-19") == (206, large[10:20], "bytes 10-19/200000")
    assert asked("GET", "199990-") == (206, large[-10:], "bytes 199990-199999/200000")
    assert asked("GET", "200000-")[::2] == (416, "bytes */200000")
    hub.stop()
    with pytest.raises(ConnectionError):
        asked("GET", "")


def test_large_files_are_checked_and_can_be_refused(hub: HubStandIn) -> None:
    hub.repos["lab/model"] = Repo()
    blobs = [Blob(bytes([i]) * 100_000, lfs=True) for i in range(4)]
    place = "/lab/model.git/info/lfs/objects/"

    assert ask(hub, "PUT", place + blobs[0].etag, blobs[1].data).status == 400
    hub.fail_after_lfs = 1
    assert ask(hub, "PUT", place + blobs[0].etag, iter([blobs[0].data[:7], blobs[0].data[7:]])).status == 200
    assert ask(hub, "PUT", place + blobs[1].etag, blobs[1].data).status == 507
    hub.fail_with = 0
    with pytest.raises(RemoteDisconnected):
        ask(hub, "PUT", place + blobs[2].etag, blobs[2].data)
    hub.fail_after_lfs = None
    hub.on_request = lambda method, path: 418
    assert ask(hub, "PUT", place + blobs[3].etag, blobs[3].data).status == 418
    assert hub.repos["lab/model"].large == {blobs[0].etag: blobs[0].data}
    assert [request.status for request in hub.requests] == [400, 200, 507, 0, 418]


def test_what_is_not_spoken_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    hub = HubStandIn().__enter__()
    assert ask(hub, "GET", "/api/datasets/lab/cells").status == 501
    assert ask(hub, "POST", "/api/validate-yaml", b"{}").status == 501
    with pytest.raises(AssertionError, match=r"GET /api/datasets/lab/cells; .* POST /api/validate-yaml: KeyError"):
        hub.__exit__(None, None, None)
    assert "doesn't speak GET /api/datasets/lab/cells" in capsys.readouterr().err
