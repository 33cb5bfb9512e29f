"""training_manifest.json: what a model was trained with, and the hash of every image that it was trained on."""

import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wbc_diffusers import __version__
from wbc_diffusers.training.files import file_sha256

MANIFEST_NAME = "training_manifest.json"
SCHEMA_VERSION = 1
_PACKAGES = ("torch", "diffusers", "accelerate", "transformers", "datasets", "safetensors", "numpy", "pillow")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a pipeline folder, or None where there is none.

    Raises:
        ValueError: If the file is not a manifest of a schema that this version reads.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): take it again from where the model came from.") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema_version {version!r}; this version of the package reads {SCHEMA_VERSION}.")
    return manifest


def build_manifest(
    recipe: dict[str, Any],
    hashes: Iterable[str],
    *,
    parent: dict[str, Any] | None = None,
    progress: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the manifest of a training.

    Args:
        recipe: The recipe as plain data.
        hashes: Pixel hashes of the images that the training drew from.
        parent: Manifest of the model that the training started from; it and its own parents are taken over.
        progress: What else is worth knowing, such as updates done and seconds taken.
    """
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
        "parents": parents,
        "weights_sha256": {},
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest into a pipeline folder, with the SHA-256 of each weight file that lies there."""
    weights = {p.relative_to(folder).as_posix(): file_sha256(p) for p in sorted(folder.rglob("*.safetensors"))}
    text = json.dumps({**manifest, "weights_sha256": weights}, indent=1)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
