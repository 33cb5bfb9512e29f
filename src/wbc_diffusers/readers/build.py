"""`wbc readers build`: a folder to serve that tells nothing, and a key beside it that tells all."""

import csv
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from wbc_diffusers import __version__
from wbc_diffusers.readers.blinding import find_risks
from wbc_diffusers.readers.cells import Cell, as_png, draw_cells
from wbc_diffusers.readers.config import REAL, ReaderStudy
from wbc_diffusers.readers.folder import FORMAT, IMAGES_NAME, KEY_NAME, LINKS_NAME, STUDY_NAME, Entry, token_hash
from wbc_diffusers.readers.texts import load_texts
from wbc_diffusers.training.files import flush_tree, write_whole

ADDRESS = "http://127.0.0.1:8000"
_SAME_TIME = 1_000_000_000
_PRIVATE = 0o600


def build_study(config: ReaderStudy, out: Path, key: Path, address: str = ADDRESS) -> list[str]:
    """Write the folder that is served, and the key with the readers' links.

    Args:
        config: The study.
        out: Folder to serve; it must be new or empty.
        key: Folder of the key; it must be new or empty, and neither in `out` nor around it.
        address: Where the study will be served, for the links.

    Returns:
        What would let readers guess, in sentences; also in the key.

    Raises:
        ValueError: If a source or the address doesn't fit, or key and study lie in each other.
        FileExistsError: If a folder holds something.
        OSError: If a folder can't be read or written.
    """
    check_address(address)
    _check_apart(out, key)
    texts = load_texts(config.language)
    seed = secrets.randbits(64) if config.seed is None else config.seed
    cells = draw_cells(config, np.random.default_rng(seed))
    risks = find_risks(config, cells, texts)
    # Names and orders are no function of a seed that somebody might guess: they would tell the truth.
    rng = np.random.default_rng(secrets.randbits(128))
    study_id, tokens = secrets.token_hex(8), {name.strip(): secrets.token_urlsafe(24) for name in config.readers}
    readers = [
        {"name": name, "token_sha256": token_hash(token), "order": _order(config, cells, rng)}
        for name, token in tokens.items()
    ]
    study = {
        "format": FORMAT,
        "study": study_id,
        "title": config.title,
        "question": config.question,
        "asked": _asked(config),
        "confidences": config.confidences,
        "abnormalities": config.abnormalities,
        "comments": config.comments,
        "consent": config.consent.strip(),
        "instructions": config.instructions.strip() or texts[f"instructions_{config.question}"],
        "texts": texts,
        "size": list(cells[0].image.size),
        "readers": readers,
    }
    told = {"format": FORMAT, "study": study_id, "version": __version__, "seed": seed, "config": config.to_dict()}
    told |= {"risks": risks, "cells": {cell.name: _of_key(cell) for cell in cells}}
    by_name = sorted(cells, key=lambda cell: cell.name)
    images = {f"{IMAGES_NAME}/{cell.name}.png": as_png(cell.image) for cell in by_name}
    secret = {KEY_NAME: _json(told), LINKS_NAME: _links(tokens, address)}
    with _folder(key, secret, private=True), _folder(out, {**images, STUDY_NAME: _json(study)}):
        pass  # both are whole now; the study is placed first, and without it there is no key
    return risks


def _asked(config: ReaderStudy) -> str:
    """Which text asks the question: of two synthetic cells none is real."""
    real = all(REAL in sources for sources in config.sources.values())
    return f"question_{config.question}" if real else "question_which_looks_real"


def _links(tokens: Mapping[str, str], address: str) -> bytes:
    text = StringIO()
    links = [(name, f"{address.rstrip('/')}/#{token}") for name, token in tokens.items()]
    csv.writer(text).writerows([("reader", "link"), *links])
    return text.getvalue().encode()


