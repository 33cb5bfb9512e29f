"""Recipes: files, values, overrides."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from wbc_diffusers.shelves import shelf
from wbc_diffusers.training.recipe import DDIMRecipe, Recipe
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
        ("seed", 2**63, "it must be below 2.63"),
        ("num_workers", -1, "num_workers is -1; it must be 0 or more"),
        ("ema_decay", 1, r"ema_decay is 1.0; it must lie in \[0, 1\)"),
        ("adam_betas", [0.9, 1.5], r"adam_betas is \(0.9, 1.5\); it must lie in"),
        ("adam_betas", [0.9], "adam_betas is .*; it must be a list of 2 numbers"),
        ("optimizer", "lion", "optimizer is 'lion'; it must be one of adamw, adam, sgd"),
        ("random_flip", "yes please", "random_flip is 'yes please'; it must be true or false"),
        ("where", 3, "where is 3; it must be a mapping"),
        ("snr_gamma", 5.0, "snr_gamma is 5.0, and its loss l1: .* Set loss l2, or snr_gamma null"),
    ],
)
def test_a_wrong_field_or_value_is_told(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDIMRecipe.from_dict({field: value})


@pytest.mark.parametrize("text", ["", "[1, 2]", "kind: dream", "learning_rate: 1.0", "a: b: c"])
def test_a_file_that_is_no_recipe_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"must be a mapping with kind: one of ddim|is not YAML"):
        load_recipe(tmp_path / "r.yaml")


def test_a_recipe_with_tuples_is_plain_data_all_the_way_down() -> None:
    recipe = DDIMRecipe(model={"block_out_channels": (4, 8)})
    assert recipe.to_dict()["model"] == {"block_out_channels": [4, 8]}
    assert recipe.to_dict()["adam_betas"] == [0.9, 0.999]
    assert isinstance(recipe, Recipe)
