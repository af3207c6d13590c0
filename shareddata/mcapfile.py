"""MCAP files: a channel for each record with its JSON Schema, a JSON message for each row.

It knows how rows become messages that the usual viewers take. It must not know sockets, servers or where the rows come
from; mcap is imported only when a file is made. Invariants:

1. Every message is strict JSON and valid under its channel's schema.
2. A value reads back as it was given.
3. Rows are written as they come; nothing grows with their number but the file's own index.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shareddata.columns import Column, Draft, Table, base64_text, json_text, load, time_text
from shareddata.errors import FieldError

_JSON_TYPES = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}


class McapFile:
    """Tables as channels of JSON messages: `log_time` is when a row was received, `publish_time` when measured.

    The schemas use only what the usual viewers understand. A value with NaN or infinities, which JSON's numbers cannot
    be, stands under `_not_finite` instead of beside the others, as the texts "NaN", "Infinity" and "-Infinity".
    """

    def __init__(self, path: Path, tables: Sequence[Table]) -> None:
        module = load("mcap")
        self._draft = Draft(path)
        for table in tables:
            if table.published is None:
                raise FieldError(
                    f"{table.name}: MCAP wants a time for each message, and a log's records have none of their own: "
                    "say which value is it with --time, such as `--time f0:ms`"
                )
        self._file = open(self._draft.draft, "wb")  # noqa: SIM115  finish and abort close it
        self._writer = module.writer.Writer(self._file)
        self._writer.start(profile="", library=f"shareddata; mcap {module.__version__}")
        self._channels = {table.name: self._channel(table) for table in tables}
        self._counts = dict.fromkeys(self._channels, 0)

    def _channel(self, table: Table) -> int:
        properties = {column.name: _property(column) for column in table.columns if not column.own}
        schema = {"title": table.name, "description": table.doc, "type": "object", "properties": properties}
        data = json.dumps(schema, ensure_ascii=False).encode()
        identity = self._writer.register_schema(name=table.name, encoding="jsonschema", data=data)
        description = json.dumps(table.description, ensure_ascii=False)
        channel: int = self._writer.register_channel(
            topic=table.name, message_encoding="json", schema_id=identity, metadata={"shareddata": description}
        )
        return channel

    def write(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Write a message for each row."""
        assert table.published is not None
        columns = [(i, column) for i, column in enumerate(table.columns) if not column.own]
        received_at = table.published if table.received is None else table.received
        for row in rows:
            received, measured = row[received_at], row[table.published]
            if received is None or received < 0:
                at = time_text(received) or "a row without a time"
                raise FieldError(f"{table.name}: {at}: MCAP knows times from 1970 on only")
            self._counts[table.name] += 1
            self._writer.add_message(
                channel_id=self._channels[table.name],
                log_time=received,
                publish_time=received if measured is None or measured < 0 else measured,
                sequence=self._counts[table.name] & 0xFFFFFFFF,
                data=_message(columns, row),
            )

    def finish(self) -> None:
        """Write the index, and give the file its name."""
        self._writer.finish()
        self._file.close()
        self._draft.publish()

    def abort(self) -> None:
        """Remove what was written."""
        self._draft.remove()
        self._file.close()


def _property(column: Column) -> dict[str, Any]:
    """Return a column's JSON Schema."""
    doc = f"{column.doc} [{column.unit}]" if column.unit and column.doc else column.doc or column.unit
    labels = {"description": doc, "unit": column.unit}
    if column.type == "array":
        labels |= {"dtype": column.dtype, "shape": list(column.shape)}  # type: ignore[dict-item]
    labels = {name: label for name, label in labels.items() if label}
    if column.type == "array" and _as_list(column):
        return {"type": "array", "items": {"type": _JSON_TYPES[column.dtype[1]]}, **labels}
    if column.type in ("bytes", "array"):
        return {"type": "string", "contentEncoding": "base64", **labels}
    if column.type == "json":
        return {"type": "string", "contentMediaType": "application/json", **labels}
    return {"type": _JSON_TYPES[column.dtype[1]] if column.dtype else "string", **labels}


def _as_list(column: Column) -> bool:
    """Tell whether an array is a list in JSON: viewers know lists of one dimension."""
    return len(column.shape) == 1 and column.dtype[1] != "c"


def _message(columns: Sequence[tuple[int, Column]], row: Sequence[Any]) -> bytes:
    body: dict[str, Any] = {}
    other: dict[str, Any] = {}
    for i, column in columns:
        value = row[i]
        if column.type == "json":
            value = json_text(value)
        elif column.type == "bytes":
            value = base64_text(value)
        elif column.type == "array":
            value = value.tolist() if _as_list(column) else base64_text(value.tobytes())
        (body if _finite(value) else other)[column.name] = value
    if other:
        body["_not_finite"] = {name: _spelled(value) for name, value in other.items()}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _spelled(value: Any) -> Any:
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if _finite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
