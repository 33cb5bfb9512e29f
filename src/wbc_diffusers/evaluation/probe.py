"""A two-sample test: can a linear probe tell generated images from real ones by their features?"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.evaluation.distances import draw
from wbc_diffusers.evaluation.features import Features
from wbc_diffusers.evaluation.intervals import Estimate, around

FOLDS = 5
STRENGTH = 1e-3
"""Inverse of the penalty on the probe's weights: features are many more than images."""
MOST_PROBED = 5000
"""Images of a set that a probe is fitted to and tried on at the most: more would only take memory."""


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        auc: Chance that it calls the generated one of a pair; 0.5 means that it cannot tell, 1 that it always can.
        scores: Its score of each generated image (K,), on which it was not fitted: the lower, the more convincing.
        scored: Places of these among the generated images (K,): all, or 5,000.
        count: Real images that it was tried on.
    """

    auc: Estimate
    scores: NDArray[np.float64]
    scored: NDArray[np.int64]
    count: int


def tell_apart(real: Features, other: Features, seed: int = 0) -> Probe:
    """Fit a probe on four fifths of both sets and score the last, five times round.

    Args:
        real: Features of real images (M, D).
        other: Features of what may be told from them (N, D).
        seed: Of the fifths.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, scored = draw(len(real), MOST_PROBED, seed), draw(len(other), MOST_PROBED, seed + 1)
    x, y = np.concatenate([real[known], other[scored]]), np.repeat([0, 1], [len(known), len(scored)])
    # Each fold is a copy already, so that it can be scaled where it is.
    scaler = StandardScaler(copy=False)
    probe = make_pipeline(scaler, LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores: Any = cross_val_predict(probe, x, y, cv=folds, method="decision_function")
    of_real, of_other = scores[: len(known)], scores[len(known) :]
    return Probe(area_under_curve(of_real, of_other), of_other, scored, len(known))


def area_under_curve(negative: NDArray[np.floating], positive: NDArray[np.floating]) -> Estimate:
    """Chance that a positive has a higher score than a negative, ties by half (interval: DeLong et al. 1988)."""
    ranks = stats.rankdata(np.concatenate([negative, positive]))
    m, n = len(negative), len(positive)
    # For each positive the share of negatives below it, and for each negative that of positives above it.
    below = (ranks[m:] - stats.rankdata(positive)) / m
    above = 1 - (ranks[:m] - stats.rankdata(negative)) / n
    error = sqrt(below.var(ddof=1) / n + above.var(ddof=1) / m)
    found = around(float(below.mean()), error, min(m, n) - 1)
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))
