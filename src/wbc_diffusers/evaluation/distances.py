"""How far two sets of features are apart: Fréchet and kernel distance, precision, recall, density and coverage.

The figures are those of torch-fidelity's own code where it has them; only their intervals are computed here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from wbc_diffusers.evaluation.features import Features
from wbc_diffusers.evaluation.intervals import (
    GROUPS,
    Estimate,
    curve,
    extrapolate,
    groups_of,
    jackknife,
    jackknife_error,
    jackknife_share,
)

BLOCK = 512
NEIGHBOURS = 5
"""Of density and coverage (Naeem et al. 2020, section 4); precision and recall take torch-fidelity's 3."""
MOST_NEIGHBOURED = 5000
"""Measures by nearest neighbours change with the number of images, and take time by its square: no more are used."""
KID_SUBSETS, KID_SUBSET = 100, 1000
"""Subsets that the kernel distance is the mean over, and the images of each, as everywhere."""

NO_GROUP = -1
"""Left out, it leaves all images in."""

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Distances:
    """Two sets of features compared.

    Attributes:
        estimates: By measure (fd, kd, precision, recall, density, coverage), with intervals; fd_infinity too, where
            there are four times as many images as features.
        line: The Fréchet distance by number of images of both sets.
        counts: Images of each set, real and other, that a measure used.
    """

    estimates: dict[str, Estimate]
    line: list[tuple[int, float]]
    counts: dict[str, tuple[int, int]]


def compare(real: Features, other: Features, seed: int = 0) -> Distances:
    """Compare features (N, D) with those of real images (M, D), with all intervals.

    Args:
        real: Features of real images.
        other: Features of what is held against them.
        seed: Of the groups and subsets; the same features and seed give the same figures to the last digit.
    """
    groups = groups_of(len(real), seed=seed), groups_of(len(other), seed=seed + 1)
    without = list(_frechet_without_groups(real, other, *groups))
    line = frechet_line(real, other, seed)
    kd = jackknife(kernel(real, other), kernel_without_groups(real, other, *groups))
    near = _neighbour_measures(some(real, MOST_NEIGHBOURED, seed), some(other, MOST_NEIGHBOURED, seed + 1), seed)
    estimates = {"fd": jackknife(frechet(real, other), without), "kd": kd, **near}
    # With fewer images than features the bias does not yet fall as 1 / n.
    if line[0][0] >= real.shape[1]:
        estimates["fd_infinity"] = extrapolate(line, jackknife_error(without))
    counts = dict.fromkeys(estimates, (len(real), len(other)))
    counts |= dict.fromkeys(near, (min(len(real), MOST_NEIGHBOURED), min(len(other), MOST_NEIGHBOURED)))
    if "fd_infinity" in counts:
        counts["fd_infinity"] = (line[-1][0], line[-1][0])
    return Distances(estimates, line, counts)


def values(real: Features, other: Features, seed: int = 0) -> dict[str, float]:
    """The measures of `compare` without intervals, and without what is extrapolated."""
    few = some(real, MOST_NEIGHBOURED, seed), some(other, MOST_NEIGHBOURED, seed + 1)
    return {"fd": frechet(real, other), "kd": kernel(real, other), **neighbour_values(*few)}


# -- Fréchet distance ------------------------------------------------------------------------------------------------


def moments(features: NDArray[np.floating], chosen: NDArray[np.int64] | None = None) -> Moments:
    """Mean (D,) and covariance (D, D) of features (N, D), or of some of them, in float64 but for a block at a time."""
    count = len(features) if chosen is None else len(chosen)
    mean: NDArray[np.float64] = sum(b.sum(axis=0, dtype=np.float64) for b in _blocks(features, chosen)) / count
    scatter = np.zeros((len(mean), len(mean)))
    for block in _blocks(features, chosen):
        centred = block.astype(np.float64) - mean
        scatter += centred.T @ centred
    return mean, scatter / (count - 1)


