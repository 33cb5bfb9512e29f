"""How well a classifier tells abnormal cells from normal ones: each measure one function.

Scores say how abnormal an image looks; it is called abnormal if its score is above a threshold.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.study.predictions import Predictions

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]
Points = tuple[NDArray[np.float64], NDArray[np.float64]]

MAIN: Final = "recall_at_specificity"
"""The figure that arms are held against each other by."""
SPECIFICITY = 0.95
BINS = 15
ROUNDING = 1e-9
"""0.55 x 100 is above 55 in floating point; 55 of 100 are a share of 0.55 all the same."""


@dataclass(frozen=True)
class Reliability:
    """The points of a reliability curve, the lowest scores first.

    Attributes:
        scores: Mean score of each bin (B,).
        shares: Share of abnormal images in each bin (B,): its mean score, if the classifier is calibrated.
        counts: Images in each bin (B,).
    """

    scores: NDArray[np.float64]
    shares: NDArray[np.float64]
    counts: NDArray[np.int64]


# -- decisions -------------------------------------------------------------------------------------------------------


def confusion(predictions: Predictions) -> NDArray[np.int64]:
    """Count the images of each class (rows) by the class that is most probable (columns), (C, C)."""
    classes = predictions.probabilities.shape[1]
    cells = np.bincount(predictions.labels * classes + predictions.decided, minlength=classes**2)
    return cells.reshape(classes, classes)


def class_accuracies(predictions: Predictions) -> list[float]:
    """The share of each class's images that are taken for it.

    Raises:
        ValueError: If a class has no image.
    """
    found = confusion(predictions)
    counts = found.sum(axis=1)
    if not counts.all():
        raise ValueError(
            f"class {int(counts.argmin())} has no image, so there is no accuracy of it: the {len(counts)} classes have "
            f"{counts.tolist()}"
        )
    return [float(share) for share in found.diagonal() / counts]


def balanced_accuracy(predictions: Predictions) -> float:
    """The mean of the classes' accuracies, however many images each has."""
    return float(np.mean(class_accuracies(predictions)))


def f1(predictions: Predictions) -> float:
    """The harmonic mean of precision and recall of abnormal images, each taken for its most probable class."""
    from sklearn.metrics import f1_score

    check_both(predictions.abnormal)
    return float(f1_score(predictions.abnormal, predictions.decided > 0, zero_division=0.0))


# -- scores ----------------------------------------------------------------------------------------------------------


def threshold_at_specificity(scores_of_normals: Scores, specificity: float = SPECIFICITY) -> float:
    """The lowest threshold that no more of the normals are above than the specificity allows.

    It is one of their scores: what has this score is not called abnormal.

    Raises:
        ValueError: If there are no normals, or the specificity is not above 0 and at most 1.
    """
    check_specificity(specificity)
    count = len(scores_of_normals)
    if not count:
        raise ValueError("there are no normal images, so no threshold can be found: give scores of some")
    passed = max(ceil(specificity * count - ROUNDING), 1)
    return float(np.sort(scores_of_normals)[passed - 1])


def recall_at_specificity(scores: Scores, abnormal: Flags, specificity: float = SPECIFICITY) -> float:
    """The highest share of abnormal images called so by any threshold that has the specificity or a better one.

    Args:
        scores: Of each image (N,).
        abnormal: Which are abnormal (N,).
        specificity: Least share of the normals that must not be called abnormal.

    Raises:
        ValueError: If all images are normal or all abnormal, or the specificity is not above 0 and at most 1.
    """
    check_both(abnormal)
    return float(np.mean(scores[abnormal] > threshold_at_specificity(scores[~abnormal], specificity)))


def auroc(scores: Scores, abnormal: Flags) -> float:
    """The chance that an abnormal image's score is above a normal one's, equal ones counted half."""
    from sklearn.metrics import roc_auc_score

    check_both(abnormal)
    return float(roc_auc_score(abnormal, scores))


def auprc(scores: Scores, abnormal: Flags) -> float:
    """The average precision: that at each threshold, weighted by how much recall grows there."""
    from sklearn.metrics import average_precision_score

    check_both(abnormal)
    return float(average_precision_score(abnormal, scores))


