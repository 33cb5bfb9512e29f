"""A cache gives back what was put in, or says that it cannot."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from wbc_diffusers.evaluation import cache as module
from wbc_diffusers.evaluation.cache import Cache, CacheError

ROW = {"one": np.arange(3, dtype=np.float32)}


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def test_two_writers_share_a_cache(tmp_path: Path) -> None:
    a, b = (Cache(tmp_path / "cache", "x") for _ in range(2))
    a.put({"one": np.ones(3, np.float32)})
    b.put({"one": np.ones(3, np.float32), "two": np.zeros(3, np.float32)})
    found = dict(a.get(["one", "two", "three"]))
    assert sorted(found) == ["one", "two"]
    np.testing.assert_array_equal(found["one"], np.ones(3, np.float32))
    assert not list(Cache(tmp_path / "cache", "y").get(["one"]))
    assert not list(Cache(None, "x").get(["one"]))


def test_more_rows_than_a_statement_takes_come_back(tmp_path: Path) -> None:
    rows = {str(i): np.full(2, i, np.float32) for i in range(1203)}
    cache = Cache(tmp_path / "new" / "cache", "x")
    cache.put(rows)
    found = dict(cache.get([*rows, "another"]))
    assert found.keys() == rows.keys()
    assert all(found[name][0] == row[0] for name, row in rows.items())


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    change(tmp_path / "cache", "CREATE TABLE rows (name TEXT)")
    cache = Cache(tmp_path / "cache", "x")
    cache.put(ROW)
    np.testing.assert_array_equal(dict(cache.get(["one"]))["one"], ROW["one"])
    change(tmp_path / "cache", "INSERT INTO rows VALUES ('theirs')")


def test_files_that_are_no_cache_are_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"something else" * 100)
    (tmp_path / "folder").mkdir()
    change(tmp_path / "other", "CREATE TABLE features (name TEXT)")
    for name in ("text", "folder", "text/in/a/file"):
        with pytest.raises(CacheError, match=r"The cache .* cannot be used .*--no-cache"):
            Cache(tmp_path / name, "x")
    cache = Cache(tmp_path / "other", "x")
    with pytest.raises(CacheError, match="no such column: key"):
        list(cache.get(["one"]))
    with pytest.raises(CacheError, match="has 1 column"):
        cache.put(ROW)


@pytest.mark.parametrize(
    "damage", ["value = NULL", "value = x''", "value = substr(value, 1, 8)", "value = 'text'",
               "value = CAST(substr(value, 1, 5) || x'ff' || substr(value, 7) AS BLOB)"]
)  # fmt: skip
def test_a_damaged_row_is_not_taken(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path / "cache", "x")
    cache.put(ROW)
    change(cache.path, f"UPDATE features SET {damage}")
    with pytest.raises(CacheError, match="a row of it is damaged"):
        list(cache.get(["one"]))


def test_a_row_of_another_file_is_not_taken(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", "x")
    cache.put({**ROW, "two": np.zeros(3, np.float32)})
    change(cache.path, "UPDATE features SET value = (SELECT min(value) FROM features)")
    with pytest.raises(CacheError, match="a row of it is damaged"):
        list(cache.get(["one", "two"]))


def test_a_cache_that_is_held_and_one_that_runs_full_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache", "x")
    connect = sqlite3.connect
    monkeypatch.setattr(module.sqlite3, "connect", lambda path, timeout: connect(path, timeout=0.1))
    with closing(connect(tmp_path / "cache", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CacheError, match="database is locked; another process holds it"):
            cache.put(ROW)
        other.execute("ROLLBACK")

    def full(path: str, timeout: float) -> sqlite3.Connection:
        database = connect(path)
        database.execute("PRAGMA max_page_count = 2")
        return database

    monkeypatch.setattr(module.sqlite3, "connect", full)
    with pytest.raises(CacheError, match="database or disk is full"):
        cache.put({"large": np.zeros(100_000, np.float32)})
    monkeypatch.undo()
    cache.put(ROW)
    assert len(dict(cache.get(["one", "large"]))) == 1
