"""From answers to tables: the thesis's own, to the digit, and the parts that it did not have."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.readers.conftest import STRATA, Built, thesis_strata, write_source
from wbc_diffusers.pages.tables import half_up
from wbc_diffusers.readers.answers import read_sheet
from wbc_diffusers.readers.certainty import INTERVALS
from wbc_diffusers.readers.config import ReaderStudy
from wbc_diffusers.readers.folder import KEY_NAME
from wbc_diffusers.readers.reading import Reading
from wbc_diffusers.readers.report import score_study
from wbc_diffusers.readers.score import score
from wbc_diffusers.readers.words import findings, methods

EXPERT = {"hypersegmentation": (19, 20), "dohle_bodies": (14, 10), "hypergranulation": (15, 4)}
"""How many real cells, and how many synthetic ones, the thesis's expert called real (tables 10 to 12)."""
EMPLOYEE = {"hypersegmentation": (10, 18), "dohle_bodies": (6, 10), "hypergranulation": (6, 10)}
"""Of the employee only the sums are told (table 13): 22 and 38."""


def answer_all(
    built: Built, reader: str, choose: Callable[[list[dict[str, Any]], dict[str, Any]], dict[str, Any]]
) -> None:
    """Answer every item of a reader by a function of the cells' facts in the key and of the place."""
    reading, cells = Reading(built.folder), json.loads((built.key / KEY_NAME).read_text())["cells"]
    who = reading.reader(built.tokens[reader])
    assert who is not None
    state = reading.state(who)
    while state["phase"] == "reading":
        facts = [{"name": name, **cells[name]} for name in who.order[state["position"]]["images"]]
        state = reading.answer(who, state["position"], choose(facts, state), 1.5)
    reading.store.close()


def calls_real(quota: dict[str, tuple[int, int]]) -> Callable[[list[dict[str, Any]], dict[str, Any]], dict[str, Any]]:
    """Call so many real and so many synthetic cells of each stratum real: those that come first."""
    left = {
        (name, source): number
        for name, pair in quota.items()
        for source, number in zip(("real", "ddim"), pair, strict=True)
    }

    def choose(facts: list[dict[str, Any]], _: dict[str, Any]) -> dict[str, Any]:
        kind = (facts[0]["stratum"], facts[0]["source"])
        left[kind] -= 1
        return {"choice": "real" if left[kind] >= 0 else "synthetic"}

    return choose


