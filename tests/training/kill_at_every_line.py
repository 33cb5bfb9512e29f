"""Kills the writing of checkpoints and pipeline folders at every line of its code, and looks at what is left each time.

A script, since a process without torch forks twenty times as fast: python kill_at_every_line.py SCENARIO FOLDER
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from wbc_diffusers.training import checkpoints, files
from wbc_diffusers.training.checkpoints import Checkpoints

OURS = {checkpoints.__file__, files.__file__, shutil.__file__}


def killed_at(line: int, work: Callable[[], Any]) -> bool:
    """Do the work in a process that kills itself at the n-th line that it executes of our code and of shutil."""
    child = os.fork()
    if child == 0:
        done = 0

        def count(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal done
            if frame.f_code.co_filename not in OURS:
                return None
            done += event == "line"
            if done == line:
                os.kill(os.getpid(), signal.SIGKILL)
            return count

        sys.settrace(count)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def write(store: Checkpoints, step: int) -> None:
    def save(folder: Path) -> None:
        for name in ("weights", "optimizer"):
            (folder / name).write_text(f"{name} of {step}")

    store.write(step, save, is_main=True, agree=lambda yes: yes)


def assert_whole(store: Checkpoints) -> None:
    for checkpoint in store.all():
        store.verify(checkpoint)
        content = {p.name: p.read_text() for p in checkpoint.iterdir() if p.name != "checksums.json"}
        number = checkpoint.name.split("-")[1]
        assert content == {"weights": f"weights of {number}", "optimizer": f"optimizer of {number}"}


def checkpoint(line: int, folder: Path) -> bool:
    store = Checkpoints(folder, keep=1)
    write(store, 1)
    died = killed_at(line, lambda: write(store, 2))
    assert_whole(store)
    assert store.latest() is not None
    write(store, 3)  # as the resumed run does
    assert [p.name for p in folder.iterdir()] == ["checkpoint-3"]
    return died


def superseded(line: int, folder: Path) -> bool:
    store = Checkpoints(folder, keep=9)
    for step in (1, 2, 3):
        write(store, step)
    died = killed_at(line, lambda: store.set_aside_after(folder / "checkpoint-1"))
    assert_whole(store)
    assert len(list(folder.iterdir())) == 3
    return died


def pipeline(line: int, folder: Path) -> bool:
    names = ("unet/weights", "training_manifest.json", "model_index.json")
    for place, run in ((folder, "old"), (folder / ".partial", "new")):
        (place / "unet").mkdir(parents=True)
        for name in names:
            (place / name).write_text(run)
    died = killed_at(line, lambda: files.move_in(folder / ".partial", folder, last="model_index.json"))
    if (folder / "model_index.json").exists():  # so it can be loaded
        assert len({(folder / name).read_text() for name in names}) == 1
    return died


def row(line: int, folder: Path) -> bool:
    folder.mkdir()
    log = folder / "log.jsonl"
    log.write_text("old\n")
    died = killed_at(line, lambda: files.write_whole(log, b"new\n"))
    assert log.read_text() in ("old\n", "new\n")
    return died


if __name__ == "__main__":
    scenario, place = sys.argv[1], Path(sys.argv[2])
    attempt = {"checkpoint": checkpoint, "superseded": superseded, "pipeline": pipeline, "row": row}[scenario]
    line = 1
    while attempt(line, place / str(line)):
        line += 1
    print(line - 1)
