"""Real trainings in processes of their own: killed at random moments, stopped by SIGTERM, on a disk that is full."""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from wbc_diffusers import cli
from wbc_diffusers.training.checkpoints import CheckpointError
from wbc_diffusers.training.ddim import train_ddim

LONG = {
    "max_train_steps": 48,
    "checkpoint_every": 6,
    "log_every": 1,
    "num_workers": 1,
    "sample_images": 1,
    "sample_every": 20,
    "sample_steps": 1,
    "random_flip": True,
}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def start(processes: ForkServerContext) -> Callable[..., ForkServerProcess]:
    def begin(function: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
        process = processes.Process(target=function, args=arguments)
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def uninterrupted(start: Any, small: Any, cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("crash") / "uninterrupted"
    process = start(train_ddim, small(**LONG), str(cells), output)
    process.join(120)
    assert process.exitcode == 0
    return output


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_weights(
    uninterrupted: Path, start: Any, small: Any, cells: Path, log_of: Any, tmp_path: Path
) -> None:
    output, kills, chance = tmp_path / "run", 0, random.Random(0)
    reached: list[int] = []
    workers: list[psutil.Process] = []
    while True:
        process = start(train_ddim, small(**LONG), str(cells), output, "latest")
        rows, checkpoint = output / "log.jsonl", 6 * (reached[-1] // 6) if reached else 0
        # By rows, not by seconds: a fast machine would be done, a slow one not have begun.
        wanted = checkpoint + chance.randint(1, 9)
        before = now = rows.read_text() if rows.is_file() else ""
        while process.is_alive() and (now == before or now.count("\n") < wanted):
            time.sleep(0.001)
            now = rows.read_text() if rows.is_file() else ""
        time.sleep(chance.uniform(0.0, 0.01))  # somewhere within the update
        if kills == 3:
            process.join(120)
        if not process.is_alive():
            assert process.exitcode == 0
            break
        workers += psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.join()
        kills += 1
        assert not (output / "model_index.json").exists()
        reached.append(len(log_of(output)))
    assert kills == 3
    assert workers
    assert not psutil.wait_procs(workers, timeout=120)[1]
    assert len(set(reached)) > 1
    assert (output / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()
    assert [row["step"] for row in log_of(output)] == list(range(1, 49))


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_143(
    uninterrupted: Path, start: Any, small: Any, cells: Path, tmp_path: Path
) -> None:
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "run"
    shutil.copy(uninterrupted / "recipe.yaml", recipe)
    options = ["--config", str(recipe), "--data", str(cells), "--output", str(output), "--checkpoint-every", "1000"]
    process = start(cli.main, ["train", *options])
    while process.is_alive() and not (output / "log.jsonl").is_file():
        time.sleep(0.02)
    process.terminate()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert len(list((output / "checkpoints").iterdir())) == 1
    process = start(cli.main, ["train", *options, "--resume", "latest"])
    process.join(120)
    assert process.exitcode == 0
    assert (output / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 600 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk; test_checkpoints.py limits the size of files instead")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["checkpoint", "pipeline"])
def test_a_full_disk_loses_what_came_after_the_last_checkpoint(
    uninterrupted: Path, trainer: Any, small: Any, small_disk: Path, tmp_path: Path, when: str
) -> None:
    output, recipe = small_disk / "run", small(**LONG, keep_checkpoints=100 if when == "checkpoint" else 2)
    message = r"Checkpoint \d+ could not be written .*last good checkpoint is .*checkpoint-\d+: make room"
    run = trainer(recipe, output)
    if when == "pipeline":
        write = run._write_pipeline
        run._write_pipeline = lambda folder: (fill(small_disk), write(folder))
        message = r"pipeline folder .* could not be written .*No space left.*last good checkpoint is .*-48: make room"
    with pytest.raises(CheckpointError, match=message):
        run.run()
    assert not (output / "model_index.json").exists()
    assert not list(output.glob("**/.partial*"))
    (small_disk / "filler").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    assert trainer(recipe, output, "latest").run()
    assert (output / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_rows_and_samples_that_do_not_fit_do_not_stop_the_training(
    trainer: Any, small: Any, small_disk: Path, log_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = small(**{**LONG, "max_train_steps": 80, "checkpoint_every": 1000})
    run = trainer(recipe, small_disk / "run")
    update = run.update

    def counted_update(batches: Any) -> Any:
        if run.step == 5:
            fill(small_disk)
        if run.step == 65:
            (small_disk / "filler").unlink()
        return update(batches)

    run.update = counted_update
    assert run.run()
    assert "a row of log.jsonl could not be written" in caplog.text
    assert "a sheet of samples could not be written" in caplog.text
    steps = [row["step"] for row in log_of(small_disk / "run")]
    assert steps == sorted(set(steps))
    assert steps[:5] + steps[-15:] == [*range(1, 6), *range(66, 81)]
    assert [p.name for p in (small_disk / "run" / "samples").iterdir()] == ["step-0000080.png"]


def fill(disk: Path) -> None:
    """Write until the disk is full."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 512):
                pass
        except OSError:
            return
