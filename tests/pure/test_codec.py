"""Values of each type survive writing and reading, type and all; nothing else is taken, and nothing else is raised."""

import datetime
import decimal
import enum
import fractions
import json
import math
import struct
from collections import OrderedDict, UserDict, UserList, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shareddata import codec
from shareddata.datadesc import DTYPES

SCALARS = ("float", "int", "bool", "str", "list", "object", "any")
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (2, 3), (2, 1, 3))

TEXTS = st.text(max_size=50)
BIG = st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**4299, -(10**4299), 10**4300 - 1])
INTS = st.integers() | BIG
FLOATS = st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=15,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float": FLOATS,
    "int": INTS,
    "bool": st.booleans(),
    "str": TEXTS,
    "list": st.lists(JSON, max_size=4),
    "object": st.dictionaries(TEXTS, JSON, max_size=4),
    "any": JSON,
}


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same, type and sign of zero and all; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.isnan(one) and math.isnan(other) or struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def refusal(function: Any, value: Any) -> type[BaseException] | None:
    """Return which exception a function raises, None when it returns."""
    try:
        function(value)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        return type(error)
    return None


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCALARS)
@given(data=st.data())
def test_round_trip(kind: str, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    written = codec.encoder(kind)(value)
    assert type(written) is bytes
    written.decode("utf-8")
    assert same(codec.decoder(kind)(written), value)


@pytest.mark.parametrize("kind", ["list", "object", "any"])
@given(data=st.data())
def test_json_is_what_others_read(kind: str, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    assert same(json.loads(codec.encoder(kind)(value).decode()), value)


@pytest.mark.parametrize("length", [0, 1, 1_000_000])
@pytest.mark.parametrize("character", ["a", "é", "\U0001f6a4", "\0", "\r\n", '"', "\\", "\u2028", "\ufeff", "\uffff"])
def test_texts_of_any_length(character: str, length: int) -> None:
    text = character * length
    assert codec.decoder("str")(codec.encoder("str")(text)) == text
    assert codec.decoder("any")(codec.encoder("any")(text)) == text


WRITTEN = [
    ("float", 0.1, b"0.1"),
    ("float", -0.0, b"-0.0"),
    ("float", 1e22, b"1e+22"),
    ("float", 5e-324, b"5e-324"),
    ("float", math.nan, b"nan"),
    ("float", -math.inf, b"-inf"),
    ("float", math.inf, b"inf"),
    ("float", 3, b"3.0"),
    ("float", 2**53 + 1, b"9007199254740992.0"),
    ("int", 0, b"0"),
    ("int", -7, b"-7"),
    ("int", 2**64, b"18446744073709551616"),
    ("bool", True, b"true"),
    ("bool", False, b"false"),
    ("str", "", b""),
    ("str", "42", b"42"),
    ("str", "é", b"\xc3\xa9"),
    ("list", [], b"[]"),
    ("list", (1, 2.0), b"[1,2.0]"),
    ("object", {"a": None}, b'{"a":null}'),
    ("any", "é", b'"\xc3\xa9"'),
    ("any", [math.nan, math.inf, -math.inf, -0.0], b"[NaN,Infinity,-Infinity,-0.0]"),
    ("any", None, b"null"),
    ("any", True, b"true"),
    ("any", {"b": 1, "a": {}}, b'{"b":1,"a":{}}'),
    ("any", "\0\n", b'"\\u0000\\n"'),
]


@pytest.mark.parametrize(("kind", "value", "written"), WRITTEN)
def test_how_it_is_written(kind: str, value: object, written: bytes) -> None:
    assert codec.encoder(kind)(value) == written


class Speed(enum.IntEnum):
    SLOW = 1


class Text(str):
    __slots__ = ()


class Number(float):
    __slots__ = ()

    def __repr__(self) -> str:
        return "Number()"


SUBCLASSES = [
    ("int", Speed.SLOW, b"1"),
    ("float", Speed.SLOW, b"1.0"),
    ("str", Text("a"), b"a"),
    ("float", Number(0.5), b"0.5"),
    ("any", [Speed.SLOW, Number(0.5), Text("a")], b'[1,0.5,"a"]'),
    ("list", namedtuple("P", "x")(1), b"[1]"),
    ("object", OrderedDict(a=1), b'{"a":1}'),
    ("any", {Text("a"): 1}, b'{"a":1}'),
]


@pytest.mark.parametrize(("kind", "value", "written"), SUBCLASSES)
def test_subclasses_count_as_what_they_are(kind: str, value: object, written: bytes) -> None:
    assert codec.encoder(kind)(value) == written


# -- numpy's scalars --------------------------------------------------------------------------------------------------

NUMPY = [
    *((np.dtype(dtype).type(1.5), 1.5) for dtype in ("f2", "f4", "f8")),
    *((np.dtype(dtype).type(100), 100) for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")),
    (np.float32(0.1), 0.10000000149011612),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.bool_(True), True),
    (np.str_("é"), "é"),
    (np.float64("-inf"), -math.inf),
    (np.float16("nan"), math.nan),
]


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize(("value", "plain"), NUMPY, ids=lambda value: f"{type(value).__name__}-{value}")
def test_numpy_scalars_count_as_their_python_type(kind: str, value: object, plain: object) -> None:
    def outcome(given: object) -> object:
        try:
            return codec.encoder(kind)(given)
        except TypeError:
            return TypeError

    assert outcome(value) == outcome(plain)
    assert codec.encoder("any")([value, {"a": value}]) == codec.encoder("any")([plain, {"a": plain}])


# -- what is refused --------------------------------------------------------------------------------------------------

DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
ROUND: dict[str, Any] = {}
ROUND["round"] = [ROUND]


class Rude:
    def __getattr__(self, name: str) -> object:
        raise AttributeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __bool__(self) -> bool:
        raise RuntimeError("no")


STRANGERS: list[Any] = [
    object(), object, Rude(), len, lambda: 1, json, b"", b"1", bytearray(b"1"), memoryview(b"1"), 1j, {1}, frozenset(),
    range(3), iter([1]), (i for i in [1]), decimal.Decimal("1.5"), fractions.Fraction(1, 2), datetime.datetime.now(),
    datetime.timedelta(1), UserDict(a=1), UserList([1]), {1: 2}, {None: 1}, {("a",): 1}, {b"a": 1}, [object()], [{1}],
    [b""], {"a": [1j]}, "\ud800", ["\udfff"], {"\ud800": 1}, DEEP, {"a": DEEP}, ENDLESS, ROUND, 10**4300, -(10**4300),
    10**400, [10**4300], NotImplemented, ..., type, Ellipsis, np, np.longdouble(1), np.clongdouble(1), np.complex64(1),
    np.bytes_(b"1"), np.datetime64("2020-01-01"), np.datetime64("NaT"), np.datetime64("2020-01-01T00", "ns"),
    np.timedelta64(5, "ns"), np.void(b"1"), np.array([1, 2]), np.array([]), np.array([None]),
    np.array(None, dtype=object), np.array(["a"]), [np.array([1])], np.zeros(1, "i4,f4")[0], np.ma.masked, np.float64,
    np.dtype("f4"), math.nan, None, True, 0, 0.0, "", [], {}, (),
]  # fmt: skip

ENCODERS = {kind: codec.encoder(kind) for kind in SCALARS}
ENCODERS |= {
    f"{dtype} {shape}": codec.encoder("array", dtype, shape) for dtype in DTYPES for shape in ((), (1,), (2, 2))
}


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_encode_raises_only_what_it_says(encode: codec.Encoder) -> None:
    for stranger in STRANGERS:
        raised = refusal(encode, stranger)
        assert raised is None or issubclass(raised, TypeError | ValueError), type(stranger)


TAKEN = {
    "float": (float, int),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "list": (list, tuple),
    "object": (dict,),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_no_other_type_is_taken(kind: str) -> None:
    for stranger in STRANGERS:
        if isinstance(stranger, TAKEN[kind]) and (kind == "bool" or not isinstance(stranger, bool)):
            continue
        assert refusal(codec.encoder(kind), stranger) is TypeError, type(stranger)


REFUSED = [
    ("float", 10**400, "^the integer is too large for a float$"),
    ("int", 10**4300, r"limit \(4300 digits\)"),
    ("int", -(10**4300), r"limit \(4300"),
    ("any", 10**4300, r"limit \(4300"),
    ("list", [10**4300], r"limit \(4300"),
    ("str", "a\ud800", "surrogates not allowed"),
    ("any", "\ud800", "surrogates not allowed"),
    ("list", ["\udfff"], "surrogates"),
    ("object", {"\ud800": 1}, "surrogates"),
    ("list", DEEP, "^the value is nested too deeply$"),
    ("list", ENDLESS, "nested too deeply"),
    ("object", ROUND, "nested too deeply"),
    ("any", DEEP, "nested too deeply"),
]


@pytest.mark.parametrize(("kind", "value", "reason"), REFUSED, ids=[f"{k}-{i}" for i, (k, *_) in enumerate(REFUSED)])
def test_right_type_that_cannot_be_written(kind: str, value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        codec.encoder(kind)(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "^JSON has no object$"),
        ([1, {"a": b""}], "^JSON has no bytes$"),
        ({1: 2}, "^the key 1 of an object must be a str$"),
        ([np.array([1])], "^JSON has no ndarray$"),
        ({"a": {1}}, "^JSON has no set$"),
    ],
)
def test_what_json_cannot_hold_is_named(value: object, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        codec.encode_any(value)


# -- reading what others wrote ----------------------------------------------------------------------------------------

DECODERS = {kind: codec.decoder(kind) for kind in SCALARS}
DECODERS |= {f"{dtype} {shape}": codec.decoder("array", dtype, shape) for dtype in DTYPES for shape in ((), (2, 2))}
HOSTILE = [
    b"", b" ", b"-", b"+", b".", b"e", b"nan ", b"[" * 100_000, b'{"a":' * 100_000, b"[" * 400 + b"]" * 400,
    b"9" * 4301, b"-" + b"9" * 5000, b"[" + b"9" * 5000 + b"]", b"1e999999999", b"\xff\xfe1\x00", b"\xef\xbb\xbf1",
    b"\x005", b"\xed\xa0\x80", b'"\xed\xa0\x80"', b'"\\ud800"', b"\xff" * 16, b"\x02" * 16, b"\x00" * 16,
    b"\xf5\x80\x80\x80", b"null", b"True", b"1" * 1_000_000, b'{"a":1,"a":2}', b"[1,]", b"{'a':1}", b"// 1",
]  # fmt: skip


def check_decoders(data: bytes) -> None:
    for name, decode in DECODERS.items():
        raised = refusal(decode, data)
        assert raised is None or issubclass(raised, ValueError | TypeError | KeyError), name


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data)[:20])
def test_decode_hostile_bytes_raises_only_what_it_says(data: bytes) -> None:
    check_decoders(data)


@given(st.binary(max_size=40) | st.text('0123456789.-+eEnaif_ \n[]{}",:tru', max_size=20).map(str.encode))
@example(b"\xd9\xa3")
def test_decode_any_bytes_raises_only_what_it_says(data: bytes) -> None:
    check_decoders(data)


FOREIGN = [
    ("float", b"5", 5.0),
    ("float", b"-5", -5.0),
    ("float", b"+5", 5.0),
    ("float", b"1e-3", 0.001),
    ("float", b"1E5", 1e5),
    ("float", b".5", 0.5),
    ("float", b"5.", 5.0),
    ("float", b"NaN", math.nan),
    ("float", b"-nan", math.nan),
    ("float", b"Infinity", math.inf),
    ("float", b"-inf", -math.inf),
    ("float", b"+INF", math.inf),
    ("float", b"1e400", math.inf),
    ("float", b"9" * 5000, math.inf),
    ("float", b"0.1000000000000000055", 0.1),
    ("float", b"1_000", 1000.0),
    ("float", b" 5\n", 5.0),
    ("int", b"007", 7),
    ("int", b"-0", 0),
    ("any", b" [1, 2] ", [1, 2]),
    ("any", b"1e400", math.inf),
    ("any", b'"\\u00e9"', "é"),
    ("any", b"[1.0,1]", [1.0, 1]),
    ("object", b'{ "a" : 1 }', {"a": 1}),
    ("str", b" 5 ", " 5 "),
    ("str", b"\xef\xbb\xbfa", "\ufeffa"),
]


@pytest.mark.parametrize(("kind", "data", "value"), FOREIGN, ids=lambda value: repr(value)[:25])
def test_what_other_programs_write(kind: str, data: bytes, value: object) -> None:
    assert same(codec.decoder(kind)(data), value)


ARABIC_THREE = "٣".encode()
NO_NUMBER = [b"", b" ", b"-", b"--5", b"0x10", b"1e", b"1,5", b"5 V", b"5\0", b"\x005", ARABIC_THREE, b"_1", b"1__0"]
NO_INT = [*NO_NUMBER, b"1_000", b" 5 ", b"5\n", b"\t5", b"5.0", b"1e3", b"nan", b"inf", b"true", b"+5", b"9" * 4301]
NO_JSON = [
    b"", b"nan", b"'a'", b"{1:2}", b"[1", b"\xff", b"tru", b'"\xed\xa0\x80"', "[1]".encode("utf-16-le"),
    "[1]".encode("utf-32"), "[1]".encode("utf-8-sig"), b"[" * 100_000, b'"\n"',
]  # fmt: skip
DAMAGED = [
    *(("float", data) for data in NO_NUMBER),
    *(("int", data) for data in NO_INT),
    *((kind, data) for kind in ("list", "object", "any") for data in NO_JSON),
    *(("bool", data) for data in [b"", b"True", b"TRUE", b"1", b"0", b" true", b"yes", b"\xff"]),
    *(("str", data) for data in [b"\xff", b"\xed\xa0\x80", b"a\xc3", b"\xc0\x80", b"\xf5\x80\x80\x80"]),
    *(("list", data) for data in [b"{}", b"1", b"null", b'"a"', b"true"]),
    *(("object", data) for data in [b"[]", b"1", b"null", b'"a"', b"NaN"]),
]


@pytest.mark.parametrize(("kind", "data"), DAMAGED, ids=lambda value: ascii(value)[:25])
def test_no_such_value(kind: str, data: bytes) -> None:
    raised = refusal(codec.decoder(kind), data)
    assert raised is not None and issubclass(raised, ValueError | TypeError | KeyError)


# -- arrays -----------------------------------------------------------------------------------------------------------


def arrays(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Return arrays of any bits, so with every kind of NaN; a bool's byte is 0 or 1."""
    size = np.dtype(dtype).itemsize * math.prod(shape)
    bits = st.binary(min_size=size, max_size=size)
    if dtype == "|b1":
        return bits.map(lambda data: (np.frombuffer(data, "u1") % 2).astype(bool).reshape(shape))
    return bits.map(lambda data: np.frombuffer(data, dtype).reshape(shape))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=30)
@given(data=st.data(), shape=st.sampled_from(SHAPES))
def test_array_round_trip(dtype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    value = data.draw(arrays(dtype, shape))
    written = codec.encoder("array", dtype, shape)(value)
    assert written == value.tobytes()
    back = codec.decoder("array", dtype, shape)(written)
    assert (back.dtype.str, back.shape) == (dtype, shape)
    assert back.tobytes() == value.tobytes(), "the very bits, a NaN's payload too"
    assert not back.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=10)
@given(data=st.data())
def test_array_of_any_layout_in_memory(dtype: str, data: st.DataObject) -> None:
    shape = (4, 6)
    value = data.draw(arrays(dtype, shape))
    encode = codec.encoder("array", dtype, (2, 3))
    for view in (value[::2, ::2], value[1::2, ::-2], np.asfortranarray(value[:2, :3]), value.T[:2, :3], value[:2, 3:]):
        assert encode(view) == np.ascontiguousarray(view).tobytes()
        swapped = view.astype(view.dtype.newbyteorder(">"))
        if view.dtype.kind in "biu" or np.isfinite(view).all():
            assert encode(swapped) == np.ascontiguousarray(view).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_from_nested_lists(dtype: str) -> None:
    nested = [[True, False, True], [False, True, True]] if dtype == "|b1" else [[0, 1, 2], [3, 4, 100]]
    encode, decode = codec.encoder("array", dtype, (2, 3)), codec.decoder("array", dtype, (2, 3))
    assert decode(encode(nested)).tolist() == nested
    assert encode(tuple(map(tuple, nested))) == encode(np.array(nested, dtype))


CASTS = [
    ("<f4", np.array([1, 2], "i4"), [1.0, 2.0]),
    ("<f8", [1, 2], [1.0, 2.0]),
    ("<f4", [0.1, 1e-300], [np.float32(0.1).item(), 0.0]),
    ("<i2", [1, -2], [1, -2]),
    ("|u1", np.array([255, 0], "i8"), [255, 0]),
    ("<i8", np.array([1, 2], "u8"), [1, 2]),
    ("<u8", [1, 2**64 - 1], [1, 2**64 - 1]),
    ("<u8", [2**63, 0], [2**63, 0]),
    ("<i8", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
    ("<c8", [1, 2.5], [1 + 0j, 2.5 + 0j]),
    ("<c16", np.array([1j, 2], "c8"), [1j, 2 + 0j]),
    ("<f2", [65504, -0.0], [65504.0, -0.0]),
    ("<f4", [math.inf, -math.inf], [math.inf, -math.inf]),
    ("<f8", np.array([1, 2], ">f4"), [1.0, 2.0]),
    ("<f8", np.array([1, 2], np.longdouble), [1.0, 2.0]),
    ("|i1", np.array([-128, 127], ">i8"), [-128, 127]),
]


@pytest.mark.parametrize(("dtype", "value", "expected"), CASTS, ids=lambda value: repr(value)[:30])
def test_array_of_another_dtype_that_fits(dtype: str, value: Any, expected: list[Any]) -> None:
    assert codec.decoder("array", dtype, (2,))(codec.encoder("array", dtype, (2,))(value)).tolist() == expected


OTHERS = [
    ("<f4", [1e39, 0], ValueError, "^an element is too large for the type$"),
    ("<f2", [65520.0, 0], ValueError, "too large"),
    ("<f2", np.array([2**63, 0], "u8"), ValueError, "too large"),
    ("<c8", [1e39j, 0], ValueError, "too large"),
    ("<c8", [complex(1e300, math.nan), 0], ValueError, "too large"),
    ("|u1", [256, 0], ValueError, "too large"),
    ("|u1", [-1, 0], ValueError, "too large"),
    ("<i8", np.array([2**63, 0], "u8"), ValueError, "too large"),
    ("<u8", np.array([-1, 0], "i8"), ValueError, "too large"),
    ("<i4", [2**31, 0], ValueError, "too large"),
    ("<i8", [2**63, 0], ValueError, "too large"),
    ("<i4", [1.0, 2.0], TypeError, "^its elements are float64$"),
    ("<i4", [True, False], TypeError, "^its elements are bool$"),
    ("|b1", [0, 1], TypeError, "^its elements are int64$"),
    ("<f4", [1j, 2], TypeError, "^its elements are complex128$"),
    ("<f8", ["1", "2"], TypeError, "^its elements are <U1$"),
    ("<f8", [None, 1], TypeError, "^its elements are object$"),
    ("<f8", [b"1", b"2"], TypeError, r"^its elements are \|S1$"),
    ("<i8", np.array([1, 2], "M8[s]"), TypeError, "^its elements are datetime64"),
    ("<f8", np.zeros(2, "f4,i4"), TypeError, "^its elements are"),
    ("<f8", [1.0], ValueError, r"^its shape is \(1,\)$"),
    ("<f8", [[1.0, 2.0]], ValueError, r"^its shape is \(1, 2\)$"),
    ("<f8", 1.0, ValueError, r"^its shape is \(\)$"),
    ("<f8", [[1.0], [2.0, 3.0]], ValueError, "inhomogeneous"),
    ("<f8", [], ValueError, r"^its shape is \(0,\)$"),
]


@pytest.mark.parametrize(("dtype", "value", "error", "reason"), OTHERS, ids=lambda value: repr(value)[:30])
def test_array_that_does_not_fit(dtype: str, value: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        codec.encoder("array", dtype, (2,))(value)


def test_masked_arrays_are_refused() -> None:
    with pytest.raises((TypeError, ValueError), match="mask"):
        codec.encoder("array", "<f8", (2,))(np.ma.masked_array([1.0, 2.0], [0, 1]))


def test_what_numpy_was_told_about_errors_does_not_matter() -> None:
    with np.errstate(all="raise"):
        assert codec.encoder("array", "<f4", (2,))([1e-300, math.nan])[:4] == b"\0\0\0\0"
        with pytest.raises(ValueError, match="too large"):
            codec.encoder("array", "<f4", (2,))([1e300, math.nan])


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_of_other_bytes(dtype: str) -> None:
    size = np.dtype(dtype).itemsize
    for length in (0, 1, size - 1, 5 * size, 6 * size + 1, 7 * size):
        with pytest.raises(ValueError, match="buffer|reshape"):
            codec.decoder("array", dtype, (2, 3))(bytes(length))


def test_bool_arrays_hold_zeros_and_ones_only() -> None:
    assert codec.decoder("array", "|b1", (3,))(b"\0\1\1").tolist() == [False, True, True]
    assert refusal(codec.decoder("array", "|b1", (3,)), b"\0\1\2") is ValueError


def test_a_large_array_is_not_copied() -> None:
    data = bytes(2_000_000)
    assert np.shares_memory(codec.decoder("array", "|u1", (1000, 2000))(data), np.frombuffer(data, "u1"))


# -- the tables -------------------------------------------------------------------------------------------------------


def test_each_type_has_both_directions() -> None:
    for kind in codec.TYPES:
        dtype, shape = ("<f4", (2,)) if kind == "array" else (None, ())
        value = {"float": 0.5, "int": 1, "bool": True, "str": "a", "object": {}, "any": None}.get(kind, [1.0, 2.0])
        written = codec.encoder(kind, dtype, shape)(value)
        back = codec.decoder(kind, dtype, shape)(written)
        assert (back.tolist() if dtype else back) == value


def test_without_numpy_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'shareddata\[arrays\]'"):
        codec.encoder("array", "<f4", (2,))
    assert codec.encoder("float")(1.0) == b"1.0"
