"""`wbc readers score`: from answers and key to the tables of the thesis and what holds them up."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers import __version__
from wbc_diffusers.evaluation.intervals import Estimate
from wbc_diffusers.readers import detection
from wbc_diffusers.readers.agreement import kappa_with_interval
from wbc_diffusers.readers.answers import NONE, Item, Sheet
from wbc_diffusers.readers.certainty import INTERVALS, Equivalence, equivalence, sees_difference, wilson
from wbc_diffusers.readers.config import ALL, REAL, UNEVEN
from wbc_diffusers.readers.several import OverReaders, over_readers

LEAST_SHARE = 0.5
"""Who answered less of a study is not counted in means."""
ONE_SIDED = 0.05
"""Who gave one of two answers less often is not told to be at chance: it tells nothing of whether he can tell."""
_SHARES = ("accuracy", "recall", "specificity")


def score(sheet: Sheet) -> dict[str, Any]:
    """All figures of a study, as plain data."""
    config = sheet.key["config"]
    margin = float(config["margin"])
    return {
        "version": __version__,
        "study": sheet.key["study"],
        "title": config["title"],
        "question": config["question"],
        "between": _between_generators(sheet),
        "margin": margin,
        "confidences": sheet.levels // 2,
        "settings": {name: config[name] for name in ("repeats", "jpeg_quality", "abnormalities")}
        | {"practice": sum(cell["practice"] for cell in sheet.key["cells"].values()) // (1 + sheet.in_pairs)},
        "shown": _shown(sheet),
        "readers": [_reader(sheet, row) for row in range(len(sheet.readers))],
        "tables": [_table(sheet, stratum, source, margin) for stratum, source in _tables(sheet)],
        "generators": _generators(sheet),
        "agreement": _agreement(sheet),
        "again": _again(sheet),
        "abnormality": _abnormality(sheet),
        "missed": _missed(sheet),
        "comments": _comments(sheet),
        "risks": list(sheet.key["risks"]),
    }  # fmt: skip


def sources_of(item: Item) -> list[str]:
    """Where the cells of an item are from, in their order."""
    return [item.source] if item.other is None else [item.source, item.other]


def _between_generators(sheet: Sheet) -> list[str] | None:
    """The two generators whose cells are shown in pairs; None if real cells are."""
    sources = sources_of(sheet.items[0])
    return sources if len(sources) == 2 and REAL not in sources else None


def _shown(sheet: Sheet) -> list[dict[str, Any]]:
    """How many items of each kind there are."""
    kinds = [(item.stratum, tuple(sources_of(item))) for item in sheet.items]
    return [
        {"stratum": stratum, "sources": list(sources), "items": kinds.count((stratum, sources))}
        for stratum, sources in dict.fromkeys(kinds)
    ]


# -- tables 9 to 14 ---------------------------------------------------------------------------------------------------


def _tables(sheet: Sheet) -> list[tuple[str, str | None]]:
    """Which tables there are: all, each stratum, and where there are several generators, each of them."""
    strata = sheet.strata
    tables: list[tuple[str, str | None]] = [(ALL, None)]
    tables += [(stratum, None) for stratum in strata] if len(strata) > 1 else []
    generators = _generator_names(sheet)
    apart = len(generators) > 1 and _between_generators(sheet) is None
    return tables + [(ALL, name) for name in generators] if apart else tables


def _generator_names(sheet: Sheet) -> list[str]:
    names = [name for item in sheet.items for name in sources_of(item)]
    return [name for name in dict.fromkeys(names) if name != REAL]


def _table(sheet: Sheet, stratum: str, generator: str | None, margin: float) -> dict[str, Any]:
    """A confusion matrix and its figures for each reader, and for their mean."""
    chosen = np.array([stratum in (ALL, item.stratum) for item in sheet.items])
    if generator is not None:
        chosen &= _of_generator(sheet, generator)
    answers, signal, strata = sheet.answers[:, chosen], sheet.signal[:, chosen], _strata(sheet)[chosen]
    confounded = _is_confounded(sheet, chosen)
    table: dict[str, Any] = {
        "stratum": stratum, "generator": generator, "items": int(chosen.sum()), "confounded": confounded,
    }  # fmt: skip
    table["rows"] = [
        {
            "reader": sheet.readers[row],
            **_row(detection.count_answers(answers[row], signal[row], sheet.levels), sheet, margin, confounded),
        }
        for row in np.flatnonzero((answers != NONE).any(1))
    ]
    there = counted_readers(sheet) & _saw_both(answers, signal)
    table["mean"] = None
    if there.sum() > 1:
        found = over_readers(answers[there], signal[there], sheet.levels, _figures(sheet), strata)
        names = {sheet.readers[row] for row in np.flatnonzero(there)}
        told = {
            name: None if confounded and name not in _SHARES else _figure(each.interval, _factor(sheet, name))
            for name, each in found.items()
        }
        # Who always says the same is never far from one half, and so is a mean of such readers.
        habits = confounded or any(row["one_sided"] for row in table["rows"] if row["reader"] in names)
        same = None if habits else _told(found["balanced_accuracy"].equivalence(margin))
        table["mean"] = {"readers": int(there.sum()), **told, "equivalence": same}
    return table


def _saw_both(answers: NDArray[np.int64], signal: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which readers answered signals and noise, so that all figures of them are defined."""
    return np.asarray(((answers != NONE) & signal).any(1) & ((answers != NONE) & ~signal).any(1))


