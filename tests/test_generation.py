"""Folders of synthetic cells: what they hold, and what killed, doubled, wrong and late runs do to them."""

import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from wbc_diffusers import R2AttnUNet, SigmoidDDIMScheduler, WBCDDIMPipeline, generation
from wbc_diffusers.generation import generate
from wbc_diffusers.solvers import SOLVERS

STEPS = 3


def save_model(folder: Path, manifest: dict | None = None, weights: int = 0, scheduler: dict | None = None, **network):
    torch.manual_seed(weights)
    noise = SigmoidDDIMScheduler(**(scheduler or {}))
    unet = R2AttnUNet(sample_size=16, block_out_channels=(4, 8), **network)
    WBCDDIMPipeline(unet, noise).save_pretrained(folder)
    if manifest is not None:
        (folder / "training_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the folder of a tiny model that nobody trained."""
    return str(save_model(tmp_path_factory.mktemp("models") / "tiny"))


def make(model: str, out: Path, num: int, seed: int = 0, **options) -> int:
    return generate(model, out, num, seed=seed, **{"steps": STEPS, "batch_size": 4, **options})


def pixels(folder: Path) -> dict[str, bytes]:
    """Decode the images of a folder."""
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in sorted(folder.glob("*.png"))}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected_images(model: str, seeds: range, **options) -> list[np.ndarray]:
    pipe = WBCDDIMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipe(len(seeds), STEPS, generator=generators, **options).images
    return [np.asarray(image) for image in images]


# What a folder holds.


def test_images_are_those_of_the_pipeline_for_their_seeds(model, tmp_path):
    assert make(model, tmp_path / "out", 5, seed=7, contrast=20) == 5
    expected = expected_images(model, range(7, 11), contrast=20) + expected_images(model, range(11, 15), contrast=20)
    for seed, image in zip(range(7, 12), expected, strict=False):
        found = np.asarray(Image.open(tmp_path / "out" / f"{seed:08d}.png")).astype(int)
        # Channels-last arithmetic rounds otherwise.
        assert np.abs(found - image).max() <= 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


def test_metadata_lists_every_image_with_its_seed_and_model(model, tmp_path):
    make(model, tmp_path / "out", 2, seed=99_999_999)
    first, second = rows(tmp_path / "out")
    assert first["file_name"] == "99999999.png"
    assert second["file_name"] == "100000000.png"
    assert list(first) == ["file_name", "seed", "model", "revision", "steps", "abnormality", "grade", "synthetic"]
    assert (first["seed"], first["model"], first["steps"], first["synthetic"]) == ("99999999", "tiny", "3", "true")
    assert re.fullmatch(r"[0-9a-f]{16}", first["revision"])
    assert (first["abnormality"], first["grade"]) == ("", "")


def test_png_tells_where_it_comes_from(model, tmp_path):
    place = shutil.copytree(model, tmp_path / "Döhle-模型")
    make(str(place), tmp_path / "out", 1, seed=3, solver="ddim", eta=0.5)
    info = Image.open(tmp_path / "out" / "00000003.png").info
    told = {key: value for key, value in info.items() if key.startswith("wbc:")}
    assert told.pop("wbc:revision") == rows(tmp_path / "out")[0]["revision"]
    assert told.pop("wbc:config")
    assert told == {
        "wbc:synthetic": "true",
        "wbc:seed": "3",
        "wbc:model": "Döhle-模型",
        "wbc:solver": "ddim",
        "wbc:steps": "3",
        "wbc:batch_size": "4",
        "wbc:eta": "0.5",
        "wbc:mixed_precision": "no",
    }
    packet = info["XML:com.adobe.xmp"]
    assert "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" in packet


