"""Batches of a process: which images, in which order, from folders and streams."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Image

from wbc_diffusers.data.dataset import DrawSpec
from wbc_diffusers.data.prepare import prepare
from wbc_diffusers.training.ddim import DDIMTask
from wbc_diffusers.training.feed import Feed
from wbc_diffusers.training.recipe import DDIMRecipe

SPEC = DrawSpec(16, 1000)


def feed_of(recipe: DDIMRecipe, source: Path, rank: int = 0, world: int = 1, spec: DrawSpec = SPEC) -> Feed:
    return Feed(recipe, str(source), spec, rank, world, DDIMTask(recipe))


def take(feed: Feed, count: int, step: int = 0) -> list[dict[str, Any]]:
    batches = feed.batches(step)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def images_in(batches: list[dict[str, Any]]) -> list[bytes]:
    return [image.numpy().tobytes() for batch in batches for image in batch["image"]]


def assert_equal(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "noise", "timestep"))


@pytest.fixture(scope="module")
def shards(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the training cells as four Parquet files."""
    folder, images = tmp_path_factory.mktemp("shards"), sorted((cells / "train").glob("*.png"))
    for shard in range(4):
        rows = Dataset.from_dict({"image": [str(p) for p in images[shard::4]]})
        rows.cast_column("image", Image()).to_parquet(folder / f"train-{shard}.parquet")
    return folder


def test_every_image_comes_once_an_epoch_in_another_order_each_time(small: Any, cells: Path) -> None:
    batches = take(feed_of(small(), cells), 12)
    first, second = images_in(batches[:6]), images_in(batches[6:])
    assert len(set(first)) == 24
    assert set(first) == set(second)
    assert first != second


def test_a_feed_says_what_it_trains_on_and_whether_it_was_prepared(small: Any, cells: Path, tmp_path: Path) -> None:
    raw = feed_of(small(validation_images=4), cells).in_words()
    assert raw == "Training on 24 images, validation on 8, as they are: `wbc prepare` has not seen them."
    prepare(cells, tmp_path / "prepared", crop=16)
    assert feed_of(small(), tmp_path / "prepared").in_words() == "Training on 24 images, validation on 0."


def test_noise_and_timesteps_are_new_in_each_epoch(small: Any, cells: Path) -> None:
    batches = take(feed_of(small(), cells), 12)
    assert len({noise.numpy().tobytes() for batch in batches for noise in batch["noise"]}) == 48


def test_batches_from_an_update_on_are_those_that_come_anyway_whatever_the_workers(small: Any, cells: Path) -> None:
    whole = take(feed_of(small(), cells), 10)
    for workers in (0, 2):
        assert_equal(take(feed_of(small(num_workers=workers), cells), 4, step=6), whole[6:])


def test_processes_and_accumulated_batches_share_out_the_same_images(small: Any, cells: Path) -> None:
    recipe = small(train_batch_size=8)
    whole = images_in(take(feed_of(recipe, cells), 3))
    parts = [
        images_in(take(feed_of(small(train_batch_size=8, gradient_accumulation_steps=2), cells, rank, 2), 6))
        for rank in range(2)
    ]
    for update in range(3):
        shares = [part[update * 4 : update * 4 + 4] for part in parts]
        assert shares[0] + shares[1] == whole[update * 8 : update * 8 + 8]


def test_epochs_are_turned_into_updates(small: Any, cells: Path) -> None:
    recipe = small(max_train_steps=None, num_train_epochs=2.5, train_batch_size=7)
    assert feed_of(recipe, cells).total_steps() == 9  # 60 images in sevens


def test_validation_images_are_drawn_since_cells_of_a_kind_lie_together(small: Any, cells: Path) -> None:
    def shown(count: int | None) -> list[bytes]:
        batches = feed_of(small(validation_images=count), cells).validation_batches()
        return [image.numpy().tobytes() for batch in batches for image in batch["image"]]

    whole, some = shown(None), shown(4)
    assert len(set(whole)) == 8
    assert len(set(some)) == 4
    assert some == [image for image in whole if image in some]  # in the order of the split
    assert some != whole[:4]
    assert shown(9) == whole


