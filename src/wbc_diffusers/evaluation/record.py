"""evaluation.json: all that an evaluation found, for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from wbc_diffusers import __version__
from wbc_diffusers.data.sources import shown
from wbc_diffusers.evaluation.by_encoder import Comparison
from wbc_diffusers.evaluation.copies import CopyAudit
from wbc_diffusers.evaluation.found import Evaluation
from wbc_diffusers.evaluation.images import ImageSet, load
from wbc_diffusers.evaluation.leaks import Leaks
from wbc_diffusers.generation import settings_of

SCHEMA_VERSION = 1


def write_record(found: Evaluation, path: Path) -> None:
    """Write the figures, and what they are of; files are named without their folders."""
    whole = {
        "schema_version": SCHEMA_VERSION,
        "wbc_diffusers": __version__,
        "seed": found.plan.seed,
        "where": list(found.plan.where),
        "allow_leaks": found.plan.allow_leaks,
        "generated_by": settings_of(found.plan.generated),
        "sets": [_set(each) for each in found.sets],
        "processing": asdict(found.processing),
        "notes": found.notes,
        "leaks": [{"of": whose, **_leaks(each)} for whose, each in found.leaks.items()],
        "rows": [asdict(row) for row in found.rows],
        "encoders": [_comparison(each, found.generated) for each in found.comparisons],
        "cells": asdict(found.by_eye),
        "copies": None if found.copying is None else _copies(found),
    }
    path.write_text(json.dumps(_plain(whole), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """The same with None for what could not be measured, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _set(images: ImageSet) -> dict[str, Any]:
    return {
        "role": images.role,
        "folder": shown(images.folder.name),
        "images": len(images),
        "repeated": images.repeated,
        "pixels_sha256": sha256("".join(sorted(images.pixel_hashes)).encode()).hexdigest(),
        "width": images.width,
        "height": images.height,
        "source_type": load(images.paths[0]).origin.source_type,
    }


def _leaks(found: Leaks) -> dict[str, Any]:
    named = {"exact": _names(found.exact), "near": _names(found.near)}
    return {**named, "known": found.known, "hashed": found.hashed}


def _comparison(found: Comparison, generated: ImageSet) -> dict[str, Any]:
    return {
        "encoder": found.encoder,
        "weights_sha256": found.fingerprint,
        "features": found.features,
        "frechet_by_images": found.line,
        "floor_frechet_by_images": found.floor_line,
        "most_convincing_first": _names([generated.paths[i] for i in found.convincing]),
    }


def _copies(found: Evaluation) -> dict[str, Any]:
    assert found.copying is not None
    assert found.train is not None
    audits = {"pixels": found.copying.pixels, "features": found.copying.features}
    return {
        **{name: _audit(each, found.generated, found.train) for name, each in audits.items()},
        "authentic": asdict(found.copying.authentic),
        "authentic_held_out": asdict(found.copying.authentic_held_out),
    }


def _audit(found: CopyAudit, generated: ImageSet, train: ImageSet) -> dict[str, Any]:
    estimates = ("false_alarms", "found_of_all", "beyond", "excess")
    return {
        "threshold": found.threshold,
        **{name: asdict(getattr(found, name)) for name in estimates},
        "found": {kind: asdict(each) for kind, each in found.found.items()},
        "chance": found.chance,
        "copies_at_most": found.copies_at_most,
        "held_out": len(found.held_out.index),
        "closest": [
            {
                "generated": shown(generated.paths[pair.generated].name),
                "training": shown(train.paths[pair.training].name),
                "distance": pair.distance,
            }
            for pair in found.closest
        ],
    }


def _names(paths: Sequence[Path]) -> list[str]:
    return [shown(path.name) for path in paths]
