"""Is one way to train better than another? Arms of several runs each, compared on the same images.

An arm's figure is the mean over its runs, one a seed. Its interval holds both that other images might have been tested
and that other seeds might have been drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.evaluation.intervals import Estimate, fewer, mean_of_drawn_rows, percentiles, share
from wbc_diffusers.study.measures import ROUNDING, SPECIFICITY, check_both, check_specificity, threshold_at_specificity
from wbc_diffusers.study.predictions import Predictions

Runs = Sequence[Predictions]
Measure = Literal["recall_at_specificity", "auroc", "auprc"]
Weights = NDArray[np.integer]
Numbers = NDArray[np.float64]

REPLICATES = 2000
BLOCK = 250
"""Replicates whose weights are held at once: of 6,000 images 6 MB."""


@dataclass(frozen=True)
class McNemar:
    """How many images two classifiers were right about, and the exact test that they are right as often (McNemar 1947).

    Attributes:
        both: Images that both were right about.
        first_only: Images that only the first was right about.
        second_only: Images that only the second was right about.
        neither: Images that neither was right about.
        p: Two-sided chance of counts as far apart as `first_only` and `second_only`, were they even.
    """

    both: int
    first_only: int
    second_only: int
    neither: int
    p: float


# -- arms and their intervals ----------------------------------------------------------------------------------------


def arm_estimate(
    arm: Runs,
    *,
    specificity: float = SPECIFICITY,
    measure: Measure = "recall_at_specificity",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """The mean of a measure over an arm's runs, with its interval by `bootstrap`.

    Raises:
        ValueError: If the runs are not of the same images, or these are all normal or all abnormal.
    """
    values, drawn = bootstrap([arm], specificity=specificity, measure=measure, replicates=replicates, seed=seed)
    found = percentiles(float(values[0]), drawn[0])
    return found if np.ptp(drawn) else _of_no_scatter(found, arm[0], 0.0)


def paired_difference(
    arm: Runs,
    reference: Runs,
    *,
    specificity: float = SPECIFICITY,
    measure: Measure = "recall_at_specificity",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """The mean of a measure over an arm's runs less that over the reference's, with its interval by `bootstrap`.

    Raises:
        ValueError: If the runs are not of the same images, or these are all normal or all abnormal.
    """
    arms = [arm, reference]
    values, drawn = bootstrap(arms, specificity=specificity, measure=measure, replicates=replicates, seed=seed)
    found = percentiles(float(values[0] - values[1]), drawn[0] - drawn[1])
    return found if np.ptp(drawn, axis=1).any() else _of_no_scatter(found, arm[0], -1.0)


def _of_no_scatter(found: Estimate, images: Predictions, least: float) -> Estimate:
    """As wide as Clopper and Pearson's interval of as many groups, where every draw is the same, as when all are found.

    Args:
        found: A figure in [0, 1], or the difference of two.
        images: Those that it is of.
        least: The least that it could be; the most is 1.
    """
    reach = share(0, images.abnormal_groups).high
    return Estimate(found.value, max(least, found.value - reach), min(1.0, found.value + reach))


def bootstrap(
    arms: Sequence[Runs],
    *,
    specificity: float = SPECIFICITY,
    measure: Measure = "recall_at_specificity",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[Numbers, Numbers]:
    """Draw images and seeds anew, again and again, as both might have come out otherwise.

    Each replicate draws groups of images (patients or slides), the same for all runs, and of each arm seeds. Drawn is
    one fewer than there are, so that the variance of few is not too small (McCarthy and Snowden 1985). Arms draw their
    seeds independently, though seed i of two arms starts from the same head, and with as many images in the same order:
    what they so have in common makes intervals of differences wider than need be.

    Where seeds scatter image by image, intervals are wider than need be (Owen 2007). Where seeds scatter much more than
    images, those of differences held the truth in 0.92 of 600 simulated studies of five seeds, and in 0.87 of three. An
    arm of one seed has no scatter of seeds.

    Args:
        arms: The runs of each arm, all of the same images.
        specificity: Least share of normals that must not be called abnormal, for the recall.
        measure: `recall_at_specificity`, `auroc` or `auprc`.
        replicates: How many are drawn.
        seed: Of the draws. Arms of the same images get the same images drawn, in whichever call.

    Returns:
        The mean of the measure over the runs of each arm (A,), and the same of each replicate (A, B).

    Raises:
        ValueError: If an arm has no run, runs are not of the same images, or these are all normal or all abnormal.
    """
    if not all(arms):
        raise ValueError(
            f"arm {[bool(arm) for arm in arms].index(False)} has no run: give predictions of a seed or more"
        )
    runs = [run for arm in arms for run in arm]
    check_paired(runs)
    check_both(runs[0].abnormal)
    blocks = _weights(runs[0], replicates, seed)
    drawn = np.concatenate([_weighted(runs, weights, measure, specificity) for weights in blocks], axis=1)
    values = _weighted(runs, np.ones((len(runs[0].names), 1), np.int32), measure, specificity)
    ends = np.cumsum([len(arm) for arm in arms])[:-1]
    # From 1 on: numpy's generators of [seed, 0] and of seed alone, which draws the images, are the same.
    means = [mean_of_drawn_rows(own, [seed, number]) for number, own in enumerate(np.split(drawn, ends), start=1)]
    return np.array([own.mean() for own in np.split(values, ends)]), np.stack(means)


def check_paired(runs: Sequence[Predictions]) -> None:
    """See that runs are of the same images in the same order.

    Raises:
        ValueError: If their names, labels or groups differ.
    """
    first = runs[0]
    for number, run in enumerate(runs):
        if len(run.names) != len(first.names):
            raise ValueError(
                f"run {number} is of {len(run.names)} images and run 0 of {len(first.names)}: test all on the same ones"
            )
        for field in ("names", "labels", "groups"):
            own, wanted = np.array(getattr(run, field)), np.array(getattr(first, field))
            if (own != wanted).any():
                place = int((own != wanted).argmax())
                raise ValueError(
                    f"the {field} of run {number} and run 0 differ: of image {place} they are {own[place].item()!r} "
                    f"and {wanted[place].item()!r}: test all runs on the same images, in the same order"
                )


# -- the same images, decided twice ----------------------------------------------------------------------------------


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> McNemar:
    """Count what two classifiers were right about, image by image, and test whether they are right as often.

    Args:
        first_right: Which images the first was right about (N,).
        second_right: The same of the second and the same images (N,).

    Raises:
        ValueError: If these are not of as many images.
    """
    if first_right.shape != second_right.shape:
        raise ValueError(f"decisions are of {first_right.shape} and {second_right.shape} images: give the same of both")
    pairs = np.bincount(2 * first_right + second_right, minlength=4)
    neither, second_only, first_only, both = (int(count) for count in pairs)
    apart = first_only + second_only
    p = float(stats.binomtest(first_only, apart).pvalue) if apart else 1.0
    return McNemar(both, first_only, second_only, neither, p)


def mcnemar_at_specificity(arm: Runs, reference: Runs, specificity: float = SPECIFICITY) -> McNemar:
    """Test whether an arm calls as many of the abnormal images so as the reference does.

    Only abnormal images count: their decisions are the recall. An arm decides by the mean probability over its runs,
    above its own threshold that has the specificity on the normals. Images are taken to be independent, and the runs to
    be all that there are: where there are groups, or seeds differ, p is too small; `paired_difference` heeds both.

    Raises:
        ValueError: If the runs are not of the same images, or these are all normal or all abnormal.
    """
    check_paired([*arm, *reference])
    abnormal = arm[0].abnormal
    check_both(abnormal)
    called = []
    for runs in (arm, reference):
        scores = np.mean([run.scores for run in runs], axis=0)
        called.append(scores[abnormal] > threshold_at_specificity(scores[~abnormal], specificity))
    return mcnemar(*called)


# -- drawing images and seeds ----------------------------------------------------------------------------------------


def _weights(images: Predictions, replicates: int, seed: int) -> Iterator[Weights]:
    """How often each image is drawn, in blocks (N, B) of replicates: groups are drawn whole, with repetition.

    They are drawn by stratum, so that no replicate is without normal or without abnormal images: those that hold
    abnormal images, and the others; where there are no others, those that hold normal images, and the others. Where
    each image is its own group, these are the two classes.
    """
    rng = np.random.default_rng(seed)
    group, abnormal = images.group_numbers, images.abnormal
    count = int(group.max()) + 1
    with_normal, with_abnormal = (np.bincount(group, kind, count) > 0 for kind in (~abnormal, abnormal))
    stratum = with_normal if with_abnormal.all() else with_abnormal
    for start in range(0, replicates, BLOCK):
        size = min(BLOCK, replicates - start)
        drawn = np.zeros((count, size), np.int32)
        for groups in (np.flatnonzero(stratum), np.flatnonzero(~stratum)):
            if len(groups):
                places = rng.integers(0, len(groups), (fewer(len(groups)), size)) * size + np.arange(size)
                drawn[groups] = np.bincount(places.ravel(), minlength=len(groups) * size).reshape(-1, size)
        yield drawn[group]


# -- weighted measures -----------------------------------------------------------------------------------------------


def recalls(arm: Runs, weights: Weights, specificity: float = SPECIFICITY) -> Numbers:
    """The recall at a specificity of each run (S, B), each image counted as often as its weight says.

    Args:
        arm: Runs of the same images.
        weights: How often each image is counted, whole numbers (N, B); in each column a normal and an abnormal one are.
        specificity: Least share of the normals that must not be called abnormal.

    Raises:
        ValueError: If the specificity is not above 0 and at most 1.
    """
    check_specificity(specificity)
    return np.stack([_recall(_Ranked(run), weights, specificity) for run in arm])


def aurocs(arm: Runs, weights: Weights) -> Numbers:
    """The area under the ROC curve of each run (S, B), the same way: Mann and Whitney's count of pairs in order."""
    return np.stack([_auroc(_Ranked(run), weights) for run in arm])


