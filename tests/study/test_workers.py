"""What trains the runs of a study: what is written, what a stop keeps, and that all processes stop."""

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from tests.shaded import run_of
from wbc_diffusers.study import workers
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.images import fingerprints, load_images
from wbc_diffusers.study.predictions import Predictions
from wbc_diffusers.study.runs import Run, all_runs, is_done

Study = Callable[..., StudyConfig]
Do = Callable[[StudyConfig, str], Path]

ARMS: dict[str, Any] = {
    "pre": {"first": {"real_images": False, "synthetic_ratio": [0.5, 2.0]}},
    "real": None,
    "with": {"synthetic_ratio": [0.0, 2.0]},
}


def test_predictions_are_what_transformers_says_of_the_files_with_their_labels_and_groups(
    study: Study, place: Path, do: Do
) -> None:
    from transformers import pipeline

    folder = do(study(), "real")
    ask = pipeline("image-classification", model=str(folder))
    with (place / "data" / "test" / "metadata.csv").open(newline="") as file:
        rows = {row["file_name"]: row for row in csv.DictReader(file)}
    test = Predictions.load(folder / "test.npz")
    names = [Path(name.split(" ")[0]).name for name in test.names]
    assert len(set(names)) == 26
    for name, label, group, own in zip(names, test.labels, test.groups, test.probabilities, strict=True):
        assert label == (rows[name]["abnormality"] == "hypersegmentation")
        assert group == rows[name]["group"]
        told = {each["label"]: each["score"] for each in ask(Image.open(place / "data" / "test" / name))}
        assert own.tolist() == pytest.approx([told["normal"], told["hypersegmentation"]], abs=1e-5)
    swap = Predictions.load(folder / "swap.npz")
    assert np.bincount(swap.labels).tolist() == [8, 8]
    assert len(Predictions.load(folder / "validation.npz").labels) == 14


def test_judging_images_are_brought_to_the_background_of_the_recipe(study: Study, do: Do) -> None:
    config = study()
    folder = do(config, "real")
    recipe = config.recipes(run_of(config, "real").arm, 0, folder)[0]
    with pytest.raises(ValueError, match="has no bright background to normalise"):  # which shaded cells don't have
        workers.judge(folder, replace(recipe, background=(240.0, 235.0, 230.0)), load_images(config))


def test_a_run_tells_what_it_was_trained_on_and_leaves_no_checkpoints(study: Study, do: Do) -> None:
    folder = do(study(arms=ARMS), "pre")
    told = json.loads((folder / "run.json").read_text())
    assert (told["arm"], told["seed"], len(told["recipes"])) == ("pre", 0, 2)
    assert [sum(stage["real_images"].values()) for stage in told["trained_on"]] == [0, 26]
    for name in ("seed-0", "seed-0-first"):
        there = {path.name for path in (folder.parent / name).iterdir()}
        assert {"config.json", "model.safetensors", "training_manifest.json", "recipe.yaml", "log.jsonl"} <= there
        assert not there & {"checkpoints", "best"}
    first, second = ((folder.parent / name / "training_manifest.json") for name in ("seed-0-first", "seed-0"))
    parents = json.loads(second.read_text())["parents"]
    assert [parent["training"] for parent in parents] == [json.loads(first.read_text())["training"]]


def test_the_speed_is_known_also_where_the_first_arm_starts_from_a_training_of_its_own(study: Study) -> None:
    assert workers._time_updates(study(arms=ARMS)) > 0


def test_what_was_begun_by_a_shorter_schedule_is_not_gone_on_with(study: Study, do: Do, tmp_path: Path) -> None:
    folder = do(study(), "real")
    begun = json.loads((folder.parent / "seed-0.begun.json").read_text())
    assert [recipe["max_train_steps"] for recipe in begun["recipes"]] == [4]
    workers._begin(folder, begun, [folder])
    assert (folder / "model.safetensors").is_file()
    begun["recipes"][0]["max_train_steps"] = 6
    workers._begin(folder, begun, [folder])
    assert not folder.exists()


def test_a_training_that_fails_is_told_and_the_others_are_done(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, said = study(arms=ARMS), list[str]()

    class Here:
        """The pool, in this process."""

        def map(self, function: Any, items: Any) -> Any:
            return [1.0 for _ in items]

        def submit(self, function: Any, run: Run) -> Any:
            future: Future[float] = Future()
            if run.in_words == "real, seed 0":
                future.set_exception(ValueError("The loss is not a number."))
            else:
                future.set_result(0.5)
            return future

    monkeypatch.setattr(workers, "_pool", lambda *arguments: contextlib.nullcontext(Here()))
    with pytest.raises(ValueError, match=r"1 of 6 trainings failed, such as real, seed 0: The loss is not a n"):
        workers.do_runs(config, all_runs(config), tmp_path, {}, 1, said.append)
    assert sum(" recall 0.500 " in line for line in said) == 5


def test_what_is_judged_in_part_counts_as_not_judged(
    study: Study, do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study()
    folder = do(config, "real")
    before = {name: Predictions.load(folder / f"{name}.npz") for name in ("test", "swap")}
    save, saved = Predictions.save, list[Path]()

    def killed(self: Predictions, path: Path) -> None:
        if saved:
            raise MemoryError
        saved.append(path)
        save(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Predictions, "save", killed)
        with pytest.raises(MemoryError):
            do(study(swap_images=3), "real")
    for now in (config, study(swap_images=3)):
        assert not is_done(now, run_of(now, "real"), tmp_path / "out", fingerprints(now))
    with monkeypatch.context() as patch:
        patch.setattr(workers, "train_classifier", None)
        do(config, "real")
    for name, found in before.items():
        np.testing.assert_array_equal(Predictions.load(folder / f"{name}.npz").probabilities, found.probabilities)


# -- stopping --------------------------------------------------------------------------------------------------------

LONG = {"max_train_steps": 5000, "validate_every": 2500, "checkpoint_every": 5000, "num_workers": 0}


def begin(config: StudyConfig, place: Path) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    """Start a study of long trainings in two processes, and wait until both train."""
    (place / "s.yaml").write_text(yaml.safe_dump(config.to_dict()))
    command = ["wbc_diffusers", "classify", "--config", str(place / "s.yaml"), "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--out", str(place / "out")], stderr=subprocess.PIPE, text=True
    )
    while len(list(place.glob("out/runs/*/seed-*/log.jsonl"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children()
    return process, [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_where_one_training_is_killed_the_others_stop_with_a_checkpoint(study: Study, tmp_path: Path) -> None:
    process, started = begin(study(arms={"real": None}, recipe=LONG, seeds=[0, 1, 2, 3]), tmp_path)
    assert len(started) == 2
    started[0].kill()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "What was done is kept: start the same command again" in told
    assert not any(child.is_running() for child in started)
    assert len(list(tmp_path.glob("out/runs/*/seed-*/checkpoints/*"))) == 1
    assert len(list(tmp_path.glob("out/runs/*/seed-?"))) == 2  # none was begun after that


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whom", ["the study", "all of its processes"])
def test_a_study_that_is_told_to_stop_keeps_checkpoints_of_what_it_trained(
    study: Study, tmp_path: Path, whom: str, number: int
) -> None:
    process, started = begin(study(arms={"real": None}, recipe=LONG, seeds=[0, 1, 2, 3]), tmp_path)
    for child in started if whom == "all of its processes" else []:
        child.send_signal(number)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any(child.is_running() for child in started)
    assert len(list(tmp_path.glob("out/runs/*/seed-*/checkpoints/*"))) == 2
    assert len(list(tmp_path.glob("out/runs/*/seed-?"))) == 2