def frechet(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Fréchet distance of two sets of features (Heusel et al. 2017), by torch-fidelity."""
    if len(first) + len(second) < first.shape[1]:
        # Of fewer images than features it is the same in the coordinates of their span, which are fewer.
        span, _ = np.linalg.qr(np.concatenate([first, second]).T.astype(np.float64))
        first, second = first @ span, second @ span
    statistics = ({"mu": mean, "sigma": covariance} for mean, covariance in map(moments, (first, second)))
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def _frechet_fast(first: Moments, root: NDArray[np.float64], second: Moments) -> float:
    """The same by symmetric matrices only: it is needed some thirty times for an interval and a line.

    Args:
        first: Moments of the smaller set.
        root: A root R (D, K) of its covariance, which is R R^T.
        second: Moments of the larger set.
    """
    shared = np.linalg.eigvalsh(root.T @ second[1] @ root).clip(0)
    apart = first[0] - second[0]
    return float(apart @ apart + np.trace(first[1]) + np.trace(second[1]) - 2 * np.sqrt(shared).sum())


def _root(features: Features, chosen: NDArray[np.int64], of_these: Moments) -> NDArray[np.float64]:
    """A root of the covariance of some features: of few images, their own deviations."""
    mean, covariance = of_these
    if len(chosen) <= len(mean):
        return (features[chosen] - mean).T / np.sqrt(len(chosen) - 1)
    powers, axes = np.linalg.eigh(covariance)
    return axes * np.sqrt(powers.clip(0))


def _frechet_without_groups(
    first: Features, second: Features, first_groups: NDArray[np.int64], second_groups: NDArray[np.int64]
) -> Iterator[float]:
    """The Fréchet distance of all images but one group of both, for each group."""
    pairs = (first, first_groups), (second, second_groups)
    (smaller, groups), (larger, other_groups) = sorted(pairs, key=lambda pair: len(pair[0]))
    rests = zip(_moments_without_groups(smaller, groups), _moments_without_groups(larger, other_groups), strict=True)
    for i, (own, others) in enumerate(rests):
        yield _frechet_fast(own, _root(smaller, np.flatnonzero(groups != i), own), others)


def _moments_without_groups(features: Features, groups: NDArray[np.int64]) -> Iterator[Moments]:
    """The moments of all images but one group, for each: what the group adds is taken off those of all."""
    mean, covariance = moments(features)
    scatter = covariance * (len(features) - 1)
    for i in range(GROUPS):
        group = features[groups == i].astype(np.float64) - mean
        rest = len(features) - len(group)
        shift = -group.sum(axis=0) / rest
        yield mean + shift, (scatter - group.T @ group - rest * np.outer(shift, shift)) / (rest - 1)


def frechet_line(first: Features, second: Features, seed: int = 0) -> list[tuple[int, float]]:
    """The Fréchet distance by number of images of both sets, from a quarter of the smaller set to all of it."""
    return curve(partial(_frechet_of_some, first, second, seed=seed), min(len(first), len(second)))


def _frechet_of_some(first: Features, second: Features, count: int, *, seed: int) -> float:
    chosen, others = draw(len(first), count, seed + count), draw(len(second), count, seed + count + 1)
    own = moments(first, chosen)
    return _frechet_fast(own, _root(first, chosen, own), moments(second, others))


# -- kernel distance -------------------------------------------------------------------------------------------------


def kernel(first: Features, second: Features) -> float:
    """Kernel distance of two sets of features (Bińkowski et al. 2018), by torch-fidelity; it has no bias."""
    size = min(KID_SUBSET, len(first), len(second))
    found = kid_features_to_metric(
        torch.from_numpy(first), torch.from_numpy(second), kid_subsets=KID_SUBSETS, kid_subset_size=size, verbose=False
    )
    return float(found[KEY_METRIC_KID_MEAN])


def kernel_without_groups(
    first: Features, second: Features, first_groups: NDArray[np.int64], second_groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The unbiased kernel distance of all images but one group of both, for each group (G,).

    The kernel's values are added up by group, so that each is computed once.
    """
    within = [_kernel_sums(f, f, g, g) for f, g in ((first, first_groups), (second, second_groups))]
    across = _kernel_sums(first, second, first_groups, second_groups)
    diagonals = [_diagonal_sums(f, g) for f, g in ((first, first_groups), (second, second_groups))]
    sizes = [np.bincount(g, minlength=GROUPS) for g in (first_groups, second_groups)]
    found = np.empty(GROUPS)
    for i in range(GROUPS):
        keep = np.arange(GROUPS) != i
        n, m = (int(size[keep].sum()) for size in sizes)
        same = [
            (sums[np.ix_(keep, keep)].sum() - diagonal[keep].sum()) / (count * (count - 1))
            for sums, diagonal, count in zip(within, diagonals, (n, m), strict=True)
        ]
        found[i] = sum(same) - 2 * across[np.ix_(keep, keep)].sum() / (n * m)
    return found


def _polynomial(products: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    return (products / width + 1) ** 3


def _kernel_sums(
    first: Features, second: Features, first_groups: NDArray[np.int64], second_groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sums of the kernel between the images of each two groups, (G, G)."""
    sums = np.zeros((GROUPS, GROUPS))
    members = [np.flatnonzero(second_groups == j) for j in range(GROUPS)]
    for start in range(0, len(first), BLOCK):
        rows, groups = first[start : start + BLOCK].astype(np.float64), first_groups[start : start + BLOCK]
        for j, places in enumerate(members):
            values = _polynomial(rows @ second[places].T.astype(np.float64), first.shape[1]).sum(axis=1)
            sums[:, j] += np.bincount(groups, values, minlength=GROUPS)
    return sums


def _diagonal_sums(features: Features, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    squares = np.concatenate([(block.astype(np.float64) ** 2).sum(axis=1) for block in _blocks(features)])
    return np.bincount(groups, _polynomial(squares, features.shape[1]), minlength=GROUPS).astype(np.float64)


# -- nearest neighbours ----------------------------------------------------------------------------------------------


def neighbour_values(real: Features, other: Features) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019) by torch-fidelity; density and coverage (Naeem et al. 2020)."""
    found = prc_features_to_metric(
        torch.from_numpy(other), torch.from_numpy(real), prc_batch_size=BLOCK, save_cpu_ram=True, verbose=False
    )
    nothing = np.zeros(len(real), np.int64), np.zeros(len(other), np.int64)
    ours = _neighbours_without_groups(real, other, *nothing, [NO_GROUP])
    return {
        "precision": found[KEY_METRIC_PRECISION],
        "recall": found[KEY_METRIC_RECALL],
        "density": float(ours["density"][0]),
        "coverage": float(ours["coverage"][0]),
    }


def _neighbour_measures(real: Features, other: Features, seed: int) -> dict[str, Estimate]:
    groups = groups_of(len(real), seed=seed), groups_of(len(other), seed=seed + 1)
    left_out = _neighbours_without_groups(real, other, *groups, range(GROUPS))
    values = neighbour_values(real, other)
    of = {"precision": len(other), "recall": len(real), "coverage": len(real)}
    shares = {measure: jackknife_share(values[measure], left_out[measure], of[measure]) for measure in of}
    return {**shares, "density": jackknife(values["density"], left_out["density"])}


def _neighbours_without_groups(
    real: Features,
    other: Features,
    real_groups: NDArray[np.int64],
    other_groups: NDArray[np.int64],
    left_out: Sequence[int],
) -> dict[str, NDArray[np.float64]]:
    """The measures by nearest neighbours without the images of a group of both sets, for each that is asked for.

    Distances are computed block by block and not kept: those of 5,000 images would take 100 MB for each pair of sets.
    """
    mine, theirs = (torch.from_numpy(groups) for groups in (real_groups, other_groups))
    of_real = _radii(real, mine, (3, NEIGHBOURS), left_out)
    of_other = _radii(other, theirs, (3,), left_out)
    covered = torch.zeros(len(left_out), len(other), dtype=torch.bool)
    counts = {measure: np.zeros(len(left_out)) for measure in ("precision", "recall", "density", "coverage")}
    for start, apart in _apart(real, other):
        rows = slice(start, start + len(apart))
        for i, group in enumerate(left_out):
            kept, others = mine[rows] != group, theirs != group
            covered[i] |= (apart <= of_real[3][rows, i, None])[kept].any(dim=0)
            within = (apart < of_real[NEIGHBOURS][rows, i, None])[kept][:, others]
            counts["density"][i] += int(within.sum())
            counts["coverage"][i] += int(within.any(dim=1).sum())
            counts["recall"][i] += int((apart <= of_other[3][:, i])[kept][:, others].any(dim=1).sum())
    for i, group in enumerate(left_out):
        n, m = int((mine != group).sum()), int((theirs != group).sum())
        counts["precision"][i] = int(covered[i, theirs != group].sum()) / m
        counts["density"][i] /= NEIGHBOURS * m
        counts["coverage"][i] /= n
        counts["recall"][i] /= n
    return counts


def _radii(
    features: Features, groups: torch.Tensor, neighbours: Sequence[int], left_out: Sequence[int]
) -> dict[int, torch.Tensor]:
    """Distance of each image to its k-th nearest other one without each group, (N, G); it is its own nearest itself."""
    most, numbers = max(neighbours) + 1, groups.unique()
    members = [torch.nonzero(groups == number).squeeze(1) for number in numbers]
    found = {k: torch.empty(len(features), len(left_out)) for k in neighbours}
    for start, apart in _apart(features, features):
        # The nearest of each group hold the nearest of all but any one of them.
        nearest = [apart[:, places].topk(min(most, len(places)), largest=False).values for places in members]
        for i, group in enumerate(left_out):
            rest = [near for near, number in zip(nearest, numbers, strict=True) if number != group]
            among = torch.cat(rest, dim=1)
            for k in neighbours:
                found[k][start : start + len(apart), i] = among.kthvalue(k + 1, dim=1).values
    return found


def _apart(first: Features, second: Features) -> Iterator[tuple[int, torch.Tensor]]:
    """Distances (B, M) in float32, block by block, and the first image of each."""
    other = torch.from_numpy(second)
    for start, block in zip(range(0, len(first), BLOCK), _blocks(first), strict=True):
        yield start, torch.cdist(torch.from_numpy(block), other)


# -- small things ----------------------------------------------------------------------------------------------------


def _blocks(features: NDArray[np.floating], chosen: NDArray[np.int64] | None = None) -> Iterator[NDArray[np.floating]]:
    for start in range(0, len(features) if chosen is None else len(chosen), BLOCK):
        part = slice(start, start + BLOCK)
        yield features[part] if chosen is None else features[chosen[part]]


def some(features: Features, count: int, seed: int) -> Features:
    """So many of them at random, in their order, or all."""
    return features if len(features) <= count else features[draw(len(features), count, seed)]


def draw(size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Places of `count` of `size` images at random, in their order."""
    if size <= count:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False))
