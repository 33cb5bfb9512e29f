"""Did a model copy its training images? More generated images near them than held-out real ones are, and how many.

Held-out real images say how near an image comes to the training set without being a copy; planted copies say how many
copies are found. Both are measured anew in every audit, as they depend on the images and on their number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wbc_diffusers.evaluation.intervals import LEVEL, Estimate, share
from wbc_diffusers.evaluation.nearest import Features, Nearest, nearest_by_features

FALSE_ALARMS = 0.01
"""Share of new real images that are taken for copies."""

SAME = 1e-9
"""Images nearer than this are the same."""

CLOSEST = 10

Search = Callable[[NDArray, NDArray], Nearest]


@dataclass(frozen=True)
class ClosePair:
    """A generated image and the training image nearest to it, by their places, and their distance."""

    generated: int
    training: int
    distance: float


@dataclass(frozen=True)
class CopyAudit:
    """What a search for copies found.

    Attributes:
        threshold: An image nearer than this to a training image is taken for a copy.
        false_alarms: Share of new real images that are. The interval is what the held-out images leave open.
        found: Share of the planted copies that are, by kind.
        found_of_all: The same, of all kinds together.
        beyond: Share of the generated images that are.
        excess: By how much that is more than false alarms explain; `high` is its upper bound.
        chance: Probability of as many or more if no generated image is a copy.
        closest: The ten generated images that are nearest to a training image, the nearest first.
        generated: Nearest training image of each generated image.
        held_out: The same of each held-out real image.
    """

    threshold: float
    false_alarms: Estimate
    found: dict[str, Estimate]
    found_of_all: Estimate
    beyond: Estimate
    excess: Estimate
    chance: float
    closest: list[ClosePair]
    generated: Nearest
    held_out: Nearest

    @property
    def copies_at_most(self) -> float:
        """Upper bound of the share of copies such as were planted, those that were missed among them.

        All that are taken for copies count: of generated cells that are unlike real ones, fewer are taken for copies by
        mistake than of these, and to take the false alarms off would hide as many copies.
        """
        return min(self.beyond.high / self.found_of_all.low, 1.0) if self.found_of_all.low > 0 else 1.0


def audit(
    search: Search,
    generated: NDArray,
    held_out: NDArray,
    training: NDArray,
    planted: Mapping[str, NDArray],
    false_alarms: float = FALSE_ALARMS,
) -> CopyAudit:
    """Search generated images for copies of training images.

    The threshold is the k-th smallest distance of the n held-out images, k the largest number for which k / (n + 1) is
    at most `false_alarms`: of images like them, that share lies below it on average (Vovk et al. 2005). With few
    images it may be far from that in one audit; the interval says how far.

    Args:
        search: `nearest_by_pixels` or `nearest_by_features`; what follows are thumbnails or features accordingly.
        generated: Of the generated images (N, ...).
        held_out: Of real images that no model was trained on.
        training: Of the images that the model, or one that it was fine-tuned from, was trained on.
        planted: Of copies of training images, by kind.
        false_alarms: Share of new real images that may be taken for copies, between 0 and 1.

    Raises:
        ValueError: If that share is none, a set has no images, there are too few held-out ones, or one of these is a
            training image.
    """
    sets = {"generated": generated, "held-out": held_out, **{f"planted ({kind})": planted[kind] for kind in planted}}
    empty = [name for name, images in sets.items() if len(images) == 0]
    if empty or not planted:
        raise ValueError(f"there are no images: {', '.join(empty) or 'planted'}; an audit needs some of each")
    rank = threshold_rank(len(held_out), false_alarms)
    nearest_held_out = search(held_out, training)
    threshold = threshold_of(nearest_held_out, false_alarms)
    alarms = _share_below(rank, len(held_out))
    sizes = [len(copies) for copies in planted.values()]
    nearest_planted = search(np.concatenate(list(planted.values())), training)
    hits = [_hits(part, threshold) for part in np.split(nearest_planted.distance, np.cumsum(sizes)[:-1])]
    nearest = search(generated, training)
    count = _hits(nearest.distance, threshold)
    beyond = share(count, len(generated))
    return CopyAudit(
        threshold=threshold,
        false_alarms=alarms,
        found={kind: share(*of_kind) for kind, *of_kind in zip(planted, hits, sizes, strict=True)},
        found_of_all=share(sum(hits), sum(sizes)),
        beyond=beyond,
        excess=_difference(beyond, alarms),
        chance=float(stats.betabinom.sf(count - 1, len(generated), rank, len(held_out) + 1 - rank)),
        closest=closest_pairs(nearest),
        generated=nearest,
        held_out=nearest_held_out,
    )


def threshold_of(held_out: Nearest, false_alarms: float = FALSE_ALARMS) -> float:
    """The distance below which an image is taken for a copy, from those of held-out real images.

    Raises:
        ValueError: If there are too few of them, one of them is a training image, or that share is none.
    """
    rank = threshold_rank(len(held_out.distance), false_alarms)
    same = np.nonzero(held_out.distance < SAME)[0]
    if len(same):
        raise ValueError(
            f"{len(same)} of {len(held_out.distance)} held-out images are training images, number {same[0]} is number "
            f"{held_out.index[same[0]]}: held-out images must be such that no model was trained on"
        )
    return float(np.sort(held_out.distance)[rank - 1])


def closest_pairs(generated: Nearest, count: int = CLOSEST) -> list[ClosePair]:
    """The generated images nearest to a training image, the nearest first."""
    order = np.argsort(generated.distance, kind="stable")[:count]
    return [ClosePair(int(i), int(generated.index[i]), float(generated.distance[i])) for i in order]


def authenticity(images: Features, training: Features) -> Estimate:
    """Share of images that are authentic (Alaa et al. 2022), by features (N, D) and (M, D).

    Such an image is farther from its nearest training image than that one is from its own nearest other. Real images
    that are no copies are not all authentic either, so the share is to be read beside that of held-out ones.

    Raises:
        ValueError: If there are no images, fewer than two training images, or the arrays don't fit together.
    """
    if len(images) == 0:
        raise ValueError("there are no images whose authenticity could be told")
    nearest = nearest_by_features(images, training)
    used, place = np.unique(nearest.index, return_inverse=True)
    others = nearest_by_features(training[used], training, own=used)
    return share(int((nearest.distance > others.distance[place]).sum()), len(images))


def least_held_out(false_alarms: float = FALSE_ALARMS) -> int:
    """Fewest held-out images that a threshold can come from."""
    return int(np.ceil(1 / false_alarms - 1e-9)) - 1


def threshold_rank(count: int, false_alarms: float) -> int:
    """Which of so many held-out distances, counted from the smallest as 1, is the threshold.

    Raises:
        ValueError: If there are too few of them, or that share is none.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms is {false_alarms}, but must lie between 0 and 1")
    rank = floor(false_alarms * (count + 1) + 1e-9)
    if rank < 1:
        raise ValueError(
            f"{count} held-out images are too few for a threshold with {false_alarms:.2%} false alarms: give "
            f"{least_held_out(false_alarms)} or more, or allow {np.ceil(1e4 / (count + 1)) / 1e4:.2%}"
        )
    return rank


def _share_below(rank: int, count: int) -> Estimate:
    """Share of all images like n given ones that lie below the k-th smallest of these, whatever their distribution."""
    tail = (1 - LEVEL) / 2
    low, high = stats.beta.ppf([tail, 1 - tail], rank, count + 1 - rank)
    return Estimate(rank / (count + 1), float(low), float(high))


def _hits(distances: NDArray[np.float64], threshold: float) -> int:
    return int((distances < threshold).sum())


def _difference(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two independent estimates; its interval comes from theirs (Zou and Donner 2008)."""
    value = first.value - second.value
    low = value - sqrt((first.value - first.low) ** 2 + (second.high - second.value) ** 2)
    high = value + sqrt((first.high - first.value) ** 2 + (second.value - second.low) ** 2)
    return Estimate(value, low, high)
