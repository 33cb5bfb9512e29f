"""`wbc generate` on the command line."""

import csv
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from wbc_diffusers import R2AttnUNet, SigmoidDDIMScheduler, WBCDDIMPipeline, WBCGANPipeline, WBCGenerator
from wbc_diffusers.cli import main
from wbc_diffusers.solvers import SOLVERS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a tiny model that nobody trained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    WBCDDIMPipeline(R2AttnUNet(16, block_out_channels=(4, 8)), SigmoidDDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a tiny GAN that nobody trained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-gan"
    WBCGANPipeline(WBCGenerator(sample_size=16, latent_dim=10, depth=16)).save_pretrained(folder)
    return folder


def run(*arguments: object) -> int:
    """Run `wbc generate` and give its exit code."""
    with pytest.raises(SystemExit) as left:
        main(["generate", *map(str, arguments)])
    return int(left.value.code or 0)


def test_makes_the_images_asked_for_and_goes_on(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    settings = ["--seed", 40, "--steps", 2, "--batch-size", 2, "--solver", "euler_a", "--contrast", 20, "--out", out]
    assert run(model, "--num", 2, *settings) == 0
    assert capsys.readouterr().out.endswith(f"Made 2 images in {out}.\n")
    assert run(model, "--num", 3, *settings) == 0
    assert capsys.readouterr().out.endswith(f"Made 1 images in {out}.\n")
    with (out / "metadata.csv").open(newline="", encoding="utf-8") as file:
        assert [row["file_name"] for row in csv.DictReader(file)] == [f"000000{seed}.png" for seed in (40, 41, 42)]
    told = Image.open(out / "00000040.png").info
    assert told["wbc:solver"] == "euler_a"
    assert told["wbc:contrast"] == "20.0"


def test_options_reach_the_folder(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(model, "--num", 1, "--steps", 2, "--eta", 0.5, "--mixed-precision", "bf16", "--out", out) == 0
    told = Image.open(out / "00000000.png").info
    assert (told["wbc:eta"], told["wbc:mixed_precision"], told["wbc:batch_size"]) == ("0.5", "bf16", "16")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--solver", "dpm"], r"wbc: solver='dpm': choose one of ddim"),
        (["--solver", "dpm++", "--eta", "1"], r"wbc: eta=1.0, but DPMSolverMultistepScheduler has no eta"),
        (["--class", "none"], r"wbc: The model has no classes"),
        (["--truncation", "1.5"], r"wbc: tiny is a diffusion model, which takes --class and .*, but not --truncation"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(arguments, error, model: Path, tmp_path: Path, capsys) -> None:
    assert run(model, "--num", 1, "--out", tmp_path / "out", *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert re.match(error, said[0])
    assert not (tmp_path / "out").exists()


def test_gan_makes_its_images_by_the_same_command(gan: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run(gan, "--num", 3, "--truncation", 1.5, "--batch-size", 2, "--out", out) == 0
    assert capsys.readouterr().out.endswith(f"Made 3 images in {out}.\n")
    told = Image.open(out / "00000002.png").info
    assert (told["wbc:truncation"], told["wbc:batch_size"]) == ("1.5", "2")
    assert "wbc:steps" not in told


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "20"], ["--solver", "ddim"], ["--eta", "0"], ["--class", "none"], ["--truncation", "-1"]],
)
def test_what_does_not_fit_a_gan_is_told_in_a_line(arguments, gan: Path, tmp_path: Path, capsys) -> None:
    assert run(gan, "--num", 1, "--out", tmp_path / "out", *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert re.match(
        r"wbc: (tiny-gan is a GAN, which takes --truncation, but not|truncation=-1.0: give a number)", said[0]
    )
    assert not (tmp_path / "out").exists()


def test_folder_that_is_no_model_is_told_in_a_line(tmp_path: Path, capsys) -> None:
    for place, error in ((tmp_path, "holds no model_index.json"), (tmp_path / "nothing", "There is no folder")):
        assert run(place, "--num", 1, "--out", tmp_path / "out") == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert error in said[0]
    assert not (tmp_path / "out").exists()


def test_help_names_every_solver(capsys) -> None:
    assert run("--help") == 0
    words = set(re.findall(r"[\w+]+", capsys.readouterr().out))
    assert set(SOLVERS) <= words


def test_running_a_swapped_scheduler_prints_no_warning(model: Path, tmp_path: Path, capsys) -> None:
    assert run(model, "--num", 1, "--steps", 2, "--solver", "dpm++", "--out", tmp_path / "out") == 0
    assert not capsys.readouterr().err
