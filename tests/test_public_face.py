"""What other people's code rests on: names, lazy imports, the command line, and components that need no package."""

import ast
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import wbc_diffusers
from wbc_diffusers import cli
from wbc_diffusers.cli import main

PACKAGE = Path(wbc_diffusers.__file__).parent
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
HEAVY = {"torch", "diffusers", "accelerate", "transformers", "datasets", "skimage", "matplotlib"}
CLASSES = (
    "R2AttnUNet",
    "SigmoidDDIMScheduler",
    "WBCDDIMPipeline",
    "WBCGenerator",
    "WBCDiscriminator",
    "WBCGANPipeline",
)
COMPONENTS = [
    path
    for folder in ("models", "schedulers", "pipelines")
    for path in sorted((PACKAGE / folder).glob("*.py"))
    if path.name not in ("__init__.py", "pretrained.py")  # the installed package's own
]


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "script",
    [
        "import wbc_diffusers; dir(wbc_diffusers)",
        "from wbc_diffusers.cli import main; main(['--help'])",
        "from wbc_diffusers.cli import main; main(['generate', '--help'])",
        "from wbc_diffusers.cli import main; main(['--version'])",
    ],
)
def test_import_and_help_load_nothing_heavy(script):
    watched = f"import sys, atexit; atexit.register(lambda: print('LOADED', *sorted({HEAVY!r} & set(sys.modules))))\n"
    found = python(watched + script)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "LOADED"


def test_public_names_are_there_and_listed():
    names = {*CLASSES, "__version__"}
    assert names <= set(wbc_diffusers.__all__) <= set(dir(wbc_diffusers))
    assert {getattr(wbc_diffusers, name).__name__ for name in names - {"__version__"}} == names - {"__version__"}
    everything: dict = {}
    exec("from wbc_diffusers import *", everything)  # what a star import gives can be seen by one only
    assert names <= set(everything)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'wbc_diffusers' has no attribute 'R2UNet'"):
        _ = wbc_diffusers.R2UNet
    with pytest.raises(ImportError, match="cannot import name 'R2UNet'"):
        from wbc_diffusers import R2UNet  # noqa: F401 - it is not there


def test_public_classes_can_be_pickled():
    for name in CLASSES:
        cls = getattr(wbc_diffusers, name)
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_version_is_that_of_the_project():
    assert wbc_diffusers.__version__ == tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"]


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.name)
def test_component_imports_only_what_its_users_have(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            imported.add(str(node.module).split(".")[0])
    assert imported - sys.stdlib_module_names <= {"torch", "numpy", "PIL", "diffusers", "huggingface_hub"}
    assert "importlib" not in imported


def test_every_component_is_looked_at():
    assert len(COMPONENTS) >= 6


# The command line.


def test_module_is_the_command_line():
    found = subprocess.run(
        [sys.executable, "-m", "wbc_diffusers", "--version"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout.strip()) == (0, wbc_diffusers.__version__)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.delenv("WBC_TRACEBACK", raising=False)


@pytest.mark.parametrize("error", [ValueError("wrong:\n  this  thing"), FileNotFoundError("wrong: this thing")])
def test_error_that_the_user_can_put_right_is_one_line(error, monkeypatch, capsys):
    failing(monkeypatch, error)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["wbc: wrong: this thing"]


def test_too_little_memory_is_told_with_what_takes_less(monkeypatch, capsys):
    with pytest.raises(RuntimeError) as of_processor:
        torch.empty(2**46)
    for error in (of_processor.value, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")):
        failing(monkeypatch, error)
        with pytest.raises(SystemExit) as left:
            main([])
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("wbc: There is not enough memory: work on fewer images at a time (--batch-size")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), TypeError("a bug")])
def test_error_of_the_program_shows_where_it_came_from(error, monkeypatch):
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        main([])


def test_traceback_comes_on_request(monkeypatch):
    failing(monkeypatch, ValueError("wrong"))
    monkeypatch.setenv("WBC_TRACEBACK", "1")
    with pytest.raises(ValueError, match="wrong"):
        main([])


def test_unknown_command_and_no_command_say_what_there_is(capsys):
    for arguments, expected in ((["grow"], "No such command 'grow'"), ([], "Usage: ")):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        said = capsys.readouterr()
        assert left.value.code == 2
        assert expected in said.out + said.err
