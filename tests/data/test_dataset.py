"""A draw is a function of seed, epoch and index; any processes and interruptions give the batches of one run."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from wbc_diffusers.data.check import RefusedImageError
from wbc_diffusers.data.dataset import (
    CellImages,
    DrawSpec,
    SeededBatches,
    StreamedBatches,
    draw,
    first_by_hash,
    hashes_of,
    square_pixels,
)
from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.data.origin import TRAINED
from wbc_diffusers.data.prepare import prepare

ImageFolder = Callable[..., Path]
PLAIN = DrawSpec(resolution=16, num_timesteps=1000)
TURNED = DrawSpec(resolution=16, num_timesteps=1000, random_flip=True, random_turn=True)


@pytest.fixture
def cells(image_folder: ImageFolder) -> datasets.Dataset:
    """Give ten images as training data."""
    return load_cells(str(image_folder([f"{i}.png" for i in range(10)])), "train")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def chi_square(counts: NDArray[np.int64]) -> float:
    """Give the chi-square statistic of counts against equal ones."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


# Draws


def test_draw_is_a_function_of_seed_epoch_and_index(cells: datasets.Dataset) -> None:
    images = CellImages(cells, TURNED, seed=3)
    first = images[2, 5]
    images[2, 6], images[3, 5]  # other draws between don't matter
    assert same(images[2, 5], first)
    assert same(CellImages(cells, TURNED, seed=3)[2, 5], first)
    for other in (images[3, 5], images[2, 6], CellImages(cells, TURNED, seed=4)[2, 5]):
        assert not torch.equal(other["noise"], first["noise"])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_batches_of_the_main_process(cells: datasets.Dataset, workers: int) -> None:
    images = CellImages(cells, TURNED, seed=3)
    here, there = (
        list(islice(DataLoader(images, batch_sampler=SeededBatches(10, 4, 3), num_workers=n), 6)) for n in (0, workers)
    )
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


def test_flips_and_turns_are_the_eight_symmetries_evenly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    views = {
        np.rot90(p, k).tobytes(): i
        for i, (p, k) in enumerate((p, k) for p in (pixels, pixels[:, ::-1]) for k in range(4))
    }
    drawn = [np.rint((draw(pixels, TURNED, 0, i)["image"].numpy() + 1) * 127.5) for i in range(4000)]
    counts = np.bincount([views[d.transpose(1, 2, 0).astype(np.uint8).tobytes()] for d in drawn], minlength=8)
    assert chi_square(counts) < 24.3  # 0.1 % of chance, 7 degrees of freedom
    for spec, allowed in ((PLAIN, 1), (DrawSpec(16, 10, random_flip=True), 2), (DrawSpec(16, 10, random_turn=True), 4)):
        assert len({draw(pixels, spec, 0, i)["image"].numpy().tobytes() for i in range(60)}) == allowed


