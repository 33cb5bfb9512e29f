"""The source swap: is a synthetic cell called abnormal because it is synthetic?

A classifier that saw synthetic cells of one class only may learn that "synthetic" means this class. Then it calls
normal synthetic cells abnormal more often than normal real ones. Shown are synthetic cells that no training saw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import inf, sqrt
from typing import Any

import numpy as np

from wbc_diffusers.evaluation.intervals import around
from wbc_diffusers.study.compare import check_paired
from wbc_diffusers.study.measures import threshold_at_specificity
from wbc_diffusers.study.predictions import Predictions


def swap_gap(sets: Mapping[str, Sequence[Predictions]], specificity: float) -> dict[str, Any] | None:
    """How often real and synthetic cells of each kind are called abnormal, above the threshold of the test images.

    Args:
        sets: Predictions of each seed by the images: test (real) and swap (synthetic).
        specificity: Of the threshold.

    Returns:
        By kind (normal, abnormal) the shares of real and synthetic cells, their difference and its 95 % interval, over
        the images, taken for independent, and the seeds: Student's t by the degrees of freedom of Satterthwaite (1946).
        A kind without synthetic cells is left out. None where there are none at all.

    Raises:
        ValueError: If the runs are not of the same images.
    """
    if "swap" not in sets:
        return None
    for each in sets.values():
        check_paired(each)
    found = {}
    for kind, abnormal in (("normal", False), ("abnormal", True)):
        if not np.any(sets["swap"][0].abnormal == abnormal):
            continue
        shares = [_shares(*pair, specificity, abnormal) for pair in zip(sets["test"], sets["swap"], strict=True)]
        real, synthetic = np.mean(shares, axis=0)
        gaps = np.array([of_synthetic - of_real for of_real, of_synthetic in shares])
        counts = [np.sum(sets[name][0].abnormal == abnormal) for name in ("test", "swap")]
        # The images' share of the error is that of one seed: the seeds judge the same images.
        of_images = sum(_variance(*each) for each in zip((real, synthetic), counts, strict=True))
        of_seeds = gaps.var(ddof=1) / len(gaps) if len(gaps) > 1 else 0.0
        freedom = (len(gaps) - 1) * ((of_images + of_seeds) / of_seeds) ** 2 if of_seeds else inf
        gap = around(float(gaps.mean()), sqrt(of_images + of_seeds), freedom)
        found[kind] = {
            "real": float(real), "synthetic": float(synthetic), "n_real": int(counts[0]), "n_synthetic": int(counts[1]),
            "difference": {name: min(max(value, -1.0), 1.0) for name, value in asdict(gap).items()},
        }  # fmt: skip
    return found


def _variance(share: float, count: int) -> float:
    """Of a share of so many images; never 0, as if one more had been called each way (Agresti and Coull 1998)."""
    smooth = (share * count + 1) / (count + 2)
    return smooth * (1 - smooth) / count


def _shares(real: Predictions, synthetic: Predictions, specificity: float, abnormal: bool) -> tuple[float, float]:
    threshold = threshold_at_specificity(real.scores[~real.abnormal], specificity)
    of_real, of_synthetic = (
        float(np.mean(each.scores[each.abnormal == abnormal] > threshold)) for each in (real, synthetic)
    )
    return of_real, of_synthetic
