"""What a program sees of a page: answers to requests, and streams of events.

It knows HTTP by the standard library and nothing of shareddata. Invariant: every stream is closed by its block, and an
answer that does not come fails within its time.
"""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit


class Answer(NamedTuple):
    """An answer: its status, its headers (names in lower case), its text."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Event(NamedTuple):
    """A server-sent event: its kind, its identity, its content."""

    kind: str
    id: str
    data: Any


def ask(url: str, method: str = "GET", form: Any = None, body: str | None = None, **headers: str) -> Answer:
    """Send one request; `form` is a dictionary, underscores in the names of headers stand for dashes."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if form is not None:
        body, sent = urlencode(form), {"Content-Type": "application/x-www-form-urlencoded"} | sent
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body, sent)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read().decode())
    finally:
        connection.close()


@contextmanager
def events(url: str, timeout: float = 10.0, **headers: str) -> Iterator[Iterator[Event]]:
    """Give the events of a stream, one after the other; the stream is closed behind the block."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(
            "GET", f"{parts.path}?{parts.query}", headers={n.replace("_", "-"): v for n, v in headers.items()}
        )
        answer = connection.getresponse()
        assert answer.status == 200, answer.read().decode()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        yield _parsed(answer)
    finally:
        connection.close()


def _parsed(lines: Any) -> Iterator[Event]:
    kind = identity = ""
    for line in lines:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            identity = value
        elif name == "data":
            yield Event(kind, identity, json.loads(value))
            kind = ""
