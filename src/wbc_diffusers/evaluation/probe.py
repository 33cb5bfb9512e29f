"""A two-sample test: can a linear probe tell generated images from real ones by their features?"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.evaluation.features import Features
from wbc_diffusers.evaluation.intervals import Estimate, around

FOLDS = 5
STRENGTH = 1e-3
"""Inverse of the penalty on the probe's weights: features are many more than images."""


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        auc: Chance that it calls the generated one of a pair; 0.5 means that it cannot tell, 1 that it always can.
        scores: Its score of each generated image (N,), on which it was not fitted: the lower, the more convincing.
    """

    auc: Estimate
    scores: NDArray[np.float64]


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

    x, y = np.concatenate([real, other]), np.repeat([0, 1], [len(real), len(other)])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores: Any = cross_val_predict(probe, x, y, cv=folds, method="decision_function")
    return Probe(area_under_curve(scores[: len(real)], scores[len(real) :]), scores[len(real) :])


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
