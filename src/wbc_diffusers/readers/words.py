"""What a reader study found, and how it was done, in words."""

from collections.abc import Mapping
from typing import Any

from wbc_diffusers.pages.tables import half_up, p_value
from wbc_diffusers.readers.certainty import ALPHA
from wbc_diffusers.readers.config import ALL

FEW = 3
"""Of fewer readers no interval says much of others."""


def with_interval(found: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """A figure with its interval, for people."""
    if found is None or found["value"] is None:
        return ""
    figures = (found[name] for name in ("value", "low", "high"))
    value, *bounds = (None if figure is None else half_up(figure, digits) for figure in figures)
    return f"{value}" if None in bounds else f"{value} ({bounds[0]} to {bounds[1]})"


def terms(record: Mapping[str, Any]) -> dict[str, str]:
    """How signals and noise, and the figures of them, are called."""
    if record["question"] == "real_or_synthetic":
        return {
            "signal": "real", "noise": "synthetic", "called": "called real", "not": "called synthetic",
            "accuracy": "accuracy", "recall": "recall", "specificity": "specificity",
            "balanced_accuracy": "balanced accuracy",
        }  # fmt: skip
    first, right = (record["between"][0], f"chose {record['between'][0]}") if record["between"] else ("real", "right")
    return {
        "signal": f"{first} on the left", "noise": f"{first} on the right", "called": "chose left",
        "not": "chose right", "accuracy": f"share that {right}" if record["between"] else "accuracy",
        "recall": f"{right} if on the left", "specificity": f"{right} if on the right",
        "balanced_accuracy": f"{right}, sides alike",
    }  # fmt: skip


# -- findings ---------------------------------------------------------------------------------------------------------


def findings(record: Mapping[str, Any]) -> list[str]:
    """What a study found, in sentences: of the readers together, of each, and of the generators."""
    table = record["tables"][0]
    mean = table["mean"]
    there = mean is not None and mean["balanced_accuracy"]["value"] is not None
    told = [_of_mean(record, mean, len(table["rows"]))] if there else []
    if len(table["rows"]) == 1:
        told.append("One reader answered: all figures are of that reader alone, and say nothing of others.")
    elif len(table["rows"]) < FEW:
        told.append("Of two readers no interval says much of others: ask three or more.")
    unfinished = [each for each in record["readers"] if 0 < each["answered"] < each["of"]]
    told += [f"{each['name']} has answered {each['answered']} of {each['of']} so far." for each in unfinished]
    told += [_of_reader(record, row) for row in table["rows"]]
    for each in record["generators"]:
        told.append(f"Cells of {each['generator']} were taken for real in {with_interval(each['taken_for_real'])}.")
    return told


def _of_mean(record: Mapping[str, Any], mean: Mapping[str, Any], readers: int) -> str:
    share, same = mean["balanced_accuracy"], mean["equivalence"]
    what = "share that chose " + record["between"][0] if record["between"] else "balanced accuracy"
    near = f"within ± {same['margin']:g} of {'one half' if record['between'] else 'chance'}"
    shown = f"{near} ({_p(same['p'])})"
    if share["low"] is not None and (share["low"] > 0.5 or share["high"] < 0.5):
        verdict = _away(record, above=share["low"] > 0.5) + (f", though {shown}" if same["shown"] else "")
    else:
        verdict = shown if same["shown"] else f"neither told apart from one half nor shown to be {near}"
    d_prime = "" if record["between"] else f" Their mean d' is {with_interval(mean['d_prime'])}."
    return f"The mean {what} of {readers} readers is {with_interval(share)}: {verdict}.{d_prime}"


def _away(record: Mapping[str, Any], *, above: bool) -> str:
    """What it means that a share is not one half."""
    if record["between"]:
        first, second = record["between"] if above else reversed(record["between"])
        return f"{first} looks more real than {second}"
    return "better than chance" if above else "worse than chance, so a difference is seen but taken the wrong way round"


def _of_reader(record: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    counted = sum(map(sum, row["confusion"]))
    did = f"chose {record['between'][0]}" if record["between"] else "was right"
    told = f"{row['reader']} {did} in {with_interval(row['accuracy'])} of {counted} answers"
    if row["difference"] is None:
        return f"{told}, all of one kind so far: that says nothing yet."
    balanced, same = row["balanced_accuracy"], row["equivalence"]
    if half_up(balanced["value"]) != half_up(row["accuracy"]["value"]):
        told += f", of both kinds alike in {with_interval(balanced)}"
    if row["difference"] < ALPHA:
        return f"{told}: {_seen(record, row)}"
    if same["shown"]:
        return f"{told}: as good as chance within ± {same['margin']:g} ({_p(same['p'])})."
    return (
        f"{told}: neither a difference is shown ({_p(row['difference'])}) nor that it is within ± {same['margin']:g} "
        "of one half."
    )


def _seen(record: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """That a reader saw a difference, how large it is, and what hid it."""
    above, p = row["d_prime"]["value"] > 0, _p(row["difference"])
    if record["between"]:
        return f"{_away(record, above=above)} ({p})."
    way = "saw a difference" if above else "saw a difference, and took it the wrong way round"
    habit = row["criterion"]["value"]
    side = terms(record)["signal" if habit < 0 else "noise"]
    hidden = f", though the habit of answering {side!r} hides some of it" if abs(habit) > 0.5 else ""
    return f"{way} ({p}); d' is {with_interval(row['d_prime'])}{hidden}."


def _p(p: float) -> str:
    told = p_value(p)
    return f"p {told}" if told.startswith("<") else f"p = {told}"


# -- methods ----------------------------------------------------------------------------------------------------------


def methods(record: Mapping[str, Any]) -> str:
    """A paragraph for a paper's methods section."""
    return " ".join(f"{sentence}." for sentence in [*_design(record), *_analysis(record)])


def _design(record: Mapping[str, Any]) -> list[str]:
    """Who was shown and asked what."""
    readers = [each for each in record["readers"] if each["answered"]]
    stopped = [each["answered"] for each in readers if each["answered"] < each["of"]]
    pairs, settings = record["question"] == "which_is_real", record["settings"]
    what = "pairs of cells" if pairs else "cells"
    asked = (
        "whether each cell was real or synthetic" if not pairs
        else "which of two synthetic cells looked more real" if record["between"]
        else "which of two cells was real"
    )  # fmt: skip
    rated = f", with a confidence of {record['confidences']} steps" if record["confidences"] > 1 else ""
    sentences = [
        f"{len(readers)} reader{'' if len(readers) == 1 else 's'} judged {record['tables'][0]['items']} {what}, drawn "
        f"at random: {_numbers(record)}",
        f"They said {asked}{rated}",
        "Each had a random order, in a browser and without a limit of time, and could enlarge cells and change their "
        "brightness",
    ]
    if stopped:
        few, most = min(stopped), max(stopped)
        sentences.append(
            f"{len(stopped)} did not finish and {'is' if len(stopped) == 1 else 'are'} counted with the "
            f"{few if few == most else f'{few} to {most}'} answers that there are"
        )
    if settings["practice"]:
        sentences.append(
            f"Before that, {settings['practice']} further {what} were shown with their truth, and not counted"
        )
    if settings["repeats"]:
        sentences.append(f"{settings['repeats']} came again in the last third; the first answer counts")
    if settings["abnormalities"]:
        named = ", ".join(name.replace("_", " ") for name in settings["abnormalities"])
        sentences.append(f"They also said whether a cell showed {named} or none of these, and the grade")
    if settings["jpeg_quality"]:
        sentences.append(f"All images had been compressed by JPEG alike, at quality {settings['jpeg_quality']}")
    return [*sentences, "They came without metadata, in files of one form and size"]


def _numbers(record: Mapping[str, Any]) -> str:
    """How many of each kind."""
    by_stratum: dict[str, list[str]] = {}
    for kind in record["shown"]:
        told = f"{kind['items']} {' with '.join(kind['sources'])}"
        by_stratum.setdefault(kind["stratum"].replace("_", " "), []).append(told)
    return "; ".join(f"{stratum} {', '.join(kinds)}" for stratum, kinds in by_stratum.items())


def _analysis(record: Mapping[str, Any]) -> list[str]:
    """How the figures were made."""
    pairs, called = record["question"] == "which_is_real", terms(record)
    rates = "z(hit rate) - z(false alarm rate)"
    signal = f"pairs with {called['signal']}" if pairs else "real cells"
    sentences = [
        f"With {signal} as the positive class, accuracy, recall and specificity have Wilson's 95 % intervals, and the "
        "balanced accuracy Newcombe's",
        f"Sensitivity is d' = {f'({rates}) / √2' if pairs else rates} and bias the criterion c, after the log-linear "
        "correction where a cell of the confusion matrix was empty, with intervals from the rates' Jeffreys intervals "
        "(MOVER)",
        "That a reader saw a difference was tested by Fisher's exact test, and that the balanced accuracy lies within "
        f"0.5 ± {record['margin']:g} by two one-sided score tests (Farrington and Manning), at a level of {ALPHA:g}",
    ]
    if record["confidences"] > 1:
        sentences.append("The area under the ROC curve is that of the rated confidence, with Newcombe's score interval")
    if record["tables"][0]["mean"] is not None:
        sentences.append("Means over readers have 95 % intervals by a bootstrap that draws readers and cells")
        sentences.append("Agreement is Cohen's kappa of each two readers, and Fleiss's of all")
    return [*sentences, f"Analysed with wbc-diffusers {record['version']}"]


def shown_name(table: Mapping[str, Any]) -> str:
    """What a table is of."""
    name = "All cells" if table["stratum"] == ALL else table["stratum"].replace("_", " ")
    return f"{name}: {table['generator']}" if table["generator"] else name
