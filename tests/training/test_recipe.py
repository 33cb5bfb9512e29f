"""Recipes: files, values, overrides."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from wbc_diffusers.shelves import shelf
from wbc_diffusers.training.recipe import ClassifierRecipe, DDIMRecipe, GANRecipe, Recipe
from wbc_diffusers.training.recipe_files import load_recipe, parse_overrides


@pytest.mark.parametrize("path", sorted(shelf("training/recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_on_the_shelf_is_read_and_written_back(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_recipe(tmp_path / "copy.yaml") == recipe


def test_the_defaults_and_recipes_are_those_of_table_7() -> None:
    thesis = {"learning_rate": 3e-4, "train_batch_size": 20, "weight_decay": 1e-4, "optimizer": "adamw", "loss": "l1"}
    epochs = {"ddim-base": 60, "ddim-hypersegmentation": 64, "ddim-dohle-bodies": 40, "ddim-hypergranulation": 74}
    for name, count in epochs.items():
        recipe = load_recipe(shelf("training/recipes") / f"{name}.yaml").to_dict()
        assert {key: recipe[key] for key in thesis} == thesis
        assert recipe["num_train_epochs"] == count
        assert recipe["scheduler"]["min_signal_rate"] == (0.01 if name == "ddim-base" else 0.008)
        assert recipe["resolution"] == 192


@pytest.mark.parametrize(
    ("written", "field", "meant"),
    [
        ("learning_rate: 3e-4", "learning_rate", 3e-4),  # text to YAML 1.1
        ("learning_rate: 1", "learning_rate", 1.0),
        ("max_train_steps: 1e3", "max_train_steps", 1000),
        ("mixed_precision: no", "mixed_precision", "no"),  # false to YAML 1.1
        ("adam_betas: [0.5, 0.9]", "adam_betas", (0.5, 0.9)),
        ("where: {grade: 2}", "where", {"grade": 2}),
        ("max_grad_norm: null", "max_grad_norm", None),
    ],
)
def test_values_mean_what_they_say(tmp_path: Path, written: str, field: str, meant: Any) -> None:
    (tmp_path / "r.yaml").write_text(f"kind: ddim\n{written}\n")
    value = getattr(load_recipe(tmp_path / "r.yaml"), field)
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["--learning-rate", "1e-4", "--random-flip", "true"], {"learning_rate": 1e-4, "random_flip": True}),
        (["--learning-rate=2"], {"learning_rate": 2.0}),
        (["--where", "{abnormality: none, grade: 0}"], {"where": {"abnormality": "none", "grade": 0}}),
        (["--model", "{block_out_channels: [4, 8]}"], {"model": {"block_out_channels": [4, 8]}}),
        (["--pretrained", "2024"], {"pretrained": "2024"}),  # a folder may be called so
        (["--name", "no"], {"name": "no"}),
        (["--class-column", "null"], {"class_column": None}),
        (["--mixed-precision", "no"], {"mixed_precision": "no"}),
        (["--adam-betas", "[0.5, 0.9]"], {"adam_betas": (0.5, 0.9)}),
    ],
)
def test_options_are_fields_with_values_as_in_yaml(options: list[str], fields: dict[str, Any]) -> None:
    recipe = DDIMRecipe.from_dict(parse_overrides(DDIMRecipe, options))
    assert recipe == dataclasses.replace(DDIMRecipe(), **fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rat", "1"], r"Unknown option '--learning-rat'. Did you mean --learning-rate\?"),
        (["--outptu", "x"], r"Did you mean --output\?"),
        (["--zzzzz", "1"], "The options are the recipe's fields with dashes"),
        (["stray"], "Unknown option 'stray'"),
        (["--seed"], "--seed: expected one argument"),
        (["--kind", "gan"], "Unknown option '--kind'. The options are"),
        (["--r1-weight", "1"], "'--r1-weight'. It is for a recipe of kind gan, and this one is another"),
        (["--synthetic-ratio", "[0, 1]"], "'--synthetic-ratio'. It is for a recipe of kind classifier, and this one"),
        (["--where", "{a: "], "--where: '{a: ' is not YAML"),
    ],
)
def test_a_wrong_option_is_told(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_overrides(DDIMRecipe, options, ["--output"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("learning_rat", 1, r"no field 'learning_rat'. Did you mean learning_rate\?"),
        ("zzz", 1, "no field 'zzz'. The fields are adam_betas,"),
        ("learning_rate", "fast", "learning_rate is 'fast'; it must be a number"),
        ("learning_rate", math.nan, "learning_rate is nan; it must be a finite number"),
        ("learning_rate", -1, "learning_rate is -1.0; it must be above 0"),
        ("train_batch_size", 2.5, "train_batch_size is 2.5; it must be a whole number"),
        ("train_batch_size", True, "train_batch_size is True; it must be a whole number"),
        ("max_train_steps", 0, "max_train_steps is 0; it must be above 0"),
        ("validate_every", 0, "validate_every is 0; it must be above 0"),
        ("snapshot_every_epochs", 0.004, "snapshot_every_epochs is 0.004; it must be 0.01 or more"),
        ("seed", 2**32, "it must be below 2.32"),
        ("lr_warmup_steps", 5, "but lr_scheduler constant, which has none: set it constant_with_warmup"),
        ("num_workers", -1, "num_workers is -1; it must be 0 or more"),
        ("ema_decay", 1, r"ema_decay is 1.0; it must lie in \[0, 1\)"),
        ("adam_betas", [0.9, 1.5], r"adam_betas is \(0.9, 1.5\); it must lie in"),
        ("adam_betas", [0.9], "adam_betas is .*; it must be a list of 2 numbers"),
        ("optimizer", "lion", "optimizer is 'lion'; it must be one of adamw, adam, sgd"),
        ("random_flip", "yes please", "random_flip is 'yes please'; it must be true or false"),
        ("where", 3, "where is 3; it must be a mapping"),
        ("max_train_samples", 0, "max_train_samples is 0; it must be above 0"),
        ("snr_gamma", 5.0, "snr_gamma is 5.0, and its loss l1: .* Set loss l2, or snr_gamma null"),
    ],
)
def test_a_wrong_field_or_value_is_told(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDIMRecipe.from_dict({field: value})


@pytest.mark.parametrize("text", ["", "[1, 2]", "kind: dream", "learning_rate: 1.0", "a: b: c"])
def test_a_file_that_is_no_recipe_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"must be a mapping( with kind: one of ddim|\.$)|is not YAML"):
        load_recipe(tmp_path / "r.yaml")


def test_a_recipe_with_tuples_is_plain_data_all_the_way_down() -> None:
    recipe = DDIMRecipe(model={"block_out_channels": (4, 8)})
    assert recipe.to_dict()["model"] == {"block_out_channels": [4, 8]}
    assert recipe.to_dict()["adam_betas"] == [0.9, 0.999]
    assert isinstance(recipe, Recipe)


def test_a_stream_can_not_be_cut_to_a_number_of_images() -> None:
    assert DDIMRecipe(max_train_samples=5).max_train_samples == 5
    with pytest.raises(ValueError, match="max_train_samples, which a stream can't choose: set streaming false"):
        DDIMRecipe(max_train_samples=5, streaming=True)


# Classifiers.

SYNTHETIC = {"synthetic": ["made"], "synthetic_ratio": [0.0, 1.0]}


def test_the_defaults_of_a_classifier_are_those_of_section_4_4() -> None:
    thesis = {
        "pretrained": "google/mobilenet_v2_0.75_160", "abnormality": "hypersegmentation", "grades": "merged",
        "optimizer": "adam", "learning_rate": 5e-6, "num_train_epochs": 150.0, "resolution": 192,
    }  # fmt: skip
    recipe = ClassifierRecipe()
    assert {name: getattr(recipe, name) for name in thesis} == thesis
    assert (recipe.num_classes, ClassifierRecipe(grades="apart").num_classes) == (2, 3)
    plain = ("oversample", "class_weights", "focal_gamma", "rand_augment", "mixup_alpha", "background", "ema_decay")
    assert not any(getattr(recipe, name) for name in plain)


def test_options_of_a_classifier_are_read_as_in_yaml() -> None:
    options = ["--sizes", "{train: [9, null]}", "--synthetic", "[a, b]", "--synthetic-ratio", "[0, 2]"]
    options += ["--rand-augment", "[2, 9]", "--image-mean", "[0, 1, 0.5]", "--pretrained", "null", "--scale", "1"]
    recipe = ClassifierRecipe.from_dict(parse_overrides(ClassifierRecipe, options))
    assert recipe == ClassifierRecipe(
        sizes={"train": [9, None]}, synthetic=["a", "b"], synthetic_ratio=[0.0, 2.0], rand_augment=(2, 9),
        image_mean=(0.0, 1.0, 0.5), pretrained=None, scale=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_images": 64}, "can't have validation_images 64, .* rarer classes: set sizes of validation"),
        ({"rand_augment": [0, 9]}, r"rand_augment is \[0, 9\]; it must be a number of operations above 0"),
        ({"rand_augment": [2, 31]}, r"rand_augment is \[2, 31\]; .* a magnitude from 0 to 30"),
        ({"rand_augment": [2, -1]}, "a magnitude from 0 to 30"),
        ({"rand_augment": [2]}, "must be a list of 2 numbers or null"),
        ({**SYNTHETIC, "synthetic_ratio": [0.0, math.inf]}, "a list of 2 numbers of 0 or more"),
        ({**SYNTHETIC, "synthetic_ratio": [0.0, math.nan]}, "a list of 2 numbers of 0 or more"),
        ({"sizes": {"train": [1.5, 2]}}, "a list of 2 numbers of 0 or more"),
        ({"sizes": {"train": 5}}, "sizes of train are 5"),
        ({"synthetic_held_out": -1}, "synthetic_held_out is -1; it must be 0 or more"),
        ({"scale": 0}, "scale is 0.0; it must be above 0"),
        ({"focal_gamma": -1}, "focal_gamma is -1.0; it must be 0 or more"),
        ({"abnormality": "none"}, "abnormality is 'none'; it must be one of hypersegmentation"),
        ({"streaming": True}, "can't have streaming True"),
        ({"max_train_samples": 9}, "can't have max_train_samples 9"),
        ({"class_column": "x"}, "can't have class_column x"),
        ({"evaluate_every": 5}, "can't have evaluate_every 5"),
    ],
)
def test_a_classifier_that_can_not_be_trained_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierRecipe.from_dict(changes)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"confidence": "high"}, r"confidence 'high'; it must lie in \[0, 1\]"),
        ({"confidence": 1.5}, "confidence 1.5"),
        ({"confidence": None}, "confidence None"),
        ({"similarity": -0.1}, "similarity -0.1"),
        ({"similarity": math.nan}, "similarity nan"),
    ],
)
def test_a_filter_asks_for_shares(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierRecipe.from_dict({**SYNTHETIC, "synthetic_filter": {"classifier": "judge", **asked}})
    whole = {"classifier": "judge", "confidence": 1, "similarity": None}
    assert ClassifierRecipe.from_dict({**SYNTHETIC, "synthetic_filter": whole}).synthetic_filter == whole


def test_without_validation_is_a_choice() -> None:
    assert ClassifierRecipe(validation_images=0).validation_images == 0
    assert ClassifierRecipe().validation_images is None
    assert (DDIMRecipe().validation_images, GANRecipe().validation_images) == (64, 64)
