"""Differentiable augmentation of real and generated images alike, for GANs with few images (Zhao et al. 2020)."""

import torch
from torch import Tensor

NUMBERS = 7
"""How many random numbers the augmentation of an image takes, whatever the policy."""

POLICIES = ("color", "translation", "cutout")


def parse_policy(text: str | None) -> tuple[str, ...]:
    """Read a policy such as "color,translation,cutout".

    Raises:
        ValueError: If a part is unknown.
    """
    parts = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if unknown := [part for part in parts if part not in POLICIES]:
        raise ValueError(f"diff_augment holds {', '.join(unknown)}: choose from {', '.join(POLICIES)}.")
    return parts


def augment(images: Tensor, policy: tuple[str, ...], uniform: Tensor) -> Tensor:
    """Change images so that gradients pass through; strengths are the paper's (section 3.2 and its code).

    Args:
        images: (B, C, H, W) in [-1, 1].
        policy: Parts of `POLICIES`.
        uniform: Random numbers (B, NUMBERS) in [0, 1]; each image depends on its own only.
    """
    if "color" in policy:
        images = _color(images, uniform[:, 0:3])
    if "translation" in policy:
        images = _translate(images, uniform[:, 3:5])
    if "cutout" in policy:
        images = _cut_out(images, uniform[:, 5:7])
    return images


def _color(images: Tensor, uniform: Tensor) -> Tensor:
    """Brightness by up to 0.5, saturation by 0 to 2, contrast by 0.5 to 1.5."""
    brightness, saturation, contrast = uniform[:, :, None, None, None].unbind(1)
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2.0 * saturation) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _places(uniform: Tensor, count: int) -> Tensor:
    """Whole numbers (B,) from 0 to count - 1, each as likely."""
    return (uniform * count).long().clamp(max=count - 1)


def _translate(images: Tensor, uniform: Tensor) -> Tensor:
    """Shift by up to an eighth of the size either way; what comes in is 0."""
    height, width = images.shape[2:]
    shifted = images
    for axis, (size, number) in enumerate(zip((height, width), uniform.unbind(1), strict=True), start=2):
        reach = int(size / 8 + 0.5)
        source = torch.arange(size, device=images.device) - (_places(number, 2 * reach + 1) - reach)[:, None]
        inside = (source >= 0) & (source < size)
        shape = [len(images), 1, 1, 1]
        shape[axis] = size
        index = source.clamp(0, size - 1).reshape(shape).expand_as(images)
        shifted = shifted.gather(axis, index) * inside.reshape(shape)
    return shifted


def _cut_out(images: Tensor, uniform: Tensor) -> Tensor:
    """Set to 0 a rectangle of half the height and width, whose centre lies anywhere."""
    outside = []
    for axis, number in zip((2, 3), uniform.unbind(1), strict=True):
        size = images.shape[axis]
        length = int(size / 2 + 0.5)
        first = _places(number, size + 1 - length % 2) - length // 2
        places = torch.arange(size, device=images.device)
        outside.append((places < first[:, None]) | (places >= first[:, None] + length))
    return images * (outside[0][:, None, :, None] | outside[1][:, None, None, :])