def test_nothing_tells_where_the_model_lies(model, tmp_path):
    make(model, tmp_path / "out", 1)
    for path in (tmp_path / "out").iterdir():
        assert str(Path(model).parent).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("recipe", "classes", "chosen", "expected"),
    [
        ({"where": {"abnormality": "hypersegmentation", "grade": 2}}, None, None, ("hypersegmentation", "2")),
        ({"where": None}, None, None, ("", "")),
        ({"class_column": "abnormality"}, ["none", "dohle_bodies"], "dohle_bodies", ("dohle_bodies", "")),
        (
            {"where": {"abnormality": "hypergranulation"}, "class_column": "grade"},
            ["0", "1", "2"],
            "1",
            ("hypergranulation", "1"),
        ),
        ({"class_column": "cell_type"}, ["neutrophil", "band"], "band", ("", "")),
        ({"where": {"grade": "severe"}}, None, None, ("", "severe")),
    ],
)
def test_abnormality_and_grade_are_those_of_the_training(recipe, classes, chosen, expected, tmp_path):
    manifest = {"schema_version": 1, "recipe": recipe, "training": {"classes": classes} if classes else {}}
    place = save_model(tmp_path / "model", manifest, num_class_embeds=None if classes is None else len(classes))
    make(str(place), tmp_path / "out", 1, class_name=chosen)
    assert [(row["abnormality"], row["grade"]) for row in rows(tmp_path / "out")] == [expected]


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        ({"schema_version": 99}, r"manifest of .*model has schema_version 99, and .* reads 1: update the package"),
        ({"schema_version": 1, "recipe": "x"}, "has 'x' as its recipe, where an object is wanted"),
    ],
)
def test_manifest_that_is_none_is_refused_before_anything_is_written(manifest, error, tmp_path):
    place = save_model(tmp_path / "model", manifest)
    with pytest.raises(ValueError, match=error):
        make(str(place), tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_class_gives_the_images_of_its_label(tmp_path):
    manifest = {"schema_version": 1, "recipe": {}, "training": {"classes": ["none", "dohle_bodies"]}}
    place = str(save_model(tmp_path / "model", manifest, num_class_embeds=2))
    make(place, tmp_path / "out", 4, class_name="dohle_bodies")
    found = np.stack([np.asarray(Image.open(tmp_path / "out" / f"{seed:08d}.png")) for seed in range(4)]).astype(int)
    assert np.abs(found - np.stack(expected_images(place, range(4), class_labels=1))).max() <= 1
    assert np.abs(found - np.stack(expected_images(place, range(4), class_labels=0))).max() > 1
    for name in (None, "blast"):
        with pytest.raises(ValueError, match="The model has classes: give one of none, dohle_bodies"):
            make(place, tmp_path / "other", 1, class_name=name)


# Solvers.


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_takes_the_place_of_the_models_own_and_is_recorded(name, model, tmp_path):
    classes = {
        "dpm++": "DPMSolverMultistepScheduler",
        "dpm++_sde": "DPMSolverMultistepScheduler",
        "unipc": "UniPCMultistepScheduler",
        "heun": "HeunDiscreteScheduler",
        "euler": "EulerDiscreteScheduler",
        "euler_a": "EulerAncestralDiscreteScheduler",
        "ddpm": "DDPMScheduler",
        "ddim": "DDIMScheduler",
    }
    make(model, tmp_path / "out", 4, solver=name)
    pipe = WBCDDIMPipeline.from_pretrained(model)
    changes = {"algorithm_type": "sde-dpmsolver++"} if name == "dpm++_sde" else {}
    scheduler = getattr(diffusers, classes[name]).from_config(pipe.scheduler.config, **changes)
    pipe = WBCDDIMPipeline(pipe.unet.to(memory_format=torch.channels_last), scheduler)
    pipe.set_progress_bar_config(disable=True)
    # 3 steps don't divide 1000, so diffusers' own DDIM goes other ways.
    if name == "ddim":
        pipe.scheduler = SigmoidDDIMScheduler.from_config(scheduler.config)
    images = pipe(4, STEPS, generator=[torch.Generator().manual_seed(seed) for seed in range(4)]).images
    found = pixels(tmp_path / "out")
    assert list(found.values()) == [np.asarray(image).tobytes() for image in images]
    assert json.loads((tmp_path / "out" / "generation.json").read_text())["solver"] == name
    assert Image.open(tmp_path / "out" / "00000000.png").info["wbc:solver"] == name


def test_solver_asked_for_is_the_solver_saved(model, tmp_path):
    pipe = WBCDDIMPipeline.from_pretrained(model)
    solver = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    WBCDDIMPipeline(pipe.unet, solver).save_pretrained(tmp_path / "tiny")
    make(model, tmp_path / "out", 2, solver="dpm++")
    make(str(tmp_path / "tiny"), tmp_path / "out", 4)
    make(str(tmp_path / "tiny"), tmp_path / "back", 4, solver="ddim")
    make(model, tmp_path / "back", 4)
    assert len(rows(tmp_path / "out")) == len(rows(tmp_path / "back")) == 4


@pytest.mark.parametrize(
    ("prediction", "options", "error"),
    [
        (
            "epsilon",
            {"solver": "dpm"},
            r"solver='dpm': choose one of ddim, dpm\+\+, dpm\+\+_sde, unipc, heun, euler, euler_a, ddpm",
        ),
        ("epsilon", {"solver": "dpm++", "eta": 1.0}, "eta=1.0, but DPMSolverMultistepScheduler has no eta: leave it"),
        ("sample", {"solver": "euler_a"}, "EulerAncestralDiscreteScheduler can't run this model .*: choose another"),
        ("epsilon", {"eta": 2.0}, "eta=2.0: give a number from 0"),
        ("epsilon", {"steps": 1001}, "num_inference_steps=1001: give a number from 1 to 1000"),
        ("epsilon", {"contrast": -1.0}, "contrast=-1.0: give 0 or more"),
        ("epsilon", {"batch_size": 0}, "num=1, seed=0, batch_size=0: give num and batch_size >= 1"),
        ("epsilon", {"seed": -1}, "num=1, seed=-1, batch_size=4: give"),
        ("epsilon", {"seed": 2**32 - 2}, "num=1, seed=4294967294, batch_size=4: .*same images again"),
        ("epsilon", {"mixed_precision": "fp8"}, "mixed_precision='fp8': choose one of no, bf16, fp16"),
        ("epsilon", {"class_name": "none"}, "The model has no classes: leave out the class 'none'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(prediction, options, error, tmp_path):
    place = save_model(tmp_path / "model", scheduler={"prediction_type": prediction})
    with pytest.raises(ValueError, match=error):
        make(str(place), tmp_path / "out", 1, **options)
    assert not (tmp_path / "out").exists()


def test_model_that_makes_no_images_writes_nothing(model, tmp_path):
    pipe = WBCDDIMPipeline.from_pretrained(model)
    torch.nn.init.constant_(pipe.unet.conv_out.bias, float("nan"))
    pipe.save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"images are not finite \(NaN or infinite\): see that"):
        make(str(tmp_path / "broken"), tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_images(precision, model, tmp_path):
    make(model, tmp_path / "full", 4)
    make(model, tmp_path / "half", 4, mixed_precision=precision)
    full, half = (np.frombuffer(b"".join(pixels(tmp_path / f).values()), np.uint8) for f in ("full", "half"))
    assert not np.array_equal(full, half)
    assert np.abs(full.astype(int) - half).mean() < 8


# One folder, several runs.


def test_folder_is_extended_by_more_images_and_other_seeds(model, tmp_path):
    out = tmp_path / "out"
    assert [make(model, out, 3), make(model, out, 6), make(model, out, 2, seed=30), make(model, out, 6)] == [3, 3, 2, 0]
    assert [int(row["seed"]) for row in rows(out)] == [0, 1, 2, 3, 4, 5, 30, 31]
    make(model, tmp_path / "first", 6)
    make(model, tmp_path / "second", 2, seed=30)
    assert pixels(out) == pixels(tmp_path / "first") | pixels(tmp_path / "second")


def test_image_is_the_same_wherever_its_run_began(model, tmp_path):
    make(model, tmp_path / "a", 6, seed=0)
    make(model, tmp_path / "b", 6, seed=3)
    shared = [f"{seed:08d}.png" for seed in (3, 4, 5)]
    a, b = pixels(tmp_path / "a"), pixels(tmp_path / "b")
    assert [a[name] for name in shared] == [b[name] for name in shared]


def test_every_batch_is_full_however_many_images_are_asked_for(model, tmp_path, monkeypatch):
    # Arithmetic may round otherwise in batches of another size.
    sizes, plain = [], WBCDDIMPipeline.__call__

    def watched(pipe, batch_size, height=None, **options):
        sizes.extend([batch_size] if height is None else [])
        return plain(pipe, batch_size, height=height, **options)

    monkeypatch.setattr(WBCDDIMPipeline, "__call__", watched)
    for number in (1, 3, 6):
        make(model, tmp_path / "out", number)
    assert sizes == [4, 4, 4, 4]


@pytest.mark.parametrize("size", [0, 5, 200, -1, -100])
def test_image_that_was_cut_off_is_made_anew(size, model, tmp_path):
    out = tmp_path / "out"
    make(model, out, 4)
    whole, path = pixels(out), out / "00000002.png"
    path.write_bytes(path.read_bytes()[:size])
    assert make(model, out, 4) == 1
    assert pixels(out) == whole
    path.write_bytes(bytes(path.stat().st_size))  # what a power cut may leave
    assert make(model, out, 4) == 1
    assert pixels(out) == whole


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 4},
        {"batch_size": 2},
        {"eta": 0.5},
        {"contrast": 20.0},
        {"solver": "dpm++"},
        {"mixed_precision": "bf16"},
    ],
)
def test_other_settings_are_refused_and_change_nothing(changes, model, tmp_path):
    out = tmp_path / "out"
    make(model, out, 2)
    before = contents(out)
    with pytest.raises(ValueError, match=rf"made with another .*{next(iter(changes))} \(.* there, .* now\).*--out"):
        make(model, out, 4, **changes)
    assert contents(out) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights": 1}, "revision"),
        ({"scheduler": {"min_signal_rate": 0.008}}, "config"),
        ({"recurrence_steps": 1}, "config"),
    ],
)
def test_another_model_of_the_same_name_is_refused(changes, told, model, tmp_path):
    make(model, tmp_path / "out", 2)
    other = save_model(tmp_path / "tiny", **changes)
    with pytest.raises(ValueError, match=rf"made with another {told} \("):
        make(str(other), tmp_path / "out", 2)


