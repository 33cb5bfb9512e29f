"""A cache of what was computed of image files, in one SQLite file: keys are hashes, values are float32 arrays."""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LIMIT = 500  # variables in a statement


class CacheError(ValueError):
    """A cache that cannot be used, or that gives back what was not put in."""


class Cache:
    """Rows of float32 by file and by what was computed of it; without a path it holds nothing.

    Several processes may use one file at once, and one that is killed leaves it whole. Every row carries a checksum.

    Args:
        path: The SQLite file; made where there is none.
        subject: What is computed, and how: another text is another key.

    Raises:
        CacheError: If the file cannot be made, is no SQLite database, or is damaged; also when it is read or written.
    """

    def __init__(self, path: Path | None, subject: str) -> None:
        self.path, self.subject = path, subject
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._refused(f"its folder cannot be made: {error.strerror}") from error
            with self._open() as database:
                database.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def _refused(self, why: object) -> CacheError:
        return CacheError(
            f"The cache {self.path} cannot be used ({why}): remove it, give another by --cache, or go without one by "
            "--no-cache."
        )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(str(self.path), timeout=60)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            held = "; another process holds it" if "locked" in str(error) else ""
            raise self._refused(f"{error}{held}") from error

    def _key(self, file_hash: str) -> bytes:
        return hashlib.sha256(f"{self.subject}\0{file_hash}".encode()).digest()

    def get(self, file_hashes: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield the rows that are there, each with the hash of its file."""
        if self.path is None:
            return
        by_key = {self._key(each): each for each in file_hashes}
        keys = list(by_key)
        for first in range(0, len(keys), _LIMIT):
            part = keys[first : first + _LIMIT]
            marks = ",".join("?" * len(part))
            with self._open() as database:
                found = database.execute(f"SELECT key, value FROM features WHERE key IN ({marks})", part).fetchall()
            for key, value in found:
                if not isinstance(value, bytes) or _checksum(key, value[4:]) != value[:4]:
                    raise self._refused("a row of it is damaged")
                yield by_key[key], np.frombuffer(value, np.float32, offset=4)

    def put(self, rows: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep rows, by the hash of their file."""
        if self.path is None or not rows:
            return
        values = []
        for each, row in rows.items():
            key, value = self._key(each), np.ascontiguousarray(row, np.float32).tobytes()
            values.append((key, _checksum(key, value) + value))
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", values)


def _checksum(key: bytes, value: bytes) -> bytes:
    return zlib.crc32(key + value).to_bytes(4, "little")
