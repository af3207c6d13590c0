"""Keys: how they are spelt, that none meets another, and what is refused as a name."""

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shareddata.errors import DescriptionError
from shareddata.names import FORMAT_VERSION, Names, check_name, key_of_channel

ALPHABET = "ABCXYZabcxyz0189_.-"
NAME = st.text(ALPHABET, min_size=1, max_size=12)
NAMESPACE = st.just("") | NAME


@pytest.mark.parametrize(
    ("namespace", "prefix"), [("", ""), ("usv1", "{usv1}:"), ("a.b-c_D", "{a.b-c_D}:")], ids=["none", "usv1", "odd"]
)
def test_spelling(namespace: str, prefix: str) -> None:
    names = Names(namespace)
    assert names.record("BATTERY__measures") == prefix + "BATTERY__measures"
    assert names.history("BATTERY__measures") == prefix + "BATTERY__measures:history"
    assert names.fifo("COMMANDS") == prefix + "fifo:COMMANDS"
    assert names.flag("SPARTAN_INIT") == prefix + "SPARTAN_INIT"
    assert names.datadesc == prefix + "shareddata:datadesc"
    assert names.format == prefix + "shareddata:format"
    assert names.epoch == prefix + "shareddata:epoch"
    assert FORMAT_VERSION == 1


@pytest.mark.parametrize("name", ["A", "BATTERY__measures", "0", "a.b-c_D", ".", "-", "class", "x" * 10_000])
def test_good_name(name: str) -> None:
    assert check_name(name) == name
    assert Names(name).namespace == name


BAD = ["a b", "a:b", "a{b}", "é", "٣", "a\n", "\na", "a/b", "a*", "a%b", "a\0", "\ud800", "'", None, 5, b"A", ["A"]]


@pytest.mark.parametrize("what", ["record", "queue"])
@pytest.mark.parametrize("name", ["", *BAD], ids=ascii)
def test_bad_name(name: object, what: str) -> None:
    with pytest.raises(DescriptionError, match=rf"^{what} name {re.escape(repr(name))}: use letters, digits, '_'"):
        check_name(name, what)  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", [bad for bad in BAD if bad], ids=ascii)
def test_bad_namespace(namespace: str) -> None:
    with pytest.raises(DescriptionError, match="^namespace name .*: use letters"):
        Names(namespace)


def keys(namespace: str, name: str) -> list[str]:
    names = Names(namespace)
    own = [names.datadesc, names.format, names.epoch]
    return [names.record(name), names.history(name), names.fifo(name), *own]


@given(NAMESPACE, NAME, NAMESPACE, NAME)
def test_no_key_meets_another(space: str, name: str, other_space: str, other: str) -> None:
    assume((space, name) != (other_space, other))
    mine, theirs = keys(space, name), keys(other_space, other)
    assert len(set(mine)) == len(mine)
    shared = set(mine) & set(theirs)
    assert shared <= (set(mine[3:]) if space == other_space else set()) | ({mine[0]} if name == other else set())
    assert not (space != other_space and shared), "two namespaces share nothing"


@given(NAMESPACE, NAME)
def test_one_namespace_is_one_slot(space: str, name: str) -> None:
    if space:
        assert all(re.match(r"[^{]*\{([^}]+)\}", key)[1] == space for key in keys(space, name))  # type: ignore[index]


@given(NAMESPACE, NAME)
def test_record_of_is_the_way_back(space: str, name: str) -> None:
    names = Names(space)
    assert names.record_of(names.record(name)) == name
    assert [names.record_of(key) for key in keys(space, name)[1:]] == [None] * 5
    if space:
        assert names.record_of(name) is None


@given(NAMESPACE, st.text())
def test_record_of_any_key(space: str, key: str) -> None:
    names = Names(space)
    found = names.record_of(key)
    assert found is None or names.record(check_name(found)) == key


@given(st.text(), st.integers(0, 15))
def test_channel_and_back(key: str, database: int) -> None:
    channel = Names().channel(key, database)
    assert channel == f"__keyspace@{database}__:{key}"
    assert key_of_channel(channel.encode()) == key.encode()


@pytest.mark.parametrize(
    ("namespace", "glob", "pattern"),
    [
        ("", "BATTERY__*", "__keyspace@0__:BATTERY__*"),
        ("usv1", "*", "__keyspace@0__:{usv1}:*"),
        ("a-b.c", "P?", "__keyspace@0__:{a-b.c}:P?"),
    ],
)
def test_channel_pattern(namespace: str, glob: str, pattern: str) -> None:
    assert Names(namespace).channel_pattern(glob, 0) == pattern


@given(NAMESPACE, NAME, NAME)
def test_channel_pattern_hears_what_the_glob_means(space: str, name: str, start: str) -> None:
    names = Names(space)
    pattern = names.channel_pattern(start + "*", 3)
    assert fnmatchcase(names.channel(names.record(name), 3), pattern) == name.startswith(start)
