"""A model hub on loopback: what huggingface_hub asks of one to download and upload model repositories.

Clients are other processes, with the variables of [`HubStandIn.environment`]: huggingface_hub reads them on import.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES, LFS_OVER = (".safetensors", ".bin", ".png"), 10 * 2**20
"""Files of these names, and those of more bytes than that, are large files."""


class User(NamedTuple):
    """Whom a token belongs to; with the role "read" it may change nothing."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"

    def owns(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in (self.name, *self.orgs)


@dataclass(frozen=True)
class Blob:
    """The bytes of a file, and whether they are kept as a large file, of which git holds a pointer."""

    data: bytes
    lfs: bool

    @property
    def etag(self) -> str:
        return self.about["lfs"]["sha256"] if self.lfs else self.about["oid"]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What listings say of the file."""
        held, large, size = self.data, {}, len(self.data)
        if self.lfs:
            digest = hashlib.sha256(self.data).hexdigest()
            held = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()
            # The tree calls the digest oid, the model's information sha256.
            large = {"lfs": {"oid": digest, "sha256": digest, "size": size, "pointerSize": len(held)}}
        git_id = hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()
        return {"oid": git_id, "blobId": git_id, "size": size, **large}


class Commit(NamedTuple):
    """A state of a repository that never changes."""

    id: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repository: its commits by id, what branches and tags point to, and the large files that were sent to it."""

    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        commit = self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def add(self, branch: str, files: dict[str, Blob], title: str) -> str:
        # Counted, so that the same files once more are another commit.
        content = [len(self.commits), title, {path: blob.etag for path, blob in files.items()}]
        name = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[name], self.branches[branch] = Commit(name, title, files), name
        self.large |= {blob.etag: blob.data for blob in files.values() if blob.lfs}
        return name


class Request(NamedTuple):
    """What was asked for, and the status of the answer: 0 where the connection was dropped."""

    method: str
    path: str
    status: int


class Answer(NamedTuple):
    """A response, but for its length."""

    status: int
    body: bytes
    headers: dict[str, str]


class HubError(Exception):
    """An answer that is an error; the client makes its typed errors of the code."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = _json({"error": message}, status)
        said = {"X-Error-Message": message.encode("ascii", "replace").decode(), "X-Error-Code": code, **(headers or {})}
        self.answer.headers.update({name: value for name, value in said.items() if value})


class Call(NamedTuple):
    """A request as the functions of the hub take it; `user` is None where no token was sent."""

    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    user: User | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _is_large(path: str, size: int) -> bool:
    return size > LFS_OVER or (size > 0 and path.endswith(LFS_SUFFIXES))


_ROUTES: list[tuple[list[str], re.Pattern[str], Callable[..., Answer]]] = []


def _route(methods: str, pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Let a function answer paths of a pattern, in which REPO and REV stand for a repository and a revision."""
    pattern = pattern.replace("REPO", "(?P<repo_id>[^/]+/[^/]+)").replace("REV", "(?P<revision>[^/]+)")

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        _ROUTES.append((methods.split(), re.compile(pattern), function))
        return function

    return register


class HubStandIn:
    """A model hub on loopback: enough of its protocol for huggingface_hub's downloads and uploads.

    A context manager. It ends with an AssertionError if anything was asked for that it doesn't speak.

    Attributes:
        url: The address, for HF_ENDPOINT.
        users: Whom each token belongs to.
        repos: The repositories by name. Set `private` or `tags` of one as the test needs them.
        cards: The model cards that were sent for validation; all are taken for valid.
        requests: All requests, in order.
        on_request: Called with the method and the path before a request is served. It may return a status, which is
            answered in place of serving, raise ConnectionError, which drops the connection, or kill the client.
        fail_after_lfs: How many large files are taken before each further one is refused.
        fail_with: The status of that refusal; 0 drops the connection, which the client tries again for 23 s.
    """

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.cards: list[str] = []
        self.requests: list[Request] = []
        self.unspoken: list[str] = []
        self.on_request: Callable[[str, str], int | None] | None = None
        self.fail_after_lfs: int | None = None
        self.fail_with = 507
        self._taken = 0
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        # Another error has likely come of it: then the lines on stderr have to do.
        if self.unspoken and kind is None:
            raise AssertionError("; ".join(self.unspoken))

    def stop(self) -> None:
        """Take the hub off the net, open connections too. Called at the end; a test may call it before."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Give the variables for a client process whose cache, token and settings are in the folder `home`."""
        others = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        variables |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}
        # With hf_xet, huggingface_hub 2 sends large files to a chunk store only, which is not spoken here.
        variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        variables |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return variables | ({"HF_TOKEN": token} if token else {})

    def put(self, repo_id: str, folder: Path, *, revision: str = "main", private: bool = False) -> str:
        """Make the files of a folder, and nothing else, the next commit of a branch, and give its id.

        The repository and the branch are made if missing; `private` is for a new repository.
        """
        contents = {
            each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()
        }
        files = {path: Blob(data, _is_large(path, len(data))) for path, data in sorted(contents.items())}
        with self._lock:
            return self.repos.setdefault(repo_id, Repo(private)).add(revision, files, f"Put {folder.name}")

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Give the files of a branch, a tag or a commit."""
        with self._lock:
            return {path: blob.data for path, blob in self.repos[repo_id].at(revision).files.items()}

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer a request, or raise ConnectionError where the connection shall be dropped."""
        url, status = urlsplit(target), 0
        try:
            # Not locked, since a test may hold a request up while others are served.
            if self.on_request is not None and (wanted := self.on_request(method, url.path)) is not None:
                answer = HubError(wanted, "The test wants this error").answer
            else:
                answer = self._served(method, url.path, parse_qs(url.query), headers, body)
            status = answer.status
            return answer
        finally:
            self.requests.append(Request(method, url.path, status))

    def _served(self, method: str, path: str, query: dict, headers: Mapping[str, str], body: bytes) -> Answer:
        problem = f"The hub's stand-in doesn't speak {method} {path}"
        for methods, pattern, function in _ROUTES:
            if method in methods and (match := pattern.fullmatch(path)):
                groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                try:
                    user = self._user(headers.get("authorization"))
                    with self._lock:
                        return function(self, Call(query, headers, body, user), **groups)
                except HubError as error:
                    return error.answer
                except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
                    problem += f": {error!r}"
        self.unspoken.append(problem)
        print(problem, file=sys.stderr)
        # The client doesn't try again after this status.
        return HubError(501, problem).answer

    def _user(self, authorization: str | None) -> User | None:
        user = self.users.get((authorization or "").removeprefix("Bearer "))
        if user is None and authorization is not None:
            # In these words, since the client takes other 401s for a missing repository.
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def _writer(self, call: Call, repo_id: str) -> User:
        if call.user is None:
            raise HubError(401, "Invalid username or password.")
        if call.user.role != "write" or not call.user.owns(repo_id):
            raise HubError(403, f"You don't have the rights to write to {repo_id}, or not by this token")
        return call.user

    def _repo(self, call: Call, repo_id: str, *, write: bool = False) -> Repo:
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and not (call.user and call.user.owns(repo_id))):
            # The real hub sends no code with the 401, which the client understands by the address: https only.
            raise HubError(404 if call.user else 401, "Repository not found", "RepoNotFound")
        if write:
            self._writer(call, repo_id)
        return repo

    @_route("GET", "/api/whoami-v2")
    def _whoami(self, call: Call) -> Answer:
        if (user := call.user) is None:
            raise HubError(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": org, "roleInOrg": user.role} for org in user.orgs]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
        return _json({"type": "user", "name": user.name, "orgs": orgs, "auth": auth})

    @_route("POST", "/api/validate-yaml")
    def _validate(self, call: Call) -> Answer:
        self.cards.append(call.json["content"])
        return _json({"errors": [], "warnings": []})

    @_route("POST", "/api/repos/create")
    def _create(self, call: Call) -> Answer:
        asked = call.json
        if asked.get("type", "model") != "model":
            raise NotImplementedError(asked["type"])
        name = f"{asked.get('organization') or (call.user and call.user.name)}/{asked['name']}"
        self._writer(call, name)
        place = {"name": name, "url": f"{self.url}/{name}"}
        if name in self.repos:
            return _json({"error": "You already created this model repo", **place}, 409)
        # Older clients say private, newer ones visibility.
        self.repos[name] = repo = Repo(private=asked.get("private") or asked.get("visibility") == "private")
        # The real hub's repositories aren't empty at first either.
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.add("main", {".gitattributes": Blob(attributes.encode(), lfs=False)}, "initial commit")
        return _json(place)

    @_route("GET", "/api/models/REPO(?:/revision/REV)?")
    def _info(self, call: Call, repo_id: str, revision: str | None) -> Answer:
        repo = self._repo(call, repo_id)
        commit = repo.at(revision or "main")
        more = "blobs" in call.query
        siblings = [{"rfilename": path, **(blob.about if more else {})} for path, blob in commit.files.items()]
        about = {"id": repo_id, "author": repo_id.split("/")[0], "private": repo.private, "tags": []}
        return _json({**about, "sha": commit.id, "siblings": siblings})

    @_route("GET", "/api/models/REPO/tree/REV(?:/(?P<folder>.+))?")
    def _tree(self, call: Call, repo_id: str, revision: str, folder: str | None) -> Answer:
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in self._repo(call, repo_id).at(revision).files.items():
            for parent in map(str, PurePosixPath(path).parents[:-1]):
                entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            entries[path] = {"type": "file", "path": path, **blob.about}
        start, deep = f"{folder}/" if folder else "", call.query.get("recursive", [""])[0].lower() == "true"
        found = [path for path in entries if path.startswith(start)]
        if folder and not found:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        return _json([entries[path] for path in found if deep or "/" not in path.removeprefix(start)])

    @_route("GET", "/api/models/REPO/refs")
    def _refs(self, call: Call, repo_id: str) -> Answer:
        repo = self._repo(call, repo_id)
        refs: dict[str, list[dict[str, str]]] = {"converts": []}
        for kind, place, names in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags)):
            refs[kind] = [{"name": n, "ref": f"refs/{place}/{n}", "targetCommit": to} for n, to in names.items()]
        return _json(refs)

    @_route("POST", "/api/models/REPO/(?P<kind>branch|tag)/REV")
    def _point(self, call: Call, repo_id: str, kind: str, revision: str) -> Answer:
        repo = self._repo(call, repo_id, write=True)
        if kind == "branch":
            names, name, target = repo.branches, revision, call.json.get("startingPoint", "main")
        else:
            names, name, target = repo.tags, call.json["tag"], revision
        if name in names:
            raise HubError(409, f"Reference already exists: {name}")
        names[name] = repo.at(target).id
        return _json({})

    @_route("POST", "/api/models/REPO/preupload/REV")
    def _preupload(self, call: Call, repo_id: str, revision: str) -> Answer:
        held, modes = self._repo(call, repo_id, write=True).at(revision).files, []
        for path, size in ((each["path"], each["size"]) for each in call.json["files"]):
            mode, known = "lfs" if _is_large(path, size) else "regular", held[path].etag if path in held else None
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return _json({"files": modes})

    @_route("POST", "/REPO[.]git/info/lfs/objects/batch")
    def _batch(self, call: Call, repo_id: str) -> Answer:
        repo, place = self._repo(call, repo_id, write=True), f"{self.url}/{repo_id}.git/info/lfs"
        objects = [{"oid": each["oid"], "size": each["size"]} for each in call.json["objects"]]
        # No actions for what is held already: that lets an upload go on where it was cut off.
        for each in (each for each in objects if each["oid"] not in repo.large):
            upload, verify = f"{place}/objects/{each['oid']}", f"{place}/verify"
            each["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
        return _json({"transfer": "basic", "objects": objects})

    @_route("PUT", "/REPO[.]git/info/lfs/objects/(?P<oid>[0-9a-f]{64})")
    def _large(self, call: Call, repo_id: str, oid: str) -> Answer:
        # No token is asked for: the real hub gives addresses that are signed.
        if self.fail_after_lfs is not None and self._taken >= self.fail_after_lfs:
            if not self.fail_with:
                raise ConnectionAbortedError("The test wants the connection dropped")
            raise HubError(self.fail_with, "The test wants no more large files")
        if hashlib.sha256(call.body).hexdigest() != oid:
            raise HubError(400, "These are not the bytes that were announced")
        self.repos[repo_id].large[oid] = call.body
        self._taken += 1
        return _json({})

    @_route("POST", "/REPO[.]git/info/lfs/verify")
    def _verify(self, call: Call, repo_id: str) -> Answer:
        if call.json["oid"] not in self._repo(call, repo_id, write=True).large:
            raise HubError(404, "No such large file")
        return _json({})

    @_route("POST", "/api/models/REPO/commit/REV")
    def _commit(self, call: Call, repo_id: str, revision: str) -> Answer:
        if "create_pr" in call.query:
            raise NotImplementedError("pull requests")
        repo, title = self._repo(call, repo_id, write=True), ""
        if revision not in repo.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = dict(repo.at(revision).files)
        for key, value in ((line["key"], line["value"]) for line in map(json.loads, call.body.splitlines())):
            path = value.get("path", "").rstrip("/")
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", repo.branches[revision]) != repo.branches[revision]:
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[path] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in repo.large:
                    raise HubError(400, f"The large file of {path} was not sent")
                files[path] = Blob(repo.large[value["oid"]], lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                gone = {each for each in files if each == path or each.startswith(f"{path}/")}
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                files = {each: blob for each, blob in files.items() if each not in gone}
            else:
                raise NotImplementedError(key)
        name = repo.add(revision, files, title)
        return _json({"success": True, "commitOid": name, "commitUrl": f"{self.url}/{repo_id}/commit/{name}"})

    @_route("GET HEAD", "/REPO/resolve/REV/(?P<path>.+)")
    def _resolve(self, call: Call, repo_id: str, revision: str, path: str) -> Answer:
        commit = self._repo(call, repo_id).at(revision)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if (blob := commit.files.get(path)) is None:
            # With the commit, by which the client keeps in mind that the file is missing.
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        headers["ETag"], size = f'"{blob.etag}"', len(blob.data)
        if blob.lfs:
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(size)}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
        if span is None:
            return Answer(200, blob.data, headers)
        start, end = int(span[1]), min(int(span[2] or size), size - 1)
        if start > end:
            raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
        return Answer(206, blob.data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{size}"})


class _Server(ThreadingHTTPServer):
    """The server of a stand-in, which knows its open connections."""

    daemon_threads = True
    request_queue_size = 64  # downloads come eight at a time, and what finds no place waits for a second

    def __init__(self, hub: HubStandIn) -> None:
        self.hub, self.connections = hub, set[socket.socket]()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # which comes of clients that tests kill
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for 40 ms

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def serve(self) -> None:
        try:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = self.server.hub.answer(self.command, self.path, headers, self._body())
        except ConnectionError:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline() or b"0", 16):
            chunks.append(self._read(size + 2)[:-2])
        self._read(2)
        return b"".join(chunks)

    def _read(self, size: int) -> bytes:
        if len(data := self.rfile.read(size)) < size:
            raise ConnectionAbortedError("The client is gone")
        return data


for _method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.serve)
