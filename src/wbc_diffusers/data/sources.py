"""List the images of a source, with what is known of each: a folder of classes, a folder with metadata, a data set."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from wbc_diffusers.data.check import read_file
from wbc_diffusers.data.labels import abnormality_name
from wbc_diffusers.data.split import split_name

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
_KNOWN_COLUMNS = ("split", "cell_type", "abnormality", "grade", "synthetic")
"""Columns that are found in any case: one that is overlooked would make other splits or labels without a word."""

_DOCUMENTS = {
    ".md", ".txt", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".html", ".pdf", ".py", ".xlsx",
    ".zip", ".gz", ".cff",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One image of a source: `name` as it is reported, its columns, its given split, and where its bytes are."""

    name: str
    fields: Mapping[str, str]
    split: str | None = None
    path: str | None = None
    index: tuple[str, int] | None = None
    """Split and row in `Source.tables`, for a data set."""


@dataclass
class Source:
    """All that a source holds: images to look at, files left out already with their reasons, and other files."""

    kind: str
    items: list[Item] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    """Name, reason (a key of `check.REASONS`) and detail."""
    other_files: list[str] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)
    image_column: str = "image"


def read_source(source: str | Path) -> Source:
    """List the images of a source without decoding any.

    Args:
        source: A folder of images by class, a folder with metadata.csv or metadata.jsonl (the imagefolder layout), a
            Parquet file or a folder of them, or the id of a data set on a hub.

    Raises:
        FileNotFoundError: For a path that does not exist.
        ValueError: For metadata that cannot be read, with its file and line.
    """
    path = Path(source)
    if path.is_dir():
        return _from_datasets(path) if holds_tables(path) else _from_folder(path)
    if path.is_file():
        if path.suffix == ".parquet":
            return _from_datasets(path)
        raise ValueError(f"source {str(source)!r} is a file: wanted a folder, a .parquet file or the id of a data set")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not str(source).startswith("."):
        return _from_datasets(str(source))
    raise FileNotFoundError(
        f"source {str(source)!r} does not exist: wanted a folder, a .parquet file or a data set's id"
    )


def read_bytes(item: Item, source_tables: Mapping[str, Any], image_column: str) -> bytes:
    """Read the bytes of one image's file; raises `RefusedImageError` where that cannot be done."""
    if item.index is None:
        return read_file(item.path or "")
    split, row = item.index
    value = source_tables[split][row][image_column]
    if isinstance(value, bytes):
        return value
    if value and value.get("bytes"):
        return bytes(value["bytes"])
    return read_file(value["path"]) if value and value.get("path") else b""


