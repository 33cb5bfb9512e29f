"""What a training's judge says of images that are good, defective, or copied."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wbc_diffusers.cli import main
from wbc_diffusers.data.phantom import render_cell
from wbc_diffusers.evaluation.during import TrainingJudge
from wbc_diffusers.evaluation.encoders import load_encoder


def cells(numbers: range) -> list[np.ndarray]:
    """Phantom cells, each of another slide: a slide's cells share their colours."""
    return [render_cell(48, 41 * number, "none", 0).pixels for number in numbers]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom cells of 48 px: 120 for training, 100 held out."""
    folder = tmp_path_factory.mktemp("prepared")
    for split, seeds in (("train", range(120)), ("validation", range(200, 300))):
        (folder / split).mkdir()
        with (folder / split / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file_name", "abnormality"), *((f"{s}.png", "none") for s in seeds)])
        for number, pixels in zip(seeds, cells(seeds), strict=True):
            Image.fromarray(pixels).save(folder / split / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def judge(prepared: Path) -> TrainingJudge:
    return TrainingJudge(str(prepared), {}, 48, 60, load_encoder("efficientnet-lite0"))


def said(judge: TrainingJudge, images: list[np.ndarray]) -> dict[str, float]:
    return judge([Image.fromarray(pixels) for pixels in images]).figures


def test_good_images_are_near_and_no_copies(judge: TrainingJudge) -> None:
    found = said(judge, cells(range(400, 460)))
    name = "evaluation/kd_efficientnet_lite0"
    assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert found[f"{name}_low"] < 0.02
    assert found["evaluation/copies"] <= 0.05
    assert found["evaluation/colour_drift"] < 8


def test_each_defect_is_seen_by_its_figure(judge: TrainingJudge) -> None:
    good = said(judge, cells(range(400, 460)))
    noise = np.random.default_rng(0)
    noisy = [np.clip(p + noise.normal(0, 25, p.shape), 0, 255).astype(np.uint8) for p in cells(range(400, 460))]
    name = "evaluation/kd_efficientnet_lite0"
    assert said(judge, noisy)[f"{name}_low"] > good[f"{name}_high"]
    red = [np.clip(p + np.array([15, 0, 0]), 0, 255).astype(np.uint8) for p in cells(range(400, 460))]
    assert said(judge, red)["evaluation/colour_drift"] > good["evaluation/colour_drift"] + 5
    copied = [p[:, ::-1] for p in cells(range(20, 50))] + cells(range(400, 430))
    assert said(judge, copied)["evaluation/copies"] >= 0.5


def test_the_score_is_the_distance_and_the_same_every_time(judge: TrainingJudge) -> None:
    images = [Image.fromarray(p) for p in cells(range(400, 430))]
    first, second = judge(images), judge(images)
    assert first == second
    assert first.score == first.figures["evaluation/kd_efficientnet_lite0"]


def test_too_few_images_are_told(prepared: Path) -> None:
    with pytest.raises(ValueError, match="judged by 20 images or more"):
        TrainingJudge(str(prepared), {}, 48, 10, load_encoder("efficientnet-lite0"))


def test_the_real_images_are_of_all_kinds_whatever_their_names(tmp_path: Path) -> None:
    for split, shift in (("train", 1000), ("validation", 0)):
        (tmp_path / split).mkdir()
        for i, pixels in enumerate(cells(range(shift, shift + 60))):
            dark = pixels // 2 if i < 30 else pixels  # by name, one kind comes first
            Image.fromarray(dark).save(tmp_path / split / f"{i:03d}.png")
    judge = TrainingJudge(str(tmp_path), {}, 48, 30, load_encoder("efficientnet-lite0"))
    every = np.mean([np.asarray(Image.open(path)) for path in sorted((tmp_path / "validation").glob("*.png"))])
    assert judge.colour.mean() == pytest.approx(every, abs=20)
    assert judge.near is None  # of 60 held-out images no threshold can be told


def test_a_training_image_among_those_held_out_is_told(tmp_path: Path) -> None:
    both = cells(range(130))
    for split, images in (("train", both[:30]), ("validation", [*both[30:], both[3][:, ::-1]])):
        (tmp_path / split).mkdir()
        for i, pixels in enumerate(images):
            Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / split / f"{i:03d}.png")
    with pytest.raises(ValueError, match="1 of 101 held-out images are training images, number 100 is number 3"):
        TrainingJudge(str(tmp_path), {}, 48, 30, load_encoder("efficientnet-lite0"))


@pytest.mark.slow
def test_the_command_judges_and_keeps_the_best(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    options: dict[str, Any] = {
        "config": "ours-64", "data": prepared, "output": out, "resolution": 48, "max-train-steps": 4, "num-workers": 0,
        "train-batch-size": 4, "model": "{block_out_channels: [4, 8]}", "sample-images": 0, "validation-images": 0,
        "evaluate-every": 2, "evaluate-images": 20, "evaluate-encoder": "efficientnet-lite0", "sample-steps": 2,
    }  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["train", *(word for name, value in options.items() for word in (f"--{name}", str(value)))])
    assert ended.value.code == 0
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    judged = {row["step"]: row["evaluation/kd_efficientnet_lite0"] for row in rows if "evaluation/copies" in row}
    assert set(judged) == {2, 4}
    best = json.loads((out / "best" / "score.json").read_text())
    assert best["score"] == min(judged.values())
    assert judged[best["step"]] == best["score"]
    assert (out / "best" / "model_index.json").is_file()


def test_training_imports_no_evaluation() -> None:
    source = Path(__file__).parents[2] / "src" / "wbc_diffusers" / "training"
    assert len(list(source.glob("*.py"))) > 10
    for path in source.glob("*.py"):
        assert not re.search(r"wbc_diffusers\.evaluation|import evaluation", path.read_text()), path.name
