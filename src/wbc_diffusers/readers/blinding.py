"""What might tell readers, or a program, which cells are real, other than how they look."""

import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from wbc_diffusers.data.duplicates import find_duplicates, oriented_hashes, thumbnail
from wbc_diffusers.data.images import pixel_sha256
from wbc_diffusers.readers.cells import Cell
from wbc_diffusers.readers.config import REAL, UNEVEN, ReaderStudy

SHARE = 0.52
"""The highest share of right answers that always saying the same may have."""
_SHARES = ("half", "halves", "equal", "equally", "as many", "majority", "minority", "most of")
_UNITS = (
    "", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
TELLTALE = 0.01
"""Chance of a difference of the border's pixels as large as one that is told, over all that are looked at."""


def find_risks(config: ReaderStudy, cells: Sequence[Cell], texts: Mapping[str, Any]) -> list[str]:
    """Say in sentences what would let a reader of a study guess; `texts` are those of its language."""
    shown = [cell for cell in cells if not cell.practice]
    return [
        *_uneven(config, shown, "the cells"),
        *_uneven(config, [cell for cell in cells if cell.practice], "the cells for practice"),
        *_uneven_strata(config),
        *_told(config, shown, texts),
        *_unmarked(cells),
        *_alike(cells),
        *_borders(config, shown),
    ]


def _uneven(config: ReaderStudy, shown: Sequence[Cell], what: str) -> list[str]:
    if config.question == "which_is_real" or not shown:
        return []
    risks = []
    for stratum in config.sources:
        real = np.array([cell.real for cell in shown if cell.stratum == stratum])
        share = max(real.mean(), 1 - real.mean())
        if share > SHARE:
            kind = "real" if real.mean() > 0.5 else "synthetic"
            risks.append(
                f"In {stratum} {share:.1%} of {what} are {kind}: who always says so is right as often, and who is "
                "shown many learns it. Show as many real cells as synthetic ones."
            )
    return risks


def _uneven_strata(config: ReaderStudy) -> list[str]:
    numbers = [[source.number for source in sources.values()] for sources in config.sources.values()]
    reals = [
        sources[REAL].number / sum(each)
        for sources, each in zip(config.sources.values(), numbers, strict=True)
        if REAL in sources
    ]
    if config.question == "which_is_real" or max(reals) - min(reals) <= UNEVEN:
        return []
    return [
        "Strata differ in their share of real cells: a habit that goes by stratum would look like skill, so the score "
        "will judge each stratum by itself. Give all the same share."
    ]


def _told(config: ReaderStudy, shown: Sequence[Cell], texts: Mapping[str, Any]) -> list[str]:
    if config.question == "which_is_real":
        return []
    counts = [sum(cell.real == real for cell in shown) for real in (True, False)]
    numbers = [word for count in counts for word in (str(count), _in_words(count)) if word]
    instructions = config.instructions or texts[f"instructions_{config.question}"]
    text = f"{config.title} {instructions} {config.consent} {texts['abnormality_told']}".lower()
    found = re.search(rf"\b({'|'.join([*numbers, *_SHARES])})\b|\d+ ?(%|per ?cent)", text)
    if found is None:
        return []
    return [
        f"The study's texts say {found[0]!r}, which may be the share or number of synthetic cells: who knows that can "
        "count. Leave it out."
    ]


def _in_words(count: int) -> str:
    """A number from 3 to 99 in English; smaller ones are said of other things, too."""
    if count < 3:
        return ""
    if count < len(_UNITS):
        return _UNITS[count]
    return f"{_TENS[count // 10]}[- ]?{_UNITS[count % 10] if count % 10 else ''}" if count < 100 else ""


def _unmarked(cells: Sequence[Cell]) -> list[str]:
    marked: dict[tuple[str, str], list[bool]] = {}
    for cell in cells:
        if not cell.real:
            marked.setdefault((cell.source, cell.stratum), []).append(cell.marked)
    return [
        f"Of {len(each)} cells of {source} in {stratum} {each.count(False)} don't say in their file or metadata that a "
        "model made them, as those of `wbc generate` do: see that they are no real ones."
        for (source, stratum), each in marked.items()
        if not all(each)
    ]


def _alike(cells: Sequence[Cell]) -> list[str]:
    greys = [thumbnail(cell.image) for cell in cells]
    hashes = np.stack([oriented_hashes(grey) for grey in greys])
    pairs = find_duplicates(hashes, np.stack(greys), [pixel_sha256(cell.image) for cell in cells])
    if not pairs:
        return []
    one, two = cells[pairs[0].first], cells[pairs[0].second]
    return [
        f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} of cells are copies, or nearly so, such as "
        f"{one.facts.get('file_name')} ({one.source}) and {two.facts.get('file_name')} ({two.source}): who sees both "
        "knows more than from one."
    ]


