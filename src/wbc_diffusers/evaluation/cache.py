"""A cache of what was computed of image files, in one SQLite file: keys are hashes, values are float32 arrays."""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LIMIT = 500  # variables in a statement


class Cache:
    """Rows of float32 by file and by what was computed of it; without a path it holds nothing.

    Several processes may use one file at once, and one that is killed leaves it whole.

    Args:
        path: The SQLite file; made where there is none.
        subject: What is computed, and how: another text is another key.

    Raises:
        ValueError: If the file is there and no SQLite database.
    """

    def __init__(self, path: Path | None, subject: str) -> None:
        self.path, self.subject = path, subject
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._open() as database:
                    database.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
            except sqlite3.DatabaseError as error:
                raise ValueError(f"The cache {path} cannot be used ({error}): remove it, or give another.") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(str(self.path), timeout=60)) as connection, connection:
            yield connection

    def _key(self, file_hash: str) -> bytes:
        return hashlib.sha256(f"{self.subject}\0{file_hash}".encode()).digest()

    def get(self, file_hashes: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield the rows that are there, each with the hash of its file."""
        if self.path is None:
            return
        by_key = {self._key(each): each for each in file_hashes}
        keys = list(by_key)
        with self._open() as database:
            for first in range(0, len(keys), _LIMIT):
                part = keys[first : first + _LIMIT]
                marks = ",".join("?" * len(part))
                for key, value in database.execute(f"SELECT key, value FROM rows WHERE key IN ({marks})", part):
                    yield by_key[key], np.frombuffer(value, np.float32)

    def put(self, rows: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep rows, by the hash of their file."""
        if self.path is not None and rows:
            values = [(self._key(each), np.ascontiguousarray(row, np.float32).tobytes()) for each, row in rows.items()]
            with self._open() as database:
                database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", values)
