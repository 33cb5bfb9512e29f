"""What files say of where their images come from is read wherever it stands, and no pixel is decoded for it."""

import io
import struct
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from wbc_diffusers import __version__
from wbc_diffusers.data.check import RefusedImageError, read_origin
from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.origin import DRAWN, TRAINED, WITH_TRAINED, Origin, find_origin

NOISE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
XMP = "{http://ns.adobe.com/xap/1.0/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MARKS = {"wbc:synthetic": "true", "wbc:seed": "7", "wbc:model": "Döhle-模型", "wbc:steps": "20"}


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.fromarray(NOISE), kind, **options)


def written(source_type: str | None, creator: str = "wbc-diffusers 1", text: dict[str, str] | None = None) -> bytes:
    """Give the bytes of a file by `write_png`."""
    buffer = io.BytesIO()
    write_png(buffer, NOISE, source_type, creator, text)
    return buffer.getvalue()


def xmp_of(data: bytes) -> dict[str, str | None]:
    """Read the XMP of a PNG by its chunks and an XML parser."""
    for kind, body in chunks(data):
        if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\0\0\0\0"):
            tree = ET.fromstring(body[22:].decode().removeprefix("\ufeff"))
            return {element.tag: element.text for element in tree.iter()}
    return {}


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Take a PNG apart by hand."""
    found, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += length + 12
    return found


def put_together(parts: list[tuple[bytes, bytes]]) -> bytes:
    made = [struct.pack(">I", len(b)) + kind + b + struct.pack(">I", zlib.crc32(kind + b)) for kind, b in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def packet(form: str, source_type: str = TRAINED, creator: str = "other 2") -> bytes:
    """Write XMP as other programs do: properties as attributes in either quotes, or as elements of other prefixes."""
    tree = ET.Element(f"{RDF}RDF")
    description = ET.SubElement(tree, f"{RDF}Description", {f"{RDF}about": ""})
    for name, value in ((f"{IPTC}DigitalSourceType", VOCABULARY + source_type), (f"{XMP}CreatorTool", creator)):
        if form == "elements":
            ET.SubElement(description, name).text = value
        else:
            description.set(name, value)
    text = ET.tostring(tree)
    return text.replace(b'"', b"'") if form == "single quotes" else text


@pytest.mark.parametrize("source_type", [TRAINED, WITH_TRAINED, DRAWN])
@pytest.mark.parametrize("creator", ["wbc-diffusers 0.1.0", 'a <1> & "b"', "&#27;[31m"])
def test_what_is_written_is_read_by_an_xml_parser_and_by_us_alike(source_type: str, creator: str) -> None:
    data = written(source_type, creator, MARKS)
    parsed = xmp_of(data)
    assert parsed[f"{IPTC}DigitalSourceType"] == VOCABULARY + source_type
    assert parsed[f"{XMP}CreatorTool"] == creator
    origin = read_origin(data)
    assert (origin.uri, origin.creator) == (VOCABULARY + source_type, creator)
    assert list(origin.settings.items()) == [
        ("synthetic", "true"), ("seed", "7"), ("model", "Döhle-模型"), ("steps", "20")
    ]  # fmt: skip


def test_the_version_of_the_package_is_written_where_no_other_program_is_named() -> None:
    buffer = io.BytesIO()
    write_png(buffer, NOISE, DRAWN)
    assert xmp_of(buffer.getvalue())[f"{XMP}CreatorTool"] == f"wbc-diffusers {__version__}"


@pytest.mark.parametrize("form", ["elements", "attributes", "single quotes"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_xmp_of_other_programs_is_read_in_every_format(form: str, kind: str) -> None:
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet(form).decode(), zip=True)
        data = photo(pnginfo=info)
        assert TRAINED.encode() not in data
    else:
        data = photo(kind, **({"tiffinfo": {700: packet(form)}} if kind == "TIFF" else {"xmp": packet(form)}))
    assert read_origin(data) == Origin(TRAINED, "other 2", {})


def in_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = VOCABULARY + TRAINED  # ImageDescription
    return photo("JPEG", exif=exif)


@pytest.mark.parametrize(
    "make",
    [
        in_exif,
        lambda: photo("JPEG", xmp=packet("elements").decode().encode("utf-16-le")),
        lambda: photo("JPEG", comment=b"c2pa jumb \xff\x00 digitalSourceType" + VOCABULARY.encode() + TRAINED.encode()),
        lambda: photo("JPEG") + b"\0\0\x02\x10jumb" + VOCABULARY.encode() + TRAINED.encode(),
        lambda: photo("WEBP", exif=b"Exif\0\0" + TRAINED.encode()),
    ],
)
def test_mark_outside_of_xmp_is_seen_too(make: Callable[[], bytes]) -> None:
    assert read_origin(make()).source_type == TRAINED


def test_text_behind_the_pixels_is_read() -> None:
    texts = [part for part in chunks(written(TRAINED, text=MARKS)) if part[0] in (b"tEXt", b"iTXt", b"zTXt")]
    # Compressed, so that the bytes of the file don't tell.
    hidden = [(b"zTXt", b"wbc:revision\0\0" + zlib.compress(b"abc")), *texts]
    *head, end = chunks(photo())
    origin = read_origin(put_together([*head, *hidden, end]))
    assert (origin.source_type, origin.settings["revision"], origin.settings["seed"]) == (TRAINED, "abc", "7")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_image_of_every_mode_is_told_though_unfit_for_training(mode: str) -> None:
    image = Image.fromarray(NOISE[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(NOISE).convert(mode)
    buffer = io.BytesIO()
    write_png(buffer, image, TRAINED, text=MARKS)
    with Image.open(buffer) as again:
        assert again.mode == mode
    assert read_origin(buffer.getvalue()).settings["seed"] == "7"


def test_no_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    many = io.BytesIO()
    write_png(many, Image.new("L", (10_000, 10_000)), TRAINED)
    files = [many.getvalue(), *(photo(kind, xmp=packet("elements")) for kind in ("JPEG", "WEBP"))]

    def decode(image: ImageFile.ImageFile) -> None:
        raise AssertionError("decodes")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    assert [read_origin(data).source_type for data in files] == [TRAINED] * 3


def bomb_of_text() -> bytes:
    *head, end = chunks(photo())
    return put_together([*head, (b"zTXt", b"wbc:model\0\0" + zlib.compress(bytes(50_000_000))), end])


BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zero bytes": ("empty", lambda: b""),
    "text": ("not_an_image", lambda: b"file_name,seed\n" * 50),
    "half a png": ("truncated", lambda: written(TRAINED, text=MARKS)[:2000]),
    "half a jpeg": ("truncated", lambda: photo("JPEG")[:700]),
    "png without its middle": ("damaged", lambda: photo()[:1000] + photo()[1500:]),
    "pixels without end": (
        "too_large",
        lambda: put_together([(b"IHDR", struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)), *chunks(photo())[1:]]),
    ),
    "text without end": ("damaged", bomb_of_text),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_with_its_reason(name: str) -> None:
    reason, make = BAD[name]
    data = make()
    with pytest.raises(RefusedImageError) as error:
        read_origin(data)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("origin", "words", "trained"),
    [
        (Origin(TRAINED, None, {}), "made by a trained model", True),
        (Origin("trainedalgorithmicmedia", None, {}), "made by a trained model", True),
        (Origin(None, None, {"synthetic": "true"}), "made by a trained model", True),
        (Origin(WITH_TRAINED, None, {}), "made in part by a trained model", True),
        (Origin(DRAWN, None, {}), "drawn by a program without training, such as a phantom", False),
        (Origin(None, None, {"phantom": "seed=1"}), "drawn by a program without training, such as a phantom", False),
        (Origin("digitalCapture", None, {}), "a photograph, by what its file says", False),
        (Origin("print", None, {}), "of the origin that its digital source type names", False),
        (
            Origin(None, "GIMP", {}),
            "a photograph, or an image that lost its marks: nothing in the file tells",
            False,
        ),
    ],
)
def test_origin_in_words(origin: Origin, words: str, trained: bool) -> None:
    assert (origin.in_words(), origin.trained) == (words, trained)


def test_photograph_says_nothing_and_other_text_is_no_setting() -> None:
    info = PngInfo()
    info.add_text("Software", "a camera")
    for data in (photo(pnginfo=info), photo("JPEG"), photo("TIFF"), photo("BMP")):
        assert read_origin(data) == Origin(None, None, {})


def test_pictures_of_generated_cells_in_the_docs_say_so() -> None:
    others = {"checkerboard.png", "multilobed-64-real.png", "neutrophils-64-real.png", "phantom.png"}
    others |= {"study-pbc-30.png", "study-phantom-50.png"}  # plots
    others |= {"readers-desktop.png", "readers-pairs.png", "readers-phone.png"}  # of phantom cells
    pictures = {path.name: path for path in (Path(__file__).parents[2] / "docs" / "images").glob("*.png")}
    assert others < set(pictures)
    trained = {name for name, path in pictures.items() if read_origin(path.read_bytes()).trained}
    assert trained == set(pictures) - others


def test_creator_holds_no_control_characters() -> None:
    found = read_origin(photo("JPEG", comment=b"<xmp:CreatorTool>\x1b[31mred</xmp:CreatorTool>"))
    assert found.creator is None


def test_copies_lose_what_the_page_says_they_lose(tmp_path: Path) -> None:
    (tmp_path / "cell.png").write_bytes(written(TRAINED, text=MARKS))
    with Image.open(tmp_path / "cell.png") as cell:
        packet_of_cell = cell.info["xmp"]
        assert find_origin(cell).settings["seed"] == "7"
        for name in ("copy.png", "copy.webp", "copy.tiff"):
            cell.save(tmp_path / name)
        for name in ("with.jpg", "with.webp"):
            cell.save(tmp_path / name, xmp=packet_of_cell)
        drawn_again = encoded(Image.fromarray(np.asarray(cell)), "JPEG")  # as a screenshot is
    told = {path.name: read_origin(path.read_bytes()) for path in tmp_path.iterdir()}
    assert {name for name, origin in told.items() if origin.trained} == {"cell.png", "with.jpg", "with.webp"}
    assert {name for name, origin in told.items() if origin.settings} == {"cell.png"}
    assert read_origin(drawn_again) == Origin(None, None, {})


def test_long_texts_are_read_at_once(tmp_path: Path) -> None:
    # Each letter was once looked at from each letter before it, which for these would take hours.
    info = PngInfo()
    info.add_text("note", "a" * 1_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "long.png", pnginfo=info)
    assert read_origin((tmp_path / "long.png").read_bytes()).source_type is None
