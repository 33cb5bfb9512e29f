"""The feed: the batches of a training, from a folder or a stream, and where to go on after an interruption."""

import atexit
import hashlib
import json
import logging
import math
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from wbc_diffusers.data.dataset import Batch, CellImages, DrawSpec, SeededBatches, StreamedBatches, check_batch_size
from wbc_diffusers.data.loading import MissingSplitError
from wbc_diffusers.data.parallel import end_with_parent
from wbc_diffusers.training.recipe import Recipe
from wbc_diffusers.training.task import Task

logger = logging.getLogger(__name__)


class Feed:
    """Batches of one process.

    Args:
        recipe: The recipe.
        source: A folder of images, or a dataset's id.
        spec: What is drawn for an image.
        rank: Number of this process.
        world: Number of processes.
        task: What is trained: it loads the images, and may bring the classes of a model that is trained further.

    Raises:
        FileNotFoundError: If there is no such source.
        ValueError: If the recipe's batch size doesn't divide, the source has no training images, or a stream is to give
            classes.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: str,
        spec: DrawSpec,
        rank: int,
        world: int,
        task: Task,
    ) -> None:
        self.recipe, self.spec, self.rank, self.world = recipe, spec, rank, world
        self.stream_state: dict[str, Any] | None = None
        self.streamed_hashes: set[str] = set()
        self._leaving = multiprocessing.RawValue("b", 0)  # shared with the workers, and without a lock
        atexit.register(setattr, self._leaving, "value", 1)
        check_batch_size(recipe.train_batch_size, world, recipe.gradient_accumulation_steps)
        self.task, self.class_column = task, task.class_column or recipe.class_column
        data = task.load(source, "train")
        self.class_names: list[str] = []
        if recipe.streaming:
            if recipe.class_column is not None:
                raise ValueError(
                    "A streamed dataset cannot give classes yet: set streaming false, or class_column null."
                )
            self.stream, self.train = data, None
            self.fingerprint = hashlib.sha256(f"stream {source} {recipe.where}".encode()).hexdigest()
        else:
            self.stream, self.train = None, CellImages(data, spec, recipe.seed, self.class_column, task.class_names)
            self.class_names = self.train.class_names
            self.train_hashes = self.train.hashes()
            self.train.pixels(0)
            # The order counts: it is by index that a resumed run finds its images again.
            content = [self.train_hashes, self.train.labels, self.class_names]
            self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        self.validation = self._load_validation(
            source, data if task.validates_on_train and not recipe.streaming else None
        )

    def _load_validation(self, source: str, instead: Any) -> CellImages | None:
        """The images held out, or else those given instead, unturned; None if there are none, or none are wanted."""
        self.held_out = True
        if self.recipe.validation_images == 0:
            return None
        try:
            found = self.task.load(source, "validation")
        except MissingSplitError as error:
            if instead is None:
                if self.rank == 0:
                    logger.warning("There will be no validation. %s", error)
                return None
            found, self.held_out = instead, False
        plain = replace(self.spec, random_flip=False, random_turn=False, rand_augment=None)
        try:
            images = CellImages(found, plain, 0, self.class_column, self.class_names or None)
        except ValueError as error:
            raise ValueError(f"The validation split doesn't fit: {error} Or set validation_images 0.") from error
        for index in self._validated(images):
            images.pixels(index)  # a broken one shows now, not after hours of training
        return images

    def _validated(self, images: CellImages) -> list[int]:
        """Which images of the validation split are looked at: drawn, since by name cells of a kind lie together."""
        drawn = np.random.default_rng(0).permutation(len(images))
        return sorted(drawn[: self.recipe.validation_images].tolist())

    @property
    def has_validation(self) -> bool:
        """Whether there are images for the validation."""
        return self.validation is not None

    def in_words(self) -> str:
        """What is trained on, for the first line of a run."""
        if self.train is None:
            return "Training on a stream."
        known = "" if self.train.prepared_hashes is not None else ", as they are: `wbc prepare` has not seen them"
        validation = (0 if self.validation is None else len(self.validation)) if self.held_out else "some of them"
        return f"Training on {len(self.train)} images, validation on {validation}{known}."

    def total_steps(self) -> int:
        """Updates of the whole training."""
        if self.recipe.max_train_steps is not None:
            return self.recipe.max_train_steps
        if self.train is None:
            raise ValueError("A streamed dataset has no known length: give the recipe's max_train_steps.")
        return max(1, math.ceil(self.recipe.num_train_epochs * len(self.train) / self.recipe.train_batch_size))

    def epochs_at(self, step: int) -> float:
        """How often the images were seen after an update.

        Raises:
            ValueError: If the length of a stream is asked for.
        """
        if self.train is None:
            raise ValueError("A streamed dataset has no known length: set the recipe's snapshot_every_epochs null.")
        return step * self.recipe.train_batch_size / len(self.train)

    def batches(self, step: int) -> Generator[Batch, None, None]:
        """The batches of this process from an update on, without end."""
        recipe = self.recipe
        if self.train is not None:
            sampler = SeededBatches(
                len(self.train),
                recipe.train_batch_size,
                recipe.seed,
                start=step,
                rank=self.rank,
                world=self.world,
                accumulation=recipe.gradient_accumulation_steps,
            )
            yield from self._loader(self.train, recipe.num_workers, batch_sampler=sampler)
            return
        for batch, state in self._loader(self._streamed(), min(1, recipe.num_workers), batch_size=None):
            self.streamed_hashes.update(state.pop("hashes"))
            self.stream_state = state
            yield batch

    def _streamed(self) -> StreamedBatches:
        from datasets.distributed import split_dataset_by_node

        part = split_dataset_by_node(self.stream, self.rank, self.world)
        return StreamedBatches(
            part,
            self.spec,
            self.recipe.seed,
            self.share,
            self.recipe.shuffle_buffer,
            self.stream_state,
            self.rank,
        )

    def _loader(self, data: Any, workers: int, **options: Any) -> Any:
        return DataLoader(
            data,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=partial(_start_worker, self._leaving),
            prefetch_factor=4 if workers else None,
            **options,
        )

    @property
    def share(self) -> int:
        """Images that this process has in memory at once in an update, and so may have at other times."""
        return self.recipe.train_batch_size // (self.world * self.recipe.gradient_accumulation_steps)

    def validation_batches(self) -> Iterator[Batch]:
        """Some images of the validation split, the same ones with the same noise every time."""
        if self.validation is None:
            return
        keys = [(0, index) for index in self._validated(self.validation)]
        size = self.share
        yield from DataLoader(self.validation, batch_sampler=[keys[i : i + size] for i in range(0, len(keys), size)])

    def hashes(self) -> list[str]:
        """Pixel hashes of the images that the training draws from, sorted; of a stream, of those seen so far."""
        return sorted(self.streamed_hashes if self.train is None else self.train_hashes)

    def perceptual_hashes(self) -> list[str]:
        """Perceptual hashes of the images that the training draws from, where `wbc prepare` wrote them."""
        return [] if self.train is None else self.train.perceptual_hashes

    def state_dict(self) -> dict[str, Any]:
        """Where a streamed feed is; a map-style one is found by the number of updates alone."""
        return {"stream": self.stream_state, "hashes": sorted(self.streamed_hashes)}

    def go_on(self, places: list[dict[str, Any]]) -> None:
        """Go on from the saved places of all processes.

        A stream goes on at its shard; where the number of processes is another, the shards are dealt out anew, so that
        places in the old shares mean nothing: it goes on with the next epoch.
        """
        if self.train is not None:
            return
        self.streamed_hashes = {value for place in places for value in place["hashes"]}
        if len(places) == self.world:
            self.stream_state = places[self.rank]["stream"]
        elif (state := places[0]["stream"]) is not None:
            self.stream_state = {**state, "epoch": state["epoch"] + 1, "stream": None}


def _start_worker(leaving: Any, worker: int) -> None:
    """Let a worker outlive SIGTERM, but not its training.

    A cluster signals every process of a job, but workers must live on until the checkpoint is written. At the end of
    the main process they must not: it sends the same signal, and waits for them.
    """
    end_with_parent()  # torch's own watch takes a fork server, which outlives a killed training, for the parent

    def leave(number: int, frame: FrameType | None) -> None:
        if leaving.value:
            os._exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
