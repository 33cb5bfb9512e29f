"""The trainings of a study: their order, when one counts as done, and what it goes on with."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shaded import run_of
from wbc_diffusers.study import workers
from wbc_diffusers.study.arms import folder_of
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.images import fingerprints
from wbc_diffusers.study.predictions import Predictions
from wbc_diffusers.study.runs import all_runs, is_done
from wbc_diffusers.training.classifier import train_classifier

Study = Callable[..., StudyConfig]
Do = Callable[[StudyConfig, str], Path]

PRETRAINED = {"first": {"real_images": False, "synthetic_ratio": [0.5, 2.0]}}
ARMS: dict[str, Any] = {"pre": PRETRAINED, "real": None, "with": {"synthetic_ratio": [0.0, 2.0]}}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# -- the order of runs -----------------------------------------------------------------------------------------------


def test_runs_go_seed_by_seed_and_those_with_a_filter_after_all_judges(study: Study) -> None:
    kept = {"synthetic_ratio": [0.0, 1.0], "filtered_by": "real"}
    config = study(arms={"kept": kept, "real": None, "focal": {"focal_gamma": 1.0}}, seeds=[3, 1])
    assert [run.in_words for run in all_runs(config)] == [
        f"{arm}, seed {seed}" for arms in (("real", "focal"), ("kept",)) for seed in (3, 1) for arm in arms
    ]


# -- what is done, and what is not -----------------------------------------------------------------------------------


def test_a_run_counts_as_done_by_the_same_recipe_on_the_same_images(study: Study, do: Do, tmp_path: Path) -> None:
    config, out = study(arms=ARMS), tmp_path / "out"
    cells = fingerprints(config)
    for arm in ("real", "with"):
        assert not is_done(config, run_of(config, arm), out, cells)
        do(config, arm)
        assert is_done(config, run_of(config, arm), out, cells)

    # How often it is saved, and with how many workers, changes nothing.
    other = study(arms=ARMS, recipe={"checkpoint_every": 2, "num_workers": 1, "log_every": 1})
    assert is_done(other, run_of(other, "real"), out, cells)
    other = study(arms=ARMS, recipe={"learning_rate": 1e-3})
    with pytest.raises(ValueError, match=r"real, seed 0 was trained with another learning_rate in .*another --out"):
        is_done(other, run_of(other, "real"), out, cells)
    other = study(arms={**ARMS, "real": PRETRAINED, "none": None})
    with pytest.raises(ValueError, match="real, seed 0 was trained with another"):
        is_done(other, run_of(other, "real"), out, cells)

    told = "was trained on or from other"
    for arm in ("real", "with"):
        with pytest.raises(ValueError, match=f"{arm}, seed 0 {told} real images than those given now"):
            is_done(config, run_of(config, arm), out, {**cells, "real": "other"})
    assert is_done(config, run_of(config, "real"), out, {**cells, "synthetic": "other"})
    both = {"synthetic": "other", "taken with": "other"}
    with pytest.raises(ValueError, match=f"with, seed 0 {told} models of synthetic images and synthetic images than"):
        is_done(config, run_of(config, "with"), out, {**cells, **both})


def test_a_run_is_tied_to_the_synthetic_cells_it_took_and_the_weights_it_started_from(
    study: Study, do: Do, tmp_path: Path
) -> None:
    do(study(arms=ARMS), "real")
    start = {"pretrained": str(tmp_path / "out" / "runs" / "real" / "seed-0"), "model": {}}
    config = study(arms={**ARMS, "begun": start})
    for arm in ("with", "begun"):
        do(config, arm)
    cells = fingerprints(config)
    parts = (("with", "taken with", "synthetic images"), ("begun", "start begun", "starting weights"))
    for arm, name, words in parts:
        assert is_done(config, run_of(config, arm), tmp_path / "out", cells)
        with pytest.raises(ValueError, match=f"{arm}, seed 0 was trained on or from other {words} than"):
            is_done(config, run_of(config, arm), tmp_path / "out", {**cells, name: "other"})
        assert is_done(config, run_of(config, "real"), tmp_path / "out", {**cells, name: "other"})
    shutil.copytree(start["pretrained"], tmp_path / "moved")
    moved = study(arms={**ARMS, "begun": {**start, "pretrained": str(tmp_path / "moved")}})
    assert is_done(moved, run_of(moved, "begun"), tmp_path / "out", fingerprints(moved))


def test_where_groups_were_corrected_a_run_judges_again(study: Study, do: Do, tmp_path: Path) -> None:
    do(study(), "real")
    assert not is_done(study(), run_of(study(), "real"), tmp_path / "out", {**fingerprints(study()), "judges": "other"})


def test_a_run_whose_judge_is_trained_otherwise_is_none_of_this_study(study: Study, do: Do, tmp_path: Path) -> None:
    anything = {"confidence": 0.0, "similarity": None}
    kept = {"synthetic_ratio": [0.0, 1.0], "filtered_by": "real", "synthetic_filter": anything}
    config = study(arms={**ARMS, "kept": kept, "focal": {"focal_gamma": 1.0}})
    for arm in ("real", "kept"):
        do(config, arm)
    cells = fingerprints(config)
    assert is_done(config, run_of(config, "kept"), tmp_path / "out", cells)
    others = [
        {"real": {"focal_gamma": 2.0}, "kept": kept},
        {"real": None, "kept": {**kept, "filtered_by": "focal"}, "focal": {"focal_gamma": 1.0}},
    ]
    for arms, field in zip(others, ("focal_gamma", "focal_gamma, name, synthetic_filter"), strict=True):
        other = study(arms=arms)
        with pytest.raises(ValueError, match=f"kept, seed 0 was trained with another {field} in"):
            is_done(other, run_of(other, "kept"), tmp_path / "out", cells)
    with pytest.raises(ValueError, match="kept, seed 0 was trained on or from other synthetic images to filter than"):
        is_done(config, run_of(config, "kept"), tmp_path / "out", {**cells, "pool": "other"})


@pytest.mark.parametrize("arm", ["real", "with"])
def test_where_other_cells_are_held_out_a_run_judges_again_and_is_not_trained(
    study: Study, do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    folder = do(study(), arm)
    seconds = json.loads((folder / "run.json").read_text())["seconds"]
    before = Predictions.load(folder / "test.npz").probabilities
    for fewer in (study(swap_images=3), study(swap_images=0)):
        assert not is_done(fewer, run_of(fewer, arm), tmp_path / "out", fingerprints(fewer))
        with monkeypatch.context() as patch:
            patch.setattr(workers, "train_classifier", None)
            do(fewer, arm)
        assert is_done(fewer, run_of(fewer, arm), tmp_path / "out", fingerprints(fewer))
        np.testing.assert_array_equal(Predictions.load(folder / "test.npz").probabilities, before)
        assert (folder / "swap.npz").is_file() == bool(fewer.swap_images)
        if fewer.swap_images:
            assert np.bincount(Predictions.load(folder / "swap.npz").labels).tolist() == [3, 3]
    assert json.loads((folder / "run.json").read_text())["seconds"] == seconds


def test_a_study_that_was_moved_is_still_done(study: Study, do: Do, tmp_path: Path) -> None:
    anything = {"confidence": 0.0, "similarity": None}
    kept = {"synthetic_ratio": [0.0, 1.0], "filtered_by": "real", "synthetic_filter": anything}
    config = study(arms={**ARMS, "kept": kept})
    for arm in ("real", "kept", "pre"):
        do(config, arm)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    for arm in ("real", "kept", "pre"):
        assert is_done(config, run_of(config, arm), tmp_path / "elsewhere", fingerprints(config))


def test_a_run_that_can_not_be_read_is_named_and_removed_it_is_trained_again_to_the_same(
    study: Study, do: Do, tmp_path: Path
) -> None:
    config = study(arms=ARMS)
    folder = do(config, "pre")
    before, said = weights(folder), Predictions.load(folder / "test.npz").probabilities
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json cannot be read .*: remove .*seed-0, and it is trained again"):
        is_done(config, run_of(config, "pre"), tmp_path / "out", fingerprints(config))
    shutil.rmtree(folder)  # of its two trainings the second
    do(config, "pre")
    assert weights(folder) == before
    np.testing.assert_array_equal(Predictions.load(folder / "test.npz").probabilities, said)


def test_a_run_stopped_after_its_first_training_goes_on_to_the_same(study: Study, do: Do, tmp_path: Path) -> None:
    config = study(arms=ARMS)
    run = run_of(config, "pre")
    first = config.recipes(run.arm, 0, tmp_path / "out" / "runs")[0]
    train_classifier(first, config.data, folder_of(run.arm, 0, tmp_path / "out" / "runs", first=True))
    stopped = weights(do(study(arms=ARMS, swap_images=3), "pre"))  # how many are held out changes no weights
    shutil.rmtree(tmp_path / "out")
    assert weights(do(config, "pre")) == stopped


def test_a_training_that_was_done_by_another_recipe_is_not_taken_for_this_one_s(
    study: Study, do: Do, tmp_path: Path
) -> None:
    config = study(arms=ARMS)
    run = run_of(config, "pre")
    first = config.recipes(run.arm, 0, tmp_path / "out" / "runs")[0]
    place = folder_of(run.arm, 0, tmp_path / "out" / "runs", first=True)
    train_classifier(replace(first, learning_rate=0.5), config.data, place)
    with pytest.raises(ValueError, match=r"trained with another learning_rate \(0.5 there, 0.01 now\)"):
        do(config, "pre")
