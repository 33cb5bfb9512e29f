"""Folders of synthetic cells: every image a function of its seed, whoever makes it and however often it was stopped."""

import csv
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from PIL import Image

from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.manifest import public_name
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.sampling import load_sampler

SETTINGS_NAME = "generation.json"
METADATA_NAME = "metadata.csv"

_PARTIAL = ".partial-"
_LEFT_BEHIND_S = 3600
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


Settings = Mapping[str, Any]
"""What a generated image depends on beside its seed; a folder holds images of one of these only. The keys are model,
revision, config, batch_size, contrast, abnormality, grade and mixed_precision, and those of the kind of model."""


def generate(
    model: str,
    out: Path,
    num: int,
    *,
    seed: int = 0,
    steps: int | None = None,
    solver: str | None = None,
    batch_size: int = 16,
    eta: float | None = None,
    truncation: float | None = None,
    contrast: float | None = None,
    class_name: str | None = None,
    mixed_precision: str = "no",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Make images of seeds `seed`, `seed` + 1, ... in a folder, with a metadata.csv; go on where it was stopped.

    Under `accelerate launch` each process makes every n-th batch, without waiting for the others; the one that is done
    last writes metadata.csv. The same seed at the same batch size gives the same image bit for bit.

    Args:
        model: A pipeline folder, or a hub id.
        out: The folder.
        num: Number of images.
        seed: Seed of the first image.
        steps: Denoising steps of a diffusion model, 20 by default.
        solver: One of `wbc_diffusers.solvers.SOLVERS`, in place of a diffusion model's own scheduler.
        batch_size: Images made at once.
        eta: Share of DDPM's noise in a diffusion model's steps: 0 (the default) is DDIM, 1 is DDPM.
        truncation: Largest absolute value of a GAN's noise; None for no limit.
        contrast: The thesis's contrast sharpening (20 there); None for none.
        class_name: Class to make, for a diffusion model with classes.
        mixed_precision: "no", "bf16" or "fp16".
        report: Called with images done and wanted by this process.

    Returns:
        Number of images that this process made.

    Raises:
        ValueError: If an argument doesn't fit, or the folder holds images of other settings.
        FileExistsError: If the folder holds something else.
        OSError: If there is no such model, or an image can't be written.
    """
    if num < 1 or batch_size < 1 or not 0 <= seed <= 2**32 - num - batch_size:
        raise ValueError(
            f"num={num}, seed={seed}, batch_size={batch_size}: give num and batch_size >= 1, and seeds from 0 to 2^32, "
            "beyond which torch's generators give the same images again."
        )
    state = process_state()
    sampler = load_sampler(
        model,
        state.device,
        contrast,
        mixed_precision,
        steps=steps,
        solver=solver,
        eta=eta,
        truncation=truncation,
        class_name=class_name,
    )
    sampler.rehearse()
    settings = _claim(out, {"model": public_name(model), "batch_size": batch_size, **sampler.settings()})

    # Dealt out before any image is looked for, so that processes which start at different times agree.
    mine = list(_blocks(seed, num, batch_size))[state.process_index :: state.num_processes]
    return _make(out, range(seed, seed + num), mine, sampler, settings, report)


def settings_of(folder: Path) -> dict[str, Any] | None:
    """What the images of a folder were made by, and the seeds of the first and last; None if `generate` didn't.

    Raises:
        ValueError: If the folder says so in words that can't be read.
    """
    path = folder / SETTINGS_NAME
    if not path.is_file() or not (seeds := _seeds_in(folder)):
        return None
    return {**_read_settings(path), "seeds": [seeds[0], seeds[-1]]}


def process_state() -> PartialState:
    """This process's place among those that were launched, and its device."""
    # PartialState alone leaves the launcher's --cpu unread, and takes each of several CPU processes for the only one.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def _make(
    out: Path,
    wanted: range,
    blocks: list[list[int]],
    sample: Callable[[list[int]], Any],
    settings: Settings,
    report: Callable[[int, int], None],
) -> int:
    """Make the wanted images of some blocks that the folder lacks, and metadata.csv once all wanted ones are there."""

    def lacks(seed: int) -> bool:
        return seed in wanted and not _has(out, seed, settings)

    # Every one is looked at, so that a file in the way is told before any image is made.
    blocks = [block for block in blocks if [seed for seed in block if lacks(seed)]]
    total, made = len(blocks) * settings["batch_size"], 0
    with _partial_folder(out) as partial:
        for done, block in enumerate(blocks):
            report(done * settings["batch_size"], total)
            if not any(map(lacks, block)):
                continue  # another run in this folder was faster
            for seed, image in zip(block, sample(block), strict=True):
                if lacks(seed):
                    _write_image(partial / "image.png", np.asarray(image), seed, settings)
                    (partial / "image.png").replace(_path(out, seed))
                    made += 1
        report(total, total)
        if not any(map(lacks, wanted)):
            _write_metadata(out, partial / METADATA_NAME, settings)
    return made


