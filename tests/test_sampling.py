"""Folders of a GAN's cells, and what keeps them apart from those of a diffusion model."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wbc_diffusers import (
    R2AttnUNet,
    SigmoidDDIMScheduler,
    WBCDDIMPipeline,
    WBCDiscriminator,
    WBCGANPipeline,
    WBCGenerator,
)
from wbc_diffusers.generation import generate
from wbc_diffusers.pipelines import pretrained


def save_gan(
    folder: Path, manifest: dict | None = None, weights: int = 0, discriminator: bool = True, **network
) -> str:
    """Save a tiny GAN whose batch norms have seen a few batches, as the networks of a training have."""
    torch.manual_seed(weights)
    generator = WBCGenerator(**{"sample_size": 16, "latent_dim": 10, "depth": 16, **network})
    torch.nn.init.normal_(generator.up_out.conv.weight, 0, 0.3)  # images that differ
    with torch.no_grad():
        for _ in range(3):
            generator(torch.randn(32, 10))
    judge = WBCDiscriminator(sample_size=16, depth=4) if discriminator else None
    WBCGANPipeline(generator, judge).save_pretrained(folder)
    if manifest is not None:
        (folder / "training_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the folder of a tiny GAN."""
    return save_gan(tmp_path_factory.mktemp("gans") / "tiny")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the folder of a tiny diffusion model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    WBCDDIMPipeline(R2AttnUNet(16, block_out_channels=(4, 8)), SigmoidDDIMScheduler()).save_pretrained(folder)
    return str(folder)


def make(model: str, out: Path, num: int, **options) -> int:
    return generate(model, out, num, **{"batch_size": 4, **options})


def pixels(folder: Path) -> dict[str, bytes]:
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in sorted(folder.glob("*.png"))}


def settings(folder: Path) -> dict:
    return json.loads((folder / "generation.json").read_text(encoding="utf-8"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# What a folder holds.


@pytest.mark.parametrize("options", [{}, {"truncation": 0.5, "contrast": 20.0}])
def test_images_are_those_of_the_pipeline_for_their_seeds(gan, options, tmp_path):
    assert make(gan, tmp_path / "out", 5, seed=7, **options) == 5
    pipe = WBCGANPipeline.from_pretrained(gan)
    for seed in range(7, 12):
        (expected,) = pipe(generator=[torch.Generator().manual_seed(seed)], **options).images
        found = np.asarray(Image.open(tmp_path / "out" / f"{seed:08d}.png")).astype(int)
        assert found.std() > 10
        assert np.abs(found - np.asarray(expected)).max() <= 1


def test_metadata_has_the_same_columns_with_no_steps(gan, tmp_path):
    place = save_gan(
        tmp_path / "gan", {"schema_version": 1, "recipe": {"where": {"abnormality": "dohle_bodies", "grade": 2}}}
    )
    make(place, tmp_path / "out", 2, seed=3)
    first, second = rows(tmp_path / "out")
    assert re.fullmatch(r"[0-9a-f]{16}", first.pop("revision"))
    assert first == {
        "file_name": "00000003.png",
        "seed": "3",
        "model": "gan",
        "steps": "",
        "abnormality": "dohle_bodies",
        "grade": "2",
        "synthetic": "true",
    }
    assert second["seed"] == "4"


def test_folder_says_what_applies_to_its_kind_of_model(gan, diffusion, tmp_path):
    make(gan, tmp_path / "gan", 1, truncation=1.5)
    make(diffusion, tmp_path / "diffusion", 1, steps=3)
    common = {"model": "tiny", "batch_size": 4, "contrast": None, "abnormality": "", "grade": None}
    for name, own in (
        ("gan", {"truncation": 1.5}),
        ("diffusion", {"solver": "ddim", "steps": 3, "eta": 0.0, "class_label": None}),
    ):
        told = settings(tmp_path / name)
        identity = {key: told.pop(key) for key in ("revision", "config")}
        assert told == {**common, "mixed_precision": "no", **own}
        info = Image.open(tmp_path / name / "00000000.png").info
        marks = {key.removeprefix("wbc:"): value for key, value in info.items() if key.startswith("wbc:")}
        shown = {key: str(value) for key, value in {**told, **identity}.items() if value not in (None, "")}
        assert marks == {"synthetic": "true", "seed": "0", **shown}
        assert "trainedAlgorithmicMedia" in info["XML:com.adobe.xmp"]


def test_model_of_the_hub_is_known_by_its_id(gan, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "snapshot_download", lambda name, **options: gan)
    make("somebody/cells", tmp_path / "out", 1)
    assert rows(tmp_path / "out")[0]["model"] == "somebody/cells"


# Options of the other kind.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 20}, "--steps"),
        ({"solver": "ddim"}, "--solver"),
        ({"eta": 0.0}, "--eta"),
        ({"class_name": "none", "steps": 3}, "--class and --steps"),
    ],
)
def test_options_of_diffusion_are_refused_for_a_gan(options, told, gan, tmp_path):
    with pytest.raises(ValueError, match=f"^tiny is a GAN, which takes --truncation, but not {told}: leave out"):
        make(gan, tmp_path / "out", 1, **options)
    assert not (tmp_path / "out").exists()


