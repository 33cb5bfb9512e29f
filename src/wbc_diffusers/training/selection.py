"""The images that a classifier is trained on: real ones, and synthetic ones that pass a filter."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wbc_diffusers.classifier import Classifier, probabilities
from wbc_diffusers.data.dataset import CellImages, DrawSpec
from wbc_diffusers.data.labelled import Classes, class_numbers, load_labelled, take
from wbc_diffusers.data.loading import whole_column
from wbc_diffusers.generation import settings_of
from wbc_diffusers.training.recipe import ClassifierRecipe

CONFIDENCE, SIMILARITY = 0.5, 0.05
"""What the filter asks for by default: a probability of the image's class, and a quantile of real images' likeness."""
_BATCH = 64


def classes_of(recipe: ClassifierRecipe) -> Classes:
    """The classes that a recipe tells apart."""
    return Classes(recipe.abnormality, recipe.grades)


def load_real(recipe: ClassifierRecipe, source: str, split: str) -> Any:
    """The real images of a split with their classes, as many as the recipe wants of each.

    Raises:
        MissingSplitError: If there is no such split.
        ValueError: If there are too few, or one has no class.
    """
    return take_real(recipe, load_labelled(source, split, classes_of(recipe), where=recipe.where), source, split)


def take_real(recipe: ClassifierRecipe, data: Any, source: str, split: str) -> Any:
    """As many real images of each class as the recipe wants of a split, of all its images, labelled.

    Raises:
        ValueError: If there are too few.
    """
    wanted = recipe.sizes.get(split) or [None] * recipe.num_classes
    counts = [None if n is None else recipe.scaled(n) for n in wanted]
    return take(data, classes_of(recipe), counts, "pixel_sha256", f"images of {split} in {source}")


def load_synthetic(
    recipe: ClassifierRecipe, real: Any, real_counts: NDArray[np.int64]
) -> tuple[Any | None, dict[str, dict[str, int]]]:
    """The synthetic images that a recipe adds to real ones, and how many of each class were wanted, passed and taken.

    Of each class these are the first by seed that pass the filter; without a filter all pass.

    Args:
        recipe: The recipe.
        real: The real training images, labelled.
        real_counts: How many of them each class has.

    Raises:
        ValueError: If there are fewer synthetic images than wanted, or none passes the filter.
    """
    classes = classes_of(recipe)
    wanted = [
        round(r * n) for r, n in zip(recipe.synthetic_ratio or [0.0] * recipe.num_classes, real_counts, strict=True)
    ]
    told = {name: {"wanted": n, "passed": 0, "taken": 0} for name, n in zip(classes.names, wanted, strict=True)}
    if not any(wanted):
        return None, told
    pool = load_pool(recipe)
    numbers = class_numbers(pool, classes)
    there = np.bincount(numbers, minlength=len(wanted))
    for name, need, count in zip(classes.names, wanted, there, strict=True):
        if need > count:
            raise ValueError(f"{need} synthetic images of class {name} are wanted, and there are {count}: make more.")
    kept = np.array(wanted)[numbers] > 0
    if recipe.synthetic_filter:
        kept[kept] = passes(recipe, pool.select(np.flatnonzero(kept)), real, classes)
    passed = np.bincount(numbers[kept], minlength=len(wanted))
    taken = [min(need, int(count)) for need, count in zip(wanted, passed, strict=True)]
    for name, need, passing, count in zip(classes.names, wanted, passed, taken, strict=True):
        told[name] |= {"passed": int(passing), "taken": count}
        if need and not count:
            raise ValueError(f"No synthetic image of class {name} passes the filter: ask for less, or mend the model.")
    return take(pool.select(np.flatnonzero(kept)), classes, taken, "file_name", "synthetic images"), told


def load_pool(recipe: ClassifierRecipe, *, held_out: bool = False) -> Any:
    """The images of the recipe's synthetic folders that may be taken, or those held out, labelled.

    Raises:
        ValueError: If nobody knows what a folder's images show.
    """
    import datasets

    classes, parts = classes_of(recipe), []
    for folder in recipe.synthetic:
        settings = settings_of(Path(folder)) or {}
        if not (shown := settings.get("abnormality", "none")):
            raise ValueError(
                f"The model of the cells in {folder} was trained without a word on their abnormality, so that their "
                "class is unknown: train it with a `where` that names it, such as {abnormality: none} for normal cells."
            )
        if recipe.grades == "apart" and shown == recipe.abnormality and not settings.get("grade"):
            raise ValueError(
                f"The model of the cells in {folder} was trained on {shown} of every grade, so that theirs is unknown: "
                "train one of each grade, by a `where` that names it, or set grades merged."
            )
        data = load_labelled(folder, "train", classes, generated=True)
        names, numbers = np.array(whole_column(data, "file_name")), class_numbers(data, classes)
        order = np.argsort(names, kind="stable")
        for number in np.unique(numbers):
            places = order[numbers[order] == number]
            border = max(0, len(places) - recipe.synthetic_held_out)
            parts.append(data.select(places[border:] if held_out else places[:border]))
    return datasets.concatenate_datasets(parts)


def passes(recipe: ClassifierRecipe, pool: Any, real: Any, classes: Classes) -> NDArray[np.bool_]:
    """Whether each image (N,) of a pool is one of its class by a classifier's confidence, and like the real ones.

    The likeness of an image is the cosine between its features and those of the nearest real training image of its
    class. It must reach a low quantile of what real images have among themselves; null asks for none.
    """
    wanted = {"confidence": CONFIDENCE, "similarity": SIMILARITY, **recipe.synthetic_filter}
    judge = Classifier.from_pretrained(Path(wanted["classifier"]))
    if judge.class_names != classes.names:
        raise ValueError(
            f"The filter's classifier {wanted['classifier']} tells {', '.join(judge.class_names)} apart, and the "
            f"recipe {', '.join(classes.names)}: give one of the same classes."
        )
    if torch.cuda.is_available():
        judge.to("cuda")
    spec = DrawSpec(judge.resolution, 1, noise_size=0, background=recipe.background)
    of_pool, shares = look_at(judge, CellImages(pool, spec))
    of_real, _ = look_at(judge, CellImages(real, spec))
    labels, real_labels = class_numbers(pool, classes), class_numbers(real, classes)
    confident = shares[np.arange(len(labels)), labels] >= wanted["confidence"]
    like = np.zeros(len(labels), dtype=bool)
    for number in np.unique(labels):
        members, others = of_real[real_labels == number], of_pool[labels == number]
        if wanted["similarity"] is None or len(members) < 2:
            like[labels == number] = True
            continue
        among = members @ members.T
        np.fill_diagonal(among, -1.0)
        bound = np.quantile(among.max(1), wanted["similarity"])
        like[labels == number] = (others @ members.T).max(1) >= bound
    return confident & like


@torch.no_grad()
def look_at(classifier: Classifier, images: CellImages) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Features (N, D), each of length 1, and probabilities (N, C) that a classifier gives to images as they are."""
    classifier.eval()
    device = next(classifier.parameters()).device
    features, shares = [], []
    for first in range(0, len(images), _BATCH):
        places = range(first, min(first + _BATCH, len(images)))
        sample = torch.stack([images[0, index]["image"] for index in places]).to(device)
        feature, logits = classifier.features_and_logits(sample)
        features.append(torch.nn.functional.normalize(feature, dim=1).cpu().numpy())
        shares.append(probabilities(logits).cpu().numpy())
    return np.concatenate(features), np.concatenate(shares)
