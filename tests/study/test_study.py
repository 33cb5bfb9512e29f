"""A whole study: every kind of arm, stopped and gone on with, in one process and in two."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.predictions import Predictions
from wbc_diffusers.study.study import run_study
from wbc_diffusers.study.words import findings
from wbc_diffusers.study.workers import StudyStoppedError

Study = Callable[..., StudyConfig]
pytestmark = pytest.mark.slow

ARMS: dict[str, Any] = {
    "real only": None,
    "oversampled": {"oversample": True},
    "class weights": {"class_weights": True},
    "focal loss": {"focal_gamma": 2.0},
    "strong augmentation": {"oversample": True, "rand_augment": [2, 9], "mixup_alpha": 0.2},
    "synthetic": {"oversample": True, "synthetic_ratio": [0.0, 2.0]},
    "filtered": {
        "oversample": True, "synthetic_ratio": [0.0, 2.0], "filtered_by": "oversampled",
        "synthetic_filter": {"confidence": 0.0, "similarity": None},
    },
    "both classes": {"oversample": True, "synthetic_ratio": [0.5, 2.0]},
    "pretrained": {"oversample": True, "first": {"real_images": False, "synthetic_ratio": [0.5, 2.0]}},
}  # fmt: skip
DOSE = {"arm": "synthetic", "ratios": [1], "real_arm": "oversampled", "more_real": [12]}


def quiet(line: str) -> None:
    pass


def predictions(out: Path) -> dict[str, Any]:
    """What all runs said of all images."""
    found = {}
    for path in sorted(out.glob("runs/*/seed-*/*.npz")):
        found[path.relative_to(out).as_posix()] = Predictions.load(path).probabilities
    return found


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def done(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """Give the folder of a study of all arms, its record, and what it said."""
    out, said = tmp_path_factory.mktemp("done") / "out", list[str]()
    record = run_study(study(arms=ARMS, dose=DOSE), out, 2, said.append)
    return out, record, said


def test_the_time_is_told_before_the_first_training_and_progress_after_each(done: Any) -> None:
    said = done[2]
    assert said[0].startswith("22 trainings (11 arms, 2 seeds, 0 done before) of 4 updates of 8 images")
    assert "images at" in said[0]
    assert "about" in said[0]
    assert [line.split()[0] for line in said[1:]] == [f"{i}/22" for i in range(1, 23)]
    assert all("seed" in line and "left" in line for line in said[1:])


def test_every_arm_was_trained_on_the_cells_that_it_names(done: Any) -> None:
    told = {arm["name"]: list(arm["trained_on"][0]) for arm in done[1]["arms"]}
    real = {"normal": 20, "hypersegmentation": 6}
    assert told["real only"][0]["real_images"] == told["filtered"][0]["real_images"] == real
    assert told["oversampled, 12 real"][0]["real_images"] == {"normal": 20, "hypersegmentation": 12}
    taken = {
        name: [{k: v["taken"] for k, v in stage["synthetic_images"].items()} for stage in stages]
        for name, stages in told.items()
    }
    assert taken["real only"] == [{"normal": 0, "hypersegmentation": 0}]
    assert taken["synthetic"] == taken["filtered"] == [{"normal": 0, "hypersegmentation": 12}]
    assert taken["both classes"] == [{"normal": 10, "hypersegmentation": 12}]
    assert taken["synthetic, 1 for each real one"] == [{"normal": 0, "hypersegmentation": 6}]
    assert taken["pretrained"] == [{"normal": 10, "hypersegmentation": 12}, {"normal": 0, "hypersegmentation": 0}]
    assert [sum(stage["real_images"].values()) for stage in told["pretrained"]] == [0, 26]
    assert {sum(stage["steps"] for stage in stages) for stages in told.values()} == {4}


def test_the_record_says_what_its_predictions_say(done: Any) -> None:
    from sklearn.metrics import roc_auc_score

    out, record, _ = done
    for arm in record["arms"]:
        folder = next(
            p for p in (out / "runs").iterdir() if p.name == "-".join(arm["name"].lower().replace(",", "").split())
        )
        areas = []
        for each in arm["seeds"]:
            test = Predictions.load(folder / f"seed-{each['seed']}" / "test.npz")
            areas.append(roc_auc_score(test.labels, test.probabilities[:, 1]))
            assert each["auroc"] == pytest.approx(areas[-1])
            assert len(test.labels) == 26
        assert arm["means"]["auroc"] == arm["estimates"]["auroc"]["value"] == pytest.approx(np.mean(areas))
        assert np.sum(arm["confusion"]) == 26
        assert arm["swap"]["normal"]["n_synthetic"] == 8
    without = [a for a in record["arms"] if not a["synthetic"] and a["more_real"] is None]
    best = max(without, key=lambda arm: arm["means"]["recall_at_specificity"])
    assert record["reference"] == best["name"]
    assert "differences" not in best
    assert record["weights"] == "random weights"
    assert [each["synthetic"] for each in record["dose"]["doses"]] == [6, 12]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.charts = 0

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.charts += tag == "svg"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_tables_and_plots_are_there_and_say_the_same(done: Any) -> None:
    out, record, _ = done
    with (out / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["arm"] for row in table] == [arm["name"] for arm in record["arms"]]
    for row, arm in zip(table, record["arms"], strict=True):
        assert row["recall at 95 % specificity"] == f"{100 * arm['means']['recall_at_specificity']:.1f}"
    assert (out / "table.md").read_text().count("\n") == len(table) + 2
    page = _Page()
    page.feed((out / "index.html").read_text())
    for line in findings(record):
        assert line in page.text
    names = {"recall", "roc", "precision-recall", "confusion", "most-probable", "calibration", "dose"}
    assert page.charts == len(names)
    assert {p.name for p in (out / "figures").iterdir()} == {f"{n}.{e}" for n in names for e in ("svg", "png")}
    for name in names:
        assert min(Image.open(out / "figures" / f"{name}.png").size) > 200
    assert json.loads((out / "study.json").read_text()) == json.loads(json.dumps(record))


def test_one_process_says_what_two_say_and_only_what_is_new_is_trained(done: Any, study: Study, tmp_path: Path) -> None:
    few = {name: ARMS[name] for name in ("oversampled", "synthetic")}
    said: list[str] = []
    run_study(study(arms=few, seeds=[0]), tmp_path / "out", 1, said.append)
    assert said[0].startswith("2 trainings")
    run_study(study(arms={**few, "filtered": ARMS["filtered"]}), tmp_path / "out", 1, said.append)
    assert said[3].startswith("4 trainings (3 arms, 2 seeds, 2 done before)")
    two = {k: v for k, v in predictions(done[0]).items() if k.split("/")[1] in ("oversampled", "synthetic", "filtered")}
    assert_equal(predictions(tmp_path / "out"), two)
    said.clear()
    run_study(study(arms={**few, "filtered": ARMS["filtered"]}), tmp_path / "out", 1, said.append)
    assert said == []


def test_a_changed_arm_is_refused_by_name_and_nothing_is_lost(done: Any, study: Study) -> None:
    before = predictions(done[0])
    changed = {**ARMS, "focal loss": {"focal_gamma": 1.0}}
    with pytest.raises(ValueError, match="focal loss, seed 0 was trained with another focal_gamma"):
        run_study(study(arms=changed, dose=DOSE), done[0], 1, quiet)
    assert_equal(predictions(done[0]), before)


def test_what_a_study_decides_by_is_named_before_its_trainings_or_not_at_all(study: Study, tmp_path: Path) -> None:
    arms = {**ARMS, "other": ARMS["both classes"]}
    begun = study(arms=arms, primary="synthetic", data=str(tmp_path / "nothing"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.yaml").write_text(yaml.safe_dump(begun.to_dict()))
    with pytest.raises(FileNotFoundError):  # no training is done, so that it may still be named
        run_study(replace(begun, primary="other"), out, 1, quiet)
    (out / "runs" / "oversampled" / "seed-0").mkdir(parents=True)
    (out / "runs" / "oversampled" / "seed-0" / "run.json").write_text("{}")
    less = {name: parts for name, parts in arms.items() if name != "real only"}
    late: list[tuple[str, dict[str, Any]]] = [
        ("primary", {"primary": "other"}),
        ("primary", {"primary": None}),
        ("specificity", {"specificity": 0.9}),
        ("seeds", {"seeds": [0, 1, 2]}),
        ("the arm real only", {"arms": less}),
        ("the arm late", {"arms": {**arms, "late": {"focal_gamma": 1.0}}}),
        ("the arm oversampled", {"arms": {**arms, "oversampled": {"class_weights": True}}}),
    ]
    for name, changes in late:
        told = rf"begun with the primary arm 'synthetic', .* Undo what changed \({name}\)"
        with pytest.raises(ValueError, match=told):
            run_study(replace(begun, **changes), out, 1, quiet)
    for same in ({}, {"recipe": {**begun.recipe, "num_workers": 1}}, {"arms": {**arms, "more": ARMS["both classes"]}}):
        with pytest.raises(FileNotFoundError):
            run_study(replace(begun, **same), out, 1, quiet)


def test_a_folder_of_something_else_is_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="holds something, and no study"):
        run_study(study(), tmp_path, 1, quiet)


def test_a_killed_study_goes_on_to_the_same_predictions(done: Any, study: Study, tmp_path: Path) -> None:
    config, out = study(arms={n: ARMS[n] for n in ("oversampled", "synthetic", "filtered")}), tmp_path / "out"
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(config.to_dict()))
    command = [
        sys.executable,
        "-m",
        "wbc_diffusers",
        "classify",
        "--config",
        str(tmp_path / "s.yaml"),
        "--processes",
        "2",
    ]
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("2/6"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = len(list(out.glob("runs/*/seed-*/run.json")))
    assert 2 <= there < 6
    time.sleep(0.1)
    again = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=True)
    assert f"{there} done before" in again.stderr
    assert "Wrote" in again.stdout
    same = {
        k: v for k, v in predictions(done[0]).items() if k.split("/")[1] in ("oversampled", "synthetic", "filtered")
    }
    assert_equal(predictions(out), same)


def test_a_training_that_is_killed_is_told_with_what_to_do(study: Study, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_a_worker(line: str) -> None:
        if not killed:
            workers = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
            killed.append(workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(StudyStoppedError, match="What was done is kept: start the same command again"):
        run_study(study(), tmp_path / "out", 1, kill_a_worker)
