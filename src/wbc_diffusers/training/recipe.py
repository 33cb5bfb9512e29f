"""Recipes: dataclasses with the thesis's values as defaults, YAML files with what differs, overrides by field name."""

import argparse
import dataclasses
import difflib
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import yaml

_ABOVE_ZERO = {
    "resolution", "num_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "max_grad_norm", "shuffle_buffer", "checkpoint_every", "keep_checkpoints", "validate_every",
    "sample_every", "sample_steps", "log_every", "snr_gamma", "snapshot_every_epochs", "discriminator_learning_rate",
    "discriminator_updates", "generator_updates", "evaluate_every", "evaluate_images",
}  # fmt: skip
_ZERO_OR_MORE = {
    "seed", "weight_decay", "lr_warmup_steps", "num_workers", "validation_images", "sample_images", "r1_weight",
    "frozen_layers",
}  # fmt: skip
_BELOW_ONE = {"ema_decay", "momentum", "adam_betas"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every training has in common; each kind of training adds its own fields.

    `train_batch_size` counts the images of one update over all processes and accumulated batches, so a recipe means
    the same on one CPU and on 64 GPUs.
    """

    kind: str
    name: str = "unnamed"
    seed: int = 0
    resolution: int = 192
    num_train_epochs: float = 60.0
    max_train_steps: int | None = None
    train_batch_size: int = 20
    gradient_accumulation_steps: int = 1
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    adam_betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"] = "constant"
    lr_warmup_steps: int = 0
    max_grad_norm: float | None = 1.0
    ema_decay: float = 0.999
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    random_flip: bool = False
    random_turn: bool = False
    where: dict[str, Any] = field(default_factory=dict)
    class_column: str | None = None
    streaming: bool = False
    shuffle_buffer: int = 1000
    num_workers: int = 2
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    validate_every: int = 500
    validation_images: int = 64
    sample_every: int = 1000
    sample_images: int = 24
    snapshot_every_epochs: float | None = None
    evaluate_every: int | None = None
    evaluate_images: int = 200
    evaluate_encoder: str = "inception-v3"
    log_every: int = 10
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    pretrained: str | None = None
    fine_tuning: bool = False
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if not _fits(value, hints[f.name]):
                raise ValueError(f"The recipe's {f.name} is {value!r}; it must be {_wanted(hints[f.name])}.")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"The recipe's {f.name} is {value}; it must be a finite number.")
            # Some fields may be null; what is no number was refused above.
            if f.name in _ABOVE_ZERO and value is not None and value <= 0:
                raise ValueError(f"The recipe's {f.name} is {value}; it must be above 0.")
            if f.name in _ZERO_OR_MORE and value < 0:
                raise ValueError(f"The recipe's {f.name} is {value}; it must be 0 or more.")
            if f.name == "seed" and value >= 2**63:
                raise ValueError(f"The recipe's seed is {value}; it must be below 2^63.")
            if f.name == "snapshot_every_epochs" and value is not None and value < 0.01:
                raise ValueError(f"The recipe's {f.name} is {value}; it must be 0.01 or more, or null for none.")
            if f.name in _BELOW_ONE and not all(0.0 <= v < 1.0 for v in (value if f.name == "adam_betas" else [value])):
                raise ValueError(f"The recipe's {f.name} is {value}; it must lie in [0, 1).")

        if self.push_to_hub and not self.hub_model_id:
            raise ValueError(
                "The recipe has push_to_hub, but no hub_model_id: set it, such as somebody/wbc-neutrophils."
            )

    def require_pretrained(self) -> None:
        """Raise ValueError if the recipe is for fine-tuning, and no model is given to start from."""
        if self.fine_tuning and not self.pretrained:
            raise ValueError(
                f"The recipe {self.name} is for fine-tuning: give the model to start from by --pretrained MODEL, or "
                "train anew by --fine-tuning false."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a recipe of a mapping.

        Raises:
            ValueError: If a field is unknown (the nearest known one is named) or a value doesn't fit its field.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f" Did you mean {near[0]}?" if near else f" The fields are {', '.join(sorted(known))}."
                raise ValueError(f"A {cls.__name__} has no field {name!r}.{hint}")
        hints = get_type_hints(cls)
        return cls(**{name: _coerce(value, hints[name]) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, as it goes into YAML and into the manifest."""
        return plain(dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class DDIMRecipe(Recipe):
    """Training of a diffusion model; the defaults are the thesis's (table 7)."""

    kind: str = "ddim"
    model: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    loss: Literal["l1", "l2"] = "l1"
    snr_gamma: float | None = None
    solver: str | None = None
    sample_steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.snr_gamma is not None and self.loss != "l2":
            raise ValueError(
                f"The recipe's snr_gamma is {self.snr_gamma}, and its loss {self.loss}: these weights are for squared "
                "errors. Set loss l2, or snr_gamma null."
            )


@dataclass(frozen=True, kw_only=True)
class GANRecipe(Recipe):
    """Training of a generator against a discriminator; the defaults are the thesis's (tables 5 and 6).

    `learning_rate` is the generator's, and the discriminator's too unless it has one of its own.
    `discriminator_updates` counts those for each update of the generator, `generator_updates` the reverse.
    """

    kind: str = "gan"
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    num_train_epochs: float = 150.0
    optimizer: Literal["adamw", "adam", "sgd"] = "adam"
    learning_rate: float = 1e-5
    discriminator_learning_rate: float | None = None
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    ema_decay: float = 0.0
    snapshot_every_epochs: float | None = 10.0
    loss: Literal["minimax", "non_saturating", "hinge"] = "minimax"
    r1_weight: float = 0.0
    diff_augment: str | None = None
    discriminator_updates: int = 1
    generator_updates: int = 1
    frozen_layers: int = 0
    freeze_from: Literal["image", "output"] = "image"
    freeze_generator_norms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.discriminator_updates, self.generator_updates) > 1:
            raise ValueError(
                f"The recipe has discriminator_updates {self.discriminator_updates} for each of the generator's, and "
                f"generator_updates {self.generator_updates} for each of the discriminator's: leave one of them at 1."
            )
        if self.r1_weight and (self.mixed_precision == "fp16" or self.compile):
            raise ValueError(
                f"The recipe's r1_weight is {self.r1_weight}: its second derivatives don't go with mixed_precision "
                "fp16, where they underflow, nor with compile, which has none. Set no or bf16, and compile false."
            )
        if self.class_column is not None:
            raise ValueError("A GAN has no classes: set class_column null, and choose images by `where`.")
        if self.gradient_checkpointing:
            raise ValueError("A GAN has no gradient checkpointing: set gradient_checkpointing false.")


RECIPES: dict[str, type[Recipe]] = {"ddim": DDIMRecipe, "gan": GANRecipe}
"""Which recipe class reads a file of which `kind`."""


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a YAML recipe and lay the overrides over it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a mapping with a known `kind`, or a field is unknown or doesn't fit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}: give a YAML file, or the name of a recipe of the package.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"The recipe {path} is not YAML: {error}") from error
    if not isinstance(values, dict) or values.get("kind") not in RECIPES:
        raise ValueError(f"The recipe {path} must be a mapping with kind: one of {', '.join(RECIPES)}.")
    return RECIPES[values["kind"]].from_dict({"name": path.stem, **values, **(overrides or {})})


def override_parser(recipe_class: type[Recipe]) -> argparse.ArgumentParser:
    """Make the command-line options of a recipe: its fields with dashes, their values written as in YAML."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    hints = get_type_hints(recipe_class)
    for option, name in _options(recipe_class).items():
        read = _text_value if str in _alternatives(hints[name]) else _yaml_value
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


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down, as JSON and YAML give them back."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _coerce(value: Any, hint: Any) -> Any:
    """Bring a YAML value to its field's type where nothing is lost: 1 to 1.0, "3e-4" to 0.0003, a list to a tuple."""
    alternatives = _alternatives(hint)
    if isinstance(value, str) and str not in alternatives and not any(get_origin(a) is Literal for a in alternatives):
        # YAML 1.1 reads 3e-4 as text.
        try:
            value = float(value)
        except ValueError:
            return value
    if value is False and any("no" in get_args(a) for a in alternatives):
        return "no"  # YAML 1.1 reads a bare no as false.
    if isinstance(value, int) and not isinstance(value, bool) and float in alternatives and int not in alternatives:
        return float(value)
    if isinstance(value, float) and value.is_integer() and int in alternatives and float not in alternatives:
        return int(value)
    if isinstance(value, list) and any(get_origin(a) is tuple for a in alternatives):
        return tuple(value)
    return value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    for alternative in _alternatives(hint):
        origin = get_origin(alternative)
        if origin is Literal:
            fits = value in get_args(alternative)
        elif origin is tuple:
            parts = get_args(alternative)
            fits = isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
        elif alternative is float:
            fits = isinstance(value, float)
        elif alternative is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, origin or alternative)
        if fits:
            return True
    return False


def _wanted(hint: Any) -> str:
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    words = []
    for alternative in _alternatives(hint):
        origin = get_origin(alternative)
        if origin is Literal:
            words.append("one of " + ", ".join(map(str, get_args(alternative))))
        elif origin is tuple:
            words.append(f"a list of {len(get_args(alternative))} numbers")
        else:
            words.append(names.get(alternative, "a mapping"))
    return " or ".join(words)
