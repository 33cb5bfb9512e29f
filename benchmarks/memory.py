"""How the memory of an evaluation grows with the number of generated images, as a Markdown table; Linux only.

    uv run --extra evaluate python benchmarks/memory.py --counts 1000 20000

Phantom cells in all flips and turns pose as generated. Each evaluation is a process of its own, from reading to the
page, with no cache; what is told is the most memory that it held.
"""

import argparse
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from phantom import table

from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.phantom import render_cell

VIEWS = 8


def write(folder: Path, first_seed: int, count: int, size: int, views: int = 1) -> Path:
    """Write `count` images: cells, each in so many flips and turns."""
    folder.mkdir()
    for i in range(count):
        turn, flip = divmod(i % views, 2)
        if i % views == 0:
            cell = render_cell(size, first_seed + i // views).pixels
        view = np.rot90(cell, turn)
        write_png(folder / f"{i:06d}.png", np.ascontiguousarray(view[:, ::-1] if flip else view))
    return folder


def evaluated(real: Path, generated: Path, train: Path, out: Path) -> int:
    """Most memory of an evaluation, in KB, without the processes that it starts to measure cells."""
    # Here, since the processes that measure cells import this file, and need no torch.
    from wbc_diffusers.evaluation.evaluate import evaluate
    from wbc_diffusers.evaluation.found import Plan

    evaluate(Plan(real, generated, train, encoders=("efficientnet-lite0",)), out)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 20000], help="generated images")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    options = parser.parse_args()
    rows: list[list[str]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        real = write(folder / "real", 0, 320, options.size)
        train = write(folder / "train", 10_000, 1000, options.size)
        least, before = 0, 0
        for count in options.counts:
            generated = write(folder / f"generated-{count}", 100_000, count, options.size, VIEWS)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                peak = pool.submit(evaluated, real, generated, train, folder / f"of-{count}").result()
            grown = f"{(peak - before) / (count - least):.1f}" if least else ""
            rows.append([f"{count:,}", f"{peak / 1024:.0f}", grown])
            print(rows[-1], flush=True)
            least, before = count, peak
    print(table(["generated images", "MB", "KB for each image more"], rows))


if __name__ == "__main__":
    main()
