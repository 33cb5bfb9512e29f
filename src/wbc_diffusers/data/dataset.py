"""Training images as seeded draws.

Every draw (turns and flips, noise, timestep) comes from a generator seeded by (seed, epoch, index), so that a training
step is a function of the position in the training alone: not of workers, processes or interruptions.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from wbc_diffusers.data.background import Colour, estimate_background, scale_to_background
from wbc_diffusers.data.check import check_decoded
from wbc_diffusers.data.images import centre_square, pixel_sha256, to_sample
from wbc_diffusers.data.loading import column_values, whole_column

Batch = dict[str, Tensor]
"""image (B, 3, H, W) in [-1, 1], noise like it or (B, noise_size), timestep (B,), label (B,) if there are classes."""


@dataclass(frozen=True)
class DrawSpec:
    """What is drawn for an image: its augmentation, noise (as large as the image, or `noise_size` numbers), and a
    timestep in [0, num_timesteps).

    `rand_augment` is RandAugment's number of operations and their magnitude (Cubuk et al. 2020); `background` is the
    colour that the slide is brought to before all else.
    """

    resolution: int
    num_timesteps: int
    random_flip: bool = False
    random_turn: bool = False
    noise_size: int | None = None
    rand_augment: tuple[int, int] | None = None
    background: Colour | None = None


def seed_of(*numbers: int) -> int:
    """Mix whole numbers into a 63-bit seed; neighbouring numbers give unrelated seeds."""
    text = ",".join(str(int(n)) for n in numbers).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _checked_hash(image: Image.Image, name: str = "") -> str:
    """The pixel hash of an image that no preparation has seen; refuses what is marked as made by a trained model."""
    check_decoded(image, name)
    return pixel_sha256(image.convert("RGB"))


def square_pixels(image: Image.Image, resolution: int, name: str = "") -> NDArray[np.uint8]:
    """The centre square of an image as RGB pixels (resolution, resolution, 3).

    Raises:
        ValueError: If the image would have to be enlarged.
    """
    if min(image.size) < resolution:
        raise ValueError(
            f"{f'Image {name}' if name else 'An image'} has {image.width} x {image.height} px, fewer than the recipe's "
            f"resolution {resolution}, and enlarged images teach a blur: set resolution to {min(image.size)} or less."
        )
    return np.asarray(centre_square(image.convert("RGB"), min(image.size), resolution))


def draw(pixels: NDArray[np.uint8], spec: DrawSpec, *key: int) -> Batch:
    """Draw one training example from pixels (H, W, 3); the same for the same key."""
    generator = torch.Generator().manual_seed(seed_of(*key))
    flip, turns = (int(n) for n in torch.randint(0, 4, (2,), generator=generator))
    if spec.random_turn:
        pixels = np.rot90(pixels, turns)
    if spec.random_flip and flip < 2:
        pixels = pixels[:, ::-1]
    if spec.rand_augment is not None:
        pixels = _rand_augmented(pixels, spec.rand_augment, seed_of(*key))
    image = torch.from_numpy(to_sample(np.ascontiguousarray(pixels)))
    timestep = torch.randint(0, spec.num_timesteps, (), generator=generator)
    shape = image.shape if spec.noise_size is None else (spec.noise_size,)
    return {"image": image, "noise": torch.randn(shape, generator=generator), "timestep": timestep}


def _rand_augmented(pixels: NDArray[np.uint8], strength: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    from torchvision.transforms.v2 import RandAugment

    num_ops, magnitude = strength
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    fill = np.median(border, axis=0).tolist()  # black corners are on no slide
    with torch.random.fork_rng(devices=[]):  # it draws from torch's own generator
        torch.manual_seed(seed)
        return np.asarray(RandAugment(num_ops, magnitude, fill=fill)(Image.fromarray(np.ascontiguousarray(pixels))))


class CellImages(Dataset[Batch]):
    """Map-style training images; `self[epoch, index]` is the draw of an image in an epoch.

    Args:
        data: A `datasets.Dataset` with an `image` column.
        spec: What is drawn.
        seed: Of the training.
        class_column: The column that holds the class, if the model is conditional.
        class_names: The classes, in the order of their labels; None takes the sorted values of the column.
    """

    def __init__(
        self,
        data: Any,
        spec: DrawSpec,
        seed: int = 0,
        class_column: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.data, self.spec, self.seed = data, spec, seed
        self.names = _names(data)
        """What errors call the images."""
        known = "pixel_sha256" in data.column_names
        self.prepared_hashes: list[str] | None = whole_column(data, "pixel_sha256") if known else None
        """Pixel hashes of the images as `wbc prepare` wrote them; each is compared when it is drawn."""
        column = "perceptual_hash"
        self.perceptual_hashes: list[str] = []
        if column in data.column_names:
            self.perceptual_hashes = [h for h in whole_column(data, column) if h]
        self.labels: list[int] | None = None
        self.class_names: list[str] = []
        if class_column is not None:
            self.labels, self.class_names = _labels(data, class_column, class_names)

    def __len__(self) -> int:
        return len(self.data)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """The image at an index as RGB pixels (resolution, resolution, 3).

        Raises:
            ValueError: If it cannot be read, is too small, or is not the one that was prepared.
        """
        image = _image(self.data, index)
        if self.prepared_hashes is not None and pixel_sha256(image.convert("RGB")) != self.prepared_hashes[index]:
            raise ValueError(
                f"Image {self.names[index]} is not the one that `wbc prepare` wrote there, so that the manifest "
                "would tell another: prepare the folder anew."
            )
        pixels = square_pixels(image, self.spec.resolution, self.names[index])
        return pixels if self.spec.background is None else self._on_background(pixels, index)

    def _on_background(self, pixels: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        found = estimate_background(pixels)
        if found is None or self.spec.background is None:
            raise ValueError(
                f"Image {self.names[index]} has no bright background to normalise: leave it out, or set the "
                "recipe's background null."
            )
        return scale_to_background(pixels, found, self.spec.background)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        example = draw(self.pixels(index), self.spec, self.seed, epoch, index)
        if self.labels is not None:
            example["label"] = torch.tensor(self.labels[index])
        return example

    def hashes(self) -> list[str]:
        """Pixel hashes of all images; `hashes_of` tells how."""
        return hashes_of(self.data)


def hashes_of(data: Any, *, may_be_generated: bool = False) -> list[str]:
    """Pixel hashes of all images of a `datasets.Dataset`, from the prepared folder's column where there is one.

    Raises:
        RefusedImageError: If an image is marked as made by a trained model, unless that may be.
        ValueError: If an image cannot be read.
    """
    if "pixel_sha256" in data.column_names:
        return whole_column(data, "pixel_sha256")
    if may_be_generated:
        return [pixel_sha256(_image(data, index).convert("RGB")) for index in range(len(data))]
    return [_checked_hash(_image(data, index), name) for index, name in enumerate(_names(data))]


def first_by_hash(data: Any, count: int, what: str = "The data") -> Any:
    """The images with the lowest pixel hashes: the same in every run, as good as drawn, fewer always among more.

    Raises:
        ValueError: If there are fewer.
    """
    if count > len(data):
        raise ValueError(f"{what} holds {len(data)} images, and {count} are wanted: take fewer, or bring more.")
    return data.select(np.argsort(np.array(hashes_of(data)), kind="stable")[:count])


def _image(data: Any, index: int) -> Image.Image:
    try:
        image: Image.Image = data[index]["image"]
    except (OSError, SyntaxError) as error:  # Pillow's errors for broken files
        raise ValueError(
            f"Image {_names(data)[index]} cannot be read ({error}): run `wbc prepare`, which sorts such out."
        ) from error
    return image


def _names(data: Any) -> list[str]:
    """The images' file names, or their numbers where they have none."""
    if "file_name" in data.column_names:
        return [str(name) for name in whole_column(data, "file_name")]
    return [f"number {index}" for index in range(len(data))]


