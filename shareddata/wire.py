"""Commands as bytes and replies as values: the pure half of the data path.

It knows RESP, the layout of a record in Redis and how a flush and a read of a group are spelt. It must not know
sockets or time. Invariants:

1. What can be prepared when a record is declared is prepared then: a flush joins prepared bytes and one body of values.
2. One body serves both the hash (HSET) and the history (XADD): they never differ.
3. Reads name their fields (HMGET) in the description's order; the order of HGETALL is never relied on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from shareddata.codec import Buffer, decoder, encoder, numpy
from shareddata.datadesc import Field, Record
from shareddata.errors import DecodeError, DescriptionError, FieldError
from shareddata.names import Names

_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"


def pack(*args: str | bytes | int | float) -> bytes:
    r"""Return a command as bytes.

    >>> pack("GET", "shareddata:epoch")
    b'*2\r\n$3\r\nGET\r\n$16\r\nshareddata:epoch\r\n'
    """
    return b"*%d\r\n" % len(args) + b"".join(bulk(a if isinstance(a, str | bytes) else repr(a)) for a in args)


def spread(words: Sequence[str | bytes | int], values: Mapping[str, Sequence[Buffer]]) -> list[Buffer]:
    r"""Return a command of words, names and values, each value in pieces that are not copied.

    >>> spread(["HSET", "k"], {"f": [b"a", b"bc"]})
    [b'*4\r\n$4\r\nHSET\r\n$1\r\nk\r\n', b'$1\r\nf\r\n$3\r\n', b'a', b'bc', b'\r\n']
    """
    found: list[Buffer] = [head(len(words) + 2 * len(values), *map(_word, words))]
    for name, value in values.items():
        found += (bulk(name) + b"$%d\r\n" % sum(map(len, value)), *value, b"\r\n")
    return found


def _word(word: str | bytes | int) -> str | bytes:
    return word if isinstance(word, str | bytes) else repr(word)


def transaction(commands: Sequence[bytes]) -> bytes:
    """Return commands in one MULTI/EXEC."""
    return b"".join((_MULTI, *commands, _EXEC))


def pieces(commands: Sequence[Buffer]) -> list[Buffer]:
    """Do as `transaction`, without copying: of commands that hold large values, each in one piece or in several."""
    return [_MULTI, *commands, _EXEC]


def question(commands: Sequence[bytes]) -> bytes:
    """Return commands that change nothing so that all are answered as of one moment; a single one is by itself."""
    return commands[0] if len(commands) == 1 else transaction(commands)


@lru_cache(256)
def queued(commands: int) -> bytes:
    """Return what a server answers to MULTI and to each of its commands, before EXEC's own answer."""
    return b"+OK\r\n" + b"+QUEUED\r\n" * commands


def bulk(text: str | bytes) -> bytes:
    """Return one argument of a command."""
    data = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%b\r\n" % (len(data), data)


def head(arguments: int, *parts: str | bytes) -> bytes:
    r"""Return the beginning of a command of so many arguments, the command's name among them.

    >>> head(3, "XREAD", "STREAMS")
    b'*3\r\n$5\r\nXREAD\r\n$7\r\nSTREAMS\r\n'
    """
    return b"*%d\r\n" % arguments + b"".join(map(bulk, parts))


_NO_SUCH_VALUE = (TypeError, ValueError, KeyError, ArithmeticError, AttributeError)  # of None or of other bytes

_PLAIN: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


_LENGTHS = tuple(f"${length}\r\n" for length in range(1000))
"""What stands before a text, by its length; a longer one is packed by itself."""

_BOOLS = ("$5\r\nfalse", "$4\r\ntrue")
_TEXTS = {  # by type: a value in an f-string, with its length before it
    float: "{{lengths[len(t{i}:=repr(v{i}))]}}{{t{i}}}",
    int: "{{lengths[len(t{i}:=repr(v{i}))]}}{{t{i}}}",
    bool: "{{bools[v{i}]}}",
    str: "{{lengths[len(v{i})]}}{{v{i}}}",
}


