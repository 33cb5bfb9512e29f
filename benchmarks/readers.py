"""What docs/readers.md says of a reader study's server and figures.

python benchmarks/readers.py load       # 50 readers who answer at once
python benchmarks/readers.py coverage   # what intervals over readers hold of simulated studies
python benchmarks/readers.py jpeg --pbc ../shared/data/pbc   # can a program tell cells that were JPEGs before?
python benchmarks/readers.py screens --out docs/images --chromium /usr/bin/chromium
"""

import argparse
import asyncio
import csv
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from PIL import Image

from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.data.phantom import render_cell
from wbc_diffusers.readers import detection
from wbc_diffusers.readers.blinding import file_figures
from wbc_diffusers.readers.build import build_study
from wbc_diffusers.readers.cells import as_png, in_one_form
from wbc_diffusers.readers.config import ReaderStudy
from wbc_diffusers.readers.detection import count_answers
from wbc_diffusers.readers.reading import Reading
from wbc_diffusers.readers.several import over_readers

READERS, CELLS, SIDE = 50, 100, 192
FIGURES = {"balanced_accuracy": "balanced accuracy", "d_prime": "d'", "auc": "AUC", "recall": "recall"}
READERS_LIKE: dict[str, tuple[float, float, float, float]] = {
    "alike": (1.0, 0.0, 0.0, 0.0),
    "different": (1.0, 0.0, 0.4, 0.4),
    "nearly perfect": (3.5, 0.0, 0.2, 0.2),
    'nearly always "real"': (0.0, -2.0, 0.2, 0.2),
}
"""How far apart the kinds look to readers, their habit, and how both scatter, skill as a share of it."""
CUTS = np.array([-1.0, -0.4, 0.0, 0.4, 1.0])


# -- a study to serve -------------------------------------------------------------------------------------------------