def shown(name: str | os.PathLike[str]) -> str:
    """Make a file name printable: bytes that are not UTF-8 become escapes such as \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def metadata_files(top: Path) -> list[Path]:
    """Give the metadata of a folder: its own, else those of its subfolders (splits, or sets that were put together)."""
    folders = [top, *sorted(entry for entry in top.iterdir() if entry.is_dir() and not entry.is_symlink())]
    found = [next((f / name for name in METADATA_FILES if (f / name).is_file()), None) for f in folders]
    return [found[0]] if found[0] else [path for path in found if path]


def holds_tables(folder: Path) -> bool:
    """Whether a folder is one of Parquet files: it holds some, and no metadata of image files."""
    return not metadata_files(folder) and any(folder.rglob("*.parquet"))


def _from_folder(top: Path) -> Source:
    metadata = metadata_files(top)
    source = Source("metadata" if metadata else "folders")
    files: dict[str, str] = {}
    for name, path in _walk(top, source):
        if Path(path) in metadata:
            continue
        if Path(name).suffix.lower() in _DOCUMENTS:
            source.other_files.append(shown(name))
        # Only a link leads out of the source: os.walk enters no folder that is linked.
        elif os.path.islink(path) and not _inside(path, top):  # noqa: PTH114 - names need not be UTF-8
            source.left_out.append((shown(name), "outside_source", "a link"))
        else:
            files[name] = path
    if metadata:
        _add_rows(source, top, metadata, files)
    else:
        source.items = [_item_of_folder(name, path) for name, path in files.items()]
    return source


def _walk(top: Path, source: Source) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in folders:
            path = os.path.join(folder, name)  # noqa: PTH118 - names need not be UTF-8
            if os.path.islink(path):  # noqa: PTH114 - likewise
                source.left_out.append((shown(os.path.relpath(path, top)), "linked_folder", ""))
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118 - likewise
            yield os.path.relpath(path, top).replace(os.sep, "/"), path


def _inside(path: str, top: Path) -> bool:
    real, real_top = os.path.realpath(path), os.path.realpath(top)
    return real.startswith(real_top.rstrip(os.sep) + os.sep)


def _item_of_folder(name: str, path: str) -> Item:
    """Label by the folder under the source, or under its split folder: an abnormality of neutrophils or a cell type."""
    parts = name.split("/")[:-1]
    split = split_name(parts[0]) if parts else None
    if split:
        parts = parts[1:]
    folder = shown(parts[0]) if parts else ""
    abnormality = abnormality_name(folder)
    fields = {"cell_type": "neutrophil" if abnormality else folder, "abnormality": abnormality or ""}
    return Item(shown(name), fields, split, path)


def _add_rows(source: Source, top: Path, metadata: list[Path], files: dict[str, str]) -> None:
    rows: dict[str, list[dict[str, str]]] = {}
    for table in metadata:
        prefix = table.parent.relative_to(top).as_posix()
        for row in _read_table(table):
            given = row.pop("file_name")
            name = os.path.normpath(os.path.join(prefix, given)).replace(os.sep, "/")  # noqa: PTH118 - likewise
            if name.startswith(("../", "/")) or name == "..":
                source.left_out.append((given, "outside_source", "a path in the metadata"))
                continue
            rows.setdefault(name, []).append(row)
    outside = {name for name, reason, _ in source.left_out if reason == "outside_source"}
    for name, same in rows.items():
        if any(row != same[0] for row in same):
            source.left_out.append((name, "conflicting_rows", f"{len(same)} rows"))
        elif name not in outside:
            source.left_out += [(name, "repeated_row", "")] * (len(same) - 1)
            path = files.get(name, str(top / name))
            if name not in files and _behind_a_link(name, top):
                source.left_out.append((name, "outside_source", "behind a linked folder"))
                continue
            source.items.append(_item_of_row(name, same[0], path))
    source.left_out += [(shown(name), "no_row", "") for name in files if name not in rows]
    source.items.sort(key=lambda item: item.name)


def _behind_a_link(name: str, top: Path) -> bool:
    """Whether a folder on the way to a file is a link; the source itself may be one."""
    return any((top / folder).is_symlink() for folder in Path(name).parents if folder.name)


def _item_of_row(name: str, row: Mapping[str, str], path: str) -> Item:
    """An image with the columns of its row; its folders tell the split and the abnormality where these do not."""
    folder = _item_of_folder(name, path)
    split = None if row.get("split", "").strip() else folder.split
    by_folder = folder.fields if folder.fields["abnormality"] and "abnormality" not in row else {}
    return Item(name, {**by_folder, **row}, split, path)


def _read_table(path: Path) -> Iterator[dict[str, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 text") from None
    lines = io.StringIO(text, newline="")  # unlike str.splitlines, it takes \v, U+2028 and their like for letters
    rows = _read_jsonl(path, lines) if path.suffix == ".jsonl" else _read_csv(path, lines)
    for line, row in rows:
        if not row.get("file_name", "").strip():
            raise ValueError(f"{path}, line {line}: no file_name")
        yield _with_known_names(row)


def _with_known_names(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The same columns, those that mean something here by their own names: `Split` is `split`."""
    names = {name: name.strip().lower() for name in columns}
    return {
        names[name] if names[name] in _KNOWN_COLUMNS and names[name] not in columns else name: value
        for name, value in columns.items()
    }


def _read_csv(path: Path, lines: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(lines, strict=True)
    last = 0
    try:
        header = list(reader.fieldnames or [])
        if "file_name" not in header or len(set(header)) < len(header):
            raise ValueError(
                f"{path}: the header is {header}; wanted different names parted by commas, one of them file_name"
            )
        last = reader.line_num
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path}, line {reader.line_num}: wanted {len(header)} fields like the header")
            last = reader.line_num
            yield last, dict(row)
    except csv.Error as error:
        raise ValueError(
            f"{path}, in the row that begins at line {last + 1}: {error}; is a quote left open, or not doubled?"
        ) from None