def counted_readers(sheet: Sheet) -> NDArray[np.bool_]:
    """Which readers are counted in means: who answered half of the study or more."""
    return (sheet.answers != NONE).mean(1) >= LEAST_SHARE


def _is_confounded(sheet: Sheet, chosen: NDArray[np.bool_]) -> bool:
    """Whether strata differ in their share of real cells, so that a habit that goes by stratum looks like skill."""
    if sheet.in_pairs:
        return False
    real = np.array([item.source == REAL for item in sheet.items])
    strata = np.array([item.stratum for item in sheet.items])
    shares = [real[chosen & (strata == stratum)].mean() for stratum in np.unique(strata[chosen])]
    return bool(max(shares) - min(shares) > UNEVEN)


def _of_generator(sheet: Sheet, generator: str) -> NDArray[np.bool_]:
    """A generator's items, and where cells are shown one by one, the real ones of the strata that it has."""
    own = np.array([generator in sources_of(item) for item in sheet.items])
    strata = {item.stratum for item, its in zip(sheet.items, own, strict=True) if its}
    real = [not sheet.in_pairs and item.source == REAL and item.stratum in strata for item in sheet.items]
    return own | np.array(real)


def _strata(sheet: Sheet) -> NDArray[np.int64]:
    """Of which stratum of the jackknife each cell is: the cells of each source of each stratum are one."""
    names = [(item.stratum, item.source) for item in sheet.items]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names])


def _figures(sheet: Sheet) -> list[str]:
    """The names of the figures: of answers without confidence, the area under the curve is the balanced accuracy."""
    return [name for name in INTERVALS if name != "auc" or sheet.levels > 2]


def _factor(sheet: Sheet, figure: str) -> float:
    """What d' of pairs is multiplied by.

    One of two is chosen by the difference of both, which scatters by a factor of √2 more (Green and Swets 1966).
    """
    return 1 / sqrt(2) if sheet.in_pairs and figure == "d_prime" else 1.0


def _row(counts: detection.Numbers, sheet: Sheet, margin: float, confounded: bool) -> dict[str, Any]:
    """The figures of one reader's counts (2, L); those of both kinds only if he answered both."""
    table = detection.confusion(counts).astype(int)
    signals, noise = (bool(number) for number in table.sum(1))
    both = signals and noise and not confounded
    defined = {"accuracy": True, "recall": signals, "specificity": noise}
    figures = {
        name: _figure(INTERVALS[name](counts), _factor(sheet, name)) if defined.get(name, both) else None
        for name in _figures(sheet)
    }
    one_sided = bool(table.sum(0).min() < ONE_SIDED * table.sum())
    return {
        "confusion": table.tolist(),
        **figures,
        "corrected": bool(detection.is_corrected(counts)),
        "one_sided": one_sided,
        "difference": sees_difference(counts) if both else None,
        "equivalence": _told(equivalence(counts, margin)) if both and not one_sided else None,
    }


