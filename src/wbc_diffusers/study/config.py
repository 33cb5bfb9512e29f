"""A study in a YAML file: the images, the arms that are compared, and the seeds of each."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, Self

from wbc_diffusers.training.fields import check_fields, plain, read_fields, read_mapping
from wbc_diffusers.training.recipe import ClassifierRecipe

LEAST_SEEDS = 5
"""Below so many trainings of each arm, chance between them can't be told from what the arms do."""
_OWN_PARTS = {"first", "filtered_by"}
_SET_HERE = {"kind", "seed", "synthetic", "synthetic_held_out"}
_OF_ARMS = {"synthetic_filter", "synthetic_ratio"}
_SHARED = ("abnormality", "grades", "where", "scale", "mixed_precision", "validate_every", "validation_images")
"""Fields that no arm has otherwise: what judges is the same for all, and a process keeps its first precision."""


@dataclass(frozen=True)
class GeneratedSet:
    """A folder of `wbc generate`, and the model that made it, whose manifest tells what it was trained on."""

    folder: str
    model: str


@dataclass(frozen=True)
class Arm:
    """One way of training the classifier.

    Attributes:
        name: As it stands in tables.
        changes: Fields of the recipe that differ from the study's.
        first: Fields of a training that comes before, from whose weights this one starts; None for none.
        filtered_by: The arm whose classifier, of the same seed, judges the synthetic images; None for none.
        dose: Synthetic abnormal images for each real one, where the arm is a point of the dose-response.
        more_real: Real abnormal images, where it is a point of the curve that doses are measured against.
    """

    name: str
    changes: Mapping[str, Any]
    first: Mapping[str, Any] | None = None
    filtered_by: str | None = None
    dose: float | None = None
    more_real: int | None = None

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def synthetic(self) -> bool:
        """Whether synthetic images take part."""
        return any(any(each.get("synthetic_ratio") or []) for each in (self.changes, self.first or {}))

    @property
    def without(self) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
        """What it changes beside the synthetic images: its fields, and a first training that has none of them."""
        fields = {key: value for key, value in self.changes.items() if key not in _OF_ARMS}
        return fields, None if any((self.first or {}).get("synthetic_ratio") or []) else self.first


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
        if own := (_SET_HERE | _OF_ARMS) & self.recipe.keys():
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
        arms = [self._arm(name, parts or {}) for name, parts in self.arms.items()]
        return [*arms, *self._doses({arm.name: arm for arm in arms})]

    def _arm(self, name: str, parts: Any) -> Arm:
        if not isinstance(parts, dict):
            raise ValueError(f"The arm {name} is {parts!r}; it must be a mapping, or nothing.")
        changes = {key: value for key, value in parts.items() if key not in _OWN_PARTS}
        first, by = parts.get("first"), parts.get("filtered_by")
        if first is not None and not isinstance(first, dict):
            raise ValueError(f"The arm {name} has first {first!r}; it must be a mapping.")
        if own := _SET_HERE & {*changes, *(first or {})}:
            raise ValueError(f"The arm {name} has {', '.join(sorted(own))}, which the study sets: leave it out.")
        if "num_train_epochs" in {*changes, *(first or {})}:
            raise ValueError(
                f"The arm {name} has num_train_epochs, and the budget is in updates: set max_train_steps in its "
                "first, or leave it out."
            )
        if first is not None and (lost := {"pretrained", "model"} & changes.keys()):
            raise ValueError(
                f"The arm {name} has {' and '.join(sorted(lost))} beside first, whose model it goes on with: set it in "
                "first."
            )
        if any("classifier" in (each.get("synthetic_filter") or {}) for each in (changes, first or {})):
            raise ValueError(
                f"The arm {name} names a classifier in its synthetic_filter, of which nobody knows what it was trained "
                "on: name an arm by filtered_by."
            )
        if (first or {}).get("synthetic_filter"):
            raise ValueError(
                f"The arm {name} has synthetic_filter in first, but there is one for both trainings: set it in the arm."
            )
        if by is None and changes.get("synthetic_filter"):
            raise ValueError(f"The arm {name} has a synthetic_filter, but no judge: name an arm by filtered_by.")
        judge = {} if by is None else self.arms.get(by) or {}
        if by is not None and (by not in self.arms or (isinstance(judge, dict) and judge.get("filtered_by"))):
            raise ValueError(f"The arm {name} is filtered by {by!r}, which must be an arm that is not filtered itself.")
        shared = self.recipe.get("background")
        if isinstance(judge, dict) and by and judge.get("background", shared) != changes.get("background", shared):
            raise ValueError(f"The arm {name} has another background than {by}, which judges its images: set the same.")
        arm = Arm(str(name), changes, first, by)
        if by is not None and not arm.synthetic:
            raise ValueError(f"The arm {name} is filtered, but has no synthetic images: set its synthetic_ratio.")
        return arm

    def _doses(self, arms: Mapping[str, Arm]) -> list[Arm]:
        """The arms of the dose-response: one arm with other numbers of synthetic or of real abnormal images."""
        if not self.dose:
            return []
        if self.dose.keys() != {"arm", "ratios", "real_arm", "more_real"}:
            raise ValueError("The study's dose needs arm, ratios, real_arm and more_real, and nothing else.")
        for name in ("ratios", "more_real"):
            given = self.dose[name]
            if not isinstance(given, list) or not all(isinstance(n, int | float) and n > 0 for n in given):
                raise ValueError(f"The dose's {name} are {given!r}; they must be a list of numbers above 0.")
        base = self.base
        if base.grades != "merged":
            raise ValueError("A dose-response is of two classes: set grades merged, or leave the study's dose out.")
        for role, synthetic in (("arm", True), ("real_arm", False)):
            if self.dose[role] not in arms or arms[self.dose[role]].synthetic != synthetic:
                what = "with" if synthetic else "without"
                raise ValueError(
                    f"The dose's {role} is {self.dose[role]!r}; it must be an arm {what} synthetic images."
                )
        arm, real = arms[self.dose["arm"]], arms[self.dose["real_arm"]]
        train = base.sizes.get("train")
        if not train or train[1] is None:
            raise ValueError("A dose-response needs the number of real abnormal images: set sizes of train.")
        normal, abnormal = arm.changes.get("synthetic_ratio") or [0.0, 0.0]
        if not abnormal:
            raise ValueError(
                f"The dose's arm {arm.name} has no synthetic abnormal images beside the real ones: set its "
                "synthetic_ratio, such as [0.0, 1.0]."
            )
        if arm.filtered_by is not None or arm.first or arm.without != real.without or "sizes" in real.changes:
            raise ValueError(
                f"The dose's arm {arm.name} must be its real_arm {real.name} with synthetic images that no filter "
                "counts and no first training has, and neither may have sizes of its own: their curves are held "
                "against each other."
            )
        ratios = [abnormal, *self.dose["ratios"]]
        real_counts = [base.scaled(count) for count in (train[1], *self.dose["more_real"])]
        for points in (real_counts, [round(ratio * real_counts[0]) for ratio in ratios]):
            if len(set(points)) < len(points) or min(points) < 1 or len(points) < 2:
                raise ValueError(
                    f"The dose's numbers of images are {points}, of which the first is the arm's own, by the scale "
                    f"{base.scale:g}: they must be two or more, all different and above 0."
                )
        doses = [
            Arm(
                f"{arm.name}, {ratio:g} for each real one",
                {**arm.changes, "synthetic_ratio": [normal * ratio / abnormal, float(ratio)]},
                dose=float(ratio),
            )
            for ratio in self.dose["ratios"]
        ]
        more = [
            Arm(
                f"{real.name}, {count} real",
                {**real.changes, "sizes": {**base.sizes, "train": [train[0], count]}},
                more_real=count,
            )
            for count in self.dose["more_real"]
        ]
        return doses + more

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
        total = self.updates
        stages = [{**common, "max_train_steps": total, **arm.changes}]
        if arm.first is not None:
            steps = arm.first.get("max_train_steps", total // 2)
            stages.insert(0, {**common, "max_train_steps": steps, **arm.first})
            stages[1] |= {"pretrained": str(folder_of(arm, seed, runs, first=True)), "model": {}}
            stages[1]["max_train_steps"] = total - steps
        for stage in stages:
            takes_synthetic = any(stage.get("synthetic_ratio") or [])
            if not takes_synthetic:
                stage |= {"synthetic": [], "synthetic_ratio": [], "synthetic_held_out": 0}
            if arm.filtered_by is not None:
                judge = self._arm(arm.filtered_by, self.arms[arm.filtered_by] or {})
                asked = arm.changes.get("synthetic_filter", {}) | {"classifier": str(folder_of(judge, seed, runs))}
                stage["synthetic_filter"] = asked if takes_synthetic else {}
        try:
            made = [ClassifierRecipe.from_dict({"name": arm.slug, **stage}) for stage in stages]
            base = ClassifierRecipe.from_dict({**common, "synthetic": []})
        except ValueError as error:
            raise ValueError(f"The arm {arm.name}: {error}") from error
        own = [name for name in _SHARED if any(getattr(each, name) != getattr(base, name) for each in made)]
        own += [
            f"sizes of {split}"
            for split in ("validation", "test")
            if any(each.sizes.get(split) != base.sizes.get(split) for each in made)
        ]
        if own:
            raise ValueError(
                f"The arm {arm.name} has another {', '.join(own)}, and what judges is the same for all arms: set it in "
                "the study's recipe."
            )
        batches = {each.train_batch_size for each in made}
        if sum(each.max_train_steps or 0 for each in made) != total or batches != {base.train_batch_size}:
            raise ValueError(f"The arm {arm.name} has another budget than max_train_steps {total}: all have the same.")
        # A first training hands on its last weights: by their loss on real images those that saw fewest synthetic ones
        # would be chosen. The last one looks as often at the validation images in a short training as in a long one.
        every = max(1, round(base.validate_every * (made[-1].max_train_steps or 0) / total))
        return [*(replace(each, validation_images=0) for each in made[:-1]), replace(made[-1], validate_every=every)]

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


def folder_of(arm: Arm, seed: int, runs: Path, *, first: bool = False) -> Path:
    """Where the training of an arm and seed lies, or the one that comes before it."""
    return runs / arm.slug / f"seed-{seed}{'-first' if first else ''}"


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
