"""A record as bytes for those who carry bytes: struct, with the names known to both sides.

It knows the record of the workload and nothing of who carries it.
"""

import struct
import time

from workload import SENDER, Trame

_record = struct.Struct("<d16s8d")
_sender = SENDER.encode()
SIZE = _record.size


def pack(values: tuple[float, ...]) -> bytes:
    """Return a record's bytes, with the time of now."""
    return _record.pack(time.time(), _sender, *values)


def unpack(data: bytes, offset: int = 0) -> Trame:
    """Return the record that bytes hold."""
    ts, sender, *values = _record.unpack_from(data, offset)
    return Trame(ts, sender.rstrip(b"\0").decode(), *values)
