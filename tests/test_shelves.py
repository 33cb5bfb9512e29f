"""Recipes by name, in this checkout and in what a wheel would hold."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from wbc_diffusers.shelves import find_entry, shelf

ROOT = Path(__file__).parents[1]
SHELVES = ("training", "pipelines", "model_cards")


def test_checkout_has_its_own_shelves():
    assert shelf("training/recipes").resolve() == ROOT / "training" / "recipes"


def test_entry_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    assert find_entry("ddim-base", "training/recipes", ".yaml").resolve() == ROOT / "training/recipes/ddim-base.yaml"
    (tmp_path / "mine.yaml").write_text("kind: ddim\n")
    monkeypatch.chdir(tmp_path)
    assert find_entry("mine.yaml", "training/recipes", ".yaml").resolve() == tmp_path / "mine.yaml"


def test_unknown_entry_is_refused_with_the_known_ones():
    with pytest.raises(
        FileNotFoundError, match=r"no file ddim-bass.* entries are .*ddim-base, ddim-dohle.* Did you mean ddim-base\?"
    ):
        find_entry("ddim-bass", "training/recipes", ".yaml")
    with pytest.raises(FileNotFoundError, match=r"holds no training/nothing: install it again"):
        shelf("training/nothing")


def test_recipes_of_the_thesis_are_there():
    names = {path.stem for path in shelf("training/recipes").glob("*.yaml")}
    assert {f"ddim-{name}" for name in ("base", "hypersegmentation", "dohle-bodies", "hypergranulation")} <= names


def test_wheel_takes_every_shelf_along():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    taken = wheel["wheel"]["force-include"]
    assert taken == {name: f"wbc_diffusers/shelves/{name}" for name in SHELVES if (ROOT / name).is_dir()}
    assert set(taken) <= set(wheel["sdist"]["include"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv builds the wheel")
def test_wheel_holds_all_files_and_finds_its_shelves_without_a_checkout(tmp_path):
    build = ["uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    package = ROOT / "src" / "wbc_diffusers"
    files = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    missing = {path for path in files if "__pycache__" not in path.parts and not (site / package.name / path).is_file()}
    assert files
    assert not missing
    script = "from wbc_diffusers.shelves import find_entry; print(find_entry('ddim-base', 'training/recipes', '.yaml'))"
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert Path(found.stdout.strip()) == site / "wbc_diffusers/shelves/training/recipes/ddim-base.yaml", found.stderr
