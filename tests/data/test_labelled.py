"""Images with their class for a classifier."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wbc_diffusers.data.check import RefusedImageError
from wbc_diffusers.data.images import write_png
from wbc_diffusers.data.labelled import Classes, class_numbers, load_labelled, oversample, take
from wbc_diffusers.data.origin import TRAINED

MERGED, APART = Classes("hypersegmentation"), Classes("hypersegmentation", "apart")
Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Write:
    """Give a writer of folders of noise with labels: folder(name, [(abnormality, grade), ...], synthetic=False)."""

    def write(name: str, labels: list[tuple[str, str]], synthetic: bool = False, first: int = 0) -> Path:
        place = tmp_path / name
        place.mkdir()
        with (place / "metadata.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "abnormality", "grade", "group", *(["synthetic"] if synthetic else [])])
            for i, label in enumerate(labels):
                pixels = np.random.default_rng(first + i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                write_png(place / f"{i:03}.png", pixels, TRAINED if synthetic else None)
                table.writerow([f"{i:03}.png", *label, f"slide-{i % 3}", *(["true"] if synthetic else [])])
        return place

    return write


KINDS = [("none", "0"), ("hypersegmentation", "1"), ("hypersegmentation", "2"), ("dohle_bodies", "2")]


def test_cells_without_the_abnormality_are_normal_and_grades_are_one_class_or_two(folder: Write) -> None:
    place = str(folder("cells", KINDS))
    merged, apart = load_labelled(place, "train", MERGED), load_labelled(place, "train", APART)
    assert merged["class"] == ["normal", "hypersegmentation", "hypersegmentation", "normal"]
    assert apart["class"] == ["normal", "hypersegmentation 1", "hypersegmentation 2", "normal"]
    assert merged["group"] == ["slide-0", "slide-1", "slide-2", "slide-0"]
    assert merged["synthetic"] == [False] * 4


def test_an_abnormality_is_the_same_in_any_spelling(folder: Write) -> None:
    spelled = [
        ("None", "0"),
        ("Hypersegmentation", "1"),
        ("Döhle bodies", "2"),
        ("dohle-bodies", "1"),
        ("vacuoles", "1"),
    ]
    place = str(folder("cells", spelled))
    assert load_labelled(place, "train", MERGED)["class"] == ["normal", "hypersegmentation", *["normal"] * 3]
    assert load_labelled(place, "train", Classes("dohle_bodies", "apart"))["class"] == [
        "normal", "normal", "dohle_bodies 2", "dohle_bodies 1", "normal"
    ]  # fmt: skip


def test_an_abnormality_of_no_grade_is_refused_by_name(folder: Write) -> None:
    cells = folder("cells", [*KINDS, ("hypersegmentation", "0")])
    with pytest.raises(ValueError, match=r"004\.png, has hypersegmentation of grade 0; it must be 1 or 2"):
        load_labelled(str(cells), "train", MERGED)


def test_real_folders_hold_no_generated_image_and_generated_ones_nothing_else(folder: Write) -> None:
    with pytest.raises(RefusedImageError, match="made by a trained model"):
        load_labelled(str(folder("generated", KINDS, synthetic=True)), "train", MERGED)
    with pytest.raises(ValueError, match="not marked as synthetic"):
        load_labelled(str(folder("real", KINDS)), "train", MERGED, generated=True)


def test_generated_images_have_no_group_and_the_hash_of_their_pixels(folder: Write) -> None:
    import hashlib

    place = folder("generated", KINDS, synthetic=True)
    data = load_labelled(str(place), "train", MERGED, generated=True)
    pixels = np.asarray(Image.open(place / "002.png"))
    assert data["pixel_sha256"][2] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert set(data["group"]) == {""}
    assert all(data["synthetic"])


def test_fewer_images_are_always_among_more_and_none_is_the_first_by_name(folder: Write) -> None:
    data = load_labelled(str(folder("cells", KINDS * 20)), "train", MERGED)
    few, more = (take(data, MERGED, [n, n // 2], "pixel_sha256", "images") for n in (8, 16))
    assert Counter(few["class"]) == {"normal": 8, "hypersegmentation": 4}
    assert set(few["file_name"]) < set(more["file_name"])
    lowest = sorted(h for h, c in zip(data["pixel_sha256"], data["class"], strict=True) if c == "normal")[:8]
    assert sorted(h for h, c in zip(few["pixel_sha256"], few["class"], strict=True) if c == "normal") == lowest


def test_images_are_taken_by_name_where_that_is_their_seed(folder: Write) -> None:
    data = load_labelled(str(folder("generated", KINDS * 5, synthetic=True)), "train", MERGED, generated=True)
    assert take(data, MERGED, [2, 3], "file_name", "images")["file_name"] == [
        "000.png", "003.png", "001.png", "002.png", "005.png",
    ]  # fmt: skip


def test_more_images_than_there_are_is_an_error_with_both_numbers(folder: Write) -> None:
    data = load_labelled(str(folder("cells", KINDS)), "train", MERGED)
    with pytest.raises(ValueError, match="5 images of train of class hypersegmentation are wanted, and there are 2"):
        take(data, MERGED, [None, 5], "pixel_sha256", "images of train")


def test_oversampling_repeats_the_rarer_classes_evenly_until_all_count_alike(folder: Write) -> None:
    data = load_labelled(str(folder("cells", [KINDS[0]] * 10 + [KINDS[1]] * 4 + [KINDS[2]] * 3)), "train", APART)
    balanced = oversample(data, APART)
    assert np.bincount(class_numbers(balanced, APART)).tolist() == [10, 10, 10]
    repeats = Counter(balanced["file_name"])
    assert set(repeats) == set(data["file_name"])
    assert {repeats[f"{i:03}.png"] for i in range(10)} == {1}
    assert {repeats[f"{i:03}.png"] for i in range(10, 14)} == {2, 3}
