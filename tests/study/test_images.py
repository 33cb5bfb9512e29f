"""The images that judge: nothing of them was trained on, and what else stops a study before it begins."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wbc_diffusers.data.dataset import hashes_of
from wbc_diffusers.data.duplicates import perceptual_hash
from wbc_diffusers.data.loading import load_cells
from wbc_diffusers.data.manifest import build_manifest
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.images import LeakError, check_images, fingerprints, load_images
from wbc_diffusers.training.recipe import ClassifierRecipe
from wbc_diffusers.training.selection import load_pool, load_real

Study = Callable[..., StudyConfig]


def changed_copy(folder: Path, to: Path, change: Callable[[Path], None]) -> str:
    shutil.copytree(folder, to)
    change(to)
    return str(to)


def test_what_judges_is_what_the_sizes_say_and_what_the_generators_know_is_told(study: Study) -> None:
    facts, images = check_images(study()), load_images(study())
    assert facts["images"] == {
        "test": {"normal": 20, "hypersegmentation": 6},
        "validation": {"normal": 10, "hypersegmentation": 4},
    }
    assert (len(images.test), len(images.validation)) == (26, 14)
    base, rare = facts["generators"]
    assert base["trained_on"]["train"] == {"normal": 40, "hypersegmentation": 0}
    assert rare["trained_on"]["train"] == {"normal": 40, "hypersegmentation": 6}  # its own six, and its base's
    assert sum(rare["trained_on"]["test"].values()) == 0
    # The arms take 20 normal cells and 6 abnormal ones, which are those that the model of six was trained on.
    assert rare["more_than_arms"] == {"normal": 20, "hypersegmentation": 0}
    assert (rare["unknown_start"], facts["unknown_starts"]) == (None, [])
    assert images.swap is not None
    assert sorted(images.swap["file_name"]) == [f"{i:08}.png" for i in (*range(12, 20), *range(32, 40))]


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("of_parent", [False, True])
def test_a_judging_image_that_a_generator_knows_stops_the_study(
    study: Study, place: Path, split: str, of_parent: bool, tmp_path: Path
) -> None:
    seen = hashes_of(load_images(study()).test if split == "test" else load_images(study()).validation)[3]

    def learn(model: Path) -> None:
        manifest = json.loads((model / "training_manifest.json").read_text())
        (manifest["parents"][0] if of_parent else manifest)["image_pixel_sha256"].append(seen)
        (model / "training_manifest.json").write_text(json.dumps(manifest))

    model = changed_copy(place / "rare", tmp_path / "rare", learn)
    with pytest.raises(LeakError, match=rf"rare was trained on images that are to judge \({split}\): 1 of"):
        check_images(study(generated=[{"folder": str(place / "abnormal"), "model": model}]))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_classifier_to_start_from_that_knows_a_judging_image_stops_the_study(
    study: Study, tmp_path: Path, split: str
) -> None:
    seen = hashes_of(load_real(ClassifierRecipe.from_dict(study().recipe), study().data, split))[2]
    manifest = build_manifest({}, ["a" * 64], parent=build_manifest({}, [seen]))
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "training_manifest.json").write_text(json.dumps(manifest))
    start = {"pretrained": str(tmp_path / "start")}
    for given in ({"recipe": start}, {"arms": {"real": start}}):
        if split == "train":
            check_images(study(**given))
            continue
        with pytest.raises(LeakError, match=rf"start, which arms start from, was trained on 1 images .*\({split}\)"):
            check_images(study(**given))


def rewrite(folder: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def test_a_group_on_two_sides_stops_the_study(study: Study, place: Path, tmp_path: Path) -> None:
    def tear(data: Path) -> None:
        rewrite(data / "test", lambda rows: rows[0].update(group="slide-251"))

    data = changed_copy(place / "data", tmp_path / "data", tear)
    with pytest.raises(LeakError, match="1 groups lie in several splits, such as slide-251 in train and test"):
        check_images(study(data=data))


def test_an_image_in_two_splits_stops_the_study(study: Study, place: Path, tmp_path: Path) -> None:
    def copy(data: Path) -> None:
        shutil.copy(data / "train" / "00001003.png", data / "validation" / "00002003.png")

    data = changed_copy(place / "data", tmp_path / "data", copy)
    with pytest.raises(LeakError, match="1 images lie in train and in validation"):
        check_images(study(data=data))


def test_a_folder_of_another_model_stops_the_study(study: Study, place: Path) -> None:
    with pytest.raises(ValueError, match="were made by another model than"):
        check_images(study(generated=[{"folder": str(place / "abnormal"), "model": str(place / "base")}]))


def test_a_folder_that_nobody_generated_stops_the_study(study: Study, place: Path) -> None:
    with pytest.raises(ValueError, match="not marked as synthetic: give a folder of `wbc generate`"):
        check_images(study(generated=[{"folder": str(place / "data" / "train"), "model": str(place / "base")}]))


def test_a_model_without_a_manifest_stops_the_study(study: Study, place: Path, tmp_path: Path) -> None:
    model = changed_copy(place / "rare", tmp_path / "rare", lambda m: (m / "training_manifest.json").unlink())
    with pytest.raises(FileNotFoundError, match="nobody can say what it was trained on"):
        check_images(study(generated=[{"folder": str(place / "abnormal"), "model": model}]))


def test_a_missing_split_is_told_with_what_it_is_for(study: Study, place: Path, tmp_path: Path) -> None:
    data = changed_copy(place / "data", tmp_path / "data", lambda d: shutil.rmtree(d / "test"))
    with pytest.raises(ValueError, match=r"no split 'test'.*A study needs all three"):
        check_images(study(data=data))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"recipe": {"sizes": {"train": [41, 6]}}},
            "41 images of train .* of class normal are wanted, and there are 40",
        ),
        (
            {"arms": {"real": None, "with": {"synthetic_ratio": [0.0, 6.0]}}},
            "wants 36 synthetic images .* there are 32",
        ),
    ],
)
def test_too_few_images_for_an_arm_are_told_before_any_training(study: Study, changes: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_images(study(**changes))


def test_a_training_image_that_can_not_be_looked_at_is_told_before_any_training(
    study: Study, place: Path, tmp_path: Path
) -> None:
    def shrink(data: Path) -> None:
        for path in (data / "train").glob("*.png"):
            Image.open(path).crop((0, 0, 12, 12)).save(path)

    data = changed_copy(place / "data", tmp_path / "data", shrink)
    with pytest.raises(ValueError, match=r"train.*png .*12 x 12"):
        check_images(study(data=data))


def test_a_class_that_an_arm_would_not_see_is_told_before_any_training(study: Study) -> None:
    arms = {"real": None, "alone": {"real_images": False, "synthetic_ratio": [0.0, 2.0]}}
    with pytest.raises(ValueError, match="The arm alone has no training image of class normal: it needs some of each"):
        check_images(study(arms=arms))
    with pytest.raises(ValueError, match="The arm real has no training image of class hypersegmentation"):
        check_images(study(recipe={"sizes": {"train": [20, 0]}}, arms={"real": None}))


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(("counts", "name"), [([10, 0], "hypersegmentation"), ([0, 4], "normal")])
def test_a_class_that_no_judging_image_has_is_told_before_any_training(
    study: Study, split: str, counts: list[int], name: str
) -> None:
    sizes = {**study().recipe["sizes"], split: counts}
    with pytest.raises(ValueError, match=f"There is no image of {name} in {split}: it needs some of each class"):
        check_images(study(recipe={"sizes": sizes}))


def test_cells_of_a_model_of_all_grades_are_refused_where_grades_are_apart(
    study: Study, place: Path, tmp_path: Path
) -> None:
    def any_grade(folder: Path) -> None:
        told = json.loads((folder / "generation.json").read_text())
        (folder / "generation.json").write_text(json.dumps({**told, "grade": None}))

    made = changed_copy(place / "abnormal", tmp_path / "abnormal", any_grade)
    recipe = ClassifierRecipe.from_dict({**study().recipe, "sizes": {}, "synthetic": [made]})
    assert len(load_pool(recipe)) == 40
    with pytest.raises(ValueError, match="was trained on hypersegmentation of every grade, so that theirs is unknown"):
        load_pool(replace(recipe, grades="apart"))


def test_a_real_folder_with_a_generated_image_stops_the_study(study: Study, place: Path, tmp_path: Path) -> None:
    def plant(data: Path) -> None:
        shutil.copy(place / "normal" / "00000000.png", data / "train" / "00001000.png")

    data = changed_copy(place / "data", tmp_path / "data", plant)
    with pytest.raises(ValueError, match="made by a trained model"):
        check_images(study(data=data))


def test_a_generated_folder_whose_images_do_not_say_so_stops_the_study(
    study: Study, place: Path, tmp_path: Path
) -> None:
    def unmark(folder: Path) -> None:
        rewrite(folder, lambda rows: rows[1].update(synthetic=""))

    made = changed_copy(place / "abnormal", tmp_path / "abnormal", unmark)
    with pytest.raises(ValueError, match="holds images that are not marked as synthetic"):
        check_images(study(generated=[{"folder": made, "model": str(place / "rare")}]))


def test_an_image_that_looks_like_what_a_generator_knows_stops_the_study_unless_allowed(
    study: Study, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turned = load_images(study()).test[0]["image"].rotate(90)

    def learn(model: Path) -> None:
        manifest = json.loads((model / "training_manifest.json").read_text())
        manifest["image_perceptual_hash"].append(perceptual_hash(turned))
        (model / "training_manifest.json").write_text(json.dumps(manifest))

    sets = [{"folder": str(place / "abnormal"), "model": changed_copy(place / "rare", tmp_path / "rare", learn)}]
    with pytest.raises(LeakError, match=r"rare was trained on images that look like \d+ that are to judge \(test\)"):
        check_images(study(generated=sets))
    facts = check_images(study(generated=sets, allow_near=True))
    assert facts["generators"][0]["near"]["test"] > 0
    assert "See that none is a copy" in caplog.text


def test_a_model_that_was_made_from_one_without_a_manifest_is_told(study: Study, place: Path, tmp_path: Path) -> None:
    def forget(model: Path) -> None:
        manifest = json.loads((model / "training_manifest.json").read_text())
        (model / "training_manifest.json").write_text(json.dumps({**manifest, "parents": []}))

    model = changed_copy(place / "rare", tmp_path / "rare", forget)
    (seen,) = check_images(study(generated=[{"folder": str(place / "abnormal"), "model": model}]))["generators"]
    assert seen["unknown_start"] == "base"


def test_a_generator_of_more_rare_cells_than_the_arms_have_is_counted(study: Study) -> None:
    fewer = {"train": [20, 2], "validation": [10, 4], "test": [20, 6]}
    _, rare = check_images(study(recipe={"sizes": fewer}))["generators"]
    assert rare["more_than_arms"]["hypersegmentation"] == 4
    more = {"arm": "with", "ratios": [1], "real_arm": "real", "more_real": [6]}  # these arms take more by design
    _, rare = check_images(study(recipe={"sizes": fewer}, dose=more))["generators"]
    assert rare["more_than_arms"]["hypersegmentation"] == 4


def test_a_synthetic_image_that_is_there_twice_stops_the_study(study: Study, place: Path, tmp_path: Path) -> None:
    again = changed_copy(place / "abnormal", tmp_path / "again", lambda folder: None)
    sets = [*study().generated, {"folder": again, "model": str(place / "rare")}]
    with pytest.raises(ValueError, match="40 synthetic images are there twice"):
        check_images(study(generated=sets))


def test_images_that_an_arm_can_not_look_at_stop_the_study_before_any_training(study: Study) -> None:
    arms = {"real": None, "large": {"resolution": 64}}
    with pytest.raises(ValueError, match="fewer than the recipe's resolution 64"):
        check_images(study(arms=arms))


def test_fingerprints_tell_what_arms_take_who_judges_and_what_they_start_from(
    study: Study, place: Path, tmp_path: Path
) -> None:
    arms = {"real": None, "one": {"synthetic_ratio": [0.0, 1.0]}, "two": {"synthetic_ratio": [0.0, 2.0]}}
    before = fingerprints(study(arms=arms))
    assert {"taken one", "taken two"} <= before.keys()
    # The first twelve by name are taken: with the first of them gone, the others are.
    other = changed_copy(
        place / "abnormal", tmp_path / "made", lambda folder: rewrite(folder, lambda rows: rows.pop(0))
    )
    sets = [study().generated[0], {"folder": other, "model": str(place / "rare")}]
    now = fingerprints(study(arms=arms, generated=sets))
    assert {name for name in before if before[name] != now[name]} == {"taken one", "taken two", "pool"}

    def regroup(data: Path) -> None:
        rewrite(data / "test", lambda rows: rows[0].update(group="somebody"))

    data = changed_copy(place / "data", tmp_path / "regrouped", regroup)
    now = fingerprints(study(arms=arms, data=data))
    assert {name for name in before if before[name] != now[name]} == {"judges"}


def test_fingerprints_tell_other_cells_classes_and_models_and_no_other_place(
    study: Study, place: Path, tmp_path: Path
) -> None:
    def relabel(data: Path) -> None:
        rewrite(data / "validation", lambda rows: rows[-1].update(abnormality="none", grade="0"))

    before = fingerprints(study())
    for number, (change, same) in enumerate(
        (
            (lambda data: None, True),
            (relabel, False),
            (lambda data: (data / "test" / "00003007.png").write_bytes((data / "test" / "00003008.png").read_bytes()),
             False),
        )
    ):  # fmt: skip
        data = changed_copy(place / "data", tmp_path / str(number), change)
        now = fingerprints(study(data=data))
        assert (now["real"] == before["real"]) is same
        assert now["synthetic"] == before["synthetic"]

    def more(folder: Path) -> None:
        shutil.copy(folder / "00000000.png", folder / "00000099.png")

    sets = study().generated
    moved = [
        {**each, "folder": changed_copy(Path(each["folder"]), tmp_path / f"made-{i}", more)}
        for i, each in enumerate(sets)
    ]
    assert fingerprints(study(generated=moved)) == before
    fewer = fingerprints(study(generated=sets[:1], arms={"real": {"oversample": True}}))
    assert fewer["real"] == before["real"]
    assert fewer["synthetic"] != before["synthetic"]


def test_the_test_images_are_those_of_the_split(study: Study, place: Path) -> None:
    known = set(hashes_of(load_cells(str(place / "data"), "test")))
    assert set(load_images(study()).test["pixel_sha256"]) <= known
