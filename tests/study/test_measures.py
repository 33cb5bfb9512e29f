"""Measures of a classifier are those of the definitions, ties and all."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from wbc_diffusers.study.measures import (
    auprc,
    auroc,
    balanced_accuracy,
    brier,
    calibration_error,
    class_accuracies,
    confusion,
    f1,
    precision_recall_points,
    recall_at_specificity,
    reliability,
    roc_points,
    summary,
    threshold_at_specificity,
)
from wbc_diffusers.study.predictions import Predictions


def predictions(labels: Any, probabilities: Any) -> Predictions:
    count = len(labels)
    return Predictions(np.array(labels), np.array(probabilities), tuple(map(str, range(count))), ("",) * count)


def of_scores(labels: Any, scores: Any) -> Predictions:
    return predictions(labels, np.stack([1 - np.array(scores), scores], axis=1))


def drawn(count: int = 400, levels: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores in few steps, so that many are tied, and what is abnormal."""
    rng = np.random.default_rng(0)
    abnormal = rng.random(count) < 0.2
    return np.round(np.clip(rng.normal(0.3 + 0.3 * abnormal, 0.2), 0, 1) * levels) / levels, abnormal


THREE = predictions(
    [0, 0, 0, 0, 1, 1, 2, 2, 2],
    [[0.6, 0.2, 0.2]] * 3 + [[0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25]] + [[0.2, 0.3, 0.5]] * 2
    + [[0.1, 0.6, 0.3]],
)  # fmt: skip


def test_images_are_counted_by_what_they_are_and_what_they_are_taken_for() -> None:
    assert confusion(THREE).tolist() == [[4, 0, 0], [1, 1, 0], [0, 1, 2]]
    assert class_accuracies(THREE) == pytest.approx([1, 1 / 2, 2 / 3])
    assert balanced_accuracy(THREE) == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)


def test_a_class_without_images_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match=r"class 1 has no image, .* the 3 classes have \[1, 0, 1\]"):
        class_accuracies(predictions([0, 2], [[1.0, 0, 0], [0, 0, 1.0]]))


