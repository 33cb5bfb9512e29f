"""`wbc train`: options, errors in a line, and the launch script that is the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image

from wbc_diffusers.cli import main
from wbc_diffusers.shelves import shelf

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TINY = ["--model", "{block_out_channels: [4, 8]}", "--resolution", "16", "--max-train-steps", "3"]
TINY += ["--train-batch-size", "4", "--num-workers", "0", "--sample-images", "0", "--validation-images", "0"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    (folder / "train").mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "train" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "run"
    main_without_exit(["train", "--config", "ddim-base", "--data", str(cells), "--output", str(output), *TINY])
    return output


def main_without_exit(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def test_options_lie_over_the_recipe_of_that_name(trained: Path) -> None:
    recipe = json.loads((trained / "training_manifest.json").read_text())["recipe"]
    assert recipe["model"] == {"block_out_channels": [4, 8]}
    assert (recipe["name"], recipe["max_train_steps"], recipe["learning_rate"]) == ("ddim-base", 3, 3e-4)
    assert yaml.safe_load((trained / "recipe.yaml").read_text()) == recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rat", "1"], "Unknown option '--learning-rat'. Did you mean --learning-rate?"),
        (["--resme", "latest"], "Unknown option '--resme'. Did you mean --resume?"),
        (["--learning-rate", "fast"], "The recipe's learning_rate is 'fast'; it must be a number."),
        (["--where", "{a: "], "is not YAML"),
        (["--where", "{colour: blue}"], "has no column 'colour'"),
        (["--train-batch-size", "0"], "The recipe's train_batch_size is 0; it must be above 0."),
        (["--gradient-accumulation-steps", "3"], "take a multiple of 3"),
        (["--config", "ddim-bsae"], "There is no file ddim-bsae, and no entry of that name; the entries are ddim-base"),
        (["--data", "/nowhere/cells"], "/nowhere/cells"),
        (["--resume", "/nowhere/checkpoint-3"], "There is no checkpoint to resume from in /nowhere/checkpoint-3"),
        (["--pretrained", "/nowhere/model"], "/nowhere/model"),
    ],
)
def test_what_the_user_can_put_right_is_told_in_a_line_with_exit_code_2(
    cells: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    given = {"--config": "ddim-base", "--data": str(cells), "--output": str(tmp_path / "run")}
    own = [part for pair in given.items() for part in pair if pair[0] not in options]
    with pytest.raises(SystemExit) as end:
        main(["train", *own, *TINY, *options])
    assert end.value.code == 2
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("wbc: ")]
    assert len(told) == 1
    assert message in told[0]


@pytest.mark.slow
def test_the_launch_script_on_one_cpu_is_the_same_as_wbc_train(cells: Path, trained: Path, tmp_path: Path) -> None:
    training = shelf("training")
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        training / "accelerate/one_cpu.yaml",
    ]
    options = ["--config", "ddim-base", "--data", cells, "--output", tmp_path / "run", *TINY]
    done = subprocess.run([*command, training / "train_ddim.py", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Wrote the pipeline folder {tmp_path / 'run'}." in done.stdout
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("name", "machines", "processes", "kind"),
    [
        ("one_cpu", 1, 1, "NO"),
        ("one_gpu", 1, 1, "NO"),
        ("one_node_8_gpus", 1, 8, "MULTI_GPU"),
        ("several_nodes", 2, 16, "MULTI_GPU"),
    ],
)
def test_accelerate_reads_the_launch_configurations(name: str, machines: int, processes: int, kind: str) -> None:
    config = load_config_from_file(str(shelf("training/accelerate") / f"{name}.yaml"))
    assert (config.num_machines, config.num_processes, config.distributed_type.value) == (machines, processes, kind)
    assert config.use_cpu == (name == "one_cpu")
    assert config.mixed_precision == "no"


STUBS = {
    "srun": '[ "$1" = --cpus-per-task=12 ] || exit 9; shift 2; exec env SLURM_NODEID=1 "$@"',
    "accelerate": 'echo "accelerate $*" >> "$CALLS"; trap "exit 143" TERM; echo $$ > "$CALLS.pid"; kill -USR1 $TOLD; '
    "for i in $(seq 300); do sleep 0.1; done",
    "scontrol": '[ "$1" = show ] && printf "n1\\nn2\\n" || echo "scontrol $*" >> "$CALLS"',
    "scancel": 'echo "scancel $*" >> "$CALLS"; kill -TERM "$(cat "$CALLS.pid")"',
}


@pytest.mark.parametrize("told", [True, False])
def test_slurm_stops_a_run_in_time_and_queues_it_again_but_not_one_that_failed(tmp_path: Path, told: bool) -> None:
    # No Slurm here: its commands are scripts that note how they were called.
    for name, body in STUBS.items():
        body = body if told or name != "accelerate" else "exit 2"
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    job = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7"}
    environment = {
        **os.environ,
        **job,
        "SLURM_CPUS_PER_TASK": "12",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(calls),
    }
    script = shelf("training/accelerate") / "slurm.sh"
    run = f'export TOLD=$$; exec bash "{script}" --config ours-64'
    done = subprocess.run(["bash", "-c", run], env=environment, timeout=600)
    lines = calls.read_text().splitlines()
    if not told:
        assert (done.returncode, lines) == (2, [])
        return
    assert done.returncode == 143
    assert "--num_machines 2 --num_processes 16 --machine_rank 1 --main_process_ip n1" in lines[0]
    assert lines[0].endswith("-m wbc_diffusers train --resume latest --config ours-64")
    assert lines[1:] == ["scancel --signal=TERM 7.0", "scontrol requeue 7"]
