"""The source swap: is a synthetic cell called abnormal because it is synthetic?

A classifier that saw synthetic cells of one class only may learn that "synthetic" means this class. Then it calls
normal synthetic cells abnormal more often than normal real ones. Shown are synthetic cells that no training saw.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from wbc_diffusers.study.measures import threshold_at_specificity
from wbc_diffusers.study.predictions import Predictions


def swap_gap(sets: Mapping[str, Sequence[Predictions]], specificity: float) -> dict[str, Any] | None:
    """How often real and synthetic cells of each kind are called abnormal, above the threshold of the test images.

    Args:
        sets: Predictions of each seed by the images: test (real) and swap (synthetic).
        specificity: Of the threshold.

    Returns:
        By kind (normal, abnormal) the shares of real and synthetic cells, their difference and its 95 % interval, over
        the images and the seeds; a kind without synthetic cells is left out. None where there are none at all.
    """
    if "swap" not in sets:
        return None
    found = {}
    for kind, abnormal in (("normal", False), ("abnormal", True)):
        if not np.any(sets["swap"][0].abnormal == abnormal):
            continue
        shares = [_shares(*pair, specificity, abnormal) for pair in zip(sets["test"], sets["swap"], strict=True)]
        real, synthetic = np.mean(shares, axis=0)
        gaps = np.array([of_synthetic - of_real for of_real, of_synthetic in shares])
        counts = [np.sum(sets[name][0].abnormal == abnormal) for name in ("test", "swap")]
        # The images' share of the error is that of one seed: the seeds judge the same images.
        of_images = real * (1 - real) / counts[0] + synthetic * (1 - synthetic) / counts[1]
        of_seeds = gaps.var(ddof=1) / len(gaps) if len(gaps) > 1 else 0.0
        reach = 1.96 * sqrt(of_images + of_seeds)
        gap = float(gaps.mean())
        found[kind] = {
            "real": float(real), "synthetic": float(synthetic), "n_real": int(counts[0]), "n_synthetic": int(counts[1]),
            "difference": {"value": gap, "low": gap - reach, "high": gap + reach},
        }  # fmt: skip
    return found


def _shares(real: Predictions, synthetic: Predictions, specificity: float, abnormal: bool) -> tuple[float, float]:
    threshold = threshold_at_specificity(real.scores[~real.abnormal], specificity)
    of_real, of_synthetic = (
        float(np.mean(each.scores[each.abnormal == abnormal] > threshold)) for each in (real, synthetic)
    )
    return of_real, of_synthetic
