"""A judge for a model that is being trained: its distance from real images, its colours, and whether it copies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from wbc_diffusers.data.dataset import square_pixels
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.evaluation.copies import least_held_out, threshold_of
from wbc_diffusers.evaluation.distances import draw, kernel, kernel_without_groups
from wbc_diffusers.evaluation.encoders import Encoder
from wbc_diffusers.evaluation.features import encode
from wbc_diffusers.evaluation.images import LEAST_IMAGES, Pixels
from wbc_diffusers.evaluation.intervals import groups_of, jackknife
from wbc_diffusers.evaluation.nearest import nearest_by_pixels, thumbnail


@dataclass(frozen=True)
class Judgement:
    """What is logged, and the score: the kernel distance, of which the lowest is the best."""

    figures: dict[str, float]
    score: float


class TrainingJudge:
    """Judges images by a fixed set of real ones: the validation split, which the training does not learn from.

    Args:
        data: What the training is on: a folder, Parquet files, or a dataset's id.
        where: Column values that its images must have.
        resolution: Pixels a side of the images that will be judged.
        count: How many of them, and real images at the most.
        encoder: Whose features the distance is of.

    Raises:
        ValueError: If there are too few validation images, too few are to be judged, or one is a training image.
    """

    def __init__(self, data: str, where: Mapping[str, Any], resolution: int, count: int, encoder: Encoder) -> None:
        self.count, self.encoder = count, encoder
        held_out = _pixels(load_cells(data, "validation", where=where), resolution)
        if min(count, len(held_out)) < LEAST_IMAGES:
            raise ValueError(
                f"A training is judged by {LEAST_IMAGES} images or more of each kind, and {count} are to be generated, "
                f"{len(held_out)} are in the validation split: raise evaluate_images, or set evaluate_every null."
            )
        # At random: by their names, cells of one kind come first.
        real = held_out[draw(len(held_out), count, 0)]
        self.features = encode(encoder, real)
        self.colour = _mean_colour(real)
        rows = load_cells(data, "train", where=where)
        self.training = np.stack([thumbnail(square_pixels(row["image"], resolution)) for row in rows])
        self.near: float | None = None
        if len(held_out) >= least_held_out():
            self.near = threshold_of(nearest_by_pixels(np.stack([thumbnail(p) for p in held_out]), self.training))

    def __call__(self, images: Sequence[Image.Image]) -> Judgement:
        """Judge generated images.

        Returns:
            Figures by name: the kernel distance with its interval, the largest difference of a mean colour in levels
            of 255, and, with 99 validation images or more, the share of images that are nearer to a training image
            than one in a hundred of those is.
        """
        pixels = np.stack([np.asarray(image) for image in images])
        made = encode(self.encoder, pixels)
        groups = groups_of(len(self.features)), groups_of(len(made), seed=1)
        left_out = kernel_without_groups(self.features, made, *groups)
        found = jackknife(kernel(self.features, made), left_out)
        name = f"evaluation/{self.encoder.named('kd')}"
        figures = {
            name: found.value,
            f"{name}_low": found.low,
            f"{name}_high": found.high,
            "evaluation/colour_drift": float(np.abs(_mean_colour(pixels) - self.colour).max()),
        }
        if self.near is not None:
            near = nearest_by_pixels(np.stack([thumbnail(p) for p in pixels]), self.training).distance
            figures["evaluation/copies"] = float((near < self.near).mean())
        return Judgement(figures, found.value)


def _pixels(data: Any, resolution: int) -> Pixels:
    return np.stack([square_pixels(row["image"], resolution) for row in data])


def _mean_colour(pixels: Pixels) -> np.ndarray:
    return pixels.mean(axis=(0, 1, 2), dtype=np.float64)
