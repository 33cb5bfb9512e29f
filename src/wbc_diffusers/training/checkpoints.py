"""Checkpoints that appear whole or not at all, the newest N of them kept."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from wbc_diffusers.training.files import file_sha256, flush, flush_tree

CHECKSUMS_NAME = "checksums.json"


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

    def verify(self, checkpoint: Path) -> None:
        """Read every file of a checkpoint, and compare it with the checksums that were written last.

        Raises:
            CheckpointError: If a file is missing or other than it was; the checkpoint before it is named.
        """
        try:
            known = json.loads((checkpoint / CHECKSUMS_NAME).read_text(encoding="utf-8"))
            damaged = [name for name, value in known.items() if file_sha256(checkpoint / name) != value]
        except (OSError, ValueError, AttributeError) as error:
            raise self.unreadable(checkpoint, error) from error
        if damaged:
            raise self.unreadable(checkpoint, f"{', '.join(damaged)} changed since it was written")

    def unreadable(self, checkpoint: Path, reason: object) -> CheckpointError:
        """The error of a checkpoint that cannot be read: why, and which one to go on with instead."""
        before = [p for p in self.all() if p.resolve() != checkpoint.resolve() and step_of(p) <= step_of(checkpoint)]
        advice = f"go on with the one before it, --resume {before[-1]}" if before else "there is no older one"
        return CheckpointError(f"The checkpoint {checkpoint} cannot be read ({reason}): {advice}.")

    def set_aside_after(self, checkpoint: Path) -> list[Path]:
        """Rename the checkpoints that a run resumed from an older one leaves behind to `superseded-N`, newest first.

        They would otherwise be taken for the newest of the run, and its own be removed before them.
        """
        moved = []
        for path in reversed(self.all()):
            if step_of(path) >= step_of(checkpoint) and path.resolve() != checkpoint.resolve():
                aside = path.with_name(f"superseded-{step_of(path)}")
                shutil.rmtree(aside, ignore_errors=True)
                moved.append(path.rename(aside))
        return moved

    def write(self, step: int, save: Callable[[Path], None], *, is_main: bool, agree: Callable[[bool], bool]) -> Path:
        """Write a checkpoint: every process saves its part into a partial folder, which the main one renames.

        Args:
            step: Updates done.
            save: Saves this process's part into a folder.
            is_main: Whether this is the main process.
            agree: Waits for all processes, and tells whether every one of them passed True.

        Raises:
            CheckpointError: In all processes, if one could not write; older checkpoints are left as they were.
        """
        final = self.folder / f"checkpoint-{step}"
        partial = self.folder / f".partial-{step}"

        def begin() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".partial-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir()

        def publish() -> None:
            files = sorted(p for p in partial.rglob("*") if p.is_file())
            sums = {p.relative_to(partial).as_posix(): file_sha256(p) for p in files}
            (partial / CHECKSUMS_NAME).write_text(json.dumps(sums, indent=1), encoding="utf-8")
            flush_tree(partial)
            partial.rename(final)
            flush(self.folder)

        for mine, stage in ((is_main, begin), (True, lambda: save(partial)), (is_main, publish)):
            error: Exception | None = None
            if mine:
                try:
                    stage()
                except Exception as caught:
                    error = caught
            if not agree(error is None):
                if is_main:
                    shutil.rmtree(partial, ignore_errors=True)
                raise CheckpointError(
                    f"Checkpoint {step} could not be written to {self.folder} ({error or 'another process failed'}). "
                    f"{self.describe_latest()}: make room there and go on with --resume latest."
                ) from error
        if is_main:
            self._forget_old()
        return final

    def _forget_old(self) -> None:
        for path in self.all()[: -self.keep]:
            # Renamed first: a kill in the middle of the removal must not leave half a checkpoint under its name.
            doomed = path.rename(path.with_name(f".partial-{step_of(path)}"))
            shutil.rmtree(doomed, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The number of updates in a checkpoint's name; 0 if the name holds none."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0
