"""What every bridge does: records go out as they are written, values that come in are checked and written.

A bridge is a handler whose device is another system (a broker, a control system). It joins both directions (`outgoing`,
`incoming`) and what is counted. It must not know any protocol. Invariants:

1. What a bridge wrote itself is not sent back; what came in with a time that is not later than the record's own is not
   written. Each of the two ends every loop, also one over several bridges.
2. A value keeps the time of its measurement, in both directions.
3. Whatever is not passed on is counted, and told in the log.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from shareddata.errors import SharedDataError
from shareddata.handler import Handler
from shareddata.incoming import Incoming
from shareddata.outgoing import Outgoing, Update
from shareddata.tally import Tally

log = logging.getLogger("shareddata")


class Bridge:
    """Both directions, and what is told of them. A context manager.

    Args:
        handler: the program.
        records: names or globs of the records that go out.
        write: names of the records that may be written, separated by commas.
        send: takes an `Update`, in a thread.
        every: see `Outgoing`.
        frequency: see `Outgoing`.
        also_own: see `Outgoing`.
        only_in: whether something else comes in, so that no record needs to be named.
        status: the record for the counts; left out where it is not described.
    """

    def __init__(
        self, handler: Handler, records: Sequence[str], write: str, send: Callable[[Update], None],
        *, every: bool = True, frequency: float = 10.0, also_own: bool = False, only_in: bool = False,
        status: str = "",
    ) -> None:  # fmt: skip
        names = list(dict.fromkeys(write.replace(",", " ").split()))
        if not records and not names and not only_in:
            handler.wrong_usage("name the records that go out, or with --write those that may be written")
        self.tally = Tally()
        self._handler, self._status = handler, status if status in handler.shm.names() else ""
        self._state: Callable[[], Mapping[str, Any]] = dict
        self.outgoing = Outgoing(handler, records, send, self.tally, every, frequency, also_own)
        self.incoming = Incoming(handler, names, self.tally)
        if self._status:
            handler.writes([self._status])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.outgoing.close()
        self.incoming.close()
        counts = ", ".join(f"{name} {count}" for name, count in self.tally.counts().items())
        log.info("ended: %s", counts)
        if kind is None:
            self._tell()

    def run(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Pass on until the program is to stop, and what came before that.

        Args:
            state: what the status record holds besides the counts; called once a second, and at the end.

        Raises:
            SharedDataError: the thread that sends has ended by a mistake; its traceback was printed.
        """
        self._state = state
        self.outgoing.start()
        try:
            for due in self._handler.ticks(1.0, self.incoming.fileno):
                self.incoming.work()
                if not due:
                    continue
                if not self.outgoing.alive:
                    raise SharedDataError("nothing goes out any more, see above: start this program again")
                self._tell()
            self.incoming.work()
        finally:
            self.outgoing.close()

    def _tell(self) -> None:
        """Write the status record."""
        found = self._state()
        if self._status:
            self._handler.publish({self._status: {**self.tally.counts(), **found}})
