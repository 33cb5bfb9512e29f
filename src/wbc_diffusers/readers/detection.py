"""How well a reader tells two kinds of images apart: each measure one function of how often each answer was given.

`counts` (..., 2, L) are how often each of L answers was given to signals (row 0) and to noise (row 1), the answers from
the surest "noise" to the surest "signal". Where readers say whether a cell is real, signals are real cells, as in the
thesis; where they choose one of two, signals are pairs with the real cell, or the first generator's, on the left.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Numbers = NDArray[np.float64]


def count_answers(answers: ArrayLike, signal: ArrayLike, levels: int, weights: ArrayLike | None = None) -> Numbers:
    """Count answers (..., 2, L).

    Args:
        answers: From 0, the surest "noise", to `levels` - 1, the surest "signal"; -1 where there is none (..., N).
        signal: Which images are signals (N,), or are so for each reader (..., N).
        levels: L, an even number.
        weights: How often each image counts (N, B): the counts are (..., B, 2, L) then.

    Raises:
        ValueError: If `levels` is odd: the middle one would say neither.
    """
    if levels < 2 or levels % 2:
        raise ValueError(f"{levels} levels of answers: there must be as many for one side as for the other")
    given, kinds = np.asarray(answers), np.asarray(signal, bool)
    each = [(given == level)[..., None, :] & np.stack([kinds, ~kinds], axis=-2) for level in range(levels)]
    if weights is None:
        return np.stack([one.sum(-1) for one in each], axis=-1).astype(np.float64)
    return np.stack([np.moveaxis(one @ np.asarray(weights, np.float64), -1, -2) for one in each], axis=-1)


def confusion(counts: Numbers) -> Numbers:
    """Decisions: signals called so and not, noise called signal and not, (..., 2, 2), as in tables 9 to 13."""
    half = counts.shape[-1] // 2
    return np.stack([counts[..., half:].sum(-1), counts[..., :half].sum(-1)], axis=-1)


def accuracy(counts: Numbers) -> Numbers:
    """The share of right answers."""
    table = confusion(counts)
    return share(table[..., 0, 0] + table[..., 1, 1], table.sum((-1, -2)))


def recall(counts: Numbers) -> Numbers:
    """The share of signals that are called so: of real cells called real."""
    table = confusion(counts)
    return share(table[..., 0, 0], table[..., 0, :].sum(-1))


def specificity(counts: Numbers) -> Numbers:
    """The share of noise that is called so: of synthetic cells called synthetic."""
    table = confusion(counts)
    return share(table[..., 1, 1], table[..., 1, :].sum(-1))


def balanced_accuracy(counts: Numbers) -> Numbers:
    """The mean of recall and specificity: 0.5 for whoever sees no difference, whatever the habit of answering."""
    return (recall(counts) + specificity(counts)) / 2


def d_prime(counts: Numbers) -> Numbers:
    """How far apart signals and noise look, in standard deviations, whatever the habit of answering.

    d' = z(hits) - z(false alarms) (Green and Swets 1966). 0 is no difference seen. Where a cell of the table is empty,
    which would make it infinite, the share of signals is added to theirs and that of noise to its, which is 0.5 each
    where there are as many (log-linear; Hautus 1995): whoever always says the same has a d' of 0. See `is_corrected`.
    """
    hits, alarms = deviates(counts)
    return np.asarray(hits - alarms)


def criterion(counts: Numbers) -> Numbers:
    """The habit of answering, c = -(z(hits) + z(false alarms)) / 2: below 0 for whoever tends to say "signal"."""
    hits, alarms = deviates(counts)
    return np.asarray(-(hits + alarms) / 2)


def is_corrected(counts: Numbers) -> NDArray[np.bool_]:
    """Whether d' and the criterion are those of a table to which something was added, since a cell was empty."""
    return np.asarray((confusion(counts) == 0).any((-1, -2)))


def auc(counts: Numbers) -> Numbers:
    """The area under the ROC curve of the answers: how often a signal gets a surer "signal" than noise; ties are half.

    Mann and Whitney's count of pairs, 0.5 for whoever sees no difference.
    """
    signals, noise = counts[..., 0, :], counts[..., 1, :]
    below = np.cumsum(noise, axis=-1) - noise / 2
    return share((signals * below).sum(-1), signals.sum(-1) * noise.sum(-1))


def share(part: Numbers, whole: Numbers) -> Numbers:
    """A share, not a number where there is nothing to share."""
    parts, wholes = np.broadcast_arrays(part, whole)
    return np.divide(
        parts, wholes, out=np.full(wholes.shape, np.nan), where=np.abs(wholes) > 1e-12
    )  # what cancels out is seldom 0 to the last digit


def deviates(counts: Numbers) -> tuple[Numbers, Numbers]:
    """z of the hit rate and of the false alarm rate, after the log-linear correction where a cell is empty."""
    table = confusion(counts)
    shares = share(table.sum(-1), table.sum((-1, -2))[..., None])
    table = table + shares[..., None] * is_corrected(counts)[..., None, None]
    rates = share(table[..., 0], table.sum(-1))
    return stats.norm.ppf(rates[..., 0]), stats.norm.ppf(rates[..., 1])
