"""Rows of CSV files as bytes, and their cells as values.

It knows how a row is spelt, and the two ways in which cells are written: a recording's hold exactly the text that is in
Redis (arrays in base64), a CSV log's what Python's csv makes of values. It must not know sockets, nor whose files they
are. Invariants:

1. `rows` yields whole rows only: what a killed program left at the end of a file is not read.
2. A recording's cells are bytes in and the same bytes out; nothing is decoded or rounded on the way.
3. Types that nobody described are guessed of all cells of a column, never of the first ones.
"""

import ast
import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from shareddata.codec import decoder, numpy
from shareddata.datadesc import Field

Converter = Callable[[bytes], Any]

_QUOTED = re.compile(rb'[",\r\n]')
_CELL = re.compile(rb'(?:"((?:[^"]|"")*)"|([^,]*))(?:,|$)', re.DOTALL)
_BOOLS = {b"True": True, b"False": False, b"true": True, b"false": False}


def row(cells: Iterable[bytes]) -> bytes:
    r"""Return a row of a file.

    >>> row([b"1-0", b"a,b", b""])
    b'1-0,"a,b",\n'
    """
    return b",".join([_quoted(cell) if _QUOTED.search(cell) else cell for cell in cells]) + b"\n"


def _quoted(cell: bytes) -> bytes:
    return b'"' + cell.replace(b'"', b'""') + b'"'


def rows(file: BinaryIO) -> Iterator[tuple[list[bytes], int]]:
    """Yield each whole row of a file, from where it stands: its cells, and the offset behind it.

    Args:
        file: opened in binary.
    """
    end, parts, odd = file.tell(), [], False
    for piece in file:
        end += len(piece)
        parts.append(piece)
        odd ^= piece.count(b'"') % 2 == 1
        if not odd and piece.endswith(b"\n"):
            yield _split(b"".join(parts)[:-1].removesuffix(b"\r")), end
            parts = []


def _split(text: bytes) -> list[bytes]:
    if b'"' not in text:
        return text.split(b",")
    found: list[bytes] = []
    place = 0
    while place <= len(text):
        match = _CELL.match(text, place)
        if match is None:  # a quote within a cell that does not begin with one
            return [*found, *text[place:].split(b",")]
        found.append(match[2] if match[1] is None else match[1].replace(b'""', b'"'))
        place = match.end() + (match.end() == len(text) and not match[0].endswith(b","))
    return found


def filled(field: Field) -> Any:
    """Return a field's default as a value: of arrays an array."""
    return numpy().full(field.shape, field.default, field.dtype) if field.dtype else field.default


# -- cells of recordings --------------------------------------------------------------------------------------------


def as_recorded(field: Field) -> Converter:
    """Return the function that makes a value of a recording's cell; it raises what `codec`'s decoders raise."""
    decode = decoder(*field.kind)
    return (lambda cell: decode(_bytes(cell))) if field.dtype else decode


def recorded(field: Field | None, text: bytes) -> bytes:
    """Return the cell for what is in Redis."""
    return base64.b64encode(text) if field is not None and field.dtype else text


def _bytes(cell: bytes) -> bytes:
    try:
        return base64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


# -- cells of CSV logs ----------------------------------------------------------------------------------------------


def as_logged(field: Field) -> Converter:
    """Return the function that makes a value of a CSV log's cell; it raises ValueError, TypeError or KeyError."""
    if field.dtype:
        return lambda cell: numpy().array(literal(cell), dtype=field.dtype).reshape(field.shape)
    return _LOGGED[field.type]


def literal(cell: bytes) -> Any:
    """Return the value that Python writes so, or JSON; nan and inf too.

    >>> literal(b"[1, nan, -inf]")
    [1, nan, -inf]

    Raises:
        ValueError: it is neither.
    """
    text = cell.decode()
    try:
        return ast.literal_eval(_Numbers().visit(ast.parse(text.strip(), mode="eval")))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None


class _Numbers(ast.NodeTransformer):
    """Take the names nan and inf for the numbers that they stand for in a printed list."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float(node.id)) if node.id in ("nan", "inf") else node


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"no {kind.__name__}")
    return value


def _anything(cell: bytes) -> Any:
    if not cell:
        return None
    try:
        return literal(cell)
    except ValueError:
        return cell.decode()


_LOGGED: dict[str, Converter] = {
    "float": float,
    "int": int,
    "bool": _BOOLS.__getitem__,
    "str": bytes.decode,
    "list": lambda cell: _of(list, literal(cell)),
    "object": lambda cell: _of(dict, literal(cell)),
    "any": _anything,
}
_GUESSES: dict[str, Any] = {"bool": False, "int": 0, "float": 0.0, "list": [], "object": {}}
_NO_SUCH_VALUE = (ValueError, TypeError, KeyError)


def guess(columns: int, lines: Iterable[Sequence[bytes]]) -> list[Any]:
    """Return for each column the default of the narrowest type that all its cells have: a text if none fits.

    Args:
        columns: how many there are.
        lines: the cells of all rows; rows of another length are passed.

    >>> guess(3, [[b"1", b"True", b"a"], [b"2.5", b"False", b"7"]])
    [0.0, False, '']
    """
    kinds = [list(_GUESSES) for _ in range(columns)]
    empty = True
    for cells in lines:
        if len(cells) != columns:
            continue
        empty = False
        for kind, cell in zip(kinds, cells):
            while kind and not _fits(kind[0], cell):
                del kind[0]
    return ["" if empty or not kind else _GUESSES[kind[0]] for kind in kinds]


def _fits(kind: str, cell: bytes) -> bool:
    try:
        _LOGGED[kind](cell)
    except _NO_SUCH_VALUE:
        return False
    return True
