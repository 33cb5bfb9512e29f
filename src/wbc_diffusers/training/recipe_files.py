"""Recipes in YAML files, and their fields as options of a command line."""

import argparse
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from wbc_diffusers.training.fields import alternatives, read_mapping
from wbc_diffusers.training.recipe import RECIPES, Recipe


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a YAML recipe and lay the overrides over it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a mapping with a known `kind`, or a field is unknown or doesn't fit.
    """
    values = read_mapping(path, "recipe", "a YAML file, or the name of a recipe of the package")
    if values.get("kind") not in RECIPES:
        raise ValueError(f"The recipe {path} must be a mapping with kind: one of {', '.join(RECIPES)}.")
    return RECIPES[values["kind"]].from_dict({"name": path.stem, **values, **(overrides or {})})


def override_parser(recipe_class: type[Recipe]) -> argparse.ArgumentParser:
    """Make the command-line options of a recipe: its fields with dashes, their values written as in YAML."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    hints = get_type_hints(recipe_class)
    for option, name in _options(recipe_class).items():
        read = _text_value if str in alternatives(hints[name]) else _yaml_value
        parser.add_argument(option, dest=name, type=read)
    return parser


def _options(recipe_class: type[Recipe]) -> dict[str, str]:
    """The fields by their options; `kind` has none, since it says which class reads the file."""
    names = [f.name for f in dataclasses.fields(recipe_class) if f.name != "kind"]
    return {"--" + name.replace("_", "-"): name for name in names}


def parse_overrides(recipe_class: type[Recipe], arguments: Sequence[str], others: Sequence[str] = ()) -> dict[str, Any]:
    """Turn `--learning-rate 1e-4 --random-flip true` into fields of a recipe.

    Args:
        recipe_class: The recipe.
        arguments: The command line.
        others: Options of the command that are no fields, to be named where a misspelt one is near them.

    Raises:
        ValueError: If an option is no field of the recipe, or lacks a value.
    """
    parser = override_parser(recipe_class)
    parser.exit_on_error = False
    try:
        values, unknown = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown:
        option = unknown[0].split("=")[0]
        kinds = [kind for kind, other in RECIPES.items() if option in _options(other)]
        near = difflib.get_close_matches(option, [*others, *_options(recipe_class)], 1)
        hint = f"Did you mean {near[0]}?" if near else "The options are the recipe's fields with dashes."
        if kinds:
            hint = f"It is for a recipe of kind {' or '.join(kinds)}, and this one is another."
        raise ValueError(f"Unknown option {unknown[0]!r}. {hint}")
    return vars(values)


def _yaml_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not YAML: {str(error).splitlines()[0]}") from error


def _text_value(text: str) -> str | None:
    return None if text in ("null", "~", "") else text