def _read_jsonl(path: Path, lines: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    for line, entry in enumerate(lines, start=1):
        if not entry.strip():
            continue
        try:
            values = json.loads(entry)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {line}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f'{path}, line {line}: wanted an object such as {{"file_name": ...}}')
        row = {key: _text(value) for key, value in values.items()}
        try:
            "".join([*row, *row.values()]).encode()
        except UnicodeEncodeError as error:
            letter = error.object[error.start]
            raise ValueError(f"{path}, line {line}: {letter!a} is half a character; write the whole one") from None
        yield line, row


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _from_datasets(source: str | Path) -> Source:
    """List the images of a Parquet file, a folder of them, or a data set of a hub, through `datasets`."""
    import datasets

    builder, options = table_builder(source)
    with telling_unreachable(source) if builder == source else nullcontext():
        loaded = datasets.load_dataset(builder, **options)
    column = image_column(next(iter(loaded.values())).features, source)
    result = Source("dataset", image_column=column)
    known = {name: split_name(name) for name in loaded}
    for name, table in loaded.items():
        result.tables[name] = table.cast_column(column, datasets.Image(decode=False))
        texts = _columns(table, column)
        paths = _paths(result.tables[name], column)
        for row in range(len(table)):
            fields = {key: values[row] for key, values in texts.items()}
            # Files of which nothing says another split are those of train.
            split = None if len(loaded) == 1 and known[name] in (None, "train") else known[name] or name
            result.items.append(Item(f"{name}/{paths[row] or row}", fields, split, index=(name, row)))
    return result


def table_builder(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Give the builder of `datasets` that reads Parquet files or, by its id, a data set of a hub, and its options.

    A Parquet file belongs to the split that a word of its path names, to train where none does.
    """
    path = Path(source)
    if not path.exists():
        return str(source), {}
    files: dict[str, list[str]] = {}
    for file in sorted(path.rglob("*.parquet")) if path.is_dir() else [path]:
        words = re.split("[^A-Za-z]+", file.relative_to(path).as_posix())
        split = next(filter(None, map(split_name, words)), "train")
        files.setdefault(split, []).append(str(file))
    return "parquet", {"data_files": files}


@contextmanager
def telling_unreachable(source: str | Path) -> Iterator[None]:
    """Say that neither a folder nor a data set of a name was found: a mistyped folder looks like a data set's id."""
    try:
        yield
    except (ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"There is no folder {source}, and no data set of that id was reached: {error}"
        ) from error


def image_column(features: Mapping[str, Any], source: str | Path) -> str:
    """Give the name of the column of images among the features of a data set."""
    for name, feature in features.items():
        kind = type(feature).__name__
        if kind == "Image" or (isinstance(feature, dict) and "bytes" in feature):
            return str(name)
    for name in ("image", "bytes", "png", "jpg"):
        if getattr(features.get(name), "dtype", "") in ("binary", "large_binary"):
            return name
    raise ValueError(f"data set {str(source)!r} has no column of images; it has {', '.join(features)}")


def _columns(table: Any, image_column: str) -> dict[str, list[str]]:
    """Give all other columns as texts; classes by name, as `cell_type` or `abnormality` where they are the label."""
    result: dict[str, list[str]] = {}
    for name, feature in table.features.items():
        if name == image_column:
            continue
        values = table[name]
        if hasattr(feature, "int2str"):
            result[name] = [feature.int2str(v) if v is not None and v >= 0 else "" for v in values]
        else:
            result[name] = [_text(value) for value in values]
    result = _with_known_names(result)
    if "label" in result and "cell_type" not in result:
        named = [abnormality_name(value) for value in result["label"]]
        result["cell_type"] = ["neutrophil" if a else v for a, v in zip(named, result["label"], strict=True)]
        if any(named) and "abnormality" not in result:
            result["abnormality"] = [a or "" for a in named]
    return result


def _paths(table: Any, column: str) -> list[str]:
    """Give the file names of a column of images, empty where there are none, without reading the images."""
    names = table.data.column(column).combine_chunks()
    if "path" not in {part.name for part in names.type}:
        return [""] * len(table)
    paths = names.field("path").to_pylist()
    return [Path(path).name if path else "" for path in paths]
