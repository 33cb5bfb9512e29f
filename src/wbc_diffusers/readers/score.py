"""`wbc readers score`: from answers and key to the tables of the thesis and what holds them up."""

from collections.abc import Mapping
from dataclasses import asdict
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers import __version__
from wbc_diffusers.evaluation.intervals import Estimate
from wbc_diffusers.readers import detection
from wbc_diffusers.readers.agreement import cohens_kappa, draw_images, fleiss_kappa, with_interval
from wbc_diffusers.readers.answers import NONE, Sheet
from wbc_diffusers.readers.certainty import MARGIN, Measure, OverReaders, equivalence, over_readers, wilson
from wbc_diffusers.readers.config import ALL, REAL

_SHARES: dict[str, Measure] = {
    "accuracy": detection.accuracy, "recall": detection.recall, "specificity": detection.specificity,
}  # fmt: skip


def score(sheet: Sheet) -> dict[str, Any]:
    """All figures of a study, as plain data."""
    config = sheet.key["config"]
    margin = float(config.get("margin", MARGIN))
    return {
        "version": __version__,
        "study": sheet.key["study"],
        "title": config["title"],
        "question": config["question"],
        "margin": margin,
        "confidences": sheet.levels // 2,
        "readers": [_reader(sheet, row) for row in range(len(sheet.readers))],
        "tables": [_table(sheet, stratum, source, margin) for stratum, source in _tables(sheet)],
        "generators": _generators(sheet),
        "agreement": _agreement(sheet),
        "again": _again(sheet),
        "abnormality": _abnormality(sheet),
        "missed": _missed(sheet),
        "comments": [
            {"reader": name, "cells": list(sheet.items[item].cells), "comment": comment}
            for name, item, comment in sheet.comments
        ],
        "risks": list(sheet.key["risks"]),
    }


# -- tables 9 to 14 ---------------------------------------------------------------------------------------------------


def _tables(sheet: Sheet) -> list[tuple[str, str | None]]:
    """Which tables there are: all, each stratum, and where there are several generators, each of them."""
    strata = sheet.strata
    tables: list[tuple[str, str | None]] = [(ALL, None)]
    tables += [(stratum, None) for stratum in strata] if len(strata) > 1 else []
    generators = _generator_names(sheet)
    return tables + [(ALL, name) for name in generators] if len(generators) > 1 and not sheet.in_pairs else tables


def _generator_names(sheet: Sheet) -> list[str]:
    names = [name for item in sheet.items for name in (item.source, item.other) if name]
    return [name for name in dict.fromkeys(names) if name != REAL]


def _table(sheet: Sheet, stratum: str, generator: str | None, margin: float) -> dict[str, Any]:
    """A confusion matrix and its figures for each reader, and for their mean."""
    chosen = np.array(
        [stratum in (ALL, item.stratum) and generator in (None, *_sources(sheet, item)) for item in sheet.items]
    )
    answers, signal, strata = sheet.answers[:, chosen], sheet.signal[:, chosen], _strata(sheet)[chosen]
    rows = []
    for row, name in enumerate(sheet.readers):
        own = slice(row, row + 1)
        if (answers[row] != NONE).any():
            rows.append({"reader": name, **_row(answers[own], signal[own], sheet, strata, margin)})
    table: dict[str, Any] = {"stratum": stratum, "generator": generator, "items": int(chosen.sum()), "rows": rows}
    there = [row for row in range(len(sheet.readers)) if (answers[row] != NONE).any()]
    table["mean"] = None
    if len(there) > 1:
        drawn = over_readers(answers[there], signal[there], sheet.levels, _measures(sheet), strata)
        table["mean"] = {name: _figure(found.interval) for name, found in drawn.items()}
        table["mean"]["equivalence"] = _told(drawn["balanced_accuracy"].equivalence(margin))
    return table


def _sources(sheet: Sheet, item: Any) -> tuple[str, ...]:
    """Of which tables by generator an item is: real cells are of all."""
    return tuple(_generator_names(sheet)) if item.source == REAL else (item.source,)