@lru_cache(1024)
def _filler(types: tuple[type, ...]) -> Callable[..., Callable[..., str]]:
    """Return what makes a function that puts values of these types into a record's body, given what is before each.

    It is made for the types, so that nothing is looped over, no list is made and no length printed: for ten fields 2.9
    us instead of the 3.8 of a %-template, and half of what a loop takes in a program that writes a few hundred times a
    second, with cold caches. Nothing of a description is in the text that is evaluated.
    """
    numbers = range(len(types))
    values, heads = (", ".join(f"{letter}{i}" for i in numbers) for letter in "vh")
    body = "".join(f"{{h{i}}}" + _TEXTS[kind].format(i=i) for i, kind in enumerate(types))
    made: Callable[..., Callable[..., str]] = eval(
        f"lambda lengths, bools, {heads}: lambda {values}: f'{body}\\r\\n'"
    )
    return made


@lru_cache(1024)
def _maker(count: int) -> Callable[..., Callable[..., Any]]:
    """Return what makes a function that makes a trame of so many values, given class and converters: see `_filler`."""
    values, converters = (", ".join(f"{letter}{i}" for i in range(count)) for letter in "vc")
    converted = "".join(f"c{i}(v{i}), " for i in range(count))
    made: Callable[..., Callable[..., Any]] = eval(
        f"lambda new, trame, {converters}: lambda {values}: new(trame, ({converted}))"
    )
    return made


