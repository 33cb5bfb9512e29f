"""The trainings of a study: each arm and seed once, and which of them are done."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbc_diffusers.study.arms import Arm, folder_of
from wbc_diffusers.study.config import StudyConfig

DONE_NAME = "run.json"
"""Written last: with it a run counts as done."""
SETS = ("test", "validation", "swap")
_FOLLOWS_NO_RECIPE = {
    "num_workers", "checkpoint_every", "keep_checkpoints", "log_every", "tracker",
    "synthetic_held_out",  # what an arm takes, and what judges it, have fingerprints of their own
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training of an arm."""

    arm: Arm
    seed: int

    @property
    def in_words(self) -> str:
        """What it is, for a line on the screen."""
        return f"{self.arm.name}, seed {self.seed}"


def all_runs(config: StudyConfig) -> list[Run]:
    """The trainings of a study, seed by seed: first those without a filter, then those whose filter these train."""
    arms = config.all_arms()
    of_judges, filtered = ([arm for arm in arms if (arm.filtered_by is None) == free] for free in (True, False))
    return [Run(arm, seed) for part in (of_judges, filtered) for seed in config.seeds for arm in part]


def is_done(config: StudyConfig, run: Run, out: Path, cells: Mapping[str, str]) -> bool:
    """Whether a run was done before.

    Args:
        config: The study.
        run: The run.
        out: Its folder.
        cells: Of `fingerprints`.

    Returns:
        False also where it was trained, and judged other images, or ones of other groups, than there are now.

    Raises:
        ValueError: If it was trained by another recipe, or on other images, than it would be now.
    """
    path = folder_of(run.arm, run.seed, out / "runs") / DONE_NAME
    if not path.is_file():
        return False
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        before = told["recipes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove {path.parent}, and it is trained again.") from error
    now = what_decides(config, run)
    changed = {
        key
        for old, new in zip(before, now, strict=False)
        for key in old.keys() | new.keys()
        if old.get(key) != new.get(key)
    }
    if changed or len(before) != len(now):
        raise ValueError(
            f"{run.in_words} was trained with another {', '.join(sorted(changed)) or 'number of stages'} in "
            f"{path.parent}: give another --out, or remove that folder."
        )
    theirs, ours = told.get("cells") or {}, cells_of(run, cells)
    if others := sorted({_CELLS[name.split()[0]] for name in ours if theirs.get(name) != ours[name]}):
        raise ValueError(
            f"{run.in_words} was trained on or from other {' and '.join(others)} than those given now, in "
            f"{path.parent}: give the same, or another --out."
        )
    return bool(told.get("judges") == cells["judges"])


_CELLS = {
    "real": "real images",
    "synthetic": "models of synthetic images",
    "taken": "synthetic images",
    "pool": "synthetic images to filter",
    "start": "starting weights",
}
"""What the fingerprints of `cells_of` are of."""


def cells_of(run: Run, cells: Mapping[str, str]) -> dict[str, str]:
    """The fingerprints of what a run is trained on, and of what its judge starts from."""
    seen = {"real", f"taken {run.arm.name}", f"start {run.arm.name}"}
    if run.arm.synthetic:
        seen.add("synthetic")
    if run.arm.filtered_by is not None:
        seen |= {"pool", f"start {run.arm.filtered_by}"}
    return {name: value for name, value in cells.items() if name in seen}


def what_decides(config: StudyConfig, run: Run) -> list[dict[str, Any]]:
    """The recipes that decide of a run's weights: its own, and those of the run that filters for it.

    Places are left out, since folders may be moved: `fingerprints` tell what is in them.
    """
    found = []
    judges = [arm for arm in config.all_arms() if arm.name == run.arm.filtered_by]
    for arm in (run.arm, *judges):
        for number, recipe in enumerate(config.recipes(arm, run.seed, Path())):
            values = {key: value for key, value in recipe.to_dict().items() if key not in _FOLLOWS_NO_RECIPE}
            values["synthetic"] = len(recipe.synthetic)
            if recipe.pretrained and Path(recipe.pretrained).is_dir():
                values["pretrained"] = "a folder"
            if recipe.synthetic_filter:
                values["synthetic_filter"] = {**recipe.synthetic_filter, "classifier": run.arm.filtered_by}
            if number:
                values["pretrained"] = "the one before"
            found.append(values)
    return found


def runs_left(config: StudyConfig, out: Path, cells: Mapping[str, str]) -> list[Run]:
    """The runs that are not done, or ValueError if one was done by another recipe or on other images."""
    return [run for run in all_runs(config) if not is_done(config, run, out, cells)]