def test_truncation_is_refused_for_a_diffusion_model(diffusion, tmp_path):
    error = "tiny is a diffusion model, which takes --class and --eta and --solver and --steps, but not --truncation"
    with pytest.raises(ValueError, match=error):
        make(diffusion, tmp_path / "out", 1, truncation=1.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"truncation": 0.0}, "truncation=0.0: give a number above 0"),
        ({"contrast": -1.0}, "contrast=-1.0: give 0 or more"),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8': choose one of no, bf16, fp16"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(options, error, gan, tmp_path):
    with pytest.raises(ValueError, match=error):
        make(gan, tmp_path / "out", 1, **options)
    assert not (tmp_path / "out").exists()


def test_gan_that_makes_no_images_writes_nothing(gan, tmp_path):
    pipe = WBCGANPipeline.from_pretrained(gan)
    torch.nn.init.constant_(pipe.generator.norms[0].running_mean, float("nan"))
    pipe.save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match="images are not finite"):
        make(str(tmp_path / "broken"), tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_images(precision, gan, tmp_path):
    make(gan, tmp_path / "full", 4)
    make(gan, tmp_path / "half", 4, mixed_precision=precision)
    full, half = (np.frombuffer(b"".join(pixels(tmp_path / f).values()), np.uint8) for f in ("full", "half"))
    assert not np.array_equal(full, half)
    assert np.abs(full.astype(int) - half).mean() < 8


# One folder, several runs.


def test_folder_is_extended_by_the_same_gan_only(gan, diffusion, tmp_path):
    out = tmp_path / "out"
    assert [make(gan, out, 3), make(gan, out, 6), make(gan, out, 6)] == [3, 3, 0]
    whole = pixels(out)
    for changes, told in (
        ({"weights": 1}, "revision"),
        ({"upsampling_type": "transposed"}, "revision"),
        ({"negative_slope": 0.1}, "config"),
    ):
        other = save_gan(tmp_path / told / str(len(changes)) / "tiny", **changes)
        with pytest.raises(ValueError, match=rf"made with another .*{told} \("):
            make(other, out, 7)
    for options in ({"truncation": 1.5}, {"contrast": 20.0}, {"batch_size": 2}, {"mixed_precision": "bf16"}):
        with pytest.raises(ValueError, match=rf"made with another {next(iter(options))} \("):
            make(gan, out, 7, **options)
    with pytest.raises(ValueError, match=r"made with another revision \(.* there, .* now\)"):
        make(diffusion, out, 7)
    assert pixels(out) == whole
    assert len(rows(out)) == 6


def test_gan_goes_on_where_it_was_without_its_discriminator(gan, tmp_path):
    make(gan, tmp_path / "out", 2)
    bare = WBCGANPipeline(WBCGANPipeline.from_pretrained(gan).generator)
    bare.save_pretrained(tmp_path / "published")
    assert make(str(tmp_path / "published"), tmp_path / "out", 4) == 2
    assert {row["model"] for row in rows(tmp_path / "out")} == {"tiny"}


def test_folder_begun_in_another_order_of_settings_goes_on(diffusion, tmp_path):
    # As the first version wrote it.
    order = "model revision config solver steps batch_size eta contrast class_label abnormality grade mixed_precision"
    make(diffusion, tmp_path / "out", 2, steps=3)
    told = settings(tmp_path / "out")
    assert set(told) == set(order.split())
    (tmp_path / "out" / "generation.json").write_text(json.dumps({key: told[key] for key in order.split()}))
    assert make(diffusion, tmp_path / "out", 4, steps=3) == 2


def test_gan_that_was_moved_keeps_its_name(tmp_path):
    base = save_gan(tmp_path / "base")
    make(base, tmp_path / "out", 2)
    assert make(str(shutil.move(base, tmp_path / "moved")), tmp_path / "out", 4) == 2
    assert [row["model"] for row in rows(tmp_path / "out")] == ["base"] * 4


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_images(gan, tmp_path):
    out, number = tmp_path / "out", 3000
    options = ["--num", number, "--truncation", 1.0, "--batch-size", 4, "--out", out]
    process = subprocess.Popen([sys.executable, "-m", "wbc_diffusers", "generate", gan, *map(str, options)])
    end = time.monotonic() + 120
    while len(list(out.glob("*.png"))) <= 5 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    made = len(list(out.glob("*.png")))
    assert 5 < made < number
    wanted = made + 100
    assert make(gan, out, wanted, truncation=1.0) == 100
    make(gan, tmp_path / "whole", wanted, truncation=1.0)
    assert pixels(out) == pixels(tmp_path / "whole")
    assert rows(out) == rows(tmp_path / "whole")
