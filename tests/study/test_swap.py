"""The source swap: are synthetic cells called abnormal because they are synthetic?"""

import numpy as np
import pytest

from wbc_diffusers.study.predictions import Predictions
from wbc_diffusers.study.swap import swap_gap


def said(scores: list[float], labels: list[int], name: str = "image") -> Predictions:
    p = np.array(scores)
    names = tuple(f"{name} {i}" for i in range(len(p)))
    return Predictions(np.array(labels), np.stack([1 - p, p], axis=1), names, ("",) * len(p))


REAL = said([i / 100 for i in range(100)] + [0.96, 0.97, 0.98, 0.5], [0] * 100 + [1] * 4)


def test_a_classifier_that_knows_synthetic_cells_by_their_source_has_a_gap() -> None:
    fooled = said([0.99] * 30 + [0.1] * 10 + [0.99] * 8, [0] * 40 + [1] * 8)
    found = swap_gap({"test": [REAL], "swap": [fooled]}, 0.95)
    assert found is not None
    assert found["normal"]["real"] == pytest.approx(0.05)
    assert found["normal"]["synthetic"] == pytest.approx(0.75)
    gap = found["normal"]["difference"]
    assert gap["value"] == pytest.approx(0.7)
    reach = 1.96 * np.sqrt(0.05 * 0.95 / 100 + 0.75 * 0.25 / 40)
    assert (gap["low"], gap["high"]) == (pytest.approx(0.7 - reach), pytest.approx(0.7 + reach))
    assert (found["abnormal"]["real"], found["abnormal"]["synthetic"]) == (0.75, 1.0)


def test_a_classifier_that_does_not_has_none() -> None:
    found = swap_gap({"test": [REAL], "swap": [said([i / 100 for i in range(100)], [0] * 100)]}, 0.95)
    assert found is not None
    assert found["normal"]["difference"]["value"] == pytest.approx(0.0)
    assert "abnormal" not in found


def test_the_scatter_of_seeds_widens_the_interval() -> None:
    one, other = (said([level] * 40, [0] * 40) for level in (0.99, 0.1))
    alike = swap_gap({"test": [REAL] * 2, "swap": [one, one]}, 0.95)
    apart = swap_gap({"test": [REAL] * 2, "swap": [one, other]}, 0.95)
    assert alike is not None
    assert apart is not None
    width = [each["normal"]["difference"]["high"] - each["normal"]["difference"]["low"] for each in (alike, apart)]
    assert width[1] > 5 * width[0]


def test_without_synthetic_cells_there_is_nothing_to_swap() -> None:
    assert swap_gap({"test": [REAL]}, 0.95) is None
