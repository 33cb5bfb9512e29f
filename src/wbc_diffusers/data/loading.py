"""Load a split of any folder of images, Parquet files, hub dataset or stream as a `datasets` object."""

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wbc_diffusers.data.check import RefusedImageError, check_image, check_origin, read_file
from wbc_diffusers.data.labels import label_of
from wbc_diffusers.data.origin import says_synthetic
from wbc_diffusers.data.sources import (
    Item,
    holds_tables,
    image_column,
    read_source,
    table_builder,
    telling_unreachable,
)
from wbc_diffusers.data.split import split_name

logger = logging.getLogger(__name__)


class MissingSplitError(ValueError):
    """A source has no split of the wanted name, or none of its images there is wanted."""


def load_cells(
    source: str,
    split: str,
    *,
    where: Mapping[str, Any] | None = None,
    streaming: bool = False,
    may_be_generated: bool = False,
) -> Any:
    """Load a split of a folder of images, of Parquet files, or of a hub dataset, as a `datasets` object.

    A folder of images is read as `wbc prepare` reads it: splits are folders or a column `split`, labels are columns or
    folders. Its columns are texts, but `grade` is a whole number where every row has one.

    Args:
        source: A folder (a prepared one, any imagefolder, or one of Parquet files), a Parquet file, or a dataset's id.
        split: "train", "validation" or "test".
        where: Column values that a row must have, such as `{"abnormality": "hypersegmentation", "grade": 2}`. A number
            is compared as a number also where the column holds texts, a class by its name.
        streaming: Whether rows are read as they come, instead of by index.
        may_be_generated: Whether images of a trained model are taken too, as a classifier takes them.

    Raises:
        FileNotFoundError: If there is no such folder, it holds no images, or one that its metadata names is missing.
        MissingSplitError: If there is no such split, or no row of it remains.
        ValueError: If a column of `where` is missing, or rows are marked as made by a trained model.
    """
    folder = Path(source)
    in_files = folder.is_dir() and not holds_tables(folder)
    if in_files:
        data = _read_images(folder, split, may_be_generated)
    else:
        data = _read_table(source, split, streaming, may_be_generated)
    features = data.features
    for column in where or ():
        if column not in features:
            raise ValueError(f"{source} has no column {column!r} to choose by; it has {', '.join(features)}.")
    if in_files or not streaming:
        whole, keep = data, np.ones(len(data), dtype=bool)
        for column, wanted in (where or {}).items():
            keep &= np.array([_is(value, wanted) for value in column_values(data, column)], dtype=bool)
        data = data.select(np.flatnonzero(keep))
        if not len(data):
            raise MissingSplitError(f"Split {split} of {source} holds no image{_wanted(whole, where or {})}.")
        # As many shards as can be dealt out to the usual numbers of processes.
        return data.to_iterable_dataset(num_shards=min(64, len(data))) if streaming else data
    if where:
        names = list(where)
        kept = data.filter(
            lambda *row: all(_is(_value(v, features[c]), where[c]) for c, v in zip(names, row, strict=True)),
            input_columns=names,
        )
        data = kept.cast_column("image", features["image"])  # datasets 4.0 forgets it
    return data


def _wanted(data: Any, where: Mapping[str, Any], most: int = 8) -> str:
    """What was wanted of some columns, and what they hold."""
    if not where:
        return ""
    held = []
    for column in where:
        counts = Counter(str(value) for value in column_values(data, column)).most_common(most)
        held.append(f"{column} {', '.join(f'{value} ({count})' for value, count in counts)}")
    words = ", ".join(f"{column}={value}" for column, value in where.items())
    return f" with {words}; it holds {'; '.join(held)}"