def roc_points(scores: Scores, abnormal: Flags) -> Points:
    """The points of the ROC curve: the share of normals called abnormal, ascending, and the recall."""
    from sklearn.metrics import roc_curve

    check_both(abnormal)
    false, true, _ = roc_curve(abnormal, scores)
    return false, true


def precision_recall_points(scores: Scores, abnormal: Flags) -> Points:
    """The points of the precision-recall curve: the recall, descending, and the precision."""
    from sklearn.metrics import precision_recall_curve

    check_both(abnormal)
    precision, recall, _ = precision_recall_curve(abnormal, scores)
    return recall, precision


# -- calibration -----------------------------------------------------------------------------------------------------


def brier(scores: Scores, abnormal: Flags) -> float:
    """The mean squared difference of score and truth (Brier 1950, halved as is common for two classes)."""
    from sklearn.metrics import brier_score_loss

    check_both(abnormal)
    return float(brier_score_loss(abnormal, scores))


def reliability(scores: Scores, abnormal: Flags) -> Reliability:
    """Score and truth in 15 bins of as equally many images as ties allow: equal scores share a bin."""
    check_both(abnormal)
    middle = stats.rankdata(scores) - 0.5
    bins = (middle * BINS // len(scores)).astype(np.int64)
    used, bins, counts = np.unique(bins, return_inverse=True, return_counts=True)
    sums = (np.bincount(bins, each, len(used)) for each in (scores, abnormal))
    mean, share = (each / counts for each in sums)
    return Reliability(mean, share, counts)


def calibration_error(scores: Scores, abnormal: Flags) -> float:
    """The mean distance from the diagonal of the reliability curve (ECE, Naeini et al. 2015, of equal-mass bins)."""
    points = reliability(scores, abnormal)
    return float(np.average(np.abs(points.scores - points.shares), weights=points.counts))


# -- all of them -----------------------------------------------------------------------------------------------------


def summary(
    predictions: Predictions, validation: Predictions | None = None, specificity: float = SPECIFICITY
) -> dict[str, float]:
    """All figures of a classifier by name.

    Args:
        predictions: Of the images that the figures are of.
        validation: Of other images, on which a threshold is chosen that has the specificity there; with it come the
            recall and specificity that this threshold has here, as it would be in use.
        specificity: Least share of the normals that must not be called abnormal.

    Raises:
        ValueError: If a class has no image, or there are no normals to choose a threshold on.
    """
    scores, abnormal = predictions.scores, predictions.abnormal
    accuracies = {f"accuracy_class_{i}": share for i, share in enumerate(class_accuracies(predictions))}
    found = {
        "recall_at_specificity": recall_at_specificity(scores, abnormal, specificity),
        "auroc": auroc(scores, abnormal),
        "auprc": auprc(scores, abnormal),
        "f1": f1(predictions),
        "balanced_accuracy": balanced_accuracy(predictions),
        **accuracies,
        "brier": brier(scores, abnormal),
        "calibration_error": calibration_error(scores, abnormal),
    }
    if validation is not None:
        called = scores > threshold_at_specificity(validation.scores[~validation.abnormal], specificity)
        found["recall_at_validation_threshold"] = float(np.mean(called[abnormal]))
        found["specificity_at_validation_threshold"] = float(np.mean(~called[~abnormal]))
    return found


def check_specificity(specificity: float) -> None:
    """See that a specificity is one.

    Raises:
        ValueError: If it is not above 0 and at most 1.
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"the specificity is {specificity}, but must be above 0 and at most 1, such as 0.95")


def check_both(abnormal: Flags) -> None:
    """See that there are normal and abnormal images.

    Raises:
        ValueError: If all are normal or all abnormal.
    """
    count = int(np.count_nonzero(abnormal))
    if count in (0, len(abnormal)):
        kind = "normal" if count else "abnormal"
        raise ValueError(
            f"none of {len(abnormal)} images is {kind}: a measure of how well these are told from the others needs both"
        )
