"""The readers' pages: a small web application over `Reading`, and the server that runs it."""

import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StrictInt

from wbc_diffusers.readers.limits import LimitBody, RateLimit
from wbc_diffusers.readers.reading import LONGEST_COMMENT, NotNowError, Reader, Reading
from wbc_diffusers.training.output import only_run

logger = logging.getLogger(__name__)

_PAGES = {
    "/": ("reader.html", "text/html"),
    "/reader.js": ("reader.js", "text/javascript"),
    "/reader.css": ("reader.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
GUESSES, GUESSES_PER_S = 10, 0.1
"""Unknown tokens that an address may send at once, and a second."""
REQUESTS, REQUESTS_PER_S = 60, 20.0
"""Requests of a reader, likewise."""


class AnswerSent(BaseModel):
    """An answer as the page sends it; what is asked depends on the study, which checks it."""

    position: StrictInt
    revision: StrictInt
    seconds: float = Field(ge=0, allow_inf_nan=False)
    choice: str = Field(max_length=40)
    confidence: StrictInt | None = None
    abnormality: str | None = Field(default=None, max_length=40)
    grade: StrictInt | None = None
    comment: str | None = Field(default=None, max_length=LONGEST_COMMENT)


class EventSent(BaseModel):
    """Something that a reader did."""

    kind: str = Field(max_length=20)


def make_app(reading: Reading) -> FastAPI:
    """Make the web application of a study.

    Everything but the bare pages and their texts wants a reader's token, which the page has from the link behind `#`,
    where no server and no log sees it, and sends as `Authorization: Bearer`.
    """
    app = FastAPI(openapi_url=None)
    guesses, requests = RateLimit(GUESSES, GUESSES_PER_S), RateLimit(REQUESTS, REQUESTS_PER_S)
    app.add_middleware(LimitBody)

    def reader_of(request: Request) -> Reader:
        address = request.client.host if request.client else ""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        found = reading.reader(token) if scheme.lower() == "bearer" else None
        if found is None:
            if not guesses.take(address):
                raise HTTPException(429, "too many tries", {"Retry-After": "10"})
            raise HTTPException(401, "unknown link")
        if not requests.take(found.name):
            raise HTTPException(429, "too many requests", {"Retry-After": "1"})
        return found

    known = Annotated[Reader, Depends(reader_of)]

    @app.middleware("http")
    async def with_headers(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await handle(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(ValueError)
    def told(request: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409 if isinstance(error, NotNowError) else 422)

    @app.exception_handler(OSError)
    def failed(request: Request, error: OSError) -> JSONResponse:
        logger.error("%s Readers wait until it can be done.", error)
        return JSONResponse({"detail": str(error)}, 503)

    for path, (name, media_type) in _PAGES.items():
        content = (files(__package__) / "pages" / name).read_bytes()
        app.get(path)(_serves(content, media_type))

    @app.get("/texts")
    def texts() -> dict[str, Any]:
        return dict(reading.study["texts"])

    @app.get("/api/study")
    def study(reader: known) -> dict[str, Any]:
        return reading.texts()

    @app.get("/api/state")
    def state(reader: known) -> dict[str, Any]:
        return reading.state(reader)

    @app.get("/api/back")
    def back(reader: known) -> dict[str, Any]:
        return reading.look_back(reader)

    @app.get("/api/images/{position}/{side}")
    def image(reader: known, position: int, side: int) -> Response:
        return Response(reading.image(reader, position, side), media_type="image/png")

    @app.post("/api/answers")
    def answer(reader: known, sent: AnswerSent) -> dict[str, Any]:
        content = sent.model_dump(exclude={"position", "revision", "seconds"}, exclude_none=True)
        return reading.answer(reader, sent.position, content, sent.seconds, sent.revision)

    @app.post("/api/events")
    def event(reader: known, sent: EventSent) -> dict[str, Any]:
        reading.note(reader, sent.kind)
        return reading.state(reader)

    return app


def _serves(content: bytes, media_type: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=f"{media_type}; charset=utf-8")


def serve_study(
    folder: Path,
    host: str,
    port: int,
    certificate: Path | None,
    private_key: Path | None,
    *,
    allow_http: bool,
    say: Callable[[], None] = lambda: None,
) -> None:
    """Serve a study until it is stopped.

    Args:
        folder: The folder of `wbc readers build`.
        host: Address to listen on.
        port: Port to listen on.
        certificate: PEM file, for TLS.
        private_key: Its key.
        allow_http: Whether another machine may read without TLS, as behind a proxy that has it.
        say: Called when all is ready.

    Raises:
        ValueError: If other machines could read along, or the certificate comes without its key.
        OSError: If the study isn't there, or the port is taken.
    """
    check_transport(host, certificate, private_key, allow_http=allow_http)
    config = uvicorn.Config(
        make_app(Reading(folder)),
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
        ssl_keyfile_password="",  # one that has a password is refused, rather than asked for
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    try:
        config.load()
    except ssl.SSLError as error:
        raise ValueError(f"{certificate} and {private_key} are no certificate with its open key: {error}.") from error
    with _only_server(folder), _listening(host, port) as listening:
        say()
        uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"Nothing can listen on {host}, port {port} ({error.strerror}): see that no other program does, or give "
            "another --port."
        ) from error
    with listening:
        yield listening


@contextmanager
def _only_server(folder: Path) -> Iterator[None]:
    """Keep other servers away while the block runs: they would not know what this one has let through."""
    with ExitStack() as held:
        try:
            held.enter_context(only_run(folder))
        except FileExistsError as error:
            raise FileExistsError(f"{folder} is being served already: stop that server first.") from error
        yield


def check_transport(host: str, certificate: Path | None, private_key: Path | None, *, allow_http: bool) -> None:
    """Raise ValueError if tokens and answers would cross a network in the open without a word."""
    if (certificate is None) != (private_key is None):
        raise ValueError("TLS needs both: give --certificate and --private-key.")
    for path in (certificate, private_key):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"There is no file {path}: give a certificate and its key as PEM files.")
    if certificate is None and not allow_http and not _is_here(host):
        raise ValueError(
            f"On {host} other machines reach the study, and links and answers would cross the network in the open: "
            "give --certificate and --private-key, or --allow-http behind a proxy that has TLS."
        )


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
