"""The images that a classifier is trained on: sizes of table 4, synthetic ones by ratio, the filter."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest

from tests.shaded import SMALL, write_cells, write_splits
from wbc_diffusers.data.labelled import Classes
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.generation import SETTINGS_NAME
from wbc_diffusers.shelves import shelf
from wbc_diffusers.study.config import load_study
from wbc_diffusers.training.classifier import ClassifierTask, train_classifier
from wbc_diffusers.training.recipe import ClassifierRecipe
from wbc_diffusers.training.selection import load_pool, load_real, passes

TABLE_4 = {
    "hypersegmentation": ([20000, 9459], [4983, 267], [11330, 441], 5e-6),
    "dohle-bodies": ([20000, 8976], [4786, 464], [11112, 660], 2e-6),
    "hypergranulation": ([20000, 9823], [4191, 1059], [11028, 733], 5e-6),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give splits of 40 normal and 12 abnormal cells, and half as many."""
    return write_splits(tmp_path_factory.mktemp("data") / "cells")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give generated cells: 30 that are abnormal as they say, and 10 normal ones."""
    counts = {("hypersegmentation", 2): 30, ("none", 0): 10}
    return write_cells(tmp_path_factory.mktemp("made") / "cells", counts, 0, synthetic=True)


def recipe(**changes: Any) -> ClassifierRecipe:
    return ClassifierRecipe.from_dict({**SMALL, **changes})


def counts(data: Any) -> dict[tuple[str, bool], int]:
    return dict(Counter(zip(data["class"], data["synthetic"], strict=True)))


@pytest.mark.parametrize("name", TABLE_4)
def test_the_thesis_studies_are_table_4_times_their_factor(name: str) -> None:
    train, validation, test, rate = TABLE_4[name]
    study = load_study(shelf("training/studies") / f"thesis-{name}.yaml", scale=0.5)
    real, both = (study.recipes(arm, 0, Path())[0] for arm in study.all_arms())
    assert real.sizes == both.sizes == {"train": train, "validation": validation, "test": test}
    assert (real.synthetic_ratio, both.synthetic_ratio) == ([], [0.0, 1.0])  # as many synthetic ones as abnormal ones
    assert (real.learning_rate, real.optimizer, real.scale) == (rate, "adam", 0.5)
    assert (
        study.updates
        == real.max_train_steps
        == both.max_train_steps
        == -(-150 * sum(round(n / 2) for n in train) // 32)
    )


def test_sizes_are_scaled_by_one_factor_and_only_training_images_are_ever_repeated(data: Path, made: Path) -> None:
    sizes = {"train": [60, 20], "validation": [30, 10], "test": [40, 12]}
    task = ClassifierTask(
        recipe(sizes=sizes, scale=0.5, synthetic=[str(made)], synthetic_ratio=[0.0, 1.0], oversample=True)
    )
    loaded = {split: task.load(str(data), split) for split in ("train", "validation", "test")}
    assert counts(loaded["validation"]) == {("normal", False): 15, ("hypersegmentation", False): 5}
    assert counts(loaded["test"]) == {("normal", False): 20, ("hypersegmentation", False): 6}
    assert len(loaded["train"]) == 60
    assert len(set(loaded["train"]["pixel_sha256"])) == 30 + 10 + 10
    assert task.facts["real_images"] == {"normal": 30, "hypersegmentation": 10}
    assert task.facts["synthetic_images"]["hypersegmentation"] == {"wanted": 10, "passed": 30, "taken": 10}


def test_synthetic_images_come_by_seed_and_the_last_ones_never(data: Path, made: Path) -> None:
    few = recipe(synthetic=[str(made)], synthetic_ratio=[0.1, 1.5], synthetic_held_out=4)
    taken = ClassifierTask(few).load(str(data), "train")
    names = sorted(n for n, s in zip(taken["file_name"], taken["synthetic"], strict=True) if s)
    assert names == [f"{i:08}.png" for i in (*range(18), *range(30, 34))]
    held = load_pool(few, held_out=True)
    assert sorted(held["file_name"]) == [f"{i:08}.png" for i in (*range(26, 30), *range(36, 40))]
    with pytest.raises(ValueError, match="27 synthetic images of class hypersegmentation are wanted, and there are 26"):
        ClassifierTask(replace(few, synthetic_ratio=[0.0, 27 / 12])).load(str(data), "train")


@pytest.mark.parametrize("told", ["", "hypersegmentation", None])
def test_cells_of_a_model_that_says_nothing_of_their_abnormality_are_refused(tmp_path: Path, told: str | None) -> None:
    made = write_cells(tmp_path / "made", {("hypersegmentation", 2): 6}, 0, synthetic=True)
    if told is not None:
        (made / SETTINGS_NAME).write_text(json.dumps({"abnormality": told}))
    wanted = recipe(synthetic=[str(made)], synthetic_ratio=[0.0, 0.5])
    if told == "":
        with pytest.raises(ValueError, match="their class is unknown: train it with a `where` that names it"):
            load_pool(wanted)
    else:
        assert len(load_pool(wanted)) == 6


def test_a_generator_and_a_study_of_as_many_images_take_the_same_ones(data: Path) -> None:
    from wbc_diffusers.data.dataset import first_by_hash

    rare = load_cells(str(data), "train", where={"abnormality": "hypersegmentation"})
    of_generator = set(first_by_hash(rare, 5)["file_name"])
    of_study = load_real(recipe(sizes={"train": [10, 5]}), str(data), "train")
    assert of_generator == {
        n for n, c in zip(of_study["file_name"], of_study["class"], strict=True) if c == "hypersegmentation"
    }


def test_synthetic_images_alone_can_be_trained_on(data: Path, made: Path) -> None:
    alone = recipe(real_images=False, synthetic=[str(made)], synthetic_ratio=[0.2, 1.0])
    assert counts(ClassifierTask(alone).load(str(data), "train")) == {
        ("normal", True): 8, ("hypersegmentation", True): 12,
    }  # fmt: skip
    with pytest.raises(ValueError, match="no training image of class normal"):
        ClassifierTask(replace(alone, synthetic_ratio=[0.0, 1.0])).load(str(data), "train")


def at(*degrees: float) -> Any:
    """Features at angles to the first axis, so that the likeness of two is the cosine of the angle between them."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({}, [True, True, False, False, False, True, False]),
        ({"similarity": None}, [True, True, True, True, False, True, False]),
        ({"similarity": 0.0}, [True, True, True, False, False, True, False]),
        ({"similarity": 1.0}, [True, False, False, False, False, True, False]),
        ({"confidence": 0.3}, [True, True, False, False, True, True, True]),
        ({"confidence": 0.95}, [False] * 7),
    ],
)
def test_an_image_passes_by_its_confidence_and_its_likeness_to_the_nearest_real_one_of_its_class(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], kept: list[bool]
) -> None:
    classes = Classes("hypersegmentation")
    normal, abnormal = classes.names
    real = datasets.Dataset.from_dict({"class": [abnormal] * 6 + [normal] * 3})
    pool = datasets.Dataset.from_dict({"class": [abnormal] * 5 + [normal] * 2})
    # Abnormal real ones are 10 degrees from the next, and the last one 40: that is the least likeness among them, and
    # the quantile of 0.05 between six lies a quarter of the way to the next, at 34.8 degrees.
    of_real = at(0, 10, 20, 30, 40, 80, 180, 190, 200)
    of_pool = at(5, -15, -37, 180, 20, 185, 200)  # the fourth is like normal ones, the fifth and the last are unsure
    shares = np.array([[0.1, 0.9]] * 4 + [[0.6, 0.4]] + [[0.9, 0.1], [0.4, 0.6]])
    judge = SimpleNamespace(class_names=classes.names, resolution=48)
    monkeypatch.setattr("wbc_diffusers.training.selection.Classifier.from_pretrained", lambda folder: judge)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    seen = {len(of_pool): (of_pool, shares), len(of_real): (of_real, np.full((9, 2), 0.5))}

    def look(judge: Any, images: Any) -> Any:
        assert images.spec.resolution == 48  # as the judge was trained, whatever the recipe that it filters for
        return seen[len(images)]

    monkeypatch.setattr("wbc_diffusers.training.selection.look_at", look)
    filtered = recipe(synthetic=["made"], synthetic_ratio=[0.0, 1.0], synthetic_filter={"classifier": "judge", **asked})
    assert passes(filtered, pool, real, classes).tolist() == kept


