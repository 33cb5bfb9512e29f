"""Figures as the page prints them."""

import pytest

from wbc_diffusers.evaluation.intervals import Estimate
from wbc_diffusers.evaluation.report import interval
from wbc_diffusers.evaluation.rows import figure


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0, "0"),
        (1.2345e-4, "0.000123"),
        (-4.2e-6, "-4.2e-06"),
        (0.98765, "0.988"),
        (12.345, "12.3"),
        (1234.5, "1234"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_three_digits_count(value: float | None, told: str) -> None:
    assert figure(value) == told


def test_an_interval_of_shares_is_told_in_percent() -> None:
    assert interval(Estimate(0.1, 0.0123, 0.25)) == "1.2 % to 25 %"
