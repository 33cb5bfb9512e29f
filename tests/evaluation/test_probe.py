"""The probe tells sets apart as far as they differ, and its interval holds the truth."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from wbc_diffusers.evaluation import probe
from wbc_diffusers.evaluation.probe import area_under_curve, tell_apart


def test_area_is_scikit_learns_with_ties_by_half() -> None:
    rng = np.random.default_rng(0)
    negative, positive = rng.integers(0, 8, 90).astype(float), rng.integers(2, 10, 130).astype(float)
    expected = roc_auc_score(np.repeat([0, 1], [90, 130]), np.concatenate([negative, positive]))
    assert area_under_curve(negative, positive).value == pytest.approx(expected, rel=1e-12)


def test_interval_of_the_area_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    truth = norm.cdf(1 / np.sqrt(2))  # of two normal distributions one apart
    found = [area_under_curve(rng.normal(size=80), rng.normal(1, 1, 200)) for _ in range(400)]
    held = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.92 < held < 0.98


def test_sets_of_one_distribution_are_not_told_apart_and_others_are() -> None:
    rng = np.random.default_rng(2)
    real, same = rng.normal(size=(150, 400)).astype(np.float32), rng.normal(size=(300, 400)).astype(np.float32)
    alike = tell_apart(real, same).auc
    assert alike.low < 0.5 < alike.high
    assert alike.value < 0.6
    assert tell_apart(real, same + 0.3).auc.value > 0.95


def test_the_least_convincing_images_score_highest() -> None:
    rng = np.random.default_rng(3)
    real, other = rng.normal(size=(200, 20)), rng.normal(size=(200, 20))
    other[:100, 0] += 6  # half of them are far off
    scores = tell_apart(real.astype(np.float32), other.astype(np.float32)).scores
    assert scores[:100].min() > scores[100:].mean()


def test_only_so_many_images_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MOST_PROBED", 60)
    rng = np.random.default_rng(4)
    real, other = rng.normal(size=(50, 20)).astype(np.float32), rng.normal(size=(200, 20)).astype(np.float32)
    other[::2, 0] += 20
    found = tell_apart(real, other)
    assert (found.count, len(found.scores)) == (50, 60)
    # The scores belong to the places that are named.
    far = found.scored % 2 == 0
    assert found.scores[far].mean() > found.scores[~far].mean() + 2 * found.scores[~far].std()
