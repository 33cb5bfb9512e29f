"""What a study found, in sentences: no more than its figures bear."""

from collections.abc import Mapping, Sequence
from typing import Any

from wbc_diffusers.study.config import LEAST_SEEDS
from wbc_diffusers.study.measures import MAIN
from wbc_diffusers.study.tables import points

LEAST_JUDGES = 10
"""Of fewer patients (or images, where these are unknown) intervals by drawing them anew hold too seldom."""


def findings(record: Mapping[str, Any]) -> list[str]:
    """What a study found, in sentences."""
    arms = [arm for arm in record["arms"] if arm["dose"] is None and arm["more_real"] is None]
    seeds = len(record["study"]["seeds"])
    best = next(arm for arm in arms if arm["name"] == record["reference"])["estimates"][MAIN]["value"]
    mean = f"the mean of {seeds} seeds" if seeds > 1 else "of a single seed"
    told = [
        f"The best arm without synthetic cells is {record['reference']}: recall {100 * best:.1f} % at "
        f"{100 * record['study']['specificity']:g} % specificity, {mean}."
    ]
    groups = record["judged"]["abnormal_groups"]
    enough = seeds >= LEAST_SEEDS and groups >= LEAST_JUDGES
    if seeds < LEAST_SEEDS:
        told.append(f"With fewer than {LEAST_SEEDS} seeds nothing is said of what helps or harms.")
    elif not enough:
        told.append(
            f"The abnormal test images are of {groups} groups (patients, slides; an image without one is its own): "
            f"with fewer than {LEAST_JUDGES} nothing is said of what helps or harms."
        )
    primary = record["study"]["primary"]
    if primary is not None:
        told.append(f"The study decides by {primary}, which was named before; the other arms are looked at beside it.")
    synthetic = sorted((arm for arm in arms if arm["synthetic"]), key=lambda arm: arm["name"] != primary)
    told += [_verdict(arm, primary, enough=enough) for arm in synthetic]
    told += _swap_findings(synthetic, {arm["name"]: arm for arm in record["arms"]})
    told += _generator_findings(record)
    for dose in (record["dose"] or {}).get("doses", []) if enough else []:
        worth = dose["worth"]
        bound = f"{dose['bound']} " if dose["bound"] else ""
        told.append(
            f"{dose['synthetic']} synthetic cells were worth {bound}{worth['value']:.0f} real ones "
            f"({worth['low']:.0f}{' or fewer' if dose['low_open'] else ''} to {worth['high']:.0f}"
            f"{' or more' if dose['high_open'] else ''})."
        )
    return told


def _verdict(arm: Mapping[str, Any], primary: str | None, *, enough: bool) -> str:
    """Whether an arm helps, held against the best without, and harms, held against the same without synthetic cells.

    The best was chosen by the images that judge: who is better than it helps, but who is worse need not harm. What is
    better than the best, and not better than the same without synthetic cells, is so by something else.
    """
    found, same = arm["differences"][MAIN], arm.get("counterpart")
    better, decides = found["low"] > 0, primary in (None, arm["name"])
    if same is None and better:
        verdict = "is better than the best without, but no arm is the same without synthetic cells"
    elif same is None:
        verdict = "can't be told to help"
    elif better and same["difference"]["low"] > 0:
        verdict = "helps" if decides else "looks as if it helped"
    elif same["difference"]["high"] < 0:
        verdict = "harms" if decides else "looks as if it harmed"
    else:
        verdict = "can be told neither to help nor to harm"
    line = f"{arm['name']}{f' {verdict}' if enough else ''}: {_in_points(found)} from the best without"
    if same is not None:
        line += f", {_in_points(same['difference'])} from {same['name']}, its like"
    return f"{line}."


def _swap_findings(synthetic: Sequence[Mapping[str, Any]], by_name: Mapping[str, Any]) -> list[str]:
    """Which arms tell cells by their source, as far as that was seen to."""
    told = []
    unseen = [arm["name"] for arm in synthetic if "normal" not in (arm["swap"] or {})]
    if unseen:
        tell = "tells" if len(unseen) == 1 else "tell"
        told.append(
            f"Whether {', '.join(unseen)} {tell} cells by their source can't be said: no normal synthetic cells were "
            "held out for that."
        )
    for arm in synthetic:
        gap = ((arm["swap"] or {}).get("normal") or {}).get("difference")
        if gap is None or gap["low"] <= 0 <= gap["high"]:
            continue
        often = "more" if gap["value"] > 0 else "less"
        size, *bounds = (100 * abs(gap[name]) for name in ("value", "low", "high"))
        line = (
            f"{arm['name']} tells cells by their source: it calls synthetic normal ones abnormal {often} often than "
            f"real ones, by {size:.1f} points ({min(bounds):.1f} to {max(bounds):.1f})"
        )
        like = by_name[arm["counterpart"]["name"]] if "counterpart" in arm else None
        without = (((like or {}).get("swap") or {}).get("normal") or {}).get("difference")
        if like is not None and without is not None and not without["low"] <= 0 <= without["high"]:
            line += f"; but {like['name']}, which never saw one, has {points(without['value'])} there"
        told.append(f"{line}.")
    return told


def _generator_findings(record: Mapping[str, Any]) -> list[str]:
    """What of the generators makes the comparison another than it looks."""
    told = []
    for each in record.get("generators", []):
        more = {name: count for name, count in each["more_than_arms"].items() if count and name != "normal"}
        if more:
            what = " and ".join(f"{count} {name.replace('_', ' ')}" for name, count in more.items())
            told.append(
                f"{each['model']} was trained on {what} cells more than the arms are: they have fewer real cells than "
                "its synthetic ones were made from. Train it with --max-train-samples."
            )
        if each["unknown_start"]:
            told.append(
                f"{each['model']} was made from {each['unknown_start']}, which has no manifest: nobody can say that "
                "what judges was new to it."
            )
        if not sum(each["trained_on"]["train"].values()):
            told.append(
                f"{each['model']} knows no image of this study's training split: it was trained on others, or on these "
                "prepared otherwise, and then nobody can say that what judges is new to it."
            )
    return told


def _in_points(found: Mapping[str, float]) -> str:
    return f"{points(found['value'])} points ({points(found['low'])} to {points(found['high'])})"
