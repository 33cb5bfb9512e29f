"""Images at the border: uint8 H x W x 3 in files, float32 3 x H x W in [-1, 1] inside; conversions are here, once."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wbc_diffusers import __version__
from wbc_diffusers.data.origin import DIGITAL_SOURCE_TYPE

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/">
<Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
<xmp:CreatorTool>{creator}</xmp:CreatorTool>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def to_sample(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn uint8 pixels (H, W, 3) into the float32 sample (3, H, W) in [-1, 1] that the models see."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / 127.5 - 1.0


def centre_square(image: Image.Image, side: int, size: int) -> Image.Image:
    """Cut a square of `side` pixels out of the centre and bring it to `size` pixels.

    Lanczos weighs every source pixel under its kernel, so nothing is skipped. From 192 to 64 px it keeps 94 % of the
    power in the upper half of what 64 px can show, where granules are; averaging over areas keeps 75 % (docs/data.md).
    """
    if image.size != (side, side):
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return image if size == side else image.resize((size, size), Image.Resampling.LANCZOS)


def pixel_sha256(image: Image.Image) -> str:
    """The SHA-256 of an RGB image's bytes, row by row, three bytes a pixel: what a manifest knows an image by."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def write_png(
    path: Path | BinaryIO,
    pixels: NDArray[np.uint8] | Image.Image,
    source_type: str | None = None,
    creator: str = f"wbc-diffusers {__version__}",
    text: Mapping[str, str] | None = None,
) -> None:
    """Write a PNG with its origin; callers write into folders that appear, or are moved, once they are whole.

    Args:
        path: The file to write, whose folder must exist, or one that is open.
        pixels: uint8 (H, W, 3), or a Pillow image.
        source_type: Last part of the IPTC digital source type, written as XMP: `TRAINED`, `WITH_TRAINED` or `DRAWN` of
            `wbc_diffusers.data.origin`; None for a photograph.
        creator: Program and version, written as XMP `CreatorTool` beside the source type.
        text: Further PNG text chunks, such as `{"wbc:seed": "3"}`.
    """
    info = PngInfo()
    if source_type is not None:
        packet = _XMP.format(source_type=DIGITAL_SOURCE_TYPE + escape(source_type), creator=escape(creator))
        info.add_itxt("XML:com.adobe.xmp", packet)
    for key, value in (text or {}).items():
        info.add_text(key, value)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, format="PNG", pnginfo=info)  # Pillow removes what it could not write whole


def image_grid(images: list[Image.Image] | NDArray[np.uint8], columns: int, gap: int = 2) -> Image.Image:
    """Lay images of one size (Pillow, or uint8 N x H x W x 3) out row by row on white, `gap` pixels apart."""
    tiles = [image if isinstance(image, Image.Image) else Image.fromarray(image) for image in images]
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, ((i % columns) * (width + gap), (i // columns) * (height + gap)))
    return sheet
