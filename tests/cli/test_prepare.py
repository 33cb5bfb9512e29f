"""`wbc prepare` on the command line."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wbc_diffusers.cli import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a folder of two classes with six images each, one broken and one too small file."""
    rng = np.random.default_rng(0)
    for kind in ("neutrophil", "basophil"):
        (tmp_path / "src" / kind).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (6, 6, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            Image.fromarray(pixels).save(tmp_path / "src" / kind / f"{i}.png")
    (tmp_path / "src" / "neutrophil" / "half.png").write_bytes((tmp_path / "src/neutrophil/0.png").read_bytes()[:100])
    Image.new("RGB", (8, 8)).save(tmp_path / "src" / "basophil" / "small.png")
    return tmp_path / "src"


def run(*arguments: object) -> int:
    """Run `wbc prepare` with one process and give its exit code."""
    with pytest.raises(SystemExit) as left:
        main(["prepare", *map(str, arguments), "--workers", "1"])
    return int(left.value.code or 0)


def words(text: str) -> list[list[str]]:
    """Give the cells of the lines of tables."""
    return [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in text.splitlines()]


def test_tells_what_was_kept_and_left_out(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "basophil").rename(source / "[bold]")  # no markup
    assert run(source, "--out", tmp_path / "out", "--crop", 48, "--size", 16, "--split", "1,0,0") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Kept: 12 images in {tmp_path / 'out'}")
    table = words(out)
    assert ["train", "[bold]", "none", "0", "6"] in table
    assert ["train", "neutrophil", "none", "0", "6"] in table
    assert ["truncated", "1", "ends before its image does"] in table
    assert ["too_small", "1", "smaller than the crop"] in table
    assert "Left out: 2 files, listed in report.json" in out
    assert "Note: no patient or slide column" in out


def test_options_reach_the_folder(source: Path, tmp_path: Path) -> None:
    options = {
        "--crop": 40, "--size": 20, "--seed": 4, "--split": "0.5,0.5,0", "--where": "cell_type=neutrophil",
        "--map": "cell_type=neutrophil:hypersegmentation:1", "--background": "240,230,220",
    }  # fmt: skip
    out = tmp_path / "out"
    assert run(source, "--out", out, *(part for pair in options.items() for part in pair)) == 0
    rows = [r for table in out.glob("*/metadata.csv") for r in csv.DictReader(table.open(encoding="utf-8"))]
    assert {(r["cell_type"], r["abnormality"], r["grade"]) for r in rows} == {("neutrophil", "hypersegmentation", "1")}
    assert Image.open(next(out.glob("*/*.png"))).size == (20, 20)
    written = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert written["options"]["seed"] == 4
    assert written["options"]["split"] == [0.5, 0.5, 0.0]
    assert written["options"]["background"] == [240, 230, 220]
    assert written["filtered_out"] == 7


def test_copies_are_dropped_when_asked(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "basophil" / "0copy.png").write_bytes((source / "basophil" / "1.png").read_bytes())
    (source / "metadata.csv").write_text(
        "file_name,split\nbasophil/1.png,train\nbasophil/0copy.png,test\nbasophil/2.png,test\n"
    )
    assert run(source, "--out", tmp_path / "out", "--crop", 48) == 2
    assert "basophil/0copy.png (test) and basophil/1.png (train), exact" in capsys.readouterr().err
    assert run(source, "--out", tmp_path / "out", "--crop", 48, "--drop-duplicates") == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*/*.png")) == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "0.8;0.2"), "wbc: --split '0.8;0.2': wanted three numbers parted by commas"),
        (("--background", "white"), "wbc: --background 'white': wanted three numbers parted by commas"),
        (("--crop", 300), "wbc: no image of"),
        (("--where", "stain=MGG"), "wbc: --where stain=MGG: no such column"),
        (("--map", "cell_type=basophil"), "wbc: map 'cell_type=basophil': wanted column=value:abnormality:grade"),
    ],
)
def test_wrong_options_end_with_code_2_and_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    assert run(source, "--out", tmp_path / "out", *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.slow
def test_command_works_as_a_program_with_its_default_processes(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wbc_diffusers", "prepare", str(source), "--out", "new", "--crop", "48"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "Kept: 12 images in" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 2
    assert again.stderr.strip().startswith("wbc: output folder")
    assert len(again.stderr.strip().splitlines()) == 1
