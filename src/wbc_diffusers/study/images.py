"""The images of a study: those that judge the classifiers, and proof that nothing was trained on them."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wbc_diffusers.data.dataset import CellImages, DrawSpec
from wbc_diffusers.data.labelled import CLASS_COLUMN, class_numbers, load_labelled
from wbc_diffusers.data.loading import MissingSplitError, whole_column
from wbc_diffusers.data.manifest import MANIFEST_NAME, public_name
from wbc_diffusers.data.split import SPLITS, groups_on_two_sides
from wbc_diffusers.evaluation.leaks import find_leaks_among, known_images, read_manifest
from wbc_diffusers.generation import settings_of
from wbc_diffusers.sampling import check_maker
from wbc_diffusers.study.arms import Arm
from wbc_diffusers.study.config import GeneratedSet, StudyConfig
from wbc_diffusers.training.files import file_sha256
from wbc_diffusers.training.recipe import ClassifierRecipe
from wbc_diffusers.training.selection import classes_of, load_pool, load_real, load_synthetic, take_real

logger = logging.getLogger(__name__)


class LeakError(ValueError):
    """Images that are to judge were trained on, so that every figure would be worthless."""


@dataclass(frozen=True)
class StudyImages:
    """The images that judge, labelled.

    Attributes:
        test: Real images that no training sees.
        validation: Real images that choose the weights of each classifier, and its threshold.
        swap: Synthetic images that no training sees; None where there are none.
    """

    test: Any
    validation: Any
    swap: Any | None


def load_images(config: StudyConfig) -> StudyImages:
    """Load the images that judge."""
    recipe = _any_recipe(config)
    test, validation = (load_real(recipe, config.data, split) for split in ("test", "validation"))
    swap = load_pool(recipe, held_out=True) if config.sets and config.swap_images else None
    return StudyImages(test, validation, swap)


def check_images(config: StudyConfig) -> dict[str, Any]:
    """See, before any training, that nothing that judges was trained on, and that there are images enough.

    Returns:
        Numbers of images, and what each generator was trained on, as they go into the record.

    Raises:
        LeakError: If an image lies in two splits, a group does, or a generator, or a classifier that arms start from,
            was trained on one that judges.
        ValueError: If there are too few images for an arm, or a folder is not of the model that it is said to be.
        OSError: If a folder or a model is not there.
    """
    recipe = _any_recipe(config)
    splits = {split: _load_split(config, recipe, split) for split in SPLITS}
    _check_apart(splits)
    images = load_images(config)
    judges = {"test": images.test, "validation": images.validation}
    unknown_starts = _check_starts(config, judges)
    shared = _hashes_of_arms(config, splits["train"])
    seen = [_check_set(config, each, splits, judges, shared) for each in config.sets]
    synthetic = load_pool(recipe) if config.sets else None
    _check_pool(synthetic, images.swap)
    _see_all(config, splits["train"], [images.test, images.validation, images.swap, synthetic])
    pool = {} if synthetic is None else _counts(synthetic, recipe)
    for arm in config.all_arms():
        _check_counts(config, arm, splits["train"], pool)
    counts = {name: _counts(data, recipe) for name, data in judges.items()}
    for split, counted in counts.items():
        if missing := [name for name, count in counted.items() if not count]:
            raise ValueError(f"There is no image of {', '.join(missing)} in {split}: it needs some of each class.")
    return {"images": counts, "generators": seen, "unknown_starts": unknown_starts}


def fingerprints(config: StudyConfig) -> dict[str, str]:
    """What tells the images of a study, and the weights that it starts from, from others.

    Returns:
        Hashes of `real`, the real images with their classes; of `synthetic`, who made the synthetic ones; of `judges`,
        the names, groups and hashes of all that judge; of `pool`, the synthetic ones that a filter may choose from; and
        by arm of `taken` and `start`, those that it takes without a filter and the weights that it starts from.

    Raises:
        ValueError: If a folder of synthetic images tells nothing of its model.
    """
    recipe, images = _any_recipe(config), load_images(config)
    splits = {split: _load_split(config, recipe, split) for split in SPLITS}
    judges = [each for each in (images.test, images.validation, images.swap) if each is not None]
    content: dict[str, Any] = {
        "real": [[whole_column(data, name) for name in ("pixel_sha256", CLASS_COLUMN)] for data in splits.values()],
        "synthetic": [
            {name: told for name, told in (settings_of(Path(each.folder)) or {}).items() if name != "seeds"}
            for each in config.sets
        ],
        "judges": [[whole_column(data, name) for name in ("file_name", "group", "pixel_sha256")] for data in judges],
    }
    if config.sets:
        content["pool"] = whole_column(load_pool(recipe), "pixel_sha256")
    for arm in config.all_arms():
        recipes = config.recipes(arm, config.seeds[0], Path())
        if arm.synthetic and arm.filtered_by is None:
            content[f"taken {arm.name}"] = [_taken(each, splits["train"], config.data) for each in recipes]
        start = recipes[0].pretrained
        if start and Path(start).is_dir():
            content[f"start {arm.name}"] = [file_sha256(path) for path in sorted(Path(start).glob("*.safetensors"))]
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in content.items()}


def _taken(recipe: ClassifierRecipe, train: Any, source: str) -> list[str]:
    """The hashes of the synthetic images that a recipe without a filter adds to the real ones."""
    real = take_real(recipe, train, source, "train")
    counts = np.bincount(class_numbers(real, classes_of(recipe)), minlength=recipe.num_classes)
    synthetic, _ = load_synthetic(recipe, real, counts)
    return [] if synthetic is None else whole_column(synthetic, "pixel_sha256")


def _any_recipe(config: StudyConfig) -> ClassifierRecipe:
    """The recipe of the first arm, with all synthetic images that there are: what judges is the same for all."""
    recipe = config.recipes(config.all_arms()[0], config.seeds[0], Path())[-1]
    return replace(recipe, synthetic=[each.folder for each in config.sets], synthetic_held_out=config.swap_images)


def _load_split(config: StudyConfig, recipe: ClassifierRecipe, split: str) -> Any:
    try:
        return load_labelled(config.data, split, classes_of(recipe), where=recipe.where)
    except MissingSplitError as error:
        raise MissingSplitError(
            f"{error} A study needs all three: images to train on, to choose weights by, and to judge."
        ) from error


def _check_apart(splits: Mapping[str, Any]) -> None:
    """Raise LeakError if a group, or an image, lies in two splits."""
    pairs = [(group, split) for split, data in splits.items() for group in whole_column(data, "group") if group]
    if torn := groups_on_two_sides(pairs):
        group, sides = next(iter(torn.items()))
        raise LeakError(
            f"{len(torn)} groups lie in several splits, such as {group} in {' and '.join(sides)}: split the images by "
            "group with `wbc prepare`."
        )
    hashes = {split: set(whole_column(data, "pixel_sha256")) for split, data in splits.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if same := hashes[first] & hashes[second]:
            raise LeakError(
                f"{len(same)} images lie in {first} and in {second}: prepare the folder anew with --drop-duplicates."
            )


def _check_starts(config: StudyConfig, judges: Mapping[str, Any]) -> list[str]:
    """Raise LeakError if a classifier that an arm starts from was trained on an image that judges, by its manifest.

    Returns:
        The names of those that have no manifest, of which nobody can say it.
    """
    starts = {config.recipes(arm, config.seeds[0], Path())[0].pretrained for arm in config.all_arms()}
    unknown = []
    for start in sorted(filter(None, starts)):
        if not (Path(start) / MANIFEST_NAME).is_file():
            unknown.append(public_name(start))
            continue
        known = known_images(read_manifest(Path(start)))
        for split, data in judges.items():
            if same := known.intersection(whole_column(data, "pixel_sha256")):
                raise LeakError(
                    f"The classifier {start}, which arms start from, was trained on {len(same)} images that are to "
                    f"judge ({split}): start from another, or take these images out."
                )
    return unknown


def _check_set(
    config: StudyConfig,
    each: GeneratedSet,
    splits: Mapping[str, Any],
    judges: Mapping[str, Any],
    shared: AbstractSet[str],
) -> dict[str, Any]:
    """See that a folder is of its model, and that this was trained on no image that judges; what it was trained on.

    Args:
        config: The study.
        each: The folder and its model.
        splits: All real images by split.
        judges: Those that judge, by split.
        shared: Hashes of the real images that arms are trained on.
    """
    settings = settings_of(Path(each.folder))
    if settings is None:
        raise ValueError(f"{each.folder} is no folder of `wbc generate`, so nobody can say which model made it.")
    check_maker(Path(each.model), Path(each.folder), settings)
    manifest, near, unhashed = read_manifest(Path(each.model)), {}, 0
    for split, data in judges.items():
        images = partial(_image, data)
        names = [Path(name) for name in whole_column(data, "file_name")]
        found = find_leaks_among(names, whole_column(data, "pixel_sha256"), images, manifest)
        if found.exact:
            raise LeakError(
                f"{each.model} was trained on images that are to judge ({split}): {found.in_words} Train it on the "
                "training split alone, or take these images out."
            )
        if found.near and not config.allow_near:
            raise LeakError(
                f"{each.model} was trained on images that look like {len(found.near)} that are to judge ({split}), or "
                f"like one of them turned or flipped, such as {found.near[0].name}. If they are other cells, set "
                "allow_near true; if they are copies, take them out."
            )
        if found.near or found.hashed < found.known:
            logger.warning("%s, %s: %s See that none is a copy.", each.model, split, found.in_words)
        near[split] = len(found.near)
        unhashed = found.known - found.hashed  # of the model, whatever the split
    known = known_images(manifest)
    counts = {split: _known_of(data, known) for split, data in splits.items()}
    more = _known_of(splits["train"], known - shared)
    return {
        "folder": each.folder, "model": settings["model"], "revision": settings["revision"], "trained_on": counts,
        "more_than_arms": more, "unknown_start": _unknown_start(manifest),
        "images_known": len(known), "images_unhashed": unhashed, "near": near,
    }  # fmt: skip


def _unknown_start(manifest: Mapping[str, Any]) -> str | None:
    """The model without a manifest that a model was made from, by way of others or not; None where all are known."""
    first = [manifest, *manifest["parents"]][-1]
    start: str | None = first["recipe"].get("pretrained")
    return start


def _check_pool(pool: Any | None, held_out: Any | None) -> None:
    """Raise ValueError if a synthetic image is there twice, so that one that is held out may be trained on."""
    hashes = [h for data in (pool, held_out) if data is not None for h in whole_column(data, "pixel_sha256")]
    if twice := len(hashes) - len(set(hashes)):
        raise ValueError(
            f"{twice} synthetic images are there twice, as folders of one model and the same seeds have them: leave "
            "out one folder, or generate one anew with another --seed."
        )


def _see_all(config: StudyConfig, train: Any, others: Sequence[Any | None]) -> None:
    """Raise ValueError if an image that arms take of the training split, or another one, can't be looked at as they do.

    Args:
        config: The study.
        train: The training split.
        others: Images that judge, and synthetic ones.
    """
    looks: dict[Any, set[str]] = {}
    for arm in config.all_arms():
        for recipe in config.recipes(arm, config.seeds[0], Path()):
            taken = whole_column(take_real(recipe, train, config.data, "train"), "pixel_sha256")
            looks.setdefault((recipe.resolution, recipe.background), set()).update(taken)
    hashes = whole_column(train, "pixel_sha256")
    for (resolution, background), taken_so in looks.items():
        spec = DrawSpec(resolution, 1, noise_size=0, background=background)
        of_arms = train.select([place for place, hash_ in enumerate(hashes) if hash_ in taken_so])
        for data in (of_arms, *others):
            if data is not None:
                images = CellImages(data, spec)
                for index in range(len(images)):
                    images.pixels(index)


def _image(data: Any, index: int) -> Image.Image:
    image: Image.Image = data[index]["image"]
    return image


def _known_of(data: Any, known: AbstractSet[str]) -> dict[str, int]:
    """How many images of each class are among the known ones."""
    counts = dict.fromkeys(sorted(set(whole_column(data, CLASS_COLUMN))), 0)
    for hash_, name in zip(whole_column(data, "pixel_sha256"), whole_column(data, CLASS_COLUMN), strict=True):
        counts[name] += hash_ in known
    return counts


def _hashes_of_arms(config: StudyConfig, train: Any) -> set[str]:
    """Of the real images of the training split that arms take, but for those that take more for the dose-response."""
    found: set[str] = set()
    for arm in config.all_arms():
        if arm.more_real is None:
            for recipe in config.recipes(arm, config.seeds[0], Path()):
                found.update(whole_column(take_real(recipe, train, config.data, "train"), "pixel_sha256"))
    return found


def _check_counts(config: StudyConfig, arm: Arm, train: Any, pool: Mapping[str, int]) -> None:
    """Raise ValueError if there are too few images for an arm: of `train`, or synthetic ones of a class (`pool`)."""
    for recipe in config.recipes(arm, config.seeds[0], Path()):
        real = _counts(take_real(recipe, train, config.data, "train"), recipe)
        ratios = recipe.synthetic_ratio or [0.0] * recipe.num_classes
        for (name, count), ratio in zip(real.items(), ratios, strict=True):
            wanted, there = round(ratio * count), pool.get(name, 0)
            if not count * recipe.real_images + wanted:
                raise ValueError(f"The arm {arm.name} has no training image of class {name}: it needs some of each.")
            if wanted > there:
                raise ValueError(
                    f"The arm {arm.name} wants {wanted} synthetic images of class {name}, and there are {there} beside "
                    f"the {config.swap_images} held out: generate more, or lower its synthetic_ratio."
                )


def _counts(data: Any, recipe: ClassifierRecipe) -> dict[str, int]:
    classes = classes_of(recipe)
    counted = np.bincount(class_numbers(data, classes), minlength=recipe.num_classes)
    return {name: int(count) for name, count in zip(classes.names, counted, strict=True)}
