"""Open one image file, decode all of it, and either hand back its pixels or say why it is not fit for training."""

import io
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngStream

from wbc_diffusers.data.origin import DRAWN, Origin, find_origin, says_synthetic

REASONS = {
    "missing_file": "named in the metadata, but there is no such file",
    "no_row": "image file without a row in the metadata",
    "repeated_row": "a second, equal row of the same file",
    "conflicting_rows": "rows of the same file that say different things",
    "outside_source": "path or link that leads out of the source folder",
    "linked_folder": "link to a folder; links to folders are not followed",
    "not_a_file": "not a regular file",
    "unreadable": "cannot be read",
    "empty": "zero bytes",
    "not_an_image": "not a JPEG, PNG, TIFF, BMP, WebP, JPEG 2000 or PPM image",
    "truncated": "ends before its image does",
    "damaged": "cannot be decoded",
    "too_large": "more pixels or bytes than a single-cell image can have",
    "several_frames": "holds several images",
    "cmyk": "CMYK colour",
    "sixteen_bit": "16 bits or more per channel",
    "palette": "palette colour",
    "alpha": "has a transparency channel",
    "greyscale": "greyscale",
    "wrong_mode": "colour mode other than 8-bit RGB",
    "too_small": "smaller than the crop",
    "generated": "marked as made by a trained model; such images are no training data",
    "no_background": "no bright slide background found to normalise",
    "duplicate": "copy of an image that was kept",
    "conflicting_labels": "copies of one image with different labels",
}
"""Code of every reason for leaving a file out, and what it means."""

MAX_PIXELS = 50_000_000
MAX_BYTES = 512 * 1024 * 1024

# Formats whose readers run no other program and fetch nothing (EPS would call Ghostscript).
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "JPEG2000", "PPM")

_MODES = {
    "CMYK": "cmyk", "P": "palette", "PA": "alpha", "LA": "alpha", "La": "alpha", "RGBA": "alpha", "RGBa": "alpha",
    "L": "greyscale", "1": "greyscale", "I": "sixteen_bit", "I;16": "sixteen_bit", "I;16B": "sixteen_bit",
    "I;16L": "sixteen_bit", "F": "sixteen_bit",
}  # fmt: skip


