"""evaluation.json as a card and a repository may show it: of this very model, checked, without names of files."""

import json
import re
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import Any

from wbc_diffusers.evaluation.record import SCHEMA_VERSION
from wbc_diffusers.evaluation.rows import Row
from wbc_diffusers.sampling import has_made

EVALUATION_NAME = "evaluation.json"
_SET_KEYS = ("role", "folder", "images", "repeated", "source_type")


class CardError(ValueError):
    """A card that would say what nobody knows to be true of the model."""


def read_evaluation(path: Path, pipe: Any) -> dict[str, Any]:
    """Read `evaluation.json`, which must be of images of this pipeline; without the names of files.

    Names of real images may tell about patients, and what is read here is to be published.

    Args:
        path: The file, or the folder that `wbc evaluate` wrote.
        pipe: The pipeline; None is none whose images anybody could have made.

    Raises:
        CardError: If it is of another model, or does not say of which.
        ValueError: If it is no evaluation, or of an unknown schema.
        OSError: If there is no such file.
    """
    path = path / EVALUATION_NAME if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): evaluate anew.") from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {version!r}, and this version of the package reads evaluations of "
            f"{SCHEMA_VERSION}: evaluate anew, or update the package."
        )
    made_by = found.get("generated_by")
    if not isinstance(made_by, dict):
        raise CardError(
            f"{path} does not say which model its images are of, so its figures can't stand on a card: evaluate a "
            "folder that `wbc generate` made."
        )
    if pipe is None or not has_made(pipe, made_by):
        raise CardError(
            f"{path} is of images of another model (revision {made_by.get('revision')}, config "
            f"{made_by.get('config')}): generate images with this one, and evaluate those."
        )
    try:
        return _for_the_public(found)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is no evaluation as `wbc evaluate` writes it ({error}): evaluate anew.") from error


def _for_the_public(found: dict[str, Any]) -> dict[str, Any]:
    """What of an evaluation anybody may see, by name, so that nothing new is published unasked."""
    seeds = found["generated_by"]["seeds"]
    copies = found["copies"]
    return {
        **{key: found[key] for key in ("schema_version", "wbc_diffusers", "seed", "processing")},
        "notes": [str(note) for note in found["notes"]],
        "generated_by": {**found["generated_by"], "seeds": [int(seeds[0]), int(seeds[1])]},
        "sets": [{key: each.get(key) for key in _SET_KEYS} for each in _in_order(found["sets"])],
        "leaks": [{**each, "exact": len(each["exact"]), "near": len(each["near"])} for each in found["leaks"]],
        "rows": [asdict(row_of(each)) for each in found["rows"]],
        "encoders": [
            {key: each[key] for key in ("encoder", "weights_sha256", "features")} for each in found["encoders"]
        ],
        "copies": None if copies is None else {by: _search(copies[by]) for by in ("pixels", "features")},
    }


def _in_order(sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sets: real, generated, and training where it is there."""
    by_role = {each["role"]: each for each in sets}
    for each in sets:
        _check_number(each["images"], "images", int)
    return [by_role["real"], by_role["generated"], *([by_role["training"]] if "training" in by_role else [])]


def row_of(found: dict[str, Any]) -> Row:
    """A row, whose figures are numbers or None."""
    row = Row(**{field.name: found[field.name] for field in fields(Row)})
    for name in (row.measure, row.encoder):
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]*", name):
            raise TypeError(f"{name!r} is no name")
    for value in (row.value, row.low, row.high, row.floor, row.value_at_floor):
        _check_number(value, row.measure)
    for count in (row.n_real, row.n_generated):
        _check_number(count, row.measure, int)
    return row


def _check_number(value: Any, name: str, kind: type = float) -> None:
    allowed = int if kind is int else int | float
    if value is None and kind is float:
        return
    if isinstance(value, bool) or not isinstance(value, allowed) or not isfinite(value) or (kind is int and value < 0):
        raise TypeError(f"{name} is {value!r}")


def _search(found: dict[str, Any]) -> dict[str, Any]:
    """A search for copies, without the names of what it found."""
    estimates = ("false_alarms", "found_of_all", "beyond", "excess")
    for name in estimates:
        _check_number(found[name]["value"], name)
    _check_number(found["copies_at_most"], "copies_at_most")
    _check_number(found["held_out"], "held_out", int)
    return {key: found[key] for key in ("threshold", *estimates, "copies_at_most", "held_out")}
