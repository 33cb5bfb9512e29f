"""`wbc phantom` on the command line."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from wbc_diffusers.cli import main


def run(*arguments: object) -> int:
    """Run `wbc phantom` and give its exit code."""
    with pytest.raises(SystemExit) as left:
        main(["phantom", *map(str, arguments)])
    return int(left.value.code or 0)


def test_renders_the_cells_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cells"
    code = run(
        "--num", 3, "--size", 40, "--abnormality", "dohle_bodies", "--grade", 2, "--seed", 90, "--out", out
    )  # fmt: skip
    assert code == 0
    assert capsys.readouterr().out.startswith(f"3 phantom cells of 40 x 40 px in {out}, ")
    with (out / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == ["000090.png", "000091.png", "000092.png"]
    assert all(row["abnormality"] == "dohle_bodies" and 3 <= int(row["bodies"]) <= 5 for row in rows)
    for row in rows:
        with Image.open(out / row["file_name"]) as image:
            assert (image.size, image.mode) == ((40, 40), "RGB")


def test_defaults_are_normal_cells_of_64_px(tmp_path: Path) -> None:
    assert run("--num", 2, "--out", tmp_path / "cells") == 0
    with (tmp_path / "cells" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["abnormality"], row["grade"], row["size"]) for row in rows] == [
        ("0", "none", "0", "64"),
        ("1", "none", "0", "64"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--abnormality", "blast"), "wbc: abnormality is 'blast', but must be one of none, hypersegmentation"),
        (("--abnormality", "hypersegmentation"), "has grade 1 or 2 (0 none, 1 slight, 2 severe)"),
        (("--size", "16"), "wbc: size is 16, but a phantom cell needs at least 32 pixels a side"),
        (("--num", "0"), "wbc: num is 0, but at least 1 cell has to be rendered"),
        (("--seed", "-3"), "wbc: seed is -3, but seeds are 0 or more"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(*arguments, "--out", tmp_path / "cells") == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.png").write_bytes(b"kept")
    assert run("--num", 1, "--out", tmp_path) == 2
    assert "already holds something; name a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "mine.png").read_bytes() == b"kept"
    assert len(list(tmp_path.iterdir())) == 1
