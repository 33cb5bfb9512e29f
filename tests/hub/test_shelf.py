"""The shelf: for each recipe a pipeline folder of configuration that builds what the recipe trains, and its card."""

from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard

import wbc_diffusers
from wbc_diffusers.hub.shelf import card_of, names, start
from wbc_diffusers.pipelines import WBCDDIMPipeline

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name for path in (ROOT / "pipelines").iterdir() if path.is_dir())


def own_options(part: Any) -> dict[str, Any]:
    """The options of a component that are its own: diffusers keeps those of a class before it."""
    known = signature(type(part).__init__).parameters
    return {key: plain(value) for key, value in part.config.items() if key in known and not key.startswith("_")}


def plain(value: Any) -> Any:
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def build(folder: Path) -> dict[str, Any]:
    """Build each component that an index names from its configuration."""
    index = DiffusionPipeline.load_config(folder)
    parts = {}
    for part, place in index.items():
        if isinstance(place, list) and not part.startswith("_"):
            cls = getattr(wbc_diffusers, place[1], None) or getattr(diffusers, place[1])
            parts[part] = cls.from_config(cls.load_config(folder, subfolder=part))
    return parts


def test_recipes_pipelines_and_cards_have_the_same_names():
    assert NAMES == names() == sorted(path.stem for path in (ROOT / "model_cards").glob("[!R]*.md"))
    thesis = {f"{kind}-{what}" for kind in ("ddim", "gan") for what in
              ("base", "dohle-bodies", "hypergranulation", "hypersegmentation")}  # fmt: skip
    assert thesis | {"ours-64", "ours-192"} <= set(NAMES)


def test_recipe_of_a_classifier_has_no_pipeline(tmp_path, monkeypatch):
    (tmp_path / "sorts.yaml").write_text("kind: classifier\npretrained: null\n")
    (tmp_path / "makes.yaml").write_text("kind: ddim\n")
    monkeypatch.setattr("wbc_diffusers.hub.shelf.shelf", lambda place: tmp_path)
    assert names() == ["makes"]


def test_shelf_holds_configuration_only():
    kinds = {path.name for path in (ROOT / "pipelines").glob("*/**/*") if path.is_file()}
    assert kinds == {"model_index.json", "config.json", "scheduler_config.json"}


@pytest.mark.parametrize("name", NAMES)
def test_pipeline_builds_what_its_recipe_trains_and_runs(name, tmp_path):
    parts, task = build(ROOT / "pipelines" / name), start(name, tmp_path)
    wanted: dict[str, Any] = dict(task.models)
    if "unet" in parts:
        wanted["scheduler"] = task.solver  # type: ignore[attr-defined]  # a DDIM task has one
    assert parts.keys() == wanted.keys()
    for part, built in parts.items():
        assert type(built) is type(wanted[part])
        options, trained = own_options(built), own_options(wanted[part])
        # Computed on another processor, betas differ in their last bit, and so does their fingerprint.
        betas = [each.pop("trained_betas", None) or [] for each in (options, trained)]
        np.testing.assert_allclose(*betas, rtol=1e-6, atol=1e-12)
        fingerprints = [each.pop("computed_betas", None) for each in (options, trained)]
        assert (fingerprints[0] is None) == (fingerprints[1] is None)
        assert options == trained, part
    with torch.no_grad():
        if "unet" in parts:
            torch.testing.assert_close(parts["scheduler"].alphas_cumprod, wanted["scheduler"].alphas_cumprod)
            pipe = WBCDDIMPipeline(parts["unet"].eval(), parts["scheduler"])
            pipe.set_progress_bar_config(disable=True)
            images = pipe(num_inference_steps=2, height=32, width=32, output_type="np").images
            assert images.shape == (1, 32, 32, 3)
        else:
            side = parts["generator"].config.sample_size
            made = parts["generator"].eval()(torch.randn(1, parts["generator"].config.latent_dim)).sample
            assert made.shape == (1, 3, side, side)
            assert parts["discriminator"].eval()(made, return_dict=False)[0].isfinite().all()
            images = made.numpy()
    assert np.isfinite(images).all()


@pytest.mark.parametrize("name", NAMES)
def test_card_is_what_the_command_writes(name, tmp_path):
    text = (ROOT / "model_cards" / f"{name}.md").read_text(encoding="utf-8")
    assert text == card_of(name, ROOT / "pipelines" / name)
    data = ModelCard(text).data
    assert (data.license, data.library_name) == ("apache-2.0", "diffusers")
    fine_tuned = (name.rpartition("-")[0] in ("ddim", "gan") and not name.endswith("base")) or name.count("-") == 2
    assert data.to_dict().get("base_model") == (
        f"{name.split('-')[0]}-base" if fine_tuned and "ours" not in name else None
    )
    assert "not measured" in text
    assert "card of a configuration, without weights" in text


def test_folder_without_weights_is_refused_with_what_it_lacks():
    with pytest.raises(OSError, match=r"unet holds no \.safetensors"):
        WBCDDIMPipeline.from_pretrained(ROOT / "pipelines" / "ours-64")
