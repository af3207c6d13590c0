"""An archiver's place among events: which streams it hears, and what it was given.

It knows consumer groups and selectors. It must not know what becomes of an event (`ledger` notes that), nor files.
Invariants:

1. An event that was taken stays pending in Redis until it is acknowledged: whoever comes after a crash is given it
   again, marked as `again`.
2. Events of a source come in order, those first that were given before.
3. An event that its emitter wrote twice, after an outcome that it did not learn, is given once.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from shareddata import cbor
from shareddata.errors import DecodeError, ServerRefused, ServerTimeout, ServerUnreachable
from shareddata.eventstream import Entry, EventStream, entry_of
from shareddata.memory import SharedMemory
from shareddata.names import check_log_name, check_name
from shareddata.wire import pack, transaction

_CONSUMER = "archiver"  # one for all processes of a name: what one had taken is there for the next
_BLOCK = 1.0  # seconds, or half of the time-out
_LOOK = 0.5  # seconds after which new sources are looked for
_STALE = 60.0  # seconds after which what another process of this name has taken is taken over
_RECENT = 10_000  # tokens of each stream among which a repeated one is looked for


class Event(NamedTuple):
    """An event that was given to an archiver."""

    stream: EventStream
    entry: Entry
    again: bool
    """Whether it may have been given before, and was not acknowledged."""

    @property
    def identity(self) -> str:
        """What notes call it."""
        return f"{self.stream.source}:{self.stream.event}:{self.entry.id}"

    @property
    def emitted(self) -> int:
        """When it was emitted, by the server's clock: milliseconds since 1970."""
        return int(self.entry.id.partition("-")[0])

    @property
    def metadata(self) -> dict[str, Any]:
        """What it is about.

        Raises:
            DecodeError: another program wrote it.
        """
        found = decoded(self.entry.metadata, str(self))
        if not isinstance(found, dict):
            raise DecodeError(f"{self}: its metadata are {str(found):.60}, expected a dictionary: who wrote it?")
        return found

    def __str__(self) -> str:
        return f"{self.stream}, event {self.entry.id}"


def decoded(data: bytes | memoryview, what: str) -> Any:
    """Return what bytes of CBOR hold.

    Raises:
        DecodeError: nothing.
    """
    try:
        return cbor.decode(data)
    except ValueError as error:
        raise DecodeError(f"{what}: {error}: who wrote it?") from None


@cache
def _pattern(selector: str) -> re.Pattern[str]:
    """Return the expression of a selector: `*` and `?` stay between slashes, `**` stands for any number of parts."""
    parts = re.split(r"(\*\*/?|/\*\*$|\*|\?|\[[^]]+\])", selector)
    words = {"**/": "(?:.*/)?", "**": ".*", "/**": "(?:/.*)?", "*": "[^/]*", "?": "[^/]"}
    text = "".join(words.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts)
    return re.compile(text.replace("[!", "[^"))


def is_literal(selector: str) -> bool:
    """Tell whether a selector names one source."""
    return not re.search(r"[*?\[]", selector)


def check(name: str, selector: str, event: str) -> None:
    """Check the names that an archiver is given.

    Raises:
        DescriptionError: one has characters that names don't have.
    """
    check_log_name(name, "archiver")
    check_name(event, "event")
    if is_literal(selector):
        check_log_name(selector, "source")


def selects(selector: str, source: str) -> bool:
    """Tell whether a selector selects a source.

    >>> selects("cam-*", "cam-1"), selects("*", "lab/cam-1"), selects("**", "lab/cam-1"), selects("lab/**", "lab")
    (True, False, True, True)
    """
    return bool(_pattern(selector).fullmatch(source))


