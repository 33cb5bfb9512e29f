"""training_manifest.json: what a model was trained with, and the hash of every image that it was trained on."""

import importlib.metadata
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wbc_diffusers import __version__

SCHEMA_VERSION = 1
MANIFEST_NAME = "training_manifest.json"
_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "text"}
_HASHES = {"image_pixel_sha256": 64, "image_perceptual_hash": 16}
"""Lists of hashes, and the hexadecimal digits of each."""
_PACKAGES = ("torch", "diffusers", "accelerate", "transformers", "datasets", "safetensors", "numpy", "pillow")


def check_manifest(manifest: Any, place: str) -> dict[str, Any]:
    """Give back what was read as the manifest of a pipeline, with empty parts where it lacks some.

    Raises:
        ValueError: If it is no manifest of a schema that this version reads, or a part of it is of another type.
    """
    check_schema(manifest, place)
    parts: dict[str, Any] = {
        "recipe": {},
        "training": {},
        "versions": {},
        "parents": [],
        **{name: [] for name in _HASHES},
    }
    whole = {**parts, **manifest}
    for name, empty in parts.items():
        _check_kind(place, name, whole[name], type(empty))
    _check_kind(place, "recipe.where", whole["recipe"].get("where") or {}, dict)
    _check_kind(place, "recipe.pretrained", whole["recipe"].get("pretrained") or "", str)
    _check_kind(place, "training.classes", whole["training"].get("classes") or [], list)
    for parent in whole["parents"]:
        _check_kind(place, "parent", parent, dict)
    for each in (whole, *whole["parents"]):
        for name, digits in _HASHES.items():
            _check_hashes(place, name, each.get(name, []), digits)
    return whole


def check_schema(manifest: Any, place: str) -> None:
    """Raise ValueError unless what was read as the manifest of a pipeline is of a schema that this version reads."""
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"The training manifest of {place} has schema_version {version!r}, and this version of the package reads "
            f"{SCHEMA_VERSION}: update the package, or take the manifest again from where the model came from."
        )


def _check_hashes(place: str, name: str, values: Any, digits: int) -> None:
    _check_kind(place, name, values, list)
    wanted = re.compile(f"[0-9a-f]{{{digits}}}")
    for value in values:
        if not isinstance(value, str) or not wanted.fullmatch(value):
            raise ValueError(
                f"The training manifest of {place} has {value!r} in its {name}, where {digits} hexadecimal digits are "
                "wanted: take the manifest again from where the model came from."
            )


def _check_kind(place: str, name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(
            f"The training manifest of {place} has {value!r} as its {name}, where {_KINDS[kind]} is wanted: take the "
            "manifest again from where the model came from."
        )


def public_name(model: str) -> str:
    """A model's hub id, or the own name of its folder: never the path to it, which may tell about the user."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def build_manifest(
    recipe: dict[str, Any],
    hashes: Iterable[str],
    perceptual_hashes: Iterable[str] = (),
    *,
    parent: dict[str, Any] | None = None,
    progress: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the manifest of a training; the pipeline adds the hashes of its weight files when it is saved.

    Args:
        recipe: The recipe as plain data.
        hashes: Pixel hashes of the images that the training drew from.
        perceptual_hashes: Their perceptual hashes, which find near copies, where the prepared folder has them.
        parent: Manifest of the model that the training started from; it and its own parents are taken over.
        progress: What else is worth knowing, such as updates done and seconds taken.
    """
    if recipe.get("pretrained"):
        recipe = {**recipe, "pretrained": public_name(recipe["pretrained"])}
    parents = [] if parent is None else [{k: v for k, v in parent.items() if k != "parents"}, *parent["parents"]]
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe,
        "versions": {
            "wbc-diffusers": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "training": progress or {},
        "image_pixel_sha256": sorted(set(hashes)),
        "image_perceptual_hash": sorted(set(perceptual_hashes)),
        "parents": parents,
        "weights_sha256": {},
    }