def _labels(data: Any, column: str, names: Sequence[str] | None) -> tuple[list[int], list[str]]:
    if column not in data.column_names:
        raise ValueError(f"The data has no column {column!r} for the classes; it has {', '.join(data.column_names)}.")
    values = ["" if v is None else str(v).strip() for v in column_values(data, column)]
    if "" in values:
        raise ValueError(
            f"{values.count('')} rows have no {column}, which is to be their class: fill it in, or choose by `where`."
        )
    names = list(names) if names is not None else sorted(set(values))
    strange = sorted(set(values) - set(names))
    if strange:
        raise ValueError(f"Column {column} holds {', '.join(strange)}, but the classes are {', '.join(names)}.")
    return [names.index(v) for v in values], names


def check_batch_size(batch_size: int, world: int, accumulation: int) -> None:
    """Raise ValueError if the images of an update can't be dealt out evenly."""
    parts = world * accumulation
    if batch_size % parts:
        raise ValueError(
            f"train_batch_size={batch_size} does not divide by {world} processes x {accumulation} accumulated batches: "
            f"take a multiple of {parts}."
        )


class SeededBatches:
    """The batches of one process, from a given update on, without end: lists of (epoch, index).

    Position p of the training is image `permutation(epoch)[p % n]` of epoch p // n; update u takes the positions from
    u x batch size on, and each process a contiguous slice of them, cut into `accumulation` batches. So the images of an
    update don't depend on the number of processes.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        *,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
    ) -> None:
        check_batch_size(batch_size, world, accumulation)
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.start, self.rank, self.world, self.accumulation = start, rank, world, accumulation

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The order of the images in an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_images)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch_size // self.world
        size = share // self.accumulation
        update, shown, order = self.start, -1, self.order(0)
        while True:
            first = update * self.batch_size + self.rank * share
            keys = []
            for position in range(first, first + share):
                epoch, place = divmod(position, self.num_images)
                if epoch != shown:
                    shown, order = epoch, self.order(epoch)
                keys.append((epoch, int(order[place])))
            yield from (keys[i : i + size] for i in range(0, share, size))
            update += 1


class StreamedBatches(IterableDataset[tuple[Batch, dict[str, Any]]]):
    """Batches of a streamed dataset, each with the stream's state after it, without end.

    The state names the shard and the row to go on from. What the shuffle buffer held when a run stopped is not in it:
    for the rest of the epoch a resumed run misses some of those images and may show a few a second time, together no
    more than the buffer holds. With a buffer of one it goes on bit for bit.
    """

    def __init__(
        self,
        data: Any,
        spec: DrawSpec,
        seed: int,
        batch_size: int,
        buffer: int,
        state: dict[str, Any] | None,
        rank: int = 0,
    ) -> None:
        self.data = data.shuffle(seed=seed, buffer_size=buffer)
        self.spec, self.seed, self.batch_size, self.state, self.rank = spec, seed, batch_size, state, rank

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        epoch, drawn = 0, 0
        if self.state is not None:
            epoch, drawn = self.state["epoch"], self.state["drawn"]
            if self.state["stream"] is not None:
                self.data.load_state_dict(self.state["stream"])
        examples: list[Batch] = []
        hashes: list[str] = []
        while True:
            self.data.set_epoch(epoch)
            drawn_before = drawn
            for row in self.data:
                hashes.append(_checked_hash(row["image"]))
                # With the rank: processes that draw the same noise and timesteps learn less from a batch.
                key = (self.seed, epoch, drawn, self.rank)
                examples.append(draw(square_pixels(row["image"], self.spec.resolution), self.spec, *key))
                drawn += 1
                if len(examples) == self.batch_size:
                    state = {"epoch": epoch, "drawn": drawn, "stream": self.data.state_dict(), "hashes": hashes}
                    yield torch.utils.data.default_collate(examples), state
                    examples, hashes = [], []
            if drawn == drawn_before and self.state is None:
                raise ValueError("The streamed dataset gave no image: check its split and the recipe's `where`.")
            self.state = None
            epoch += 1
