"""The search for copies of training images, in pixels and in features, with the measure of the search itself."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.evaluation.copies import FALSE_ALARMS, CopyAudit, audit, authenticity, threshold_rank
from wbc_diffusers.evaluation.encoders import Encoder
from wbc_diffusers.evaluation.features import Features, encode
from wbc_diffusers.evaluation.images import ImageSet, Pixels, Processing, batches
from wbc_diffusers.evaluation.intervals import Estimate
from wbc_diffusers.evaluation.nearest import SIDE, nearest_by_features, nearest_by_pixels, thumbnail
from wbc_diffusers.evaluation.planted import KINDS, draw_originals, plant_copies
from wbc_diffusers.evaluation.rows import Row

BATCH = 64


@dataclass(frozen=True)
class Copying:
    """What was found of copies.

    Attributes:
        pixels: By pixels, flipped, turned, shifted and cropped: this decides.
        features: By the features of an encoder.
        encoder: Its name.
        authentic: Share of the generated images that are authentic by those features.
        authentic_held_out: The same of the held-out real images: its floor.
    """

    pixels: CopyAudit
    features: CopyAudit
    encoder: str
    authentic: Estimate
    authentic_held_out: Estimate

    @property
    def rows(self) -> list[Row]:
        """All figures."""
        sizes = {"n_real": len(self.pixels.held_out.index), "n_generated": len(self.pixels.generated.index)}
        rows = []
        name = self.encoder.replace("-", "_")
        for each, encoder, suffix in ((self.pixels, "", ""), (self.features, self.encoder, f"_{name}")):
            figures = {"copies": each.beyond, "copies_excess": each.excess, "copies_found": each.found_of_all}
            floors = {"copies": each.false_alarms.value}
            rows += [
                Row.of(measure + suffix, found, encoder=encoder, floor=floors.get(measure), **sizes)
                for measure, found in figures.items()
            ]
            rows.append(Row(measure="copies_at_most" + suffix, encoder=encoder, value=each.copies_at_most, **sizes))
        about = {"encoder": self.encoder, "floor": self.authentic_held_out.value}
        return [*rows, Row.of(f"authenticity_{name}", self.authentic, **about, **sizes)]


def look_for_copies(
    sets: tuple[ImageSet, ImageSet, ImageSet],
    features: tuple[Features, Features, Features],
    encoder: Encoder,
    processing: Processing,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Copying:
    """Search generated images for copies of training images.

    Args:
        sets: Real images that no model was trained on, generated ones, and training images.
        features: Theirs, by the encoder.
        encoder: It also encodes the copies that are planted to measure the search.
        processing: What is done to every image before.
        seed: Of the planted copies.
        say: Called with a line as each stage begins.

    Raises:
        ValueError: If there are fewer than 99 real images, or some of them are training images.
    """
    threshold_rank(len(sets[0]), FALSE_ALARMS)  # raises before anything is planted
    say("planting copies")
    copies = {kind: _planted(sets[2], kind, processing, seed) for kind in KINDS}
    small = {kind: np.stack([thumbnail(each) for each in pixels]) for kind, pixels in copies.items()}
    encoded = {kind: encode(encoder, pixels) for kind, pixels in copies.items()}
    say("searching for copies")
    real, generated, train = (_thumbnails(each, processing) for each in sets)
    held_out, made, known = features
    return Copying(
        pixels=audit(nearest_by_pixels, generated, real, train, small),
        features=audit(nearest_by_features, made, held_out, known, encoded),
        encoder=encoder.name,
        authentic=authenticity(made, known),
        authentic_held_out=authenticity(held_out, known),
    )


def _planted(train: ImageSet, kind: str, processing: Processing, seed: int) -> Pixels:
    paths = [train.paths[i] for i in draw_originals(len(train), kind, seed)]
    return plant_copies(np.concatenate(list(batches(paths, processing, BATCH))), kind, seed)


def _thumbnails(images: ImageSet, processing: Processing) -> NDArray[np.uint8]:
    found = np.empty((len(images), SIDE, SIDE), np.uint8)
    for first, part in zip(range(0, len(images), BATCH), batches(images.paths, processing, BATCH), strict=True):
        found[first : first + BATCH] = [thumbnail(each) for each in part]
    return found
