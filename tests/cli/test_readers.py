"""`wbc readers` on the command line."""

from pathlib import Path

import pytest
import yaml

from tests.readers.conftest import thesis_strata, write_source
from wbc_diffusers.cli import main
from wbc_diffusers.readers.folder import LINKS_NAME
from wbc_diffusers.readers.reading import Reading


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Give the file of a small study."""
    real = write_source(tmp_path / "real", {"hypersegmentation": 6}, synthetic=False, seed=1)
    made = write_source(tmp_path / "made", {"hypersegmentation": 6}, synthetic=True, seed=2)
    study = {"title": "Cells", "strata": thesis_strata(real, made, hypersegmentation=6), "readers": ["anna"]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "confidences": 1, "instructions": "6 of these are synthetic."}))
    return path


def test_a_plan_says_how_many_cells_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["readers", "plan", "--number", "5"])
    told = capsys.readouterr().out
    assert "± 0.1 after 93 answers" in told
    assert "by 216 answers" in told
    assert "The mean accuracy of 5 readers" in told
    with pytest.raises(SystemExit):
        main(["readers", "plan", "--number", "2"])
    assert "by no number of cells: it takes more readers" in capsys.readouterr().out


def test_a_study_is_built_read_and_scored(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, key = tmp_path / "study", tmp_path / "key"
    with pytest.raises(SystemExit):
        main(
            [
                "readers",
                "build",
                "--config",
                str(config),
                "--out",
                str(study),
                "--key",
                str(key),
                "--address",
                "https://x.example/",
            ]
        )
    told = capsys.readouterr()
    assert "12 items for each of 1 readers" in told.out
    assert "WARNING: The study's texts say '6'" in told.err
    link = (key / LINKS_NAME).read_text().splitlines()[1].partition(",")[2]
    assert link.startswith("https://x.example/#")
    reading = Reading(study)
    anna = reading.reader(link.partition("#")[2])
    assert anna is not None
    for position in range(12):
        reading.answer(anna, position, {"choice": "real"}, 1.0)
    reading.store.close()
    with pytest.raises(SystemExit):
        main(["readers", "score", str(study), "--key", str(key), "--out", str(tmp_path / "score")])
    told = capsys.readouterr()
    assert (
        "Reader 1 was right in 6 of 12 answers (0.50; 0.25 to 0.75), and called real in 12: that tells nothing"
        in told.out
    )
    assert (tmp_path / "score" / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["build", "--config", "nowhere.yaml", "--out", "a", "--key", "b"], "There is no study nowhere.yaml"),
        (["serve", "nowhere"], "There is no study nowhere"),
        (["serve", "nowhere", "--host", "0.0.0.0"], "give --certificate and --private-key"),
        (["score", "nowhere", "--key", "b", "--out", "c"], "There is no study nowhere"),
        (["plan", "--width", "0.7"], "give one between 0 and 0.5"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["readers", *arguments])
    assert stopped.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_how_far_readers_are_is_told_and_nothing_else(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, key = tmp_path / "study", tmp_path / "key"
    with pytest.raises(SystemExit):
        main(["readers", "build", "--config", str(config), "--out", str(study), "--key", str(key)])
    assert "hypersegmentation: 6 ddim and 6 real" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["readers", "status", str(study)])
    assert capsys.readouterr().out == "anna: 0 of 12\n"
    reading = Reading(study)
    anna = reading.reader((key / LINKS_NAME).read_text().splitlines()[1].partition("#")[2])
    assert anna is not None
    reading.answer(anna, 0, {"choice": "real"}, 1.0)
    with pytest.raises(SystemExit):
        main(["readers", "status", str(study)])
    assert capsys.readouterr().out == "anna: 1 of 12\n"
    reading.store.close()


def test_links_lead_where_they_are_told(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, key = tmp_path / "study", tmp_path / "key"
    with pytest.raises(SystemExit):
        main(["readers", "build", "--config", str(config), "--out", str(study), "--key", str(key)])
    with pytest.raises(SystemExit):
        main(["readers", "links", str(key), "--address", "https://study.example"])
    assert ",https://study.example/#" in (key / LINKS_NAME).read_text()
    with pytest.raises(SystemExit) as stopped:
        main(["readers", "links", str(key), "--address", "study.example"])
    assert stopped.value.code == 2
    assert "must begin with http:// or https://" in capsys.readouterr().err
