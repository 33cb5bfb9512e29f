"""Checkpoints and whole files: killed at every line of their code, on a disk that is full."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wbc_diffusers.training.checkpoints import CheckpointError, Checkpoints
from wbc_diffusers.training.files import append_line, write_whole


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "least"), [("checkpoint", 100), ("superseded", 20), ("pipeline", 40), ("row", 5)])
def test_a_kill_at_any_line_leaves_only_whole_things(tmp_path: Path, scenario: str, least: int) -> None:
    script = Path(__file__).with_name("kill_at_every_line.py")
    done = subprocess.run([sys.executable, script, scenario, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least


def write(store: Checkpoints, step: int, content: str | None = None) -> None:
    def save(folder: Path) -> None:
        for name in ("weights", "optimizer"):
            (folder / name).write_text(content or f"{name} of {step}")

    store.write(step, save, is_main=True, agree=lambda yes: yes)


def assert_whole(store: Checkpoints) -> None:
    for checkpoint in store.all():
        store.verify(checkpoint)
        names = {p.name: p.read_text() for p in checkpoint.iterdir() if p.name != "checksums.json"}
        number = checkpoint.name.split("-")[1]
        assert names == {"weights": f"weights of {number}", "optimizer": f"optimizer of {number}"}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (5, 10, 90, 100):
        write(store, step)
    assert [p.name for p in store.all()] == ["checkpoint-90", "checkpoint-100"]
    assert len(list(store.folder.iterdir())) == 2


def test_nothing_else_is_taken_for_a_checkpoint(tmp_path: Path) -> None:
    for name in (".partial-7", "checkpoint-x", "superseded-8", "checkpoint-7.old"):
        (tmp_path / name).mkdir()
    assert Checkpoints(tmp_path, keep=1).latest() is None


def test_all_processes_give_up_where_another_one_fails(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=1)
    write(store, 1)
    answers = iter([True, False])  # the main one has made its folder; another could not save
    with pytest.raises(CheckpointError, match=r"another process failed.*last good checkpoint is .*checkpoint-1: make"):
        store.write(2, lambda folder: None, is_main=True, agree=lambda yes: next(answers))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.fixture
def files_of_100_bytes() -> Iterator[None]:
    """Let no file grow beyond 100 bytes, as on a disk that is full: Python gets an OSError in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Give a folder with a checkpoint, written while there was room."""
    write(Checkpoints(tmp_path / "checkpoints", keep=1), 1)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    return tmp_path


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(written: Path, files_of_100_bytes: None) -> None:
    store = Checkpoints(written / "checkpoints", keep=1)
    with pytest.raises(CheckpointError, match=r"could not be written .*too large.*last good .*checkpoint-1: make room"):
        write(store, 2, content="x" * 200)
    assert [p.name for p in store.folder.iterdir()] == ["checkpoint-1"]
    assert_whole(store)


def test_a_row_that_does_not_fit_leaves_the_rows_before(written: Path, files_of_100_bytes: None) -> None:
    log = written / "log.jsonl"
    with pytest.raises(OSError, match=r"large|space"):
        append_line(log, json.dumps({"step": 2, "text": "x" * 200}))
    append_line(log, '{"step": 3}')
    assert log.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_file_that_does_not_fit_stays_as_it_was(written: Path, files_of_100_bytes: None) -> None:
    log = written / "log.jsonl"
    with pytest.raises(OSError, match="large"):
        write_whole(log, b"x" * 200)
    assert log.read_text() == '{"step": 1}\n'
    assert sorted(p.name for p in written.iterdir()) == ["checkpoints", "log.jsonl"]