def make_study(place: Path, readers: list[str], **changes: Any) -> dict[str, str]:
    """Build a study of phantom cells, drawn for real and for synthetic ones alike, and give the readers' tokens."""
    for name, first, origin in (("real", 10, None), ("made", 5010, TRAINED)):
        (place / name).mkdir()
        for i in range(CELLS // 2):
            cell = render_cell(SIDE, first + 41 * i, "hypersegmentation", 2)
            write_png(place / name / f"{i:08}.png", cell.pixels, origin)
    sources = {
        "real": {"folder": str(place / "real"), "number": CELLS // 2},
        "ddim": {"folder": str(place / "made"), "number": CELLS // 2},
    }
    fields = {"title": "Hypersegmented neutrophils", "strata": {"hypersegmentation": sources}, "readers": readers}
    build_study(ReaderStudy.from_dict({**fields, **changes}), place / "study", place / "key")
    with (place / "key" / "links.csv").open(newline="") as file:
        return {row["reader"]: row["link"].partition("#")[2] for row in csv.DictReader(file)}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a study in a process of its own; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wbc_diffusers", "readers", "serve", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                with socket.socket() as there:
                    if there.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


# -- 50 readers -------------------------------------------------------------------------------------------------------


async def read(client: httpx.AsyncClient, token: str, times: dict[str, list[float]], thinking: float) -> None:
    """Read a whole study as a browser does: an image, a while to think, an answer, the next."""
    headers, rng = {"Authorization": f"Bearer {token}"}, np.random.default_rng(sum(token.encode()))
    for position in range(CELLS):
        start = time.perf_counter()
        image = await client.get(f"/api/images/{position}/0", headers=headers)
        times["image"].append(time.perf_counter() - start)
        assert image.status_code == 200, image.text
        await asyncio.sleep(thinking * rng.exponential())
        answer = {"position": position, "revision": position, "choice": "real", "confidence": 1, "seconds": thinking}
        start = time.perf_counter()
        saved = await client.post("/api/answers", json=answer, headers=headers)
        times["answer"].append(time.perf_counter() - start)
        assert saved.status_code == 200, saved.text


async def read_all(address: str, tokens: dict[str, str], thinking: float) -> dict[str, list[float]]:
    """Let all readers read at once."""
    times: dict[str, list[float]] = {"image": [], "answer": []}
    limits = httpx.Limits(max_connections=2 * len(tokens))
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        await asyncio.gather(*(read(client, token, times, thinking) for token in tokens.values()))
    return times


def load(thinking: float) -> None:
    """Print how long readers wait, and whether an answer is lost."""
    names = [f"reader {i}" for i in range(READERS)]
    with TemporaryDirectory() as name:
        place = Path(name)
        tokens = make_study(place, names)
        with served(place / "study") as address:
            start = time.perf_counter()
            times = asyncio.run(read_all(address, tokens, thinking))
            seconds = time.perf_counter() - start
        reading = Reading(place / "study")
        kept = [len(reading.store.answers(reader)) for reader in names]
    print(f"{READERS} readers, {CELLS} cells of {SIDE} x {SIDE} px, {thinking:g} s to think: {seconds:.0f} s, "
          f"{READERS * CELLS / seconds:.0f} answers a second, {sum(kept)} of {READERS * CELLS} kept")  # fmt: skip
    for what, found in times.items():
        median, late, last = 1000 * np.quantile(found, [0.5, 0.99, 1.0])
        print(f"{what}: median {median:.0f} ms, 99 in 100 within {late:.0f} ms, longest {last:.0f} ms")


# -- intervals --------------------------------------------------------------------------------------------------------


def a_study(
    rng: np.random.Generator, readers: int, cells: int, apart: float, habit: float, skill: float, own: float
) -> tuple[Any, Any]:
    """Answers of readers who see a common and an own part of each cell, and scatter in skill and in habit."""
    signal = np.arange(cells) % 2 == 0
    skills, habits = skill * rng.standard_normal((readers, 1)), own * rng.standard_normal((readers, 1, 1))
    seen = 0.7 * rng.standard_normal(cells) + np.sqrt(1 - 0.7**2) * rng.standard_normal((readers, cells))
    seen += np.where(signal, apart / 2, -apart / 2) * (1 + skills)
    return (seen[:, :, None] > habit + habits + CUTS).sum(-1), signal


def coverage(studies: int, cells: int) -> None:
    """Print in how many simulated studies the interval over readers held the truth."""
    print(f"| readers | they are | {' | '.join(FIGURES.values())} |")
    print("| --- " * (2 + len(FIGURES)) + "|")
    for readers in (2, 3, 5, 8):
        for name, like in READERS_LIKE.items():
            many, signal = a_study(np.random.default_rng(99), 4000, 2000, *like)
            counts = count_answers(many, signal, 6)
            truth = {figure: float(getattr(detection, figure)(counts).mean()) for figure in FIGURES}
            held = dict.fromkeys(FIGURES, 0.0)
            rng = np.random.default_rng(readers)
            for _ in range(studies):
                answers, signal = a_study(rng, readers, cells, *like)
                found = over_readers(answers, signal, 6, list(FIGURES), signal.astype(int))
                for figure, one in found.items():
                    held[figure] += (one.interval.low <= truth[figure] <= one.interval.high) / studies
            print(f"| {readers} | {name} | {' | '.join(f'{share:.3f}' for share in held.values())} |", flush=True)


# -- traces of JPEG ---------------------------------------------------------------------------------------------------


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def jpeg(pbc: Path, number: int = 2400) -> None:
    """Print how well a program tells real cells that were JPEGs from real cells that were not, once all are alike."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    names = np.random.default_rng(1).permutation(sorted(pbc.rglob("*.jpg")))[:number]
    cells = [Image.open(name).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS) for name in names]
    was_jpeg = np.arange(number) % 2 == 1
    print("| quality that half of them had | left as they are | brought to 85 | brought to 75 |")
    print("| --- | --- | --- | --- |")
    for quality in (75, 90, 95):
        areas = []
        for wanted in (None, 85, 75):
            shown = [as_jpeg(cell, quality) if was else cell for cell, was in zip(cells, was_jpeg, strict=True)]
            features = np.array([file_figures(as_png(in_one_form(cell, wanted))) for cell in shown])
            judge = RandomForestClassifier(150, min_samples_leaf=5, random_state=0)
            guesses = cross_val_predict(judge, features, was_jpeg, cv=5, method="predict_proba")[:, 1]
            areas.append(f"{roc_auc_score(was_jpeg, guesses):.2f}")
        print(f"| {quality} | {' | '.join(areas)} |", flush=True)


# -- pictures ---------------------------------------------------------------------------------------------------------


def screens(out: Path, chromium: str) -> None:
    """Take pictures of the readers' pages: a desktop's, a phone's, and one of pairs."""
    from playwright.sync_api import sync_playwright

    desktop = {"viewport": {"width": 1280, "height": 800}}
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    looks: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("readers-desktop", desktop, {"abnormalities": ["hypersegmentation", "dohle_bodies"]}),
        ("readers-phone", phone, {}),
        ("readers-pairs", desktop, {"question": "which_is_real"}),
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, window, changes in looks:
            with TemporaryDirectory() as folder:
                tokens = make_study(Path(folder), ["anna"], seed=3, **changes)
                with served(Path(folder) / "study") as address:
                    page = browser.new_context(**window).new_page()
                    page.goto(f"{address}/#{tokens['anna']}")
                    page.locator("#message-button").click()
                    page.locator(".view img").first.wait_for()
                    for key in ("ArrowLeft", "2", "b", "k"):
                        page.keyboard.press(key)
                    page.wait_for_timeout(300)
                    page.screenshot(path=str(out / f"{name}.png"))
                    page.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("load").add_argument("--thinking", type=float, default=1.0)
    simulated = commands.add_parser("coverage")
    simulated.add_argument("--studies", type=int, default=400)
    simulated.add_argument("--cells", type=int, default=100)
    commands.add_parser("jpeg").add_argument("--pbc", type=Path, required=True)
    pictures = commands.add_parser("screens")
    pictures.add_argument("--out", type=Path, required=True)
    pictures.add_argument("--chromium", default="/usr/bin/chromium")
    options = vars(parser.parse_args())
    {"load": load, "coverage": coverage, "jpeg": jpeg, "screens": screens}[options.pop("command")](**options)


if __name__ == "__main__":
    main()
