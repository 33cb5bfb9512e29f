"""Measure what `wbc prepare` and the loader rest on: copies, shrinking, backgrounds, and how fast images are decoded.

    python benchmarks/data.py PBC_FOLDER

PBC_FOLDER holds real cells; the tables come as Markdown, as docs/data.md shows them.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader

from wbc_diffusers.data.background import estimate_background
from wbc_diffusers.data.dataset import CellImages, DrawSpec, SeededBatches
from wbc_diffusers.data.duplicates import (
    HASH_DISTANCE,
    MEAN_DIFFERENCE,
    candidates,
    compare,
    oriented_hashes,
    thumbnail,
)
from wbc_diffusers.data.images import centre_square
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.data.prepare import prepare


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def moved(image: Image.Image, by: int) -> Image.Image:
    """Crop anew, some pixels further right and down."""
    return image.crop((by, by, image.width + by, image.height + by))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 50": lambda image: jpeg(image, 50),
    "JPEG, quality 20": lambda image: jpeg(image, 20),
    "half the size and back": lambda image: image.resize((image.width // 2, image.height // 2)).resize(image.size),
    "blurred by 2 px": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "15 % darker": lambda image: image.point(lambda v: round(v * 0.85)),
    "10 % brighter, clipped": lambda image: image.point(lambda v: min(255, round(v * 1.1))),
    "contrast 20 (the thesis's)": lambda image: image.point(lambda v: min(255, max(0, round(v * 147 / 127 - 20)))),
    "cropped 2 px beside": lambda image: moved(image, 2),
    "cropped 4 px beside": lambda image: moved(image, 4),
    "cropped 8 px beside": lambda image: moved(image, 8),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "turned, mirrored, darker, JPEG": lambda image: jpeg(
        image.transpose(Image.Transpose.TRANSVERSE).point(lambda v: round(v * 0.9)), 50
    ),
}


def described(images: list[Image.Image]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    small = [thumbnail(centre_square(image, 192, 192)) for image in images]
    return np.stack([oriented_hashes(grey) for grey in small]), np.stack(small)


def copies(photos: list[Image.Image]) -> None:
    hashes, thumbnails = described(photos)
    print(f"\nDifferent cells ({len(photos)} images, {len(photos) * (len(photos) - 1) // 2} pairs):\n")
    print("| hashes differ by at most, bits | pairs | least difference of a pair, levels |\n|---|---|---|")
    for bits in (8, 10, HASH_DISTANCE, 14, 16, 18):
        pairs = candidates(hashes, bits)
        differences, _ = compare(pairs, hashes, thumbnails, bits)
        print(f"| {bits} | {len(pairs)} | {differences.min() if len(pairs) else float('nan'):.1f} |")
    some = photos[::5]
    hashes, thumbnails = described(some)
    print(f"\nCopies of {len(some)} of them:\n")
    print("| copy | bits, median | 99 % | levels, median | 99 % | found, % |\n|---|---|---|---|---|---|")
    for name, change in COPIES.items():
        changed, small = described([change(image) for image in some])
        both, stack = np.concatenate([hashes, changed]), np.concatenate([thumbnails, small])
        pairs = np.stack([np.arange(len(some)), np.arange(len(some)) + len(some)], axis=1)
        bits = np.bitwise_count(hashes[:, :1] ^ changed).min(axis=1)
        levels, _ = compare(pairs, both, stack, 64)
        near, _ = compare(pairs, both, stack, HASH_DISTANCE)
        found = 100 * (near <= MEAN_DIFFERENCE).mean()
        figures = [*np.percentile(bits, (50, 99)), *np.percentile(levels, (50, 99)), found]
        print(f"| {name} | {figures[0]:.0f} | {figures[1]:.0f} | " + " | ".join(f"{f:.1f}" for f in figures[2:]) + " |")


def shrinking(photos: list[Image.Image]) -> None:
    """Compare the power in the upper half of what 64 px can show with that of the 192 px original."""
    frequency = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192)) * 192
    small = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)) * 64
    power: dict[str, list[float]] = {"lanczos": [], "area": [], "original": []}
    for photo in photos[::20]:
        square = centre_square(photo, 192, 192).convert("L")
        for name, kind in (("lanczos", Image.Resampling.LANCZOS), ("area", Image.Resampling.BOX)):
            spectrum = np.abs(np.fft.fft2(np.asarray(square.resize((64, 64), kind), np.float64)) / 64**2) ** 2
            power[name].append(spectrum[(small >= 16) & (small < 32)].sum())
        spectrum = np.abs(np.fft.fft2(np.asarray(square, np.float64)) / 192**2) ** 2
        power["original"].append(spectrum[(frequency >= 16) & (frequency < 32)].sum())
    for name in ("lanczos", "area"):
        print(f"{name} keeps {100 * np.mean(power[name]) / np.mean(power['original']):.0f} %")


def backgrounds(photos: list[Image.Image]) -> None:
    """Say where the slide's colour lies, and how far below it red cells are in green (they let red light pass)."""
    colours, below = [], []
    for photo in photos[::5]:
        pixels = np.asarray(photo)
        colour = estimate_background(pixels)
        if colour is None:
            continue
        colours.append(colour)
        depth = np.rint(colour[1] - pixels[..., 1]).astype(int)[pixels[..., 0] >= 0.8 * colour[0]]
        counts = np.convolve(np.bincount(depth.clip(0, 110), minlength=111), np.ones(5) / 5, "same")
        below.append(15 + int(np.argmax(counts[15:108])))
    print(f"\nBackgrounds found in {len(colours)} of {len(photos[::5])} images; 5 %, median, 95 % in levels:")
    for name, values in zip(("red", "green", "blue"), np.transpose(colours), strict=True):
        print(name, *(f"{v:.0f}" for v in np.percentile(values, (5, 50, 95))))
    print("red cells below it in green:", *(f"{v:.0f}" for v in np.percentile(below, (5, 50, 95))))


def decoding(source: Path, folder: Path) -> None:
    print("\n| side, px | workers | images a second |\n|---|---|---|")
    for size in (64, 192):
        out = folder / str(size)
        prepare(source, out, size=size, where=["cell_type=neutrophil"])
        data = CellImages(load_cells(str(out), "train"), DrawSpec(size, 1000, random_flip=True, random_turn=True))
        for workers in (0, 1, 2):
            batches = iter(DataLoader(data, batch_sampler=SeededBatches(len(data), 20, 0), num_workers=workers))
            next(batches)
            start, number = time.perf_counter(), 0
            for batch in islice(batches, 150):
                number += len(batch["image"])
            print(f"| {size} | {workers} | {number / (time.perf_counter() - start):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pbc", type=Path)
    parser.add_argument("--only", choices=("copies", "shrinking", "backgrounds", "decoding"))
    arguments = parser.parse_args()
    paths = sorted(arguments.pbc.rglob("*.jpg"))
    if arguments.only in (None, "decoding"):
        with tempfile.TemporaryDirectory() as folder:
            decoding(arguments.pbc, Path(folder))
    if arguments.only != "decoding":
        photos = [Image.open(path).convert("RGB") for path in paths]
        for name, measure in (("copies", copies), ("shrinking", shrinking), ("backgrounds", backgrounds)):
            if arguments.only in (None, name):
                measure(photos)


if __name__ == "__main__":
    main()
