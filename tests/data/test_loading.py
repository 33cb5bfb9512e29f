"""Any folder, Parquet file or stream becomes training data: its splits, labels and filters, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from datasets.table import embed_table_storage
from PIL import Image

from wbc_diffusers.data.dataset import CellImages, DrawSpec
from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.loading import MissingSplitError, load_cells
from wbc_diffusers.data.sources import read_source

ImageFolder = Callable[..., Path]
SEVERE = {"abnormality": "hypersegmentation", "grade": 2}


@pytest.fixture
def labelled(image_folder: ImageFolder) -> datasets.Dataset:
    """Give nine images of three classes, the class as `datasets` keeps it: a number with a name."""
    top = image_folder([f"{c}/{i}.png" for c in ("basophil", "eosinophil", "neutrophil") for i in range(3)], "classes")
    data = datasets.load_dataset("imagefolder", data_dir=str(top), split="train")
    return (
        data.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    )  # the files, not their paths


def names(data: datasets.Dataset) -> set[str]:
    return {Path(name).stem for name in data["file_name"]}


def test_images_and_columns_are_those_of_the_files(image_folder: ImageFolder) -> None:
    rows = [{"file_name": f"{c}/{i}.png", "cell_type": c, "grade": str(i % 3)} for c in "ab" for i in range(5)]
    top = image_folder(rows)
    data = load_cells(str(top), "train")
    seen = {row["file_name"]: (row["cell_type"], row["grade"], np.asarray(row["image"]).tobytes()) for row in data}
    assert seen == {
        r["file_name"]: (r["cell_type"], int(r["grade"]), np.asarray(Image.open(top / r["file_name"])).tobytes())
        for r in rows
    }


@pytest.mark.parametrize("grades", [("2", "1", "2", "2"), ("2.0", "1", "02", ""), ("2", "1", "2 ", "")])
def test_grade_is_chosen_as_a_number_whatever_its_text(image_folder: ImageFolder, grades: tuple[str, ...]) -> None:
    shown = ("hypersegmentation", "hypersegmentation", "hypersegmentation", "none")
    rows = [
        {"file_name": f"{i}.png", "abnormality": a, "grade": g}
        for i, (a, g) in enumerate(zip(shown, grades, strict=True))
    ]
    assert names(load_cells(str(image_folder(rows)), "train", where=SEVERE)) == {"0", "2"}


def test_filters_that_are_texts_are_compared_as_texts(image_folder: ImageFolder) -> None:
    rows = [{"file_name": f"{i}.png", "patient": p} for i, p in enumerate(("007", "7", "7.0", ""))]
    source = str(image_folder(rows))
    assert names(load_cells(source, "train", where={"patient": "007"})) == {"0"}
    assert names(load_cells(source, "train", where={"patient": 7})) == {"0", "1", "2"}
    assert names(load_cells(source, "train", where={"patient": None})) == {"3"}


def test_folder_of_classes_is_labelled_as_prepare_labels_it(image_folder: ImageFolder) -> None:
    source = str(image_folder([f"{c}/{c}{i}.png" for c in ("none", "hypersegmentation", "basophil") for i in range(2)]))
    assert names(load_cells(source, "train", where=SEVERE)) == {"hypersegmentation0", "hypersegmentation1"}
    assert names(load_cells(source, "train", where={"cell_type": "basophil"})) == {"basophil0", "basophil1"}
    assert names(load_cells(source, "train", where={"abnormality": "none", "grade": 0})) == {
        "none0", "none1", "basophil0", "basophil1",
    }  # fmt: skip


def test_images_without_any_label_are_training_images(image_folder: ImageFolder) -> None:
    assert len(load_cells(str(image_folder(["test_1.png", "validation_2.png", "3.png"])), "train")) == 3


@pytest.mark.parametrize("layout", ["folders", "column"])
def test_splits_are_folders_or_a_column(image_folder: ImageFolder, layout: str) -> None:
    split = ["train", "val", "train", "test"]
    if layout == "folders":
        source = str(image_folder([f"{s}/{i}.png" for i, s in enumerate(split)]))
    else:
        source = str(image_folder([{"file_name": f"{i}.png", "split": s} for i, s in enumerate(split)]))
    assert {s: names(load_cells(source, s)) for s in ("train", "validation", "test")} == {
        "train": {"0", "2"},
        "validation": {"1"},
        "test": {"3"},
    }


def test_missing_split_and_empty_choice_are_told_apart_from_missing_columns(image_folder: ImageFolder) -> None:
    source = str(image_folder([{"file_name": "0.png", "split": "train", "stain": "MGG"}]))
    with pytest.raises(MissingSplitError, match="has no split 'validation'; it has train"):
        load_cells(source, "validation")
    with pytest.raises(MissingSplitError, match=r"Split train .* no image with stain=Wright; it holds stain MGG \(1\)"):
        load_cells(source, "train", where={"stain": "Wright"})
    with pytest.raises(ValueError, match=r"no column 'lab' to choose by; it has .*stain"):
        load_cells(source, "train", where={"lab": "L"})


def test_links_to_folders_are_told_where_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "away" / "0.png")
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "train").symlink_to(tmp_path / "away", target_is_directory=True)
    with pytest.raises(FileNotFoundError, match="holds no images; links to folders, such as train, are not followed"):
        load_cells(str(tmp_path / "cells"), "train")


def test_absent_and_imageless_folders_are_refused(tmp_path: Path, image_folder: ImageFolder) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*none\. Prepare one with `wbc prepare"):
        load_cells(str(tmp_path / "none"), "train")
    with pytest.raises(FileNotFoundError, match="There is no folder data/cels, and no data set of that id was reached"):
        load_cells("data/cels", "train")
    (tmp_path / "notes.docx").touch()
    with pytest.raises(FileNotFoundError, match="holds no images"):
        load_cells(str(tmp_path), "train")
    top = image_folder([{"file_name": "0.png"}, {"file_name": "1.png"}])
    (top / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"names 1 images that are not there, such as 1\.png"):
        load_cells(str(top), "train")


def test_folder_given_as_a_relative_path_stays_readable_elsewhere(
    image_folder: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(["0.png"])
    monkeypatch.chdir(tmp_path)
    data = load_cells("cells", "train")
    monkeypatch.chdir("/")
    assert data[0]["image"].size == (16, 16)


def test_files_that_are_not_used_are_counted(image_folder: ImageFolder, caplog: pytest.LogCaptureFixture) -> None:
    top = image_folder([{"file_name": "0.png"}])
    Image.new("RGB", (16, 16)).save(top / "stray.png")
    assert len(load_cells(str(top), "train")) == 1
    assert "1 files of" in caplog.text


def test_broken_image_stops_the_training_by_name_before_it_begins(image_folder: ImageFolder) -> None:
    top = image_folder(["a/0.png", "a/1.png"])
    whole = (top / "a" / "1.png").read_bytes()
    (top / "a" / "1.png").write_bytes(whole[: len(whole) // 2])
    images = CellImages(load_cells(str(top), "train"), DrawSpec(16, 10))
    with pytest.raises(ValueError, match=r"Image a/1\.png cannot be read .*`wbc prepare`"):
        images.hashes()


def test_parquet_splits_come_from_file_names_and_classes_from_theirs(
    tmp_path: Path, labelled: datasets.Dataset
) -> None:
    for part in ("train-00000-of-00001", "validation-00000-of-00001"):
        labelled.to_parquet(tmp_path / "tables" / "latest" / f"{part}.parquet")
    for split in ("train", "validation"):
        data = load_cells(str(tmp_path / "tables"), split, where={"label": "eosinophil"})
        expected = [np.asarray(row["image"]).tobytes() for row in labelled if row["label"] == 1]
        assert [np.asarray(row["image"]).tobytes() for row in data] == expected
    with pytest.raises(MissingSplitError):
        load_cells(str(tmp_path / "tables"), "test")
    listed = read_source(tmp_path / "tables")  # `wbc prepare` reads the same splits
    assert [item.split for item in listed.items] == ["train"] * len(labelled) + ["validation"] * len(labelled)


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_of_other_programs_is_read(tmp_path: Path, labelled: datasets.Dataset, streaming: bool) -> None:
    if streaming and datasets.__version__ < "5":
        pytest.skip("datasets 4.0 does not decode images of a stream whose files don't say that they hold some")
    labelled.rename_column("image", "picture").to_parquet(tmp_path / "cells.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "cells.parquet").replace_schema_metadata(None)
    pyarrow.parquet.write_table(table, tmp_path / "cells.parquet")
    rows = list(load_cells(str(tmp_path / "cells.parquet"), "train", where={"label": 2}, streaming=streaming))
    expected = [np.asarray(row["image"]).tobytes() for row in labelled if row["label"] == 2]
    assert [np.asarray(row["image"]).tobytes() for row in rows] == expected


def test_stream_of_a_folder_holds_the_chosen_images(image_folder: ImageFolder) -> None:
    rows = [{"file_name": f"{i}.png", "cell_type": ("a", "b")[i % 2]} for i in range(7)]
    source = str(image_folder(rows))
    streamed = load_cells(source, "train", where={"cell_type": "b"}, streaming=True)
    assert [row["file_name"] for row in streamed] == ["1.png", "3.png", "5.png"]
    assert isinstance(streamed, datasets.IterableDataset)


def test_rows_called_synthetic_are_refused_unless_drawn_without_training(image_folder: ImageFolder) -> None:
    top = image_folder([{"file_name": f"{i}.png", "synthetic": ("", "true")[i]} for i in range(2)])
    with pytest.raises(ValueError, match=r"made by a trained model.*1\.png: synthetic = true"):
        load_cells(str(top), "train")
    write_png(top / "1.png", np.zeros((16, 16, 3), np.uint8), "algorithmicMedia")
    assert len(load_cells(str(top), "train")) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_a_table_called_synthetic_are_refused(
    tmp_path: Path, labelled: datasets.Dataset, streaming: bool
) -> None:
    labelled.add_column("synthetic", [False] * 8 + [True]).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(ValueError, match=r"made by a trained model.*synthetic = true"):
        list(load_cells(str(tmp_path / "cells.parquet"), "train", streaming=streaming))


def test_generated_files_without_metadata_are_refused_by_their_mark(image_folder: ImageFolder) -> None:
    top = image_folder(["a/0.png"])
    write_png(top / "a" / "fake.png", np.zeros((16, 16, 3), np.uint8), "trainedAlgorithmicMedia")
    with pytest.raises(ValueError, match=r"made by a trained model.*a/fake\.png: trainedAlgorithmicMedia"):
        CellImages(load_cells(str(top), "train"), DrawSpec(16, 10)).hashes()
    write_png(top / "a" / "fake.png", np.zeros((16, 16, 3), np.uint8), "algorithmicMedia")
    assert len(CellImages(load_cells(str(top), "train"), DrawSpec(16, 10)).hashes()) == 2


def test_generated_images_are_loaded_by_who_asks_for_them(image_folder: ImageFolder, tmp_path: Path) -> None:
    top = image_folder([{"file_name": f"{i}.png", "synthetic": "true"} for i in range(2)])
    write_png(top / "1.png", np.zeros((16, 16, 3), np.uint8), "trainedAlgorithmicMedia")
    data = load_cells(str(top), "train", may_be_generated=True)
    assert data["synthetic"] == ["true", "true"]
    data.to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(ValueError, match="made by a trained model"):
        load_cells(str(tmp_path / "cells.parquet"), "train")
    assert len(load_cells(str(tmp_path / "cells.parquet"), "train", may_be_generated=True)) == 2
