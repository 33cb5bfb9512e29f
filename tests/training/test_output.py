"""A training writes to its own folder only, and no two of them to one."""

from pathlib import Path
from typing import Any

import pytest

from wbc_diffusers.training.checkpoints import Checkpoints
from wbc_diffusers.training.classifier import ClassifierTask
from wbc_diffusers.training.output import checkpoint_to_resume, only_run


def check(output: Path, resume: str | None, source: str = "nowhere") -> Path | None:
    return checkpoint_to_resume(output, source, Checkpoints(output / "checkpoints", 2), resume)


@pytest.fixture
def runs(trainer: Any, small: Any, tmp_path: Path) -> Path:
    """Give a folder with the finished runs a and b."""
    for name in ("a", "b"):
        trainer(small(checkpoint_every=2), tmp_path / name).run()
    return tmp_path


def test_a_checkpoint_of_another_run_goes_on_in_an_empty_folder_only(runs: Path) -> None:
    theirs = str(runs / "a" / "checkpoints" / "checkpoint-2")
    before = {path: path.read_bytes() for path in (runs / "b").rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"checkpoint-2 is a checkpoint of another run than that in .*b: give an"):
        check(runs / "b", theirs)
    assert {path: path.read_bytes() for path in (runs / "b").rglob("*") if path.is_file()} == before
    for name in ("a", "new"):
        assert check(runs / name, theirs) == Path(theirs)


def test_a_folder_of_others_is_not_taken_for_a_run_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("cake: {flour: 500 g}")
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        check(tmp_path, "latest")


def test_a_finished_classifier_without_checkpoints_is_not_trained_over(tmp_path: Path) -> None:
    # As a study leaves it; what makes it whole is config.json, not model_index.json.
    (tmp_path / "recipe.yaml").write_text("{kind: classifier, name: a, seed: 0, resolution: 16}")
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    assert checkpoint_to_resume(tmp_path, "nowhere", checkpoints, "latest", ClassifierTask.last_file) is None
    (tmp_path / "config.json").touch()
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        checkpoint_to_resume(tmp_path, "nowhere", checkpoints, "latest", ClassifierTask.last_file)


def test_an_output_among_the_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells" / "neutrophil").mkdir(parents=True)
    for resume in (None, "latest"):
        with pytest.raises(ValueError, match=r"lies in the data folder .*cells: give one outside"):
            check(tmp_path / "cells" / "model", resume, source=str(tmp_path / "cells"))


def test_two_runs_at_once_are_refused_and_one_after_the_other_are_not(trainer: Any, small: Any, tmp_path: Path) -> None:
    run = trainer(small(), tmp_path / "run")
    with only_run(tmp_path / "run"), pytest.raises(FileExistsError, match=r"Another training is writing to .*run"):
        run.run()
    assert run.run()
    assert not (tmp_path / "run" / ".lock").exists()
