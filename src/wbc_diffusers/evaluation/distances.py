"""How far two sets of features are apart: Fréchet and kernel distance, precision, recall, density and coverage.

The figures are those of torch-fidelity's own code where it has them; only their intervals are computed here.
"""

from collections.abc import Iterator
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
)

BLOCK = 512
NEIGHBOURS = 5
"""Of density and coverage (Naeem et al. 2020, section 4); precision and recall take torch-fidelity's 3."""
MOST_NEIGHBOURED = 5000
"""Measures by nearest neighbours change with the number of images, and take time by its square: no more are used."""
KID_SUBSETS, KID_SUBSET = 100, 1000
"""Subsets that the kernel distance is the mean over, and the images of each, as everywhere."""

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
    fd = frechet(real, other)
    without = [_frechet_fast(real[groups[0] != i], other[groups[1] != i]) for i in range(GROUPS)]
    line = frechet_line(real, other, seed)
    kd = jackknife(kernel(real, other), kernel_without_groups(real, other, *groups))
    near = _neighbour_measures(some(real, MOST_NEIGHBOURED, seed), some(other, MOST_NEIGHBOURED, seed + 1), seed)
    estimates = {"fd": jackknife(fd, without), "kd": kd, **near}
    # With fewer images than features the bias does not yet fall as 1 / n.
    if line[0][0] >= real.shape[1]:
        estimates["fd_infinity"] = extrapolate(line, jackknife_error(without))
    capped = min(len(real), MOST_NEIGHBOURED), min(len(other), MOST_NEIGHBOURED)
    return Distances(estimates, line, {m: capped if m in near else (len(real), len(other)) for m in estimates})


def values(real: Features, other: Features, seed: int = 0) -> dict[str, float]:
    """The measures of `compare` without intervals, and without what is extrapolated."""
    few = some(real, MOST_NEIGHBOURED, seed), some(other, MOST_NEIGHBOURED, seed + 1)
    return {"fd": frechet(real, other), "kd": kernel(real, other), **neighbour_values(*few)}


# -- Fréchet distance ------------------------------------------------------------------------------------------------


def moments(features: NDArray[np.floating]) -> Moments:
    """Mean (D,) and covariance (D, D) of features (N, D), in float64 but for a block at a time."""
    mean: NDArray[np.float64] = np.asarray(features.mean(axis=0, dtype=np.float64))
    scatter = np.zeros((len(mean), len(mean)))
    for block in _blocks(features):
        centred = block.astype(np.float64) - mean
        scatter += centred.T @ centred
    return mean, scatter / (len(features) - 1)


def frechet(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Fréchet distance of two sets of features (Heusel et al. 2017), by torch-fidelity."""
    if len(first) + len(second) < first.shape[1]:
        # Of fewer images than features it is the same in the coordinates of their span, which are fewer.
        span, _ = np.linalg.qr(np.concatenate([first, second]).T.astype(np.float64))
        first, second = first @ span, second @ span
    statistics = ({"mu": mean, "sigma": covariance} for mean, covariance in map(moments, (first, second)))
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def _frechet_fast(first: Features, second: Features) -> float:
    """The same by symmetric matrices only, of the smaller side: it is needed some thirty times for an interval."""
    smaller, larger = sorted((first, second), key=len)
    (mean, covariance), (other_mean, other_covariance) = moments(smaller), moments(larger)
    if len(smaller) <= len(mean):
        root = (smaller - mean).T / np.sqrt(len(smaller) - 1)
    else:
        powers, axes = np.linalg.eigh(covariance)
        root = axes * np.sqrt(powers.clip(0))
    shared = np.linalg.eigvalsh(root.T @ other_covariance @ root).clip(0)
    apart = mean - other_mean
    return float(apart @ apart + np.trace(covariance) + np.trace(other_covariance) - 2 * np.sqrt(shared).sum())


def frechet_line(first: Features, second: Features, seed: int = 0) -> list[tuple[int, float]]:
    """The Fréchet distance by number of images of both sets, from a quarter of the smaller set to all of it."""
    return curve(partial(_frechet_of_some, first, second, seed=seed), min(len(first), len(second)))


def _frechet_of_some(first: Features, second: Features, count: int, *, seed: int) -> float:
    return _frechet_fast(some(first, count, seed + count), some(second, count, seed + count + 1))


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
    density, coverage = density_and_coverage(_apart(real, real), _apart(real, other))
    return {
        "precision": found[KEY_METRIC_PRECISION],
        "recall": found[KEY_METRIC_RECALL],
        "density": density,
        "coverage": coverage,
    }


def density_and_coverage(real_real: torch.Tensor, real_other: torch.Tensor) -> tuple[float, float]:
    """Density and coverage from distances (M, M) between real images and (M, N) from them to others."""
    radii = _radii(real_real, NEIGHBOURS)[:, None]
    within = real_other < radii
    density = float(within.sum(dtype=torch.float64)) / (NEIGHBOURS * real_other.shape[1])
    return density, float(within.any(dim=1).double().mean())


def _neighbour_measures(real: Features, other: Features, seed: int) -> dict[str, Estimate]:
    real_real, real_other, other_other = _apart(real, real), _apart(real, other), _apart(other, other)
    groups = torch.from_numpy(groups_of(len(real), seed=seed)), torch.from_numpy(groups_of(len(other), seed=seed + 1))
    left_out: dict[str, list[float]] = {m: [] for m in ("precision", "recall", "density", "coverage")}
    for i in range(GROUPS):
        mine, theirs = (torch.nonzero(g != i).squeeze(1) for g in groups)
        rr, ro, oo = real_real[mine][:, mine], real_other[mine][:, theirs], other_other[theirs][:, theirs]
        precision = (ro <= _radii(rr, 3)[:, None]).any(dim=0)
        recall = (ro <= _radii(oo, 3)).any(dim=1)
        density, coverage = density_and_coverage(rr, ro)
        rest = float(precision.double().mean()), float(recall.double().mean()), density, coverage
        for measure, value in zip(left_out, rest, strict=True):
            left_out[measure].append(value)
    values = neighbour_values(real, other)
    found = {measure: jackknife(values[measure], left_out[measure]) for measure in left_out}
    shares = {m: Estimate(e.value, max(e.low, 0.0), min(e.high, 1.0)) for m, e in found.items() if m != "density"}
    return {**found, **shares}


def _radii(apart: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Distance of each image to its k-th nearest other one; it is its own nearest itself."""
    return apart.kthvalue(neighbours + 1, dim=1).values


def _apart(first: Features, second: Features) -> torch.Tensor:
    """Distances (N, M) in float32."""
    other = torch.from_numpy(second)
    return torch.cat([torch.cdist(torch.from_numpy(block), other) for block in _blocks(first)])


# -- small things ----------------------------------------------------------------------------------------------------


def _blocks(features: NDArray[np.floating]) -> Iterator[NDArray[np.floating]]:
    for start in range(0, len(features), BLOCK):
        yield features[start : start + BLOCK]


def some(features: Features, count: int, seed: int) -> Features:
    """So many of them at random, in their order, or all."""
    if len(features) <= count:
        return features
    return features[np.sort(np.random.default_rng(seed).choice(len(features), count, replace=False))]
