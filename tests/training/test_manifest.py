"""What a model says it was trained on."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wbc_diffusers.data.manifest import build_manifest, check_manifest
from wbc_diffusers.pipelines.pipeline_wbc_ddim import read_manifest


def hashes_of(folder: Path, every: int = 1) -> list[str]:
    """Hash the pixels of a folder's images, read by Pillow."""
    files = sorted(folder.glob("*.png"))[::every]
    return sorted(hashlib.sha256(np.asarray(Image.open(p).convert("RGB")).tobytes()).hexdigest() for p in files)


def test_the_hash_of_every_training_image_and_weight_file_is_in_it(
    trainer: Any, small: Any, cells: Path, tmp_path: Path
) -> None:
    recipe = small(max_train_steps=1)
    trainer(recipe, tmp_path / "run").run()
    manifest = json.loads((tmp_path / "run" / "training_manifest.json").read_text())
    assert manifest["image_pixel_sha256"] == hashes_of(cells / "train")
    weights = tmp_path / "run" / "unet" / "diffusion_pytorch_model.safetensors"
    sums = {"unet/diffusion_pytorch_model.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert manifest["weights_sha256"] == sums
    assert manifest["recipe"] == recipe.to_dict()
    assert manifest["training"]["steps"] == 1
    assert manifest["versions"]["torch"]


def test_only_the_images_that_where_chooses_are_in_it(trainer: Any, small: Any, cells: Path, tmp_path: Path) -> None:
    trainer(small(max_train_steps=1, where={"abnormality": "none"}), tmp_path / "run").run()
    manifest = read_manifest(tmp_path / "run")
    assert manifest is not None
    assert manifest["image_pixel_sha256"] == hashes_of(cells / "train", every=3)


def test_a_fine_tuned_model_inherits_the_images_of_all_before_it(trainer: Any, small: Any, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("base", "second", "third")]
    trainer(small(max_train_steps=1, where={"abnormality": "none"}), folders[0]).run()
    for before, folder in itertools.pairwise(folders):
        rare = {"abnormality": "hypersegmentation", "grade": 2}
        trainer(small(max_train_steps=1, model={}, where=rare, pretrained=str(before)), folder).run()
    first, second, third = (read_manifest(folder) or {} for folder in folders)
    assert [p["weights_sha256"] for p in third["parents"]] == [second["weights_sha256"], first["weights_sha256"]]
    assert third["parents"][1]["image_pixel_sha256"] == first["image_pixel_sha256"]
    assert all("parents" not in parent for parent in third["parents"])
    assert set(first["image_pixel_sha256"]).isdisjoint(third["image_pixel_sha256"])
    assert third["recipe"]["pretrained"] == "second"  # not the path, which may name the user


def test_a_parent_that_does_not_say_what_it_was_trained_on_is_warned_of(
    trainer: Any, small: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(small(max_train_steps=1), tmp_path / "base").run()
    (tmp_path / "base" / "training_manifest.json").unlink()
    trainer(small(max_train_steps=1, model={}, pretrained=str(tmp_path / "base")), tmp_path / "rare")
    assert "base has no training manifest" in caplog.text


@pytest.mark.parametrize("manifest", [{"schema_version": 9}, {}, ["a list"]])
def test_a_manifest_of_another_schema_is_refused(manifest: Any) -> None:
    with pytest.raises(
        ValueError, match=r"manifest of base has schema_version (9|None), .* reads 1: update the package"
    ):
        check_manifest(manifest, "base")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"recipe": "x"}, "manifest of base has 'x' as its recipe, where an object is wanted: take the manifest again"),
        ({"training": None}, "has None as its training, where an object"),
        ({"parents": {}}, "has {} as its parents, where a list"),
        ({"recipe": {"where": "grade"}}, "has 'grade' as its recipe.where, where an object"),
        ({"training": {"classes": 3}}, "has 3 as its training.classes, where a list"),
    ],
)
def test_a_manifest_with_a_part_of_another_type_is_refused(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        check_manifest({"schema_version": 1, **changes}, "base")


def test_a_model_may_be_trained_on_from_a_manifest_that_says_little(trainer: Any, small: Any, tmp_path: Path) -> None:
    trainer(small(max_train_steps=1), tmp_path / "base").run()
    (tmp_path / "base" / "training_manifest.json").write_text('{"schema_version": 1}')
    trainer(small(max_train_steps=1, model={}, pretrained=str(tmp_path / "base")), tmp_path / "rare").run()
    parents = (read_manifest(tmp_path / "rare") or {})["parents"]
    assert [parent["image_pixel_sha256"] for parent in parents] == [[]]


def test_hashes_are_sorted_and_told_once() -> None:
    assert build_manifest({}, ["b", "a", "b"])["image_pixel_sha256"] == ["a", "b"]
