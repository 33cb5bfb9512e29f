"""What each reader may see and answer next: the rules of a study, without the web around them."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbc_diffusers.readers.folder import IMAGES_NAME, Entry, read_study, token_hash
from wbc_diffusers.readers.store import ANSWERS_NAME, Store

CHOICES = {"real_or_synthetic": ("real", "synthetic"), "which_is_real": ("left", "right")}
LONGEST_COMMENT = 1000
LONGEST_S = 86_400.0
_SHOWN = (
    "title", "question", "asked", "confidences", "abnormalities", "comments", "consent", "instructions", "texts",
    "size",
)  # fmt: skip
_EVENTS = ("consented", "paused", "resumed", "opened")


class NotNowError(ValueError):
    """A reader wants to see or answer what is not, or no longer, theirs to see or answer."""


def progress(folder: Path) -> dict[str, tuple[int, int]]:
    """How many items each reader has answered, and of how many, also while the study is served.

    Raises:
        FileNotFoundError: If there is no study.
        ValueError: If it is of a later version, or its answers are of another study.
    """
    study = read_study(folder)
    totals = {reader["name"]: len(reader["order"]) for reader in study["readers"]}
    if not (folder / ANSWERS_NAME).is_file():
        return {name: (0, total) for name, total in totals.items()}
    store = Store(folder / ANSWERS_NAME, study["study"], read_only=True)
    try:
        return {name: (store.answered(name), total) for name, total in totals.items()}
    finally:
        store.close()


@dataclass(frozen=True)
class Reader:
    """A reader and what is shown, in order."""

    name: str
    order: list[Entry]


class Reading:
    """A study that is being read.

    Args:
        folder: The folder of `wbc readers build`; the answers are kept in it.

    Raises:
        FileNotFoundError: If there is no study, or an image of it is missing.
        ValueError: If it is of a later version, or its answers are of another study.
    """

    def __init__(self, folder: Path) -> None:
        self.study = read_study(folder)
        try:
            self._take_in(folder)
        except (KeyError, TypeError) as error:
            raise ValueError(f"The study in {folder} is damaged: {error!r} is missing or wrong.") from error
        self.store = Store(folder / ANSWERS_NAME, self.study["study"])

    def _take_in(self, folder: Path) -> None:
        names = {name for reader in self.study["readers"] for entry in reader["order"] for name in entry["images"]}
        self._images = {name: (folder / IMAGES_NAME / f"{name}.png").read_bytes() for name in names}
        self._readers = {each["token_sha256"]: Reader(each["name"], each["order"]) for each in self.study["readers"]}
        self._one_at_a_time = {reader.name: threading.Lock() for reader in self._readers.values()}
        self.texts()

    def reader(self, token: str) -> Reader | None:
        """Whose token it is; None if nobody's."""
        return self._readers.get(token_hash(token))

    def texts(self) -> dict[str, Any]:
        """What the pages say, the same for every reader."""
        practice = sum("truth" in entry for entry in self.study["readers"][0]["order"])
        return {**{field: self.study[field] for field in _SHOWN}, "practice": practice}

    def state(self, reader: Reader) -> dict[str, Any]:
        """Where a reader is: what is to be agreed to, answered next, or done."""
        with self._one_at_a_time[reader.name]:  # else an answer may come between position and revision
            return self._state(reader)

    def _state(self, reader: Reader) -> dict[str, Any]:
        agreed = not self.study["consent"] or "consented" in self._kinds(reader)
        place = self._next(reader)
        phase = "consent" if not agreed else "done" if place == len(reader.order) else "reading"
        return {"phase": phase, "begun": place > 0, **self._place(reader, place)}

    def look_back(self, reader: Reader) -> dict[str, Any]:
        """The state at the answer before, with what it was.

        Raises:
            NotNowError: If there is none, or it was for practice, so that its truth is known.
        """
        with self._one_at_a_time[reader.name]:
            place = self._next(reader) - 1
            if not self._may_change(reader, place):
                raise NotNowError("There is no answer to go back to.")
            last = self.store.answers(reader.name)[-1]
            return {"phase": "reading", "begun": True, **self._place(reader, place), "answer": last.content}

    def image(self, reader: Reader, position: int, side: int) -> bytes:
        """The file of an image that a reader is to answer, or answered last.

        Raises:
            NotNowError: If it is another one.
        """
        self._check_may_see(reader, position)
        images = reader.order[position]["images"]
        if not 0 <= side < len(images):
            raise NotNowError(f"There are {len(images)} images here, and number {side} is wanted.")
        return self._images[images[side]]

    def answer(
        self, reader: Reader, position: int, content: dict[str, Any], seconds: float, revision: int | None = None
    ) -> dict[str, Any]:
        """Save an answer and tell what comes next; of one for practice also the truth.

        Args:
            reader: Who answers.
            position: What is answered.
            content: The answer.
            seconds: How long the reader looked.
            revision: How many answers the reader had sent, changed ones too, when the page asked; as many as there are
                if left out. The same answer sent twice, as when the connection broke, is one.

        Returns:
            The state after it.

        Raises:
            NotNowError: If another position is due, or another page answered this one meanwhile.
            ValueError: If the answer doesn't fit the question.
            OSError: If it can't be saved.
        """
        checked = self._checked(content)
        with self._one_at_a_time[reader.name]:
            self._check_may_see(reader, position)
            looked, there = min(max(seconds, 0.0), LONGEST_S), self.store.revision(reader.name)
            known = there if revision is None else revision
            is_sent_again = known == there - 1 and self.store.last(reader.name) == (position, checked, looked)
            if not is_sent_again:
                if known != there:
                    raise NotNowError(f"Position {position} was answered elsewhere meanwhile.")
                if position < self._next(reader) and not self._may_change(reader, position):
                    raise NotNowError("An answer for practice can't be changed.")
                self.store.save(reader.name, position, checked, looked)
            told = {"truth": reader.order[position]["truth"]} if "truth" in reader.order[position] else {}
            return {**self._state(reader), **told}

    def note(self, reader: Reader, kind: str) -> None:
        """Write down that a reader consented, paused, went on, or opened the page.

        Raises:
            ValueError: If it is something else.
        """
        if kind not in _EVENTS:
            raise ValueError(f"a reader can't have {kind!r}; it must be one of {', '.join(_EVENTS)}")
        if kind != "consented" or kind not in self._kinds(reader):
            self.store.note(reader.name, kind)

    def _kinds(self, reader: Reader) -> set[str]:
        return {kind for kind, _ in self.store.events(reader.name)}

    def _next(self, reader: Reader) -> int:
        return self.store.answered(reader.name)

    def _place(self, reader: Reader, position: int) -> dict[str, Any]:
        practice = [("truth" in entry) for entry in reader.order]
        here = position < len(practice) and practice[position]
        counted = range(len(practice)) if not here else range(sum(practice))
        first = 0 if here else sum(practice)
        return {
            "position": position,
            "practice": here,
            "number": min(position, len(practice) - 1) - first + 1,
            "total": len(counted) - first,
            "revision": self.store.revision(reader.name),
            "may_go_back": self._may_change(reader, position - 1),
        }

    def _may_change(self, reader: Reader, position: int) -> bool:
        return 0 <= position == self._next(reader) - 1 and "truth" not in reader.order[position]

    def _check_may_see(self, reader: Reader, position: int) -> None:
        if self._state(reader)["phase"] == "consent":
            raise NotNowError("Nothing is shown before consent.")
        place = self._next(reader)
        if position not in (place - 1, place) or not 0 <= position < len(reader.order):
            raise NotNowError(f"Position {position} is not due.")

    def _checked(self, content: dict[str, Any]) -> dict[str, Any]:
        """An answer with what was asked, and nothing else."""
        choices = CHOICES[self.study["question"]]
        wanted: dict[str, tuple[Any, ...]] = {"choice": choices}
        if self.study["confidences"] > 1:
            wanted["confidence"] = tuple(range(1, self.study["confidences"] + 1))
        if self.study["abnormalities"]:
            wanted["abnormality"] = ("none", *self.study["abnormalities"])
            if content.get("abnormality") != "none":
                wanted["grade"] = (1, 2)
        for field, values in wanted.items():
            given = content.get(field)
            if isinstance(given, bool) or given not in values:
                raise ValueError(f"{field} must be one of {', '.join(map(str, values))}")
        checked = {field: content[field] for field in wanted}
        comment = str(content.get("comment") or "").strip()
        if comment and self.study["comments"]:
            checked["comment"] = comment[:LONGEST_COMMENT]
        return checked