def _strata(sheet: Sheet) -> NDArray[np.int64]:
    """What is drawn alike in the bootstrap: the cells of each source of each stratum."""
    names = [(item.stratum, item.source) for item in sheet.items]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names])


def _measures(sheet: Sheet) -> dict[str, Measure]:
    """Figures that are given an interval over readers."""
    # One of two is chosen by the difference of both, which scatters by a factor of √2 more (Green and Swets 1966).
    factor = 1 / sqrt(2) if sheet.in_pairs else 1.0
    measures = {
        **_SHARES,
        "balanced_accuracy": detection.balanced_accuracy,
        "d_prime": lambda counts: factor * detection.d_prime(counts),
        "criterion": detection.criterion,
    }
    return measures | ({"auc": detection.auc} if sheet.levels > 2 else {})


def _row(
    answers: NDArray[np.int64], signal: NDArray[np.bool_], sheet: Sheet, strata: NDArray[np.int64], margin: float
) -> dict[str, Any]:
    """The figures of one reader (1, N)."""
    counts = detection.count_answers(answers, signal, sheet.levels)[0]
    table = detection.confusion(counts).astype(int)
    right, (signals, noise) = int(np.trace(table)), table.sum(1)
    drawn = over_readers(answers, signal, sheet.levels, _measures(sheet), strata)
    row = {
        "confusion": table.tolist(),
        "accuracy": asdict(wilson(right, int(table.sum()))),
        "recall": asdict(wilson(int(table[0, 0]), int(signals))) if signals else None,
        "specificity": asdict(wilson(int(table[1, 1]), int(noise))) if noise else None,
        "corrected": bool(detection.is_corrected(counts)),
        "equivalence": _told(equivalence(right, int(table.sum()), margin)),
    }
    rest = ("d_prime", "criterion", "auc") if signals and noise else ()
    return row | {name: _figure(drawn[name].interval) for name in rest if name in drawn}


def _told(test: Any) -> dict[str, Any]:
    return {**asdict(test), "shown": test.shown}


# -- readers and items ------------------------------------------------------------------------------------------------


def _reader(sheet: Sheet, row: int) -> dict[str, Any]:
    """How far a reader got, how long it took, and whether time or order went with being right."""
    given = sheet.answers[row] != NONE
    right, seconds, places = sheet.right[row][given] == 1, sheet.seconds[row][given], sheet.places[row][given]
    told: dict[str, Any] = {"name": sheet.readers[row], "answered": int(given.sum()), "of": len(sheet.items)}
    if not given.any():
        return told
    told["median_seconds"] = float(np.median(seconds))
    early = places <= np.median(places)
    halves = np.array([[(right & half).sum(), (~right & half).sum()] for half in (early, ~early)])
    if (halves.sum(1) > 0).all():
        first, second = (float(share) for share in halves[:, 0] / halves.sum(1))
        told["order"] = {"first_half": first, "second_half": second, "p": float(stats.fisher_exact(halves).pvalue)}
    if right.any() and not right.all():
        test = stats.mannwhitneyu(seconds[right], seconds[~right])
        told["time"] = {
            "right": float(np.median(seconds[right])), "wrong": float(np.median(seconds[~right])),
            "p": float(test.pvalue),
        }  # fmt: skip
    return told


def _missed(sheet: Sheet) -> list[dict[str, Any]]:
    """Items that every reader who answered, two or more, got wrong."""
    answered = sheet.right != NONE
    nobody = (answered.sum(0) > 1) & ~(sheet.right == 1).any(0)
    return [
        {
            "stratum": sheet.items[item].stratum, "source": sheet.items[item].source,
            "cells": list(sheet.items[item].cells), "readers": int(answered[:, item].sum()),
        }
        for item in np.flatnonzero(nobody)
    ]  # fmt: skip


