"""The page of an evaluation: pictures first, then what was measured of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbc_diffusers import __version__
from wbc_diffusers.data.images import image_grid
from wbc_diffusers.data.origin import TRAINED, WITH_TRAINED
from wbc_diffusers.evaluation.appearance import Difference
from wbc_diffusers.evaluation.by_encoder import Comparison
from wbc_diffusers.evaluation.copies import CopyAudit
from wbc_diffusers.evaluation.found import Evaluation
from wbc_diffusers.evaluation.images import ImageSet, batches, load
from wbc_diffusers.evaluation.intervals import Estimate
from wbc_diffusers.evaluation.rows import MEANINGS, Row, figure
from wbc_diffusers.pages import COLOURS, INK, MUTED, chart_svg, image_uri, new_chart, percent, write_page

_GRID = (8, 3)
_EXTREMES = 16


@dataclass(frozen=True)
class ShownRow:
    """A row as the page prints it."""

    name: str
    meaning: str
    value: str
    interval: str
    at_floor: str
    floor: str
    counts: str


def write_report(found: Evaluation, path: Path) -> None:
    """Write the page: one HTML file with all images and charts inside."""
    write_page(
        "evaluation.html.j2",
        path,
        version=__version__,
        figure=figure,
        notes=found.notes,
        sets=[_shown_set(found, images) for images in (found.real, found.generated)],
        encoders=[_shown_comparison(found, each) for each in found.comparisons],
        groups=_shown_measures(found),
        by_eye=found.by_eye,
        interval=interval,
        copies=_shown_copies(found),
    )


def _shown_set(found: Evaluation, images: ImageSet) -> dict[str, Any]:
    chosen = np.linspace(0, len(images) - 1, min(len(images), _GRID[0] * _GRID[1])).round().astype(int)
    caption = f"{len(chosen)} of {len(images)} images, evenly spread over their names."
    return {"name": images.role, "grid": _grid(found, images, chosen, _GRID[0]), "caption": caption}


def _grid(found: Evaluation, images: ImageSet, chosen: Sequence[int] | np.ndarray, columns: int) -> str:
    """Images of a set on one sheet, as a data URI."""
    paths = [images.paths[i] for i in chosen]
    # Of generated images it is known; real ones may be phantoms.
    source_type = TRAINED if images is found.generated else load(paths[0]).origin.source_type
    return image_uri(image_grid(next(batches(paths, found.processing, len(paths))), columns), source_type)


def _shown_comparison(found: Evaluation, comparison: Comparison) -> dict[str, Any]:
    order = comparison.convincing
    few = min(_EXTREMES, len(order) // 2)
    return {
        "name": comparison.encoder,
        "rows": [_shown_row(row) for row in comparison.rows],
        "chart": _bias_chart(comparison),
        "convincing": _grid(found, found.generated, order[:few], few // 2),
        "unconvincing": _grid(found, found.generated, order[::-1][:few], few // 2),
    }


GROUPS = (
    ("Contrast, sharpness and traces of JPEG", ("contrast", "detail_", "blocks")),
    ("Colours of the whole image", ("red_", "green_", "blue_")),
    ("Background", ("background_",)),
    ("Cytoplasm", ("cytoplasm_",)),
    ("Nucleus", ("nucleus_red", "nucleus_green", "nucleus_blue")),
    ("Cell", ("nucleus_area", "cell_area", "lobes", "granularity", "bluish_area")),
)
"""What is measured of cells, in the order of the page, by how its names begin."""


def _shown_measures(found: Evaluation) -> list[tuple[str, list[tuple[str, Difference, Difference]]]]:
    """For each group its measures by name, as they are and after sharpening."""
    pairs = list(zip(found.by_eye.differences, found.by_eye.sharpened, strict=True))
    return [
        (title, [(d.measure.replace("_", " "), d, s) for d, s in pairs if d.measure.startswith(beginnings)])
        for title, beginnings in GROUPS
    ]


def _shown_copies(found: Evaluation) -> dict[str, Any] | None:
    if found.copying is None or found.train is None:
        return None
    by_pixels, by_features = found.copying.pixels, found.copying.features
    return {
        "searches": [
            _shown_search(name, each)
            for name, each in (("pixels", by_pixels), (f"features of {found.copying.encoder}", by_features))
        ],
        "kinds": [(kind, by_pixels.found[kind], by_features.found[kind]) for kind in by_pixels.found],
        "pairs": [(name, _pairs(found, each)) for name, each in (("pixels", by_pixels), ("features", by_features))],
        "authentic": found.copying.authentic,
        "authentic_held_out": found.copying.authentic_held_out,
        "held_out": len(by_pixels.held_out.index),
    }


def _shown_search(name: str, audit: CopyAudit) -> dict[str, Any]:
    return {"name": name, "audit": audit, "count": round(audit.beyond.value * len(audit.generated.index))}


def _pairs(found: Evaluation, audit: CopyAudit) -> str:
    """The closest pairs, a generated image above the training image that it is nearest to, as a data URI."""
    assert found.train is not None
    above = [found.generated.paths[pair.generated] for pair in audit.closest]
    below = [found.train.paths[pair.training] for pair in audit.closest]
    sheet = image_grid(next(batches([*above, *below], found.processing, len(above) * 2)), len(above))
    return image_uri(sheet, WITH_TRAINED)


def _shown_row(row: Row) -> ShownRow:
    name, meaning = MEANINGS[row.key]
    counts = f"{row.n_real}, {row.n_generated}"
    if row.floor_n_real is not None:
        counts += f" (floor: {row.floor_n_real}, {row.floor_n_other})"
    interval = "" if row.low is None or row.high is None else f"{figure(row.low)} to {figure(row.high)}"
    return ShownRow(name, meaning, figure(row.value), interval, figure(row.value_at_floor), figure(row.floor), counts)


def interval(found: Estimate) -> str:
    """The interval of a share."""
    return f"{percent(found.low)} to {percent(found.high)}"


def _bias_chart(comparison: Comparison) -> Any:
    drawn, axes = new_chart(6.0, 2.8)
    lines = ((comparison.line, "generated", COLOURS[0]), (comparison.floor_line, "real, the floor", MUTED))
    for points, label, colour in lines:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o", markersize=3, linewidth=1.4)
    axes.set_xlabel("images of each set", color=INK)
    axes.set_ylabel("Fréchet distance", color=INK)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return chart_svg(drawn)
