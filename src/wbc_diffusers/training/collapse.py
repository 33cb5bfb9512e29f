"""Whether a generator still makes different images, which a GAN's losses don't tell."""

import torch
import torch.nn.functional as F
from torch import Tensor

COMPARED_SIZE = 16
COLLAPSED_BELOW = 0.5


def nearest_distance(images: Tensor) -> float:
    """Median distance of images (N, C, H, W) in [-1, 1] to the nearest other one, as RMS on 0..255.

    The nearest, since a generator that knows ten cells still makes pairs that differ; the images are first shrunk to
    16 px or fewer, so that grain doesn't make twins look different.
    """
    if len(images) < 2:
        raise ValueError(f"{len(images)} images have no nearest other one: give 2 or more.")
    small = F.adaptive_avg_pool2d(images.float(), min(COMPARED_SIZE, *images.shape[2:])).flatten(1)
    distances = torch.cdist(small, small, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(float("inf"))
    return float(distances.min(dim=1).values.median()) / small.shape[1] ** 0.5 * 127.5


def variety(generated: Tensor, real: Tensor) -> float | None:
    """How far generated images are from each other against as many real ones: 1 is as far, 0 is one image only.

    None if most of the real ones have a twin among them.
    """
    count = min(len(generated), len(real))
    apart = nearest_distance(real[:count])
    return nearest_distance(generated[:count]) / apart if apart else None
