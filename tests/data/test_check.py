"""Every kind of bad image file is refused with its reason, and good ones are decoded whole."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from wbc_diffusers.data.check import MAX_BYTES, REASONS, RefusedImageError, check_image, read_file

NOISE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.fromarray(NOISE), kind, **options)


def png_of_16_bits() -> bytes:
    """Write an RGB PNG of 16 bits a channel by hand; Pillow reads such, but cannot write them."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() * 3 for row in np.arange(40 * 40).reshape(40, 40) * 40)
    header = struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def text_of_generated() -> PngInfo:
    info = PngInfo()
    info.add_text("wbc:synthetic", "true")
    return info


def with_flipped_byte(data: bytes) -> bytes:
    place = data.index(b"IDAT") + 200
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def refused(data: bytes, minimum: int = 32) -> str:
    with pytest.raises(RefusedImageError) as error:
        check_image(data, minimum)
    return error.value.reason


BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zero bytes": ("empty", lambda: b""),
    "text": ("not_an_image", lambda: b"file_name,cell_type\n" * 50),
    "web page named jpg": ("not_an_image", lambda: b"<html><body>404 Not Found</body></html>"),
    "postscript": ("not_an_image", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n"),
    "gif": ("not_an_image", lambda: encoded(Image.fromarray(NOISE).convert("P"), "GIF")),
    "half a png": ("truncated", lambda: photo()[:2000]),
    "png without its last chunk": ("truncated", lambda: photo()[:-12]),
    "half a jpeg": ("truncated", lambda: photo("JPEG")[:700]),
    "jpeg without its last byte": ("truncated", lambda: photo("JPEG")[:-1]),
    "half a jpeg, then zeros": ("truncated", lambda: photo("JPEG")[:700] + bytes(2000)),
    "half a png, then zeros": ("truncated", lambda: photo()[:2000] + bytes(5000)),
    "half a tiff": ("truncated", lambda: photo("TIFF")[:3000]),
    "png with a wrong byte": ("damaged", lambda: with_flipped_byte(photo())),
    "png with a wrong pixel": ("damaged", lambda: with_flipped_byte(photo(compress_level=0))),
    "png with a wrong checksum": ("damaged", lambda: photo()[:-14] + b"\0\0" + photo()[-12:]),
    "cmyk jpeg": ("cmyk", lambda: encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG")),
    "16-bit grey png": ("sixteen_bit", lambda: encoded(Image.fromarray(np.zeros((40, 40), np.uint16)))),
    "16-bit rgb png": ("sixteen_bit", png_of_16_bits),
    "float tiff": ("sixteen_bit", lambda: encoded(Image.fromarray(np.zeros((40, 40), np.float32)), "TIFF")),
    "palette png": ("palette", lambda: encoded(Image.fromarray(NOISE).convert("P"))),
    "rgba png": ("alpha", lambda: encoded(Image.fromarray(NOISE).convert("RGBA"))),
    "grey with alpha": ("alpha", lambda: encoded(Image.fromarray(NOISE).convert("LA"))),
    "rgb png with a transparent colour": ("alpha", lambda: photo(transparency=(1, 2, 3))),
    "grey jpeg": ("greyscale", lambda: encoded(Image.fromarray(NOISE).convert("L"), "JPEG")),
    "lab tiff": ("wrong_mode", lambda: encoded(Image.new("LAB", (40, 40)), "TIFF")),
    "two frames": (
        "several_frames",
        lambda: photo("TIFF", save_all=True, append_images=[Image.fromarray(NOISE[::-1])]),
    ),
    "wide but low": ("too_small", lambda: encoded(Image.new("RGB", (400, 31)))),
    "more pixels than a cell has": ("too_large", lambda: encoded(Image.new("RGB", (10_000, 5_001)), compress_level=1)),
    "made by a model": ("generated", lambda: photo("JPEG", comment=b"digitalsourcetype/trainedAlgorithmicMedia")),
    "made by a model, by its text alone": ("generated", lambda: photo(pnginfo=text_of_generated())),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_with_its_reason(name: str) -> None:
    reason, make = BAD[name]
    assert refused(make()) == reason


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 90}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}),
     ("WEBP", {"lossless": True}), ("JPEG2000", {}), ("PPM", {})],
)  # fmt: skip
def test_good_file_gives_its_pixels(kind: str, options: dict[str, Any]) -> None:
    data = photo(kind, **options)
    checked = check_image(data, 40)
    assert checked.image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(checked.image), np.asarray(Image.open(io.BytesIO(data))))
    assert (checked.origin.source_type, checked.turned) == (None, False)


def test_bytes_after_the_end_of_a_jpeg_and_a_thumbnail_within_are_no_fault() -> None:
    exif = Image.Exif()
    exif[0x927C] = photo("JPEG")[:-2]  # a maker's note that holds half another JPEG
    data = photo("JPEG", exif=exif)
    assert check_image(data, 40).image.size == (48, 40)
    assert check_image(data + b"\0" * 100, 40).image.size == (48, 40)
    assert refused(data[: len(data) * 2 // 3]) == "truncated"


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    # What each number asks for, by the EXIF standard (tag 0x0112).
    upright = {
        2: NOISE[:, ::-1], 3: NOISE[::-1, ::-1], 4: NOISE[::-1], 5: NOISE.transpose(1, 0, 2),
        6: np.rot90(NOISE, -1), 7: NOISE.transpose(1, 0, 2)[::-1, ::-1], 8: np.rot90(NOISE),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    checked = check_image(photo(exif=exif), 40)
    np.testing.assert_array_equal(np.asarray(checked.image), upright[orientation])
    assert checked.turned


def test_a_program_that_lets_truncated_images_pass_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert refused(photo("TIFF")[:3000]) == "truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_utf16_mark_of_a_model_is_seen() -> None:
    comment = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia".encode("utf-16-le")
    assert refused(photo("JPEG", comment=comment)) == "generated"


def test_what_is_no_readable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.png").touch()
    os.truncate(tmp_path / "large.png", MAX_BYTES + 1)
    for name, reason in (("absent.png", "missing_file"), ("", "not_a_file"), ("large.png", "too_large")):
        with pytest.raises(RefusedImageError) as error:
            read_file(tmp_path / name)
        assert error.value.reason == reason
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    with pytest.raises(RefusedImageError, match="not a regular file"):
        read_file(tmp_path / "pipe.png")


def test_every_reason_has_its_words() -> None:
    assert {reason for reason, _ in BAD.values()} <= set(REASONS)
    error = RefusedImageError("too_small", "8 x 8 px, wanted 32 x 32")
    assert str(error) == "smaller than the crop (8 x 8 px, wanted 32 x 32)"


def test_docs_list_every_reason_as_it_is_told() -> None:
    page = Path(__file__).parents[2] / "docs" / "data.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [f"| `{reason}` | {meaning} |" for reason, meaning in REASONS.items()] == [
        line for line in lines if line.startswith(tuple(f"| `{reason}` |" for reason in REASONS))
    ]
