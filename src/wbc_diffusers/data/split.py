"""Split groups of images into train, validation and test, so that a group never lies on two sides."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

SPLITS = ("train", "validation", "test")

_SPELLINGS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def split_name(text: str) -> str | None:
    """Give the split that a word such as `val` or `Training` names, or None."""
    return _SPELLINGS.get(text.strip().lower())


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Check the fractions of train, validation and test: three numbers of at least 0, train above 0, sum 1."""
    values = tuple(float(value) for value in fractions)
    fit = len(values) == 3 and all(value >= 0 for value in values) and values[0] > 0 and abs(sum(values) - 1) <= 1e-6
    if not fit:  # put so that NaN, of which no comparison holds, is none
        raise ValueError(
            f"split fractions {list(fractions)}: wanted three numbers of at least 0 for train, validation and test, "
            "train above 0, that sum to 1, such as 0.8,0.1,0.1"
        )
    return values[0], values[1], values[2]


def assign_splits(groups: Iterable[str], fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Assign each group to a split by a hash of the seed and its name.

    A group's place depends on nothing else: not on the order of files, nor on which other groups there are, so images
    that are added later leave the others where they were. The one exception is a split that would stay empty: it takes
    the group whose hash lies nearest to it.

    Args:
        groups: Names of the groups; repeats are allowed.
        fractions: Of train, validation and test, summing to 1.
        seed: Another seed gives another split.

    Returns:
        The split of each group.

    Raises:
        ValueError: If there are fewer groups than splits with a fraction above 0.
    """
    bounds = check_fractions(fractions)
    wanted = [split for split, fraction in zip(SPLITS, bounds, strict=True) if fraction > 0]
    places = {group: _place(group, seed) for group in groups}
    if len(places) < len(wanted):
        raise ValueError(
            f"{len(places)} groups cannot be split into {', '.join(wanted)}: a group never lies on two sides. "
            "Give fractions with zeros, such as 1,0,0, or a split column"
        )
    ends = (bounds[0], bounds[0] + bounds[1], 1.0)
    result = {group: _interval(place, ends, wanted) for group, place in places.items()}
    _fill_empty(result, places, {"train": (0.0, ends[0]), "validation": ends[:2], "test": ends[1:]}, wanted)
    return result


def groups_on_two_sides(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Give the groups that lie in more than one split, with those splits, from pairs of (group, split)."""
    seen: dict[str, set[str]] = {}
    for group, split in pairs:
        seen.setdefault(group, set()).add(split)
    return {group: sorted(splits, key=SPLITS.index) for group, splits in sorted(seen.items()) if len(splits) > 1}


def _place(group: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{group}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _interval(place: float, ends: tuple[float, float, float], wanted: list[str]) -> str:
    for split, end in zip(SPLITS, ends, strict=True):
        if split in wanted and place < end:
            return split
    return wanted[-1]  # rounding left the last bound a hair below 1


def _fill_empty(
    result: dict[str, str], places: Mapping[str, float], intervals: Mapping[str, tuple[float, ...]], wanted: list[str]
) -> None:
    for split in wanted:
        if split in result.values():
            continue
        low, high = intervals[split]
        counts = {name: list(result.values()).count(name) for name in wanted}
        free = [group for group, name in result.items() if counts[name] > 1]
        nearest = min(free, key=lambda group: (max(low - places[group], places[group] - high), group))
        result[nearest] = split
