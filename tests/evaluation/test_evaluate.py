"""The whole evaluation: what it writes, what it refuses, and that defects are seen by the figure meant for them."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wbc_diffusers.cli import main
from wbc_diffusers.data.check import read_origin
from wbc_diffusers.data.manifest import build_manifest
from wbc_diffusers.data.phantom import render_cell
from wbc_diffusers.evaluation.cache import CacheError
from wbc_diffusers.evaluation.evaluate import LeakError, evaluate
from wbc_diffusers.evaluation.found import Plan
from wbc_diffusers.evaluation.images import ImageSetError
from wbc_diffusers.generation import generate
from wbc_diffusers.models.r2_attn_unet import R2AttnUNet
from wbc_diffusers.pipelines import WBCDDIMPipeline
from wbc_diffusers.schedulers.scheduling_sigmoid_ddim import SigmoidDDIMScheduler

Write = Callable[..., Path]
LITE = ("efficientnet-lite0",)


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    """Phantom cells of 48 px, each of another slide."""
    return [render_cell(48, 41 * i, "none", 0).pixels for i in range(96)]


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    whole = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert whole["schema_version"] == 1
    assert {"measure", "encoder", "value", "low", "high", "floor", "n_real", "n_generated"} <= set(whole["rows"][0])
    assert len({row["measure"] for row in whole["rows"]}) == len(whole["rows"])
    return {row["measure"]: row for row in whole["rows"]}


def source_types(page: str) -> list[str | None]:
    """Give what each picture of a page says it is."""
    pictures = re.findall('data:image/png;base64,([^"]+)', page)
    return [read_origin(base64.b64decode(picture)).source_type for picture in pictures]


def test_an_evaluation_says_how_far_sets_are_and_beside_what(
    drawn: list[np.ndarray], folder: Write, tmp_path: Path
) -> None:
    real, made = folder("real", drawn[:40]), folder("made", drawn[40:70], "trainedAlgorithmicMedia")
    found = evaluate(Plan(real, made, encoders=LITE, cache=tmp_path / "cache"), tmp_path / "out")
    assert found is not None
    rows = rows_of(tmp_path / "out")
    distance = rows["fd_efficientnet_lite0"]
    assert (distance["n_real"], distance["n_generated"]) == (40, 30)
    assert (distance["floor_n_real"], distance["floor_n_other"]) == (20, 20)
    assert distance["low"] < distance["value"] < distance["high"]
    assert distance["value_at_floor"] == pytest.approx(distance["floor"], rel=0.5)  # of one distribution
    assert rows["probe_auc_efficientnet_lite0"]["low"] < 0.6
    assert rows["contrast_difference"]["low"] < 0 < rows["contrast_difference"]["high"]
    assert not any(name in rows for name in ("fid", "kid", "copies"))
    assert rows["share_without_nucleus"]["value"] == 0
    assert 0 < rows["share_without_nucleus"]["high"] < 0.15
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [(each["role"], each["images"], each["width"]) for each in whole["sets"]] == [
        ("real", 40, 48), ("generated", 30, 48)
    ]  # fmt: skip
    assert len(whole["encoders"][0]["most_convincing_first"]) == 30
    contrast = whole["cells"]["differences"][0]
    assert contrast["generated"] - contrast["real"] == pytest.approx(rows["contrast_difference"]["value"])
    assert whole["copies"] is None
    page = (tmp_path / "out" / "index.html").read_text()
    assert source_types(page) == ["algorithmicMedia", *["trainedAlgorithmicMedia"] * 3]
    assert "<svg" in page
    assert any("kernel distance" in note for note in found.notes)
    assert any("one half of the real images" in note for note in found.notes)
    assert any("was not looked up" in note for note in found.notes)
    hashes = sorted(hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in drawn[:40])
    assert whole["sets"][0]["pixels_sha256"] == hashlib.sha256("".join(hashes).encode()).hexdigest()
    assert (whole["where"], whole["allow_leaks"]) == ([], False)

    evaluate(Plan(real, made, encoders=LITE, cache=tmp_path / "cache"), tmp_path / "again")
    # To the last digit.
    assert (tmp_path / "again" / "evaluation.json").read_text() == (tmp_path / "out" / "evaluation.json").read_text()
    assert (tmp_path / "again" / "index.html").read_text() == page


def test_what_is_refused_leaves_nothing_behind(drawn: list[np.ndarray], folder: Write, tmp_path: Path) -> None:
    real, made = folder("real", drawn[:24]), folder("made", drawn[24:48])
    train, other = folder("train", [drawn[3], *drawn[48:72]]), folder("other", drawn[72:96])
    refused: list[tuple[Plan, type[Exception], str]] = [
        (Plan(real, real, encoders=LITE), ImageSetError, "are the same"),
        (Plan(tmp_path / "no", made, encoders=LITE), FileNotFoundError, "does not exist"),
        (Plan(real, other, other, encoders=LITE), ImageSetError, "training images and the generated ones are the same"),
        (Plan(real, made, encoders=LITE, cache=made), CacheError, "cannot be used"),
        (Plan(real, made, encoders=("resnet",)), ValueError, "no encoder 'resnet'"),
        (Plan(real, made, train, encoders=LITE), LeakError, "1 of the real images.*--allow-leaks"),
        (Plan(real, made, encoders=LITE, model=made), FileNotFoundError, r"has no training_manifest\.json"),
        (Plan(real, made, encoders=LITE, inception_weights=made), ValueError, "no encoder inception-v3"),
        (Plan(real, made, encoders=LITE, size=96), ImageSetError, "smaller than the size of 96"),
    ]
    for plan, error, words in refused:
        with pytest.raises(error, match=words):
            evaluate(plan, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    for part in (real, made, train):
        with pytest.raises(ValueError, match="lies in the source"):
            evaluate(Plan(real, made, train, encoders=LITE), part / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["made", "other", "real", "train"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(FileExistsError):
        evaluate(Plan(real, made, encoders=LITE), tmp_path / "out")


def test_images_that_the_model_knows_stop_the_run_unless_allowed(
    drawn: list[np.ndarray], folder: Write, tmp_path: Path
) -> None:
    real, made, model = folder("real", drawn[:24]), folder("made", drawn[24:48]), tmp_path / "model"
    model.mkdir()
    base = build_manifest({}, [hashlib.sha256(drawn[5].tobytes()).hexdigest()])
    manifest = build_manifest({}, ["0" * 64], parent=base)
    (model / "training_manifest.json").write_text(json.dumps(manifest))
    plan = Plan(real, made, encoders=LITE, model=model)
    with pytest.raises(LeakError, match=r"such as 0005\.png: 1 of the real images are among its .*2 different ones"):
        evaluate(plan, tmp_path / "out")
    train = folder("train", drawn[5:29])
    found = evaluate(Plan(real, made, train, LITE, model=model, allow_leaks=True), tmp_path / "out")
    assert found is not None
    assert any("1 of the real images are among its training images (2 diff" in note for note in found.notes)
    assert any(note.startswith("1 of the 2 images that the model was trained on") for note in found.notes)
    assert not any("was not looked up" in note for note in found.notes)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["allow_leaks"] is True


def test_the_model_that_is_asked_for_leaks_must_have_made_the_images(
    drawn: list[np.ndarray], folder: Write, tmp_path: Path
) -> None:
    real = folder("real", drawn[:24])
    for name, seed in (("model", 0), ("other", 1)):
        torch.manual_seed(seed)
        unet = R2AttnUNet(sample_size=32, block_out_channels=(4, 8))
        WBCDDIMPipeline(unet, SigmoidDDIMScheduler()).save_pretrained(tmp_path / name)
        manifest = json.dumps(build_manifest({}, ["0" * 64]))
        (tmp_path / name / "training_manifest.json").write_text(manifest)
    generate(str(tmp_path / "model"), tmp_path / "made", 20, steps=1)
    with pytest.raises(ValueError, match=r"made were made by another model than .*other is now: name that one"):
        evaluate(Plan(real, tmp_path / "made", encoders=LITE, model=tmp_path / "other"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    unchecked = "could not be checked"
    shutil.copytree(tmp_path / "model", tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    manifest_alone = tmp_path / "other" / "training_manifest.json"
    for number, (model, is_told) in enumerate(
        ((tmp_path / "model", False), (manifest_alone, True), (tmp_path / "bare", True))
    ):
        found = evaluate(Plan(real, tmp_path / "made", encoders=LITE, model=model), tmp_path / f"out-{number}")
        assert found is not None
        assert any(unchecked in note for note in found.notes) is is_told


def test_what_the_command_needs_is_told_before_anything_is_encoded(
    drawn: list[np.ndarray], folder: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real, made = folder("real", drawn[:24]), folder("made", drawn[24:48])
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", "--real", str(real), "--generated", str(made), "--out", str(real.parent / "out")])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.strip().endswith("pip install 'wbc-diffusers[evaluate]'.")


def test_the_command_tells_in_a_line(drawn: list[np.ndarray], folder: Write, capsys: pytest.CaptureFixture) -> None:
    real = folder("real", drawn[:24])
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--real", str(real), "--generated", str(real), "--out", "x", "--encoder", LITE[0]])
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("wbc: The real images in")
    assert "are the same" in told


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(
    drawn: list[np.ndarray], folder: Write, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    real, made, said = folder("real", drawn[:24]), folder("made", drawn[24:48]), list[str]()
    with pytest.raises(OSError, match="cannot be made"):
        evaluate(Plan(real, made, encoders=LITE), tmp_path / "file" / "out", said.append)
    assert not said


def test_training_images_that_are_real_ones_are_no_floor(
    drawn: list[np.ndarray], folder: Write, tmp_path: Path
) -> None:
    real, made = folder("real", drawn[:30]), folder("made", drawn[30:60], "trainedAlgorithmicMedia")
    cache = tmp_path / "features.sqlite"
    leaked = evaluate(Plan(real, made, real, LITE, allow_leaks=True, cache=cache), tmp_path / "leaked")
    without = evaluate(Plan(real, made, None, LITE, cache=cache), tmp_path / "without")
    other = evaluate(Plan(real, made, folder("train", drawn[60:96]), LITE, cache=cache), tmp_path / "other")
    assert leaked is not None
    assert without is not None
    assert other is not None
    assert leaked.rows == without.rows
    assert (other.rows[0].floor_n_real, other.rows[0].floor_n_other) == (30, 30)
    assert (leaked.rows[0].floor_n_real, leaked.rows[0].floor_n_other) == (15, 15)
    assert any("one half of the real images" in note for note in leaked.notes)
    assert any("30 of the real images are among" in note for note in leaked.notes)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_names_that_are_not_utf8_and_cells_that_are_none(
    drawn: list[np.ndarray], folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    real, made = folder("real", drawn[:24]), folder("made", [np.zeros_like(drawn[0])] * 24)
    (made / "0001.png").rename(made / "\udce9.png")
    named = tmp_path / "\udce9"
    made.rename(named)
    out = tmp_path / "\udcfcout"
    command = ["evaluate", "--real", real, "--generated", named, "--out", out, "--encoder", LITE[0], "--no-cache"]
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in command])
    assert not ended.value.code
    whole = json.loads((out / "evaluation.json").read_text())
    assert "\\xe9.png" in whole["encoders"][0]["most_convincing_first"]
    assert whole["sets"][1]["folder"] == "\\xe9"
    told = capsys.readouterr().out
    assert "Wrote " in told
    beside = next(row["value_at_floor"] for row in whole["rows"] if row["measure"] == "fd_efficientnet_lite0")
    assert f"(beside it {beside:.0f})" in told
    assert "share_hypersegmentation            not measured" in told
    assert (out / "index.html").is_file()


@pytest.fixture(scope="module")
def many() -> list[np.ndarray]:
    return [render_cell(48, 41 * i, "none", 0).pixels for i in range(300)]


@pytest.mark.slow
def test_copies_among_generated_images_are_seen(many: list[np.ndarray], folder: Write, tmp_path: Path) -> None:
    turned = np.ascontiguousarray(np.rot90(many[50]))  # one of the real images is a training image
    train, real = folder("train", many[:100]), folder("real", [*many[100:200], turned])
    copied = [np.ascontiguousarray(np.rot90(pixels)) for pixels in many[:12]]
    made = folder("made", [*many[200:290], *copied], "trainedAlgorithmicMedia")
    with pytest.raises(LeakError, match=r"such as 0100\.png: 0 of the real images .* 1 others look like one"):
        evaluate(Plan(real, made, train, encoders=LITE), tmp_path / "out")
    found = evaluate(Plan(real, made, train, encoders=LITE, allow_leaks=True), tmp_path / "out")
    assert found is not None
    assert len(found.copying.pixels.held_out.index) == 100  # the leaked one is no judge of what a copy is
    rows = rows_of(tmp_path / "out")
    assert rows["copies"]["value"] == pytest.approx(12 / 102, abs=0.03)
    assert rows["copies_excess"]["low"] > 0
    assert rows["copies_found"]["value"] > 0.95
    audit = json.loads((tmp_path / "out" / "evaluation.json").read_text())["copies"]["pixels"]
    # Copy number 90 + i is a training image's number i.
    pairs = {(int(p["generated"][:4]) - 90, int(p["training"][:4])) for p in audit["closest"]}
    assert len(pairs) == 10
    assert all(copy == original for copy, original in pairs)
    pairs_by_pixels_and_features = source_types((tmp_path / "out" / "index.html").read_text())[-2:]
    assert pairs_by_pixels_and_features == ["compositeWithTrainedAlgorithmicMedia"] * 2
    assert rows["fd_efficientnet_lite0"]["floor_n_other"] == 51  # with a leak, halves of the 101 real images


@pytest.mark.slow
def test_two_processes_write_what_one_writes(drawn: list[np.ndarray], folder: Write, tmp_path: Path) -> None:
    real, made = folder("real", drawn[:24]), folder("made", drawn[24:48])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = ["wbc_diffusers", "evaluate", "--real", real, "--generated", made, "--encoder", LITE[0], "--no-cache"]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", *command]
    subprocess.run([*two, "--out", tmp_path / "two"], check=True, env=environment, timeout=900)
    subprocess.run(
        [sys.executable, "-m", *command, "--out", tmp_path / "one"], check=True, env=environment, timeout=900
    )
    one, both = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert one.keys() == both.keys()
    for name, row in one.items():
        assert both[name]["value"] == pytest.approx(row["value"], rel=1e-3, abs=1e-6), name
