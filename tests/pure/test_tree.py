"""Names like paths: nested dictionaries taken apart and put together, and names that are refused."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata import DescriptionError, FieldError, tree

letters = st.characters(exclude_characters="/", categories=("L", "N", "P", "S", "Zs"))
names = st.text(letters, min_size=1, max_size=8).filter(lambda name: name not in (".", "..") and name.isprintable())
trees = st.recursive(
    st.integers() | st.just({}), lambda inner: st.dictionaries(names, inner, min_size=1, max_size=4), max_leaves=12
)


@given(st.dictionaries(names, trees, min_size=1, max_size=4))
def test_what_is_taken_apart_comes_together(data: dict[str, Any]) -> None:
    flat = tree.flatten("", data)
    assert not any(isinstance(value, dict) and value for value in flat.values())
    assert tree.nest(flat) == data
    below = tree.flatten("outer", data)
    assert tree.nest(below) == {"outer": data} and tree.nest(below, "outer") == data


@pytest.mark.parametrize(
    ("given", "kept"), [("a", "a"), ("a/b", "a/b"), ("a//b/", "a/b"), ("./a/./b", "a/b"), (".", ""), ("a b.c", "a b.c")]
)
def test_a_values_name_as_it_is_kept(given: str, kept: str) -> None:
    assert tree.value_name(given, "camera/front") == kept


HOSTILE = {
    "/etc/passwd": "begins with a slash",
    "../x": "leads elsewhere",
    "a/../../x": "leads elsewhere",
    "..": "leads elsewhere",
    "a\0b": "cannot be printed",
    "a\nb": "cannot be printed",
    "a\x1b[2J": "cannot be printed",
    "\ud800": "cannot be printed",
    "": "the name is empty",
    "x" * 201: "longer than 200 bytes",
    "\u00fc" * 101: "longer than 200 bytes",
}


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(FieldError, match=rf"sensor camera/front, value .*: .*{HOSTILE[name]}"):
        tree.value_name(name, "camera/front")
    with pytest.raises(DescriptionError, match=HOSTILE[name]):
        tree.sensor_name("camera", name)
    with pytest.raises(DescriptionError, match=HOSTILE[name]):
        tree.sensor_name(name, "front")


def test_names_that_are_long_in_all_are_refused() -> None:
    with pytest.raises(FieldError, match="longer than 1000 bytes"):
        tree.value_name("/".join(["x" * 100] * 10) + "/x", "s")
    with pytest.raises(DescriptionError, match="longer than 200 bytes"):
        tree.sensor_name("x" * 100, "y" * 100)
    with pytest.raises(FieldError, match="longer than 1000 bytes"):
        tree.flatten("a" * 150, {"b" * 150: {"c" * 150: {"d" * 150: {"e" * 150: {"f" * 150: {"g" * 150: 1}}}}}})


@pytest.mark.parametrize(
    ("directory", "name", "found"),
    [("dummy", "a", "dummy/a"), ("a/b", "c", "a/b/c"), ("a", "b/c", "a/b/c"), ("a", ".", "a"), ("./a/", "b", "a/b")],
)
def test_a_sensors_name(directory: str, name: str, found: str) -> None:
    assert tree.sensor_name(directory, name) == found


@pytest.mark.parametrize(
    ("directory", "name", "says"),
    [
        (".", "x", "directory '.': names nothing"),
        ("a", 3, "sensor 3 is int, expected a text"),
        (None, "x", "directory None is NoneType"),
        ("a", "b:writes", "belong to others' keys"),
        ("a:packed:b", "c", "belong to others' keys"),
    ],
)
def test_what_cannot_be_a_sensors_name(directory: Any, name: Any, says: str) -> None:
    with pytest.raises(DescriptionError, match=says):
        tree.sensor_name(directory, name)


def test_a_blue_tooth_address_can_be_a_name() -> None:
    assert tree.sensor_name("ble", "aa:bb:cc:dd:ee:ff") == "ble/aa:bb:cc:dd:ee:ff"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a", {1: 1, "1": 2}, "value 'a/1': two keys of the dictionary have this name"),
        ("a", {"b": 1, "b/c": 2}, "'a/b' is a value, and 'a/b/c' would be below it"),
        ("a", {"../x": 1}, "leads elsewhere"),
        ("a", {"": 1}, "the name is empty"),
        ("a", {".": 1}, "the key '.' is no name"),
        ("", 3, "value '.': found int, expected a dictionary of values"),
    ],
)
def test_dictionaries_that_cannot_be_taken_apart(name: str, data: Any, says: str) -> None:
    with pytest.raises(FieldError, match=re.escape(says)):
        tree.flatten(name, data, "s")


def test_a_dictionary_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(FieldError, match="nested deeper than 32"):
        tree.flatten("x", endless, "s")


@pytest.mark.parametrize("order", [["a", "a/b"], ["a/b", "a"]])
def test_a_value_where_others_stand_below_it_is_found_out(order: list[str]) -> None:
    with pytest.raises(ValueError, match="is a value"):
        tree.nest(dict.fromkeys(order, 1))


def test_empty_dictionaries_are_values() -> None:
    assert tree.flatten("a", {}) == {"a": {}} and tree.flatten("a", {"b": {}}) == {"a/b": {}}
    assert tree.flatten("", {}) == {}


def test_what_is_below() -> None:
    known = ["a", "a/b", "ab", "a/b/c"]
    assert tree.below(known, "a") == ["a", "a/b", "a/b/c"] and tree.below(known, "") == known
    assert tree.below(known, "a/b") == ["a/b", "a/b/c"] and tree.below(known, "x") == []


def test_near_names_are_told() -> None:
    assert tree.near("nmber", ["number", "image"]) == ": did you mean 'number'?"
    assert tree.near("zzz", ["number", "image"]) == ": there are image, number"
    assert tree.near("zzz", []) == ": there are none"