class RefusedImageError(ValueError):
    """A file that is not fit for training: `reason` is a key of `REASONS`, `detail` says more in words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{REASONS[reason]}{f' ({detail})' if detail else ''}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class CheckedImage:
    """A fully decoded RGB image, upright, with what its file says about where it comes from."""

    image: Image.Image
    turned: bool
    """Whether the EXIF orientation asked for a turn or flip, which has been applied."""
    origin: Origin


def read_file(path: str | Path) -> bytes:
    """Read a file of at most 512 MiB; raises `RefusedImageError` for what is no regular, readable, non-empty file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - Path refuses some names that the system allows
        if not stat.S_ISREG(status.st_mode):
            raise RefusedImageError("not_a_file")
        if status.st_size > MAX_BYTES:
            raise RefusedImageError("too_large", f"{status.st_size} bytes, at most {MAX_BYTES}")
        with open(path, "rb") as file:  # noqa: PTH123 - likewise
            data = file.read()
    except FileNotFoundError:
        raise RefusedImageError("missing_file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, RefusedImageError):
            raise
        raise RefusedImageError("unreadable", getattr(error, "strerror", None) or str(error)) from None
    return data


def check_image(data: bytes, minimum: int, *, may_be_generated: bool = False) -> CheckedImage:
    """Decode the bytes of an image file in full and check them.

    Args:
        data: The whole file.
        minimum: Least height and width in pixels.
        may_be_generated: Whether an image of a trained model is taken too.

    Returns:
        The image in mode RGB, with its EXIF orientation applied.

    Raises:
        RefusedImageError: With the reason, for everything that is not a whole 8-bit RGB image of at least that size,
            made without a trained model unless that may be.
    """
    with _refusing(data):
        return _decode(data, minimum, may_be_generated)


def read_origin(data: bytes) -> Origin:
    """Read where an image comes from, fit for training or not, and decode none of its pixels.

    Args:
        data: The whole file.

    Raises:
        RefusedImageError: With the reason, for what is no image, and for a JPEG or PNG that ends too early.
    """
    with _refusing(data), _open(data) as image:
        if isinstance(image, PngImageFile):
            image.info |= _png_text(data)
        return find_origin(image, data)


def check_origin(fields: Mapping[str, str], checked: CheckedImage, name: str = "") -> None:
    """Refuse an image that its metadata calls synthetic, unless its file says that a program without training drew it.

    Raises:
        RefusedImageError: With the reason `generated`, and the name where one is given.
    """
    if says_synthetic(fields) and checked.origin.source_type != DRAWN:
        raise RefusedImageError("generated", f"{name + ': ' if name else ''}synthetic = true in the metadata")


def check_decoded(image: Image.Image, name: str = "") -> None:
    """Refuse an image that says it was made by a trained model, by what is left of its metadata once it is decoded.

    Raises:
        RefusedImageError: With the reason `generated`, and the name where one is given.
    """
    _refuse_trained(find_origin(image), name)


def _refuse_trained(origin: Origin, name: str = "") -> None:
    if origin.trained:
        told = origin.source_type or "synthetic = true in its PNG text"
        raise RefusedImageError("generated", f"{name + ': ' if name else ''}{told}")


@contextmanager
def _refusing(data: bytes) -> Iterator[None]:
    """Turn whatever is wrong with the bytes of an image file into `RefusedImageError`."""
    if not data:
        raise RefusedImageError("empty")
    if _ends_early(data):
        raise RefusedImageError("truncated", "its end marker is missing")
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a host program may have set it, and would hide half an image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise RefusedImageError("not_an_image") from None
    except Image.DecompressionBombError as error:
        raise RefusedImageError("too_large", str(error)) from None
    except RefusedImageError:
        raise
    except Exception as error:  # Pillow's readers raise a dozen kinds for broken files: SyntaxError, struct.error, ...
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise RefusedImageError(reason, f"{type(error).__name__}: {error}") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def _ends_early(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker; libjpeg would fill the rest with grey and only warn."""
    if data.startswith(b"\xff\xd8\xff"):
        # The last start-of-scan is the main image's; an embedded thumbnail has its own end marker before it.
        return data.rfind(b"\xff\xd9") < max(data.rfind(b"\xff\xda"), 2)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data.rfind(b"IEND\xae\x42\x60\x82") < 0
    return False


def _open(data: bytes) -> Image.Image:
    Image.init()  # Pillow names a format only once its reader is loaded
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _png_text(data: bytes) -> dict[str | tuple[int, int], Any]:
    """All text of a PNG: Pillow reads what stands behind the pixels only when it decodes them."""
    file = io.BytesIO(data)
    file.seek(8)  # behind the signature
    with PngStream(file) as chunks:
        kind = b""
        while kind != b"IEND":
            kind, start, length = chunks.read()
            if kind in (b"tEXt", b"zTXt", b"iTXt"):
                chunks.call(kind, start, length)
            file.seek(start + length + 4)  # the checksum too
        return chunks.im_info


def _decode(data: bytes, minimum: int, may_be_generated: bool) -> CheckedImage:
    with _open(data) as probe:
        width, height = probe.size
        if width * height > MAX_PIXELS:
            raise RefusedImageError("too_large", f"{width} x {height} pixels, at most {MAX_PIXELS} in all")
        _check_mode(probe)
        probe.verify()  # checksums of PNG, which decoding alone does not compare
    with _open(data) as image:
        image.load()
        if image.info.get("transparency") is not None:
            raise RefusedImageError("alpha", "a transparent colour")
        origin = find_origin(image, data)
        turned = image.getexif().get(0x0112, 1) in range(2, 9)
        upright = ImageOps.exif_transpose(image) if turned else image.copy()
    if not may_be_generated:
        _refuse_trained(origin)
    if min(upright.size) < minimum:
        raise RefusedImageError("too_small", f"{upright.width} x {upright.height} px, wanted {minimum} x {minimum}")
    return CheckedImage(upright, turned, origin)


def _check_mode(image: Image.Image) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise RefusedImageError("several_frames", f"{getattr(image, 'n_frames', 1)} of them")
    # Pillow reads 16-bit RGB as 8-bit RGB without a word; only the raw mode of its tiles tells.
    if image.mode == "RGB" and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        raise RefusedImageError("sixteen_bit")
    if image.mode != "RGB":
        raise RefusedImageError(_MODES.get(image.mode, "wrong_mode"), f"mode {image.mode}, wanted RGB")