def _told(test: Equivalence) -> dict[str, Any]:
    return {**asdict(test), "shown": test.shown}


# -- readers and items ------------------------------------------------------------------------------------------------


def _reader(sheet: Sheet, row: int) -> dict[str, Any]:
    """How far a reader got, how long it took, and whether time or order went with being right."""
    given = sheet.answers[row] != NONE
    right, seconds, places = sheet.right[row][given] == 1, sheet.seconds[row][given], sheet.places[row][given]
    told: dict[str, Any] = {
        "name": sheet.readers[row], "answered": int(given.sum()), "of": len(sheet.items),
        "counted": bool(counted_readers(sheet)[row]),
    }  # fmt: skip
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
    """Items that every reader who answered, two or more, got wrong; between two generators nobody is wrong."""
    if _between_generators(sheet):
        return []
    answered = sheet.right != NONE
    nobody = (answered.sum(0) > 1) & ~(sheet.right == 1).any(0)
    return [
        {
            "stratum": sheet.items[item].stratum, "sources": sources_of(sheet.items[item]),
            "cells": list(sheet.items[item].cells), "readers": int(answered[:, item].sum()),
        }
        for item in np.flatnonzero(nobody)
    ]  # fmt: skip


def _comments(sheet: Sheet) -> list[dict[str, Any]]:
    """What readers said, and of which cells, in the order that they saw."""
    return [
        {
            "reader": sheet.readers[given.reader], "stratum": sheet.items[given.item].stratum,
            "sources": [sheet.key["cells"][name]["source"] for name in given.images], "cells": given.images,
            "right": given.right, "comment": given.answer.content["comment"],
        }
        for given in sheet.given
        if "comment" in given.answer.content
    ]  # fmt: skip


def _generators(sheet: Sheet) -> list[dict[str, Any]]:
    """How often cells of each generator are taken for real, and how much more often than those of each other one.

    Two are compared by the strata that both have, and by readers who saw cells of both, so that habits cancel.
    """
    names = _generator_names(sheet)
    if sheet.in_pairs or len(names) < 2:
        return []
    found = []
    for name in names:
        others = {other: _more_than(sheet, name, other) for other in names if other != name}
        cells = np.array([item.source == name for item in sheet.items])
        taken = _over_all(sheet, cells, np.ones(cells.sum(), bool), "recall").interval
        found.append({"generator": name, "taken_for_real": _figure(taken), "more_than": others})
    return found


def _more_than(sheet: Sheet, name: str, other: str) -> dict[str, float | None] | None:
    """How much more often cells of one are taken for real than those of another; None if no stratum has both."""
    of_each = [{item.stratum for item in sheet.items if item.source == source} for source in (name, other)]
    shared = of_each[0] & of_each[1]
    cells = np.array([item.source in (name, other) and item.stratum in shared for item in sheet.items])
    if not cells.any():
        return None
    first = np.array([item.source == name for item in sheet.items])[cells]
    found = _over_all(sheet, cells, first, "balanced_accuracy").interval
    # The mean of how often the one is called real and the other not is half their difference above 0.5.
    return _figure(Estimate(*(2 * value - 1 for value in (found.value, found.low, found.high))))


def _over_all(sheet: Sheet, cells: NDArray[np.bool_], signal: NDArray[np.bool_], figure: str) -> OverReaders:
    """A figure of how often some cells were called real, those that count as signals and those that don't."""
    answers = sheet.answers[counted_readers(sheet)][:, cells]
    return over_readers(answers, signal, sheet.levels, [figure], _strata(sheet)[cells])[figure]


# -- agreement --------------------------------------------------------------------------------------------------------


def _figure(found: Estimate, factor: float = 1.0) -> dict[str, float | None]:
    """A figure as JSON has it, null where it is no number."""
    return {name: None if np.isnan(value) else factor * value for name, value in asdict(found).items()}


