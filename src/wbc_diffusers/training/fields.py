"""Dataclasses that are read from YAML: which fields there are, what fits them, and errors that say what was meant."""

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml


def read_mapping(path: Path, what: str, hint: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.
        what: Its kind in words, such as "recipe".
        hint: What to give instead, where there is no such file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML, or no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what} {path}: give {hint}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The {what} {path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"The {what} {path} must be a mapping.")
    return values


def read_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a mapping to the types of a dataclass's fields.

    Raises:
        ValueError: If a field is unknown; the nearest known one is named.
    """
    known = {f.name for f in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f" Did you mean {near[0]}?" if near else f" The fields are {', '.join(sorted(known))}."
            raise ValueError(f"A {cls.__name__} has no field {name!r}.{hint}")
    hints = get_type_hints(cls)
    return {name: _coerce(value, hints[name]) for name, value in values.items()}


def check_fields(made: Any, what: str) -> None:
    """Raise ValueError if a field of a dataclass is of another type than its hint says, or no finite number.

    Args:
        made: The dataclass.
        what: Its kind in words, such as "recipe".
    """
    hints = get_type_hints(type(made))
    for f in dataclasses.fields(made):
        value = getattr(made, f.name)
        if not _fits(value, hints[f.name]):
            raise ValueError(f"The {what}'s {f.name} is {value!r}; it must be {_wanted(hints[f.name])}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"The {what}'s {f.name} is {value}; it must be a finite number.")


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down, as JSON and YAML give them back."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _coerce(value: Any, hint: Any) -> Any:
    """Bring a YAML value to its field's type where nothing is lost: 1 to 1.0, "3e-4" to 0.0003, a list to a tuple."""
    kinds = alternatives(hint)
    if isinstance(value, str) and str not in kinds and not any(get_origin(a) is Literal for a in kinds):
        # YAML 1.1 reads 3e-4 as text.
        try:
            value = float(value)
        except ValueError:
            return value
    if value is False and any("no" in get_args(a) for a in kinds):
        return "no"  # YAML 1.1 reads a bare no as false.
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        return float(value)
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    for kind in kinds:
        if isinstance(value, list) and get_origin(kind) is tuple and len(value) == len(get_args(kind)):
            return tuple(_coerce(v, part) for v, part in zip(value, get_args(kind), strict=True))
        if isinstance(value, list) and get_origin(kind) is list:
            return [_coerce(v, get_args(kind)[0]) for v in value]
    return value


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    for alternative in alternatives(hint):
        origin = get_origin(alternative)
        if origin is Literal:
            fits = value in get_args(alternative)
        elif origin is list:
            fits = isinstance(value, list) and all(_fits(v, get_args(alternative)[0]) for v in value)
        elif origin is tuple:
            parts = get_args(alternative)
            fits = isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
        elif alternative is float:
            fits = isinstance(value, float)
        elif alternative is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, origin or alternative)
        if fits:
            return True
    return False


def _wanted(hint: Any) -> str:
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    words = []
    for alternative in alternatives(hint):
        origin = get_origin(alternative)
        if origin is Literal:
            words.append("one of " + ", ".join(map(str, get_args(alternative))))
        elif origin is tuple:
            words.append(f"a list of {len(get_args(alternative))} numbers")
        elif origin is list:
            kind = get_args(alternative)[0]
            words.append(f"a list of {'texts' if kind is str else 'numbers' if kind in (int, float) else 'mappings'}")
        else:
            words.append(names.get(alternative, "a mapping"))
    return " or ".join(words)