def test_a_judge_of_other_classes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = SimpleNamespace(class_names=["normal", "dohle_bodies"])
    monkeypatch.setattr("wbc_diffusers.training.selection.Classifier.from_pretrained", lambda folder: judge)
    filtered = recipe(synthetic=["made"], synthetic_ratio=[0.0, 1.0], synthetic_filter={"classifier": "judge"})
    with pytest.raises(ValueError, match="judge tells normal, dohle_bodies apart, and the recipe normal, hyperseg"):
        passes(filtered, None, None, Classes("hypersegmentation"))


@pytest.mark.slow
def test_the_filter_drops_planted_cells_of_the_other_class_and_keeps_the_right_ones(data: Path, tmp_path: Path) -> None:
    train_classifier(recipe(max_train_steps=60, validate_every=20, oversample=True), str(data), tmp_path / "judge")
    right = write_cells(tmp_path / "right", {("hypersegmentation", 2): 20}, 0, synthetic=True)
    wrong = write_cells(tmp_path / "wrong", {("none", 0): 20}, 20, synthetic=True)
    table = (wrong / "metadata.csv").read_text().replace("none,0", "hypersegmentation,2")
    (wrong / "metadata.csv").write_text(table)
    filtered = recipe(
        synthetic=[str(right), str(wrong)],
        synthetic_ratio=[0.0, 3.0],
        synthetic_filter={"classifier": str(tmp_path / "judge"), "similarity": 0.0},
    )
    task = ClassifierTask(filtered)
    taken = task.load(str(data), "train")
    numbers = [int(n[:8]) for n, s in zip(taken["file_name"], taken["synthetic"], strict=True) if s]
    assert np.mean(np.array(numbers) < 20) > 0.9
    assert len(numbers) >= 16
    told = task.facts["synthetic_images"]["hypersegmentation"]
    assert told == {"wanted": 36, "passed": len(numbers), "taken": len(numbers)}
    nothing = replace(filtered, synthetic_filter={**filtered.synthetic_filter, "confidence": 1.0})
    with pytest.raises(ValueError, match="No synthetic image of class hypersegmentation passes the filter"):
        ClassifierTask(nothing).load(str(data), "train")
