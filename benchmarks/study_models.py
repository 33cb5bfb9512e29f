"""The generators of the studies in docs/classifying.md, and their cells, in the folder that study_data.py filled.

    python benchmarks/study_models.py phantom --within studies      # base, and fine-tuned on 50
    python benchmarks/study_models.py pbc --within studies          # base, and fine-tuned on the 30
    python benchmarks/study_models.py table-4 --within studies      # from the phantom's base: one of each abnormality

What recipes and arms were chosen by are phantom-development and pbc-development.

Start it again after a stop: trainings go on from their last checkpoint, and cells that are there are kept.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

COMMON = "--config ours-64 --num-workers 0 --validation-images 0"
FINE_TUNE = "--learning-rate 3e-4 --lr-warmup-steps 50 --sample-every 500 --model {}"
NORMAL_SEED = 500_000


@dataclass(frozen=True)
class Model:
    """A model to train on some cells of a prepared folder, from another one where it is fine-tuned, and its cells."""

    name: str
    data: str
    where: str
    cells: int
    base: str | None = None
    images: int | None = None
    updates: int = 1000
    """Of a fine-tuning; those of a base model are the recipe's."""


NORMAL = "{abnormality: none}"
TABLE_4 = {"hypersegmentation": 946, "dohle_bodies": 898, "hypergranulation": 982}
"""A tenth of the table's abnormal training images."""
SEVERE = "{abnormality: hypersegmentation, grade: 2}"
MODELS = {
    "phantom": [
        Model("phantom-base", "phantom", NORMAL, 1200),
        Model("phantom-rare-50", "phantom", SEVERE, 1200, "phantom-base", 50),
    ],
    "pbc": [
        Model("pbc-base", "pbc-study", NORMAL, 1100),
        Model("pbc-rare", "pbc-study", "{abnormality: hypersegmentation}", 1100, "pbc-base", 30),
    ],
    "phantom-development": [
        Model("phantom-development-base", "phantom-development", NORMAL, 1200),
        Model("phantom-development-rare", "phantom-development", SEVERE, 1200, "phantom-development-base", 10),
    ],
    "pbc-development": [
        Model("pbc-development-base", "pbc-study-development", NORMAL, 1100),
        Model(
            "pbc-development-rare",
            "pbc-study-development",
            "{abnormality: hypersegmentation}",
            1100,
            "pbc-development-base",
            30,
        ),
    ],
    "table-4": [
        Model(
            f"table-4-{kind.replace('_', '-')}",
            "phantom-table-4",
            f"{{abnormality: {kind}}}",
            1200,
            "phantom-base",
            n,
            500,
        )
        for kind, n in TABLE_4.items()
    ],
}


def train(model: Model, precision: str, updates: int | None) -> None:
    """Train a model that is not there yet."""
    if (Path(model.name) / "model_index.json").is_file():
        return
    command = [*COMMON.split(), "--data", model.data, "--where", model.where, "--mixed-precision", precision]
    command += ["--output", model.name]
    if Path(model.name).is_dir():
        command += ["--resume", "latest"]
    if model.base is not None:
        command += ["--pretrained", model.base, "--max-train-samples", str(model.images), *FINE_TUNE.split()]
        command += ["--max-train-steps", str(model.updates)]
    elif updates is not None:
        command += ["--max-train-steps", str(updates)]
    wbc("train", *command)


def generate(model: Model, precision: str) -> None:
    """Make the model's cells that are not there yet; normal ones by seeds of their own."""
    seed = str(0 if model.base else NORMAL_SEED)
    options = ["--seed", seed, "--batch-size", "32", "--mixed-precision", precision, "--out", f"{model.name}-cells"]
    wbc("generate", model.name, "--num", str(model.cells), *options)


def wbc(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "wbc_diffusers", *command], check=True)


def make(models: list[Model], processes: int, precision: str, updates: int | None) -> None:
    """Train what others start from, with all cores, and then all else side by side."""
    bases = [model for model in models if model.base is None]
    for model in bases:
        train(model, precision, updates)
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))

    def job(model: Model) -> None:
        if model not in bases:
            train(model, precision, updates)
        generate(model, precision)

    with ThreadPoolExecutor(processes) as pool:
        for done in [pool.submit(job, model) for model in models]:
            done.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=MODELS)
    parser.add_argument("--within", type=Path, required=True, help="the folder of the prepared data")
    parser.add_argument("--mixed-precision", default="no", help="bf16 is faster where the processor has it")
    parser.add_argument("--processes", type=int, default=2, help="so many models at a time, after their base")
    parser.add_argument("--updates", type=int, help="of the base model; the recipe's if left out")
    options = parser.parse_args()
    os.chdir(options.within)
    make(MODELS[options.world], options.processes, options.mixed_precision, options.updates)


if __name__ == "__main__":
    main()
