"""What a study's folders hold, and under which names."""

import hashlib
import json
from pathlib import Path
from typing import Any

STUDY_NAME, IMAGES_NAME, KEY_NAME, LINKS_NAME = "study.json", "images", "key.json", "links.csv"
FORMAT = 1

Entry = dict[str, Any]
"""A place in a reader's order: `images` (a name, or those on the left and right), `truth` where it is for practice."""


def token_hash(token: str) -> str:
    """What a study knows a reader's token by."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_study(folder: Path) -> dict[str, Any]:
    """Read what `wbc readers build` wrote to serve.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged, or of a later version.
    """
    return _read_format(folder / STUDY_NAME, "study", "the folder that `wbc readers build` wrote by --out")


def read_key(folder: Path) -> dict[str, Any]:
    """Read the key of a study.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged, or of a later version.
    """
    return _read_format(folder / KEY_NAME, "key", "the folder that `wbc readers build` wrote by --key")


def _read_format(path: Path, what: str, hint: str) -> dict[str, Any]:
    """Read a JSON file of `wbc readers build`."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what} {path}: give {hint}.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The {what} {path} can't be read: {error}.") from error
    if found != FORMAT:
        raise ValueError(f"The {what} {path} has format {found}, and this version reads {FORMAT}: build it anew.")
    return content
