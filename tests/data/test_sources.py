"""What a source is taken for, and which of its files are images to look at."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image

from wbc_diffusers.data.sources import read_bytes, read_source, shown

ImageFolder = Callable[..., Path]


def test_folders_give_split_type_and_abnormality_at_any_depth(image_folder: ImageFolder) -> None:
    names = ["train/none/a.png", "Val/eosinophil/x/y/b.png", "train/c.png", "test/Döhle bodies/d.png"]
    source = read_source(image_folder(names))
    assert source.kind == "folders"
    seen = {i.name: (i.split, i.fields["cell_type"], i.fields["abnormality"]) for i in source.items}
    assert seen == {
        "train/none/a.png": ("train", "neutrophil", "none"),
        "Val/eosinophil/x/y/b.png": ("validation", "eosinophil", ""),
        "train/c.png": ("train", "", ""),
        "test/Döhle bodies/d.png": ("test", "neutrophil", "dohle_bodies"),
    }


def test_documents_are_set_aside_and_unknown_files_looked_at(image_folder: ImageFolder) -> None:
    top = image_folder(["a/0.png"])
    for name in ("README.md", "a/notes.TXT", "a/Thumbs.db"):
        (top / name).write_text("x")
    source = read_source(top)
    assert sorted(source.other_files) == ["README.md", "a/notes.TXT"]
    assert [item.name for item in source.items] == ["a/0.png", "a/Thumbs.db"]


def test_metadata_of_several_folders_is_put_together(image_folder: ImageFolder) -> None:
    top = image_folder([{"file_name": "0.png", "lab": "A"}], "labs")
    (top / "0.png").rename(top / "1.png")
    for lab in ("A", "B"):
        (top / lab).mkdir()
        (top / lab / "0.png").write_bytes((top / "1.png").read_bytes())
        (top / lab / "metadata.csv").write_text(f"\ufefffile_name,lab\n0.png,{lab}\n", encoding="utf-8")
    (top / "metadata.csv").unlink()
    source = read_source(top)
    assert {item.name: item.fields["lab"] for item in source.items} == {"A/0.png": "A", "B/0.png": "B"}
    assert source.left_out == [("1.png", "no_row", "")]


def test_folders_tell_what_metadata_above_them_does_not(image_folder: ImageFolder) -> None:
    names = ["train/a.png", "test/b.png", "hypersegmentation/c.png", "val/Döhle bodies/d.png", "images/e.png"]
    top = image_folder([{"file_name": name, "patient": "P1"} for name in names])
    seen = {i.name: (i.split, i.fields.get("abnormality"), i.fields["patient"]) for i in read_source(top).items}
    assert seen == {
        "train/a.png": ("train", None, "P1"),
        "test/b.png": ("test", None, "P1"),
        "hypersegmentation/c.png": (None, "hypersegmentation", "P1"),
        "val/Döhle bodies/d.png": ("validation", "dohle_bodies", "P1"),
        "images/e.png": (None, None, "P1"),
    }


def test_columns_of_metadata_outdo_the_folders_in_any_case(image_folder: ImageFolder) -> None:
    row = {
        "file_name": "train/none/a.png",
        "Split": "test",
        " ABNORMALITY": "dohle_bodies",
        "Cell_Type": "band",
        "X": "",
    }
    (item,) = read_source(image_folder([row])).items
    fields = {"split": "test", "abnormality": "dohle_bodies", "cell_type": "band", "X": ""}
    assert (item.split, item.fields) == (None, fields)


@pytest.mark.parametrize(
    ("file", "split"), [("test", "test"), ("Validation", "validation"), ("train", None), ("x", None)]
)
def test_a_table_that_is_called_a_split_is_one_also_alone(tmp_path: Path, file: str, split: str | None) -> None:
    rows = {"image": [Image.new("RGB", (16, 16))], "Grade": [1], "Abnormality": ["dohle_bodies"]}
    datasets.Dataset.from_dict(rows, datasets.Features(
        {"image": datasets.Image(), "Grade": datasets.Value("int64"), "Abnormality": datasets.Value("string")}
    )).to_parquet(tmp_path / f"{file}-00000.parquet")  # fmt: skip
    (item,) = read_source(tmp_path).items
    assert (item.split, item.fields) == (split, {"grade": "1", "abnormality": "dohle_bodies"})


def test_metadata_leads_through_no_link(image_folder: ImageFolder, tmp_path: Path) -> None:
    away = image_folder(["p/0.png"], "away")
    (away / "p" / "metadata.csv").write_text("file_name\n0.png\n")
    top = image_folder([{"file_name": "a.png"}])
    (top / "x").symlink_to(away / "p", target_is_directory=True)
    (top / "metadata.csv").write_text("file_name\na.png\nx/0.png\nb.png\n")
    source = read_source(top)
    assert [item.name for item in source.items] == ["a.png", "b.png"]  # the last is told as missing when it is read
    assert ("x/0.png", "outside_source", "behind a linked folder") in source.left_out
    (top / "metadata.csv").unlink()
    assert [item.name for item in read_source(top).items] == ["a.png"]


def test_linked_folders_are_listed_and_not_followed(image_folder: ImageFolder) -> None:
    top = image_folder(["a/0.png"])
    (top / "loop").symlink_to(top, target_is_directory=True)
    source = read_source(top)
    assert source.left_out == [("loop", "linked_folder", "")]
    assert len(source.items) == 1


def test_bytes_are_those_of_the_file(image_folder: ImageFolder) -> None:
    top = image_folder(["a/0.png"])
    assert read_bytes(read_source(top).items[0], {}, "image") == (top / "a" / "0.png").read_bytes()


def test_what_is_no_source_is_refused_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    with pytest.raises(ValueError, match=r"is a file: wanted a folder, a \.parquet file"):
        read_source(tmp_path / "a.zip")
    with pytest.raises(FileNotFoundError, match="does not exist: wanted a folder"):
        read_source(tmp_path / "no" / "such" / "folder")
    with pytest.raises(FileNotFoundError, match="does not exist: wanted a folder"):
        read_source("cels")  # a data set's id has a slash
    with pytest.raises(FileNotFoundError, match="There is no folder data/cels, and no data set of that id was reached"):
        read_source("data/cels")


def test_names_that_are_not_utf8_are_shown_as_escapes() -> None:
    assert shown("caf\udce9.png") == "caf\\xe9.png"


ODD = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei"  # str.splitlines ends lines at each of these


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lines_of_metadata_end_where_csv_and_json_say(tmp_path: Path, kind: str, end: str) -> None:
    odd = ODD if kind == "csv" else ODD[:6]  # JSON allows no control characters
    lines = ["file_name,note", f"0.png,{odd}", "1.png,x"]
    if kind == "jsonl":
        lines = [f'{{"file_name": "0.png", "note": "{odd}"}}', '{"file_name": "1.png", "note": "x"}']
    (tmp_path / f"metadata.{kind}").write_bytes((end.join(lines) + end).encode())
    assert [item.fields["note"] for item in read_source(tmp_path).items] == [odd, "x"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("csv", 'file_name,a\n0.png,x\n\n1.png,"y\n2.png,z\n', r"row that begins at line 3: .*end of data; is a quote"),
        ("csv", 'file_name,a\n0.png,x\n1.png,"5" lens"\n', r"row that begins at line 3: ',' expected after '\"'"),
        ("csv", f"file_name,a\n0.png,{'x' * 140_000}\n", r"row that begins at line 2: field larger than field limit"),
        ("csv", '"file_name,a\n0.png,x\n', r"row that begins at line 1: unexpected end of data"),
        ("jsonl", '{"file_name": "0.png"}\n{"file_name": "\\ud800.png"}\n', r"line 2: '\\ud800' is half a character"),
        ("jsonl", '{"file_name": "0.png", "a": [{"b": "\\udce9"}]}\n', r"line 1: '\\udce9' is half a character"),
    ],
)
def test_metadata_that_is_no_csv_or_no_text_is_refused_by_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / f"metadata.{name}").write_text(text)
    with pytest.raises(ValueError, match=rf"metadata\.{name}, .*{message}"):
        read_source(tmp_path)