class Layout:
    """A record's bytes, prepared when it is declared.

    Args:
        record: its description.
        names: the keys of its namespace.
        added: fields that the program which writes does not know; they are written with their defaults.

    Raises:
        DescriptionError: when the record has arrays and numpy is missing.

    Redis: none.
    """

    __slots__ = (
        *("record", "key", "hset", "hmget", "xadd", "history_key", "has_history", "history", "span", "refused"),
        *("_encoders", "_template", "_types", "_fill"),
        *("_decoders", "_make", "_fields", "tail"),
    )

    def __init__(self, record: Record, names: Names, added: Sequence[Field] = ()) -> None:
        self.record = record
        self.key = names.record(record.name)
        self.history_key = names.history(record.name)
        self.has_history = bool(record.history)
        self.history = f"history of record {record.name}"
        self.span = record.history_span
        self.refused = tuple((i, f) for i, f in record.limited if f.on_limit == "refuse")
        fields = [f.name for f in record.fields]
        try:
            self._encoders = tuple(encoder(*f.kind) for f in record.fields)
            self._decoders = tuple(decoder(*f.kind) for f in record.fields)
            self.tail = b"".join(bulk(f.name) + bulk(encoder(*f.kind)(_default(f))) for f in added)
        except ModuleNotFoundError as error:
            raise DescriptionError(f"record {record.name}: {error}") from None
        self._make: Callable[..., Any] | None = None  # made at the first value: who initialises needs none
        self._fields = [name.encode() for name in fields]
        self._template = b"".join(bulk(name) + b"$%d\r\n%s\r\n" for name in fields)
        self._types = [_PLAIN.get(f.type) for f in record.fields]
        self._fill = self._prepare_filler(fields)
        arguments = 2 * (len(fields) + len(added))
        self.hset = head(2 + arguments, "HSET", self.key)
        self.hmget = head(2 + len(fields), "HMGET", self.key) + b"".join(map(bulk, fields))
        self.xadd = self._prepare_history(arguments)

    def __str__(self) -> str:
        return f"record {self.record.name}"

    def _prepare_filler(self, fields: Sequence[str]) -> Callable[..., str] | None:
        if None in self._types:  # a type that is packed by itself
            return None
        first, *others = (bulk(name).decode() for name in fields)
        heads = [first, *(f"\r\n{other}" for other in others)]
        return _filler(tuple(self._types))(_LENGTHS, _BOOLS, *heads)

    def _prepare_history(self, arguments: int) -> bytes:
        """Return the XADD before the body; of a history bounded by time, a template that takes the oldest id."""
        if not self.record.history:
            return b""
        begin = head(6 + arguments, "XADD", self.history_key)
        if self.span:
            return begin.replace(b"%", b"%%") + bulk("MINID") + bulk("~") + b"%b" + bulk("*")
        return begin + b"".join(map(bulk, ("MAXLEN", "~", str(self.record.history), "*")))

    def pack(self, values: Sequence[Any]) -> bytes:
        """Check values and return the body of HSET and XADD: names and values, one after the other.

        Args:
            values: one for each field, in order, ts and sender too.

        Raises:
            FieldError: naming record, field, value, and the type and unit that were expected.
        """
        if [*map(type, values)] == self._types:  # the usual case: each value has exactly the described type
            try:
                text = self._fill(*values)  # type: ignore[misc]
            except (ValueError, IndexError):
                return self._pack_each(values)  # an integer of too many digits, a long text
            if text.isascii():
                return text.encode() + self.tail
        return self._pack_each(values)

    def _pack_each(self, values: Sequence[Any]) -> bytes:
        parts: list[int | bytes] = []
        try:
            for encode, value in zip(self._encoders, values):
                text = encode(value)
                parts += (len(text), text)
        except (TypeError, ValueError) as error:
            raise self._refusal(len(parts) // 2, value, error) from None
        return self._template % tuple(parts) + self.tail

    def encode(self, values: Iterable[Any]) -> list[bytes]:
        """Return each field's value as it is written in Redis."""
        return [encode(value) for encode, value in zip(self._encoders, values)]

    def _refusal(self, position: int, value: Any, error: Exception) -> FieldError:
        field = self.record.fields[position]
        reason = f" ({error})" if str(error) else ""
        return FieldError(
            f"record {self.record.name}, field {field.name!r}: {shown(value)} is {type(value).__name__}, "
            f"expected {field.type_text()}{reason}"
        )

    def described_as(self, record: Record, names: Names) -> "Layout":
        """Return the layout under a newer description: the same fields, and new ones with their defaults."""
        known = {f.name for f in self.record.fields}
        added = tuple(f for f in record.fields if f.name not in known)
        return Layout(replace(record, fields=tuple(record.field(f.name) for f in self.record.fields)), names, added)

    def under(self, then: Record, names: Names) -> "Layout":
        """Return the layout that reads what was written under another description into trames of this one."""
        before = {field.name: field for field in then.fields}
        fields = tuple(
            replace(field, type=was.type, dtype=was.dtype, shape=was.shape, default=was.default)
            if (was := before.get(field.name, field)).kind != field.kind
            else field
            for field in self.record.fields
        )
        layout = Layout(replace(self.record, fields=fields), names)
        layout._prepare_maker(self.record)
        return layout

    def defaults(self) -> list[Any]:
        """Return the value of each field of a record that was never written."""
        return [_default(field) for field in self.record.fields]

    def xadd_since(self, now: int) -> bytes:
        """Return the XADD before the body, of a history bounded by time.

        Args:
            now: the server's clock in milliseconds.
        """
        return self.xadd % bulk(str(max(0, now - int((self.span or 0) * 1000))))

    def restamp(self, body: bytes, ts: float) -> bytes:
        """Return a body with another time; the other values stay as they were encoded."""
        name = bulk("ts")
        end = body.index(b"\r\n", body.index(b"\r\n", len(name)) + 2) + 2
        try:
            return name + bulk(self._encoders[0](ts)) + body[end:]
        except (TypeError, ValueError) as error:
            raise self._refusal(0, ts, error) from None

    def expiry(self, seconds: float | None) -> bytes:
        """Return the command that lets the record expire, or keeps it for good (None)."""
        if seconds is None:
            return pack("PERSIST", self.key)
        return pack("PEXPIRE", self.key, max(1, round(seconds * 1000)))

    def decode(self, reply: Sequence[bytes | None], entry: str = "") -> Any:
        """Return the trame that an HMGET answered, None for a record that is not there or was never written.

        A record whose sender is empty was described and never written when the description says `["sender", ""]`.

        Args:
            reply: the values, one for each field.
            entry: for messages: the id of the history's entry that they are from.

        Raises:
            DecodeError: naming record, field and what was found.
        """
        try:
            trame = (self._make or self._prepare_maker())(*reply)
        except _NO_SUCH_VALUE:
            if not any(value is not None for value in reply):
                return None
            raise self._damage(reply, entry) from None
        return trame if trame[1] else None

    def _prepare_maker(self, record: Record | None = None) -> Callable[..., Any]:
        trame = (record or self.record).trame
        self._make = make = _maker(len(self._decoders))(tuple.__new__, trame, *self._decoders)
        return make

    def _damage(self, reply: Sequence[bytes | None], entry: str) -> DecodeError:
        field, value = self._first_damaged(reply)
        found = "nothing" if value is None else repr(value if len(value) <= 60 else value[:57] + b"...")
        key, look = self.key, f"hgetall '{self.key}'"
        if entry:
            key, look = self.history_key, f"xrange '{self.history_key}' {entry} {entry}"
        where = f"record {self.record.name}{f', entry {entry}' if entry else ''}, field {field.name!r}"
        return DecodeError(
            f"{where}: found {found} in the key {key}, expected {field.type_text()}: another program wrote it; "
            f"see who with `redis-cli {look}`"
        )

    def _first_damaged(self, reply: Sequence[bytes | None]) -> tuple[Field, bytes | None]:
        for position, convert in enumerate(self._decoders):
            try:
                convert(reply[position])  # type: ignore[arg-type]
            except _NO_SUCH_VALUE:
                break
        return self.record.fields[position], reply[position]

    def decode_entry(self, fields: Sequence[bytes], identity: str) -> Any:
        """Return the trame that an entry of the record's history holds: names and values, one after the other.

        Fields that were described after the entry was written have their default.

        Raises:
            DecodeError: naming record, entry, field and what was found.
        """
        if fields[::2] == self._fields and fields[3]:
            return self.decode(fields[1::2], identity)
        values = dict(zip(fields[::2], fields[1::2]))
        row = [values.get(field.name.encode()) for field in self.record.fields]
        if None in row[:2] or not row[1]:
            raise DecodeError(
                f"record {self.record.name}, entry {identity} of the key {self.history_key}: found {str(values):.60}, "
                "expected a trame with ts and sender: another program wrote it"
            )
        if None in row:
            row = [default if value is None else value for value, default in zip(row, self.encode(self.defaults()))]
        return self.decode(row, identity)


def shown(value: Any) -> str:
    """Return a value for a message: its repr, shortened; whatever it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  a value's own __repr__ may raise anything, an int of 5000 digits does
        return "a value that cannot be shown"
    return text if len(text) <= 60 else text[:57] + "..."


def _default(field: Field) -> Any:
    if field.dtype and not isinstance(field.default, list):
        return numpy().full(field.shape, field.default, field.dtype)
    return field.default


class Group:
    """The read of some records as of one moment: a request that never changes.

    Redis: MULTI, HMGET for each record, EXEC; for a single record HMGET, atomic by itself.
    """

    __slots__ = ("layouts", "request", "mutable")

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.layouts = tuple(layouts)
        self.mutable = any(f.type in ("list", "object", "any") for layout in layouts for f in layout.record.fields)
        self.request = question([layout.hmget for layout in self.layouts])

    def decode(self, replies: Sequence[Sequence[bytes | None]]) -> list[Any]:
        """Return the group's trames in the order of declaration."""
        return [layout.decode(reply) for layout, reply in zip(self.layouts, replies)]
