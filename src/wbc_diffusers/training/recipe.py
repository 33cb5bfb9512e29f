"""Recipes: dataclasses with the thesis's values as defaults."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, Self

from wbc_diffusers.data.labels import ABNORMALITIES
from wbc_diffusers.data.split import SPLITS
from wbc_diffusers.training.fields import check_fields, plain, read_fields

_ABOVE_ZERO = {
    "resolution", "num_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "max_grad_norm", "shuffle_buffer", "checkpoint_every", "keep_checkpoints", "validate_every",
    "sample_every", "sample_steps", "log_every", "snr_gamma", "snapshot_every_epochs", "discriminator_learning_rate",
    "discriminator_updates", "generator_updates", "evaluate_every", "evaluate_images", "max_train_samples", "scale",
    "mixup_alpha",
}  # fmt: skip
_ZERO_OR_MORE = {
    "seed", "weight_decay", "lr_warmup_steps", "num_workers", "validation_images", "sample_images", "r1_weight",
    "frozen_layers", "focal_gamma", "synthetic_held_out",
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
    max_train_samples: int | None = None
    class_column: str | None = None
    streaming: bool = False
    shuffle_buffer: int = 1000
    num_workers: int = 2
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    validate_every: int = 500
    validation_images: int | None = 64
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
        check_fields(self, "recipe")
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            # Some fields may be null; what is no number was refused above.
            if f.name in _ABOVE_ZERO and value is not None and value <= 0:
                raise ValueError(f"The recipe's {f.name} is {value}; it must be above 0.")
            if f.name in _ZERO_OR_MORE and value is not None and value < 0:
                raise ValueError(f"The recipe's {f.name} is {value}; it must be 0 or more.")
            if f.name == "seed" and value >= 2**32:
                raise ValueError(f"The recipe's seed is {value}; it must be below 2^32, as torch's generators are.")
            if f.name == "snapshot_every_epochs" and value is not None and value < 0.01:
                raise ValueError(f"The recipe's {f.name} is {value}; it must be 0.01 or more, or null for none.")
            if f.name in _BELOW_ONE and not all(0.0 <= v < 1.0 for v in (value if f.name == "adam_betas" else [value])):
                raise ValueError(f"The recipe's {f.name} is {value}; it must lie in [0, 1).")

        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError(
                f"The recipe has lr_warmup_steps {self.lr_warmup_steps}, but lr_scheduler constant, which has none: "
                "set it constant_with_warmup."
            )
        if self.streaming and self.max_train_samples is not None:
            raise ValueError("The recipe has max_train_samples, which a stream can't choose: set streaming false.")
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
        return cls(**read_fields(cls, values))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, as it goes into YAML and into the manifest."""
        return plain(dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class DDIMRecipe(Recipe):
    """Training of a diffusion model; the defaults are the thesis's (table 7), but that gradients are clipped."""

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


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Recipe):
    """Training of the classifier that the synthetic images are for; the defaults are the thesis's (section 4.4).

    Class 0 is `normal`: cells without the abnormality. Lists that go by class hold two numbers (normal, abnormal), or
    three where `grades` are `apart` (normal, grade 1, grade 2).

    `sizes` are the real images of train, validation and test by class, null for all there are, and `synthetic_ratio`
    synthetic ones for each real one; the last `synthetic_held_out` of each class in a folder are never taken. `scale`
    multiplies all numbers of images. `synthetic_filter` names the folder of
    the `classifier` that judges synthetic images, and what it asks of them: a `confidence` in their class, and a
    `similarity` to the real ones. Validation images of each class count alike, as if the fewer were oversampled.
    """

    kind: str = "classifier"
    pretrained: str | None = "google/mobilenet_v2_0.75_160"
    model: dict[str, Any] = field(default_factory=dict)
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    num_train_epochs: float = 150.0
    train_batch_size: int = 32
    optimizer: Literal["adamw", "adam", "sgd"] = "adam"
    learning_rate: float = 5e-6
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    ema_decay: float = 0.0
    validation_images: int | None = None
    sample_images: int = 0
    abnormality: str = "hypersegmentation"
    grades: Literal["merged", "apart"] = "merged"
    sizes: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    synthetic: list[str] = field(default_factory=list)
    synthetic_ratio: list[float] = field(default_factory=list)
    synthetic_filter: dict[str, Any] = field(default_factory=dict)
    synthetic_held_out: int = 0
    real_images: bool = True
    oversample: bool = False
    class_weights: bool = False
    focal_gamma: float | None = None
    rand_augment: tuple[int, int] | None = None
    mixup_alpha: float | None = None
    background: tuple[float, float, float] | None = None

    @property
    def num_classes(self) -> int:
        """How many classes there are: 2, or 3 with the grades apart."""
        return 2 if self.grades == "merged" else 3

    def scaled(self, count: int) -> int:
        """So many images by the recipe's scale: at least one where any are wanted."""
        return max(1, round(count * self.scale)) if count else 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.abnormality not in ABNORMALITIES[1:]:
            known = ", ".join(ABNORMALITIES[1:])
            raise ValueError(f"The recipe's abnormality is {self.abnormality!r}; it must be one of {known}.")
        if strange := self.sizes.keys() - set(SPLITS):
            raise ValueError(f"The recipe's sizes have {', '.join(sorted(strange))}; they go by {', '.join(SPLITS)}.")
        for split, counts in self.sizes.items():
            self._check_by_class(f"sizes of {split}", counts, int | None)
        if self.synthetic_ratio:
            self._check_by_class("synthetic_ratio", self.synthetic_ratio, float)
        if any(self.synthetic_ratio) and not self.synthetic:
            raise ValueError("The recipe has a synthetic_ratio, but no folders in synthetic: name some, or set it [].")
        if not self.real_images and not any(self.synthetic_ratio):
            raise ValueError("The recipe has neither real nor synthetic images: set a synthetic_ratio.")
        if strange := self.synthetic_filter.keys() - {"classifier", "confidence", "similarity"}:
            raise ValueError(
                f"The recipe's synthetic_filter has {', '.join(sorted(strange))}; its parts are classifier, confidence "
                "and similarity."
            )
        if self.synthetic_filter and not isinstance(self.synthetic_filter.get("classifier"), str):
            raise ValueError(
                "The recipe's synthetic_filter has no classifier: name the folder of one, or in a study an arm by "
                "filtered_by."
            )
        for part in ("confidence", "similarity"):
            share = self.synthetic_filter.get(part, 0.0)
            fits = isinstance(share, int | float) and 0 <= share <= 1
            if not fits and (part, share) != ("similarity", None):
                raise ValueError(f"The recipe's synthetic_filter has {part} {share!r}; it must lie in [0, 1].")
        if self.rand_augment is not None and not (self.rand_augment[0] > 0 and 0 <= self.rand_augment[1] <= 30):
            raise ValueError(
                f"The recipe's rand_augment is {list(self.rand_augment)}; it must be a number of operations above 0, "
                "and a magnitude from 0 to 30."
            )
        if self.oversample and self.class_weights:
            raise ValueError(
                "The recipe has both oversample and class_weights, which would make up for rare classes twice: leave "
                "one out."
            )
        if self.validation_images:
            raise ValueError(
                f"A classifier's recipe can't have validation_images {self.validation_images}, among which may be none "
                "of the rarer classes: set sizes of validation, or 0 for no validation."
            )
        unfit: dict[str, Any] = {
            "sample_images": 0,
            "evaluate_every": None,
            "snapshot_every_epochs": None,
            "class_column": None,
        }
        unfit |= {"streaming": False, "push_to_hub": False, "gradient_checkpointing": False, "max_train_samples": None}
        for field_name, value in unfit.items():
            if (given := getattr(self, field_name)) != value:
                raise ValueError(f"A classifier's recipe can't have {field_name} {given}: leave it out.")

    def _check_by_class(self, what: str, given: Any, kind: Any) -> None:
        fits = isinstance(given, list) and len(given) == self.num_classes
        if not fits or not all(isinstance(n, kind) and (n is None or 0 <= n < inf) for n in given):
            raise ValueError(
                f"The recipe's {what} are {given!r}; with grades {self.grades} they must be a list of "
                f"{self.num_classes} numbers of 0 or more."
            )


RECIPES: dict[str, type[Recipe]] = {"ddim": DDIMRecipe, "gan": GANRecipe, "classifier": ClassifierRecipe}
"""Which recipe class reads a file of which `kind`."""
