"""Readers' answers in SQLite: each is on the disk before it is acknowledged, and none is ever overwritten."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWERS_NAME = "answers.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS study (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (reader TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY, reader TEXT NOT NULL, position INTEGER NOT NULL, answer TEXT NOT NULL,
    seconds REAL NOT NULL, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_of_reader ON answers (reader, position);
"""


@dataclass(frozen=True)
class Answer:
    """What a reader answered last at a position, and how that came about.

    Attributes:
        position: In the reader's order, from 0.
        content: `choice`, and `confidence`, `abnormality`, `grade`, `comment` where they were asked.
        seconds: How long the reader looked, pauses left out, the times of all changes together.
        at: When it came, in seconds since 1970.
        changes: How often the reader changed it before.
    """

    position: int
    content: dict[str, Any]
    seconds: float
    at: float
    changes: int


class Store:
    """The answers of a study.

    Args:
        path: The file; it is made if it is not there.
        study: The study's id; a file of another study is refused.
        read_only: Whether nothing will be written, as for scoring; the file must be there then.

    Raises:
        ValueError: If the file is of another study, or no file of answers.
        OSError: If it can't be written.
    """

    def __init__(self, path: Path, study: str, *, read_only: bool = False) -> None:
        self._lock = threading.Lock()
        try:
            place = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._open = sqlite3.connect(place, uri=True, check_same_thread=False, isolation_level=None)
            if not read_only:
                self._prepare(study)
            found = self._open.execute("SELECT id FROM study").fetchone()
        except sqlite3.OperationalError as error:
            hint = " Serve the study once, so that a write that was cut off is undone." if read_only else ""
            raise OSError(f"The answers {path} can't be opened: {error}.{hint}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} holds no answers: {error}. Move it away, or bring back the right one.") from error
        if found is None:
            raise ValueError(f"{path} holds no answers: it was not made to the end. Move it away.")
        if found[0] != study:
            raise ValueError(f"{path} holds the answers of another study: give each study a folder of its own.")

    def _prepare(self, study: str) -> None:
        self._open.execute("PRAGMA journal_mode=DELETE")  # one file holds all once the server has stopped
        self._open.execute("PRAGMA synchronous=EXTRA")  # on the disk, and so is that the journal is gone
        self._open.executescript(_TABLES)
        with self._writing():
            if not self._open.execute("SELECT id FROM study").fetchall():
                self._open.execute("INSERT INTO study VALUES (?)", (study,))

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()

    def note(self, reader: str, kind: str) -> None:
        """Write down that a reader did something, such as consented."""
        with self._writing():
            self._open.execute("INSERT INTO events VALUES (?, ?, ?)", (reader, kind, time.time()))

    def events(self, reader: str) -> list[tuple[str, float]]:
        """What a reader did, and when, in order."""
        with self._lock:
            return self._open.execute("SELECT kind, at FROM events WHERE reader = ? ORDER BY at", (reader,)).fetchall()

    def save(self, reader: str, position: int, content: dict[str, Any], seconds: float) -> None:
        """Write an answer to the disk; one to the same position before it stays, but no longer counts.

        Raises:
            OSError: If it can't be written, as on a full disk.
        """
        row = (reader, position, json.dumps(content, ensure_ascii=False, sort_keys=True), seconds, time.time())
        with self._writing():
            self._open.execute(
                "INSERT INTO answers (reader, position, answer, seconds, at) VALUES (?, ?, ?, ?, ?)", row
            )

    def revision(self, reader: str) -> int:
        """How many answers a reader has sent, those that were changed later too."""
        with self._lock:
            (count,) = self._open.execute("SELECT COUNT(*) FROM answers WHERE reader = ?", (reader,)).fetchone()
        return int(count)

    def last(self, reader: str) -> tuple[int, dict[str, Any], float] | None:
        """Position, content and seconds of the answer that a reader sent last."""
        query = "SELECT position, answer, seconds FROM answers WHERE reader = ? ORDER BY number DESC LIMIT 1"
        with self._lock:
            row = self._open.execute(query, (reader,)).fetchone()
        return None if row is None else (row[0], json.loads(row[1]), row[2])

    def answered(self, reader: str) -> int:
        """How many positions a reader has answered."""
        query = "SELECT COUNT(DISTINCT position) FROM answers WHERE reader = ?"
        with self._lock:
            (count,) = self._open.execute(query, (reader,)).fetchone()
        return int(count)

    def answers(self, reader: str) -> list[Answer]:
        """The answers of a reader that count, by position."""
        query = "SELECT position, answer, seconds, at FROM answers WHERE reader = ? ORDER BY number"
        with self._lock:
            rows = self._open.execute(query, (reader,)).fetchall()
        found: dict[int, Answer] = {}
        for position, content, seconds, at in rows:
            before = found.get(position)
            looked, changes = (before.seconds + seconds, before.changes + 1) if before else (seconds, 0)
            found[position] = Answer(position, json.loads(content), looked, at, changes)
        return [found[position] for position in sorted(found)]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            try:
                self._open.execute("BEGIN IMMEDIATE")
                yield
                self._open.execute("COMMIT")
            except sqlite3.Error as error:
                if self._open.in_transaction:
                    self._open.execute("ROLLBACK")
                raise OSError(f"The answers can't be written: {error}.") from error
            except BaseException:
                if self._open.in_transaction:
                    self._open.execute("ROLLBACK")
                raise
