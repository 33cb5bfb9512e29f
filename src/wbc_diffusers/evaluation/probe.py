"""A two-sample test: can a linear probe tell generated images from real ones by their features?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbc_diffusers.evaluation.distances import draw, some
from wbc_diffusers.evaluation.features import Features
from wbc_diffusers.evaluation.intervals import GROUPS, Estimate, groups_of, jackknife_share

FOLDS = 5
STRENGTH = 1e-3
"""Inverse of the penalty on the probe's weights: features are many more than images."""
MOST_PROBED = 2000
"""Images of a set that a probe is fitted to and tried on at the most: it is fitted a hundred times for its interval."""


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        auc: Chance that it calls the generated one of a pair; 0.5 means that it cannot tell, 1 that it always can.
        scores: Its score of each generated image (K,), on which it was not fitted: the lower, the more convincing.
        scored: Places of these among the generated images (K,): all, or 2,000.
        count: Real images that it was tried on.
    """

    auc: Estimate
    scores: NDArray[np.float64]
    scored: NDArray[np.int64]
    count: int


def tell_apart(real: Features, other: Features, seed: int = 0) -> Probe:
    """Fit a probe on four fifths of both sets and score the last, five times round.

    The interval is the jackknife's, of the whole procedure: that of given scores (DeLong et al. 1988) would leave out
    that the probes might have been fitted to other images. For sets that are alike it is wider than it need be.

    Args:
        real: Features of real images (M, D).
        other: Features of what may be told from them (N, D).
        seed: Of the fifths and groups.
    """
    scored = draw(len(other), MOST_PROBED, seed + 1)
    sets = _labelled(real, other, seed)
    auc, scores = _cross_validated(*sets)
    left_out = [_cross_validated(*(each[sets[2] != i] for each in sets))[0] for i in range(GROUPS)]
    known = len(scores) - len(scored)
    return Probe(jackknife_share(auc, left_out, min(known, len(scored))), scores[known:], scored, known)


def area_under_curve(real: Features, other: Features, seed: int = 0) -> float:
    """The AUC of `tell_apart` alone."""
    return _cross_validated(*_labelled(real, other, seed))[0]


def _labelled(real: Features, other: Features, seed: int) -> tuple[Features, NDArray[np.int64], NDArray[np.int64]]:
    """The features (K, D) of both sets, or of what is drawn of them, 0 for real and 1 for other ones, and groups."""
    sets = some(real, MOST_PROBED, seed), some(other, MOST_PROBED, seed + 1)
    sizes = [len(each) for each in sets]
    groups = [groups_of(size, seed=seed + i) for i, size in enumerate(sizes)]
    return np.concatenate(sets), np.repeat([0, 1], sizes), np.concatenate(groups)


def _cross_validated(x: Features, y: NDArray[np.int64], groups: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """The mean AUC of five fifths, each by a probe fitted to the others, and the scores of all images.

    A fifth is four groups, so that it stays the same but for one group that is left out.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores, areas = np.empty(len(x)), []
    for fold in range(FOLDS):
        tried = groups % FOLDS == fold
        # What is indexed is a copy already, and can be scaled where it is.
        scaler: Any = StandardScaler(copy=False)
        probe = make_pipeline(scaler, LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000))
        scores[tried] = probe.fit(x[~tried], y[~tried]).decision_function(x[tried])
        # Fold by fold: the scores of two probes lie on no common scale, and pooled would make the area too small.
        areas.append(roc_auc_score(y[tried], scores[tried]))
    return float(np.mean(areas)), scores
