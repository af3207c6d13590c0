"""Writing a record from a browser: what a request names, how it is written, what is said when somebody else writes it.

It knows requests and fields; it must not know who may write (`pageguard`), or pages. Invariants:

1. What does not fit the description changes nothing.
2. A record that has an owner is its program's: nobody takes it over from a browser.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shareddata.codec import decoder, numpy
from shareddata.datadesc import Field, Record
from shareddata.datadict import DataDict
from shareddata.errors import FieldError
from shareddata.memory import SharedMemory
from shareddata.pagefeed import NAME
from shareddata.table import View

_MOST_BODY = 1 << 20  # bytes of a request
_BODY_WITHIN = 10.0  # seconds


def write(shm: SharedMemory, name: str, sender: str, values: Mapping[str, Any]) -> View:
    """Write a record and return what was written.

    Raises:
        WriterConflict: it has an owner, whose program runs.

    Redis: as `DataDict.set_datas_to_write` and `flush`.
    """
    with DataDict(NAME, shm) as dd:
        (data,) = dd.set_datas_to_write([name])
        data.set(**values, sender=sender)
        dd.flush()
        record = shm.describe(name)
        return View(record, record.trame._make(map(_as_array, record.fields, data.values)))


def _as_array(field: Field, value: Any) -> Any:
    return numpy().asarray(value, field.dtype) if field.dtype else value


def held(request: Request, error: Exception) -> Response:
    """Answer that somebody else writes a record; what a program could do about it is no advice for a browser."""
    who = str(error).partition(": run one copy only")[0]
    return JSONResponse({"error": f"{who}: nothing was written"}, 409)


def given_in(body: bytes, kind: str) -> dict[str, Any]:
    """Return the fields that a request names: of a JSON object, or of a form."""
    try:
        if not kind.startswith("application/json"):
            return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FieldError(f"the request holds no fields: {error}: send field=value, or a JSON object") from None
    if not isinstance(given, dict) or not isinstance(given.get("sender", ""), str):
        raise FieldError("the request holds no JSON object of fields, with a text as sender")
    return given


def value_of(field: Field, given: Any) -> Any:
    """Return the value that a text stands for; what has a type already is left for `set` to check."""
    if not isinstance(given, str) or field.type == "str":
        return given
    try:
        return json.loads(given) if field.dtype else decoder(field.type)(given.encode())
    except (ValueError, KeyError, TypeError):
        raise FieldError(f"field {field.name!r}: {given!r} is no {field.type_text()}: nothing was written") from None


def field_of(record: Record, name: str) -> Field:
    """Return a field of a record.

    Raises:
        FieldError: it has none of this name.
    """
    try:
        return record.field(name)
    except KeyError:
        there = ", ".join(field.name for field in record.fields)
        raise FieldError(f"record {record.name} has no field {name!r}: it has {there}") from None


async def body_of(request: Request) -> bytes:
    """Return what a request holds; too much of it is refused, and what does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_WITHIN):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MOST_BODY:
                    raise HTTPException(413, f"The request is larger than {_MOST_BODY} bytes.")
    except TimeoutError:
        raise HTTPException(408, f"The request did not come within {_BODY_WITHIN:g} s.") from None
    return bytes(body)
