"""Who writes a log: what a token says, and from which number on records are another writer's."""

import json

from hypothesis import given
from hypothesis import strategies as st

from shareddata.logwriter import newer, parted, token, writers


def after(before: bytes | None, first: int) -> bytes:
    """Return the token of a writer that took over from another."""
    return token(writers(before), first)


def test_a_token_names_the_program() -> None:
    found = json.loads(token([], 1))
    assert set(found) == {"program", "host", "pid", "since", "writers"}
    assert [first for _, first in found["writers"]] == [1]


def test_a_token_remembers_who_was_before() -> None:
    one = after(None, 1)
    two = after(one, 10)
    assert [first for _, first in writers(two)] == [10, 1]
    assert writers(two)[1:] == writers(one)
    assert newer(one, two) == writers(two)[:1] and newer(two, one) == newer(two, two) == newer(two, None) == []
    assert parted(one, two) == 10 and parted(two, one) is None and parted(two, None) is None


def test_a_claim_without_a_number_parts_nothing_and_is_not_handed_on() -> None:
    one = after(None, 1)
    claim = after(one, 0)
    assert newer(one, claim) and parted(one, claim) is None
    assert [first for _, first in writers(after(claim, 5))] == [5, 1]


def test_a_log_that_was_begun_anew_parts_at_its_beginning() -> None:
    old = after(after(None, 1), 50)
    assert parted(old, after(None, 1)) == 1
    assert parted(old, after(after(None, 1), 7)) == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=25), st.data())
def test_the_first_number_that_is_another_s(lengths: list[int], data: st.DataObject) -> None:
    """Writers take over from one another; at some of the times the log is cut back first.

    A reader that knows one of the tokens, and has read all there was then, must go back exactly to the first number
    that was given anew since.
    """
    log: list[int] = []  # which writer gave each number
    held: bytes | None = None
    cuts: list[tuple[bytes, list[int]]] = []
    known: tuple[bytes | None, list[int]] = (None, [])
    for writer, length in enumerate(lengths):
        if cuts and data.draw(st.booleans()):  # the power goes: the server has an older token and fewer records
            held, there = data.draw(st.sampled_from(cuts))
            log = there[: data.draw(st.integers(0, len(there)))] if data.draw(st.booleans()) else list(there)
            cuts = [cut for cut in cuts if len(cut[1]) <= len(log)]
            if held is not None and len(log) + 1 < writers(held)[0][1]:
                held, log, cuts = None, [], []  # without its first record a token is gone too
        held = after(held, len(log) + 1)
        log = [*log, *[writer] * length]
        cuts.append((held, list(log)))
        if data.draw(st.booleans()):
            known = held, list(log)
    had = known[1]
    same = next((i for i, (a, b) in enumerate(zip(had, log)) if a != b), min(len(had), len(log)))
    first = parted(known[0], held)
    if first is not None and first <= len(had):
        assert first == same + 1
    else:
        assert same == len(had), "nothing that the reader had is another's now"