def _generators(sheet: Sheet) -> list[dict[str, Any]]:
    """How often cells of each generator are taken for real, less how often those of each other one are."""
    names = _generator_names(sheet)
    of_each = [np.array([item.source == name for item in sheet.items]) for name in names]
    # Of the same readers for each, so that their habits cancel.
    there = np.array([(sheet.answers[:, own] != NONE).any(1) for own in of_each]).all(0)
    if sheet.in_pairs or len(names) < 2 or not there.any():
        return []
    fooled = {}
    for name, of_it in zip(names, of_each, strict=True):
        measures: dict[str, Measure] = {"fooled": lambda counts: 1 - detection.specificity(counts)}
        cells = (sheet.answers[there][:, of_it], sheet.signal[there][:, of_it])
        fooled[name] = over_readers(*cells, sheet.levels, measures, _strata(sheet)[of_it])["fooled"]
    return [
        {
            "generator": name,
            "taken_for_real": _figure(own.interval),
            "more_than": {
                against: _figure(OverReaders(own.value - other.value, own.drawn - other.drawn).interval)
                for against, other in fooled.items()
                if against != name
            },
        }
        for name, own in fooled.items()
    ]


# -- agreement --------------------------------------------------------------------------------------------------------


def _figure(found: Estimate) -> dict[str, float | None]:
    """A figure as JSON has it, null where it is no number."""
    return {name: None if np.isnan(value) else value for name, value in asdict(found).items()}


def _between(readers: list[str], answers: NDArray[np.int64], levels: int, *, graded: bool = False) -> dict[str, Any]:
    """Agreement of all readers, and of each two."""
    drawn = draw_images(answers.shape[1])
    pairs = [(i, j) for i in range(len(readers)) for j in range(i + 1, len(readers))]
    fleiss = with_interval(fleiss_kappa(answers, levels), fleiss_kappa(answers, levels, drawn)) if pairs else None
    found = []
    for i, j in pairs:
        kappa, of_draws = (
            cohens_kappa(answers[i], answers[j], levels, graded=graded, weights=weights) for weights in (None, drawn)
        )
        found.append({"readers": [readers[i], readers[j]], "kappa": _figure(with_interval(kappa, of_draws))})
    return {"fleiss": None if fleiss is None else _figure(fleiss), "pairs": found}


def _agreement(sheet: Sheet) -> dict[str, Any]:
    """How far readers agree on what is real."""
    return _between(sheet.readers, sheet.called, 2)


def _again(sheet: Sheet) -> list[dict[str, Any]]:
    """How far each reader agrees with himself."""
    found = []
    for row, name in enumerate(sheet.readers):
        own = [(each.first, each.second) for each in sheet.again if each.reader == row]
        if own:
            both = np.array(own, int).T
            kappa = float(cohens_kappa(both[0], both[1], 2)[0])
            same = asdict(wilson(int((both[0] == both[1]).sum()), both.shape[1]))
            found.append({"reader": name, "same": same, "kappa": None if np.isnan(kappa) else kappa})
    return found


def _abnormality(sheet: Sheet) -> dict[str, Any] | None:
    """What readers saw in cells that show, by their label or their generator's training, this or that; None if unasked.

    Grades are 0 where no abnormality was seen.
    """
    if not sheet.abnormalities:
        return None
    facts = [sheet.key["cells"][item.cells[0]] for item in sheet.items]
    names = [*sheet.abnormalities, *sorted({_intended(each) for each in facts} - set(sheet.abnormalities))]
    meant = np.array([names.index(_intended(each)) for each in facts])
    real = np.array([item.source == REAL for item in sheet.items])
    rows = []
    for row, name in enumerate(sheet.readers):
        for source, of_source in (("real", real), ("synthetic", ~real)):
            there = of_source & (sheet.kinds[row] != NONE)
            said, wanted = sheet.kinds[row][there], meant[there]
            if len(said):
                table = np.zeros((len(names), len(sheet.abnormalities)), int)
                np.add.at(table, (wanted, said), 1)
                same = asdict(wilson(int((said == wanted).sum()), len(said)))
                rows.append({"reader": name, "cells": source, "table": table.tolist(), "as_meant": same})
    return {
        "meant": names,
        "seen": sheet.abnormalities,
        "rows": rows,
        "agreement": _between(sheet.readers, sheet.kinds, len(sheet.abnormalities)),
        "grades": _between(sheet.readers, np.where(sheet.kinds == NONE, NONE, sheet.grades), 3, graded=True),
    }


def _intended(facts: Mapping[str, Any]) -> str:
    return str(facts.get("abnormality") or "none")
