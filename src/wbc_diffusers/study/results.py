"""The record of a study: every figure of every arm, from the predictions that its runs wrote."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbc_diffusers import __version__
from wbc_diffusers.data.manifest import public_name
from wbc_diffusers.evaluation.intervals import Estimate
from wbc_diffusers.study.arms import Arm, folder_of
from wbc_diffusers.study.compare import Measure, arm_estimate, mcnemar_at_specificity, paired_difference
from wbc_diffusers.study.config import StudyConfig
from wbc_diffusers.study.dose import exchange_rate
from wbc_diffusers.study.measures import MAIN, confusion, summary, threshold_at_specificity
from wbc_diffusers.study.predictions import Predictions
from wbc_diffusers.study.runs import DONE_NAME, SETS
from wbc_diffusers.study.swap import swap_gap

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class ArmRuns:
    """What the runs of an arm said, one for each seed.

    Attributes:
        arm: The arm.
        told: What each run wrote down of itself.
        sets: Predictions by the name of the images: test, validation, and swap where there are synthetic ones.
    """

    arm: Arm
    told: Sequence[Mapping[str, Any]]
    sets: Mapping[str, Sequence[Predictions]]

    @property
    def test(self) -> Sequence[Predictions]:
        """Predictions of the test images."""
        return self.sets["test"]


def read_runs(config: StudyConfig, out: Path) -> list[ArmRuns]:
    """Read what all runs of a study said.

    Raises:
        OSError: If a run is not done.
        ValueError: If a file is damaged.
    """
    found = []
    for arm in config.all_arms():
        folders = [folder_of(arm, seed, out / "runs") for seed in config.seeds]
        told = [json.loads((folder / DONE_NAME).read_text(encoding="utf-8")) for folder in folders]
        names = [name for name in SETS if (folders[0] / f"{name}.npz").is_file()]
        sets = {name: [Predictions.load(folder / f"{name}.npz") for folder in folders] for name in names}
        found.append(ArmRuns(arm, told, sets))
    return found


def best_without(config: StudyConfig, arms: Sequence[ArmRuns]) -> ArmRuns:
    """The arm without synthetic images that has the highest recall on the test images.

    It is chosen by the same images that it is compared on, which can only flatter it: whoever is better than it is no
    worse than it looks, but who is worse may be as good.
    """
    others = [each for each in arms if not each.arm.synthetic and each.arm.more_real is None]
    return max(others, key=lambda each: np.mean([figures[MAIN] for figures in _figures(config, each)]))


def counterpart(runs: ArmRuns, arms: Sequence[ArmRuns]) -> ArmRuns | None:
    """The arm that is the same but for the synthetic images, which no figure chose; None where the study has none."""
    if not runs.arm.synthetic:
        return None
    same = [each for each in arms if not each.arm.synthetic and each.arm.without == runs.arm.without]
    return same[0] if same else None


_COMPARED: tuple[Measure, ...] = (MAIN, "auroc", "auprc")


def _figures(config: StudyConfig, runs: ArmRuns) -> list[dict[str, float]]:
    """All measures of each run."""
    both = zip(runs.test, runs.sets["validation"], strict=True)
    return [summary(test, validation, config.specificity) for test, validation in both]


def build_record(config: StudyConfig, arms: Sequence[ArmRuns], facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that a study found, as plain data.

    Args:
        config: The study.
        arms: What the runs of its arms said.
        facts: Of `check_images`.
    """
    reference = best_without(config, arms)
    return {
        "schema_version": SCHEMA_VERSION,
        "wbc_diffusers": __version__,
        "study": config.to_dict(),
        **facts,
        "judged": _judged(arms[0].test[0]),
        "trained_by": _trained_by(arms),
        "class_names": arms[0].told[0]["trained_on"][-1]["classes"],
        "updates": config.updates,
        "weights": _weights_in_words(config),
        "reference": reference.arm.name,
        "arms": [_arm_record(config, each, reference, counterpart(each, arms)) for each in arms],
        "dose": _dose_record(config, arms),
    }


def _judged(test: Predictions) -> dict[str, int]:
    """How many test images there are, groups that hold abnormal ones, and images whose group is known."""
    return {
        "normal": int((~test.abnormal).sum()),
        "abnormal": int(test.abnormal.sum()),
        "abnormal_groups": test.abnormal_groups,
        "groups_known": sum(map(bool, test.groups)),
    }