def _between(sheet: Sheet, answers: NDArray[np.int64], levels: int, *, graded: bool = False) -> dict[str, Any]:
    """Agreement of each two readers who answered anything, and of all who are counted, with the number of images.

    Grades are compared where both saw the same abnormality, or one of them none.
    """
    there = np.flatnonzero((answers != NONE).any(1))
    pairs = []
    for i, j in combinations(map(int, there), 2):
        same = (sheet.kinds[i] == sheet.kinds[j]) | (answers[[i, j]] == 0).any(0)
        pairs.append(_kappa(sheet, answers[:, same] if graded else answers, [i, j], levels, graded=graded))
    counted = np.flatnonzero(counted_readers(sheet))
    more = len(counted) > 2 and not graded
    return {"fleiss": _kappa(sheet, answers, list(counted), levels) if more else None, "pairs": pairs}


def _kappa(
    sheet: Sheet, answers: NDArray[np.int64], rows: list[int], levels: int, *, graded: bool = False
) -> dict[str, Any]:
    found = kappa_with_interval(answers[rows], levels, graded=graded)
    images = int((answers[rows] != NONE).all(0).sum())
    return {"readers": [sheet.readers[row] for row in rows], "images": images, "kappa": _figure(found)}


def _agreement(sheet: Sheet) -> dict[str, Any]:
    """How far readers agree on what is real, of pairs on which cell."""
    return _between(sheet, sheet.called, 2)


def _again(sheet: Sheet) -> list[dict[str, Any]]:
    """How far each reader agrees with himself."""
    found = []
    for row, name in enumerate(sheet.readers):
        own = [(first, second) for first, second in sheet.again if first.reader == row]
        if own:
            # Of a pair, sides may change: alike is who chose the same cell.
            both = np.array([[each.right if sheet.in_pairs else each.chosen for each in pair] for pair in own], int).T
            same = asdict(wilson(int((both[0] == both[1]).sum()), both.shape[1]))
            kappa = _figure(kappa_with_interval(both, 2))
            found.append({"reader": name, "items": both.shape[1], "same": same, "kappa": kappa})
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
            for wanted in range(len(names)):
                there = of_source & (sheet.kinds[row] != NONE) & (meant == wanted)
                seen = np.bincount(sheet.kinds[row][there], minlength=len(sheet.abnormalities))
                known = there.any() and wanted < len(sheet.abnormalities)
                same = asdict(wilson(int(seen[wanted]), int(there.sum()))) if known else None
                row_told = {"reader": name, "cells": source, "meant": names[wanted], "seen": seen.tolist()}
                rows += [{**row_told, "as_meant": same}] if there.any() else []
    return {
        "seen": sheet.abnormalities,
        "rows": rows,
        "agreement": _between(sheet, sheet.kinds, len(sheet.abnormalities)),
        "grades": _between(sheet, np.where(sheet.kinds == NONE, NONE, sheet.grades), 3, graded=True),
        "graded": _graded(sheet, facts),
    }


def _graded(sheet: Sheet, facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Which grades readers saw, 0 where none, in cells of known grades; agreement of both where these differ.

    The grade of another abnormality than the one that was meant is none of it, and is not counted.
    """
    meant = np.array([int(each["grade"]) if str(each.get("grade") or "") in ("1", "2") else NONE for each in facts])
    asked = {name: number for number, name in enumerate(sheet.abnormalities)}
    kinds = np.array([asked.get(_intended(each), NONE) for each in facts])
    real = np.array([item.source == REAL for item in sheet.items])
    found = []
    for row, name in enumerate(sheet.readers):
        for source, of_source in (("real", real), ("synthetic", ~real)):
            there = of_source & (meant != NONE) & ((sheet.kinds[row] == kinds) | (sheet.kinds[row] == 0))
            there &= sheet.kinds[row] != NONE
            if there.any():
                both = np.stack([meant[there], sheet.grades[row][there]])
                seen = [np.bincount(both[1][both[0] == grade], minlength=3).tolist() for grade in (1, 2)]
                kappa = _figure(kappa_with_interval(both, 3, graded=True)) if np.ptp(both[0]) else None
                found.append({"reader": name, "cells": source, "seen": seen, "kappa": kappa})
    return found


def _intended(facts: Mapping[str, Any]) -> str:
    return str(facts.get("abnormality") or "not known")
