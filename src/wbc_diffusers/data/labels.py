"""Labels of cells: cell type, abnormality and grade, from columns, rules or folder names."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ABNORMALITIES = ("none", "hypersegmentation", "dohle_bodies", "hypergranulation")
GRADES = (0, 1, 2)
ASSUMED_GRADE = 2
"""Grade of an abnormality that comes without one."""


@dataclass(frozen=True)
class Where:
    """Keep only rows whose `column` has `value`."""

    column: str
    value: str


@dataclass(frozen=True)
class Rule:
    """Rows whose `column` has `value` show `abnormality` in `grade`."""

    column: str
    value: str
    abnormality: str
    grade: int


@dataclass(frozen=True)
class Label:
    """What a cell is: `grade_assumed` tells that the source named an abnormality without its grade."""

    cell_type: str
    abnormality: str
    grade: int
    grade_assumed: bool = False


def parse_where(text: str) -> Where:
    """Read `column=value`."""
    column, equals, value = text.partition("=")
    if not equals or not column.strip():
        raise ValueError(f"filter {text!r}: wanted column=value, such as cell_type=neutrophil")
    return Where(column.strip(), value.strip())


def parse_rule(text: str) -> Rule:
    """Read `column=value:abnormality:grade`; the value may hold colons."""
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or "=" not in parts[0]:
        raise ValueError(
            f"map {text!r}: wanted column=value:abnormality:grade, "
            "such as nucleus_shape=segmented-multilobed:hypersegmentation:2"
        )
    where = parse_where(parts[0])
    abnormality, grade, _ = check_label(parts[1], parts[2], f"map {text!r}")
    return Rule(where.column, where.value, abnormality, grade)


def abnormality_name(text: str) -> str | None:
    """Give the abnormality that a word such as `Döhle bodies` names, or None."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().strip().lower()
    name = re.sub(r"[\s-]+", "_", plain)
    return name if name in ABNORMALITIES else None


def check_label(abnormality: str, grade: str, where: str) -> tuple[str, int, bool]:
    """Check an abnormality and its grade as texts.

    Args:
        abnormality: One of `ABNORMALITIES` in any spelling of case, spaces and dashes; empty is none.
        grade: 0, 1 or 2; 0 exactly for none. Empty is 0 for none and otherwise `ASSUMED_GRADE`.
        where: Where the label stands, for the error.

    Returns:
        The abnormality's name, the grade, and whether the grade was assumed.
    """
    name = abnormality_name(abnormality) if abnormality.strip() else "none"
    if name is None:
        raise ValueError(f"{where}: abnormality {abnormality!r}, wanted one of {', '.join(ABNORMALITIES)}")
    if not grade.strip():
        return (name, 0, False) if name == "none" else (name, ASSUMED_GRADE, True)
    try:
        number = float(grade)
    except ValueError:
        number = -1.0
    if number not in GRADES or (number == 0) != (name == "none"):
        raise ValueError(
            f"{where}: grade {grade!r} for abnormality {name}, wanted 0 for none and 1 (slight) or 2 (severe) otherwise"
        )
    return name, int(number), False


def keep_row(fields: Mapping[str, str], wheres: Sequence[Where]) -> bool:
    """Whether a row passes the filters: of several on one column any may hold, those on different columns all must."""
    allowed: dict[str, set[str]] = {}
    for where in wheres:
        allowed.setdefault(where.column, set()).add(where.value)
    return all(fields.get(column, "").strip() in values for column, values in allowed.items())


def label_of(fields: Mapping[str, str], rules: Sequence[Rule], where: str) -> Label:
    """Label one row: the first rule that fits, else its own `abnormality` and `grade`, else none of grade 0."""
    cell_type = fields.get("cell_type", "").strip()
    for rule in rules:
        if fields.get(rule.column, "").strip() == rule.value:
            return Label(cell_type, rule.abnormality, rule.grade)
    return Label(cell_type, *check_label(fields.get("abnormality", ""), fields.get("grade", ""), where))


def check_conditions(conditions: Iterable[Where | Rule], rows: Sequence[Mapping[str, str]], option: str) -> None:
    """Raise ValueError for a condition on a column that is not there, or on a value that no row has."""
    columns = {column for row in rows for column in row}
    for condition in conditions:
        if condition.column not in columns:
            raise ValueError(
                f"{option} {condition.column}={condition.value}: no such column; there are {_some(columns)}"
            )
        values = {row.get(condition.column, "").strip() for row in rows}
        if condition.value not in values:
            raise ValueError(
                f"{option} {condition.column}={condition.value}: no row has that value; "
                f"the column has {_some(values - {''})}"
            )


def _some(words: Iterable[str], most: int = 12) -> str:
    ordered = sorted(words)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