def change_address(key: Path, address: str) -> None:
    """Write the readers' links anew, with another address and the same tokens.

    Raises:
        FileNotFoundError: If the key's folder has no links.
        ValueError: If they are no links, or the address is none.
    """
    check_address(address)
    path = key / LINKS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"There are no links {path}: give the folder that `wbc readers build` wrote by --key.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or any("#" not in (row.get("link") or "") or not row.get("reader") for row in rows):
        raise ValueError(f"{path} holds no links: bring back the file that `wbc readers build` wrote.")
    write_whole(path, _links({row["reader"]: row["link"].rpartition("#")[2] for row in rows}, address))
    path.chmod(_PRIVATE)


def check_address(address: str) -> None:
    """Raise ValueError if a browser would not open it."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or "#" in address or " " in address:
        raise ValueError(
            f"The address {address!r} must begin with http:// or https:// and a host, and have no ? or #, such as "
            f"{ADDRESS}."
        )


def _of_key(cell: Cell) -> dict[str, Any]:
    digest = hashlib.sha256(as_png(cell.image)).hexdigest()
    return {
        "stratum": cell.stratum,
        "source": cell.source,
        "practice": cell.practice,
        "file_sha256": digest,
    } | cell.facts


def _order(config: ReaderStudy, cells: Sequence[Cell], rng: np.random.Generator) -> list[Entry]:
    """What a reader is shown: cells for practice, then all others at random, some of them a second time.

    Those that come again are of the first third, and come in the last.
    """
    items = [[cell] for cell in cells] if config.question == "real_or_synthetic" else _pairs(config, cells)
    practice, shown = ([item for item in items if item[0].practice == kind] for kind in (True, False))
    practice, shown = ([each[i] for i in rng.permutation(len(each))] for each in (practice, shown))
    third = len(shown) // 3
    again = [shown[i] for i in rng.choice(third, config.repeats, replace=False)] if config.repeats else []
    last = [*shown[len(shown) - third :], *again]
    shown = [*shown[: len(shown) - third], *(last[i] for i in rng.permutation(len(last)))]
    turned = _turned([*practice, *shown], rng)
    entries = []
    for item, turn in zip([*practice, *shown], turned, strict=True):
        sides = item[::-1] if turn else item
        entry: Entry = {"images": [cell.name for cell in sides]}
        entries.append(entry | ({"truth": _truth(sides)} if item[0].practice else {}))
    return entries


def _turned(items: Sequence[Sequence[Cell]], rng: np.random.Generator) -> list[bool]:
    """Which items are shown the other way round: of each stratum as many as not, or one more or less."""
    turned = [False] * len(items)
    # Those that come again by themselves: only first answers are scored.
    seen: set[str] = set()
    kinds = []
    for item in items:
        kinds.append((item[0].stratum, item[0].practice, item[0].name in seen))
        seen.add(item[0].name)
    for kind in dict.fromkeys(kinds):
        places = rng.permutation([place for place, its in enumerate(kinds) if its == kind])
        for place in places[: (len(places) + int(rng.integers(2))) // 2]:
            turned[place] = True
    return turned


def _pairs(config: ReaderStudy, cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of both sources of each stratum in pairs."""
    pairs = []
    for stratum, sources in config.sources.items():
        sides = [[c for c in cells if (c.stratum, c.source) == (stratum, name)] for name in sources]
        pairs += [list(pair) for pair in zip(*sides, strict=True)]
    return pairs


def _truth(sides: Sequence[Cell]) -> str:
    if len(sides) == 1:
        return "real" if sides[0].real else "synthetic"
    return "left" if sides[0].real else "right"


def _check_apart(out: Path, key: Path) -> None:
    for folder in (out, key):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} holds something: give a new or empty folder.")
    one, two = out.resolve(), key.resolve()
    if one == two or one in two.parents or two in one.parents:
        raise ValueError(f"The key {key} and the study {out} lie in each other; what is served must not hold the key.")


@contextmanager
def _folder(folder: Path, files: dict[str, bytes], *, private: bool = False) -> Iterator[None]:
    """Write a folder that appears whole when the block ends, and not at all if that fails.

    All its files are of one time, so that none tells when it was made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            path.chmod(_PRIVATE if private else 0o644)
            os.utime(path, (_SAME_TIME, _SAME_TIME))
        partial.chmod(0o700 if private else 0o755)
        flush_tree(partial)
        if folder.exists():
            folder.rmdir()
        yield
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
