"""CBOR with arrays: bytes as the standards say them, round trips, and what is refused."""

import math
import struct
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shareddata import cbor

DTYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?"]


def encoded(value: Any) -> bytes:
    return b"".join(cbor.encode(value))


def same(one: Any, other: Any) -> bool:
    """Tell whether values are equal, of the same types and dtypes too; NaN equals NaN."""
    if isinstance(other, np.ndarray):
        return (
            isinstance(one, np.ndarray)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and np.array_equal(one, other, equal_nan=other.dtype.kind == "f")
        )
    if type(one) is not type(other):
        return False
    if isinstance(other, float):
        return struct.pack("d", one) == struct.pack("d", other) or (math.isnan(one) and math.isnan(other))
    if isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in other)
    return bool(one == other)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
typed = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
)
values = st.recursive(
    scalars | typed, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


@given(values)
def test_what_is_written_is_read(value: Any) -> None:
    assert same(cbor.decode(encoded(value)), value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        # Appendix A of RFC 8949
        (1000, "1903e8"),
        (-100, "3863"),
        (1.1, "fb3ff199999999999a"),
        (None, "f6"),
        (True, "f5"),
        (18446744073709551616, "c249010000000000000000"),
        ("\u00fc", "62c3bc"),
        (b"\x01\x02\x03\x04", "4401020304"),
        ([1, [2, 3]], "8201820203"),
        ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
        # RFC 8746: the example of section 3.1.1 with little-endian elements, and one dimension
        (np.array([[2, 4, 8], [4, 16, 256]], "u2"), "d82882820203d8454c020004000800040010000001"),
        (np.array([1, -1], "i1"), "d8484201ff"),
        (np.array([1.5], "f8"), "d85648000000000000f83f"),
        (np.array([True, False]), "d82882810282f5f4"),
    ],
)
def test_bytes_are_the_standards(value: Any, data: str) -> None:
    assert encoded(value).hex() == data
    assert same(cbor.decode(bytes.fromhex(data)), value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        # section 3.1.1 of RFC 8746: big-endian
        ("d82882820203d8414c000200040008000400100100", np.array([[2, 4, 8], [4, 16, 256]], "u2")),
        # its section 3.2: a classical array, and a homogeneous one
        ("d82882820203860204080410190100", np.array([[2, 4, 8], [4, 16, 256]], "i8")),
        # column-major
        ("d9041082820203d8454c020004000400100008000001", np.array([[2, 4, 8], [4, 16, 256]], "u2")),
        ("d8298201f5", [1, True]),
        ("d84443000102", np.array([0, 1, 2], "u1")),  # clamped: what the original writes for bytes
        ("d8424400000001", np.array([1], "u4")),
        ("d843480000000000000001", np.array([1], "u8")),
        ("d84942fffe", np.array([-2], "i2")),
        ("d84a44fffffffe", np.array([-2], "i4")),
        ("d84b48fffffffffffffffe", np.array([-2], "i8")),
        ("d850423c00", np.array([1], "f2")),
        ("d851443f800000", np.array([1], "f4")),
        ("d852483ff0000000000000", np.array([1], "f8")),
        ("81d840420102", [np.array([1, 2], "u1")]),
        ("d90040430102ff", np.array([1, 2, 255], "u1")),  # a longer head than need be
        ("d8405f4101410 2ff".replace(" ", ""), np.array([1, 2], "u1")),  # bytes of indefinite length
    ],
)
def test_what_others_write_is_read(data: str, value: Any) -> None:
    found = cbor.decode(bytes.fromhex(data))
    assert same(found, value)
    if isinstance(found, np.ndarray):
        assert found.dtype.isnative


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_in_any_order_of_bytes_and_elements(dtype: str) -> None:
    array = (np.arange(24) % 7).reshape(2, 3, 4).astype(dtype)
    for value in (array, array.T, array[:, ::2], array[::-1], np.asfortranarray(array), array[0, 0]):
        assert same(cbor.decode(encoded(value)), value)
        assert same(cbor.decode(encoded([value]))[0], value)
    swapped = array.astype(array.dtype.newbyteorder(">"))
    assert same(cbor.decode(encoded(swapped)), array)
    assert same(cbor.decode(encoded({"a": swapped})), {"a": array})


