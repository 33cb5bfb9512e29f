"""The output folder of a training: which one may be written to, from which checkpoint, and by one run at a time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from wbc_diffusers.training.checkpoints import Checkpoints

logger = logging.getLogger(__name__)

LAST_NAME = "model_index.json"
"""Without this file a pipeline folder cannot be loaded, so it is written last."""
LOCK_NAME = ".lock"


def checkpoint_to_resume(
    output: Path, source: str, checkpoints: Checkpoints, resume: str | None, last_file: str = LAST_NAME
) -> Path | None:
    """See whether a training may write to a folder; gives the checkpoint to go on with, None to start anew.

    Args:
        output: The folder.
        source: What is trained on.
        checkpoints: Those of the folder.
        resume: "latest", the path of a checkpoint, or None; "latest" starts anew where a run was killed before its
            first checkpoint.
        last_file: The file without which what the training writes cannot be loaded.

    Raises:
        FileExistsError: If the folder holds anything but the run that is resumed.
        FileNotFoundError: If there is no checkpoint to resume from.
        ValueError: If the folder lies among the images, where the training would find its own samples.
    """
    if Path(source).is_dir() and output.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"The output {output} lies in the data folder {source}: give one outside of it.")
    empty = not output.is_dir() or all(path.name == LOCK_NAME for path in output.iterdir())
    if resume is None:
        if not empty:
            raise FileExistsError(
                f"{output} is not empty: give another --output, or go on with the run there by --resume latest."
            )
        return None
    if resume == "latest" and checkpoints.latest() is None and (empty or _cut_off_early(output, last_file)):
        # So that a job that is started again and again takes one command.
        logger.warning("There is no checkpoint in %s yet: the training starts anew.", output)
        return None
    checkpoint = checkpoints.find(resume)
    if not empty and checkpoint.resolve().parent != checkpoints.folder.resolve():
        raise FileExistsError(
            f"{checkpoint} is a checkpoint of another run than that in {output}: give an empty --output to branch off "
            "from it, or one of the run's own."
        )
    return checkpoint


def _cut_off_early(output: Path, last_file: str) -> bool:
    """Whether a folder is what a run leaves that is killed before its first checkpoint."""
    try:
        recipe = yaml.safe_load((output / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    ours = {"kind", "name", "seed", "resolution"}
    return isinstance(recipe, dict) and ours <= recipe.keys() and not (output / last_file).exists()


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Keep other runs out of an output folder while the block runs; the system lets go of it if the process dies.

    Raises:
        FileExistsError: If another run is writing there.
    """
    lock = FileLock(output / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FileExistsError(
            f"Another training is writing to {output}: wait for its end, or give another --output."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # where the system lets nobody remove an open file
            (output / LOCK_NAME).unlink()  # before another run can have it
        lock.release()