@pytest.mark.parametrize("rename", [shutil.copytree, shutil.move])
def test_model_of_another_folder_name_goes_on_where_it_was(rename, tmp_path):
    base = str(save_model(tmp_path / "base"))
    make(base, tmp_path / "out", 2)
    moved = str(rename(base, tmp_path / "base_copy"))
    assert make(moved, tmp_path / "out", 4) == 2
    assert [row["model"] for row in rows(tmp_path / "out")] == ["base"] * 4
    make(moved, tmp_path / "whole", 4)
    assert pixels(tmp_path / "out") == pixels(tmp_path / "whole")


def test_folder_that_holds_something_else_is_left_alone(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    for out, error in ((tmp_path / "mine", "not a folder of generated"), (tmp_path / "mine/letter.txt", "is a file")):
        with pytest.raises(FileExistsError, match=error):
            make(model, out, 1)
    assert list(contents(tmp_path / "mine")) == ["letter.txt"]
    (tmp_path / "mine" / "letter.txt").rename(tmp_path / "mine" / ".hidden")
    assert make(model, tmp_path / "mine", 1) == 1


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_settings_are_named(text, model, tmp_path):
    (tmp_path / "generation.json").write_text(text)
    with pytest.raises(ValueError, match=r"generation.json (is not JSON|holds no settings).*give another folder"):
        make(model, tmp_path, 1)


def test_pictures_of_others_stay_out_of_the_metadata(model, tmp_path):
    make(model, tmp_path / "out", 1)
    for name in ("grid.png", "0001.png", "000000009.png", "00000050.png"):
        Image.new("RGB", (7, 7)).save(tmp_path / "out" / name)
    make(model, tmp_path / "other", 1, seed=60, steps=5)
    shutil.copy(tmp_path / "other" / "00000060.png", tmp_path / "out")
    make(model, tmp_path / "out", 2)
    assert [row["file_name"] for row in rows(tmp_path / "out")] == ["00000000.png", "00000001.png"]


def test_image_that_was_cut_off_is_not_listed(model, tmp_path):
    out = tmp_path / "out"
    make(model, out, 4)
    (out / "00000003.png").write_bytes((out / "00000003.png").read_bytes()[:-100])
    make(model, out, 1, seed=30)
    assert [int(row["seed"]) for row in rows(out)] == [0, 1, 2, 30]


def picture(kind: str) -> bytes:
    """A picture of somebody else's."""
    content = io.BytesIO()
    Image.new("RGB", (7, 7)).save(content, "JPEG" if kind == "jpeg" else "PNG")
    return content.getvalue()[: -5 if kind == "cut off" else None] + (b"trailer" if kind == "trailer" else b"")


@pytest.mark.parametrize("kind", ["png", "jpeg", "cut off", "trailer", "another seed", "other settings"])
def test_file_of_another_in_the_place_of_an_image_is_told_and_left_alone(kind, model, tmp_path):
    out, place = tmp_path / "out", tmp_path / "out" / "00000006.png"
    make(model, out, 1)
    make(model, tmp_path / "other", 7, steps=5)
    place.write_bytes(picture(kind))
    if kind == "another seed":
        shutil.copy(out / "00000000.png", place)
    if kind == "other settings":
        shutil.copy(tmp_path / "other" / "00000006.png", place)
    before = contents(out)
    with pytest.raises(FileExistsError, match=r"00000006.png is no image of this folder, but lies where .* seed 6"):
        make(model, out, 7)
    assert contents(out) == before
    assert make(model, out, 6) == 5


# Killed, full, late, at once.


def test_full_disk_leaves_whole_images_only(model, tmp_path):
    make(model, tmp_path / "whole", 4)
    make(model, tmp_path / "out", 1)
    size = (tmp_path / "out" / "00000000.png").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            make(model, tmp_path / "out", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00000000.png", "generation.json", "metadata.csv"]
    assert len(rows(tmp_path / "out")) == 1
    make(model, tmp_path / "out", 4)
    assert pixels(tmp_path / "out") == pixels(tmp_path / "whole")


def test_hidden_folders_of_killed_runs_are_removed_when_they_are_old(model, tmp_path):
    make(model, tmp_path / "out", 1)
    for name, age in (("old", 7200), ("new", 60)):
        folder = tmp_path / "out" / f".partial-{name}"
        folder.mkdir()
        (folder / "image.png").write_bytes(b"half")
        os.utime(folder, (time.time() - age,) * 2)
    make(model, tmp_path / "out", 1)
    assert [p.name for p in (tmp_path / "out").glob(".*")] == [".partial-new"]


def test_of_two_runs_in_a_new_folder_the_first_one_says_what_it_holds(model, tmp_path, monkeypatch):
    link = os.link

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(generation.os, "link", link)
        make(model, tmp_path / "out", 2, steps=5)
        link(source, target)

    monkeypatch.setattr(generation.os, "link", overtaken)
    with pytest.raises(ValueError, match=r"made with another steps \(5 there, 3 now\)"):
        make(model, tmp_path / "out", 2)
    assert {row["steps"] for row in rows(tmp_path / "out")} == {"5"}


def test_folder_without_hard_links_is_claimed_too(model, tmp_path, monkeypatch):
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(generation.os, "link", refuse)
    assert make(model, tmp_path / "out", 1) == 1
    assert make(model, tmp_path / "out", 2) == 1


def test_metadata_lists_all_where_two_runs_end_at_the_same_moment(model, tmp_path, monkeypatch):
    plain = csv.writer

    def overtaken(file):
        # The other run makes its images and writes its list while ours is being written.
        monkeypatch.setattr(generation.csv, "writer", plain)
        make(model, tmp_path / "out", 2, seed=10)
        return plain(file)

    monkeypatch.setattr(generation.csv, "writer", overtaken)
    make(model, tmp_path / "out", 2)
    assert [int(row["seed"]) for row in rows(tmp_path / "out")] == [0, 1, 10, 11]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_that_start_late_make_their_share(order, model, tmp_path, monkeypatch):
    made = []
    for index in order:
        state = SimpleNamespace(device=torch.device("cpu"), process_index=index, num_processes=3)
        monkeypatch.setattr(generation, "process_state", lambda state=state: state)
        assert not (tmp_path / "out" / "metadata.csv").exists()
        made.append(make(model, tmp_path / "out", 22))
    assert sum(made) == 22
    assert min(made) > 0
    assert [int(row["seed"]) for row in rows(tmp_path / "out")] == list(range(22))


def test_progress_is_reported_from_nothing_to_all(model, tmp_path):
    seen: list[tuple[int, int]] = []
    make(model, tmp_path / "out", 10, report=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 12), (4, 12), (8, 12), (12, 12)]


def command(model: str, out: Path, num: int, seed: int = 0) -> list[str]:
    options = ["--num", num, "--seed", seed, "--batch-size", 4, "--steps", STEPS, "--out", out]
    return ["generate", model, *map(str, options)]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)
    assert process.poll() is None, "the process ended before it could be killed"


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_images(model, tmp_path):
    out, number = tmp_path / "out", 200
    process = subprocess.Popen([sys.executable, "-m", "wbc_diffusers", *command(model, out, number)])
    wait_for(lambda: len(list(out.glob("*.png"))) > 5, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    made = len(list(out.glob("*.png")))
    assert 5 < made < number
    for path in out.glob("*.png"):
        Image.open(path).load()
    assert make(model, out, number) == number - made
    make(model, tmp_path / "whole", number)
    assert pixels(out) == pixels(tmp_path / "whole")
    assert rows(out) == rows(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_and_a_third_run_beside_them_fill_one_folder(model, tmp_path):
    out = tmp_path / "out"
    # accelerate's own --cpu starts a single process; its --multi_gpu starts several, on what the variable says.
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "--main_process_port", "0", "-m"]
    several = subprocess.Popen(
        [*launch, "wbc_diffusers", *command(model, out, 40)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )
    alone = subprocess.run(
        [sys.executable, "-m", "wbc_diffusers", *command(model, out, 40, seed=20)],
        capture_output=True,
        text=True,
        check=False,
    )
    said, errors = several.communicate(timeout=900)
    assert alone.returncode == several.returncode == 0, alone.stderr + errors
    assert re.findall(r"Process (\d) of 2 made", said) in (["0", "1"], ["1", "0"])
    make(model, tmp_path / "whole", 60)
    assert pixels(out) == pixels(tmp_path / "whole")
    assert rows(out) == rows(tmp_path / "whole")
    assert not list(out.glob(".*"))
