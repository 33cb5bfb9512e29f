"""Folders of synthetic cells: every image a function of its seed, whoever makes it and however often it was stopped."""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from wbc_diffusers import __version__
from wbc_diffusers.data.images import write_png
from wbc_diffusers.pipelines.pipeline_wbc_ddim import WBCDDIMPipeline

SETTINGS_NAME = "generation.json"
METADATA_NAME = "metadata.csv"


@dataclass(frozen=True)
class Settings:
    """What a generated image depends on beside its seed; a folder holds images of one of these only."""

    model: str
    revision: str
    steps: int
    batch_size: int
    eta: float
    contrast: float | None
    class_label: int | None
    abnormality: str
    grade: int | None
    mixed_precision: str


def generate(
    model: str,
    out: Path,
    num: int,
    *,
    seed: int = 0,
    steps: int = 20,
    batch_size: int = 16,
    eta: float = 0.0,
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
        steps: Denoising steps.
        batch_size: Images made at once.
        eta: Share of DDPM's noise: 0 is DDIM, 1 is DDPM.
        contrast: The thesis's contrast sharpening (20 there); None for none.
        class_name: Class to make, for a model with classes.
        mixed_precision: "no", "bf16" or "fp16".
        report: Called with images done and wanted by this process.

    Returns:
        Number of images that this process made.

    Raises:
        ValueError: If an argument doesn't fit, or the folder holds images of other settings.
        FileExistsError: If the folder holds something else.
    """
    if num < 1 or seed < 0 or batch_size < 1:
        raise ValueError(
            f"num={num}, seed={seed}, batch_size={batch_size}: give num and batch_size >= 1 and seed >= 0."
        )
    if mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"mixed_precision={mixed_precision!r}: choose no, bf16 or fp16.")
    state = PartialState()
    pipe: Any = WBCDDIMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(state.device)
    pipe.unet.to(memory_format=torch.channels_last)
    label = _class_label(pipe, class_name)
    abnormality, grade = _depicted(pipe, class_name)
    settings = Settings(
        _model_name(model),
        _revision(pipe),
        steps,
        batch_size,
        eta,
        contrast,
        label,
        abnormality,
        grade,
        mixed_precision,
    )
    _claim(out, settings)

    blocks = [
        b for b in _blocks(seed, num, batch_size) if not all(_path(out, s).is_file() for s in b if s < seed + num)
    ]
    mine = blocks[state.process_index :: state.num_processes]
    made = 0
    for done, block in enumerate(mine):
        report(done * batch_size, len(mine) * batch_size)
        with torch.autocast(state.device.type, _DTYPES[mixed_precision], enabled=mixed_precision != "no"):
            images = pipe(
                batch_size=len(block),
                num_inference_steps=steps,
                eta=eta,
                contrast=contrast,
                class_labels=label,
                generator=[torch.Generator().manual_seed(s) for s in block],
            ).images
        for s, image in zip(block, images, strict=True):
            if s < seed + num and not _path(out, s).is_file():
                _write(_path(out, s), np.asarray(image), s, settings)
                made += 1
    report(len(mine) * batch_size, len(mine) * batch_size)
    _write_metadata(out, seed, num, settings)
    return made


_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _blocks(seed: int, num: int, batch_size: int) -> Iterator[list[int]]:
    """Seeds in whole batches: always full, so that an image doesn't depend on how many were asked for."""
    for first in range(seed, seed + num, batch_size):
        yield list(range(first, first + batch_size))


def _path(out: Path, seed: int) -> Path:
    return out / f"{seed:08d}.png"


def _model_name(model: str) -> str:
    """A folder's own name, never the path to it, which may tell about the user."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _revision(pipe: Any) -> str:
    """A hash of the weights themselves, so that a copied or republished model keeps its name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(pipe.unet.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _manifest_part(pipe: Any, part: str) -> dict[str, Any]:
    return (getattr(pipe, "training_manifest", None) or {}).get(part) or {}


def _class_label(pipe: Any, name: str | None) -> int | None:
    count = pipe.unet.config.num_class_embeds
    if count is None:
        if name is not None:
            raise ValueError(f"The model has no classes: leave out the class {name!r}.")
        return None
    names = _manifest_part(pipe, "training").get("classes") or [str(i) for i in range(count)]
    if name not in names:
        raise ValueError(
            f"The model has classes: give one of {', '.join(names)}" + (f", not {name!r}." if name else ".")
        )
    return names.index(name)


def _depicted(pipe: Any, class_name: str | None) -> tuple[str, int | None]:
    """The abnormality and grade that the model was trained to show, by its manifest; empty where it does not say."""
    recipe = _manifest_part(pipe, "recipe")
    chosen = dict(recipe.get("where") or {})
    if class_name is not None and recipe.get("class_column"):
        chosen[recipe["class_column"]] = class_name
    grade = chosen.get("grade")
    return str(chosen.get("abnormality", "")), None if grade is None else int(grade)


def _claim(out: Path, settings: Settings) -> None:
    """Make the folder ours, or see that it already is."""
    wanted = asdict(settings)
    path = out / SETTINGS_NAME
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"{k} ({found.get(k)} there, {v} now)" for k, v in wanted.items() if found.get(k) != v]
        if changed:
            raise ValueError(f"{out} holds images made with another {', '.join(changed)}: give another --out.")
        return
    if out.is_dir() and any(p for p in out.iterdir() if not p.name.startswith(f".{SETTINGS_NAME}")):
        raise FileExistsError(f"{out} is not empty, and not a folder of generated images: give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    _write_whole(path, json.dumps(wanted, indent=1) + "\n")


def _write(path: Path, pixels: np.ndarray, seed: int, settings: Settings) -> None:
    text = {
        "wbc:synthetic": "true",
        "wbc:model": settings.model,
        "wbc:revision": settings.revision,
        "wbc:seed": str(seed),
        "wbc:steps": str(settings.steps),
    }
    write_png(path, pixels, "trainedAlgorithmicMedia", f"wbc-diffusers {__version__}", text)


def _write_metadata(out: Path, seed: int, num: int, settings: Settings) -> None:
    """Write metadata.csv over all images of the folder, once those of this run are all there."""
    if not all(_path(out, s).is_file() for s in range(seed, seed + num)):
        return
    columns = ["file_name", "seed", "model", "revision", "steps", "abnormality", "grade", "synthetic"]
    rows = [columns]
    for path in sorted(out.glob("*.png")):
        grade = "" if settings.grade is None else str(settings.grade)
        about = [settings.model, settings.revision, str(settings.steps), settings.abnormality, grade, "true"]
        rows.append([path.name, str(int(path.stem)), *about])
    partial = out / f".{METADATA_NAME}.{os.getpid()}"
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    partial.replace(out / METADATA_NAME)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