def auprcs(arm: Runs, weights: Weights) -> Numbers:
    """The average precision of each run (S, B), the same way."""
    return np.stack([_auprc(_Ranked(run), weights) for run in arm])


def _weighted(runs: Runs, weights: Weights, measure: Measure, specificity: float) -> Numbers:
    if measure == "recall_at_specificity":
        return recalls(runs, weights, specificity)
    if measure == "auroc":
        return aurocs(runs, weights)
    if measure == "auprc":
        return auprcs(runs, weights)
    raise ValueError(f"the measure is {measure!r}, but must be one of {', '.join(get_args(Measure))}")


class _Ranked:
    """A run's images by their scores: of every replicate, a measure needs only sums along them.

    Attributes:
        normals: Places of the normal images, the lowest score first.
        abnormals: Places of the abnormal ones.
        missed: How many abnormal images are not above each normal one.
        below: How many normal images are below each abnormal one.
        up_to: How many normal images are not above each abnormal one.
        own_below: How many abnormal images are below each abnormal one.
    """

    def __init__(self, run: Predictions) -> None:
        scores = run.scores
        order = np.argsort(scores, kind="stable")
        self.normals, self.abnormals = (order[run.abnormal[order] == kind] for kind in (False, True))
        normal, abnormal = scores[self.normals], scores[self.abnormals]
        self.missed = np.searchsorted(abnormal, normal, "right")
        self.below, self.up_to = np.searchsorted(normal, abnormal, "left"), np.searchsorted(normal, abnormal, "right")
        self.own_below = np.searchsorted(abnormal, abnormal, "left")