def _read_images(folder: Path, split: str, may_be_generated: bool) -> Any:
    """A split of a folder of image files, by its metadata or the names of its folders."""
    import datasets

    listed = read_source(folder)
    known = Image.registered_extensions()
    images = [item for item in listed.items if Path(item.path or "").suffix.lower() in known]
    if not images:
        linked = [name for name, reason, _ in listed.left_out if reason == "linked_folder"]
        advice = f"; links to folders, such as {linked[0]}, are not followed" if linked else ""
        raise FileNotFoundError(
            f"{folder} holds no images{advice}. Prepare a folder with `wbc prepare SRC --out {folder}`."
        )
    unused = len(listed.items) - len(images) + len(listed.left_out)
    if unused:
        logger.warning("%d files of %s are not used; `wbc prepare` lists them with the reasons.", unused, folder)
    splits = [_split_of(item) for item in images]
    chosen = [item for item, name in zip(images, splits, strict=True) if name == split]
    if not chosen:
        there = ", ".join(sorted({str(name) for name in splits}))
        raise MissingSplitError(f"{folder} has no split {split!r}; it has {there}.")
    missing = [item.name for item in chosen if not Path(item.path or "").is_file()]
    if missing:
        raise FileNotFoundError(
            f"The metadata of {folder} names {len(missing)} images that are not there, such as {missing[0]}."
        )
    rows = [_labelled(item) for item in chosen]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("image", "file_name")]
    columns: dict[str, list[Any]] = {name: [row.get(name, "") for row in rows] for name in names}
    types: dict[str, Any] = {name: datasets.Value("string") for name in columns}
    if all(grade.strip().isdecimal() for grade in columns["grade"]):
        columns["grade"], types["grade"] = [int(grade) for grade in columns["grade"]], datasets.Value("int64")
    for item, row in zip(chosen, rows, strict=True):
        if says_synthetic(row) and not may_be_generated:
            check_origin(row, check_image(read_file(item.path or ""), 1), item.name)
    paths = [str(Path(item.path or "").absolute()) for item in chosen]
    files = {"image": paths, "file_name": [item.name for item in chosen]}
    features = {"image": datasets.Image(), "file_name": datasets.Value("string"), **types}
    return datasets.Dataset.from_dict(files | columns, features=datasets.Features(features))


def _split_of(item: Item) -> str | None:
    word = item.split or item.fields.get("split", "").strip()
    return split_name(word) if word else "train"


def _labelled(item: Item) -> dict[str, str]:
    """The columns of an image, with abnormality and grade as `wbc prepare` would give them where there is no grade."""
    fields = {"abnormality": "", "grade": "", **item.fields}
    if not fields["grade"].strip():
        # Abnormalities of other names are none of ours: `wbc prepare` refuses them, a training without `where` may not.
        with contextlib.suppress(ValueError):
            label = label_of(fields, (), item.name)
            fields |= {"abnormality": label.abnormality, "grade": str(label.grade)}
    return fields


def _read_table(source: str, split: str, streaming: bool, may_be_generated: bool) -> Any:
    """A split of Parquet files or of a hub dataset, its images in the column `image`."""
    import datasets

    names_a_path = Path(source).is_absolute() or source.startswith(".") or source.count("/") != 1
    if names_a_path and not Path(source).exists():
        raise FileNotFoundError(f"There is no folder {source}. Prepare one with `wbc prepare SRC --out {source}`.")
    builder, options = table_builder(source)
    try:
        with telling_unreachable(source) if builder == source else contextlib.nullcontext():
            data = datasets.load_dataset(builder, **options, split=split, streaming=streaming)
    except ValueError as error:
        if "split" not in str(error):
            raise
        raise MissingSplitError(f"{source} has no split {split!r}: {error}") from error
    if data.features is None:  # a stream whose files don't tell their columns ahead
        data = data._resolve_features()
    column = image_column(data.features, source)
    if column != "image":
        data = data.rename_column(column, "image")
    data = data.cast_column("image", datasets.Image())
    if may_be_generated:
        return data
    if "synthetic" in data.features and streaming:
        return data.filter(_of_no_model, input_columns="synthetic")
    if "synthetic" in data.features:
        all(map(_of_no_model, whole_column(data, "synthetic")))
    return data


def _of_no_model(synthetic: Any) -> bool:
    if says_synthetic({"synthetic": str(synthetic)}):
        raise RefusedImageError("generated", "a row has synthetic = true")
    return True


def column_values(data: Any, column: str) -> list[Any]:
    """Give the values of a column of a `datasets` object, classes by name."""
    feature = data.features[column]
    return [_value(value, feature) for value in whole_column(data, column)]


def whole_column(data: Any, column: str) -> list[Any]:
    """Give a column of a `datasets.Dataset` as a list: at once, as one row after the other takes ten times as long."""
    return list(data[column][:])


def _value(value: Any, feature: Any) -> Any:
    """A value as people write it: classes by name."""
    if hasattr(feature, "int2str"):
        return feature.int2str(value) if value is not None and value >= 0 else ""
    return value


def _is(value: Any, wanted: Any) -> bool:
    """Whether a column's value is the wanted one: numbers as numbers, all else as texts; None is the empty text."""
    text = "" if value is None else str(value).strip()
    if isinstance(wanted, bool):
        return text.lower() == str(wanted).lower()
    if isinstance(wanted, int | float):
        try:
            return float(text) == wanted
        except ValueError:
            return False
    return text == ("" if wanted is None else str(wanted).strip())