def test_timesteps_are_even_and_noise_is_normal() -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    examples = [draw(pixels, PLAIN, 1, i) for i in range(5000)]
    timesteps = np.array([int(e["timestep"]) for e in examples])
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    assert chi_square(np.bincount(timesteps // 50, minlength=20)) < 43.8  # 0.1 % of chance, 19 degrees of freedom
    noise = torch.stack([e["noise"] for e in examples]).double()
    assert noise.shape == (5000, 3, 16, 16)
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    assert abs(noise.var() - 1) < 4 * (2 / noise.numel()) ** 0.5
    assert abs(np.corrcoef(timesteps, noise[:, 0, 0, 0])[0, 1]) < 4 / 5000**0.5


def test_randaugment_changes_nothing_but_the_image() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
    plain, strong = (DrawSpec(16, 1000, True, True, rand_augment=given) for given in (None, (2, 9)))
    for index in range(20):
        one, other = draw(pixels, plain, 0, index), draw(pixels, strong, 0, index)
        assert torch.equal(one["noise"], other["noise"])
        assert one["timestep"] == other["timestep"]


def test_randaugment_is_drawn_anew_each_time_and_moves_no_black_corners_in() -> None:
    slide = np.full((16, 16, 3), (200, 170, 190), np.uint8)
    slide[6:10, 6:10] = 90
    seen = [draw(slide, DrawSpec(16, 10, rand_augment=(1, 9)), 0, i)["image"].numpy() for i in range(60)]
    assert len({image.tobytes() for image in seen}) > 15
    for image in seen:
        edge = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
        assert np.ptp(edge, axis=1).max() == 0  # one operation: of one colour, whatever it is


def test_workers_draw_the_same_randaugment_as_the_main_process(cells: datasets.Dataset) -> None:
    images = CellImages(cells, DrawSpec(16, 10, rand_augment=(2, 9)), seed=3)
    here, there = (
        list(islice(DataLoader(images, batch_sampler=SeededBatches(10, 5, 3), num_workers=n), 3)) for n in (0, 1)
    )
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


# Pixels


def lanczos(pixels: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Shrink (H, W, 3) in float64 by the definition: windowed sinc of three lobes, as wide as the reduction."""
    side = len(pixels)
    scale = side / size
    centres = (np.arange(size) + 0.5) * scale
    distance = (np.arange(side) + 0.5 - centres[:, None]) / scale
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ih,hwc,jw->ijc", weights, pixels.astype(np.float64), weights)


@pytest.mark.parametrize("shape", [(24, 24), (24, 37), (41, 24), (25, 24)])
def test_square_is_the_centre_crop_exactly(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    top, left = (shape[0] - 24) // 2, (shape[1] - 24) // 2
    np.testing.assert_array_equal(square_pixels(Image.fromarray(pixels), 24), pixels[top : top + 24, left : left + 24])


@pytest.mark.parametrize("size", [8, 11, 23])
def test_square_is_shrunk_by_lanczos(size: int) -> None:
    pixels = np.random.default_rng(2).integers(90, 160, (24, 30, 3), np.uint8)
    expected = lanczos(pixels[:, 3:27], size)
    # Pillow rounds to whole levels after each of its two passes.
    assert np.abs(square_pixels(Image.fromarray(pixels), size) - expected).max() < 1.3


def test_images_of_other_modes_become_rgb() -> None:
    grey = Image.fromarray(np.full((16, 16), 90, np.uint8))
    assert square_pixels(grey, 16).tolist() == np.full((16, 16, 3), 90).tolist()


def test_hashes_are_those_of_the_prepared_folder(image_folder: ImageFolder, tmp_path: Path) -> None:
    prepare(image_folder([f"{i}.png" for i in range(6)]), tmp_path / "out", crop=16, split=(1, 0, 0))
    data = load_cells(str(tmp_path / "out"), "train")
    from_column, from_pixels = (CellImages(d, PLAIN).hashes() for d in (data, data.remove_columns("pixel_sha256")))
    assert from_column == from_pixels
    assert from_column[0] == hashlib.sha256(np.asarray(data[0]["image"]).tobytes()).hexdigest()


def test_an_image_that_was_exchanged_after_the_preparation_is_refused(
    image_folder: ImageFolder, tmp_path: Path
) -> None:
    prepare(image_folder([f"{i}.png" for i in range(6)]), tmp_path / "out", crop=16, split=(1, 0, 0))
    images = CellImages(load_cells(str(tmp_path / "out"), "train"), PLAIN)
    Image.new("RGB", (16, 16)).save(tmp_path / "out" / "train" / "3.png")
    assert images.pixels(2).shape == (16, 16, 3)
    with pytest.raises(ValueError, match=r"Image train/3\.png is not the one that `wbc prepare` wrote"):
        images[0, 3]


def test_an_image_is_never_enlarged(cells: datasets.Dataset) -> None:
    with pytest.raises(ValueError, match=r"Image 4\.png has 16 x 16 px, fewer than the recipe's resolution 17"):
        CellImages(cells, DrawSpec(17, 10))[0, 4]


def test_hashes_of_generated_images_are_given_where_they_may_be_only(tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8)
    write_png(tmp_path / "0.png", pixels, TRAINED)
    data = load_cells(str(tmp_path), "train")
    with pytest.raises(RefusedImageError, match="made by a trained model"):
        hashes_of(data)
    assert hashes_of(data, may_be_generated=True) == [hashlib.sha256(pixels.tobytes()).hexdigest()]


def test_fewer_images_by_hash_are_always_among_more_whatever_their_order(image_folder: ImageFolder) -> None:
    data = load_cells(str(image_folder([f"{i}.png" for i in range(12)])), "train")
    pixels = {row["file_name"]: np.asarray(row["image"]).tobytes() for row in data}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in pixels.items()}
    ordered = sorted(hashes, key=lambda name: hashes[name])
    for count in (1, 5, 12):
        assert list(first_by_hash(data, count)["file_name"]) == ordered[:count]
    backwards = data.select(range(11, -1, -1))
    assert list(first_by_hash(backwards, 5)["file_name"]) == ordered[:5]
    with pytest.raises(ValueError, match="Split train of x holds 12 images, and 13 are wanted: take fewer, or bring"):
        first_by_hash(data, 13, "Split train of x")


def test_a_cell_without_a_slide_to_normalise_is_told_by_name(image_folder: ImageFolder) -> None:
    data = load_cells(str(image_folder(["a.png"])), "train")
    dark = data.map(lambda row: {"image": Image.new("RGB", (16, 16), (20, 20, 20))})
    with pytest.raises(ValueError, match=r"Image a\.png has no bright background to normalise: .*background null"):
        CellImages(dark, DrawSpec(16, 10, background=(230.0, 230.0, 230.0))).pixels(0)


# Classes


def test_classes_are_sorted_or_keep_the_order_of_the_model(image_folder: ImageFolder) -> None:
    top = image_folder([{"file_name": f"{i}.png", "kind": kind} for i, kind in enumerate("bca")])
    data = load_cells(str(top), "train")
    for given, order in ((None, "abc"), (["c", "a", "b"], "cab")):
        images = CellImages(data, PLAIN, 0, "kind", given)
        assert images.class_names == list(order)
        labels = {kind: int(images[0, i]["label"]) for i, kind in enumerate(data["kind"])}
        assert labels == {kind: order.index(kind) for kind in "abc"}


def test_classes_of_a_table_go_by_name(image_folder: ImageFolder, tmp_path: Path) -> None:
    top = image_folder(["eosinophil/0.png", "basophil/1.png"])
    data = datasets.load_dataset("imagefolder", data_dir=str(top), split="train")
    data.to_parquet(tmp_path / "cells.parquet")
    images = CellImages(load_cells(str(tmp_path / "cells.parquet"), "train"), PLAIN, 0, "label")
    assert images.class_names == ["basophil", "eosinophil"]


def test_classes_that_cannot_be_are_refused(image_folder: ImageFolder) -> None:
    top = image_folder([{"file_name": f"{i}.png", "kind": "ab"[i], "stain": ("MGG", "")[i]} for i in range(2)])
    data = load_cells(str(top), "train")
    with pytest.raises(ValueError, match=r"no column 'lobes' for the classes; it has .*kind"):
        CellImages(data, PLAIN, 0, "lobes")
    with pytest.raises(ValueError, match=r"Column kind holds b, but the classes are a\."):
        CellImages(data, PLAIN, 0, "kind", ["a"])
    with pytest.raises(ValueError, match=r"1 rows have no stain"):
        CellImages(data, PLAIN, 0, "stain")


# Order


def keys(count: int, **options: Any) -> list[list[tuple[int, int]]]:
    options = {"num_images": 10, "batch_size": 4, "seed": 7} | options
    return list(islice(SeededBatches(**options), count))


def test_every_image_comes_once_an_epoch_in_another_order_each_time() -> None:
    flat = [key for batch in keys(10) for key in batch]
    orders = [[index for epoch, index in flat if epoch == e] for e in range(4)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert [epoch for epoch, _ in flat] == sorted(epoch for epoch, _ in flat)
    assert keys(10) == keys(10)
    assert keys(10, seed=8) != keys(10)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_processes_and_accumulated_batches_together_are_one_process(world: int, accumulation: int) -> None:
    parts = [keys(9 * accumulation, world=world, rank=r, accumulation=accumulation) for r in range(world)]
    assert {len(batch) for part in parts for batch in part} == {4 // (world * accumulation)}
    for update, batch in enumerate(keys(9)):
        own = slice(update * accumulation, (update + 1) * accumulation)
        assert [key for part in parts for small in part[own] for key in small] == batch


@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_order_from_an_update_on_is_the_tail_of_the_whole(start: int) -> None:
    assert keys(5, start=start) == keys(start + 5)[start:]
    assert keys(5, start=start, world=2, rank=1) == keys(start + 5, world=2, rank=1)[start:]


def test_batches_larger_than_the_set_reach_into_the_next_epoch() -> None:
    batch = keys(1, num_images=3, batch_size=8)[0]
    assert [epoch for epoch, _ in batch] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_batch_size_that_does_not_divide_is_refused_with_a_multiple_to_take() -> None:
    with pytest.raises(ValueError, match=r"train_batch_size=10 does not divide by 2 processes x 2 .*a multiple of 4\."):
        SeededBatches(100, 10, 0, world=2, accumulation=2)


# Streams


def stream(cells: datasets.Dataset, buffer: int, state: dict[str, Any] | None = None, batch: int = 2) -> Iterator[Any]:
    return iter(StreamedBatches(cells.to_iterable_dataset(num_shards=2), TURNED, 7, batch, buffer, state))


def test_stream_shows_every_image_once_an_epoch(cells: datasets.Dataset) -> None:
    every = sorted(CellImages(cells, PLAIN).hashes())
    batches = list(islice(stream(cells, 4), 10))
    epochs = [sorted(h for _, state in part for h in state["hashes"]) for part in (batches[:5], batches[5:])]
    assert epochs == [every, every]
    assert batches[0][0]["image"].shape == (2, 3, 16, 16)
    orders = [[h for _, state in part for h in state["hashes"]] for part in (batches[:5], batches[5:])]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("buffer", [1, 5])
@pytest.mark.parametrize("stop", [1, 9, 15])
def test_resumed_stream_misses_at_most_what_its_buffer_held(image_folder: ImageFolder, buffer: int, stop: int) -> None:
    data = load_cells(str(image_folder([f"{i}.png" for i in range(24)])), "train")
    every = set(CellImages(data, PLAIN).hashes())
    before = list(islice(stream(data, buffer, batch=1), stop))
    after = list(islice(stream(data, buffer, before[-1][1], batch=1), 48))
    shown = [h for _, state in before + after if state["epoch"] == 0 for h in state["hashes"]]
    missed, again = len(every - set(shown)), len(shown) - len(set(shown))
    assert missed + again <= buffer
    following = [h for _, state in after if state["epoch"] == 1 for h in state["hashes"]]
    assert len(following) == 24
    assert set(following) == every


def test_stream_without_an_image_is_refused(cells: datasets.Dataset) -> None:
    nothing = cells.to_iterable_dataset().filter(lambda row: False)
    with pytest.raises(ValueError, match="gave no image: check its split"):
        next(iter(StreamedBatches(nothing, PLAIN, 0, 2, 4, None)))
