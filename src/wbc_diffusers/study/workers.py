"""What trains the runs of a study: several processes, of which each trains one at a time and lets it judge."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from wbc_diffusers import __version__
from wbc_diffusers.classifier import Classifier
from wbc_diffusers.data.dataset import CellImages, DrawSpec
from wbc_diffusers.data.labelled import class_numbers
from wbc_diffusers.data.loading import whole_column
from wbc_diffusers.data.parallel import end_with_parent
from wbc_diffusers.study.arms import folder_of
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.images import StudyImages, load_images
from wbc_diffusers.study.predictions import Predictions
from wbc_diffusers.study.runs import DONE_NAME, SETS, Run, all_runs, cells_of, what_decides
from wbc_diffusers.training.classifier import ClassifierTask, train_classifier
from wbc_diffusers.training.files import write_whole
from wbc_diffusers.training.progress import time_in_words
from wbc_diffusers.training.recipe import ClassifierRecipe
from wbc_diffusers.training.selection import classes_of, look_at

_STOPPED = 128 + signal.SIGTERM
"""The exit code of what stops in time."""
_TIMED_UPDATES, _TIMED_LOOKS = 6, 128


class StudyStoppedError(RuntimeError):
    """A study that something outside of it stopped; it goes on where it was."""


def do_runs(
    config: StudyConfig,
    left: Sequence[Run],
    out: Path,
    cells: Mapping[str, str],
    processes: int,
    say: Callable[[str], None],
) -> None:
    """Do runs, and tell of each, with what is left.

    Args:
        config: The study.
        left: Of `runs_left`.
        out: The study's folder.
        cells: Of `fingerprints`.
        processes: How many trainings run at a time.
        say: Called with a line now and then.
    """
    if not left:
        return
    with _pool(config, out, processes, cells) as pool:
        rate = min(pool.map(_time_updates, [config] * processes))
        looks = max(pool.map(_time_looks, [config] * processes))
        untrained = [run for run in left if not (folder_of(run.arm, run.seed, out / "runs") / DONE_NAME).is_file()]
        if len(untrained) < len(left):
            say(f"{len(left) - len(untrained)} trainings done before judge again.")
        if untrained:
            say(_size_in_words(config, untrained, rate, looks, processes))
        started, done = time.monotonic(), 0
        failed: dict[str, Exception] = {}
        for free in (True, False):  # a filter's judge is trained before
            batch = [run for run in left if (run.arm.filtered_by is None) == free]
            futures: dict[Future[float], Run] = {pool.submit(_do, run): run for run in batch}
            for future in as_completed(futures):
                try:
                    recall = future.result()
                except BrokenProcessPool:
                    raise
                except Exception as error:  # the other runs are none the worse for it
                    failed[futures[future].in_words] = error
                    say(f"{futures[future].in_words}: {error}")
                    continue
                done += 1
                rest = (time.monotonic() - started) / done * (len(left) - done)
                say(
                    f"{done}/{len(left)} {futures[future].in_words}: recall {recall:.3f} at specificity "
                    f"{config.specificity:g}, {time_in_words(rest)} left"
                )
    if failed:
        name, first = next(iter(failed.items()))
        raise ValueError(
            f"{len(failed)} of {len(left)} trainings failed, such as {name}: {first} All others are done: mend what it "
            "names, or leave that arm out with all its seeds, and start the same command again."
        ) from first


def _size_in_words(config: StudyConfig, left: Sequence[Run], rate: float, looks: float, processes: int) -> str:
    """How much there is to do, and how long it will take by what was timed.

    Args:
        config: The study.
        left: The runs that are to be trained.
        rate: Images that a process trains on in a second.
        looks: Seconds that the validations and judgements of a run take.
        processes: How many runs are done at a time.
    """
    recipe = config.recipes(left[0].arm, left[0].seed, Path())[-1]
    images = len(left) * config.updates * recipe.train_batch_size
    seconds = (images / rate + len(left) * looks) / processes
    return (
        f"{len(left)} trainings ({len(config.all_arms())} arms, {len(config.seeds)} seeds, "
        f"{len(all_runs(config)) - len(left)} done before) of {config.updates} updates of "
        f"{recipe.train_batch_size} images: {images / 1e6:.1f} million images at {rate:.0f} a second in each of "
        f"{processes} processes, about {time_in_words(seconds)} with the validations; what changes the images comes on "
        "top."
    )


# -- in the processes ------------------------------------------------------------------------------------------------

_here: dict[str, Any] = {}


@contextlib.contextmanager
def _pool(config: StudyConfig, out: Path, processes: int, cells: Mapping[str, str]) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    number = context.Value("i", 0)
    pool = ProcessPoolExecutor(processes, context, _start, (config, out, cells, number))
    try:
        with _sigterm_stops():
            yield pool
    except BrokenProcessPool as error:
        _stop_workers()
        raise StudyStoppedError(
            "A training's process was ended from outside, as for want of memory. What was done is kept: start the same "
            "command again, perhaps with fewer --processes."
        ) from error
    except BaseException:
        _stop_workers()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _stop_workers() -> None:
    """Tell the processes to stop, each with a checkpoint, until they have: one that is just done begins another run."""
    while workers := multiprocessing.active_children():
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(1)


@contextlib.contextmanager
def _sigterm_stops() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit, so that the trainings can be told to stop too."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which is given no signals
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(_STOPPED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(config: StudyConfig, out: Path, cells: Mapping[str, str], number: Any) -> None:
    """Make ready a process: one core or its own GPU, and the images that judge."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the main process tells the others to stop
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    if torch.cuda.is_available():
        torch.cuda.set_device(mine % torch.cuda.device_count())
    # Else a training would end otherwise by the number of processes: sums in another order part within some updates.
    torch.set_num_threads(1)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    _here.update(config=config, out=out, cells=cells, images=load_images(config))


