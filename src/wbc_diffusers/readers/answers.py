"""Readers' answers as arrays, put together with the key."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.readers.config import REAL
from wbc_diffusers.readers.folder import IMAGES_NAME, read_key, read_study
from wbc_diffusers.readers.store import ANSWERS_NAME, Answer, Store

NONE = -1
"""Where an array has no answer."""


@dataclass(frozen=True)
class Item:
    """What a reader is asked about: a cell, or a pair of cells.

    Attributes:
        cells: Their names in the key, the signal first: in a pair the real cell, or that of the first generator.
        stratum: Of the study.
        source: Where the signal is from in a pair, and the cell otherwise.
        other: Where the other cell of a pair is from; None if there is none.
    """

    cells: tuple[str, ...]
    stratum: str
    source: str
    other: str | None = None


@dataclass(frozen=True)
class Given:
    """An answer as it was given.

    Attributes:
        reader: Number of the reader.
        item: Number of the item.
        images: The cell, or those on the left and right.
        answer: The answer.
        signal: Whether the item was a signal, as the reader saw it.
        again: Whether it was shown to the reader a second time.
    """

    reader: int
    item: int
    images: list[str]
    answer: Answer
    signal: bool
    again: bool

    @property
    def chosen(self) -> bool:
        """Whether the choice was "real", or the left cell."""
        return self.answer.content["choice"] in ("real", "left")

    @property
    def right(self) -> bool:
        """Whether the choice was right."""
        return self.chosen == self.signal


@dataclass(frozen=True)
class Sheet:
    """All answers of a study; R readers, N items, L levels from the surest "noise" to the surest "signal".

    Attributes:
        readers: Their names.
        items: What was asked about.
        levels: L.
        answers: Level of each answer (R, N), -1 where there is none; of an item shown twice the first.
        signal: Whether the item was a signal, as the reader saw it (R, N): a real cell, or a pair with it, or with the
            first generator's, on the left.
        places: When in the order the item came, from 0 (R, N).
        seconds: How long the reader looked (R, N), not a number where there is no answer.
        kinds: Abnormality that the reader saw, as a number of `abnormalities` (R, N).
        grades: Its grade, 0 where none was seen (R, N).
        abnormalities: What could be seen, "none" first; empty where it was not asked.
        given: Every answer, those to items shown twice, too.
        key: The key.
    """

    readers: list[str]
    items: list[Item]
    levels: int
    answers: NDArray[np.int64]
    signal: NDArray[np.bool_]
    places: NDArray[np.int64]
    seconds: NDArray[np.float64]
    kinds: NDArray[np.int64]
    grades: NDArray[np.int64]
    abnormalities: list[str]
    given: list[Given]
    key: Mapping[str, Any]

    @property
    def again(self) -> list[tuple[Given, Given]]:
        """The two answers to each item that was shown twice."""
        first = {(each.reader, each.item): each for each in self.given if not each.again}
        return [(first[each.reader, each.item], each) for each in self.given if each.again]

    @property
    def called(self) -> NDArray[np.int64]:
        """1 where the reader called a cell real, or chose the signal of a pair, 0 where not, -1 without an answer."""
        up = self.answers >= self.levels // 2
        chosen = up == self.signal if self.in_pairs else up
        return np.where(self.answers == NONE, NONE, chosen)

    @property
    def right(self) -> NDArray[np.int64]:
        """1 where the reader was right, 0 where not, -1 without an answer."""
        return np.where(self.answers == NONE, NONE, (self.answers >= self.levels // 2) == self.signal)

    @property
    def in_pairs(self) -> bool:
        """Whether readers chose one of two cells."""
        return bool(self.items) and len(self.items[0].cells) == 2

    @property
    def strata(self) -> list[str]:
        """The names of the strata."""
        return list(dict.fromkeys(item.stratum for item in self.items))


def read_sheet(folder: Path, key_folder: Path, *, names: bool = False) -> Sheet:
    """Put the answers of a study together with its key.

    Args:
        folder: The study, with its answers.
        key_folder: The folder of its key.
        names: Whether readers are called by their names; otherwise by numbers, in the study's order.

    Raises:
        FileNotFoundError: If study, key or answers are not there.
        ValueError: If they are not of the same study, or an image is another than the key says.
    """
    study, key = read_study(folder), read_key(key_folder)
    if study["study"] != key["study"]:
        raise ValueError(
            f"The key in {key_folder} is of another study than {folder}: give the one that was built with it."
        )
    for name, facts in key["cells"].items():
        path = folder / IMAGES_NAME / f"{name}.png"
        if hashlib.sha256(path.read_bytes()).hexdigest() != facts["file_sha256"]:
            raise ValueError(
                f"{path} is another image than the key knows: readers may have seen either; build it anew."
            )
    path = folder / ANSWERS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"There are no answers in {folder} yet: serve it by `wbc readers serve {folder}`.")
    store = Store(path, study["study"], read_only=True)
    try:
        given = [store.answers(reader["name"]) for reader in study["readers"]]
    finally:
        store.close()
    try:
        return _sheet(study, key, given, names=names)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"The key in {key_folder} does not fit the study: {error!r} is missing or wrong.") from error


def _sheet(study: Mapping[str, Any], key: Mapping[str, Any], given: list[list[Answer]], *, names: bool) -> Sheet:
    items = _items(study, key)
    shape = (len(study["readers"]), len(items))
    sheet = Sheet(
        readers=[
            reader["name"] if names else f"Reader {number}" for number, reader in enumerate(study["readers"], start=1)
        ],
        items=items,
        levels=2 * study["confidences"],
        answers=np.full(shape, NONE),
        signal=np.tile([item.source == REAL for item in items], (shape[0], 1)),
        places=np.full(shape, NONE),
        seconds=np.full(shape, np.nan),
        kinds=np.full(shape, NONE),
        grades=np.zeros(shape, np.int64),
        abnormalities=["none", *study["abnormalities"]] if study["abnormalities"] else [],
        given=[],
        key=key,
    )
    numbers = {cell: number for number, item in enumerate(items) for cell in item.cells}
    for row, reader in enumerate(study["readers"]):
        for answer in given[row]:
            entry = reader["order"][answer.position]
            if "truth" not in entry:
                _enter(sheet, row, numbers[entry["images"][0]], entry["images"], answer)
    return sheet


def _enter(sheet: Sheet, row: int, item: int, images: list[str], answer: Answer) -> None:
    """Add an answer, and put it into the arrays if it is the first to its item."""
    content, cells, confidences = answer.content, sheet.items[item].cells, sheet.levels // 2
    signal = images[0] == cells[0] if len(cells) == 2 else sheet.items[item].source == REAL
    given = Given(row, item, images, answer, signal, again=bool(sheet.answers[row, item] != NONE))
    sheet.given.append(given)
    if given.again:
        return
    step = content.get("confidence", 1)
    sheet.answers[row, item] = confidences - 1 + step if given.chosen else confidences - step
    sheet.signal[row, item] = signal
    sheet.places[row, item], sheet.seconds[row, item] = answer.position, answer.seconds
    if sheet.abnormalities:
        sheet.kinds[row, item] = sheet.abnormalities.index(content["abnormality"])
        sheet.grades[row, item] = content.get("grade", 0)


def _items(study: Mapping[str, Any], key: Mapping[str, Any]) -> list[Item]:
    """What was asked about, in the key's order of cells."""
    cells, order = key["cells"], list(key["cells"])
    asked = {
        tuple(sorted(e["images"], key=order.index)) for r in study["readers"] for e in r["order"] if "truth" not in e
    }
    # One order of sources for all strata, whatever their own: of two generators the same is the signal throughout.
    sources = list(dict.fromkeys(source for each in key["config"]["strata"].values() for source in each))
    ranks = {source: (source != REAL, rank) for rank, source in enumerate(sources)}
    items = []
    for names in sorted(asked, key=lambda names: order.index(names[0])):
        stratum = cells[names[0]]["stratum"]
        names = tuple(sorted(names, key=lambda name: ranks[cells[name]["source"]]))
        other = cells[names[1]]["source"] if len(names) == 2 else None
        items.append(Item(names, stratum, cells[names[0]]["source"], other))
    return items