def _borders(config: ReaderStudy, shown: Sequence[Cell]) -> list[str]:
    """See whether borders alone tell the kinds apart: Mann and Whitney's test of each figure, with Holm's factor."""
    kinds = np.array([cell.source == _first_kind(config, cell) for cell in shown])
    figures = np.array([border_figures(cell.image) for cell in shown])
    found = [stats.mannwhitneyu(figures[kinds, i], figures[~kinds, i]) for i in range(len(BORDER_FIGURES))]
    ps = np.array([float(one.pvalue) for one in found])
    order = np.argsort(ps)
    adjusted = np.maximum.accumulate(ps[order] * np.arange(len(ps), 0, -1))
    risks = []
    for place, p in zip(order, adjusted, strict=True):
        if p < TELLTALE:
            area = float(found[place].statistic) / (kinds.sum() * (~kinds).sum())
            risks.append(
                f"The border pixels' {BORDER_FIGURES[place]} alone tells the kinds of cells apart in "
                f"{max(area, 1 - area):.0%} of pairs (p = {p:.1g}). If that is how files were made, and not how cells "
                "look, prepare all alike; a lower jpeg_quality hides traces of JPEG."
            )
    return risks


def _first_kind(config: ReaderStudy, cell: Cell) -> str:
    sources = config.sources[cell.stratum]
    return REAL if REAL in sources else next(iter(sources))


def _ring(pixels: np.ndarray, depth: int) -> np.ndarray:
    """The pixels so many steps from the border, (P, 3)."""
    inner = pixels[depth : pixels.shape[0] - depth, depth : pixels.shape[1] - depth]
    return np.concatenate([inner[0], inner[-1], inner[1:-1, 0], inner[1:-1, -1]])


def _step(pixels: np.ndarray) -> float:
    return float(np.abs(pixels[0] - pixels[1]).mean() + np.abs(pixels[-1] - pixels[-2]).mean())


_BORDER: dict[str, Callable[[np.ndarray], float]] = {
    "brightness": lambda pixels: float(_ring(pixels, 0).mean()),
    "scatter": lambda pixels: float(_ring(pixels, 0).std()),
    "step to the next pixels": lambda pixels: _step(pixels) + _step(pixels.swapaxes(0, 1)),
    "brightness against the next pixels": lambda pixels: float(_ring(pixels, 0).mean() - _ring(pixels, 1).mean()),
    "colour": lambda pixels: float(np.ptp(_ring(pixels, 0), axis=1).mean()),
    "values that end in 0": lambda pixels: float((_ring(pixels, 0) % 10 == 0).mean()),
}
BORDER_FIGURES = tuple(_BORDER)


def border_figures(image: Image.Image) -> list[float]:
    """Figures of an image's outermost pixels, in the order of `BORDER_FIGURES`."""
    pixels = np.asarray(image.convert("RGB"), np.float64)
    return [figure(pixels) for figure in _BORDER.values()]


def file_figures(file: bytes) -> list[float]:
    """What a program sees of an image file without looking at the cell.

    Its size, where its pixels begin, its header's bytes, whether there are tables of JPEG, bits and channels, entries
    of metadata, and its border's pixels.
    """
    with Image.open(BytesIO(file)) as image:
        tables = getattr(image, "quantization", {})
        known = [len(file), len(tables), sum(sum(each) for each in tables.values()), len(image.getbands())]
        known += [len(image.info), len(image.mode), *image.size, *file[:64].ljust(64, b"\0")]
        return [*map(float, known), *border_figures(image)]
