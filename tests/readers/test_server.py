"""The readers' pages over HTTP: what a reader may do, and what nobody may."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.readers.conftest import Built
from wbc_diffusers.readers import server
from wbc_diffusers.readers.folder import KEY_NAME, LINKS_NAME
from wbc_diffusers.readers.limits import LARGEST_BODY, RateLimit
from wbc_diffusers.readers.reading import Reading
from wbc_diffusers.readers.server import check_transport, make_app

ANSWER = {"position": 0, "revision": 0, "choice": "real", "seconds": 1.0}


class Client:
    """A study that is served, and requests of its readers."""

    def __init__(self, built: Built) -> None:
        self.built, self.reading = built, Reading(built.folder)
        self.http = TestClient(make_app(self.reading))

    def get(self, path: str, reader: str = "anna") -> Any:
        return self.http.get(path, headers=self.of(reader))

    def post(self, path: str, content: dict[str, Any], reader: str = "anna") -> Any:
        return self.http.post(path, json=content, headers=self.of(reader))

    def answer(self, position: int, reader: str = "anna", **changes: Any) -> Any:
        return self.post(
            "/api/answers",
            {**ANSWER, "position": position, "revision": self.reading.store.revision(reader), **changes},
            reader,
        )

    def of(self, reader: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.built.tokens[reader]}"}


@pytest.fixture
def client(build: Callable[..., Built]) -> Iterator[Client]:
    """Give a study of eight cells and two readers, with confidence and comments."""
    found = Client(build(readers=["anna", "ben"], confidences=3, comments=True))
    yield found
    found.reading.store.close()


SURE = {"confidence": 2}


def test_a_reader_goes_from_the_first_cell_to_the_last(client: Client) -> None:
    state = client.get("/api/state").json()
    assert (state["phase"], state["position"], state["number"], state["total"]) == ("reading", 0, 1, 8)
    for position in range(8):
        image = client.get(f"/api/images/{position}/0")
        assert image.content == client.reading.image(client.reading.reader(client.built.tokens["anna"]), position, 0)
        state = client.answer(position, **SURE).json()
    assert state["phase"] == "done"
    assert client.get("/api/state", "ben").json()["position"] == 0


def test_an_answer_is_on_the_disk_before_it_is_acknowledged(client: Client) -> None:
    assert client.answer(0, choice="synthetic", **SURE).status_code == 200
    other = Reading(client.built.folder)
    (answer,) = other.store.answers("anna")
    assert answer.content == {"choice": "synthetic", "confidence": 2}
    other.store.close()


def test_one_step_back_changes_the_last_answer_and_keeps_the_first(client: Client) -> None:
    client.answer(0, **SURE)
    client.answer(1, **SURE)
    back = client.get("/api/back").json()
    assert (back["position"], back["answer"]) == (1, {"choice": "real", "confidence": 2})
    assert client.answer(1, revision=back["revision"], choice="synthetic", **SURE).json()["position"] == 2
    answer = client.reading.store.answers("anna")[1]
    assert (answer.content["choice"], answer.changes) == ("synthetic", 1)
    assert client.answer(0, **SURE).status_code == 409
    assert client.get("/api/images/0/0").status_code == 409


def test_an_answer_that_is_sent_twice_is_one(client: Client) -> None:
    for _ in range(3):
        assert client.answer(0, revision=0, **SURE).json()["position"] == 1
    assert client.reading.store.answers("anna")[0].changes == 0
    for _ in range(3):
        assert client.answer(0, revision=1, choice="synthetic", seconds=7.0, **SURE).status_code == 200
    (answer,) = client.reading.store.answers("anna")
    assert (answer.content["choice"], answer.changes, answer.seconds) == ("synthetic", 1, 8.0)


def test_a_page_that_does_not_know_of_an_answer_overwrites_none(client: Client) -> None:
    client.answer(0, revision=0, **SURE)
    assert client.answer(0, revision=0, choice="synthetic", **SURE).status_code == 409
    tabs = [client.get("/api/back").json()["revision"] for _ in range(2)]
    assert client.answer(0, revision=tabs[0], choice="synthetic", **SURE).status_code == 200
    assert client.answer(0, revision=tabs[1], comment="mine", **SURE).status_code == 409, "both tabs went back"
    assert client.answer(0, revision=0, **SURE).status_code == 409, "the first answer, sent again late"
    (answer,) = client.reading.store.answers("anna")
    assert (answer.content["choice"], answer.changes) == ("synthetic", 1)


def test_who_looks_for_days_is_not_refused(client: Client) -> None:
    assert client.answer(0, seconds=200_000.0, **SURE).status_code == 200
    assert client.reading.store.answers("anna")[0].seconds == 86_400


def test_a_second_look_is_timed_though_it_changes_nothing(client: Client) -> None:
    client.answer(0, **SURE)
    client.answer(0, revision=1, seconds=30.0, **SURE)
    assert client.reading.store.answers("anna")[0].seconds == 31.0


def test_before_consent_nothing_is_shown_or_answered(build: Callable[..., Built]) -> None:
    client = Client(build(consent="I agree to this."))
    assert client.get("/api/state").json()["phase"] == "consent"
    assert client.get("/api/images/0/0").status_code == 409
    assert client.answer(0).status_code == 409
    assert client.post("/api/events", {"kind": "consented"}).json()["phase"] == "reading"
    assert client.answer(0).status_code == 200
    assert "consented" in [kind for kind, _ in client.reading.store.events("anna")]


def test_practice_tells_the_truth_and_cannot_be_changed(build: Callable[..., Built]) -> None:
    client = Client(build(training=1))
    told = client.answer(0).json()
    assert told["truth"] in ("real", "synthetic")
    assert told["practice"]
    assert client.get("/api/back").status_code == 409
    assert client.answer(0, choice="synthetic").status_code == 409
    assert client.answer(0, revision=0).json()["truth"] == told["truth"], "sent again"
    assert "truth" in client.answer(1).json()
    assert "truth" not in client.answer(2).json()


def test_abnormality_and_grade_are_asked_for(build: Callable[..., Built]) -> None:
    client = Client(build(abnormalities=["hypersegmentation"]))
    assert client.answer(0).status_code == 422
    assert client.answer(0, abnormality="hypersegmentation").status_code == 422
    assert client.answer(0, abnormality="dohle_bodies", grade=1).status_code == 422
    assert client.answer(0, abnormality="none").status_code == 200
    assert client.answer(1, abnormality="hypersegmentation", grade=2).status_code == 200
    assert client.reading.store.answers("anna")[1].content["grade"] == 2


# -- attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer x", "Bearer " + 32 * "A", "Basic YTpi", "Bearer ' OR 1=1 --", "Bearer é"],
)
@pytest.mark.parametrize("path", ["/api/state", "/api/study", "/api/back", "/api/images/0/0"])
def test_nothing_is_told_without_a_readers_token(client: Client, path: str, authorization: str) -> None:
    answer = client.http.get(path, headers={"Authorization": authorization.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.json() == {"detail": "unknown link"}


def test_a_token_in_the_address_or_of_another_study_is_none(client: Client) -> None:
    token = client.built.tokens["anna"]
    assert client.http.get(f"/api/state?token={token}").status_code == 401
    assert client.http.get("/api/state", cookies={"token": token}).status_code == 401
    study = json.loads((client.built.folder / "study.json").read_text())
    hashed = study["readers"][0]["token_sha256"]
    assert client.http.get("/api/state", headers={"Authorization": f"Bearer {hashed}"}).status_code == 401


def test_who_guesses_tokens_is_shut_out_and_readers_are_not(client: Client) -> None:
    codes = [client.http.get("/api/state", headers={"Authorization": f"Bearer {i}"}).status_code for i in range(30)]
    assert codes == [401] * server.GUESSES + [429] * (30 - server.GUESSES)
    assert client.get("/api/state").status_code == 200


def test_a_reader_who_asks_without_end_is_slowed_down_and_others_are_not(client: Client) -> None:
    codes = [client.get("/api/state").status_code for _ in range(2 * server.REQUESTS)]
    assert codes[: server.REQUESTS] == [200] * server.REQUESTS
    assert 429 in codes
    assert client.get("/api/state", "ben").status_code == 200


@pytest.mark.parametrize("position", ["1", "7", "8", "-1", "99999999999999999999", "0/1", "a", "0/-1", "%2e%2e"])
def test_no_image_is_shown_before_its_turn_or_beside_it(client: Client, position: str) -> None:
    path = position if "/" in position else f"{position}/0"
    answer = client.get(f"/api/images/{path}")
    assert answer.status_code in (404, 409, 422)
    assert b"PNG" not in answer.content


@pytest.mark.parametrize(
    "path",
    [
        "/study.json", "/answers.sqlite", "/images", "/key.json", f"/../key/{KEY_NAME}", f"/..%2fkey%2f{LINKS_NAME}",
        "/%2e%2e/%2e%2e/key/key.json", "/reader.js/../../study.json", "//etc/passwd", "/static/../study.json",
        "/docs", "/openapi.json", "/redoc", "/.lock",
    ],
)  # fmt: skip
def test_no_file_is_served_but_the_three_of_the_page(client: Client, path: str) -> None:
    for headers in ({}, client.of("anna")):
        answer = client.http.get(path, headers=headers)
        assert answer.status_code == 404
        assert b"token" not in answer.content


@pytest.mark.parametrize(
    "changes",
    [
        {"choice": "left"}, {"choice": "REAL"}, {"choice": None}, {"choice": ["real"]}, {"choice": 10_000 * "x"},
        {"confidence": 0}, {"confidence": 4}, {"confidence": True}, {"confidence": 1.5}, {"confidence": "2"},
        {"confidence": None}, {"seconds": -1}, {"revision": "0"}, {"seconds": "soon"}, {"position": "0"},
        {"position": 0.5}, {"position": True}, {"comment": 2_000 * "x"}, {"comment": {"$ne": 1}},
    ],
)  # fmt: skip
def test_an_answer_that_fits_no_question_is_refused_and_not_saved(client: Client, changes: dict[str, Any]) -> None:
    assert client.post("/api/answers", {**ANSWER, **SURE, **changes}).status_code == 422
    assert client.reading.store.answers("anna") == []


@pytest.mark.parametrize("position", [1, 5, 8, -1, 2**70])
def test_an_answer_before_its_turn_is_refused(client: Client, position: int) -> None:
    assert client.answer(position, **SURE).status_code in (409, 422)
    assert client.reading.store.answers("anna") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b'{"position": NaN}', b"[" * 9000])
def test_a_body_that_is_no_answer_is_refused(client: Client, body: bytes) -> None:
    headers = {**client.of("anna"), "Content-Type": "application/json"}
    assert client.http.post("/api/answers", content=body, headers=headers).status_code in (400, 422)


def test_a_huge_body_is_refused_whether_it_says_so_or_not(client: Client) -> None:
    big = {**ANSWER, "confidence": 1, "comment": LARGEST_BODY * "x"}
    assert client.post("/api/answers", big).status_code == 413

    def in_pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield 1024 * b"x"

    assert client.http.post("/api/answers", content=in_pieces(), headers=client.of("anna")).status_code == 413
    bare = {**client.of("anna"), "Content-Length": "-5"}
    assert client.http.post("/api/answers", content=b"{}", headers=bare).status_code in (400, 413, 422)


def test_a_comment_is_kept_to_the_letter_and_no_other_field_is(client: Client) -> None:
    script = "<script>alert(1)</script>'; DROP TABLE answers; --"
    assert client.answer(0, comment=script, reader_name="ben", truth="real", **SURE).status_code == 200
    assert client.reading.store.answers("anna")[0].content == {"choice": "real", "confidence": 2, "comment": script}
    assert client.reading.store.answers("ben") == []


def test_a_strange_event_is_refused(client: Client) -> None:
    assert client.post("/api/events", {"kind": "finished"}).status_code == 422
    assert client.post("/api/events", {"kind": "paused"}).status_code == 200


def test_every_answer_forbids_foreign_scripts_frames_and_caches(client: Client) -> None:
    for answer in (
        client.http.get("/"),
        client.get("/api/state"),
        client.http.get("/nothing"),
        client.http.get("/api/state"),
    ):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert "set-cookie" not in answer.headers


def test_images_come_with_the_same_headers_whatever_they_show(client: Client) -> None:
    found = set()
    for position in range(8):
        answer = client.get(f"/api/images/{position}/0")
        found.add(tuple(sorted(answer.headers.items())))
        client.answer(position, **SURE)
    assert len(found) == 1


def test_nothing_that_a_reader_gets_says_how_many_are_synthetic_or_who_else_reads(client: Client) -> None:
    told = json.dumps([client.get(path).json() for path in ("/api/study", "/api/state")])
    assert "ben" not in told
    assert "truth" not in client.answer(0, **SURE).json()
    assert not any(facts in told for facts in client.reading._images)


@pytest.mark.parametrize("missing", ["readers", "title", "confidences", "texts"])
def test_a_damaged_study_is_told_in_words(build: Callable[..., Built], missing: str) -> None:
    built = build()
    path = built.folder / "study.json"
    study = json.loads(path.read_text())
    del study[missing]
    path.write_text(json.dumps(study))
    with pytest.raises(ValueError, match=f"is damaged: KeyError.'{missing}'"):
        Reading(built.folder)
    assert not (built.folder / "answers.sqlite").exists()


def test_a_full_disk_is_told_and_nothing_is_acknowledged(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("The answers can't be written: database or disk is full.")

    monkeypatch.setattr(client.reading.store, "save", fails)
    answer = client.answer(0, **SURE)
    assert answer.status_code == 503
    assert "disk is full" in answer.json()["detail"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "disk is full" in line, "whoever runs the server must see it"


# -- where it may be served -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "study.example"])
def test_other_machines_reach_it_by_tls_only_unless_told(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--certificate and --private-key, or --allow-http"):
        check_transport(host, None, None, allow_http=False)
    check_transport(host, None, None, allow_http=True)
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    check_transport(host, tmp_path / "cert.pem", tmp_path / "key.pem", allow_http=False)
    with pytest.raises(ValueError, match="TLS needs both"):
        check_transport(host, tmp_path / "cert.pem", None, allow_http=True)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*other\.pem"):
        check_transport(host, tmp_path / "cert.pem", tmp_path / "other.pem", allow_http=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_this_machine_needs_no_tls(host: str) -> None:
    check_transport(host, None, None, allow_http=False)


def test_a_limit_lets_so_many_through_at_once_and_then_so_many_a_second() -> None:
    now = [0.0]
    limit = RateLimit(3, 2.0, clock=lambda: now[0], most_keys=2)
    assert [limit.take("a") for _ in range(5)] == [True, True, True, False, False]
    assert limit.take("b")
    now[0] = 0.5
    assert [limit.take("a") for _ in range(2)] == [True, False]
    now[0] = 60.0
    assert [limit.take("a") for _ in range(4)] == [True, True, True, False]
    limit.take("c")
    limit.take("d")
    assert len(limit._left) == 2