def _time_updates(config: StudyConfig) -> float:
    """Images a second that this process trains on, while the others do so too."""
    recipe = config.recipes(config.all_arms()[0], config.seeds[0], Path())[0]
    task = ClassifierTask(recipe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = task.models["classifier"].train().to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    shape = (recipe.train_batch_size, 3, recipe.resolution, recipe.resolution)
    images, labels = torch.zeros(shape, device=device), torch.zeros(shape[0], dtype=torch.int64, device=device)
    started = 0.0
    for update in range(_TIMED_UPDATES + 1):
        if update == 1:
            started = time.monotonic()  # the first one makes its buffers
        task.loss("classifier", task.models, {"image": images, "label": labels}).backward()
        optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return _TIMED_UPDATES * recipe.train_batch_size / (time.monotonic() - started)


def _time_looks(config: StudyConfig) -> float:
    """Seconds that this process looks at the images that judge, in all validations of a run and after it."""
    recipe = config.recipes(config.all_arms()[0], config.seeds[0], Path())[0]
    classifier: Any = ClassifierTask(recipe).models["classifier"]
    images = _here["images"]
    if torch.cuda.is_available():
        classifier.to("cuda")
    some = images.test.select(range(min(_TIMED_LOOKS, len(images.test))))
    spec = DrawSpec(recipe.resolution, 1, noise_size=0, background=recipe.background)
    started = time.monotonic()
    look_at(classifier, CellImages(some, spec))
    each = (time.monotonic() - started) / len(some)
    judged = sum(len(data) for data in (images.test, images.validation, images.swap) if data is not None)
    return each * (judged + config.updates // recipe.validate_every * len(images.validation))


def _do(run: Run) -> float:
    """Do a run; where it is told to stop its process ends, since the pool would give it the next one."""
    try:
        return _do_run(run)
    except SystemExit:
        os._exit(_STOPPED)


def _do_run(run: Run) -> float:
    """Train a run that is not trained yet, let it judge, and write down what it says; gives its recall."""
    from wbc_diffusers.study.measures import recall_at_specificity

    config, out, cells = _here["config"], _here["out"], _here["cells"]
    folder = folder_of(run.arm, run.seed, out / "runs")
    done = folder / DONE_NAME
    if done.is_file():
        told = json.loads(done.read_text(encoding="utf-8"))
        # Until all is judged again what is there counts as nothing: a kill leaves some of both.
        write_whole(done, _as_text({**told, "judges": None}))
    else:
        told = _train(config, run, out)
    recipe = config.recipes(run.arm, run.seed, out / "runs")[-1]
    found = judge(folder, recipe, _here["images"])
    for name in SETS:
        (folder / f"{name}.npz").unlink(missing_ok=True)
    for name, predictions in found.items():
        predictions.save(folder / f"{name}.npz")
    told |= {"cells": cells_of(run, cells), "judges": cells["judges"]}
    write_whole(done, _as_text(told))
    for place in (folder, folder_of(run.arm, run.seed, out / "runs", first=True)):
        for spare in ("checkpoints", "best"):
            shutil.rmtree(place / spare, ignore_errors=True)
    test = found["test"]
    return recall_at_specificity(test.scores, test.abnormal, config.specificity)


def _as_text(told: Mapping[str, Any]) -> bytes:
    return (json.dumps(told, indent=1) + "\n").encode()


def _train(config: StudyConfig, run: Run, out: Path) -> dict[str, Any]:
    """Train a run, both of its stages where it has two; what is told of it."""
    runs = out / "runs"
    recipes = config.recipes(run.arm, run.seed, runs)
    folder = folder_of(run.arm, run.seed, runs)
    folders = [folder_of(run.arm, run.seed, runs, first=True), folder][-len(recipes) :]
    folder.parent.mkdir(parents=True, exist_ok=True)
    _begin(folder, {"recipes": what_decides(config, run), "cells": cells_of(run, _here["cells"])}, folders)
    started = time.monotonic()
    with (folder.parent / f"seed-{run.seed}.log").open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        for recipe, place in zip(recipes, folders, strict=True):
            if not (place / "checkpoints").is_dir():
                shutil.rmtree(place, ignore_errors=True)  # of a run that was done, and is wanted anew
            # Also where it is done: the recipe may have changed since the study was stopped.
            if not train_classifier(recipe, config.data, place, resume="latest"):
                raise SystemExit(_STOPPED)
    return {
        "arm": run.arm.name,
        "seed": run.seed,
        "recipes": what_decides(config, run),
        "trained_on": [_manifest(place)["training"] for place in folders],
        "seconds": round(time.monotonic() - started, 1),
        "version": __version__,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def _begin(folder: Path, begun: Mapping[str, Any], folders: Sequence[Path]) -> None:
    """Remove what is left of a run that was begun by another recipe, such as a shorter schedule, or on other images."""
    mark, text = folder.with_name(f"{folder.name}.begun.json"), _as_text(begun)
    if mark.is_file() and mark.read_bytes() != text:
        for place in folders:
            shutil.rmtree(place, ignore_errors=True)
    write_whole(mark, text)


def _manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training_manifest.json").read_text(encoding="utf-8"))
    return found


def judge(folder: Path, recipe: ClassifierRecipe, images: StudyImages) -> dict[str, Predictions]:
    """What the classifier in a folder says of the images that judge."""
    classifier = Classifier.from_pretrained(folder)
    if torch.cuda.is_available():
        classifier.to("cuda")
    spec = DrawSpec(recipe.resolution, 1, noise_size=0, background=recipe.background)
    classes, found = classes_of(recipe), {}
    for name in SETS:
        data = getattr(images, name)
        if data is not None:
            shares = look_at(classifier, CellImages(data, spec))[1]
            labels = class_numbers(data, classes)
            found[name] = Predictions(labels, shares, tuple(_names(data)), tuple(whole_column(data, "group")))
    return found


def _names(data: Any) -> list[str]:
    """Names that differ: those of several folders of synthetic images are the same."""
    columns = (whole_column(data, name) for name in ("file_name", "pixel_sha256"))
    return [f"{name} ({hash_[:8]})" for name, hash_ in zip(*columns, strict=True)]
