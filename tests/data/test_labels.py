"""Labels and filters as people write them, and errors that say what was wanted."""

import pytest

from wbc_diffusers.data.labels import (
    Label,
    Rule,
    Where,
    abnormality_name,
    check_conditions,
    check_label,
    keep_row,
    label_of,
    parse_rule,
    parse_where,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Döhle bodies", "dohle_bodies"),
        ("Do\u0308hle-Bodies", "dohle_bodies"),  # the umlaut as a letter and a mark
        (" DOHLE  BODIES ", "dohle_bodies"),
        ("Hypersegmentation", "hypersegmentation"),
        ("none", "none"),
        ("hypersegmented", None),
        ("", None),
    ],
)
def test_abnormalities_are_known_by_any_spelling(text: str, name: str | None) -> None:
    assert abnormality_name(text) == name


@pytest.mark.parametrize(
    ("abnormality", "grade", "label"),
    [
        ("", "", ("none", 0, False)),
        ("none", "0.0", ("none", 0, False)),
        ("hypergranulation", "1", ("hypergranulation", 1, False)),
        ("hypergranulation", "2.0", ("hypergranulation", 2, False)),
        ("hypergranulation", "", ("hypergranulation", 2, True)),
    ],
)
def test_grades_are_read_and_missing_ones_are_told(abnormality: str, grade: str, label: tuple[str, int, bool]) -> None:
    assert check_label(abnormality, grade, "row 1") == label


@pytest.mark.parametrize("grade", ["0", "3", "1.5", "severe", "-1", "nan"])
def test_grades_that_cannot_be_are_refused(grade: str) -> None:
    with pytest.raises(ValueError, match=rf"row 1: grade '{grade}' for abnormality dohle_bodies, wanted 0 for none"):
        check_label("dohle_bodies", grade, "row 1")


def test_rule_may_hold_colons_and_equals_signs_in_its_value() -> None:
    assert parse_rule("shape = a:b=c:Döhle bodies:1") == Rule("shape", "a:b=c", "dohle_bodies", 1)
    assert parse_where("lab=a=b") == Where("lab", "a=b")
    for text in ("shape", "=x:none:0", "shape=x:none", "shape:none:0"):
        with pytest.raises(ValueError, match="wanted column=value"):
            parse_rule(text)


def test_first_rule_that_fits_wins_over_the_row_itself() -> None:
    rules = [parse_rule(text) for text in ("shape=many:hypersegmentation:1", "colour=dark:hypergranulation:2")]
    row = {"cell_type": "neutrophil", "shape": " many ", "colour": "dark", "abnormality": "dohle_bodies", "grade": "1"}
    assert label_of(row, rules, "row") == Label("neutrophil", "hypersegmentation", 1)
    assert label_of(row | {"shape": "two"}, rules, "row") == Label("neutrophil", "hypergranulation", 2)
    assert label_of(row | {"shape": "two", "colour": ""}, rules, "row") == Label("neutrophil", "dohle_bodies", 1)


def test_filters_on_one_column_are_alternatives_and_on_several_all_hold() -> None:
    filters = [Where("type", "a"), Where("type", "b"), Where("lab", "1")]
    rows = [{"type": t, "lab": n} for t in "abc" for n in "12"]
    assert [row["type"] + row["lab"] for row in rows if keep_row(row, filters)] == ["a1", "b1"]
    assert all(keep_row(row, []) for row in rows)


def test_conditions_that_no_row_can_meet_are_refused_with_what_there_is() -> None:
    rows = [{"shape": f"s{i:02}"} for i in range(15)]
    check_conditions([Where("shape", "s03")], rows, "--where")
    with pytest.raises(ValueError, match=r"--where shape=x: no row has that value; the column has s00, .* and 3 more"):
        check_conditions([Where("shape", "x")], rows, "--where")
