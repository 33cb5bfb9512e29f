"""`wbc classify`: its options, and errors in a line."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from wbc_diffusers.cli import main
from wbc_diffusers.study.config import StudyConfig

STUDY: dict[str, Any] = {
    "data": "its-own",
    "generated": [{"folder": "made", "model": "model"}],
    "recipe": {"max_train_steps": 10, "sizes": {"train": [50, 5]}},
    "arms": {"real": None, "with": {"synthetic_ratio": [0.0, 1.0]}},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the file of a study."""
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    return tmp_path / "s.yaml"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give what the command hands on, in place of the study that it would do."""
    found: dict[str, Any] = {}

    def run(config: StudyConfig, out: Path, processes: int, say: Any) -> dict[str, Any]:
        found.update(config=config, out=out, processes=processes)
        say("a line")
        return {}

    monkeypatch.setattr("wbc_diffusers.study.study.run_study", run)
    monkeypatch.setattr("wbc_diffusers.study.words.findings", lambda record: ["with helps."])
    return found


def call(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as end:
        main(["classify", *map(str, arguments)])
    return int(end.value.code or 0)


def test_a_study_is_done_as_its_file_says_where_no_option_says_otherwise(
    file: Path, given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--config", file, "--out", tmp_path / "out") == 0
    assert given["config"] == StudyConfig.from_dict({**STUDY, "name": "s"})
    assert (given["out"], given["processes"]) == (tmp_path / "out", 1)
    told = capsys.readouterr()
    assert told.err == "a line\n"
    assert told.out == f"with helps.\nWrote {tmp_path / 'out' / 'index.html'}.\n"


def test_options_take_the_place_of_what_the_file_says(file: Path, given: dict[str, Any], tmp_path: Path) -> None:
    options = ["--data", "other", "--scale", "0.5", "--processes", "3"]
    options += ["--generated", "a=b", "--generated", "c=d=e"]  # the model of c is in a folder d=e
    assert call("--config", file, "--out", tmp_path / "out", *options) == 0
    config = given["config"]
    assert (config.data, config.recipe["scale"], given["processes"]) == ("other", 0.5, 3)
    assert config.generated == [{"folder": "a", "model": "b"}, {"folder": "c", "model": "d=e"}]


def test_folders_of_synthetic_cells_may_have_an_equals_sign(
    file: Path, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1e-4" / "cells").mkdir(parents=True)
    options = ["--generated", "lr=1e-4/cells=lr=1e-4/model"]
    assert call("--config", file, "--out", tmp_path / "out", *options) == 0
    assert given["config"].generated == [{"folder": "lr=1e-4/cells", "model": "lr=1e-4/model"}]


def test_a_study_of_the_shelf_goes_by_its_name(given: dict[str, Any], tmp_path: Path) -> None:
    assert call("--config", "thesis-hypersegmentation", "--out", tmp_path / "out", "--scale", "0.01") == 0
    assert given["config"].name == "thesis-hypersegmentation"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--config", "thesis-hypersegmentatio"], "no entry of that name; .*Did you mean thesis-hypersegmentation"),
        (["--generated", "made"], "--generated 'made': wanted FOLDER=MODEL, such as synthetic=model"),
        (["--generated", "=model"], "wanted FOLDER=MODEL"),
        (["--scale", "0"], "The recipe's scale is 0.0; it must be above 0"),
        (["--data", "/nowhere/cells"], "There is no folder /nowhere/cells"),
    ],
)
def test_what_the_user_can_put_right_is_told_in_a_line_with_exit_code_2(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    own = [] if "--config" in options else ["--config", file]
    assert call(*own, "--out", tmp_path / "out", *options) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("wbc: ")]
    assert re.search(told, line), line
    assert not list((tmp_path / "out").glob("*"))


def test_a_number_of_processes_is_one_or_more(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("--config", file, "--out", tmp_path / "out", "--processes", "0") == 2
    assert "processes" in capfd.readouterr().err
