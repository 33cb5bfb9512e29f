"""Pixels to samples and back lose nothing; a PNG is written whole or not at all and says where it comes from."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from wbc_diffusers.data.images import image_grid, to_sample, write_png

LEVELS = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)


def test_every_level_becomes_its_number_in_minus_one_to_one() -> None:
    sample = to_sample(LEVELS)
    assert (sample.dtype, sample.shape) == (np.float32, (3, 16, 16))
    expected = np.arange(256, dtype=np.float64) * 2 / 255 - 1
    np.testing.assert_allclose(sample[1].ravel(), expected, atol=1e-7)
    assert (sample.min(), sample.max()) == (-1, 1)


def test_pixels_survive_the_way_to_the_sample_and_back_as_pipelines_go_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for levels in (pixels, LEVELS):
        array = (torch.from_numpy(to_sample(levels)) / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)[None].numpy()
        (image,) = DiffusionPipeline.numpy_to_pil(array)
        np.testing.assert_array_equal(np.asarray(image), levels)


def test_png_holds_the_pixels_and_its_origin(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", LEVELS, "trainedAlgorithmicMedia", "wbc <1> & co", {"wbc:seed": "3"})
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), LEVELS)
        assert image.info["wbc:seed"] == "3"
        packet = re.sub(r"<\?xpacket.*?\?>", "", image.info["XML:com.adobe.xmp"])
    tree = ET.fromstring(packet.strip())
    texts = {element.tag.rpartition("}")[2]: element.text for element in tree.iter() if not len(element)}
    assert texts == {
        "DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "CreatorTool": "wbc <1> & co",
    }


def test_photograph_gets_no_mark(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", Image.fromarray(LEVELS))
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.info == {}


def test_png_that_fails_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the system refuses to write on, as on a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            write_png(tmp_path / "a.png", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_grid_lays_images_out_row_by_row() -> None:
    tiles = np.stack([np.full((4, 6, 3), 10 * i, np.uint8) for i in range(5)])
    sheet = np.asarray(image_grid(tiles, columns=3, gap=2))
    assert sheet.shape == (4 + 2 + 4, 6 * 3 + 2 * 2, 3)
    for i in range(5):
        top, left = i // 3 * 6, i % 3 * 8
        assert (sheet[top : top + 4, left : left + 6] == 10 * i).all()
    assert (sheet[6:, 16:] == 255).all()
