"""Answers on the disk, whatever happens to the process."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from wbc_diffusers.readers.store import Store

SAVES_FOR_EVER = """
import sys
from pathlib import Path
from wbc_diffusers.readers.store import Store
store = Store(Path(sys.argv[1]), "a")
for position in range(100_000):
    store.save("anna", position, {"choice": "real"}, 1.0)
    print(position, flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_loses_no_answer_that_it_told_of(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVES_FOR_EVER, str(tmp_path / "a.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(200)]
        process.kill()
        told += [int(line) for line in process.stdout if line.endswith("\n")]
    store = Store(tmp_path / "a.sqlite", "a")
    positions = [answer.position for answer in store.answers("anna")]
    assert positions == list(range(len(positions)))
    assert told[-1] < len(positions) <= told[-1] + 2
    store.close()


def test_an_answer_that_is_changed_keeps_what_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.sqlite", "a")
    for choice in ("real", "synthetic", "real"):
        store.save("anna", 0, {"choice": choice}, 1.0)
    store.close()
    with sqlite3.connect(tmp_path / "a.sqlite") as there:
        rows = there.execute("SELECT answer FROM answers ORDER BY number").fetchall()
    assert rows == [('{"choice": "real"}',), ('{"choice": "synthetic"}',), ('{"choice": "real"}',)]
    store = Store(tmp_path / "a.sqlite", "a")
    assert [(answer.position, answer.changes) for answer in store.answers("anna")] == [(0, 2)]


def test_a_file_of_another_study_or_of_something_else_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path / "a.sqlite", "a").close()
    with pytest.raises(ValueError, match="holds the answers of another study"):
        Store(tmp_path / "a.sqlite", "b")
    (tmp_path / "b.sqlite").write_text("This is no database, but a diary, and it is long enough to be taken for one.")
    with pytest.raises(ValueError, match=r"holds no answers.*Move it away"):
        Store(tmp_path / "b.sqlite", "a")
    with pytest.raises(OSError, match="can't be opened"):
        Store(tmp_path / "nowhere" / "a.sqlite", "a")


def test_a_disk_that_is_full_is_told_and_what_was_saved_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.sqlite", "a")
    store.save("anna", 0, {"choice": "real"}, 1.0)
    pages = store._open.execute("PRAGMA page_count").fetchone()[0]
    store._open.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match=r"can't be written: database or disk is full"):
        store.save("anna", 1, {"choice": "real", "comment": 20_000 * "x"}, 1.0)
    assert [answer.position for answer in store.answers("anna")] == [0]
    store._open.execute(f"PRAGMA max_page_count = {pages + 100}")
    store.save("anna", 1, {"choice": "real"}, 1.0)
    assert [answer.position for answer in store.answers("anna")] == [0, 1]


def test_the_one_file_holds_all_that_was_saved_also_while_it_is_open(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.sqlite", "a")
    for position in range(20):
        store.save("anna", position, {"choice": "real"}, 1.0)
    (tmp_path / "copy.sqlite").write_bytes((tmp_path / "a.sqlite").read_bytes())
    assert len(Store(tmp_path / "copy.sqlite", "a").answers("anna")) == 20
    assert {path.name for path in tmp_path.iterdir()} == {"a.sqlite", "copy.sqlite"}


def test_who_only_reads_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.sqlite", "a")
    store.save("anna", 0, {"choice": "real"}, 1.0)
    reading = Store(tmp_path / "a.sqlite", "a", read_only=True)
    assert (reading.answered("anna"), reading.answered("ben")) == (1, 0)
    with pytest.raises(OSError, match="attempt to write a readonly database"):
        reading.save("anna", 1, {"choice": "real"}, 1.0)
    with pytest.raises(OSError, match="can't be opened"):
        Store(tmp_path / "b.sqlite", "a", read_only=True)
    assert not (tmp_path / "b.sqlite").exists()
    assert (store.revision("anna"), store.last("anna")) == (1, (0, {"choice": "real"}, 1.0))
    store._open.execute("DELETE FROM study")
    with pytest.raises(ValueError, match="it was not made to the end"):
        Store(tmp_path / "a.sqlite", "a", read_only=True)


def test_the_times_of_all_looks_at_a_cell_add_up(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.sqlite", "a")
    store.save("anna", 0, {"choice": "real"}, 4.5)
    store.save("anna", 0, {"choice": "synthetic"}, 0.5)
    (answer,) = store.answers("anna")
    assert (answer.seconds, answer.content) == (5.0, {"choice": "synthetic"})
