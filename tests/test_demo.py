"""The demo, with a plan small enough for a test."""

import base64
import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wbc_diffusers import WBCDDIMPipeline
from wbc_diffusers.data.check import read_origin
from wbc_diffusers.demo import Plan, run_demo
from wbc_diffusers.evaluation.lobes import count_lobes

SMALL = {"block_out_channels": [4, 8], "block_type": "residual", "condition_blocks": True}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the page of a demo with two updates of each training."""
    plan = Plan(normal_cells=80, rare_cells=120, samples=8)
    base = replace(plan.base, model=SMALL, max_train_steps=4, validate_every=2)
    plan = replace(plan, base=base, rare=replace(plan.rare, max_train_steps=4, validate_every=2))
    return run_demo(tmp_path_factory.mktemp("demo") / "out", plan, say=lambda line: None)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def shown(folder: Path) -> list[dict[str, str]]:
    """Give eight rows spread over the folder."""
    rows = rows_of(folder)
    return [rows[i * (len(rows) // 8)] for i in range(8)]


def lobes_in(folder: Path) -> np.ndarray:
    images = [Image.open(folder / row["file_name"]) for row in shown(folder)]
    return np.array([count_lobes(np.asarray(image)) for image in images])


@pytest.mark.slow
def test_the_page_needs_nothing_beside_it(finished: Path) -> None:
    page = finished.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:link|script|iframe)|(?:src|href)=[\"'](?!data:|#)", page)
    pictures = re.findall('data:image/png;base64,([^"]+)', page)
    source_types = [read_origin(base64.b64decode(picture)).source_type for picture in pictures]
    assert source_types == ["algorithmicMedia", "trainedAlgorithmicMedia"] * 2
    assert page.count("<svg") == page.count("</svg>") == 3


@pytest.mark.slow
def test_the_page_tells_the_lobes_of_the_folders_beside_it(finished: Path) -> None:
    page = finished.read_text(encoding="utf-8")
    for folder in ("phantom/normal", "generated-normal", "phantom/hypersegmented", "generated-hypersegmented"):
        lobes = lobes_in(finished.parent / folder)
        assert f"<td>{lobes.mean():.2f}</td>" in page
        assert f"<td>{100 * (lobes >= 6).mean():.0f} %</td>" in page
    known = ["phantom/normal", "phantom/hypersegmented"]
    truth = np.array([int(row["lobes"]) for f in known for row in shown(finished.parent / f)])
    counted = np.concatenate([lobes_in(finished.parent / f) for f in known])
    assert f"right in\n{100 * (counted == truth).mean():.0f} %" in page


@pytest.mark.slow
def test_the_rare_model_comes_from_the_base_model(finished: Path) -> None:
    base = WBCDDIMPipeline.from_pretrained(finished.parent / "base")
    rare = WBCDDIMPipeline.from_pretrained(finished.parent / "hypersegmentation")
    assert rare.training_manifest["recipe"]["where"] == {"abnormality": "hypersegmentation", "grade": 2}
    assert rare.training_manifest["parents"][0]["weights_sha256"] == base.training_manifest["weights_sha256"]
    seen = set(rare.training_manifest["image_pixel_sha256"])
    assert seen.isdisjoint(base.training_manifest["image_pixel_sha256"])
    assert len(seen) == sum(
        row["abnormality"] == "hypersegmentation" for row in rows_of(finished.parent / "prepared/train")
    )


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="new or empty folder"):
        run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
