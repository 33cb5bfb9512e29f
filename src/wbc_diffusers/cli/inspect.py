"""`wbc inspect`: what image files say of where they come from."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wbc_diffusers.data.check import RefusedImageError
    from wbc_diffusers.data.origin import Origin

_LONGEST = 200


def inspect(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON array with an object for each file, null where nothing tells.")
    ] = False,
) -> None:
    """Tell where images come from, by their files: from a model (which, of what seed and steps), or drawn by a program.

    What a file says can be lost and forged; that it says nothing proves nothing.
    """
    from wbc_diffusers.data.check import RefusedImageError
    from wbc_diffusers.data.sources import shown

    told: list[dict[str, Any]] = []
    for path in images:
        name, origin, error = shown(path), None, None
        try:
            origin = _read(path)
        except RefusedImageError as refused:
            error = refused
            typer.secho(f"wbc: {_printable(name)}: {_in_words(refused)}", fg="red", err=True)
        told.append(_to_json(name, origin, error))
        if origin is not None and not as_json:
            typer.echo("\n".join(_lines(name, origin)))
    if as_json:
        typer.echo(json.dumps(told, indent=1))  # escapes control characters, and all beyond ASCII
    if any(each["error"] for each in told):
        raise typer.Exit(2)


def _read(path: Path) -> "Origin":
    from wbc_diffusers.data.check import RefusedImageError, read_file, read_origin

    if path.is_dir():
        raise RefusedImageError("not_a_file", "a folder: give its images, such as FOLDER/*.png")
    return read_origin(read_file(path))


def _in_words(error: "RefusedImageError") -> str:
    # The reason's own words are of metadata that names the file.
    return "there is no such file" if error.reason == "missing_file" else _printable(str(error))


def _lines(name: str, origin: "Origin") -> list[str]:
    """What a person reads of an image: what it is, and below it all that its file tells."""
    told = [("creator", origin.creator), ("digital source type", origin.uri), *origin.settings.items()]
    rows = [(_printable(key), _printable(value)) for key, value in told if value is not None]
    width = max((len(key) for key, _ in rows), default=0)
    return [f"{_printable(name)}: {origin.in_words()}", *(f"  {key:{width}}  {value}" for key, value in rows)]


def _to_json(name: str, origin: "Origin | None", error: "RefusedImageError | None") -> dict[str, Any]:
    """The same for programs; every key is always there."""
    known = origin is not None and (origin.trained or origin.source_type is not None)
    return {
        "file": name,
        "what": origin.in_words() if origin else None,
        "made_by_trained_model": origin.trained if origin and known else None,
        "digital_source_type": origin.uri if origin else None,
        "creator": origin.creator if origin else None,
        "settings": dict(origin.settings) or None if origin else None,
        "reason": error.reason if error else None,
        "error": _in_words(error) if error else None,
    }


def _printable(text: str) -> str:
    """A text of somebody else's file on one line, without characters that steer a terminal, and of bounded length."""
    short = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
