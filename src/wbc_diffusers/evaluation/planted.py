"""Planted copies: images changed as a copy may be, so that a search for copies can be measured on them.

Every size is a share of the image's width, so that a kind means the same at 64 and at 192 px.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

Change = Callable[[Image.Image, np.random.Generator], Image.Image]

CROP = (0.85, 0.95)
"""Share of the width that a crop keeps."""

SHIFT = 0.06
"""Share of the width by which an image is moved at the most, along each axis."""

JITTER = 0.2
"""Share by which brightness, contrast and saturation rise or fall at the most."""

HUE = 0.02
"""Share of the colour circle by which hues turn at the most."""

BLUR = (0.01, 0.025)
"""Standard deviation of the blur, of the width: 0.6 to 1.6 px at 64 px."""

QUALITY = (20, 70)
"""Quality of JPEG files, from 0 to 100, both ends included."""


def _flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose((Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)[rng.integers(2)])


def _turn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(turns[rng.integers(3)])


def _shift(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Move the image by whole pixels; what comes in at the edges is mirrored."""
    down, right = np.rint(rng.uniform(-SHIFT, SHIFT, 2) * image.width).astype(int)
    pad = ((max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), (0, 0))
    padded = np.pad(np.asarray(image), pad, mode="symmetric")
    top, left = max(-down, 0), max(-right, 0)
    return Image.fromarray(padded[top : top + image.height, left : left + image.width])


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = rng.uniform(*CROP) * image.width
    left, top = rng.uniform(0, image.width - side, 2)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _colour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - JITTER, 1 + JITTER))
    hue, saturation, value = image.convert("HSV").split()
    turn = round(rng.uniform(-HUE, HUE) * 256)
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR) * image.width))


def _jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(QUALITY[0], QUALITY[1] + 1)))
    return Image.open(buffer).convert("RGB")


KINDS: dict[str, tuple[Change, ...]] = {
    "flip": (_flip,),
    "turn": (_turn,),
    "shift": (_shift,),
    "crop": (_crop,),
    "colour": (_colour,),
    "blur": (_blur,),
    "JPEG": (_jpeg,),
    "flip, crop, colour": (_flip, _crop, _colour),
    "turn, shift, blur": (_turn, _shift, _blur),
    "all": (_flip, _turn, _crop, _colour, _blur, _jpeg),
}
"""Kinds of copies, and the changes that make them, in their order."""

PLANTED = 40
"""Copies of each kind that an audit plants; together they tell a share of 95 % to 2 %."""


def draw_originals(count: int, kind: str, seed: int, number: int = PLANTED) -> NDArray[np.int64]:
    """Draw the places of the training images to copy, of so many, each at most once; ascending."""
    rng = np.random.default_rng([seed, _number_of(kind)])
    return np.sort(rng.choice(count, min(number, count), replace=False))


def plant_copies(images: NDArray[np.uint8], kind: str, seed: int) -> NDArray[np.uint8]:
    """Make a copy of each image, changed in one of the ways of `KINDS`.

    Args:
        images: uint8 (N, S, S, 3).
        kind: One of `KINDS`.
        seed: 0 or more; image number i of the same images, kind and seed is always the same.

    Raises:
        ValueError: If the kind is none of these, or the images have another shape or type.
    """
    number = _number_of(kind)
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} {images.shape}, but must be uint8 (N, S, S, 3)")
    copies = np.empty_like(images)
    for place, pixels in enumerate(images):
        rng = np.random.default_rng([seed, number, place])
        copy = Image.fromarray(pixels)
        for change in KINDS[kind]:
            copy = change(copy, rng)
        copies[place] = np.asarray(copy)
    return copies


def _number_of(kind: str) -> int:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, but must be one of: {'; '.join(KINDS)}")
    return list(KINDS).index(kind)