@pytest.mark.parametrize("specificity", [0.05, 0.55, 0.9, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("count", [20, 100, 399])
def test_recall_is_the_best_of_all_thresholds_that_are_specific_enough(specificity: float, count: int) -> None:
    scores, abnormal = drawn(count)
    best = Fraction(-1)
    for threshold in [-1.0, *scores]:
        called = scores > threshold
        passed = Fraction(int((~called & ~abnormal).sum()), int((~abnormal).sum()))
        if passed >= Fraction(str(specificity)):
            best = max(best, Fraction(int((called & abnormal).sum()), int(abnormal.sum())))
    assert recall_at_specificity(scores, abnormal, specificity) == pytest.approx(float(best), abs=1e-12)


def test_the_order_of_images_does_not_matter_to_any_measure() -> None:
    scores, abnormal = drawn()
    order = np.random.default_rng(1).permutation(len(scores))
    for measure in (recall_at_specificity, auroc, auprc, brier, calibration_error):
        assert measure(scores[order], abnormal[order]) == pytest.approx(measure(scores, abnormal), abs=1e-12)


def test_a_threshold_leaves_tied_normals_on_one_side() -> None:
    # Of 20 normals one may be called abnormal, but the highest two are equal.
    scores = np.array([0.1] * 18 + [0.7, 0.7])
    assert threshold_at_specificity(scores, 0.95) == 0.7
    assert threshold_at_specificity(scores, 0.9) == threshold_at_specificity(scores, 1e-12) == 0.1
    assert threshold_at_specificity(np.arange(100.0), 0.55) == 54  # 0.55 x 100 is above 55 in floating point


@pytest.mark.parametrize("specificity", [0.0, -0.1, 1.01, 95, float("nan")])
def test_what_is_no_specificity_is_refused(specificity: float) -> None:
    with pytest.raises(ValueError, match="but must be above 0 and at most 1, such as"):
        threshold_at_specificity(np.arange(3.0), specificity)


def test_areas_are_those_of_pairs_and_of_steps() -> None:
    scores, abnormal = drawn()
    positive, negative = scores[abnormal], scores[~abnormal]
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auroc(scores, abnormal) == pytest.approx(np.mean(pairs))
    steps, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        recall = (called & abnormal).sum() / abnormal.sum()
        steps += (recall - before) * (called & abnormal).sum() / called.sum()
        before = recall
    assert auprc(scores, abnormal) == pytest.approx(steps)


def test_points_of_the_curves_hold_the_areas_and_the_ends() -> None:
    scores, abnormal = drawn()
    false, true = roc_points(scores, abnormal)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(auroc(scores, abnormal))
    recall, precision = precision_recall_points(scores, abnormal)
    assert (recall[0], recall[-1], precision[-1]) == (1, 0, 1)
    assert precision[0] == pytest.approx(abnormal.mean())


def test_f1_is_of_abnormal_images_of_any_grade() -> None:
    # Of 5 abnormal images 4 are called so (whatever the grade), and no normal one.
    assert f1(THREE) == pytest.approx(2 * 4 / (2 * 4 + 1 + 0))
    assert f1(of_scores([0, 1], [0.1, 0.2])) == 0


def test_brier_is_the_mean_squared_error() -> None:
    scores, abnormal = drawn()
    assert brier(scores, abnormal) == pytest.approx(np.mean((scores - abnormal) ** 2))


def test_bins_of_untied_scores_are_equally_full_and_the_error_is_that_between_score_and_truth() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random(1500)
    abnormal = rng.random(1500) < scores
    order = np.argsort(scores).reshape(15, 100)
    gaps = [abs(scores[places].mean() - abnormal[places].mean()) for places in order]
    points = reliability(scores, abnormal)
    assert points.counts.tolist() == [100] * 15
    np.testing.assert_allclose(points.scores, scores[order].mean(axis=1))
    np.testing.assert_allclose(points.shares, abnormal[order].mean(axis=1))
    assert calibration_error(scores, abnormal) == pytest.approx(np.mean(gaps))


def test_equal_scores_share_a_bin() -> None:
    points = reliability(np.array([0.2] * 50 + [0.9] * 10), np.array([True, False] * 30))
    assert points.counts.tolist() == [50, 10]
    np.testing.assert_allclose(points.scores, [0.2, 0.9])
    np.testing.assert_allclose(points.shares, [0.5, 0.5])
    error = calibration_error(np.array([0.2] * 50 + [0.9] * 10), np.array([True, False] * 30))
    assert error == pytest.approx((50 * 0.3 + 10 * 0.4) / 60)


@pytest.mark.parametrize(
    "measure", [recall_at_specificity, auroc, auprc, brier, calibration_error, reliability, roc_points,
                precision_recall_points]
)  # fmt: skip
def test_measures_need_normal_and_abnormal_images(measure: Callable[..., Any]) -> None:
    scores = np.array([0.1, 0.4, 0.8])
    with pytest.raises(ValueError, match=r"none of 3 images is abnormal: a measure .* needs both"):
        measure(scores, np.zeros(3, bool))
    with pytest.raises(ValueError, match="none of 3 images is normal"):
        measure(scores, np.ones(3, bool))


def test_no_normals_give_no_threshold() -> None:
    with pytest.raises(ValueError, match="no normal images"):
        threshold_at_specificity(np.array([]))


def test_a_summary_holds_every_figure() -> None:
    scores, abnormal = drawn()
    two = of_scores(abnormal.astype(int), scores)
    found = summary(two, specificity=0.9)
    assert found["recall_at_specificity"] == recall_at_specificity(two.scores, abnormal, 0.9)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(abnormal, scores))
    assert found["auprc"] == pytest.approx(metrics.average_precision_score(abnormal, scores))
    # Scores of exactly 0.5 are decided for the first class, as they are not above 0.5.
    assert found["f1"] == pytest.approx(metrics.f1_score(abnormal, scores > 0.5))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(abnormal, scores > 0.5))
    assert found["accuracy_class_0"] == pytest.approx((scores[~abnormal] <= 0.5).mean())
    assert found["accuracy_class_1"] == pytest.approx((scores[abnormal] > 0.5).mean())
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(abnormal, scores))
    assert found["calibration_error"] == calibration_error(two.scores, abnormal)
    assert len(found) == 9


def test_the_threshold_of_validation_images_is_carried_to_others() -> None:
    validation = of_scores([0] * 20 + [1], [*np.linspace(0.05, 0.43, 20), 0.5])  # 0.41 is the nineteenth
    test = of_scores([0, 0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.42, 0.9, 0.3, 0.415, 0.8])
    found = summary(test, validation, 0.95)
    assert found["recall_at_validation_threshold"] == pytest.approx(2 / 3)
    assert found["specificity_at_validation_threshold"] == pytest.approx(2 / 4)
    assert found["recall_at_specificity"] == 0
    assert "recall_at_validation_threshold" not in summary(test)
