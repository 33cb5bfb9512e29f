"""What `prepare` promises: bad files named, the source untouched, no leaks, whole output or none, honest metadata."""

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import imagehash
import numpy as np
import pytest
from datasets.table import embed_table_storage
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.data.prepare import COLUMNS, prepare
from wbc_diffusers.data.report import Report


def cell(seed: int, side: int = 60) -> Image.Image:
    """Draw some image of its own kind: discs on a bright ground, different for each seed."""
    rng = random.Random(seed)
    image = Image.new("RGB", (side, side + 3), (250, 226, 201))
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(side / 12, side / 4)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(30, 215) for _ in range(3)))
    return image


def folder_of_cells(top: Path, count: int = 12, classes: tuple[str, ...] = ("neutrophil", "basophil")) -> Path:
    """Write `count` PNGs in folders by class, in turn."""
    for index in range(count):
        place = top / classes[index % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        cell(index).save(place / f"cell{index:03}.png")
    return top


def with_metadata(top: Path, rows: list[dict[str, str]]) -> Path:
    """Write metadata.csv, and an image for every file it names that is not there yet."""
    for index, row in enumerate(rows):
        path = top / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            cell(index).save(path)
    with (top / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return top


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    """Read all metadata of a prepared folder by source name; the split stands under `split`."""
    rows = {}
    for table in sorted(out.glob("*/metadata.csv")):
        for row in csv.DictReader(table.open(newline="", encoding="utf-8")):
            rows[row["source"]] = row | {"split": table.parent.name}
    return rows


def tree(top: Path) -> dict[str, str]:
    """Give the hash of every file under a folder."""
    return {str(p.relative_to(top)): hashlib.sha256(p.read_bytes()).hexdigest() for p in top.rglob("*") if p.is_file()}


def run(source: Path, out: Path, **options: Any) -> Report:
    return prepare(source, out, **{"crop": 48, **options})


def test_metadata_hashes_and_pixels_equal_an_independent_crop(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src")
    run(source, tmp_path / "out", size=16)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 12
    for name, row in rows.items():
        whole = np.asarray(Image.open(source / name))
        assert whole.shape == (63, 60, 3)
        expected = Image.fromarray(whole[7:55, 6:54]).resize((16, 16), Image.Resampling.LANCZOS)
        written = Image.open(tmp_path / "out" / row["split"] / row["file_name"])
        assert written.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(written), np.asarray(expected))
        assert row["source_sha256"] == hashlib.sha256((source / name).read_bytes()).hexdigest()
        assert row["pixel_sha256"] == hashlib.sha256(np.asarray(written).tobytes()).hexdigest()
        assert row["perceptual_hash"] == str(imagehash.phash(written))
        assert row["cell_type"] == name.split("/")[0]
        assert (row["abnormality"], row["grade"], row["group"], row["stain"]) == ("none", "0", "", "")


def test_source_is_byte_for_byte_the_same_afterwards(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src")
    (source / "basophil" / "empty.png").touch()
    before = tree(source)
    run(source, tmp_path / "out")
    assert tree(source) == before


def test_every_file_is_kept_or_listed(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src")
    (source / "neutrophil" / "empty.png").touch()
    (source / "neutrophil" / "words.jpg").write_text("no image")
    (source / "README.md").write_text("about")
    report = run(source, tmp_path / "out")
    assert sum(report.kept.values()) == 12
    assert report.reasons == {"empty": 1, "not_an_image": 1}
    assert report.other_files == ["README.md"]
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {(f["file"], f["reason"]) for f in written["files_left_out"]} == {
        ("neutrophil/empty.png", "empty"),
        ("neutrophil/words.jpg", "not_an_image"),
    }
    assert written["kept"] == report.kept


def test_rows_without_file_and_files_without_row_are_listed(tmp_path: Path) -> None:
    rows = [{"file_name": f"a{i}.png", "cell_type": "neutrophil"} for i in range(6)]
    source = with_metadata(tmp_path / "src", rows)
    (source / "a0.png").unlink()
    cell(50).save(source / "stray.png")
    report = run(source, tmp_path / "out")
    assert set(report.left_out) == {("a0.png", "missing_file", ""), ("stray.png", "no_row", "")}
    assert sum(report.kept.values()) == 5


def test_rows_that_leave_the_folder_or_contradict_each_other_are_listed(tmp_path: Path) -> None:
    cell(80).save(tmp_path / "outside.png")
    rows = [{"file_name": f"a{i}.png", "cell_type": "neutrophil"} for i in range(4)]
    source = with_metadata(tmp_path / "src", rows)
    (source / "link.png").symlink_to(tmp_path / "outside.png")
    with (source / "metadata.csv").open("a") as file:
        file.write("../outside.png,neutrophil\nlink.png,neutrophil\na0.png,basophil\na1.png,neutrophil\n")
    report = run(source, tmp_path / "out")
    reasons = {(name, reason) for name, reason, _ in report.left_out}
    assert reasons == {
        ("../outside.png", "outside_source"),
        ("link.png", "outside_source"),
        ("a0.png", "conflicting_rows"),
        ("a1.png", "repeated_row"),
    }
    assert set(rows_of(tmp_path / "out")) == {"a1.png", "a2.png", "a3.png"}


def test_same_seed_gives_the_same_split_whatever_names_and_order(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src", 40)
    renamed = tmp_path / "renamed"
    for index, path in enumerate(sorted(source.rglob("*.png"), reverse=True)):
        target = renamed / path.parent.name / f"{index:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    run(source, tmp_path / "a")
    run(renamed, tmp_path / "b", size=24)
    run(source, tmp_path / "c", seed=1)
    split = [{r["source_sha256"]: r["split"] for r in rows_of(tmp_path / name).values()} for name in "abc"]
    assert split[0] == split[1]
    assert split[0] != split[2]
    assert set(split[0].values()) == {"train", "validation", "test"}


def test_no_patient_lies_on_two_sides(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "cell_type": "neutrophil", "Patient": f"P{i % 5}"} for i in range(40)]
    report = run(with_metadata(tmp_path / "src", rows), tmp_path / "out")
    sides: dict[str, set[str]] = {}
    for row in rows_of(tmp_path / "out").values():
        assert row["group"] == rows[int(row["source"].split(".")[0])]["Patient"]
        sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    assert {split for splits in sides.values() for split in splits} == {"train", "validation", "test"}
    assert report.options["group_column"] == "Patient"
    assert report.groups == 5


def test_sets_that_name_their_groups_otherwise_are_each_split_by_their_own(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "Patient": "", "patient": "", "slide": ""} for i in range(60)]
    for i, row in enumerate(rows):
        row[("Patient", "patient", "slide")[i // 20]] = f"{i // 20}-{i % 5}"
    report = run(with_metadata(tmp_path / "src", rows), tmp_path / "out")
    sides: dict[str, set[str]] = {}
    for row in rows_of(tmp_path / "out").values():
        i = int(row["source"].split(".")[0])
        assert row["group"] == f"{i // 20}-{i % 5}"
        sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    assert report.options["group_column"] in ("Patient or slide", "patient or slide")
    assert not any("split by itself" in note for note in report.notes)


def test_a_prepared_folder_keeps_the_groups_that_it_was_prepared_by(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "slide": f"S{i}", "person": f"P{i % 4}"} for i in range(24)]
    run(with_metadata(tmp_path / "src", rows), tmp_path / "out", group_column="person")
    for resplit in (False, True):
        out = tmp_path / f"again-{resplit}"
        run(tmp_path / "out", out, resplit=resplit, seed=3)
        assert {row["person"] == row["group"] for row in rows_of(out).values()} == {True}


def test_an_empty_abnormality_beside_others_is_noted(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "abnormality": ("none", "", "dohle_bodies")[i % 3]} for i in range(30)]
    report = run(with_metadata(tmp_path / "src", rows), tmp_path / "out")
    assert any(note.startswith("10 images have an empty abnormality") for note in report.notes)
    kept = run(tmp_path / "src", tmp_path / "kept", where=["abnormality=none", "abnormality=dohle_bodies"])
    assert not any("empty abnormality" in note for note in kept.notes)


def test_given_split_is_honoured_and_a_torn_patient_refused(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "slide": f"S{i}", "split": ("train", "val")[i % 2]} for i in range(8)]
    source = with_metadata(tmp_path / "src", rows)
    run(source, tmp_path / "out")
    assert {r["source"]: r["split"] for r in rows_of(tmp_path / "out").values()} == {
        f"{i}.png": ("train", "validation")[i % 2] for i in range(8)
    }
    with_metadata(source, [row | {"slide": "S"} for row in rows])
    with pytest.raises(ValueError, match=r"divides 1 groups: S in train and validation.*--resplit"):
        run(source, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_prepared_folder_prepares_again_with_its_split_and_labels(tmp_path: Path) -> None:
    run(folder_of_cells(tmp_path / "src", 30), tmp_path / "out")
    run(tmp_path / "out", tmp_path / "again")
    first, again = rows_of(tmp_path / "out"), rows_of(tmp_path / "again")
    places = {row["pixel_sha256"]: (row["split"], row["cell_type"], row["file_name"]) for row in first.values()}
    assert {r["pixel_sha256"]: (r["split"], r["cell_type"], r["file_name"]) for r in again.values()} == places
    assert {r["original_source"] for r in again.values()} == set(first)


def test_names_and_columns_of_odd_characters_come_back_however_often_they_are_prepared(tmp_path: Path) -> None:
    odd = [f"{char}x{char}" for char in '\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n,"']
    rows = [{"file_name": f"{text}.png", f"note{odd[8]}": text} for text in odd]
    run(with_metadata(tmp_path / "src", rows), tmp_path / "1", split=(1, 0, 0))
    for again in ("2", "3"):
        run(tmp_path / str(int(again) - 1), tmp_path / again)
    names = [f"{text}.png" for text in odd]
    for out, column in (("1", "source"), ("2", "original_source"), ("3", "original_source")):
        data = load_cells(str(tmp_path / out), "train")
        assert sorted(data[column]) == sorted(names)
        assert {row[column]: row[f"note{odd[8]}"] for row in data} == dict(zip(names, odd, strict=True))
    third = load_cells(str(tmp_path / "3"), "train")
    first = load_cells(str(tmp_path / "1"), "train")
    assert sorted(third["original_original_source"]) == sorted(first["file_name"])


@pytest.mark.parametrize("copy", ["exact", "jpeg", "turned", "mirrored and darker"])
def test_copies_across_splits_are_refused_or_dropped(tmp_path: Path, copy: str) -> None:
    rows = [{"file_name": f"{i}.png", "split": "train" if i < 6 else "test"} for i in range(8)]
    rows.append({"file_name": "copy.jpg" if copy == "jpeg" else "copy.png", "split": "test"})
    source = tmp_path / "src"
    source.mkdir()
    image = cell(3).crop((0, 1, 60, 61))
    image.save(source / "3.png")
    made = {
        "exact": image,
        "jpeg": image,
        "turned": image.transpose(Image.Transpose.ROTATE_90),
        "mirrored and darker": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).point(lambda v: round(v * 0.9)),
    }[copy]
    made.save(source / rows[-1]["file_name"])
    with_metadata(source, rows)
    kind = "exact" if copy == "exact" else "near"
    with pytest.raises(ValueError, match=rf"1 pairs of copies(.|\n)*3.png \(train\) and copy.*{kind}(.|\n)*--drop-dup"):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = run(source, tmp_path / "out", drop_duplicates=True)
    assert report.left_out == [(rows[-1]["file_name"], "duplicate", "of 3.png")]
    assert sum(report.kept.values()) == 8


def test_copies_inside_one_split_are_kept_and_reported(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "split": "train"} for i in range(4)] + [{"file_name": "b.png", "split": "train"}]
    source = with_metadata(tmp_path / "src", rows)
    shutil.copy(source / "0.png", source / "b.png")
    report = run(source, tmp_path / "out")
    assert sum(report.kept.values()) == 5
    assert [pair["files"] for pair in report.duplicates] == [["0.png", "b.png"]]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("near", [False, True], ids=["exact", "near"])
def test_copies_with_different_labels_are_all_left_out(tmp_path: Path, near: bool, drop: bool) -> None:
    source = folder_of_cells(tmp_path / "src", 12, ("none", "hypersegmentation"))
    image = Image.open(source / "none" / "cell004.png").crop((6, 7, 54, 55))
    copy = source / "hypersegmentation" / "copy.png"
    (image.transpose(Image.Transpose.ROTATE_90) if near else image).save(copy)
    shutil.copy(source / "none" / "cell004.png", source / "none" / "again.png")
    report = run(source, tmp_path / "out", drop_duplicates=drop)
    here, there = "neutrophil, none, grade 0", "neutrophil, hypersegmentation, grade 2"
    assert report.left_out == [
        ("hypersegmentation/copy.png", "conflicting_labels", f"copy of none/again.png, labelled {here}"),
        ("none/again.png", "conflicting_labels", f"copy of hypersegmentation/copy.png, labelled {there}"),
        ("none/cell004.png", "conflicting_labels", f"copy of hypersegmentation/copy.png, labelled {there}"),
    ]
    assert len(rows_of(tmp_path / "out")) == sum(report.kept.values()) == 11
    assert any(note.startswith("3 images are copies of others with another label") for note in report.notes)


def test_a_split_of_nothing_but_copies_is_told_to_be_empty(tmp_path: Path) -> None:
    splits = ("train", "train", "validation", "test")
    rows = [{"file_name": f"{i}.png", "split": split} for i, split in enumerate(splits)]
    source = with_metadata(tmp_path / "src", rows)
    shutil.copy(source / "0.png", source / "2.png")
    report = run(source, tmp_path / "out", drop_duplicates=True)
    empty = [note for note in report.notes if "empty" in note]
    assert empty == ["the validation split is empty: all its images were left out as copies"]
    assert report.kept == {"train": 2, "validation": 0, "test": 1}


def test_a_grade_or_a_cell_type_can_contradict_too_and_a_set_of_nothing_else_is_refused(tmp_path: Path) -> None:
    for column, value in (("cell_type", "basophil"), ("grade", "1")):
        row = {"file_name": "0.png", "cell_type": "neutrophil", "abnormality": "dohle_bodies", "grade": "2"}
        source = with_metadata(tmp_path / column, [row, row | {"file_name": "1.png", column: value}])
        shutil.copy(source / "0.png", source / "1.png")
        with pytest.raises(ValueError, match=r"no image of .* is left. Left out: 2 conflicting_labels"):
            run(source, tmp_path / "out", split=(1, 0, 0))


def test_labels_come_from_rules_folders_and_columns(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "cell_type": "neutrophil", "shape": "many" if i < 3 else "two"} for i in range(9)]
    rows.append({"file_name": "other.png", "cell_type": "basophil", "shape": "many"})
    source = with_metadata(tmp_path / "src", rows)
    report = run(source, tmp_path / "a", maps=["shape=many:hypersegmentation:1"], where=["cell_type=neutrophil"])
    labels = {r["source"]: (r["abnormality"], r["grade"], r["shape"]) for r in rows_of(tmp_path / "a").values()}
    assert labels["1.png"] == ("hypersegmentation", "1", "many")
    assert labels["5.png"] == ("none", "0", "two")
    assert len(labels) == 9
    assert report.filtered_out == 1
    classes = folder_of_cells(tmp_path / "classes", 12, ("Döhle bodies", "none", "eosinophil"))
    report = run(classes, tmp_path / "b")
    seen = {(r["cell_type"], r["abnormality"], r["grade"]) for r in rows_of(tmp_path / "b").values()}
    assert seen == {("neutrophil", "dohle_bodies", "2"), ("neutrophil", "none", "0"), ("eosinophil", "none", "0")}
    assert report.grades_assumed == 4
    assert any("grade 2 was assumed" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": ["stain=x"]}, "--where stain=x: no such column; there are abnormality, cell_type"),
        ({"where": ["cell_type=monocyte"]}, "no row has that value; the column has basophil, neutrophil"),
        ({"maps": ["cell_type=basophil"]}, "wanted column=value:abnormality:grade"),
        ({"maps": ["cell_type=basophil:odd:1"]}, "abnormality 'odd', wanted one of none"),
        ({"maps": ["cell_type=basophil:hypergranulation:0"]}, "grade '0' for abnormality hypergranulation"),
        ({"split": (0.5, 0.2, 0.1)}, "sum to 1"),
        ({"size": 64}, "enlarging would invent detail"),
        ({"group_column": "donor"}, "--group-column donor: no such column"),
        ({"normalise_background": (0, 1, 2)}, "wanted red, green and blue in 1..255"),
        ({"workers": 0}, "wanted 1 or more"),
        ({"crop": 500}, r"no image of .* is fit .* 12 too_small.*px.*Give another --crop; 500 is wanted now"),
    ],
)
def test_wrong_options_are_refused_with_what_to_do(tmp_path: Path, options: dict[str, object], message: str) -> None:
    source = folder_of_cells(tmp_path / "src")
    with pytest.raises(ValueError, match=message):
        run(source, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_output_that_cannot_be_replaced_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    looked = []

    def busy(*_: Path) -> None:
        raise OSError(16, "Device or resource busy")  # as for a mount point, which only root can make

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(ValueError, match="cannot be replaced by a finished one"):
        run(folder_of_cells(tmp_path / "src"), tmp_path / "out", progress=lambda *now: looked.append(now))
    assert looked == []


def test_output_that_holds_something_is_refused_untouched(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds something"):
        run(source, tmp_path / "out")
    assert tree(tmp_path / "out") == {"mine.txt": hashlib.sha256(b"mine").hexdigest()}
    with pytest.raises(ValueError, match="lies in the source"):
        run(source, source / "out")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run(tmp_path / "no such", tmp_path / "new")


@pytest.mark.slow
def test_two_workers_give_the_same_folder_as_one(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src", 14)
    (source / "basophil" / "broken.png").write_bytes(cell(1).tobytes())
    trees = []
    for workers in (1, 2):
        run(source, tmp_path / "out", workers=workers, normalise_background=True)
        trees.append(tree(tmp_path / "out"))
        shutil.rmtree(tmp_path / "out")
    assert trees[0] == trees[1]
    assert len(trees[0]) > 14


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_run_leaves_no_output_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src", 60)
    code = (
        "import sys, time\nfrom wbc_diffusers.data.prepare import prepare\n"
        "def slow(stage, done, total):\n    if stage == 'write' and done == 20:\n"
        "        print('writing', flush=True); time.sleep(60)\n"
        "prepare(sys.argv[1], sys.argv[2], crop=48, progress=slow)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    left = [path.name for path in tmp_path.iterdir() if path.name != "src"]
    assert len(left) == 1
    assert left[0].startswith(".out.partial-")
    run(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "src"]


def test_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src")

    def change(stage: str, done: int, total: int) -> None:
        if stage == "check" and done == total:
            cell(99).save(source / "basophil" / "cell005.png")

    with pytest.raises(ValueError, match=r"cell005.png changed while it was prepared"):
        run(source, tmp_path / "out", progress=change)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_images_of_trained_models_are_refused_and_phantoms_keep_their_mark(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src", 4)
    write_png(source / "neutrophil" / "fake.png", cell(70), "trainedAlgorithmicMedia")
    write_png(source / "neutrophil" / "phantom.png", cell(71), "algorithmicMedia", creator="renderer <1>")
    report = run(source, tmp_path / "out")
    assert report.left_out == [("neutrophil/fake.png", "generated", "trainedAlgorithmicMedia")]
    row = rows_of(tmp_path / "out")["neutrophil/phantom.png"]
    written = Image.open(tmp_path / "out" / row["split"] / row["file_name"])
    written.load()
    packet = written.info["XML:com.adobe.xmp"]
    assert "digitalsourcetype/algorithmicMedia" in packet
    assert "renderer &lt;1&gt;" in packet
    other = next(row for row in rows_of(tmp_path / "out").values() if "cell" in row["source"])
    plain = Image.open(tmp_path / "out" / other["split"] / other["file_name"])
    plain.load()
    assert "XML:com.adobe.xmp" not in plain.info


def test_rows_called_synthetic_are_refused(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "synthetic": "true" if i == 2 else ""} for i in range(4)]
    report = run(with_metadata(tmp_path / "src", rows), tmp_path / "out")
    assert [(name, reason) for name, reason, _ in report.left_out] == [("2.png", "generated")]


def test_backgrounds_reach_the_target(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src", 9, ("neutrophil",))
    tints = {}
    for index, path in enumerate(sorted(source.rglob("*.png"))):
        gain = 1 - 0.03 * index
        pixels = np.asarray(Image.open(path)) * gain
        Image.fromarray(np.rint(pixels).astype(np.uint8)).save(path)
        tints[path.name] = np.rint(np.array([250, 226, 201]) * gain)
    run(source, tmp_path / "given", normalise_background=(240, 230, 220))
    auto = run(source, tmp_path / "auto", normalise_background=True)
    np.testing.assert_allclose(auto.options["background"], np.median(list(tints.values()), axis=0), atol=1)
    for out, target in ((tmp_path / "given", (240, 230, 220)), (tmp_path / "auto", auto.options["background"])):
        for row in rows_of(out).values():
            pixels = np.asarray(Image.open(out / row["split"] / row["file_name"])).reshape(-1, 3)
            colours, counts = np.unique(pixels, axis=0, return_counts=True)
            np.testing.assert_allclose(colours[counts.argmax()], target, atol=1.01)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src", 3, ("neutrophil",))
    exif = Image.Exif()
    exif[0x0112] = 6
    cell(90).save(source / "neutrophil" / "turned.png", exif=exif)
    report = run(source, tmp_path / "out")
    assert report.turned == 1
    row = rows_of(tmp_path / "out")["neutrophil/turned.png"]
    upright = np.rot90(np.asarray(cell(90)), -1)
    written = np.asarray(Image.open(tmp_path / "out" / row["split"] / row["file_name"]))
    np.testing.assert_array_equal(written, upright[6:54, 7:55])


def test_microns_per_pixel_follow_the_shrinking_and_columns_stay(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "microns_per_pixel": "0.1", "stain": "MGG", "lab": "L"} for i in range(4)]
    run(with_metadata(tmp_path / "src", rows), tmp_path / "out", size=16, split=(1, 0, 0))
    with (tmp_path / "out" / "train" / "metadata.csv").open() as file:
        assert file.readline().strip().split(",") == [*COLUMNS, "lab"]
    assert {(r["microns_per_pixel"], r["stain"], r["lab"]) for r in rows_of(tmp_path / "out").values()} == {
        ("0.3", "MGG", "L")
    }


@pytest.mark.parametrize("width", ["nan", "-1", "0", "inf", "0,1", "0.1 um"])
def test_a_width_of_a_pixel_that_cannot_be_is_refused_by_row_before_the_work(tmp_path: Path, width: str) -> None:
    rows = [{"file_name": f"{i}.png", "microns_per_pixel": width if i == 2 else ""} for i in range(4)]
    looked: list[object] = []
    with pytest.raises(ValueError, match=rf"^2.png: microns_per_pixel '{width}', wanted a number above 0 such as 0.1"):
        run(with_metadata(tmp_path / "src", rows), tmp_path / "out", progress=lambda *now: looked.append(now))
    assert looked == []


def test_names_that_meet_or_are_not_portable_get_names_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "src" / "neutrophil"
    for index, name in enumerate(("a/x.png", "b/X.png", "c/x.bmp", "d/x-2.png", "e/Zelle ü:1.png", "f/.png.png")):
        (source / name).parent.mkdir(parents=True)
        cell(index).save(source / name)
    raw = os.path.join(os.fsencode(source), b"caf\xe9.png")  # noqa: PTH118 - a name that is not UTF-8
    with open(raw, "wb") as file:  # noqa: PTH123 - likewise
        cell(7).save(file, "PNG")
    run(source.parent, tmp_path / "out", split=(1, 0, 0))
    rows = rows_of(tmp_path / "out")
    names = [row["file_name"] for row in rows.values()]
    assert len({name.lower() for name in names}) == 7
    assert all(name.isascii() and name[0].isalnum() for name in names)
    assert "neutrophil/caf\\xe9.png" in rows


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Give a prepared folder whose patients look like numbers in one split and not in the others."""
    rows = [{"file_name": f"{i}.png", "patient": f"0{i}" if i < 4 else f"P{i}"} for i in range(12)]
    rows = [row | {"split": ("train", "validation", "test")[i // 4]} for i, row in enumerate(rows)]
    run(with_metadata(tmp_path / "src", rows), tmp_path / "out", size=32)
    return tmp_path / "out"


def whole(data: Any) -> bool:
    """Whether a loaded split holds four unlabelled images that are what their rows say."""
    return len(data) == 4 and all(
        row["image"].size == (32, 32)
        and hashlib.sha256(row["image"].tobytes()).hexdigest() == row["pixel_sha256"]
        and (row["abnormality"], row["grade"]) == ("none", 0)
        for row in data
    )


def test_folder_loads_whatever_its_columns_look_like(mixed: Path) -> None:
    groups = {}
    for split in ("train", "validation", "test"):
        data = load_cells(str(mixed), split)
        assert whole(data)
        groups[split] = sorted(data["group"])
    assert groups["train"] == ["00", "01", "02", "03"]
    assert groups["test"] == ["P10", "P11", "P8", "P9"]


@pytest.mark.skipif(datasets.__version__ < "5", reason="datasets 4 reads no metadata.csv beside pandas 3")
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_split_loads_with_datasets_alone(mixed: Path, split: str) -> None:
    assert whole(datasets.load_dataset("imagefolder", data_dir=str(mixed / split), split="train"))


@pytest.mark.slow
def test_parquet_gives_the_same_crops_as_the_files_it_was_made_of(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src", 10)
    table = datasets.load_dataset("imagefolder", data_dir=str(source), split="train")
    table = table.with_format("arrow").map(embed_table_storage, batched=True)  # the files, not their paths
    table.to_parquet(tmp_path / "cells.parquet")
    run(source, tmp_path / "a")
    for workers, out in ((1, "b"), (2, "c")):
        run(tmp_path / "cells.parquet", tmp_path / out, workers=workers)
    seen = [
        {(r["pixel_sha256"], r["cell_type"], r["source_sha256"], r["split"]) for r in rows_of(tmp_path / name).values()}
        for name in "abc"
    ]
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 10


def test_bad_metadata_is_refused_by_file_and_line(tmp_path: Path) -> None:
    source = with_metadata(tmp_path / "src", [{"file_name": "a.png", "cell_type": "x"}])
    for text, message in (
        ("name;type\na.png;x\n", r"header is \['name;type'\]; wanted .* file_name"),
        ("file_name,cell_type\na.png\n", "line 2: wanted 2 fields"),
        ("file_name,cell_type\n,x\n", "line 2: no file_name"),
        ("file_name,abnormality,grade\na.png,none,1\n", "a.png: grade '1' for abnormality none"),
        ("file_name,abnormality,grade\na.png,dohle_bodies,5\n", "grade '5'"),
        ("file_name,split\na.png,holdout\n", "a.png: split 'holdout', wanted train"),
    ):
        (source / "metadata.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            run(source, tmp_path / "out")
    (source / "metadata.csv").write_bytes("file_name,cell_type\na.png,b\u00e4r\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"metadata.csv is not UTF-8"):
        run(source, tmp_path / "out")


def test_jsonl_metadata_is_read(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    lines = []
    for index in range(4):
        cell(index).save(tmp_path / "src" / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "cell_type": "neutrophil", "lobes": index}))
    (tmp_path / "src" / "metadata.jsonl").write_text("\n".join(lines))
    run(tmp_path / "src", tmp_path / "out")
    assert {r["source"]: r["lobes"] for r in rows_of(tmp_path / "out").values()} == {
        f"{i}.png": str(i) for i in range(4)
    }


@pytest.mark.slow
def test_pbc_set_is_whole_and_holds_no_copies(pbc_dir: Path, tmp_path: Path) -> None:
    rule = "nucleus_shape=segmented-multilobed:hypersegmentation:2"
    report = prepare(pbc_dir, tmp_path / "out", size=64, maps=[rule], where=["cell_type=neutrophil"], workers=2)
    assert report.left_out == []
    assert report.duplicates == []
    assert report.options["split"] == "given"
    counts: dict[str, int] = {}
    for entry in report.labels:
        counts[entry["abnormality"]] = counts.get(entry["abnormality"], 0) + entry["images"]
    assert counts == {"hypersegmentation": 272, "none": 2186 - 272}


def test_png_text_that_hides_the_mark_by_compression_is_read(tmp_path: Path) -> None:
    source = folder_of_cells(tmp_path / "src", 3)
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x>" + "pad " * 500 + "trainedAlgorithmicMedia</x>", zip=True)
    cell(60).save(source / "neutrophil" / "fake.png", pnginfo=info)
    assert b"trainedAlgorithmicMedia" not in (source / "neutrophil" / "fake.png").read_bytes()
    report = run(source, tmp_path / "out")
    assert report.reasons == {"generated": 1}
