"""The probe tells sets apart as far as they differ, and its interval holds the truth."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from wbc_diffusers.evaluation import probe
from wbc_diffusers.evaluation.intervals import groups_of
from wbc_diffusers.evaluation.probe import area_under_curve, tell_apart


def test_the_area_is_that_of_probes_that_did_not_see_the_images() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 30)).astype(np.float32), rng.normal(0.3, 1, (130, 30)).astype(np.float32)
    groups = groups_of(90), groups_of(130, seed=1)
    areas = []
    for fold in range(5):
        fitted, tried = (
            (x[(groups[0] % 5 == fold) == chosen], y[(groups[1] % 5 == fold) == chosen]) for chosen in (False, True)
        )
        scaler = StandardScaler().fit(np.concatenate(fitted))
        model = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=2000)
        model.fit(scaler.transform(np.concatenate(fitted)), np.repeat([0, 1], list(map(len, fitted))))
        negative, positive = (model.decision_function(scaler.transform(each)) for each in tried)
        areas.append((positive[:, None] > negative).mean())
    assert tell_apart(x, y).auc.value == pytest.approx(np.mean(areas), abs=1e-6)
    assert area_under_curve(x, y) == tell_apart(x, y).auc.value


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.15])
def test_the_interval_holds_what_repeated_draws_give_on_average(shift: float) -> None:
    rng = np.random.default_rng(1)
    sets = ((rng.normal(size=(80, 30)), rng.normal(shift, 1, (100, 30))) for _ in range(30))
    found = [tell_apart(real.astype(np.float32), other.astype(np.float32)).auc for real, other in sets]
    truth = 0.5 if shift == 0 else np.mean([each.value for each in found])
    assert np.mean([each.value for each in found]) == pytest.approx(truth, abs=0.03)
    assert np.mean([each.low <= truth <= each.high for each in found]) >= 0.9
    half = np.mean([(each.high - each.low) / 2 for each in found])
    assert half < 2.2 * 1.96 * np.std([each.value for each in found])


def test_sets_that_are_told_apart_wholly_have_an_interval_all_the_same() -> None:
    rng = np.random.default_rng(5)
    real, other = rng.normal(size=(20, 8)).astype(np.float32), rng.normal(9, 1, (30, 8)).astype(np.float32)
    found = tell_apart(real, other).auc
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 20))  # none of 20 wrong (Clopper and Pearson)


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
