"""Studies in files: arms, budgets, doses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from wbc_diffusers.shelves import shelf
from wbc_diffusers.study.config import StudyConfig, load_study
from wbc_diffusers.training.recipe import ClassifierRecipe

Study = Callable[..., StudyConfig]


def small(**changes: Any) -> StudyConfig:
    values = {
        "data": "data",
        "generated": [{"folder": "made", "model": "model"}],
        "recipe": {"max_train_steps": 100, "sizes": {"train": [50, 5]}},
        "arms": {"real": None, "with": {"synthetic_ratio": [0.5, 4.0]}},
    }
    return StudyConfig.from_dict({**values, **changes})


def recipes(study: StudyConfig, arm: str) -> list[ClassifierRecipe]:
    return study.recipes(next(each for each in study.all_arms() if each.name == arm), 7, Path("runs"))


def test_an_arm_is_the_study_s_recipe_with_what_it_names() -> None:
    real, both = (recipes(small(), name)[0] for name in ("real", "with"))
    assert replace(real, name="", synthetic=[], synthetic_held_out=0) == replace(
        both, name="", synthetic=[], synthetic_held_out=0, synthetic_ratio=[]
    )
    assert (real.synthetic, both.synthetic, both.synthetic_ratio) == ([], ["made"], [0.5, 4.0])
    assert (real.seed, real.max_train_steps, both.synthetic_held_out) == (7, 100, 200)


def test_arms_with_synthetic_images_are_known_as_such_also_where_only_the_first_training_has_them() -> None:
    study = small(arms={"real": {"focal_gamma": 2.0}, "pre": {"first": {"synthetic_ratio": [1.0, 1.0]}}})
    assert {arm.name: arm.synthetic for arm in study.all_arms()} == {"real": False, "pre": True}


def test_a_first_training_takes_half_of_the_updates_and_hands_on_its_weights() -> None:
    study = small(arms={"real": None, "pre": {"first": {"real_images": False, "synthetic_ratio": [1.0, 1.0]}}})
    first, second = recipes(study, "pre")
    assert (first.max_train_steps, second.max_train_steps) == (50, 50)
    assert (first.real_images, second.real_images, second.synthetic_ratio) == (False, True, [])
    assert (second.pretrained, second.model) == (str(Path("runs/pre/seed-7-first")), {})
    # The last weights are handed on, not those that saw few synthetic images and do best on real ones.
    assert (first.validation_images, second.validation_images) == (0, None)
    third = small(arms={"real": None, "pre": {"first": {"synthetic_ratio": [1.0, 1.0], "max_train_steps": 20}}})
    assert [each.max_train_steps for each in recipes(third, "pre")] == [20, 80]


def test_what_chooses_weights_looks_as_often_at_the_validation_however_short_it_is() -> None:
    arms = {"real": None, "pre": {"first": {"synthetic_ratio": [1.0, 1.0], "max_train_steps": 20}}}
    study = small(arms=arms, recipe={"max_train_steps": 100, "validate_every": 10, "sizes": {"train": [50, 5]}})
    (real,), (_, second) = recipes(study, "real"), recipes(study, "pre")
    assert [(each.max_train_steps, each.validate_every) for each in (real, second)] == [(100, 10), (80, 8)]


def test_a_filter_is_judged_by_the_named_arm_of_the_same_seed() -> None:
    kept = {"synthetic_ratio": [0.0, 1.0], "filtered_by": "real", "synthetic_filter": {"confidence": 0.7}}
    arms = {"real": None, "kept": kept}
    assert recipes(small(arms=arms), "kept")[0].synthetic_filter == {
        "confidence": 0.7,
        "classifier": str(Path("runs/real/seed-7")),
    }


def test_the_budget_in_epochs_is_of_the_real_images_whatever_the_arm() -> None:
    study = small(recipe={"num_train_epochs": 10.0, "train_batch_size": 11, "sizes": {"train": [50, 5]}, "scale": 2.0})
    assert study.updates == 100
    assert {recipes(study, name)[0].max_train_steps for name in ("real", "with")} == {100}
    assert recipes(study, "real")[0].validate_every == 10


def test_doses_are_arms_with_other_numbers_of_synthetic_or_real_images() -> None:
    dose = {"arm": "with", "ratios": [1, 2], "real_arm": "real", "more_real": [10]}
    arms = {arm.name: arm for arm in small(dose=dose).all_arms()}
    assert list(arms) == ["real", "with", "with, 1 for each real one", "with, 2 for each real one", "real, 10 real"]
    one = recipes(small(dose=dose), "with, 1 for each real one")[0]
    assert one.synthetic_ratio == [0.125, 1.0]  # the normal ones in the same proportion
    assert recipes(small(dose=dose), "real, 10 real")[0].sizes["train"] == [50, 10]


MEASURED = Path(__file__).parents[2] / "benchmarks" / "studies"


@pytest.mark.parametrize(
    "path", [*sorted(shelf("training/studies").glob("*.yaml")), *sorted(MEASURED.glob("*.yaml"))], ids=lambda p: p.stem
)
def test_every_study_that_is_shipped_or_measured_is_read_and_written_back(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(study.to_dict()))
    assert load_study(tmp_path / "copy.yaml") == study


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": {"with": {"synthetic_ratio": [0.0, 1.0]}}}, "All arms of the study have synthetic images"),
        ({"arms": {"real": None, "Real!": None}}, "too alike"),
        ({"arms": {1: None, "1": {"synthetic_ratio": [0.0, 1.0]}}}, "too alike: 1, 1"),
        ({"arms": {"real": {"oversampling": True}}}, "The arm real: .*Did you mean oversample"),
        ({"arms": {"real": {"max_train_steps": 7}}}, "another budget than max_train_steps 100"),
        ({"arms": {"real": {"train_batch_size": 7}}}, "another budget"),
        ({"arms": {"real": None, "kept": {"filtered_by": "nobody"}}}, "filtered by 'nobody'"),
        ({"arms": {"real": [1]}}, "must be a mapping"),
        ({"recipe": {}}, "no budget"),
        ({"recipe": {"max_train_steps": 10, "seed": 3}}, "has seed, which the study or its arms set"),
        ({"generated": [{"folder": "made"}]}, "each needs a folder, and the model"),
        ({"seeds": [1, 1]}, "must be different"),
        ({"specificity": 95.0}, "must lie between 0 and 1"),
        ({"arm": {}}, "Did you mean arms"),
        ({"dose": {"arm": "with"}}, "needs arm, ratios, real_arm and more_real"),
        (
            {"dose": {"arm": "real", "ratios": [1], "real_arm": "real", "more_real": [9]}},
            "an arm with synthetic images",
        ),
        ({"dose": {"arm": "with", "ratios": [1], "real_arm": "with", "more_real": [9]}}, "an arm without"),
        ({"primary": "real"}, "primary is 'real'; it must be an arm with synthetic images: with."),
        ({"primary": "without"}, "primary is 'without'; it must be an arm"),
    ],
)
def test_a_study_that_means_nothing_is_refused_with_what_would(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        small(**changes)


MADE = {"synthetic_ratio": [0.0, 1.0]}
DOSE = {"arm": "with", "ratios": [1], "real_arm": "real", "more_real": [9]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # What the study sets is no arm's: another folder would be trained on without proof of where it comes from.
        ({"arms": {"real": None, "with": {**MADE, "synthetic": ["other"]}}}, "arm with has synthetic, which the study"),
        ({"arms": {"real": None, "with": {**MADE, "synthetic_held_out": 0}}}, "has synthetic_held_out, which the"),
        ({"arms": {"real": None, "with": {"first": {**MADE, "synthetic": ["b"]}}}}, "arm with has synthetic, which"),
        ({"arms": {"real": {"seed": 5}}}, "arm real has seed, which the study sets"),
        ({"recipe": {"max_train_steps": 9, **MADE}}, "recipe has synthetic_ratio, which the study or its arms set"),
        # What judges is the same for all.
        ({"arms": {"real": None, "three": {"grades": "apart"}}, "recipe": {"max_train_steps": 9}},
         "arm three has another grades, and what judges"),
        ({"arms": {"real": {"where": {"stain": "MGG"}}}}, "arm real has another where"),
        ({"arms": {"real": {"abnormality": "dohle_bodies"}}}, "arm real has another abnormality"),
        ({"arms": {"real": {"scale": 0.5}}}, "arm real has another scale"),
        ({"arms": {"real": {"mixed_precision": "bf16"}}}, "arm real has another mixed_precision"),
        ({"arms": {"real": {"validate_every": 7}}}, "arm real has another validate_every"),
        ({"arms": {"real": None, "kept": {**MADE, "synthetic_filter": {"classifier": "other"}}}},
         "arm kept names a classifier in its synthetic_filter, of which nobody knows"),
        ({"arms": {"real": None, "pre": {"first": {**MADE, "synthetic_filter": {"classifier": "other"}}}}},
         "arm pre names a classifier"),
        ({"arms": {"real": {"sizes": {"train": [5, 5], "test": [9, 9]}}}}, "arm real has another sizes of test"),
        ({"arms": {"real": None, "pre": {"first": {**MADE, "grades": "apart"}}}}, "list of 3 numbers"),
        # Parts that mean nothing.
        ({"arms": {"real": None, "pre": {"first": [1]}}}, r"arm pre has first \[1\]; it must be a mapping"),
        ({"arms": {"real": None, "kept": {"filtered_by": "real"}}}, "kept is filtered, but has no synthetic images"),
        ({"arms": {"a": {**MADE, "filtered_by": "b"}, "b": {**MADE, "filtered_by": "c"}, "c": None}},
         "filtered by 'b', which must be an arm that is not filtered itself"),
        ({"arms": {"kept": {**MADE, "filtered_by": "real"}, "real": [1]}}, "arm real is .*; it must be a mapping"),
        ({"arms": {"real": None, "kept": {**MADE, "synthetic_filter": {"confidence": 0.9}}}},
         "arm kept has a synthetic_filter, but no judge: name an arm by filtered_by"),
        ({"arms": {"real": None, "kept": {"filtered_by": "real", "first": {**MADE, "synthetic_filter": {"a": 1}}}}},
         "arm kept has synthetic_filter in first"),
        ({"arms": {"real": {"num_train_epochs": 9.0}}}, "arm real has num_train_epochs, and the budget is in updates"),
        ({"arms": {"real": None, "pre": {"first": {**MADE, "num_train_epochs": 9.0}}}}, "arm pre has num_train_epochs"),
        ({"arms": {"real": None, "pre": {"first": MADE, "pretrained": "other"}}}, "has pretrained beside first"),
        ({"arms": {"real": None, "pre": {"first": MADE, "model": {"depths": [1]}}}}, "has model beside first"),
        ({"arms": {"real": None, "kept": {**MADE, "filtered_by": "real", "background": [240, 230, 235]}}},
         "has another background than real, which judges"),
        ({"arms": {"real": None, "kept": {**MADE, "filtered_by": "real", "background": 240}}}, "another background"),
        ({"generated": [{"folder": "made", "model": "a"}, {"folder": "made", "model": "b"}]}, "a folder twice: made"),
        ({"generated": "made"}, "generated is 'made'; it must be a list of mappings"),
        ({"recipe": {"max_train_steps": "fast"}}, "max_train_steps is 'fast'; it must be a whole number"),
        ({"recipe": {"max_train_steps": 1}, "arms": {"real": None, "pre": {"first": {}}}}, "max_train_steps is 0"),
        ({"seeds": []}, "must be different whole numbers"),
        ({"replicates": 99}, "replicates of 100 or more"),
        # Doses.
        ({"dose": DOSE, "arms": {"real": None, "with": {"first": MADE}}}, "dose's arm with has no synthetic abnormal"),
        ({"dose": DOSE, "arms": {"real": None, "with": {"synthetic_ratio": [1.0, 0.0]}}}, "has no synthetic abnormal"),
        ({"dose": DOSE, "arms": {"real": None, "with": {"synthetic_ratio": [1.0]}}}, "has no synthetic abnormal"),
        ({"dose": {**DOSE, "ratios": 3}}, "dose's ratios are 3; they must be a list of numbers above 0"),
        ({"dose": {**DOSE, "more_real": [0]}}, r"dose's more_real are \[0\]"),
        ({"dose": DOSE, "recipe": {"max_train_steps": 9, "sizes": None}}, "recipe's sizes is None"),
        ({"dose": DOSE, "recipe": {"max_train_steps": 9}}, "set sizes of train"),
        ({"dose": DOSE, "recipe": {"max_train_steps": 9, "sizes": {"train": [5, None]}}}, "set sizes of train"),
        ({"dose": DOSE, "recipe": {"max_train_steps": 9, "grades": "apart"}}, "A dose-response is of two classes"),
        ({"dose": {**DOSE, "ratios": [4.0]}}, r"The dose's numbers of images are \[20, 20\]"),
        ({"dose": {**DOSE, "more_real": [10, 10]}}, r"The dose's numbers of images are \[5, 10, 10\]"),
        ({"dose": {**DOSE, "more_real": []}}, r"\[5\], .* they must be two or more, all different"),
        ({"dose": {**DOSE, "more_real": [6]},
          "recipe": {"max_train_steps": 1, "scale": 0.1, "sizes": {"train": [9, 5]}}},
         r"\[1, 1\], of which the first is the arm's own, by the scale 0.1"),
        ({"dose": DOSE, "arms": {"real": None, "with": {**MADE, "first": MADE}}}, "no first training has"),
        ({"dose": DOSE, "arms": {"real": {"first": {"oversample": True}}, "with": MADE}}, "must be its real_arm real"),
        ({"dose": DOSE, "arms": {"real": None, "with": {**MADE, "oversample": True}}}, "must be its real_arm real"),
        ({"dose": DOSE, "arms": {"real": None, "with": {**MADE, "filtered_by": "real"}}}, "that no filter counts"),
        ({"dose": DOSE, "arms": {n: {**m, "sizes": {"train": [9, 2]}} for n, m in (("real", {}), ("with", MADE))}},
         "neither may have sizes of its own"),
    ],
)  # fmt: skip
def test_a_study_that_could_not_be_compared_is_refused_before_any_training(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        small(**changes)


def test_arms_may_train_on_other_images_and_look_at_them_otherwise() -> None:
    arms = {"real": None, "few": {"sizes": {"train": [9, 3]}}, "wide": {"resolution": 64, "train_batch_size": 32}}
    assert recipes(small(arms=arms), "few")[0].sizes == {"train": [9, 3]}
    assert recipes(small(arms=arms), "wide")[0].resolution == 64  # and 32 is the default


def test_a_filter_is_of_every_training_of_its_arm_that_takes_synthetic_images() -> None:
    first = {"real_images": False, "synthetic_ratio": [1.0, 1.0]}
    asked = {"filtered_by": "real", "synthetic_filter": {"confidence": 0.7}}
    wanted = {"confidence": 0.7, "classifier": str(Path("runs/real/seed-7"))}
    for more, second in (({}, {}), (MADE, wanted)):
        arms = {"real": None, "kept": {**more, **asked, "first": first}}
        assert [each.synthetic_filter for each in recipes(small(arms=arms), "kept")] == [wanted, second]


def test_numbers_are_read_as_a_recipe_reads_them() -> None:
    assert small(recipe={"max_train_steps": "1e3"}).updates == 1000  # text to YAML 1.1
    epochs = {"num_train_epochs": "1e1", "train_batch_size": 5, "sizes": {"train": [50, 5]}, "scale": "2e-1"}
    assert small(recipe=epochs).updates == 22
    dose = {"arm": "with", "ratios": [1], "real_arm": "real", "more_real": [10]}
    assert len(small(recipe={**epochs, "max_train_steps": 9}, dose=dose).all_arms()) == 4


def test_files_that_are_no_study_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no study"):
        load_study(tmp_path / "none.yaml")
    for text, told in (("- a", "must be a mapping"), ("a: [", "is not YAML"), ("data: x", "has no arms, recipe")):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(ValueError, match=told):
            load_study(tmp_path / "s.yaml")
