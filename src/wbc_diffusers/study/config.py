"""A study in a YAML file: the images, the arms that are compared, and the seeds of each."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Self

from wbc_diffusers.study.arms import OF_ARMS, SET_HERE, Arm, folder_of, read_arms
from wbc_diffusers.training.fields import check_fields, plain, read_fields, read_mapping
from wbc_diffusers.training.recipe import ClassifierRecipe

LEAST_SEEDS = 5
"""Below so many trainings of each arm, chance between them can't be told from what the arms do."""
_SHARED = ("abnormality", "grades", "where", "scale", "mixed_precision", "validate_every", "validation_images")
"""Fields that no arm has otherwise: what judges is the same for all, and a process keeps its first precision."""


@dataclass(frozen=True)
class GeneratedSet:
    """A folder of `wbc generate`, and the model that made it, whose manifest tells what it was trained on."""

    folder: str
    model: str


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Which classifiers are trained and compared.

    Attributes:
        name: Of the study.
        data: A prepared folder, with splits train, validation and test.
        generated: Folders of synthetic images, each with the model that made it: `{folder: ..., model: ...}`.
        recipe: What all arms have in common: fields of a classifier's recipe.
        arms: By name what differs: fields of the recipe, `first` (fields of a training that comes before), and
            `filtered_by` (the arm whose classifier judges the synthetic images).
        dose: `arm` is an arm with synthetic images, `ratios` how many of them for each real abnormal one; `real_arm` is
            one without, `more_real` numbers of real abnormal images. Both curves give the exchange rate.
        primary: The arm that the study decides by, named before its trainings; the others are looked at beside it.
        seeds: One training of each arm for each.
        specificity: At which recall is read.
        swap_images: Synthetic images of each class, the last of their folders, that no training sees: they are shown
            to the classifiers beside real ones.
        allow_near: Whether images may judge that only look like ones that a generator was trained on, by a perceptual
            hash; copies may not.
        replicates: Draws of the bootstrap.
    """

    data: str
    recipe: dict[str, Any]
    arms: dict[str, Any]
    name: str = "unnamed"
    generated: list[dict[str, Any]] = field(default_factory=list)
    dose: dict[str, Any] = field(default_factory=dict)
    primary: str | None = None
    seeds: list[int] = field(default_factory=lambda: list(range(LEAST_SEEDS)))
    specificity: float = 0.95
    swap_images: int = 200
    allow_near: bool = False
    replicates: int = 2000

    def __post_init__(self) -> None:
        check_fields(self, "study")
        if not 0.0 < self.specificity < 1.0:
            raise ValueError(f"The study's specificity is {self.specificity}; it must lie between 0 and 1.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"The study's seeds are {self.seeds}; they must be different whole numbers.")
        if self.replicates < 100 or self.swap_images < 0:
            raise ValueError("The study needs replicates of 100 or more, and swap_images of 0 or more.")
        if own := (SET_HERE | OF_ARMS) & self.recipe.keys():
            raise ValueError(
                f"The study's recipe has {', '.join(sorted(own))}, which the study or its arms set: leave it out."
            )
        self._check_generated()
        arms = self.all_arms()
        slugs = [arm.slug for arm in arms]
        if len(set(slugs)) < len(slugs) or not all(slugs):
            raise ValueError(
                f"The names of the study's arms are too alike, or empty: {', '.join(a.name for a in arms)}."
            )
        if all(arm.synthetic for arm in arms):
            raise ValueError("All arms of the study have synthetic images: add one without, to compare them with.")
        synthetic = [arm.name for arm in arms if arm.synthetic and arm.dose is None]
        if self.primary is not None and self.primary not in synthetic:
            raise ValueError(
                f"The study's primary is {self.primary!r}; it must be an arm with synthetic images: "
                f"{', '.join(synthetic) or 'there is none'}."
            )
        for arm in arms:
            self.recipes(arm, self.seeds[0], Path())

    @property
    def sets(self) -> list[GeneratedSet]:
        """The folders of synthetic images."""
        return [GeneratedSet(str(each["folder"]), str(each["model"])) for each in self.generated]

    def _check_generated(self) -> None:
        for each in self.generated:
            if not isinstance(each, dict) or each.keys() != {"folder", "model"}:
                raise ValueError(f"The study's generated holds {each!r}; each needs a folder, and the model of it.")
        folders = [str(each["folder"]) for each in self.generated]
        if len(set(folders)) < len(folders):
            raise ValueError(f"The study's generated names a folder twice: {', '.join(sorted(folders))}.")

    @property
    def base(self) -> ClassifierRecipe:
        """What all arms have in common, with the defaults of all else."""
        return ClassifierRecipe.from_dict(self.recipe)

    @property
    def updates(self) -> int:
        """The updates of every arm: the recipe's `max_train_steps`, or its `num_train_epochs` of the real images.

        Raises:
            ValueError: If it has neither, or epochs without the number of real images.
        """
        base = self.base
        if base.max_train_steps is not None:
            return base.max_train_steps
        sizes = base.sizes.get("train") or [None]
        if "num_train_epochs" not in self.recipe or None in sizes:
            raise ValueError(
                "The study's recipe has no budget for all arms to share: set max_train_steps, or num_train_epochs and "
                "the sizes of train."
            )
        return ceil(base.num_train_epochs * sum(map(base.scaled, sizes)) / base.train_batch_size)

    def all_arms(self) -> list[Arm]:
        """The arms, and the points of the dose-response, which are arms too."""
        return list(self._arms)

    @cached_property
    def _arms(self) -> tuple[Arm, ...]:
        return tuple(read_arms(self.arms, self.dose, self.base))

    def _validate_every(self) -> int:
        """Once an epoch where the budget is in epochs, else twenty times."""
        base = self.base
        return max(1, round(self.updates / (base.num_train_epochs if base.max_train_steps is None else 20)))

    def recipes(self, arm: Arm, seed: int, runs: Path) -> list[ClassifierRecipe]:
        """The trainings of an arm, in their order: one, or two where another comes before.

        Args:
            arm: The arm.
            seed: Of the training.
            runs: The folder in which those of all arms lie.

        Raises:
            ValueError: If a field is unknown or doesn't fit, or the arm has another budget than all others.
        """
        common = {
            "num_workers": 0,  # the trainings share the cores
            "validate_every": self._validate_every(),
            **self.recipe,
            "synthetic": [each.folder for each in self.sets],
            "synthetic_held_out": self.swap_images,
            "seed": seed,
        }
        stages = self._stages(arm, common, seed, runs)
        try:
            made = [ClassifierRecipe.from_dict({"name": arm.slug, **stage}) for stage in stages]
            base = ClassifierRecipe.from_dict({**common, "synthetic": []})
        except ValueError as error:
            raise ValueError(f"The arm {arm.name}: {error}") from error
        _check_shared(arm, made, base, self.updates)
        # A first training hands on its last weights: by their loss on real images those that saw fewest synthetic ones
        # would be chosen. The last one looks as often at the validation images in a short training as in a long one.
        every = max(1, round(base.validate_every * (made[-1].max_train_steps or 0) / self.updates))
        return [*(replace(each, validation_images=0) for each in made[:-1]), replace(made[-1], validate_every=every)]

    def _stages(self, arm: Arm, common: Mapping[str, Any], seed: int, runs: Path) -> list[dict[str, Any]]:
        """The fields of an arm's trainings, in their order."""
        total = self.updates
        stages = [{**common, "max_train_steps": total, **arm.changes}]
        if arm.first is not None:
            steps = arm.first.get("max_train_steps", total // 2)
            stages.insert(0, {**common, "max_train_steps": steps, **arm.first})
            stages[1] |= {"pretrained": str(folder_of(arm, seed, runs, first=True)), "model": {}}
            stages[1]["max_train_steps"] = total - steps
        for stage in stages:
            if not any(stage.get("synthetic_ratio") or []):
                stage |= {"synthetic": [], "synthetic_ratio": [], "synthetic_held_out": 0, "synthetic_filter": {}}
            elif arm.filtered_by is not None:
                judge = next(each for each in self._arms if each.name == arm.filtered_by)
                asked = arm.changes.get("synthetic_filter", {})
                stage["synthetic_filter"] = asked | {"classifier": str(folder_of(judge, seed, runs))}
        return stages

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a study of a mapping, or raise ValueError."""
        missing = {"data", "recipe", "arms"} - values.keys()
        if missing:
            raise ValueError(f"The study has no {', '.join(sorted(missing))}.")
        return cls(**read_fields(cls, values))

    def to_dict(self) -> dict[str, Any]:
        """The study as plain data."""
        return plain(asdict(self))


def _check_shared(arm: Arm, made: Sequence[ClassifierRecipe], base: ClassifierRecipe, updates: int) -> None:
    """Raise ValueError if the trainings of an arm are judged otherwise than others, or have another budget."""
    own = [name for name in _SHARED if any(getattr(each, name) != getattr(base, name) for each in made)]
    own += [
        f"sizes of {split}"
        for split in ("validation", "test")
        if any(each.sizes.get(split) != base.sizes.get(split) for each in made)
    ]
    if own:
        raise ValueError(
            f"The arm {arm.name} has another {', '.join(own)}, and what judges is the same for all arms: set it in the "
            "study's recipe."
        )
    batches = {each.train_batch_size for each in made}
    if sum(each.max_train_steps or 0 for each in made) != updates or batches != {base.train_batch_size}:
        raise ValueError(f"The arm {arm.name} has another budget than max_train_steps {updates}: all have the same.")


def load_study(path: Path, **changes: Any) -> StudyConfig:
    """Read a study's file, with changes laid over it; `scale` is the recipe's, and None changes nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML, or no study.
    """
    values = read_mapping(path, "study", "a YAML file, or the name of a study of the package")
    given = {key: value for key, value in changes.items() if value is not None}
    if (scale := given.pop("scale", None)) is not None:
        values["recipe"] = {**(values.get("recipe") or {}), "scale": scale}
    return StudyConfig.from_dict({"name": path.stem, **values, **given})
