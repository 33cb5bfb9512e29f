"""`wbc inspect` on the command line."""

import csv
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wbc_diffusers import R2AttnUNet, SigmoidDDIMScheduler, WBCDDIMPipeline
from wbc_diffusers.cli import main
from wbc_diffusers.data.images import write_png

KEYS = [
    "file", "what", "made_by_trained_model", "digital_source_type", "creator", "settings", "reason", "error"
]  # fmt: skip
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
VERSION = importlib.metadata.version("wbc-diffusers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of two images by `wbc generate`, of a tiny model that nobody trained."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("models")
    WBCDDIMPipeline(R2AttnUNet(16, block_out_channels=(4, 8)), SigmoidDDIMScheduler()).save_pretrained(place / "tiny")
    options = ["--num", "2", "--seed", "40", "--steps", "3", "--batch-size", "2", "--out", str(place / "synthetic")]
    with pytest.raises(SystemExit) as left:
        main(["generate", str(place / "tiny"), *options])
    assert not left.value.code
    return place / "synthetic"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path)
    return path


def run(*arguments: object) -> int:
    """Run `wbc inspect` and give its exit code."""
    with pytest.raises(SystemExit) as left:
        main(["inspect", *map(str, arguments)])
    return int(left.value.code or 0)


def read_rows(lines: list[str]) -> dict[str, str]:
    """Read what is printed below the name of a file."""
    return {key: value for key, value in (line.strip().split("  ", 1) for line in lines) for value in [value.strip()]}


def test_generated_image_tells_what_its_folder_tells(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made / "00000041.png") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"{made / '00000041.png'}: made by a trained model"
    told = read_rows(rest)
    with (made / "metadata.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["file_name"] == "00000041.png")
    assert {key: told[key] for key in ("model", "revision", "seed", "steps", "synthetic")} == {
        key: row[key] for key in ("model", "revision", "seed", "steps", "synthetic")
    }
    assert (told["model"], told["seed"], told["solver"]) == ("tiny", "41", "ddim")
    assert told["creator"] == f"wbc-diffusers {VERSION}"
    assert told["digital source type"] == VOCABULARY + "trainedAlgorithmicMedia"


def test_json_is_one_array_with_the_same_keys_for_every_file(
    made: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["phantom", "--num", "1", "--size", "40", "--out", str(tmp_path / "cells")])
    capsys.readouterr()
    files = [made / "00000040.png", tmp_path / "cells" / "000000.png", photo, tmp_path / "gone.png"]
    assert run("--json", *files) == 2
    told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [list(each) for each in told] == [KEYS] * 4
    assert [each["file"] for each in told] == list(map(str, files))
    assert [each["made_by_trained_model"] for each in told] == [True, False, None, None]
    assert [each["digital_source_type"] for each in told] == [
        VOCABULARY + "trainedAlgorithmicMedia", VOCABULARY + "algorithmicMedia", None, None
    ]  # fmt: skip
    assert [each["creator"] for each in told] == [f"wbc-diffusers {VERSION}"] * 2 + [None] * 2
    assert told[0]["settings"]["seed"] == "40"
    assert told[1]["settings"] == {"phantom": "phantom_version=1 seed=0 abnormality=none grade=0"}
    assert [each["settings"] for each in told[2:]] == [None, None]
    assert [each["reason"] for each in told] == [None, None, None, "missing_file"]


def test_photograph_and_lost_marks_are_told_for_what_they_are(
    made: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = photo.with_name("copy.png")
    with Image.open(made / "00000040.png") as image:
        image.save(copy)
    assert run(photo, copy) == 0
    nothing = "a photograph, or an image that lost its marks: nothing in the file tells"
    assert capsys.readouterr().out.splitlines() == [f"{photo}: {nothing}", f"{copy}: {nothing}"]


def test_bad_files_are_named_and_the_others_still_told(
    made: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = made / "00000040.png"
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:-30])
    (tmp_path / "text.png").write_text("no image")
    bad = [tmp_path / "gone.png", tmp_path / "half.png", tmp_path / "text.png", made]
    assert run(*bad, photo, whole) == 2
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"wbc: {bad[0]}: there is no such file",
        f"wbc: {bad[1]}: ends before its image does (its end marker is missing)",
        f"wbc: {bad[2]}: not a JPEG, PNG, TIFF, BMP, WebP, JPEG 2000 or PPM image",
        f"wbc: {bad[3]}: not a regular file (a folder: give its images, such as FOLDER/*.png)",
    ]
    assert [line for line in said.out.splitlines() if not line.startswith("  ")] == [
        f"{photo}: a photograph, or an image that lost its marks: nothing in the file tells",
        f"{whole}: made by a trained model",
    ]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_file_of_somebody_else_cannot_steer_the_terminal(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b]0;owned\x07\x9b2J\u202efdp\r\n  creator  honest 1"
    text = {"wbc:model": hostile, "wbc:creator": "honest 2", "wbc:long": "x" * 100_000}
    # A name may be no text at all.
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\x1b[2J.png"))
    write_png(path, np.zeros((4, 4, 3), np.uint8), "trainedAlgorithmicMedia", "real 3", text)
    assert run(path, path.with_name("gone\x1b.png"), *options) == 2
    said = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in said.out + said.err)
    if options:
        assert json.loads(said.out)[0]["settings"] == text_without_prefix(text)
        return
    assert "caf\\xe9\\x1b[2J.png: made by a trained model" in said.out
    assert r"\x1b]0;owned\x07\x9b2J\u202efdp\r\n  creator  honest 1" in said.out
    creators = [line.split()[1:] for line in said.out.splitlines() if line.split()[0] == "creator"]
    assert creators == [["real", "3"], ["honest", "2"]]
    assert max(map(len, said.out.splitlines())) < 400


def text_without_prefix(text: dict[str, str]) -> dict[str, str]:
    return {key.removeprefix("wbc:"): value for key, value in text.items()}


def test_no_file_at_all_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "Missing argument 'IMAGE...'" in capsys.readouterr().err


def test_inspecting_loads_nothing_heavy(made: Path) -> None:
    script = """
import atexit, sys
heavy = {"torch", "diffusers", "accelerate", "transformers", "datasets", "skimage", "matplotlib"}
atexit.register(lambda: print("LOADED", *sorted(heavy & set(sys.modules))))
from wbc_diffusers.cli import main
main(["inspect", sys.argv[1]])
"""
    found = subprocess.run(
        [sys.executable, "-c", script, made / "00000040.png"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "made by a trained model" in found.stdout
    assert found.stdout.splitlines()[-1] == "LOADED"
