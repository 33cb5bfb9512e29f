"""Images with their class for a classifier: normal or abnormal, real or synthetic, as many of each as are wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.data.dataset import hashes_of
from wbc_diffusers.data.labels import abnormality_name
from wbc_diffusers.data.loading import column_values, load_cells, whole_column

CLASS_COLUMN = "class"
COLUMNS = ("image", "file_name", "pixel_sha256", "group", CLASS_COLUMN, "synthetic")
"""What every labelled image has, whatever it came from."""


@dataclass(frozen=True)
class Classes:
    """The classes of an abnormality: cells without it are normal, its grades are one class or two."""

    abnormality: str
    grades: Literal["merged", "apart"] = "merged"

    @property
    def names(self) -> list[str]:
        """The names of the classes, by number."""
        if self.grades == "merged":
            return ["normal", self.abnormality]
        return ["normal", f"{self.abnormality} 1", f"{self.abnormality} 2"]

    def number(self, abnormality: str, grade: int) -> int:
        """The class of a cell."""
        if abnormality != self.abnormality:
            return 0
        return 1 if self.grades == "merged" else grade


def load_labelled(source: str, split: str, classes: Classes, *, generated: bool = False, **options: Any) -> Any:
    """Load a split of images with their classes, as a `datasets` object with the columns `COLUMNS`.

    Args:
        source: A folder of images, of Parquet files, or a dataset's id.
        split: "train", "validation" or "test".
        classes: What the classes are.
        generated: Whether the images are to be those of a trained model.
        options: Options of `load_cells`.

    Raises:
        ValueError: If an image has no label; if real images are marked as made by a trained model; if generated ones
            say nothing of that.
    """
    import datasets

    data = load_cells(source, split, may_be_generated=generated, **options)
    columns = data.column_names
    for column in ("abnormality", "grade"):
        if column not in columns:
            raise ValueError(f"{source} has no column {column!r}, so that its classes are unknown: label it first.")
    if generated and set(_texts(data, "synthetic", "")) - {"true", "True"}:
        raise ValueError(f"{source} holds images that are not marked as synthetic: give a folder of `wbc generate`.")
    names = _texts(data, "file_name", None)
    numbers = [
        _class_of(classes, abnormality, grade, f"{source}, image {name}")
        for abnormality, grade, name in zip(
            _texts(data, "abnormality", ""), _texts(data, "grade", ""), names, strict=True
        )
    ]
    own = {
        "file_name": names,
        "pixel_sha256": hashes_of(data, may_be_generated=generated),
        "group": [""] * len(data) if generated else _texts(data, "group", ""),
        CLASS_COLUMN: [classes.names[number] for number in numbers],
        "synthetic": [generated] * len(data),
    }
    images = data.select_columns(["image"])
    return datasets.concatenate_datasets([images, datasets.Dataset.from_dict(own)], axis=1)


def _texts(data: Any, column: str, missing: str | None) -> list[str]:
    """A column as texts; where there is none, a text for all rows, or the rows' numbers."""
    if column in data.column_names:
        return ["" if value is None else str(value).strip() for value in column_values(data, column)]
    return [f"number {i}" if missing is None else missing for i in range(len(data))]


def _class_of(classes: Classes, abnormality: str, grade: str, place: str) -> int:
    if not abnormality:
        raise ValueError(f"{place}, has no abnormality, not even none: label it, or leave it out by `where`.")
    abnormality = abnormality_name(abnormality) or abnormality
    if abnormality == classes.abnormality and grade not in ("1", "2"):
        raise ValueError(f"{place}, has {abnormality} of grade {grade or 'unknown'}; it must be 1 or 2.")
    return classes.number(abnormality, int(grade or 0))


def class_numbers(data: Any, classes: Classes) -> NDArray[np.int64]:
    """The class (N,) of each labelled image."""
    return np.array([classes.names.index(name) for name in whole_column(data, CLASS_COLUMN)], np.int64)


def take(data: Any, classes: Classes, counts: Sequence[int | None], by: str, what: str) -> Any:
    """The first images of each class in the order of a column, in that order.

    By their pixels' hash these are as good as drawn at random, the same ones in every run, and fewer are always among
    more; by the file's name, which is the seed, those that were generated first.

    Args:
        data: Labelled images.
        classes: What the classes are.
        counts: How many of each class; None for all.
        by: The column.
        what: The images in words, for errors.

    Raises:
        ValueError: If there are fewer.
    """
    numbers, keys = class_numbers(data, classes), np.array(whole_column(data, by))
    chosen = []
    for number, count in enumerate(counts):
        places = np.flatnonzero(numbers == number)
        places = places[np.argsort(keys[places], kind="stable")]
        if count is not None and count > len(places):
            raise ValueError(
                f"{count} {what} of class {classes.names[number]} are wanted, and there are {len(places)}: take fewer, "
                "or bring more."
            )
        chosen.append(places[:count])
    return data.select(np.concatenate(chosen))


def oversample(data: Any, classes: Classes) -> Any:
    """Repeat the images of the rarer classes, each as often as the others to one, until all classes count alike."""
    numbers = class_numbers(data, classes)
    places = [np.flatnonzero(numbers == number) for number in range(len(classes.names))]
    most = max(map(len, places))
    return data.select(np.concatenate([np.resize(each, most) for each in places if len(each)]))
