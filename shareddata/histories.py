"""The histories of many records, read over one connection: every entry as it is there, none left out.

It knows where each record's history stands. It must not know what entries are for. Invariants:

1. One connection and one wait in the server, however many records.
2. A page of each history at once: about so many bytes, however large the trames.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from shareddata.errors import ServerRefused, ServerTimeout, ServerUnreachable
from shareddata.memory import SharedMemory
from shareddata.place import BLOCK, PAGE, Place, block, later
from shareddata.wire import Layout, transaction

_PAGE_BYTES = 1_000_000  # of each history at once, about
_ELEMENT = 16  # bytes of a value, for that


class Histories:
    """The histories of many records, read over one connection: every entry as it is there, none left out.

    Args:
        shm: the shared memory.
        name: the program, for `CLIENT LIST`.

    Attributes:
        places: the place in each record's history, by the record's name.
        connection: the one connection.

    It belongs to one thread at a time; a context manager. What it hands out is not decoded: (id, [name, value, ...]).
    """

    def __init__(self, shm: SharedMemory, name: str = "shareddata") -> None:
        self.connection = shm.connect(name)
        self._shm = shm
        self._block = block(shm.timeout)
        self.places: dict[str, Place] = {}

    def __enter__(self) -> "Histories":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def follow(self, name: str, since: float | str | None = None, ordinal: int | None = None) -> Place:
        """Begin to read a record's history.

        Args:
            name: the record.
            since: see `Follower`.
            ordinal: when `since` is an id: how many entries the stream ever had up to there, where that is known.

        Raises:
            UnknownData: no such record.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        layout = self._shm.layout(name)
        page = max(1, min(PAGE, _PAGE_BYTES // _size(layout)))
        if isinstance(since, str) and ordinal is not None:
            place = Place(layout.history_key, layout.history, since, ordinal, page)
        else:
            place = Place(layout.history_key, layout.history, page=page)
            self.connection.open()
            place.begin(self.connection, since)
        self.places[name] = place
        return place

    def forget(self, name: str) -> None:
        """Read a record's history no more."""
        self.places.pop(name, None)

    def described_anew(self) -> bool:
        """Tell whether the records were described anew since the last call.

        Redis: GET, and HGETALL when the epoch is another one.
        """
        if not self.connection.connected or not self.connection.epoch_news:
            return False
        try:
            return self._shm.recheck(self.connection, [])
        except (ServerUnreachable, ServerTimeout):
            return False  # still to be told

    def news(self, wait: float) -> dict[str, Sequence[Any]]:
        """Return what was flushed since the last call, in each record's order; a page of each at most.

        While the server is away there is none; `missed` of the places tells afterwards what was trimmed meanwhile.

        Args:
            wait: seconds to wait for the first entry, a second at most.

        Redis: XREAD, or MULTI, XRANGE and XINFO STREAM for each record, EXEC.
        """
        try:
            self.connection.open(min(wait, BLOCK))
            self.connection.settle()
            for place in self.places.values():
                if not place.stands(self.connection):
                    place.resume(self.connection)
            behind = [name for name, place in self.places.items() if place.behind]
            return self._caught_up(behind) if behind else self._arrived(wait)
        except (ServerUnreachable, ServerTimeout):
            for place in self.places.values():
                place.behind = True
            return {}

    def entries(self, name: str, since: float | str = 0, until: str = "") -> Iterator[Any]:
        """Yield the entries of one history that are there, in order, and end.

        Args:
            name: the record.
            since: see `Follower`.
            until: the id after which it ends; the last one of now if empty.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC for each page.
        """
        place = self.follow(name, since)
        until = until or place.last(self.connection)
        while place.behind:
            for entry in place.catch_up(self.connection):
                if later(entry[0].decode(), until):
                    place.behind = False
                    break
                yield entry

    def _caught_up(self, names: Sequence[str]) -> dict[str, Sequence[Any]]:
        places = [self.places[name] for name in names]
        commands = [command for place in places for command in place.commands()]
        try:
            answers = self.connection.read(transaction(commands), [place.subject for place in places for _ in "12"])
        except ServerRefused as error:
            if "no such key" not in str(error):
                raise
            return {names[0]: places[0].catch_up(self.connection)}  # one by one, the others at the next calls
        if not all(place.stands(self.connection) for place in places):
            return {}
        return {name: self.places[name].answered(*answers[2 * i : 2 * i + 2]) for i, name in enumerate(names)}

    def _arrived(self, wait: float) -> dict[str, Sequence[Any]]:
        """Wait in the server, for all records at once.

        Redis: XREAD.
        """
        if not self.places:
            self.connection.wait(wait)
            return {}
        keys = {place.key.encode(): name for name, place in self.places.items()}
        page = min(place.page for place in self.places.values())
        pause = max(1, min(self._block, int(1000 * wait)))
        ids = [place.id for place in self.places.values()]
        answer = self.connection.ask("XREAD", "COUNT", page, "BLOCK", pause, "STREAMS", *keys, *ids)
        if not all(place.stands(self.connection) for place in self.places.values()):
            return {}
        news = {keys[key]: entries for key, entries in (answer or {}).items()}
        for name, entries in news.items():
            self.places[name].arrived(entries)
        return news


def _size(layout: Layout) -> int:
    """Return about how many bytes a trame has."""
    return sum(_ELEMENT * math.prod(field.shape) if field.dtype else _ELEMENT for field in layout.record.fields)