@pytest.fixture(scope="module")
def thesis(real: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give the record of the thesis's study, answered as its expert and employee did."""
    place = tmp_path_factory.mktemp("thesis")
    config = {
        "title": "Thesis",
        "strata": thesis_strata(real, made),
        "readers": ["expert", "employee"],
        "confidences": 1,
    }
    built = Built(ReaderStudy.from_dict(config), place)
    answer_all(built, "expert", calls_real(EXPERT))
    answer_all(built, "employee", calls_real(EMPLOYEE))
    return score_study(built.folder, built.key, place / "score", names=True)


def with_gan(strata: dict[str, Any]) -> dict[str, Any]:
    """Give a second generator as many cells of hypersegmentation's stratum, others of the same folder."""
    strata["hypersegmentation"]["gan"] = {
        **strata["hypersegmentation"]["ddim"],
        "where": {"abnormality": "dohle_bodies"},
    }
    return strata


def row_of(record: dict[str, Any], stratum: str, reader: str) -> dict[str, Any]:
    """Give a reader's row of a table."""
    table = next(table for table in record["tables"] if table["stratum"] == stratum)
    return next(row for row in table["rows"] if row["reader"] == reader)


@pytest.mark.parametrize(
    ("stratum", "confusion", "figures"),
    [
        ("all", [[48, 2], [34, 16]], ("0.64", "0.96", "0.32")),
        ("hypersegmentation", [[19, 1], [20, 0]], ("0.48", "0.95", "0.00")),
        ("dohle_bodies", [[14, 1], [10, 5]], ("0.63", "0.93", "0.33")),
        ("hypergranulation", [[15, 0], [4, 11]], ("0.87", "1.00", "0.73")),
    ],
)
def test_tables_9_to_12_and_14_come_out_of_the_answers(
    thesis: dict[str, Any], stratum: str, confusion: list[list[int]], figures: tuple[str, ...]
) -> None:
    row = row_of(thesis, stratum, "expert")
    assert row["confusion"] == confusion
    assert tuple(half_up(row[name]["value"]) for name in ("accuracy", "recall", "specificity")) == figures
    assert row["corrected"] == (0 in confusion[0] or 0 in confusion[1])


def test_table_13_comes_out_of_the_answers(thesis: dict[str, Any]) -> None:
    row = row_of(thesis, "all", "employee")
    assert row["confusion"] == [[22, 28], [38, 12]]
    assert [half_up(row[name]["value"]) for name in ("accuracy", "recall", "specificity")] == ["0.34", "0.44", "0.24"]


def test_the_expert_saw_a_difference_though_accuracy_hides_it(thesis: dict[str, Any]) -> None:
    row = row_of(thesis, "all", "expert")
    assert half_up(row["d_prime"]["value"]) == "1.28"
    assert row["d_prime"]["low"] > 0
    assert row["criterion"]["value"] < -1
    assert not row["equivalence"]["shown"]
    assert not row["corrected"]


def test_the_page_and_tables_hold_the_figures(thesis: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = next(tmp_path_factory.getbasetemp().glob("thesis*/score"))
    page = (folder / "index.html").read_text()
    assert "(0.64; 0.54 to 0.73)" in page
    assert "1.28" in page
    assert json.loads((folder / "score.json").read_text()) == thesis
    assert (folder / "table.csv").read_text().count("\n") == 1 + 4 * 3
    assert (folder / "answers.csv").read_text().count("\n") == 1 + 2 * 2 * sum(STRATA.values())
    assert {path.name for path in (folder / "figures").iterdir()} == {"readers.svg", "readers.png"}


def test_confidence_gives_the_area_under_the_curve_and_repeats_the_consistency(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    built = build(
        confidences=3, repeats=6, readers=["anna", "ben"], strata=thesis_strata(real, made, hypersegmentation=10)
    )
    rng, given = np.random.default_rng(0), {}

    def choose(facts: list[dict[str, Any]], _: dict[str, Any]) -> dict[str, Any]:
        fresh = (["synthetic", "real"][int(rng.integers(2))], int(rng.integers(1, 4)))
        choice, confidence = given.setdefault(facts[0]["name"], fresh)
        return {"choice": choice, "confidence": confidence}

    answer_all(built, "anna", choose)
    record = score(read_sheet(built.folder, built.key))
    cells = json.loads((built.key / KEY_NAME).read_text())["cells"]
    truth = [cells[name]["source"] == "real" for name in given]
    rating = [confidence * (1 if choice == "real" else -1) for choice, confidence in given.values()]
    assert record["tables"][0]["rows"][0]["auc"]["value"] == pytest.approx(roc_auc_score(truth, rating))
    (again,) = record["again"]
    assert (again["reader"], again["items"]) == ("Reader 1", 6)
    assert again["same"]["value"] == again["kappa"]["value"] == 1.0
    assert again["kappa"]["low"] < 0.9, "six repeats are no proof"
    assert [each["answered"] for each in record["readers"]] == [20, 0]


def test_who_always_finds_the_real_cell_of_a_pair_is_right_wherever_it_lies(build: Callable[..., Built]) -> None:
    built = build(question="which_is_real", repeats=1, readers=["anna", "ben"])
    answer_all(built, "anna", lambda facts, _: {"choice": "left" if facts[0]["source"] == "real" else "right"})
    answer_all(built, "ben", lambda facts, _: {"choice": "left"})
    record = score(read_sheet(built.folder, built.key))
    anna, ben = record["tables"][0]["rows"]
    assert anna["accuracy"]["value"] == 1.0
    assert ben["confusion"][0][1] == ben["confusion"][1][1] == 0
    assert record["tables"][0]["items"] == 4
    assert record["again"][0]["same"]["value"] == 1.0


def test_pairs_of_two_generators_give_the_share_that_prefers_the_first(
    build: Callable[..., Built], made: Path, tmp_path: Path
) -> None:
    strata = thesis_strata(made, made, hypersegmentation=4)["hypersegmentation"]
    strata = {"cells": {"ddim": strata["ddim"], "gan": strata["real"] | {"number": 4}}}
    built = build(question="which_is_real", strata=strata)
    answer_all(built, "anna", lambda facts, _: {"choice": "left" if facts[0]["source"] == "ddim" else "right"})
    sheet = read_sheet(built.folder, built.key)
    assert (sheet.called == 1).all()
    record = score_study(built.folder, built.key, tmp_path / "score")
    assert record["tables"][0]["rows"][0]["accuracy"]["value"] == 1.0
    assert record["between"] == ["ddim", "gan"]
    assert len(record["tables"]) == 1
    assert record["missed"] == record["generators"] == []
    told = " ".join(findings(record))
    assert "Reader 1 chose ddim in 4 of 4 answers (1.00; 0.51 to 1.00): no difference is shown" in told
    assert "right" not in told
    page = (tmp_path / "score" / "index.html").read_text()
    assert "share that chose ddim" in page
    assert "Nobody" not in page
    assert "which of two synthetic cells looked more real" in page


def test_two_generators_that_many_pairs_tell_apart_are_told_which_looks_more_real(
    build: Callable[..., Built], made: Path
) -> None:
    strata = thesis_strata(made, made, hypersegmentation=20)["hypersegmentation"]
    built = build(question="which_is_real", strata={"cells": {"ddim": strata["ddim"], "gan": strata["real"]}})
    answer_all(built, "anna", lambda facts, _: {"choice": "left" if facts[0]["source"] == "gan" else "right"})
    told = " ".join(findings(score(read_sheet(built.folder, built.key))))
    assert "chose ddim in 0 of 20 answers (0.00; 0.00 to 0.16): gan looks more real than ddim (p < 0.001)." in told


def test_generators_are_compared_by_how_often_they_are_taken_for_real(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    strata = with_gan(thesis_strata(real, made, hypersegmentation=8))
    built = build(strata=strata, readers=["anna", "ben"])
    for reader in ("anna", "ben"):
        answer_all(built, reader, lambda facts, _: {"choice": "synthetic" if facts[0]["source"] == "gan" else "real"})
    record = score(read_sheet(built.folder, built.key))
    ddim, gan = record["generators"]
    assert (ddim["generator"], ddim["taken_for_real"]["value"], gan["taken_for_real"]["value"]) == ("ddim", 1.0, 0.0)
    gap = ddim["more_than"]["gan"]
    assert (gap["value"], gap["high"]) == (1.0, 1.0)
    assert 0.3 < gap["low"] < 0.9
    assert gan["more_than"]["ddim"]["high"] == pytest.approx(-gap["low"], abs=0.05)
    of_gan = next(table for table in record["tables"] if table["generator"] == "gan")
    assert of_gan["items"] == 16
    assert of_gan["rows"][0]["accuracy"]["value"] == 1.0
    assert len(record["missed"]) == 8


def test_generators_are_compared_by_the_strata_that_both_have(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    # "gan" is in the first stratum alone, where both fool nobody; "ddim" fools everybody in the second.
    strata = thesis_strata(real, made, hypersegmentation=6, dohle_bodies=6, hypergranulation=6)
    strata["hypersegmentation"]["gan"] = {**strata["dohle_bodies"]["ddim"], "where": {"grade": 2}}
    strata["hypergranulation"]["vae"] = strata["hypergranulation"].pop("ddim")
    built = build(strata=strata)
    fooling = {"hypersegmentation": "synthetic", "dohle_bodies": "real", "hypergranulation": "real"}
    answer_all(
        built, "anna",
        lambda facts, _: {"choice": "real" if facts[0]["source"] == "real" else fooling[facts[0]["stratum"]]},
    )  # fmt: skip
    record = score(read_sheet(built.folder, built.key))
    found = {each["generator"]: each for each in record["generators"]}
    assert found["ddim"]["taken_for_real"]["value"] == 0.5
    assert found["ddim"]["more_than"]["gan"]["value"] == 0.0
    assert found["ddim"]["more_than"]["vae"] is None
    items = {table["generator"]: table["items"] for table in record["tables"]}
    assert (items["ddim"], items["gan"], items["vae"]) == (24, 12, 12), "real cells of the generator's own strata"


CHOICES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "perfect": lambda facts: "real" if facts[0]["source"] == "real" else "synthetic",
    "always wrong": lambda facts: "synthetic" if facts[0]["source"] == "real" else "real",
    "always real": lambda facts: "real",
    "always synthetic": lambda facts: "synthetic",
}


@pytest.mark.parametrize("reader", CHOICES)
def test_verdicts_are_what_the_answers_show(build: Callable[..., Built], real: Path, made: Path, reader: str) -> None:
    built = build(strata=thesis_strata(real, made, hypersegmentation=20), readers=["anna", "ben", "carl"])
    for name in ("anna", "ben", "carl"):
        answer_all(built, name, lambda facts, _: {"choice": CHOICES[reader](facts)})
    record = score(read_sheet(built.folder, built.key))
    mean = record["tables"][0]["mean"]
    for name in INTERVALS.keys() - {"auc"}:
        assert mean[name]["low"] < mean[name]["high"], name
    told = " ".join(findings(record))
    if reader in ("perfect", "always wrong"):
        way = {"perfect": "better than chance", "always wrong": "worse than chance, so a difference is seen"}[reader]
        assert way in told
        assert "saw a difference" in told
        assert ("took it the wrong way round" in told) == (reader == "always wrong")
        assert all(row["difference"] < 0.001 for row in record["tables"][0]["rows"])
    else:
        called = "called real" if reader == "always real" else "called synthetic"
        assert f"and {called} in 40: that tells nothing of whether a difference can be seen" in told
        assert "saw" not in told
        assert "as good as chance" not in told
        assert mean["equivalence"] is None
        assert "within ±" not in told.split("Reader 1")[0].replace("nor shown to be within ±", "")
        assert mean["d_prime"]["low"] < 0 < mean["d_prime"]["high"]
        assert mean["balanced_accuracy"]["low"] < 0.5 < mean["balanced_accuracy"]["high"]


def test_a_habit_that_hides_skill_is_told_and_one_that_does_not_is_not(thesis: dict[str, Any]) -> None:
    whole = " ".join(findings(thesis))
    assert "expert was right in 64 of 100 answers (0.64; 0.54 to 0.73): saw a difference (p < 0.001)" in whole
    assert "though the habit of answering 'real' hides some of it." in whole
    row = {**row_of(thesis, "all", "expert"), "confusion": [[35, 15], [15, 35]], "difference": 0.0001}
    row |= {"d_prime": {"value": 1.05, "low": 0.5, "high": 1.6}, "accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}
    row["balanced_accuracy"] = row["accuracy"]
    record = {**thesis, "tables": [{**thesis["tables"][0], "rows": [row], "mean": None}]}
    assert "hides" not in " ".join(findings(record))


def test_a_habit_that_goes_by_stratum_is_not_taken_for_skill(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    strata = thesis_strata(real, made, hypersegmentation=16, dohle_bodies=4)
    strata["hypersegmentation"]["ddim"]["number"], strata["dohle_bodies"]["ddim"]["number"] = 4, 16
    built = build(strata=strata, readers=["anna", "ben"])
    assert any("Strata differ in their share of real cells" in risk for risk in built.risks)
    always = {"hypersegmentation": "real", "dohle_bodies": "synthetic"}
    for name in ("anna", "ben"):
        answer_all(built, name, lambda facts, _: {"choice": always[facts[0]["stratum"]]})
    record = score(read_sheet(built.folder, built.key))
    whole = record["tables"][0]
    assert whole["confounded"]
    assert whole["rows"][0]["d_prime"] is whole["mean"]["balanced_accuracy"] is whole["rows"][0]["difference"] is None
    assert whole["rows"][0]["accuracy"]["value"] == 0.8
    told = " ".join(findings(record))
    assert "saw" not in told
    assert "better than chance" not in told
    assert "dohle bodies: Reader 1 was right in 16 of 20 answers" in told


def test_generators_in_another_order_are_the_same_generators(build: Callable[..., Built], made: Path) -> None:
    sources = thesis_strata(made, made, hypersegmentation=10, dohle_bodies=10)
    one, two = ({"ddim": each["ddim"], "gan": each["real"]} for each in sources.values())
    built = build(question="which_is_real", strata={"a": one, "b": dict(reversed(two.items()))})
    answer_all(built, "anna", lambda facts, _: {"choice": "left" if facts[0]["source"] == "ddim" else "right"})
    tables = score(read_sheet(built.folder, built.key))["tables"]
    assert [table["rows"][0]["accuracy"]["value"] for table in tables] == [1.0, 1.0, 1.0]


def test_uneven_kinds_make_no_reader_better_than_chance(build: Callable[..., Built], real: Path, made: Path) -> None:
    strata = thesis_strata(real, made, hypersegmentation=20)
    strata["hypersegmentation"]["ddim"]["number"] = 10
    built = build(strata=strata)
    answer_all(built, "anna", lambda *_: {"choice": "real"})
    row = score(read_sheet(built.folder, built.key))["tables"][0]["rows"][0]
    assert row["accuracy"]["low"] > 0.45
    assert row["balanced_accuracy"]["value"] == 0.5
    assert row["balanced_accuracy"]["low"] < 0.5 < row["balanced_accuracy"]["high"]
    assert row["difference"] == 1.0
    assert row["d_prime"]["value"] == pytest.approx(0)
    assert row["equivalence"] is None


def test_who_has_not_finished_is_counted_and_told(build: Callable[..., Built], real: Path, made: Path) -> None:
    built = build(strata=thesis_strata(real, made, hypersegmentation=10), readers=["anna", "ben", "carl"])
    answer_all(built, "anna", guesses(0))
    reading = Reading(built.folder)
    ben = reading.reader(built.tokens["ben"])
    assert ben is not None
    for position in range(7):
        reading.answer(ben, position, {"choice": "real"}, 1.0)
    reading.store.close()
    record = score(read_sheet(built.folder, built.key))
    told = " ".join(findings(record))
    assert "Reader 2 has answered 7 of 20 so far, and is not counted in means." in told
    assert record["tables"][0]["mean"] is None
    assert "One reader has answered half of the study or more, so there is no mean" in told
    assert "1 did not finish and gave 7 answers; who gave less than half is not counted in means" in methods(record)
    assert record["agreement"]["pairs"][0]["readers"] == ["Reader 1", "Reader 2"]
    assert len(record["agreement"]["pairs"]) == 1


def test_who_is_not_counted_changes_no_figure_of_generators(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    strata = with_gan(thesis_strata(real, made, hypersegmentation=8))
    built = build(strata=strata, readers=["anna", "ben"])
    answer_all(built, "anna", lambda *_: {"choice": "synthetic"})
    before = score(read_sheet(built.folder, built.key))["generators"]
    reading = Reading(built.folder)
    ben = reading.reader(built.tokens["ben"])
    assert ben is not None
    for position in range(3):
        reading.answer(ben, position, {"choice": "real"}, 1.0)
    reading.store.close()
    assert score(read_sheet(built.folder, built.key))["generators"] == before


def test_nothing_is_said_of_generators_that_nobody_counted_saw(
    build: Callable[..., Built], real: Path, made: Path, tmp_path: Path
) -> None:
    strata = with_gan(thesis_strata(real, made, hypersegmentation=8))
    built = build(strata=strata, readers=["anna", "ben"], abnormalities=["dohle_bodies"])
    reading = Reading(built.folder)
    for reader in ("anna", "ben"):
        who = reading.reader(built.tokens[reader])
        assert who is not None
        reading.answer(who, 0, {"choice": "real", "abnormality": "none"}, 1.0)
    reading.store.close()
    told = " ".join(findings(score_study(built.folder, built.key, tmp_path / "score")))
    assert "No reader has answered half of the study or more" in told
    assert "taken for real" not in told
    assert "no answers yet" in (tmp_path / "score" / "index.html").read_text()


def test_the_methods_say_what_was_done(build: Callable[..., Built], real: Path, made: Path) -> None:
    built = build(
        strata=thesis_strata(real, made, hypersegmentation=10, dohle_bodies=5), training=1, repeats=2, confidences=3,
        abnormalities=["dohle_bodies"], jpeg_quality=80,
    )  # fmt: skip
    answer_all(built, "anna", lambda *_: {"choice": "real", "confidence": 1, "abnormality": "none"})
    told = methods(score(read_sheet(built.folder, built.key)))
    for words in (
        "1 reader was shown 30 cells, drawn at random: ",
        "hypersegmentation 10 real, 10 ddim; dohle bodies 5 real, 5 ddim.",
        "First 4 other cells were shown with their truth",
        "2 came again in the last third; the first answer counts",
        "whether a cell showed dohle bodies or none of these, and the grade",
        "compressed by JPEG alike, at quality 80",
        "with a confidence of 3 steps",
        "0.5 ± 0.1",
    ):
        assert words in told, told


def test_all_answers_are_in_a_table_as_they_were_given(build: Callable[..., Built], tmp_path: Path) -> None:
    built = build(comments=True, repeats=1, confidences=2)
    answer_all(built, "anna", lambda *_: {"choice": "real", "confidence": 2, "comment": "=1+1"})
    record = score_study(built.folder, built.key, tmp_path / "score")
    with (tmp_path / "score" / "answers.csv").open(newline="") as file:
        given = list(csv.DictReader(file))
    assert len(given) == 9
    assert [row["number"] for row in given] == [str(number) for number in range(1, 10)]
    assert [row["again"] for row in given].count("True") == 1
    assert {(row["reader"], row["choice"], row["confidence"], row["comment"]) for row in given} == {
        ("Reader 1", "real", "2", "'=1+1")
    }
    assert sum(row["correct"] == "True" for row in given) == sum(row["source"] == "real" for row in given)
    assert {(row["shows"], row["shows grade"]) for row in given} == {("hypersegmentation", "2")}
    assert len(record["comments"]) == 9
    with (tmp_path / "score" / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[name] for name in ("answers", "positive called so", "negative called so")] == ["8", "4", "0"]
    assert float(row["d_prime low"]) < float(row["d_prime"]) < float(row["d_prime high"])


def test_names_are_told_on_request_alone(build: Callable[..., Built], tmp_path: Path) -> None:
    built = build(readers=["Dr Anna"], comments=True)
    answer_all(built, "Dr Anna", lambda *_: {"choice": "real", "comment": "no name here"})
    score_study(built.folder, built.key, tmp_path / "score")
    for path in (tmp_path / "score").rglob("*.*"):
        assert b"Anna" not in path.read_bytes(), path
    score_study(built.folder, built.key, tmp_path / "named", names=True)
    assert "Dr Anna" in (tmp_path / "named" / "index.html").read_text()


def test_abnormality_and_grade_are_held_against_what_was_meant(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    strata = thesis_strata(real, made, hypersegmentation=5, dohle_bodies=5)
    built = build(strata=strata, readers=["anna", "ben"], abnormalities=["hypersegmentation", "dohle_bodies"])

    def choose(facts: list[dict[str, Any]], _: dict[str, Any]) -> dict[str, Any]:
        if facts[0]["source"] == "ddim":
            return {"choice": "real", "abnormality": "none"}
        return {"choice": "real", "abnormality": facts[0]["abnormality"], "grade": 2}

    for reader in ("anna", "ben"):
        answer_all(built, reader, choose)
    found = score(read_sheet(built.folder, built.key))["abnormality"]
    rows = {(row["reader"], row["cells"], row["meant"]): row for row in found["rows"]}
    assert len(rows) == 8
    assert found["seen"] == ["none", "hypersegmentation", "dohle_bodies"]
    real_row, synthetic = (rows["Reader 1", cells, "dohle_bodies"] for cells in ("real", "synthetic"))
    assert (real_row["seen"], real_row["as_meant"]["value"]) == ([0, 0, 5], 1.0)
    assert (synthetic["seen"], synthetic["as_meant"]["value"]) == ([5, 0, 0], 0.0)
    assert found["agreement"]["pairs"][0]["kappa"]["value"] == 1.0
    assert found["grades"]["pairs"][0]["kappa"]["value"] == 1.0
    graded = {(row["reader"], row["cells"]): row["seen"] for row in found["graded"]}
    assert graded["Reader 2", "real"] == [[0, 0, 0], [0, 0, 10]]  # all are severe, and were seen so
    assert graded["Reader 2", "synthetic"] == [[0, 0, 0], [10, 0, 0]]
    assert {row["kappa"] for row in found["graded"]} == {None}, "of one grade there is nothing to agree on"


def test_grades_are_held_against_the_label_where_these_differ(build: Callable[..., Built]) -> None:
    built = build(abnormalities=["hypersegmentation"], readers=["anna", "ben"])
    key = json.loads((built.key / KEY_NAME).read_text())
    for number, facts in enumerate(key["cells"].values()):
        facts["grade"] = 1 + number % 2
    (built.key / KEY_NAME).write_text(json.dumps(key))

    def as_meant(facts: list[dict[str, Any]], _: dict[str, Any]) -> dict[str, Any]:
        return {"choice": "real", "abnormality": "hypersegmentation", "grade": facts[0]["grade"]}

    answer_all(built, "anna", as_meant)
    answer_all(built, "ben", lambda *_: {"choice": "real", "abnormality": "hypersegmentation", "grade": 1})
    rows = score(read_sheet(built.folder, built.key))["abnormality"]["graded"]
    anna, ben = ([row for row in rows if row["reader"] == name] for name in ("Reader 1", "Reader 2"))
    assert [row["kappa"]["value"] for row in anna] == [1.0, 1.0]
    assert [row["kappa"]["value"] for row in ben] == [0.0, 0.0]
    assert sum(row["seen"][0][1] + row["seen"][1][2] for row in anna) == 8
    assert sum(row["seen"][1][1] for row in ben) == sum(facts["grade"] == 2 for facts in key["cells"].values())


def test_grades_of_different_abnormalities_are_no_agreement(
    build: Callable[..., Built], real: Path, made: Path
) -> None:
    strata = thesis_strata(real, made, hypersegmentation=5, dohle_bodies=5)
    built = build(strata=strata, readers=["anna", "ben"], abnormalities=["hypersegmentation", "dohle_bodies"])

    def named(abnormality: str) -> Callable[..., dict[str, Any]]:
        return lambda *_: {"choice": "real", "abnormality": abnormality, "grade": 2}

    answer_all(built, "anna", named("dohle_bodies"))
    answer_all(built, "ben", named("hypersegmentation"))
    found = score(read_sheet(built.folder, built.key))["abnormality"]
    assert found["grades"]["pairs"][0]["images"] == 0
    assert found["grades"]["pairs"][0]["kappa"]["value"] is None
    assert [row["seen"] for row in found["graded"]] == [[[0, 0, 0], [0, 0, 5]]] * 4  # half of the cells, for each


@pytest.mark.parametrize(
    ("kind", "grade", "meant", "graded"),
    [
        ("", None, "not known", 0),
        ("hypersegmentation", None, "hypersegmentation", 0),
        ("hypersegmentation", 2, "hypersegmentation", 1),
    ],
)
def test_what_a_model_does_not_tell_of_its_cells_is_not_invented(
    build: Callable[..., Built], real: Path, tmp_path: Path, kind: str, grade: int | None, meant: str, graded: int
) -> None:
    made = write_source(tmp_path / "made", {"": 6}, synthetic=True, seed=5)
    for path in made.glob("*.png"):
        path.rename(made / f"{int(path.stem.split('-')[-1]):08}.png")
    table = (made / "metadata.csv").read_text()
    (made / "metadata.csv").write_text(re.sub(r"-(\d{4})\.png", r"0000\1.png", table))
    told = {"model": "m", "revision": "r", "abnormality": kind, "grade": grade}
    (made / "generation.json").write_text(json.dumps(told))
    strata = thesis_strata(real, made, hypersegmentation=4)
    strata["hypersegmentation"]["ddim"]["where"] = {}
    built = build(strata=strata, abnormalities=["hypersegmentation"])
    answer_all(built, "anna", lambda *_: {"choice": "real", "abnormality": "none"})
    found = score(read_sheet(built.folder, built.key))["abnormality"]
    assert [row["meant"] for row in found["rows"] if row["cells"] == "synthetic"] == [meant]
    assert sum(row["cells"] == "synthetic" for row in found["graded"]) == graded


def test_what_a_cell_should_show_may_not_be_known(build: Callable[..., Built], real: Path, tmp_path: Path) -> None:
    nameless = write_source(tmp_path / "nameless", {"": 6}, synthetic=True, seed=5)
    strata = thesis_strata(real, nameless, hypersegmentation=4)
    strata["hypersegmentation"]["ddim"]["where"] = {}
    built = build(strata=strata, abnormalities=["dohle_bodies"])
    answer_all(built, "anna", lambda *_: {"choice": "real", "abnormality": "none"})
    rows = score(read_sheet(built.folder, built.key))["abnormality"]["rows"]
    assert [(row["cells"], row["meant"], row["seen"]) for row in rows] == [
        ("real", "hypersegmentation", [4, 0]), ("synthetic", "not known", [4, 0]),
    ]  # fmt: skip
    assert [row["as_meant"] for row in rows] == [None, None]


def test_time_and_order_are_told(build: Callable[..., Built], real: Path, made: Path) -> None:
    built = build(strata=thesis_strata(real, made, hypersegmentation=20))
    reading = Reading(built.folder)
    anna = reading.reader(built.tokens["anna"])
    assert anna is not None
    cells = json.loads((built.key / KEY_NAME).read_text())["cells"]
    for place, entry in enumerate(anna.order):
        truth = "real" if cells[entry["images"][0]]["source"] == "real" else "synthetic"
        wrong = {"real": "synthetic", "synthetic": "real"}[truth]
        reading.answer(anna, place, {"choice": truth if place < 20 else wrong}, 2.0 if place < 20 else 9.0)
    told = score(read_sheet(built.folder, built.key))["readers"][0]
    assert told["time"]["right"] == 2.0
    assert told["time"]["wrong"] == 9.0
    assert told["time"]["p"] < 0.001
    assert (told["order"]["first_half"], told["order"]["second_half"]) == (1.0, 0.0)
    assert told["order"]["p"] < 0.001


def test_what_does_not_belong_together_is_refused(build: Callable[..., Built], tmp_path: Path) -> None:
    built = build()
    with pytest.raises(FileNotFoundError, match="There are no answers"):
        score_study(built.folder, built.key, tmp_path / "score")
    Reading(built.folder).store.close()
    with pytest.raises(FileNotFoundError, match="Nobody has answered anything"):
        score_study(built.folder, built.key, tmp_path / "score")
    with pytest.raises(ValueError, match="which is served, and the score tells the key"):
        score_study(built.folder, built.key, built.folder / "score")
    key = json.loads((built.key / KEY_NAME).read_text())
    image = next((built.folder / "images").iterdir())
    before = image.read_bytes()
    image.write_bytes(before[:-1])
    with pytest.raises(ValueError, match="another image than the key knows"):
        score_study(built.folder, built.key, tmp_path / "score")
    image.write_bytes(before)
    (built.key / KEY_NAME).write_text(json.dumps(key | {"study": "0"}))
    with pytest.raises(ValueError, match="is of another study"):
        score_study(built.folder, built.key, tmp_path / "score")
    assert not (tmp_path / "score").exists()


def test_a_comment_is_shown_as_text_whatever_it_holds(build: Callable[..., Built], tmp_path: Path) -> None:
    built = build(comments=True, title="Cells <b>")
    answer_all(built, "anna", lambda *_: {"choice": "real", "comment": "<script>alert(1)</script>"})
    record = score_study(built.folder, built.key, tmp_path / "score")
    page = (tmp_path / "score" / "index.html").read_text()
    assert len(record["comments"]) == 8
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def guesses(seed: int) -> Callable[[list[dict[str, Any]], dict[str, Any]], dict[str, Any]]:
    """Answer at random."""
    rng = np.random.default_rng(seed)

    def choose(facts: list[dict[str, Any]], _: dict[str, Any]) -> dict[str, Any]:
        sides = ("real", "synthetic") if len(facts) == 1 else ("left", "right")
        return {"choice": sides[int(rng.integers(2))], "confidence": int(rng.integers(1, 4))}

    return choose


def test_a_study_can_be_scored_after_every_single_answer(
    build: Callable[..., Built], real: Path, made: Path, tmp_path: Path
) -> None:
    strata = thesis_strata(real, made, hypersegmentation=4, dohle_bodies=2)
    built = build(strata=strata, readers=["anna", "ben", "$x^$"], confidences=3)
    answer_all(built, "anna", guesses(0))
    reading = Reading(built.folder)
    for reader in ("ben", "$x^$"):
        who = reading.reader(built.tokens[reader])
        assert who is not None
        for position in range(4):
            reading.answer(who, position, guesses(position)([{}], {}), 1.0)
            record = score_study(built.folder, built.key, tmp_path / "score")
            assert len(record["tables"][0]["rows"]) == (2 if reader == "ben" else 3)
    reading.store.close()


@pytest.mark.parametrize("pairs", [1, 2, 3, 10])
def test_a_study_of_few_pairs_can_be_scored(
    build: Callable[..., Built], real: Path, made: Path, tmp_path: Path, pairs: int
) -> None:
    strata = thesis_strata(real, made, hypersegmentation=pairs)
    built = build(question="which_is_real", strata=strata, readers=["anna", "ben"], confidences=3)
    for reader in ("anna", "ben"):
        answer_all(built, reader, guesses(pairs))
    record = score_study(built.folder, built.key, tmp_path / "score")
    for row in record["tables"][0]["rows"]:
        assert row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"]


def test_a_damaged_key_is_told_in_words(build: Callable[..., Built], tmp_path: Path) -> None:
    built = build()
    answer_all(built, "anna", lambda *_: {"choice": "real"})
    key = json.loads((built.key / KEY_NAME).read_text())
    first = next(iter(key["cells"].values()))
    first["source"] = "gone"
    (built.key / KEY_NAME).write_text(json.dumps(key))
    with pytest.raises(ValueError, match="does not fit the study"):
        score_study(built.folder, built.key, tmp_path / "score")
