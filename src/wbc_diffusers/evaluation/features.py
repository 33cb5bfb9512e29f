"""Features of the images of a set: by an encoder, in every process that was launched, each image once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray

from wbc_diffusers.evaluation.cache import Cache
from wbc_diffusers.evaluation.encoders import Encoder, EncoderError
from wbc_diffusers.evaluation.images import ImageSet, Pixels, Processing, batches

CPU_BATCH, BATCH = 8, 64
"""Images at once. On a CPU, larger activations are given back to the system and cleared anew for each layer."""

Features = NDArray[np.float32]


def features_of(
    images: ImageSet,
    encoder: Encoder,
    processing: Processing,
    *,
    cache: Path | None = None,
    state: PartialState | None = None,
) -> Features:
    """Features (N, D) of the images of a set, in their order; every process gets all of them.

    Args:
        images: The set.
        encoder: What computes the features.
        processing: What is done to each image before.
        cache: A file in which features are kept by the hash of their image file.
        state: The processes among which the images are dealt out; None for this one alone.
    """
    size = batch_size(encoder)
    subject = f"{encoder.name} {encoder.fingerprint} on {encoder.device.type} {processing.key} batches of {size}"
    kept = Cache(cache, subject)
    table = _Table(images.hashes)
    for file_hash, row in kept.get(table.missing()):
        table.fill(file_hash, row)
    paths = dict(zip(images.hashes, images.paths, strict=True))
    number, count = (0, 1) if state is None else (state.process_index, state.num_processes)
    # Of all processes, which may have read the cache at different times: each must deal out the same images.
    wanted = table.missing() if count == 1 else sorted(set(gather_object(table.missing())))
    mine = wanted[number::count]
    lacking = [each for each in mine if each not in table.filled]
    for first in range(0, len(lacking), size):
        part = lacking[first : first + size]
        pixels = np.concatenate(list(batches([paths[each] for each in part], processing, size)))
        rows = dict(zip(part, encode(encoder, pixels), strict=True))
        kept.put(rows)
        for file_hash, row in rows.items():
            table.fill(file_hash, row)
    if count > 1:
        for others in gather_object([{each: table.row(each) for each in mine}]):
            for file_hash, row in others.items():
                table.fill(file_hash, row)
    return table.whole()


def encode(encoder: Encoder, pixels: Pixels) -> Features:
    """Features (N, D) of images (N, H, W, 3): the same bits for an image whatever others there are."""
    found, size = [], batch_size(encoder)
    for first in range(0, len(pixels), size):
        part = pixels[first : first + size]
        # Always whole batches: the last bits of a convolution depend on how many images go through it at once.
        whole = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.uint8)])
        found.append(encoder(whole)[: len(part)])
        if not np.isfinite(found[-1]).all():
            raise EncoderError(f"{encoder.name} gives features that are no numbers: its weights are damaged.")
    return np.concatenate(found)


def batch_size(encoder: Encoder) -> int:
    """Images that go through an encoder at once, on its device."""
    return CPU_BATCH if encoder.device.type == "cpu" else BATCH


class _Table:
    """Features as they come, at the places of their images; of copies, one is computed."""

    def __init__(self, file_hashes: Sequence[str]) -> None:
        self.places: dict[str, list[int]] = {}
        for place, each in enumerate(file_hashes):
            self.places.setdefault(each, []).append(place)
        self.count = len(file_hashes)
        self.filled: set[str] = set()
        self.rows: Features | None = None

    def missing(self) -> list[str]:
        return sorted(set(self.places) - self.filled)

    def fill(self, file_hash: str, row: Features) -> None:
        if self.rows is None:
            self.rows = np.empty((self.count, len(row)), np.float32)
        self.rows[self.places[file_hash]] = row
        self.filled.add(file_hash)

    def row(self, file_hash: str) -> Features:
        assert self.rows is not None
        return self.rows[self.places[file_hash][0]]

    def whole(self) -> Features:
        assert self.rows is not None
        assert not self.missing()
        return self.rows
