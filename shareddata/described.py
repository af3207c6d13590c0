"""What a server holds of descriptions: read when they are needed, kept until the epoch changes.

It knows the hash of descriptions, and which of them this program has read. It must not know values, nor what a
description is for. Invariants:

1. A program reads the descriptions of the records that it uses, however many others there are.
2. What was read is kept until the epoch changes.
3. A description that makes no sense disturbs only who uses it.

It belongs to one thread at a time: `SharedMemory` holds its lock.
"""

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from shareddata import datadesc
from shareddata.connection import Connection
from shareddata.datadesc import Record
from shareddata.errors import DecodeError, DescriptionError
from shareddata.names import Names, is_name


class Descriptions:
    """The descriptions of one namespace, as far as they were asked for.

    Args:
        connection: which is told when the epoch changes.
        keys: of the namespace.
        now: the server's clock in epoch seconds, for the records' ages.

    Attributes:
        epoch: that of what was read, None for none.
    """

    def __init__(self, connection: Connection, keys: Names, now: Callable[[], float]) -> None:
        self._connection = connection
        self._key = keys.datadesc
        self._now = now
        self.epoch: bytes | None = None
        self.forget()

    def forget(self) -> None:
        """Read everything anew when it is asked for."""
        self._fresh = False
        self._texts: dict[str, bytes] | None = None  # all of them, when all were asked for
        self._records: dict[str, Record] = {}

    def refresh(self) -> None:
        """Forget what was read if the epoch may be another one since.

        Redis: GET when it may.
        """
        self._connection.settle()
        if not self._fresh or self._connection.epoch_news:
            self.forget()
            self.epoch = self._connection.refresh_epoch()
            self._fresh = True

    def names(self) -> list[str]:
        """Return the names of all records, sorted.

        Redis: HGETALL when they were not read since the epoch changed.
        """
        self.refresh()
        if self._texts is None:
            stored = self._connection.ask("HGETALL", self._key)
            self._texts = {name.decode(errors="replace"): text for name, text in stored.items()}
        return sorted(self._texts)

    def ask_for(self, names: Iterable[str]) -> None:
        """Read the descriptions of some records at once, unless they were read; who is not there is left out.

        Raises:
            DecodeError: one is no description.

        Redis: HMGET.
        """
        self.refresh()
        missing = [name for name in dict.fromkeys(names) if is_name(name) and name not in self._records]
        for name, text in self._read(missing).items():
            if text is not None:
                self._records[name] = self.parsed(name, text)

    def texts(self, names: Collection[str]) -> dict[str, bytes | None]:
        """Return the descriptions of records as they stand in the server, None for a record that is not there.

        Redis: HMGET unless all were read since the epoch changed.
        """
        self.refresh()
        return self._read(names)

    def _read(self, names: Collection[str]) -> dict[str, bytes | None]:
        if self._texts is not None:
            return {name: self._texts.get(name) for name in names}
        return dict(zip(names, self._connection.ask("HMGET", self._key, *names))) if names else {}

    def get(self, name: str) -> Record | None:
        """Return a record's description, None if there is none.

        Raises:
            DecodeError: it is no description.

        Redis: HMGET when it was not read since the epoch changed.
        """
        self.ask_for([name])
        return self._records.get(name)

    def parsed(self, name: str, text: bytes) -> Record:
        """Return the record that a text describes.

        Raises:
            DecodeError: it is no description.

        Redis: none.
        """
        try:
            return replace(datadesc.parse_record(name, json.loads(text)), clock=self._now)
        except (DescriptionError, ValueError, RecursionError) as error:
            raise DecodeError(
                f"{self._connection.address.shown}, key {self._key}, field {name!r}: no description: {error}: "
                "initialise again"
            ) from None
