"""Pages that a person reads: one HTML file each, with images and charts inside, so that it can be mailed."""

import base64
import io
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from wbc_diffusers.data.images import write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED = "#22252b", "#8a8f98"
COLOURS = ("#5b4a9e", "#d1495b", "#2e8b8b", "#c98a1b")
"""Colours of curves and bars, in their order; chromatin's comes first."""
_DPI = 160


def image_uri(image: Image.Image, source_type: str | None = None) -> str:
    """An image as the data URI of a PNG, which says where it comes from as `write_png` does."""
    buffer = io.BytesIO()
    write_png(buffer, image, source_type)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def percent(share: float) -> str:
    """A share in percent, with a decimal below ten, and where it would else round to all; "" for NaN."""
    if isnan(share):
        return ""
    return f"{100 * share:.1f} %" if abs(share) < 0.0995 or 0.9945 < share < 1.0 else f"{100 * share:.0f} %"


def new_chart(width: float = 6.0, height: float = 2.8) -> "tuple[Figure, Any]":
    """An empty chart of a size in inches: figure and axes, in the pages' style."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color="#e6e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def chart_svg(figure: "Figure") -> Markup:
    """A chart as SVG markup that scales with the page."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Text stays text, so that it can be searched and read aloud; no date, so that a page is a function of its content.
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "wbc"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    markup = buffer.getvalue()
    return Markup(markup[markup.index("<svg") :])


def save_charts(charts: "Mapping[str, Figure]", folder: Path) -> None:
    """Write each chart as SVG and PNG, as a paper would print it."""
    from matplotlib import rc_context

    folder.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "wbc"}):
        for name, chart in charts.items():
            chart.savefig(folder / f"{name}.svg", metadata={"Date": None})
            chart.savefig(folder / f"{name}.png", dpi=_DPI, metadata={"Software": None})


def write_page(template: str, path: Path, **values: Any) -> None:
    """Fill a template of this folder and write the page; a value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals.update(percent=percent)
    path.write_text(environment.get_template(template).render(values), encoding="utf-8")