def _blocks(seed: int, num: int, batch_size: int) -> Iterator[list[int]]:
    """Seeds in whole batches: always full, so that an image doesn't depend on how many were asked for."""
    for first in range(seed, seed + num, batch_size):
        yield list(range(first, first + batch_size))


def _path(out: Path, seed: int) -> Path:
    return out / f"{seed:08d}.png"


def _has(out: Path, seed: int, settings: Settings) -> bool:
    """Whether the image of a seed is there to its last byte: a copied folder, or a power cut, may have left half of it.

    Raises:
        FileExistsError: If something else is in its place.
    """
    path = _path(out, seed)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_PNG_END)))
            whole = file.read() == _PNG_END
            file.seek(0)
            ours = _is_ours(file, seed, settings)
    except FileNotFoundError:
        return False
    if not ours:
        raise FileExistsError(
            f"{path} is no image of this folder, but lies where that of seed {seed} belongs: move it away, or give "
            "another --out."
        )
    return whole


def _is_ours(file: BinaryIO, seed: int, settings: Settings) -> bool:
    """Whether a file is an image of a seed and these settings, or so short a piece that it doesn't tell."""
    start = file.read(len(_PNG_START)).strip(b"\0")  # a power cut may leave zeros
    file.seek(0)
    try:
        with Image.open(file, formats=["PNG"]) as image:
            found = image.info  # all that is written before the pixels
    except (OSError, SyntaxError, ValueError):
        return _PNG_START.startswith(start)
    return all(found.get(name) == value for name, value in _marks(seed, settings).items())


def _claim(out: Path, settings: Settings) -> Settings:
    """Make the folder ours, or see that it already is; give the settings under the name that it knows the model by."""
    path = out / SETTINGS_NAME
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: give a folder as --out.")
    out.mkdir(parents=True, exist_ok=True)
    # Looked for after the listing: another process may write its settings, and an image, in between.
    if any(not p.name.startswith(".") for p in out.iterdir()) and not path.is_file():
        raise FileExistsError(f"{out} is not empty, and not a folder of generated images: give another --out.")
    _remove_left_behind(out)
    if not path.is_file():
        with _partial_folder(out) as partial:
            (partial / SETTINGS_NAME).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            _move_unless_there(partial / SETTINGS_NAME, path)
    found = _read_settings(path)
    # Revision and config say which model it is: a folder may be renamed or copied.
    own = {**settings, "model": found.get("model") or settings["model"]}
    changed = [f"{k} ({found.get(k)} there, {v} now)" for k, v in own.items() if found.get(k) != v]
    if changed:
        raise ValueError(f"{out} holds images made with another {', '.join(changed)}: give another --out.")
    return own


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): give another folder.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no settings: give another folder.")
    return found


def _move_unless_there(source: Path, target: Path) -> None:
    """Move a file to where none is yet: of two runs that come at once, one is first."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        source.replace(target)


@contextmanager
def _partial_folder(out: Path) -> Iterator[Path]:
    """Give a hidden folder of this process alone, in which files become whole before they move to `out`."""
    with TemporaryDirectory(prefix=_PARTIAL, dir=out, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _remove_left_behind(out: Path) -> None:
    """Remove the hidden folders of killed runs; one in use is younger, since every image renews its date."""
    for folder in out.glob(f"{_PARTIAL}*"):
        try:
            if time.time() - folder.stat().st_mtime > _LEFT_BEHIND_S:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another process removed it
            continue


def _write_image(path: Path, pixels: np.ndarray, seed: int, settings: Settings) -> None:
    write_png(path, pixels, TRAINED, text=_marks(seed, settings))


def _marks(seed: int, settings: Settings) -> dict[str, str]:
    """What an image says of itself, as PNG text."""
    told = {name: str(value) for name, value in settings.items() if value not in (None, "")}
    return {"wbc:synthetic": "true", "wbc:seed": str(seed)} | {f"wbc:{name}": value for name, value in told.items()}


def _write_metadata(out: Path, partial: Path, settings: Settings) -> None:
    """Write metadata.csv over all images of the folder."""
    columns = ["file_name", "seed", "model", "revision", "steps", "abnormality", "grade", "synthetic"]
    about = ["" if (value := settings.get(name)) is None else str(value) for name in columns[2:-1]] + ["true"]
    numbered: list[int] | None = None
    # Until nothing came in between: of runs that end at the same moment, the last to write lists the images of all.
    while (seeds := _seeds_in(out)) != numbered:
        ours = [seed for seed in seeds if _lists(out, seed, settings)]
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *([_path(out, s).name, str(s), *about] for s in ours)])
        partial.replace(out / METADATA_NAME)
        numbered = seeds


def _lists(out: Path, seed: int, settings: Settings) -> bool:
    """Whether a numbered file is a whole image of this folder; others are left alone where they are not in the way."""
    try:
        return _has(out, seed, settings)
    except FileExistsError:
        return False


def _seeds_in(out: Path) -> list[int]:
    return sorted(int(p.stem) for p in out.glob("*.png") if re.fullmatch(r"\d{8}|[1-9]\d{8,}", p.stem))