def test_numpys_scalars_are_numbers() -> None:
    assert same(cbor.decode(encoded([np.float32(1.5), np.int64(-3), np.bool_(True), np.array(7)])), [1.5, -3, True, 7])
    assert same(cbor.decode(encoded(np.float64(2.5))), 2.5)


def test_a_big_array_is_not_copied() -> None:
    array = np.arange(3_000_000, dtype="u2").reshape(1000, 3000)
    head, data = cbor.encode(array)
    assert np.shares_memory(np.frombuffer(data, "u1"), array) and len(head) < 20
    whole = bytes(head) + bytes(data)
    found = cbor.decode(memoryview(whole))
    assert np.shares_memory(found, np.frombuffer(whole, "u1")) and same(found, array)
    assert not found.flags.writeable


def test_bytes_are_not_copied_either_when_they_are_written() -> None:
    data = bytes(100_000)
    parts = cbor.encode(data)
    assert isinstance(parts[1], memoryview) and parts[1].obj is data
    assert cbor.decode(b"".join(parts)) == data
    assert cbor.decode(encoded(bytearray(b"ab"))) == cbor.decode(encoded(memoryview(b"ab"))) == b"ab"


def test_other_programs_read_what_is_written() -> None:
    """With cbor2 alone: tags 40 and 69."""
    tag = cbor2.loads(encoded(np.array([[1, 2]], "u2")))
    assert (tag.tag, list(tag.value[0]), tag.value[1].tag, tag.value[1].value) == (40, [1, 2], 69, b"\1\0\2\0")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "object cannot be written as CBOR"),
        ([1, {"a": object()}], "object cannot be written"),
        (np.zeros(2, "f16"), r"array of float128 cannot be written.*astype\('f8'\)"),
        ([np.zeros(2, "f16")], "array of float128"),
        (np.zeros(2, "c8"), "array of complex64"),
        (np.array(["a"]), "array of <U1"),
        (np.array([None]), "array of object"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.longdouble(1), "longdouble cannot be written"),
        (np.ma.array([1, 2], mask=[0, 1]), "its mask would be lost"),
        ("\ud800", "surrogates"),
    ],
)
def test_what_cannot_be_written_is_refused(value: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        cbor.encode(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="cyclic"):
        cbor.encode(endless)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "no CBOR: premature end"),
        ("5f", "no CBOR: premature end"),
        ("ff", "no CBOR: break code"),
        ("62c328", "no CBOR"),
        ("d85343000102", "tag 83, an array of 128-bit floats"),
        ("d85750" + 16 * "00", "tag 87, an array of 128-bit floats"),
        ("d84543000102", "3 bytes are no whole number of elements of 2"),
        ("d82882820203d84042ffff", "an array of dimensions 2 x 3 with 2 elements"),
        ("81d82882820203d84042ffff", "an array of dimensions 2 x 3 with 2 elements"),
        ("d8402a", "tag 64, a typed array, has no bytes but int"),
        ("d82881820203", "tag 40, an array, is no list of dimensions and elements"),
        ("d828828120d8404101", "an array of dimensions -1"),
        ("d828828116" + "d8404101", "dimensions 22 with 1 element"),
        ("d82882" + "9841" + 65 * "01" + "d8404101", "an array of dimensions 1 x 1"),
        ("9b7fffffffffffffff", "no CBOR"),
    ],
)
def test_what_cannot_be_read_is_refused(data: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cbor.decode(bytes.fromhex(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    for each in (data, b"\xd8\x28\x82" + data, b"\xd8\x45" + data):
        try:
            cbor.decode(each)
        except ValueError:
            pass  # refused; anything else that is raised fails the test


def test_unknown_tags_stay() -> None:
    assert cbor.decode(encoded(cbor2.CBORTag(4711, "x"))) == cbor2.CBORTag(4711, "x")
