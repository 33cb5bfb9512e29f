"""How many planted copies of training images the search for copies finds, and what it takes for one by mistake.

    uv run --extra evaluate python benchmarks/copies.py --train data/train --held-out data/validation
    uv run --extra evaluate python benchmarks/copies.py --train data/train          # every other image is held out
    uv run --extra evaluate python benchmarks/copies.py --phantom 1200
    uv run --extra evaluate python benchmarks/copies.py --times 2000x2000 4000x20000

Two thirds of the held-out images set the threshold, at which one in a hundred new images is taken for a copy; the rest,
5 % of them replaced by copies, pose as generated. The tables come as Markdown.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from judge import read_folder
from numpy.typing import NDArray
from PIL import Image

from wbc_diffusers.data.phantom import render_cell
from wbc_diffusers.evaluation.copies import CopyAudit, audit, authenticity
from wbc_diffusers.evaluation.encoders import load_encoder
from wbc_diffusers.evaluation.intervals import Estimate, share
from wbc_diffusers.evaluation.nearest import SIDE, Nearest, nearest_by_features, nearest_by_pixels, thumbnail
from wbc_diffusers.evaluation.planted import KINDS, draw_originals, plant_copies

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, Pixels, np.random.Generator], Pixels]
Describe = Callable[[Pixels], NDArray]

BATCH = 32


def rotated(pixels: Pixels, degrees: float, rng: np.random.Generator) -> Pixels:
    background = tuple(int(level) for level in np.percentile(pixels, 80, axis=(0, 1)))
    sign = float(rng.choice([-1, 1]))
    return np.asarray(Image.fromarray(pixels).rotate(sign * degrees, Image.Resampling.BICUBIC, fillcolor=background))


def cropped(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    size = len(pixels)
    left, top = rng.uniform(0, size * (1 - share), 2)
    box = (left, top, left + share * size, top + share * size)
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=box))


def mixed(pixels: Pixels, other: Pixels, share: float) -> Pixels:
    return np.rint(share * pixels + (1 - share) * other).astype(np.uint8)


def transplanted(pixels: Pixels, other: Pixels, radius: float) -> Pixels:
    """The middle of an image, to a radius in its widths, on another one."""
    axis = (np.arange(len(pixels)) + 0.5) / len(pixels) - 0.5
    inside = 1 / (1 + np.exp((np.hypot(axis, axis[:, None]) - radius) / 0.02))[..., None]
    return np.rint(inside * pixels + (1 - inside) * other).astype(np.uint8)


HARDER: dict[str, Change] = {
    "cropped to 80 %": lambda own, other, rng: cropped(own, 0.8, rng),
    "cropped to 75 %": lambda own, other, rng: cropped(own, 0.75, rng),
    "turned by 5 degrees": lambda own, other, rng: rotated(own, 5, rng),
    "turned by 10 degrees": lambda own, other, rng: rotated(own, 10, rng),
    "noise of 12 levels": lambda own, other, rng: (own + rng.normal(0, 12, own.shape)).clip(0, 255).astype(np.uint8),
    "noise of 25 levels": lambda own, other, rng: (own + rng.normal(0, 25, own.shape)).clip(0, 255).astype(np.uint8),
    "70 % with 30 % of another": lambda own, other, rng: mixed(own, other, 0.7),
    "60 % with 40 % of another": lambda own, other, rng: mixed(own, other, 0.6),
    "middle, 84 % wide, on another": lambda own, other, rng: transplanted(own, other, 0.42),
    "middle, 70 % wide, on another": lambda own, other, rng: transplanted(own, other, 0.35),
}
"""Changes beyond what is planted: they say where the search ends."""


def harder(kind: str, originals: Pixels, others: Pixels, seed: int) -> Pixels:
    rng = np.random.default_rng([seed, list(HARDER).index(kind)])
    return np.stack([HARDER[kind](own, others[rng.integers(len(others))], rng) for own in originals])


def thumbnails_of(pixels: Pixels) -> NDArray[np.uint8]:
    return np.stack([thumbnail(each) for each in pixels])


def percent(found: Estimate) -> str:
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"


def measure(train: Pixels, held_out: Pixels, per_kind: int, seed: int) -> None:
    """Audit held-out images with 5 % copies among them by both searches, and print the tables."""
    encoder = load_encoder("efficientnet-lite0")

    def features_of(pixels: Pixels) -> NDArray[np.float32]:
        return np.concatenate([encoder(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])

    rng = np.random.default_rng(seed)
    held_out = held_out[rng.permutation(len(held_out))]
    cut = len(held_out) * 2 // 3
    calibration, posing = held_out[:cut], held_out[cut:].copy()
    places = rng.choice(len(posing), max(1, round(0.05 * len(posing))), replace=False)
    originals = rng.choice(len(train), len(places), replace=False)
    posing[places] = plant_copies(train[originals], "all", seed + 1)

    drawn = {kind: draw_originals(len(train), kind, seed, per_kind) for kind in KINDS}
    planted = {kind: plant_copies(train[which], kind, seed) for kind, which in drawn.items()}
    drawn |= {kind: np.sort(rng.choice(len(train), per_kind, replace=False)) for kind in HARDER}
    beyond = {kind: harder(kind, train[drawn[kind]], calibration, seed) for kind in HARDER}

    searches: dict[str, tuple[Describe, Callable[[NDArray, NDArray], Nearest]]] = {
        "pixels": (thumbnails_of, nearest_by_pixels),
        "features": (features_of, nearest_by_features),
    }
    print(f"\n{len(train)} training images, {cut} held-out ones, {per_kind} copies of a kind")
    for name, (describe, search) in searches.items():
        known, copies = describe(train), {kind: describe(each) for kind, each in (planted | beyond).items()}
        found = audit(search, describe(posing), describe(calibration), known, {kind: copies[kind] for kind in planted})
        print(f"\n| kind | found by {name} | original named, % |\n|---|---|---|")
        for kind in copies:
            nearest = search(copies[kind], known)
            share_found = share(int((nearest.distance < found.threshold).sum()), per_kind)
            print(f"| {kind} | {percent(share_found)} | {100 * np.mean(nearest.index == drawn[kind]):.1f} |")
        print(f"| all that are planted | {percent(found.found_of_all)} | |")
        report(found, len(posing), places)
    of_train = features_of(train)
    for name, pixels in {"held-out": calibration, "posing, 5 % copies": posing}.items():
        print(f"authenticity, {name}: {percent(authenticity(features_of(pixels), of_train))}")


def report(found: CopyAudit, count: int, places: NDArray[np.int64]) -> None:
    middle = float(np.median(found.held_out.distance))
    print(f"\nthreshold {found.threshold:.3f}, median of held-out images {middle:.3f}")
    print(f"false alarms {percent(found.false_alarms)}")
    print(f"{count} posing images, {len(places)} copies ({len(places) / count:.1%}): beyond {percent(found.beyond)}")
    hits = np.nonzero(found.generated.distance < found.threshold)[0]
    print(f"excess {percent(found.excess)}, by chance {found.chance:.1e}, copies at most {found.copies_at_most:.1%}")
    print(f"of those beyond, copies: {np.isin(hits, places).sum()} of {len(hits)}")


def measure_time(queries: int, training: int) -> None:
    """Print time and memory of both searches, each in a process of its own: freed memory would serve the next."""
    for name in ("pixels", "features"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            print(f"{queries} x {training}, {name}: {pool.submit(cost, name, queries, training).result()}", flush=True)


def cost(name: str, queries: int, training: int) -> str:
    """Seconds of searching noise, and the memory beyond the images'; Linux only."""
    rng = np.random.default_rng(0)
    search: Callable[[NDArray, NDArray], Nearest] = nearest_by_pixels if name == "pixels" else nearest_by_features

    def images(count: int) -> NDArray:
        if name == "pixels":
            return rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
        return rng.standard_normal((count, 1280), dtype=np.float32)

    ours, theirs = images(queries), images(training)
    Path("/proc/self/clear_refs").write_text("5")  # the peak falls to what is held now
    before, clock, processors = peak(), time.perf_counter(), time.process_time()
    search(ours, theirs)
    clock, processors = time.perf_counter() - clock, time.process_time() - processors
    return f"{clock:.1f} s, {processors:.1f} s of processors, {peak() - before:.0f} MB"


def peak() -> float:
    """Most memory that the process has held since the peak was set back, in MB."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, help="folder of PNGs that copies are made of")
    parser.add_argument("--held-out", type=Path, help="folder of other PNGs; without it half of --train")
    parser.add_argument("--phantom", type=int, help="number of phantom cells to take instead, half of them held out")
    parser.add_argument("--per-kind", type=int, default=100, help="copies of each kind")
    parser.add_argument("--times", nargs="*", default=[], help="images x training images to take the time of")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for pair in options.times:
        measure_time(*map(int, pair.split("x")))
    if options.phantom:
        cells = np.stack([render_cell(64, seed).pixels for seed in range(options.phantom)])
        measure(cells[0::2], cells[1::2], options.per_kind, options.seed)
    if options.train:
        train = read_folder(options.train)
        halves = (train, read_folder(options.held_out)) if options.held_out else (train[0::2], train[1::2])
        measure(*halves, options.per_kind, options.seed)


if __name__ == "__main__":
    main()
