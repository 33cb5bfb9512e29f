"""A group's place in the split depends on its name and the seed alone, and never on two sides."""

import pytest

from wbc_diffusers.data.split import assign_splits, check_fractions, groups_on_two_sides, split_name

GROUPS = [f"patient {i}" for i in range(3000)]


def test_fractions_are_met() -> None:
    places = list(assign_splits(GROUPS, (0.7, 0.2, 0.1), seed=0).values())
    for split, fraction in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        spread = (fraction * (1 - fraction) / len(GROUPS)) ** 0.5
        assert abs(places.count(split) / len(GROUPS) - fraction) < 3.5 * spread


def test_images_added_later_move_no_other() -> None:
    few, many = (assign_splits(reversed(GROUPS[:n]), (0.7, 0.2, 0.1), seed=5) for n in (1000, 3000))
    assert all(many[group] == split for group, split in few.items())


def test_another_seed_gives_another_split() -> None:
    one, other = (assign_splits(GROUPS, (0.5, 0.25, 0.25), seed) for seed in (0, 1))
    moved = sum(one[group] != other[group] for group in GROUPS) / len(GROUPS)
    assert abs(moved - 0.625) < 0.05  # of two independent draws: 1 - 0.5^2 - 2 x 0.25^2


@pytest.mark.parametrize("seed", range(30))
def test_no_wanted_split_stays_empty(seed: int) -> None:
    assert set(assign_splits("abc", (0.98, 0.01, 0.01), seed).values()) == {"train", "validation", "test"}
    assert set(assign_splits("ab", (0.9, 0, 0.1), seed).values()) == {"train", "test"}
    assert set(assign_splits("ab", (1, 0, 0), seed).values()) == {"train"}


def test_too_few_groups_and_wrong_fractions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 groups cannot be split into train, validation, test.*such as 1,0,0"):
        assign_splits(["a", "b", "a"], (0.8, 0.1, 0.1), 0)
    nan, inf = float("nan"), float("inf")
    wrong = [(0.8, 0.2), (0.8, 0.3, -0.1), (0, 0.5, 0.5), (0.8, 0.1, 0.2), (inf, 0, 0)]
    for fractions in [*wrong, (nan, 0.1, 0.1), (0.8, nan, 0.1), (0.8, 0.2, nan)]:
        with pytest.raises(ValueError, match="wanted three numbers of at least 0"):
            check_fractions(fractions)


def test_torn_groups_are_named_with_their_sides() -> None:
    pairs = [("a", "test"), ("b", "train"), ("a", "train"), ("b", "train"), ("c", "validation")]
    assert groups_on_two_sides(pairs) == {"a": ["train", "test"]}


@pytest.mark.parametrize(
    ("text", "name"), [("Val", "validation"), (" training", "train"), ("dev", "validation"), ("holdout", None)]
)
def test_splits_are_known_by_their_usual_names(text: str, name: str | None) -> None:
    assert split_name(text) == name
