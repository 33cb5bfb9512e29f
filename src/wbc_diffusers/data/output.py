"""The output folder: refused if it holds something, written beside its place, and moved there when it is whole."""

import errno
import glob
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def check_output(out: Path, *sources: str | Path) -> Path:
    """Give the path, links followed, of an output folder that is absent or empty, and outside all sources.

    Raises:
        FileExistsError: If it is a file or holds anything.
        ValueError: If it lies in a source, or its path leads nowhere.
    """
    try:
        out = out.expanduser().resolve()
    except RuntimeError as error:  # of an unknown user, or of links that lead to each other
        raise ValueError(
            f"output {out}: {str(error).rstrip('.')}; give the whole path of a new or empty folder"
        ) from None
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(
            f"output folder {out} already holds something; name a new or empty folder, or move that one away first"
        )
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"output {out} is a file; name a new or empty folder")
    for place in map(Path, sources):
        if place.is_dir() and out.is_relative_to(place.resolve()):
            raise ValueError(
                f"output folder {out} lies in the source {place}, which must not change; give one outside it"
            )
    return out


def make_way(out: Path) -> None:
    """Remove what killed runs left beside `out`, and see that a finished folder can take its place.

    Raises:
        ValueError: If `out` is an empty folder that cannot be replaced, such as a mount point.
    """
    _remove_leftovers(out)
    if not out.exists():
        return
    aside = _partial(out)
    try:
        out.rename(aside)  # the one sure test: not every mount shows
    except OSError as error:
        raise ValueError(
            f"output folder {out} cannot be replaced by a finished one ({error.strerror}), as a mount point cannot; "
            f"name a new folder in it, such as {out / 'cells'}"
        ) from None
    aside.rename(out)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to write in; it becomes `out` if the block ends well, and goes away otherwise.

    A process that is killed leaves it behind under a hidden name; the next run for the same `out` removes it.

    Raises:
        ValueError: If `out` is there and cannot be replaced.
        OSError: If it cannot be made, or what is written runs out of space.
    """
    partial = _partial(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        make_way(out)
        partial.mkdir()
    except OSError as error:
        raise OSError(f"output folder {out} cannot be made ({error.strerror}); name another") from error
    try:
        yield partial
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(f"output folder {out}: {error.strerror}, and nothing was kept; make room for it") from error
        raise


def output_names(sources: Sequence[tuple[str, str]]) -> list[str]:
    """Give a PNG name for each (split, source name): its stem, made portable, numbered where stems meet in a split."""
    taken: dict[tuple[str, str], int] = {}
    names = []
    for split, source in sources:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(source).stem).strip("._")[:100] or "image"
        while True:
            number = taken.get((split, stem.lower()), 0) + 1  # some file systems do not tell case apart
            taken[split, stem.lower()] = number
            if number == 1:
                break
            stem = f"{stem}-{number}"
        names.append(f"{stem}.png")
    return names


def _partial(out: Path) -> Path:
    """Give the hidden name beside `out` that this process writes under; others of this machine differ by the number."""
    host = re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname())
    return out.with_name(f".{out.name}.partial-{host}-{os.getpid()}")


def _remove_leftovers(out: Path) -> None:
    """Remove what killed runs on this machine left behind."""
    for leftover in out.parent.glob(glob.escape(_partial(out).name.rpartition("-")[0]) + "-*"):
        number = leftover.name.rpartition("-")[2]
        # A number is used again after a kill, in containers often at once: one's own is that of a process that is gone.
        if number.isdigit() and (int(number) == os.getpid() or not _alive(int(number))):
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