def test_a_validation_holds_no_more_images_at_once_than_an_update_does(small: Any, cells: Path) -> None:
    whole, shared = (
        list(
            feed_of(
                small(train_batch_size=4, gradient_accumulation_steps=n, validation_images=8), cells
            ).validation_batches()
        )
        for n in (1, 2)
    )
    assert {len(batch["image"]) for batch in whole} == {4}
    assert {len(batch["image"]) for batch in shared} == {2}
    assert all(torch.equal(torch.cat([b[k] for b in whole]), torch.cat([b[k] for b in shared])) for k in whole[0])


def test_validation_images_have_the_same_noise_every_time(small: Any, cells: Path) -> None:
    feed = feed_of(small(validation_images=6), cells, spec=DrawSpec(16, 1000, True, True))
    once, again = list(feed.validation_batches()), list(feed.validation_batches())
    assert sum(len(batch["image"]) for batch in once) == 6
    assert_equal(once, again)


@pytest.mark.parametrize(("processes", "accumulated"), [(3, 1), (1, 3), (2, 4)])
def test_a_batch_that_does_not_divide_is_refused(small: Any, cells: Path, processes: int, accumulated: int) -> None:
    parts = processes * accumulated
    with pytest.raises(ValueError, match=rf"train_batch_size=4 does not divide by .*: take a multiple of {parts}\."):
        feed_of(small(gradient_accumulation_steps=accumulated), cells, 0, processes)


@pytest.mark.slow  # datasets waits 5 s where a stream is closed
def test_a_stream_goes_on_where_it_was_but_for_what_its_buffer_held(small: Any, shards: Path) -> None:
    recipe = small(streaming=True, shuffle_buffer=1)
    whole = feed_of(recipe, shards)
    expected = take(whole, 6)
    first = feed_of(recipe, shards)
    take(first, 3)
    second = feed_of(recipe, shards)
    second.go_on([first.state_dict()])
    rest = take(second, 3)
    assert_equal(rest[:2], expected[3:5])
    assert set(first.hashes()) < set(second.hashes()) <= set(whole.hashes())


@pytest.mark.slow  # datasets waits 5 s where a stream is closed
def test_processes_of_a_stream_see_other_images_noise_and_timesteps(small: Any, shards: Path) -> None:
    recipe = small(streaming=True, shuffle_buffer=2, train_batch_size=8)
    one, two = (take(feed_of(recipe, shards, rank, 2), 3) for rank in range(2))
    assert set(images_in(one)).isdisjoint(images_in(two))
    assert not torch.equal(one[0]["noise"], two[0]["noise"])
    assert not all(torch.equal(a["timestep"], b["timestep"]) for a, b in zip(one, two, strict=True))


@pytest.mark.slow  # datasets waits 5 s where a stream is closed
def test_another_number_of_processes_starts_a_stream_at_the_next_epoch_and_forgets_no_image(
    small: Any, shards: Path
) -> None:
    recipe = small(streaming=True, shuffle_buffer=1)
    parts = [feed_of(recipe, shards, rank, 2) for rank in range(2)]
    for part in parts:
        take(part, 2)
    later = feed_of(recipe, shards)
    later.go_on([part.state_dict() for part in parts])
    assert later.hashes() == sorted({*parts[0].hashes(), *parts[1].hashes()})
    take(later, 1)
    assert later.state_dict()["stream"]["epoch"] == 1


def test_a_stream_needs_a_length_and_has_no_classes(small: Any, shards: Path) -> None:
    with pytest.raises(ValueError, match="no known length: give the recipe's max_train_steps"):
        feed_of(small(streaming=True, max_train_steps=None), shards).total_steps()
    model = {"block_out_channels": [4, 8], "num_class_embeds": 3}
    with pytest.raises(ValueError, match="cannot give classes yet"):
        feed_of(small(streaming=True, class_column="abnormality", model=model), shards)


@pytest.mark.slow
def test_a_script_that_fails_while_workers_run_ends(cells: Path, tmp_path: Path) -> None:
    # Workers outlive SIGTERM, which is what Python sends them at the end of a process, and then waits.
    script = f"""
from wbc_diffusers.data.dataset import DrawSpec
from wbc_diffusers.training.ddim import DDIMTask
from wbc_diffusers.training.feed import Feed
from wbc_diffusers.training.recipe import DDIMRecipe

recipe = DDIMRecipe(train_batch_size=4, num_workers=2, resolution=16, model={{"block_out_channels": [4, 8]}})
feed = Feed(recipe, {str(cells)!r}, DrawSpec(16, 1000), 0, 1, DDIMTask(recipe))
batches = feed.batches(0)
next(batches)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=600, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
