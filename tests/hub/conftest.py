"""Pipeline folders of tiny models, with what a training and an evaluation leave in them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wbc_diffusers import (
    R2AttnUNet,
    SigmoidDDIMScheduler,
    WBCDDIMPipeline,
    WBCDiscriminator,
    WBCGANPipeline,
    WBCGenerator,
)
from wbc_diffusers.sampling import DDIMSampler
from wbc_diffusers.training.recipe import DDIMRecipe, GANRecipe

ROW: dict[str, Any] = {
    "measure": "", "encoder": "", "value": 0.0, "low": None, "high": None, "floor": None, "n_real": 320,
    "n_generated": 1000, "floor_n_real": None, "floor_n_other": None, "value_at_floor": None,
}  # fmt: skip


def manifest(recipe: DDIMRecipe | GANRecipe, **changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "recipe": recipe.to_dict(),
        "versions": {"torch": "2.9"},
        "training": {"steps": 6600, "seconds": 1234.5, "classes": []},
        "image_pixel_sha256": [f"{i:064x}" for i in range(321)],
        "image_perceptual_hash": [],
        "parents": [],
        **changes,
    }


def save(folder: Path, kind: str, about: dict[str, Any] | None) -> Path:
    torch.manual_seed(0)
    pipe: Any
    if kind == "ddim":
        pipe = WBCDDIMPipeline(R2AttnUNet(sample_size=16, block_out_channels=(8, 16)).eval(), SigmoidDDIMScheduler())
    else:
        generator = WBCGenerator(sample_size=16, latent_dim=10, depth=16).eval()
        pipe = WBCGANPipeline(generator, WBCDiscriminator(sample_size=16, depth=4).eval())
    pipe.training_manifest = about
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A fine-tuned diffusion model, with what a training leaves beside the pipeline."""
    where = {"abnormality": "dohle_bodies", "grade": 2}
    recipe = DDIMRecipe(name="ours-64", resolution=16, max_train_steps=6600, where=where, pretrained="lab/base")
    parent = {"schema_version": 1, "image_pixel_sha256": ["ab" * 32] * 3, "image_perceptual_hash": []}
    folder = save(tmp_path / "neutrophils", "ddim", manifest(recipe, parents=[parent]))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "random_states_0.pkl").write_bytes(b"pickle")
    (folder / "log.jsonl").write_text("{}\n")
    (folder / "patient-7.png").write_bytes(b"an image of the training")
    return folder


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    return save(tmp_path / "gan", "gan", manifest(GANRecipe(name="ours-gan-64", resolution=16)))


@pytest.fixture
def judged(model: Path, tmp_path: Path) -> Path:
    """An evaluation of images of the model, as `wbc evaluate` writes it."""
    made = DDIMSampler(pipe=WBCDDIMPipeline.from_pretrained(model), solver="dpm++_sde")
    rows = [
        {**ROW, "measure": "fid", "encoder": "inception-v3", "value": 34.512, "low": 31.04, "high": 37.9, "floor": 17.5,
         "value_at_floor": 41.2},
        {**ROW, "measure": "probe_auc_inception_v3", "encoder": "inception-v3", "value": 0.97},
        {**ROW, "measure": "share_dohle_bodies", "value": 0.25, "low": 0.22, "high": 0.28, "floor": 0.04},
        {**ROW, "measure": "kid", "encoder": "inception-v3", "value": None},
        {**ROW, "measure": "red_mean_difference", "value": 1.5},
    ]  # fmt: skip
    search = {
        "threshold": 0.5, "found_of_all": {"value": 0.98}, "beyond": {"value": 0.004}, "excess": {"value": 0.0},
        "false_alarms": {"value": 0.009}, "copies_at_most": 0.012, "held_out": 320,
        "closest": [{"generated": "1.png", "training": "patient-7.png"}],
    }  # fmt: skip
    found = {
        "schema_version": 1,
        "wbc_diffusers": "0.1.0",
        "seed": 3,
        "generated_by": {**made.settings(), "seeds": [10000, 10999]},
        "sets": [
            {"role": "real", "folder": "validation", "images": 320, "repeated": 0},
            {"role": "generated", "folder": "synthetic", "images": 1000, "repeated": 0},
            {"role": "training", "folder": "train", "images": 321, "repeated": 0},
        ],
        "processing": {},
        "notes": ["2 of the real images are its training images.", "A | note."],
        "leaks": [{"of": "The model", "exact": ["patient-7.png"], "near": [], "known": 321, "hashed": 0}],
        "rows": rows,
        "encoders": [
            {"encoder": "inception-v3", "weights_sha256": "ab", "features": 9, "most_convincing_first": ["patient-8"]}
        ],
        "cells": {"closest": "patient-9.png"},
        "new_field": "patient-10.png",
        "copies": {"pixels": search, "features": search},
    }  # fmt: skip
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    return path
