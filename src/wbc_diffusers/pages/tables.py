"""Tables as text, and figures in them."""

import csv
import io
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal


def p_value(p: float) -> str:
    """A p value as tables have it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def half_up(value: float, digits: int = 2) -> str:
    """A figure rounded as people round: 0.475, which is 19 of 40, is 0.48."""
    rounded = Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return str(rounded if rounded else abs(rounded))  # no -0.00


def as_csv(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table for spreadsheets."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *body])
    return text.getvalue()


def as_markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table for documents."""
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
