"""What a reader study found, and how it was done, in words."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

from scipy import stats

from wbc_diffusers.pages.tables import half_up, p_value
from wbc_diffusers.readers.certainty import ALPHA
from wbc_diffusers.readers.config import ALL

FEW = 3
"""Of fewer readers no interval says much of others."""
NOTABLE = 0.03
"""Of an accuracy, what a habit costs and is told."""


def with_interval(found: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """A figure with its interval, for people."""
    if found is None or found["value"] is None:
        return ""
    figures = (found[name] for name in ("value", "low", "high"))
    value, *bounds = (None if figure is None else half_up(figure, digits) for figure in figures)
    return f"{value}" if None in bounds else f"{value} ({bounds[0]} to {bounds[1]})"


def terms(record: Mapping[str, Any]) -> dict[str, str]:
    """How signals and noise, answers and the figures of them, are called."""
    if record["question"] == "real_or_synthetic":
        return {
            "signal": "real", "noise": "synthetic", "called": "called real", "not": "called synthetic",
            "right": "right", "wrong": "wrong", "accuracy": "accuracy", "recall": "recall",
            "specificity": "specificity", "balanced_accuracy": "balanced accuracy",
        }  # fmt: skip
    first, second = record["between"] or ("real", "")
    right, wrong = (f"chose {first}", f"chose {second}") if record["between"] else ("right", "wrong")
    return {
        "signal": f"{first} on the left", "noise": f"{first} on the right", "called": "chose left",
        "not": "chose right", "right": right, "wrong": wrong,
        "accuracy": f"share that {right}" if record["between"] else "accuracy",
        "recall": f"{right} if on the left", "specificity": f"{right} if on the right",
        "balanced_accuracy": f"{right}, mean of both sides",
    }  # fmt: skip


# -- findings ---------------------------------------------------------------------------------------------------------


def findings(record: Mapping[str, Any]) -> list[str]:
    """What a study found, in sentences: of the readers together, of each, and of the generators."""
    whole = record["tables"][0]
    strata = [table for table in record["tables"] if table["stratum"] != ALL]
    told, tables = [], strata if whole["confounded"] else [whole]
    if whole["confounded"]:
        told.append(
            "Strata differ in their share of real cells, so that a habit that goes by stratum would look like skill in "
            "all cells together: each stratum is told by itself."
        )
    for table in tables:
        about = "" if table is whole else f"{shown_name(table)}: "
        told += [f"{about}{line}" for line in _of_mean(record, table["mean"])]
    told += _who(record)
    for table in tables:
        about = "" if table is whole else f"{shown_name(table)}: "
        told += [f"{about}{_of_reader(record, row)}" for row in table["rows"]]
    for each in record["generators"]:
        if each["taken_for_real"]["value"] is not None:
            told.append(f"Cells of {each['generator']} were taken for real in {with_interval(each['taken_for_real'])}.")
    return told


def _who(record: Mapping[str, Any]) -> list[str]:
    """How many readers there are, and how far they got."""
    told = []
    counted = sum(each["counted"] for each in record["readers"])
    if counted < 2:
        told.append(
            f"{'One reader has' if counted else 'No reader has'} answered half of the study or more, so there is no "
            "mean and no figure says anything of other readers."
        )
    elif counted < FEW:
        told.append("Of two readers no interval says much of others: ask three or more.")
    for each in record["readers"]:
        if 0 < each["answered"] < each["of"]:
            out = "" if each["counted"] else ", and is not counted in means"
            told.append(f"{each['name']} has answered {each['answered']} of {each['of']} so far{out}.")
    return told


def _of_mean(record: Mapping[str, Any], mean: Mapping[str, Any] | None) -> list[str]:
    if mean is None:
        return []
    share, same = mean["balanced_accuracy"], mean["equivalence"]
    what = "share that chose " + record["between"][0] if record["between"] else "balanced accuracy"
    near = f"within ± {record['margin']:g} of one half"
    shown = f"{near} ({_p(same['p'])})" if same is not None and same["shown"] else None
    if share["low"] > 0.5 or share["high"] < 0.5:
        verdict = _away(record, above=share["low"] > 0.5) + (f", though {shown}" if shown else "")
    elif same is None:
        verdict = "not told apart from one half, which tells nothing of readers who nearly always gave the same answer"
    else:
        verdict = shown or f"neither told apart from one half nor shown to be {near}"
    # Of very few answers the interval of d' may hold 0 where that of the balanced accuracy is clear of one half.
    sure = mean["d_prime"]["low"] > 0 or mean["d_prime"]["high"] < 0
    agree = sure == (share["low"] > 0.5 or share["high"] < 0.5)
    d_prime = "" if record["between"] or not agree else f" Their mean d' is {with_interval(mean['d_prime'])}."
    return [f"The mean {what} of {mean['readers']} readers is {with_interval(share)}: {verdict}.{d_prime}"]


def _away(record: Mapping[str, Any], *, above: bool) -> str:
    """What it means that a share is not one half."""
    if record["between"]:
        first, second = record["between"] if above else reversed(record["between"])
        return f"{first} looks more real than {second}"
    return "better than chance" if above else "worse than chance, so a difference is seen but taken the wrong way round"


def _of_reader(record: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    (hits, misses), (alarms, rejected) = row["confusion"]
    counted, share = hits + misses + alarms + rejected, row["accuracy"]
    did = f"chose {record['between'][0]}" if record["between"] else "was right"
    low, high = half_up(share["low"]), half_up(share["high"])
    told = f"{row['reader']} {did} in {hits + rejected} of {counted} answers"
    told += f" ({half_up(share['value'])}; {low} to {high})"
    if row["difference"] is None:
        return f"{told}, all of one kind so far: that says nothing yet."
    if half_up(row["balanced_accuracy"]["value"]) != half_up(share["value"]):
        told += f", with both kinds weighing alike {with_interval(row['balanced_accuracy'])}"
    same = row["equivalence"]
    near = "" if same is None else f"within ± {same['margin']:g} of one half"
    if row["difference"] < ALPHA:
        within = f", though {near} ({_p(same['p'])})" if same is not None and same["shown"] else ""
        return f"{told}: {_seen(record, row)}{within}."
    if row["one_sided"]:
        most, words = max(hits + alarms, misses + rejected), terms(record)
        side = words["called"] if hits + alarms == most else words["not"]
        return f"{told}, and {side} in {most}: that tells nothing of whether a difference can be seen."
    if same["shown"]:
        return f"{told}: as good as chance, {near} ({_p(same['p'])})."
    return f"{told}: no difference is shown ({_p(row['difference'])}), nor that it is {near}."


def _seen(record: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """That a reader saw a difference, how large it is, and what hid it."""
    d_prime, p = row["d_prime"]["value"], _p(row["difference"])
    if record["between"]:
        return f"{_away(record, above=d_prime > 0)} ({p})"
    way = "saw a difference" if d_prime > 0 else "saw a difference, and took it the wrong way round"
    # Whoever has no habit of answering is right so often.
    unbiased = stats.norm.cdf(d_prime / 2 * (sqrt(2) if record["question"] == "which_is_real" else 1))
    told = f"{way} ({p}); d' is {with_interval(row['d_prime'])}"
    if row["corrected"] or unbiased - row["accuracy"]["value"] < NOTABLE:
        return told
    side = terms(record)["signal" if row["criterion"]["value"] < 0 else "noise"]
    return f"{told}, though the habit of answering {side!r} hides some of it"


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
        f"{len(readers)} reader{'' if len(readers) == 1 else 's'} were shown {record['tables'][0]['items']} {what}, "
        f"drawn at random: {_numbers(record)}".replace("1 reader were", "1 reader was"),
        f"They said {asked}{rated}",
        "Each had a random order, in a browser and without a limit of time, and could enlarge cells and change their "
        "brightness",
    ]
    if settings["practice"]:
        sentences.append(f"First {settings['practice']} other {what} were shown with their truth, and not counted")
    if settings["repeats"]:
        sentences.append(f"{settings['repeats']} came again in the last third; the first answer counts")
    if settings["abnormalities"]:
        named = ", ".join(name.replace("_", " ") for name in settings["abnormalities"])
        sentences.append(f"They also said whether a cell showed {named} or none of these, and the grade")
    if settings["jpeg_quality"]:
        sentences.append(f"All images had been compressed by JPEG alike, at quality {settings['jpeg_quality']}")
    sentences.append("Images came without metadata, in files of one form and size")
    if stopped:
        few, most = min(stopped), max(stopped)
        sentences.append(
            f"{len(stopped)} did not finish and gave {few if few == most else f'{few} to {most}'} answers; who gave "
            "less than half is not counted in means"
        )
    return sentences


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
    shares = "the shares" if pairs else "accuracy, recall and specificity"
    sentences = [
        f"With {signal} as the positive class, {shares} have Wilson's 95 % intervals, and the mean of both kinds "
        "(balanced accuracy) Newcombe's",
        f"Sensitivity is d' = {f'({rates}) / √2' if pairs else rates} and bias the criterion c, after the log-linear "
        "correction where a cell of the confusion matrix was empty, with intervals from the rates' Jeffreys intervals "
        "(MOVER)",
        "That a reader saw a difference was tested by Fisher's exact test, and that the balanced accuracy lies within "
        f"0.5 ± {record['margin']:g} by two one-sided score tests (Farrington and Manning), at a level of {ALPHA:g}",
    ]
    if record["confidences"] > 1:
        sentences.append("The area under the ROC curve is that of the rated confidence, with Newcombe's score interval")
    if record["tables"][0]["mean"] is not None or record["generators"]:
        sentences.append(
            "Means over readers, and differences between generators, have 95 % intervals, and means two one-sided t "
            "tests, by Obuchowski and Rockette's variance of readers and cells with Hillis's degrees of freedom, to "
            "which the intervals of readers who never erred in one way were added"
        )
    if record["agreement"]["pairs"]:
        sentences.append("Agreement is Cohen's kappa of two readers, and Fleiss's of more, by a Bayesian bootstrap")
    sentences.append("Time was compared by Mann and Whitney's test, and the halves of the study by Fisher's exact test")
    sentences.append("No p value is corrected for how many there are")
    return [*sentences, f"Analysed with wbc-diffusers {record['version']}"]


def shown_name(table: Mapping[str, Any]) -> str:
    """What a table is of."""
    name = "All cells" if table["stratum"] == ALL else table["stratum"].replace("_", " ")
    return f"{name}: {table['generator']}" if table["generator"] else name
