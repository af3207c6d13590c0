"""Formats: what was packed comes back; what does not fit is refused, and nothing is cut."""

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata.errors import FieldError, LogFormatError
from shareddata.formats import Format, rows, table

INTEGERS = {"b": 8, "h": 16, "i": 32, "l": 32, "q": 64}
WIDTHS = {"e": 16, "f": 32, "d": 64}


def values_of(character: str) -> st.SearchStrategy[Any]:
    """Return the values that one character of a format takes."""
    if character.lower() in INTEGERS:
        bits = INTEGERS[character.lower()]
        low = -(2 ** (bits - 1)) if character.islower() else 0
        return st.integers(low, low + 2**bits - 1)
    if character in WIDTHS:
        return st.floats(width=WIDTHS[character])  # type: ignore[arg-type]
    return st.booleans() if character == "?" else st.binary(min_size=1, max_size=1)


@st.composite
def formats_and_records(draw: st.DrawFn) -> tuple[str, list[tuple[Any, ...]]]:
    """Draw a format that arrays can have, and some records of it."""
    text, strategies = draw(st.sampled_from(["", "<", ">", "=", "!"])), []
    for _ in range(draw(st.integers(1, 5))):
        character = draw(st.sampled_from("bBhHiIlLqQefd?cs"))
        count = draw(st.integers(1, 4))
        text += draw(st.sampled_from(["", " "])) if text and text[-1] not in "<>=!" else ""
        text += (str(count) if count > 1 else "") + character
        if character == "s":
            strategies.append(st.binary(min_size=count, max_size=count))
        else:
            strategies += [values_of(character)] * count
    return text, draw(st.lists(st.tuples(*strategies), max_size=5))


def same(one: Any, other: Any) -> bool:
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@given(formats_and_records())
def test_values_come_back(drawn: tuple[str, list[tuple[Any, ...]]]) -> None:
    text, records = drawn
    form = Format(text)
    for record in records:
        data = form.pack(*record)
        assert len(data) == form.size
        assert all(map(same, form.unpack(data), record))


@given(formats_and_records())
def test_arrays_hold_the_same_bytes(drawn: tuple[str, list[tuple[Any, ...]]]) -> None:
    text, records = drawn
    form = Format(text)
    packed = [form.pack(*record) for record in records]
    array = table(packed, form.dtype())
    assert len(array) == len(records) and array.dtype.itemsize == form.size
    assert rows(array, form) == packed == rows(records, form)
    for record, row in zip(records, array.tolist()):
        for value, found in zip(record, row):
            assert same(value.rstrip(b"\0") if isinstance(value, bytes) else value, found)  # numpy's texts end there


@given(st.text(max_size=6))
def test_any_text_is_a_format_or_refused(text: str) -> None:
    try:
        form = Format(text)
    except LogFormatError:
        return
    assert form.size > 0
    try:
        assert form.dtype().itemsize == form.size
    except LogFormatError:
        assert set(text) & set("@xpnNP0"), "only these are in formats and not in arrays"


def test_standard_sizes_and_no_padding() -> None:
    assert Format("fQ").size == 12
    assert Format("fQ").pack(1.5, 2) == struct.pack("<fQ", 1.5, 2)
    assert Format(">H").pack(1) == b"\0\1"
    assert Format("@fQ").size == struct.calcsize("@fQ")


@pytest.mark.parametrize("text", ["", "<", "Z", "Q f f!", "3", None, 7, b"Q", "é", "0s", "99999999999999999999Q"])
def test_what_is_no_format(text: Any) -> None:
    with pytest.raises(LogFormatError, match="see Python's module struct"):
        Format(text)


@pytest.mark.parametrize(
    ("text", "values", "says"),
    [
        ("Qff", (1, 2.0), "3 items"),
        ("Q", (-1,), ""),
        ("Q", (1.5,), "integer"),
        ("H", (65536,), "65535"),
        ("f", (1e39,), "too large"),
        ("f", ("1",), "a float"),
        ("3s", (b"abcd",), "value 0 has 4 bytes, expected 3"),
        ("H2xf3s", (1, 2.0, b"abcd"), "value 2 has 4 bytes, expected 3"),
        ("4p", (b"abcd",), "value 0 has 4 bytes, expected 3"),
        ("3s", ("abc",), "bytes"),
        ("c", (b"ab",), "length 1"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, values: tuple[Any, ...], says: str) -> None:
    with pytest.raises(FieldError, match=rf"does not fit the format '{text}'.*{says}"):
        Format(text).pack(*values)


def test_numpy_scalars_are_values() -> None:
    assert Format("Qf").pack(np.uint64(5), np.float32(1.5)) == Format("Qf").pack(5, 1.5)


def test_arrays_of_other_types_are_refused() -> None:
    form = Format("Qf")
    for array in (
        np.zeros(3),
        np.zeros(3, [("a", "<u8")]),
        np.zeros(3, [("a", "<u8"), ("b", "<f8")]),
        np.zeros(3, [("a", ">u8"), ("b", "<f4")]),
    ):
        with pytest.raises(FieldError, match=r"an array of .*, expected records of .*'<f4'.* for the format 'Qf'"):
            rows(array, form)
    with pytest.raises(FieldError, match="no list of tuples"):
        rows([1, 2], form)
    with pytest.raises(FieldError, match="does not fit"):
        rows([(1, 2.0), (1, "x")], form)


def test_arrays_with_other_names_or_gaps_are_taken() -> None:
    form = Format("Qf")
    named = np.array([(1, 2.0), (3, 4.0)], [("time", "<u8"), ("value", "<f4")])
    aligned = np.array([(1, 2.0), (3, 4.0)], np.dtype([("time", "<u8"), ("value", "<f4")], align=True))
    assert aligned.itemsize == 16
    assert rows(named, form) == rows(aligned, form) == rows(named[::-1][::-1], form) == rows([(1, 2.0), (3, 4.0)], form)


def test_arrays_cannot_have_every_format() -> None:
    with pytest.raises(LogFormatError, match="native alignment"):
        Format("@Qf").dtype()
    with pytest.raises(LogFormatError, match="'2x', which arrays cannot"):
        Format("Q2x").dtype()
    assert rows([(1, 2.0)], Format("@Qf")) == [struct.pack("@Qf", 1, 2.0)]
