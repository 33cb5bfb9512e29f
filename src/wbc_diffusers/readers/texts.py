"""The texts of the readers' pages, in English or any language that a file brings."""

import string
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from wbc_diffusers.training.fields import read_mapping


def load_texts(language: str) -> dict[str, Any]:
    """The texts by their keys.

    Args:
        language: `en`, or a YAML file with the keys of English.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a text is missing, is none, or lacks what is filled in.
    """
    english = yaml.safe_load((files(__package__) / "languages" / "en.yaml").read_text(encoding="utf-8"))
    if language == "en":
        return dict(english)
    texts = read_mapping(Path(language), "language", "en, or a YAML file: a translation of the package's languages/en")
    if missing := english.keys() - texts.keys():
        raise ValueError(f"The language {language} lacks {', '.join(sorted(missing))}: copy these, and translate.")
    if unknown := texts.keys() - english.keys():
        raise ValueError(f"The language {language} has {', '.join(sorted(map(str, unknown)))}, which no page shows.")
    for key, pattern in english.items():
        _check_alike(texts[key], pattern, f"{key} of the language {language}")
    if texts["direction"] not in ("ltr", "rtl"):
        raise ValueError(f"direction of the language {language} is {texts['direction']!r}; it must be ltr or rtl.")
    return texts


def _check_alike(text: Any, pattern: Any, what: str) -> None:
    if isinstance(pattern, str):
        if not isinstance(text, str) or not text.strip() or _filled_in(text) != _filled_in(pattern):
            wanted = "".join(f" with {{{name}}} in it" for name in sorted(_filled_in(pattern)))
            raise ValueError(f"{what} is {text!r}; it must be a text{wanted}.")
    elif isinstance(pattern, list):
        if not isinstance(text, list) or len(text) != len(pattern):
            raise ValueError(f"{what} is {text!r}; it must be {len(pattern)} texts.")
        for each, like in zip(text, pattern, strict=True):
            _check_alike(each, like, what)
    else:
        if not isinstance(text, dict) or text.keys() != pattern.keys():
            raise ValueError(f"{what} must have {', '.join(map(str, pattern))}.")
        for key, like in pattern.items():
            _check_alike(text[key], like, f"{key} of {what}")


def _filled_in(text: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError:
        return {"a brace that is not closed"}