def _recall(ranked: _Ranked, weights: Weights, specificity: float) -> Numbers:
    normals, abnormals = _sums(weights[ranked.normals]), _sums(weights[ranked.abnormals])
    # The threshold is the score of the first normal image at which enough are passed, whatever ties follow it.
    first = np.count_nonzero(normals[1:] < specificity * normals[-1] - ROUNDING, axis=0)
    missed = np.take_along_axis(abnormals, ranked.missed[first][None], axis=0)[0]
    return 1 - missed / abnormals[-1]


def _auroc(ranked: _Ranked, weights: Weights) -> Numbers:
    own, normals = weights[ranked.abnormals].astype(np.float64), _sums(weights[ranked.normals])
    pairs = np.einsum("nb,nb->b", own, normals[ranked.below] + normals[ranked.up_to])
    return pairs / (2 * own.sum(axis=0) * normals[-1])


def _auprc(ranked: _Ranked, weights: Weights) -> Numbers:
    own, normals = weights[ranked.abnormals], _sums(weights[ranked.normals])
    abnormals = _sums(own)
    true = abnormals[-1] - abnormals[ranked.own_below]
    called = true + normals[-1] - normals[ranked.below]
    # Where none is called, the images counted there weigh nothing.
    return np.einsum("nb,nb->b", own, true / np.maximum(called, 1)) / abnormals[-1]


def _sums(weights: Weights) -> Weights:
    """The sums of the first 0 to N rows (N + 1, B)."""
    found = np.zeros((len(weights) + 1, weights.shape[1]), np.int32)
    np.cumsum(weights, axis=0, dtype=np.int32, out=found[1:])
    return found
