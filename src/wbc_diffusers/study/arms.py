"""The arms of a study: what each changes, and which of them are points of the dose-response."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbc_diffusers.training.fields import plain
from wbc_diffusers.training.recipe import ClassifierRecipe

SET_HERE = {"kind", "seed", "synthetic", "synthetic_held_out"}
"""Fields of a recipe that the study sets."""
OF_ARMS = {"synthetic_filter", "synthetic_ratio"}
"""Those that say which synthetic images an arm has."""
_OWN_PARTS = {"first", "filtered_by"}


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
        fields = {key: value for key, value in self.changes.items() if key not in OF_ARMS}
        return fields, None if any((self.first or {}).get("synthetic_ratio") or []) else self.first


def folder_of(arm: Arm, seed: int, runs: Path, *, first: bool = False) -> Path:
    """Where the training of an arm and seed lies, or the one that comes before it."""
    return runs / arm.slug / f"seed-{seed}{'-first' if first else ''}"


def read_arms(named: Mapping[str, Any], dose: Mapping[str, Any], base: ClassifierRecipe) -> list[Arm]:
    """The arms of a study, and the points of its dose-response, which are arms too.

    Args:
        named: By name what the arms change.
        dose: Of the study.
        base: What all arms have in common.

    Raises:
        ValueError: If an arm, or the dose, has parts that don't fit.
    """
    arms = {str(name): _read_arm(str(name), parts or {}) for name, parts in named.items()}
    if len(arms) < len(named):
        raise ValueError(f"The names of the study's arms are too alike: {', '.join(map(str, named))}.")
    for arm in arms.values():
        _check_filter(arm, arms, base)
    return [*arms.values(), *(_doses(dose, arms, base) if dose else [])]


def _read_arm(name: str, parts: Any) -> Arm:
    if not isinstance(parts, dict):
        raise ValueError(f"The arm {name} is {parts!r}; it must be a mapping, or nothing.")
    changes = {key: value for key, value in parts.items() if key not in _OWN_PARTS}
    first, by = parts.get("first"), parts.get("filtered_by")
    if first is not None and not isinstance(first, dict):
        raise ValueError(f"The arm {name} has first {first!r}; it must be a mapping.")
    if own := SET_HERE & {*changes, *(first or {})}:
        raise ValueError(f"The arm {name} has {', '.join(sorted(own))}, which the study sets: leave it out.")
    if "num_train_epochs" in {*changes, *(first or {})}:
        raise ValueError(
            f"The arm {name} has num_train_epochs, and the budget is in updates: set max_train_steps in its first, or "
            "leave it out."
        )
    if first is not None and (lost := {"pretrained", "model"} & changes.keys()):
        raise ValueError(
            f"The arm {name} has {' and '.join(sorted(lost))} beside first, whose model it goes on with: set it in "
            "first."
        )
    return Arm(name, changes, first, by)


def _check_filter(arm: Arm, arms: Mapping[str, Arm], base: ClassifierRecipe) -> None:
    """Raise ValueError if the synthetic images of an arm can't be filtered as it says."""
    name, by, first = arm.name, arm.filtered_by, arm.first or {}
    if any("classifier" in (each.get("synthetic_filter") or {}) for each in (arm.changes, first)):
        raise ValueError(
            f"The arm {name} names a classifier in its synthetic_filter, of which nobody knows what it was trained on: "
            "name an arm by filtered_by."
        )
    if first.get("synthetic_filter"):
        raise ValueError(
            f"The arm {name} has synthetic_filter in first, but there is one for both trainings: set it in the arm."
        )
    if by is None:
        if arm.changes.get("synthetic_filter"):
            raise ValueError(f"The arm {name} has a synthetic_filter, but no judge: name an arm by filtered_by.")
        return
    if by not in arms or arms[by].filtered_by is not None:
        raise ValueError(f"The arm {name} is filtered by {by!r}, which must be an arm that is not filtered itself.")
    ours, theirs = (each.changes.get("background", base.background) for each in (arm, arms[by]))
    if plain(ours) != plain(theirs):
        raise ValueError(f"The arm {name} has another background than {by}, which judges its images: set the same.")
    if not arm.synthetic:
        raise ValueError(f"The arm {name} is filtered, but has no synthetic images: set its synthetic_ratio.")


def _doses(dose: Mapping[str, Any], arms: Mapping[str, Arm], base: ClassifierRecipe) -> list[Arm]:
    """The arms of the dose-response: one arm with other numbers of synthetic or of real abnormal images."""
    arm, real = _check_dose(dose, arms, base)
    sizes = base.sizes["train"]
    normal, abnormal = arm.changes["synthetic_ratio"]
    real_counts = [base.scaled(count) for count in (sizes[1], *dose["more_real"])]
    for points in (real_counts, [round(ratio * real_counts[0]) for ratio in (abnormal, *dose["ratios"])]):
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
        for ratio in dose["ratios"]
    ]
    more = [
        Arm(
            f"{real.name}, {count} real",
            {**real.changes, "sizes": {**base.sizes, "train": [sizes[0], count]}},
            more_real=count,
        )
        for count in dose["more_real"]
    ]
    return doses + more


def _check_dose(dose: Mapping[str, Any], arms: Mapping[str, Arm], base: ClassifierRecipe) -> tuple[Arm, Arm]:
    """The arm with synthetic images and the one without whose curves are held against each other.

    Raises:
        ValueError: If they can't be, or the dose has other parts.
    """
    if dose.keys() != {"arm", "ratios", "real_arm", "more_real"}:
        raise ValueError("The study's dose needs arm, ratios, real_arm and more_real, and nothing else.")
    for name in ("ratios", "more_real"):
        given = dose[name]
        if not isinstance(given, list) or not all(isinstance(n, int | float) and n > 0 for n in given):
            raise ValueError(f"The dose's {name} are {given!r}; they must be a list of numbers above 0.")
    if base.grades != "merged":
        raise ValueError("A dose-response is of two classes: set grades merged, or leave the study's dose out.")
    for role, synthetic in (("arm", True), ("real_arm", False)):
        if dose[role] not in arms or arms[dose[role]].synthetic != synthetic:
            what = "with" if synthetic else "without"
            raise ValueError(f"The dose's {role} is {dose[role]!r}; it must be an arm {what} synthetic images.")
    arm, real, train = arms[dose["arm"]], arms[dose["real_arm"]], base.sizes.get("train")
    if not train or train[1] is None:
        raise ValueError("A dose-response needs the number of real abnormal images: set sizes of train.")
    ratio = arm.changes.get("synthetic_ratio")
    if not isinstance(ratio, list) or len(ratio) != base.num_classes or not ratio[1]:
        raise ValueError(
            f"The dose's arm {arm.name} has no synthetic abnormal images beside the real ones: set its "
            "synthetic_ratio, such as [0.0, 1.0]."
        )
    if arm.filtered_by is not None or arm.first or arm.without != real.without or "sizes" in real.changes:
        raise ValueError(
            f"The dose's arm {arm.name} must be its real_arm {real.name} with synthetic images that no filter counts "
            "and no first training has, and neither may have sizes of its own: their curves are held against each "
            "other."
        )
    return arm, real
