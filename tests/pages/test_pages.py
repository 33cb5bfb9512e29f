"""Pages: self-contained, escaped, complete."""

import base64
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from wbc_diffusers.data.check import read_origin
from wbc_diffusers.pages import chart_svg, image_uri, new_chart, write_page


def test_an_image_survives_its_uri_to_the_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    head, data = image_uri(Image.fromarray(pixels)).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)


def test_an_image_of_a_model_says_so_within_its_uri() -> None:
    for source_type in ("trainedAlgorithmicMedia", None):
        data = base64.b64decode(image_uri(Image.new("RGB", (2, 2)), source_type).split(",")[1])
        assert (b"<Iptc4xmpExt:DigitalSourceType>" in data) is (source_type is not None)
        assert read_origin(data).source_type == source_type


def test_a_chart_is_svg_whose_text_stays_text_and_the_same_each_time() -> None:
    def draw() -> str:
        figure, axes = new_chart()
        axes.plot([0, 1], [0, 1], label="a curve")
        axes.set_xlabel("lobes")
        axes.legend()
        return str(chart_svg(figure))

    texts = [node.text for node in ElementTree.fromstring(draw()).iter() if node.tag.endswith("text")]
    assert {"lobes", "a curve"} <= set(texts)
    assert draw() == draw()


def test_a_missing_value_is_an_error_and_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="numbers"):
        write_page("demo.html.j2", tmp_path / "page.html", size=64)
    assert not (tmp_path / "page.html").exists()


def test_names_cannot_smuggle_markup_into_a_page(tmp_path: Path) -> None:
    hostile = {"name": "<script>x</script>", "caption": "", "cells": 1, "mean_lobes": 1.0, "five": 0.0, "six": 0.0}
    write_page(
        "demo.html.j2",
        tmp_path / "page.html",
        numbers={"base": 1, "rare": 1},
        size=64,
        phantom_version="1",
        version="0",
        sets=[{**hostile, "grid": image_uri(Image.new("RGB", (2, 2)))}],
        lobes_chart="",
        counter={"cells": 1, "exact": 1.0, "within_one": 1.0},
        trainings=[],
        stages={"a": 1.0},
    )
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
