"""A client of the shared memory that knows redis-py and the page docs/reference/wire-format.md, and nothing else of us.

It must not import shareddata. `python plain_client.py redis://localhost:6379 NAME` prints a record.
"""

import json
import sys
from typing import Any

import numpy as np
import redis


class PlainClient:
    """Read and write records. Close the connection that was given yourself."""

    def __init__(self, connection: redis.Redis, namespace: str = "") -> None:
        self.redis = connection
        self.prefix = f"{{{namespace}}}:" if namespace else ""
        if int(connection.get(self.prefix + "shareddata:format") or 0) > 1:
            raise SystemExit("a newer format")
        stored = connection.hgetall(self.prefix + "shareddata:datadesc")
        self.records = {name.decode(): json.loads(text) for name, text in stored.items()}

    def describe(self, name: str, description: dict[str, Any], flag: str = "READY") -> None:
        """Initialise a record."""
        pipe = self.redis.pipeline()
        pipe.delete(self.prefix + name)
        pipe.hset(self.prefix + name, mapping={f[0]: encode(f, f[1]) for f in description["fields"]})
        pipe.hset(self.prefix + "shareddata:datadesc", name, json.dumps(description, ensure_ascii=False))
        pipe.set(self.prefix + "shareddata:format", 1)
        pipe.incr(self.prefix + "shareddata:epoch")
        pipe.set(self.prefix + flag, "OK")
        pipe.execute()
        self.records[name] = description

    def read(self, name: str) -> list[Any] | None:
        """Return a record's values in the description's order, None for none."""
        fields = self.records[name]["fields"]
        found = self.redis.hmget(self.prefix + name, [f[0] for f in fields])
        if all(value is None for value in found) or found[1] == b"":
            return None
        return [decode(f, value) for f, value in zip(fields, found)]

    def history(self, name: str) -> list[list[Any]]:
        """Return the values of each entry of a record's history."""
        fields = self.records[name]["fields"]
        entries = self.redis.xrange(f"{self.prefix}{name}:history")
        return [[decode(f, entry.get(f[0].encode(), encode(f, f[1]))) for f in fields] for _, entry in entries]

    def write(self, name: str, values: list[Any]) -> None:
        """Write a record and its history in one transaction."""
        description = self.records[name]
        body = {f[0]: encode(f, value) for f, value in zip(description["fields"], values)}
        has_arrays = any(len(f) > 2 and "dtype" in f[2] for f in description["fields"])
        history = description.get("history", 0 if has_arrays else 256)
        pipe = self.redis.pipeline()
        pipe.hset(self.prefix + name, mapping=body)
        if isinstance(history, str):
            now = self.redis.time()[0] * 1000
            span = float(history[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[history[-1]]
            pipe.xadd(f"{self.prefix}{name}:history", body, minid=int(now - span * 1000))
        elif history:
            pipe.xadd(f"{self.prefix}{name}:history", body, maxlen=history)
        pipe.persist(self.prefix + name)
        pipe.execute()


def encode(field: list[Any], value: Any) -> bytes:
    """Write a value as its field's type wants it."""
    default, options = field[1], field[2] if len(field) > 2 else {}
    if "dtype" in options:
        return np.ascontiguousarray(np.broadcast_to(np.array(value, options["dtype"]), options["shape"])).tobytes()
    if isinstance(default, bool):
        return b"true" if value else b"false"
    if isinstance(default, (int, float)):
        return repr(type(default)(value)).encode()
    if isinstance(default, str):
        return str(value).encode()
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def decode(field: list[Any], text: bytes) -> Any:
    """Read a value as its field's type says."""
    default, options = field[1], field[2] if len(field) > 2 else {}
    if "dtype" in options:
        return np.frombuffer(text, options["dtype"]).reshape(options["shape"]).tolist()
    if isinstance(default, bool):
        return text == b"true"
    if isinstance(default, (int, float)):
        return type(default)(text)
    return text.decode() if isinstance(default, str) else json.loads(text.decode())


if __name__ == "__main__":
    with redis.Redis.from_url(sys.argv[1]) as link:
        client = PlainClient(link)
        for described, shown in zip(client.records[sys.argv[2]]["fields"], client.read(sys.argv[2]) or []):
            print(described[0], shown)