def _trained_by(arms: Sequence[ArmRuns]) -> list[str]:
    """The versions of the package, and the kinds of device, that trained the runs."""
    runs = [run for each in arms for run in each.told]
    return sorted({f"version {run.get('version', 'unknown')} on {run.get('device', 'unknown')}" for run in runs})


def _weights_in_words(config: StudyConfig) -> str:
    """Where the weights of the classifiers come from, without the path to them; by arm where they differ."""
    starts: dict[str, list[str]] = {}
    for arm in config.all_arms():
        pretrained = config.recipes(arm, config.seeds[0], Path())[0].pretrained
        words = "random weights" if pretrained is None else f"the pretrained weights of {public_name(pretrained)}"
        starts.setdefault(words, []).append(arm.name)
    if len(starts) == 1:
        return next(iter(starts))
    return "; ".join(f"{words} ({', '.join(names)})" for words, names in starts.items())


def _arm_record(config: StudyConfig, runs: ArmRuns, reference: ArmRuns, same_without: ArmRuns | None) -> dict[str, Any]:
    each = _figures(config, runs)
    options: dict[str, Any] = {"specificity": config.specificity, "replicates": config.replicates}
    estimates = {name: _estimate(arm_estimate(runs.test, measure=name, **options)) for name in _COMPARED}
    beside: dict[str, Any] = {}
    if same_without is not None:
        beside["counterpart"] = {
            "name": same_without.arm.name,
            "difference": _estimate(paired_difference(runs.test, same_without.test, **options)),
        }
    if runs is not reference:
        beside |= {
            "differences": {
                name: _estimate(paired_difference(runs.test, reference.test, measure=name, **options))
                for name in _COMPARED
            },
            "mcnemar": asdict(mcnemar_at_specificity(runs.test, reference.test, config.specificity)),
        }
    return {
        "name": runs.arm.name,
        "synthetic": runs.arm.synthetic,
        "dose": runs.arm.dose,
        "more_real": runs.arm.more_real,
        "trained_on": [run["trained_on"] for run in runs.told],
        "seconds": [run["seconds"] for run in runs.told],
        "estimates": estimates,
        "means": {name: float(np.mean([figures[name] for figures in each])) for name in each[0]},
        "seeds": [{"seed": run["seed"], **figures} for run, figures in zip(runs.told, each, strict=True)],
        "confusion": np.mean([confusion(test) for test in runs.test], axis=0).tolist(),
        "confusion_at_specificity": np.mean([_at_specificity(config, test) for test in runs.test], axis=0).tolist(),
        "swap": swap_gap(runs.sets, config.specificity),
        **beside,
    }


def _at_specificity(config: StudyConfig, test: Predictions) -> Any:
    """Counts (2, 2) of normal and abnormal images that are not called abnormal, and called so."""
    called = test.scores > threshold_at_specificity(test.scores[~test.abnormal], config.specificity)
    return np.bincount(2 * test.abnormal + called, minlength=4).reshape(2, 2)


def _estimate(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _dose_record(config: StudyConfig, arms: Sequence[ArmRuns]) -> dict[str, Any] | None:
    """The dose-response, and what the doses were worth in real images; None where the study has none."""
    if not config.dose:
        return None
    by_name = {each.arm.name: each for each in arms}
    recipe = config.base
    doses = {_taken(each): each.test for each in arms if each.arm.dose is not None}
    doses[_taken(by_name[config.dose["arm"]])] = by_name[config.dose["arm"]].test
    more = {recipe.scaled(each.arm.more_real): each.test for each in arms if each.arm.more_real is not None}
    base = recipe.scaled(recipe.sizes["train"][1])
    more[base] = by_name[config.dose["real_arm"]].test
    rates = exchange_rate(doses, more, base, specificity=config.specificity, replicates=config.replicates)
    options: dict[str, Any] = {"specificity": config.specificity, "replicates": config.replicates}
    return {
        "real_images": base,
        "real_curve": [{"real": n, "recall": _estimate(arm_estimate(more[n], **options))} for n in sorted(more)],
        "doses": [{**asdict(rate), "recall": _estimate(rate.recall), "worth": _estimate(rate.worth)} for rate in rates],
    }


def _taken(runs: ArmRuns) -> int:
    """Synthetic abnormal images that an arm was trained on."""
    told = runs.told[0]["trained_on"][-1]["synthetic_images"]
    return sum(each["taken"] for name, each in told.items() if name != "normal")
