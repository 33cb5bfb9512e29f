"""Checkerboard artefacts of generated cells: the energy at the frequencies of the stride, beside that of real ones.

    uv run python benchmarks/checkerboard.py --real data/train --generated synthetic --out found.json --plot found.png

Each generated folder gives a column of the plot: the spectrum of its images on both axes, whose lines are bright dots,
and below it the power along the horizontal frequency beside that of the real images. --untrained adds generators as
they start, so as to show what is theirs by build.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from wbc_diffusers import WBCGenerator
from wbc_diffusers.evaluation.checkerboard import PERIODS, checkerboard, mean_spectrum
from wbc_diffusers.pages import COLOURS, INK, MUTED

Pixels = NDArray[np.uint8]

UNTRAINED = (("transposed", 5), ("transposed", 6), ("nearest", 6))
"""The ancestor of the thesis's generator, its kernel made to divide by the stride, and the thesis's generator."""


def read_folder(folder: Path, count: int | None) -> Pixels:
    """PNGs of a folder, the first `count` by name or all, as (N, H, W, 3)."""
    paths = sorted(folder.glob("*.png"))[:count]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no PNG")
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


@torch.inference_mode()
def untrained(size: int, count: int, seed: int, upsampling_type: str, kernel_size: int) -> Pixels:
    """Images (N, S, S, 3) of a generator of depth 256 as it starts, batch norm by the batch's own statistics."""
    torch.manual_seed(seed)
    generator = WBCGenerator(size, depth=256, upsampling_type=upsampling_type, kernel_size=kernel_size).train()
    sample = torch.cat([generator(torch.randn(64, 100)).sample for _ in range(-(-count // 64))])[:count]
    return sample.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


def row_of(name: str, images: Pixels) -> dict[str, Any]:
    found = checkerboard(images)
    row: dict[str, Any] = {"images": name, "count": len(images)}
    for key, excess in [*((f"{period} px", found.by_period[period]) for period in PERIODS), ("all", found.total)]:
        row[key] = {figure: round(value, 3) for figure, value in asdict(excess).items()}
    return row


def decibels(spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Powers in decibels of one squared grey level."""
    return 10 * np.log10(np.maximum(spectrum, 1e-3))


def draw(path: Path, sets: list[tuple[str, NDArray[np.float64]]]) -> None:
    """Draw the spectra (S, S) of named sets, each beside the first, which is the real one."""
    figure = Figure(figsize=(2.9 * len(sets), 5.2), layout="constrained")
    axes = figure.subplots(2, len(sets), squeeze=False, height_ratios=(1.1, 1))
    low, high = np.percentile(decibels(sets[0][1]), (1, 99))
    for column, (name, spectrum) in enumerate(sets):
        top, bottom = axes[:, column]
        top.imshow(np.fft.fftshift(decibels(spectrum)), extent=(-0.5, 0.5, -0.5, 0.5), vmin=low, vmax=high, cmap="gray")
        top.set_title(name, fontsize=10, color=INK)
        top.set_xticks((-0.5, -0.25, 0, 0.25, 0.5))
        top.set_yticks((-0.5, -0.25, 0, 0.25, 0.5))
        for k in range(1, max(PERIODS) // 2 + 1):
            bottom.axvline(k / max(PERIODS), color=MUTED, linewidth=0.7, linestyle=":")
        curves = [(*sets[0], MUTED), (name, spectrum, COLOURS[0])]
        for label, shown, colour in curves if column else curves[:1]:
            half = len(shown) // 2 + 1
            bottom.plot(np.arange(1, half) / len(shown), decibels(shown[0, 1:half]), color=colour, label=label)
        bottom.set_xticks((0, 1 / 8, 1 / 4, 3 / 8, 1 / 2), ("0", "1/8", "1/4", "3/8", "1/2"))
        bottom.set_xlabel("horizontal frequency, cycles a pixel", fontsize=8, color=INK)
        bottom.spines[["top", "right"]].set_visible(False)
        bottom.legend(fontsize=7, frameon=False)
        bottom.sharey(axes[1, 0])
    axes[1, 0].set_ylabel("power, dB", fontsize=9, color=INK)
    for axis in axes.flat:
        axis.tick_params(colors=INK, labelsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="folder of real PNGs")
    parser.add_argument("--generated", type=Path, nargs="*", default=[], help="folders of generated PNGs")
    parser.add_argument("--untrained", type=int, default=0, help="images of generators without training, as sets too")
    parser.add_argument("--seed", type=int, default=0, help="of the weights of those")
    parser.add_argument("--count", type=int, help="images of each set, at most; all by default")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    parser.add_argument("--plot", type=Path, required=True, help="PNG file for the spectra")
    options = parser.parse_args()

    folders = [("real", options.real), *((folder.name, folder) for folder in options.generated)]
    sets = [(name, read_folder(folder, options.count)) for name, folder in folders]
    for upsampling_type, kernel_size in UNTRAINED if options.untrained else ():
        images = untrained(sets[0][1].shape[1], options.untrained, options.seed, upsampling_type, kernel_size)
        sets.append((f"untrained, {upsampling_type} {kernel_size}", images))
    rows = []
    for name, images in sets:
        rows.append(row_of(name, images))
        print(json.dumps(rows[-1]), flush=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(options.plot, [(name, mean_spectrum(images)) for name, images in sets])


if __name__ == "__main__":
    main()