class Subscription:
    """Gives an archiver its events, in each source's order. It has its own connection and belongs to one thread.

    Args:
        shm: the shared memory.
        name: the archiver's: one that was away goes on where it was.
        selector: a source's name, or a pattern with `*`, `?`, `[...]`, `**`.
        event: the event's name.
        since: where it begins the first time: 0 with what is kept, None from now on, or seconds since 1970.

    Attributes:
        repeated: how many events were left out because their emitter had written them twice.
    """

    def __init__(self, shm: SharedMemory, name: str, selector: str, event: str, since: float | None = 0) -> None:
        check(name, selector, event)
        self.name = name
        self._shm, self._selector, self._event, self._since = shm, selector, event, since
        self._connection = shm.connect(f"archiver {name}")
        self._block = min(_BLOCK, shm.timeout / 2)
        self.streams: dict[bytes, EventStream] = {}
        self._taken: set[str] = set()
        self._recent: dict[bytes, OrderedDict[bytes, str]] = {}
        self._opened = -1
        self._looked, self._checked = 0.0, time.monotonic()
        self._unsure = True
        self._began = False
        self.repeated = 0

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def begin(self) -> None:
        """Take part: from now on nothing is dropped that this archiver has not acknowledged.

        Redis: SMEMBERS; XINFO GROUPS, MULTI, XGROUP CREATE, INCR, EXEC for each stream.
        """
        self._connection.open()
        self.look()
        self._began = True

    def clock(self) -> int:
        """Return the server's clock in milliseconds since 1970.

        Redis: TIME, once for each connection.
        """
        return self._connection.clock()

    def done(self, event: Event) -> None:
        """Say that an event was acknowledged, or is to be given again."""
        self._taken.discard(event.identity)

    def take(self, count: int, wait: float) -> list[Event]:
        """Return events that were not given yet, those first that were given before a crash.

        While the server is away there are none.

        Args:
            count: how many at most, of each source.
            wait: seconds to wait for the first, a second at most.

        Redis: XREADGROUP; every half second SMEMBERS.
        """
        try:
            self._connection.open(min(wait, _BLOCK))
            self._connection.settle()
            if self._connection.opened != self._opened:
                self.look()
                self._unsure, self._opened = True, self._connection.opened
            elif time.monotonic() - self._looked > _LOOK:
                self.look()
            if time.monotonic() - self._checked > _STALE:
                self._unsure, self._checked = self._unsure or self._is_stale(), time.monotonic()
            if self._unsure and (found := self._pending(count)):
                return found
            return self._new(count, wait)
        except (ServerUnreachable, ServerTimeout):
            self._unsure = True  # what the server gave, and did not arrive, is pending there
            time.sleep(min(wait, 0.05))
            return []
        except ServerRefused as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise
            self.look()  # the server lost its data, or somebody removed the group
            return []

    def _new(self, count: int, wait: float) -> list[Event]:
        if not self.streams:
            self._connection.wait(min(wait, 0.1))
            return []
        answer = self._read([*self.streams], count, ">", max(1, int(1000 * min(wait, self._block))))
        return [event for key, entries in answer.items() for event in self._events(key, entries, again=False)]

    def _pending(self, count: int) -> list[Event]:
        """Return what was given earlier and is not acknowledged; what this process has in hand is left out."""
        found: list[Event] = []
        for key, stream in self.streams.items():
            last = "0"
            while len(found) < count and (entries := self._read([stream.key], count, last).get(key)):
                found += self._events(key, entries, again=True)
                last = entries[-1][0].decode()
        self._unsure = len(found) >= count
        return found

    def _is_stale(self) -> bool:
        """Tell whether another process of this name took something long ago and has not acknowledged it.

        Redis: XPENDING for each stream.
        """
        for stream in self.streams.values():
            idle = ("IDLE", int(_STALE * 1000), "-", "+", 1000)
            for identity, *_ in self._connection.ask("XPENDING", stream.key, self.name, *idle):
                if f"{stream.source}:{stream.event}:{identity.decode()}" not in self._taken:
                    return True
        return False

    def _read(
        self, keys: Sequence[str | bytes], count: int, since: str, block: int = 1
    ) -> Mapping[bytes, Sequence[Any]]:
        answer: Mapping[bytes, Sequence[Any]] | None = self._connection.call(
            *("XREADGROUP", "GROUP", self.name, _CONSUMER, "COUNT", count, "BLOCK", block),
            *("STREAMS", *keys, *[since] * len(keys)),
        )
        return answer or {}

    def _events(self, key: bytes, entries: Iterable[Any], again: bool) -> list[Event]:
        stream, recent = self.streams[key], self._recent.setdefault(key, OrderedDict())
        found = []
        for identity, fields in entries:
            event = Event(stream, entry_of(identity, fields or ()), again)
            if event.identity in self._taken:
                continue
            first = recent.setdefault(event.entry.token, event.entry.id)
            if not fields or first != event.entry.id:  # trimmed by force, or written twice
                self.repeated += bool(fields)
                self._connection.call("XACK", stream.key, self.name, identity)
                continue
            if len(recent) > _RECENT:
                recent.popitem(last=False)
            self._taken.add(event.identity)
            found.append(event)
        return found

    # -- which streams --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Take part in the streams that are there and selected.

        Redis: SMEMBERS; XINFO GROUPS, MULTI, XGROUP CREATE, INCR, EXEC for each new stream.
        """
        if is_literal(self._selector):
            sources = [self._selector]
        else:
            members = (member.decode().rpartition(":") for member in self._connection.ask("SMEMBERS", self._registry))
            sources = sorted(s for s, _, e in members if e == self._event and selects(self._selector, s))
        anew = self._connection.opened != self._opened
        for source in sources:
            stream = EventStream(self._shm, source, self._event)
            if stream.key.encode() not in self.streams or anew:
                self._join(stream)
                self.streams.setdefault(stream.key.encode(), stream)
        self._looked = time.monotonic()

    @property
    def _registry(self) -> str:
        return self._shm.keys.events()

    def _join(self, stream: EventStream) -> None:
        if any(group.name == self.name for group in stream.groups(self._connection)):
            return
        start = "0" if self._began or self._since == 0 else "$"
        if not self._began and self._since:
            start = f"{max(0, int(self._since * 1000) - 1)}-18446744073709551615"
        commands = [pack("XGROUP", "CREATE", stream.key, self.name, start, "MKSTREAM"), pack("INCR", stream.turn)]
        try:
            self._connection.transact(transaction(commands), [str(stream)] * 2)
        except ServerRefused as error:
            if "BUSYGROUP" not in str(error):  # another process of this name was quicker
                raise
