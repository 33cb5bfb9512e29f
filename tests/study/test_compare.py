"""Comparisons hold the truth as often as they say, and their fast measures are the plain ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from wbc_diffusers.study.compare import (
    Runs,
    arm_estimate,
    auprcs,
    aurocs,
    bootstrap,
    mcnemar,
    mcnemar_at_specificity,
    paired_difference,
    recalls,
)
from wbc_diffusers.study.measures import auprc, auroc, recall_at_specificity
from wbc_diffusers.study.predictions import Predictions


def run_of(scores: Any, abnormal: Any, groups: Sequence[str] | None = None) -> Predictions:
    count = len(scores)
    groups = ("",) * count if groups is None else tuple(groups)
    probabilities = np.stack([1 - np.asarray(scores), scores], axis=1)
    return Predictions(np.array(abnormal, np.int64), probabilities, tuple(map(str, range(count))), groups)


def tied_arm(runs: int = 3, count: int = 120) -> Runs:
    """Draw runs whose scores are in few steps."""
    rng = np.random.default_rng(0)
    abnormal = rng.random(count) < 0.3
    return [
        run_of(np.round(np.clip(rng.normal(0.3 + 0.25 * abnormal, 0.2), 0, 1) * 25) / 25, abnormal) for _ in range(runs)
    ]


# -- weighted measures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("specificity", [0.5, 0.55, 0.9, 0.95, 1.0])
def test_weighted_recall_is_that_of_images_repeated(specificity: float) -> None:
    arm = tied_arm()
    weights = np.random.default_rng(1).poisson(0.7, (120, 50))
    found = recalls(arm, weights, specificity)
    for run, own in zip(arm, found, strict=True):
        repeated = [
            recall_at_specificity(np.repeat(run.scores, times), np.repeat(run.abnormal, times), specificity)
            for times in weights.T
        ]
        np.testing.assert_allclose(own, repeated, atol=1e-12)


def test_weighted_recall_heeds_that_a_share_is_not_exact_in_floating_point() -> None:
    # 0.55 x 100 is above 55, but 55 of 100 normals are enough; the abnormal ones lie just above each.
    normals = np.arange(100) / 128
    run = run_of([*normals, *(normals + 1 / 256)], [0] * 100 + [1] * 100)
    assert recalls([run], np.ones((200, 1), int), 0.55)[0, 0] == pytest.approx(0.46)


@pytest.mark.parametrize(("weighted", "plain"), [(aurocs, roc_auc_score), (auprcs, average_precision_score)])
def test_weighted_areas_are_those_of_sklearn(weighted: Callable[..., np.ndarray], plain: Callable[..., float]) -> None:
    arm = tied_arm()
    weights = np.random.default_rng(2).poisson(0.7, (120, 50))
    for run, own in zip(arm, weighted(arm, weights), strict=True):
        expected = [plain(run.abnormal, run.scores, sample_weight=times) for times in weights.T]
        np.testing.assert_allclose(own, expected, atol=1e-12)


# -- figures and intervals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "plain"), [("recall_at_specificity", recall_at_specificity), ("auroc", auroc), ("auprc", auprc)]
)
def test_the_value_is_the_mean_over_seeds_of_one_arm_less_that_of_the_other(measure: Any, plain: Any) -> None:
    runs = tied_arm(5)
    arm, reference = runs[:3], runs[3:]
    first, second = (np.mean([plain(run.scores, run.abnormal) for run in each]) for each in (arm, reference))
    assert arm_estimate(arm, measure=measure, replicates=10).value == pytest.approx(first)
    found = paired_difference(arm, reference, measure=measure, replicates=200)
    assert found.value == pytest.approx(first - second)
    assert found.low < found.value < found.high


def test_both_arms_are_tried_on_the_same_images() -> None:
    run = tied_arm(1)
    alone = arm_estimate(run, replicates=200)
    assert alone.high - alone.low > 0.1
    found = paired_difference(run, run, replicates=200)
    assert (found.low, found.value, found.high) == (0, 0, 0)


def test_where_all_are_found_the_interval_is_that_of_as_many_groups_and_never_a_point() -> None:
    found_all = [run_of([0.1] * 20 + [0.9] * 12, [0] * 20 + [1] * 12)]
    none = [run_of([0.9] * 20 + [0.1] * 12, [0] * 20 + [1] * 12)]
    low = 0.025 ** (1 / 12)
    for arm, wanted in ((found_all, (1, low, 1)), (none, (0, 0, 1 - low))):
        found = arm_estimate(arm, replicates=100)
        assert (found.value, found.low, found.high) == pytest.approx(wanted)
    same, apart = (paired_difference(found_all, other, replicates=100) for other in (found_all, none))
    assert (same.value, same.low, same.high) == pytest.approx((0, low - 1, 1 - low))
    assert (apart.value, apart.low, apart.high) == pytest.approx((1, low, 1))


def test_replicates_are_those_of_the_seed_in_whichever_call() -> None:
    runs = tied_arm(2)
    both = bootstrap([runs[:1], runs[1:]], replicates=300)[1]
    np.testing.assert_array_equal(bootstrap([runs[1:]], replicates=300)[1][0], both[1])
    assert (bootstrap([runs[1:]], replicates=300, seed=1)[1][0] != both[1]).any()


def test_without_groups_the_interval_is_that_of_a_plain_bootstrap_by_class() -> None:
    (run,) = tied_arm(1, count=400)
    abnormal, normal = run.scores[run.abnormal], run.scores[~run.abnormal]
    pairs = (abnormal[:, None] > normal) + (abnormal[:, None] == normal) / 2
    rng = np.random.default_rng(3)
    places = ([rng.integers(0, size, size) for size in pairs.shape] for _ in range(2000))
    drawn = [pairs[np.ix_(*each)].mean() for each in places]
    found = arm_estimate([run], measure="auroc")
    np.testing.assert_allclose([found.low, found.high], np.quantile(drawn, [0.025, 0.975]), atol=0.004)


def test_few_seeds_scatter_by_their_standard_error_and_arms_draw_them_independently() -> None:
    # Areas of 1, 1/2 and 0, whatever images are drawn.
    arm = [run_of([0.5] * 6 + [score] * 4, [0] * 6 + [1] * 4) for score in (0.9, 0.5, 0.1)]
    _, drawn = bootstrap([arm, arm], measure="auroc", replicates=20_000)
    squared_error = np.var([1, 0.5, 0], ddof=1) / 3
    assert np.var(drawn, axis=1) == pytest.approx(squared_error, rel=0.05)
    assert np.var(drawn[0] - drawn[1]) == pytest.approx(2 * squared_error, rel=0.05)
    assert (bootstrap([arm], measure="auroc", replicates=20_000, seed=1)[1][0] != drawn[0]).any()
    assert arm_estimate(arm[:1], measure="auroc").low == pytest.approx(0.025 ** (1 / 4))  # of four abnormal images


def test_few_patients_scatter_by_their_standard_error() -> None:
    found = [True, True, False, False, False]  # of each patient all abnormal cells, or none
    scores = np.concatenate([[0.5] * 20, np.repeat(np.where(found, 0.9, 0.1), 10)])
    groups = [""] * 20 + [f"patient {i // 10}" for i in range(50)]
    _, drawn = bootstrap([[run_of(scores, [0] * 20 + [1] * 50, groups)]], replicates=20_000)
    assert np.mean(drawn) == pytest.approx(0.4, abs=0.01)
    assert np.var(drawn) == pytest.approx(np.var(found, ddof=1) / 5, rel=0.05)


@pytest.mark.parametrize("measure", ["recall_at_specificity", "auroc", "auprc"])
@pytest.mark.parametrize(
    "groups",
    [
        ["ill"] * 2 + ["a", "b", "c", "d"] * 2,  # all that is abnormal is of one patient
        ["a", "b", *["b"] * 8],  # one patient has abnormal cells alone, the other both kinds
        ["a", "a", "a", "b", "c", "d", "e", "f", "g", "h"],  # one patient has both kinds, the others normal cells alone
        ["a", "b", "a", "b", "a", "b", "a", "b", "a", "b"],  # both have both
        ["a"] * 10,
    ],
)
def test_no_replicate_is_without_normal_or_abnormal_images(groups: list[str], measure: Any) -> None:
    scores = np.linspace(0.9, 0.1, 10)
    run = run_of(scores, [1, 1] + [0] * 8, groups)
    _, drawn = bootstrap([[run]], measure=measure, replicates=300)
    np.testing.assert_array_equal(drawn, np.ones((1, 300)))  # all abnormal images lie above all normal ones


def simulated(count: int, by_slide: float, by_seed: float, seeds: int) -> Iterator[tuple[Runs, Runs, float, float]]:
    """Draw the runs of two arms on 40 slides of 10 cells, again and again.

    Yields:
        Both arms, the true recall of the first, and by how much the second's is less, by the normal distribution.
    """
    rng, shifts = np.random.default_rng(4), (2.6, 1.9)
    groups = [f"slide {i // 10}" for i in range(400)]
    spread = np.sqrt(1 + by_slide**2 + 0.2**2)
    true = [norm.cdf((shift - norm.ppf(0.95) * spread) / np.hypot(spread, by_seed)) for shift in shifts]
    for _ in range(count):
        abnormal = np.repeat(rng.random(40) < 0.4, 10)
        latent = rng.normal(size=400) + np.repeat(rng.normal(0, by_slide, 40), 10)
        arms = []
        for shift in shifts:
            own = rng.normal(shift, by_seed, (seeds, 1)) * abnormal + rng.normal(0, 0.2, (seeds, 400))
            arms.append([run_of(scores, abnormal, groups) for scores in norm.cdf(latent + own - 2)])
        yield arms[0], arms[1], true[0], true[0] - true[1]


def test_intervals_hold_the_truth_where_cells_of_a_slide_are_alike() -> None:
    held, naive = [], []
    for arm, _, recall, _ in simulated(200, by_slide=1.0, by_seed=0.05, seeds=2):
        ungrouped = [run_of(run.scores, run.abnormal) for run in arm]
        for each, runs in ((held, arm), (naive, ungrouped)):
            found = arm_estimate(runs, replicates=250)
            each.append(found.low <= recall <= found.high)
    assert 0.9 < np.mean(held) < 0.99
    assert np.mean(naive) < 0.85


def test_intervals_of_differences_hold_the_truth_where_seeds_differ() -> None:
    held, one_seed = [], []
    for arm, reference, _, difference in simulated(200, by_slide=0.5, by_seed=0.6, seeds=5):
        for each, first, second in ((held, arm, reference), (one_seed, arm[:1], reference[:1])):
            found = paired_difference(first, second, replicates=250)
            each.append(found.low <= difference <= found.high)
    assert 0.9 < np.mean(held) < 0.99
    assert np.mean(one_seed) < 0.6


# -- the same images, decided twice ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(1, 7), (7, 1), (3, 4), (0, 6), (5, 5), (0, 0), (40, 65)])
def test_mcnemar_is_the_exact_test_of_a_fair_coin(first: int, second: int) -> None:
    right = np.array([[True, True]] * 11 + [[True, False]] * first + [[False, True]] * second + [[False, False]] * 2)
    found = mcnemar(*right.T)
    assert (found.both, found.first_only, found.second_only, found.neither) == (11, first, second, 2)
    tosses = first + second
    tail = sum(comb(tosses, k) for k in range(min(first, second) + 1)) / 2**tosses
    assert found.p == pytest.approx(min(1, 2 * tail))


def test_arms_are_tested_by_their_recall_at_thresholds_of_their_own() -> None:
    abnormal = [0] * 20 + [1] * 4
    normals = np.linspace(0.01, 0.2, 20)  # the threshold is the nineteenth, 0.19
    low, high = ([*normals, *scores] for scores in ([0.1, 0.1, 0.1, 0.9], [0.3, 0.1, 0.3, 0.3]))
    # Of the mean of two runs: 0.2, 0.1, 0.2 and 0.6.
    arm = [run_of(scores, abnormal) for scores in (low, high)]
    # Normals twice as high, and so is the threshold; at it is not above it.
    reference = [run_of([*2 * normals, 0.5, 0.3, 2 * normals[18], 0.3], abnormal)]
    found = mcnemar_at_specificity(arm, reference, 0.95)
    assert (found.both, found.first_only, found.second_only, found.neither) == (1, 2, 0, 1)
    assert found.p == pytest.approx(0.5)


# -- what cannot be compared -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"names": ("0", "2", "1", "3")}, "names of run 1 and run 0 differ: of image 1 they are '2' and '1'"),
        ({"labels": np.array([0, 1, 1, 1])}, "labels of run 1 and run 0 differ: of image 1 they are 1 and 0"),
        ({"groups": ("", "", "", "x")}, "groups of run 1 and run 0 differ: of image 3 they are 'x' and ''"),
    ],
)
def test_runs_of_other_images_are_refused(changes: dict[str, Any], error: str) -> None:
    run = run_of([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    for compare in (paired_difference, mcnemar_at_specificity):
        with pytest.raises(ValueError, match=error):
            compare([run], [replace(run, **changes)])
    with pytest.raises(ValueError, match="run 1 is of 3 images and run 0 of 4: test all on the same ones"):
        arm_estimate([run, run_of([0.1, 0.2, 0.3], [0, 0, 1])])


def test_what_has_no_figure_is_refused() -> None:
    run = run_of([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    with pytest.raises(ValueError, match="arm 1 has no run"):
        paired_difference([run], [])
    with pytest.raises(ValueError, match="none of 2 images is abnormal"):
        arm_estimate([run_of([0.1, 0.2], [0, 0])])
    with pytest.raises(ValueError, match="measure is 'f1', but must be one of recall_at_specificity, auroc, auprc"):
        arm_estimate([run], measure="f1")  # type: ignore[arg-type]  # the error is looked at
    with pytest.raises(ValueError, match="the specificity is 95"):
        arm_estimate([run], specificity=95)
    with pytest.raises(ValueError, match=r"decisions are of \(2,\) and \(3,\) images"):
        mcnemar(np.ones(2, bool), np.ones(3, bool))
