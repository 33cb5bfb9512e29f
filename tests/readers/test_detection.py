"""The measures of a reader study, against the thesis's own tables, sklearn, and float64 formulas of another form."""

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from wbc_diffusers.readers import detection

EXPERT = {
    "hypersegmented": [[19, 1], [20, 0]],
    "dohle bodies": [[14, 1], [10, 5]],
    "hypergranulated": [[15, 0], [4, 11]],
    "all": [[48, 2], [34, 16]],
}
EMPLOYEE = [[22, 28], [38, 12]]
TABLE_14 = {
    "hypersegmented": ("0.48", "0.95", "0.00"),
    "dohle bodies": ("0.63", "0.93", "0.33"),
    "hypergranulated": ("0.87", "1.00", "0.73"),
    "all": ("0.64", "0.96", "0.32"),
}


def of_table(table: list[list[int]]) -> np.ndarray:
    """Rows are real and synthetic, columns called real and called synthetic, as in the thesis."""
    return np.array(table, np.float64)[:, ::-1]


def rounded(value: float) -> str:
    """Round to two digits, halves up, as the thesis does: its 0.48 is 19 / 40."""
    return str(Decimal(repr(float(value))).quantize(Decimal("0.01"), ROUND_HALF_UP))


@pytest.mark.parametrize("stratum", EXPERT)
def test_table_14_comes_out_to_the_digit(stratum: str) -> None:
    counts = of_table(EXPERT[stratum])
    measures = (detection.accuracy, detection.recall, detection.specificity)
    assert tuple(rounded(measure(counts)) for measure in measures) == TABLE_14[stratum]
    assert detection.confusion(counts).tolist() == EXPERT[stratum]


def test_the_employee_of_table_14_comes_out_to_the_digit() -> None:
    counts = of_table(EMPLOYEE)
    measures = (detection.accuracy, detection.recall, detection.specificity)
    assert [rounded(measure(counts)) for measure in measures] == ["0.34", "0.44", "0.24"]


def test_the_expert_saw_a_difference_and_tended_to_say_real() -> None:
    counts = of_table(EXPERT["all"])
    assert rounded(detection.d_prime(counts)) == "1.28"
    assert not detection.is_corrected(counts)
    assert detection.criterion(counts) == pytest.approx(-(norm.ppf(48 / 50) + norm.ppf(34 / 50)) / 2)
    assert detection.criterion(counts) < -1
    assert detection.d_prime(of_table(EMPLOYEE)) < 0


def test_an_empty_cell_is_corrected_in_all_four_and_flagged() -> None:
    counts = of_table(EXPERT["hypersegmented"])
    assert detection.is_corrected(counts)
    assert detection.d_prime(counts) == pytest.approx(norm.ppf(19.5 / 21) - norm.ppf(20.5 / 21))
    counts = of_table(EXPERT["hypergranulated"])
    assert detection.d_prime(counts) == pytest.approx(norm.ppf(15.5 / 16) - norm.ppf(4.5 / 16))
    assert not detection.is_corrected(of_table(EXPERT["dohle bodies"]))


def some_answers(levels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    signal = rng.random(60) < 0.4
    answers = rng.integers(0, levels, (3, 60))
    answers[:, signal] = np.minimum(answers[:, signal] + rng.integers(0, 2, (3, signal.sum())), levels - 1)
    return answers, signal


@pytest.mark.parametrize("levels", [2, 6])
def test_the_area_under_the_curve_and_the_balanced_accuracy_are_sklearns(levels: int) -> None:
    answers, signal = some_answers(levels)
    counts = detection.count_answers(answers, signal, levels)
    for reader, given in enumerate(answers):
        assert detection.auc(counts[reader]) == pytest.approx(roc_auc_score(signal, given))
        called = given >= levels // 2
        assert detection.balanced_accuracy(counts[reader]) == pytest.approx(balanced_accuracy_score(signal, called))


def test_a_weight_counts_an_image_so_often() -> None:
    answers, signal = some_answers(6)
    weights = np.random.default_rng(1).integers(0, 3, (60, 4))
    counts = detection.count_answers(answers, signal, 6, weights)
    assert counts.shape == (3, 4, 2, 6)
    for draw in range(4):
        repeated = np.repeat(np.arange(60), weights[:, draw])
        wanted = detection.count_answers(answers[:, repeated], signal[repeated], 6)
        np.testing.assert_array_equal(counts[:, draw], wanted)


def test_what_was_not_answered_is_not_counted() -> None:
    counts = detection.count_answers([-1, 1, 0, -1], [True, True, False, False], 2)
    assert counts.tolist() == [[0, 1], [1, 0]]
    assert detection.accuracy(counts) == 1
    nothing = detection.count_answers([-1, -1], [True, False], 2)
    assert np.isnan(detection.accuracy(nothing))
    assert np.isnan(detection.auc(nothing))


def test_an_answer_between_both_sides_is_refused() -> None:
    with pytest.raises(ValueError, match="3 levels of answers"):
        detection.count_answers([0], [True], 3)
