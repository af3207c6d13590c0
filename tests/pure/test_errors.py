"""The exceptions are the tree that is drawn at the head of their module: nothing missing, nothing else."""

import builtins
import inspect
import pickle
import re

import pytest

import shareddata
from shareddata import errors

CLASSES = {name: thing for name, thing in vars(errors).items() if inspect.isclass(thing)}


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Return the tree in the docstring: name -> (the class above, the built-in in brackets)."""
    found: dict[str, tuple[str | None, str | None]] = {}
    path: list[tuple[int, str]] = []
    line = r"^ {4}( *)([A-Z]\w+)(?: \((\w+)\))?(?:  .*)?$"
    for indent, name, built_in in re.findall(line, errors.__doc__ or "", re.MULTILINE):
        while path and path[-1][0] >= len(indent):
            path.pop()
        found[name] = (path[-1][1] if path else None, built_in or None)
        path.append((len(indent), name))
    return found


def test_every_exception_is_drawn() -> None:
    assert set(drawn()) == set(CLASSES)


@pytest.mark.parametrize(("name", "above", "built_in"), [(name, *rest) for name, rest in drawn().items()])
def test_the_tree_is_as_drawn(name: str, above: str | None, built_in: str | None) -> None:
    expected = [getattr(errors, above)] if above else [Exception]
    expected += [getattr(builtins, built_in)] if built_in else []
    assert list(CLASSES[name].__bases__) == expected


@pytest.mark.parametrize("name", CLASSES)
def test_public_documented_and_no_built_in(name: str) -> None:
    assert getattr(shareddata, name) is CLASSES[name]
    assert CLASSES[name].__doc__
    assert not hasattr(builtins, name)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_one_except_catches_all_and_the_message_stays(kind: type[Exception]) -> None:
    with pytest.raises(errors.SharedDataError, match="^what, where, remedy$"):
        raise kind("what, where, remedy")


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if issubclass(kind, errors.ServerError)])
def test_outcome_unknown_survives_a_process_border(kind: type[errors.ServerError], unknown: bool) -> None:
    error = pickle.loads(pickle.dumps(kind("silent", outcome_unknown=unknown)))
    assert (type(error), str(error), error.outcome_unknown) == (kind, "silent", unknown)
    assert kind("silent").outcome_unknown is False
