"""Dataclasses from YAML: values brought to their types where nothing is lost, and errors that say what was meant."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from wbc_diffusers.training.fields import alternatives, check_fields, plain, read_fields


@dataclass
class Cake:
    """A dataclass of every kind of field."""

    layers: int = 1
    sugar: float = 0.5
    glaze: Literal["no", "dark"] = "no"
    baker: str | None = None
    size: tuple[float, float] | None = None
    eggs: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    guests: list[str] = field(default_factory=list)
    tins: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("layers", 3.0, 3),
        ("layers", "1e2", 100),  # text to YAML 1.1
        ("sugar", 1, 1.0),
        ("sugar", "3e-4", 3e-4),
        ("glaze", False, "no"),  # what a bare no is to YAML 1.1
        ("baker", "7", "7"),
        ("size", [1, 2.5], (1.0, 2.5)),
        ("size", None, None),
        ("eggs", [1, 2.0], [1, 2]),
        ("shares", [0, 1], [0.0, 1.0]),
        ("guests", ["1", "no"], ["1", "no"]),
        ("tins", [{"a": 1}], [{"a": 1}]),
        ("notes", {"a": [1]}, {"a": [1]}),
    ],
)
def test_a_value_is_brought_to_the_type_of_its_field(name: str, written: Any, meant: Any) -> None:
    value = read_fields(Cake, {name: written})[name]
    assert value == meant
    assert type(value) is type(meant)
    if isinstance(meant, list | tuple):
        assert [type(part) for part in value] == [type(part) for part in meant]
    check_fields(Cake(**{name: value}), "cake")


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("layers", 2.5, "The cake's layers is 2.5; it must be a whole number."),
        ("layers", True, "The cake's layers is True; it must be a whole number."),
        ("sugar", "much", "The cake's sugar is 'much'; it must be a number."),
        ("sugar", math.inf, "The cake's sugar is inf; it must be a finite number."),
        ("glaze", "pink", "The cake's glaze is 'pink'; it must be one of no, dark."),
        ("baker", 7, "The cake's baker is 7; it must be text or null."),
        ("size", [1.0], "The cake's size is .*; it must be a list of 2 numbers or null."),
        ("eggs", [1, "two"], r"The cake's eggs is \[1, 'two'\]; it must be a list of numbers."),
        ("shares", 0.5, "The cake's shares is 0.5; it must be a list of numbers."),
        ("guests", [1], r"The cake's guests is \[1\]; it must be a list of texts."),
        ("tins", "tin", "The cake's tins is 'tin'; it must be a list of mappings."),
        ("notes", [], r"The cake's notes is \[\]; it must be a mapping."),
    ],
)
def test_a_value_of_another_type_is_told_with_the_one_that_fits(name: str, given: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_fields(Cake(**read_fields(Cake, {name: given})), "cake")


def test_an_unknown_field_is_told_with_the_nearest_or_with_all() -> None:
    with pytest.raises(ValueError, match=r"A Cake has no field 'layer'\. Did you mean layers\?"):
        read_fields(Cake, {"layer": 1})
    with pytest.raises(ValueError, match=r"A Cake has no field 'zzz'\. The fields are baker, eggs, glaze, guests,"):
        read_fields(Cake, {"zzz": 1})
    with pytest.raises(ValueError, match="A Cake has no field 1"):
        read_fields(Cake, {1: 1})  # type: ignore[dict-item]


def test_plain_data_holds_no_tuple_however_deep() -> None:
    assert plain({"a": (1, [(2, 3)], {"b": (4,)})}) == {"a": [1, [[2, 3]], {"b": [4]}]}


def test_the_alternatives_of_a_hint_are_its_types() -> None:
    assert alternatives(int | None) == (int, type(None))
    assert alternatives(list[int]) == (list[int],)
