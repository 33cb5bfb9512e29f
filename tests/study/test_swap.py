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
    smooth = [(0.05 * 100 + 1) / 102, (0.75 * 40 + 1) / 42]
    reach = 1.959964 * np.sqrt(sum(p * (1 - p) / n for p, n in zip(smooth, (100, 40), strict=True)))
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
    assert (apart["normal"]["difference"]["low"], apart["normal"]["difference"]["high"]) == (-1, 1)  # no share is more


def test_intervals_of_few_seeds_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        shares = np.clip(rng.normal(0.45, 0.2, 5), 0.0, 1.0)  # 0.4 above the real ones, in the mean of all seeds
        swaps = [said(list(np.where(rng.random(200) < share, 0.99, 0.1)), [0] * 200) for share in shares]
        found = swap_gap({"test": [REAL] * 5, "swap": swaps}, 0.95)
        assert found is not None
        gap = found["normal"]["difference"]
        held += gap["low"] <= 0.4 <= gap["high"]
    assert 0.92 <= held / 400 <= 0.98  # by 1.96 it is 0.87


def test_runs_of_other_cells_are_not_averaged() -> None:
    one, other = said([0.5] * 40, [0] * 40), said([0.5] * 40, [0] * 40, "another")
    with pytest.raises(ValueError, match="the names of run 1 and run 0 differ"):
        swap_gap({"test": [REAL] * 2, "swap": [one, other]}, 0.95)


def test_without_synthetic_cells_there_is_nothing_to_swap() -> None:
    assert swap_gap({"test": [REAL]}, 0.95) is None
