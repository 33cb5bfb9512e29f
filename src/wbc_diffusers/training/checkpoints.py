"""Checkpoints that appear whole or not at all, the newest N of them kept."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names the last good one."""


class Checkpoints:
    """The checkpoints `FOLDER/checkpoint-N` of a training, N being the number of updates done.

    Args:
        folder: Where they lie.
        keep: How many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def all(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        found = [p for p in self.folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
        return sorted(found, key=step_of)

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return max(self.all(), key=step_of, default=None)

    def describe_latest(self) -> str:
        """The newest checkpoint in words, for an error message."""
        latest = self.latest()
        return f"The last good checkpoint is {latest}" if latest else "There is no checkpoint yet"

    def find(self, which: str) -> Path:
        """The checkpoint called "latest", or the one at a path.

        Raises:
            FileNotFoundError: If there is none.
        """
        path = self.latest() if which == "latest" else Path(which)
        if path is None or not path.is_dir():
            where = self.folder if which == "latest" else which
            raise FileNotFoundError(
                f"There is no checkpoint to resume from in {where}: leave out --resume to start anew."
            )
        return path

    def write(self, step: int, save: Callable[[Path], None], *, is_main: bool, wait: Callable[[], None]) -> Path:
        """Write a checkpoint: every process saves its part into a partial folder, which the main one renames.

        Raises:
            CheckpointError: If it could not be written, as on a full disk; older checkpoints are left as they were.
        """
        final = self.folder / f"checkpoint-{step}"
        partial = self.folder / f".partial-{step}"
        if is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".partial-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir()
        wait()
        try:
            save(partial)
            for path in partial.rglob("*"):
                _flush(path)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"Checkpoint {step} could not be written to {self.folder} ({error}). {self.describe_latest()}: "
                "make room there and go on with --resume latest."
            ) from error
        wait()
        if is_main:
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            _flush(self.folder)
            self._forget_old()
        wait()
        return final

    def _forget_old(self) -> None:
        for path in self.all()[: -self.keep]:
            # Renamed first: a kill in the middle of the removal must not leave half a checkpoint under its name.
            doomed = path.rename(path.with_name(f".partial-{step_of(path)}"))
            shutil.rmtree(doomed)


def step_of(checkpoint: Path) -> int:
    """The number of updates in a checkpoint's name."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def _flush(path: Path) -> None:
    """Force a file or folder to the disk, so that a rename never outlives what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
