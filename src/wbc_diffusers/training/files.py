"""Files and folders that are whole under their names, whenever the process is killed or the disk is full; checksums."""

import errno
import hashlib
import os
import shutil
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Force a file or folder to the disk, so that a rename never outlives what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Force a folder and all that lies in it to the disk."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that holds either all of its new content or what it held before.

    Raises:
        OSError: If it cannot be written, as on a full disk.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        flush(partial)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; of a line that does not fit on the disk nothing stays behind.

    Raises:
        OSError: If it cannot be written.
    """
    content = (line + "\n").encode()
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


def move_in(partial: Path, folder: Path, last: str) -> None:
    """Move the files of a partial folder into a folder, the one that makes it whole last of all.

    A file `last` of before goes first, so that the folder never looks whole with some old and some new files.
    """
    flush_tree(partial)
    (folder / last).unlink(missing_ok=True)
    files = [p for p in partial.rglob("*") if p.is_file()]
    for path in sorted(files, key=lambda p: (p == partial / last, p)):
        target = folder / path.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        flush(target.parent)
    shutil.rmtree(partial, ignore_errors=True)
