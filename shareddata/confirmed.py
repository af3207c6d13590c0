"""Writes that replicas confirm: a connection that asks behind each write who has it.

It knows WAIT, and which requests write. It must not know what is written. Invariants:

1. WAIT is sent with the write, and waits for half of the time-out at the most: a write costs no further round trip but
   that of the replication.
2. What the server in charge answered counts, whether or not a replica has it: the write is done, and never repeated or
   taken back because of this. `check` says afterwards that it is not confirmed.
3. Replicas take writes in order: one that confirms a write has all that this connection wrote before it there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from shareddata.connection import Connection, Request, Take
from shareddata.errors import ServerTimeout, ServerUnreachable, Unconfirmed
from shareddata.wire import pack


class ConfirmedConnection(Connection):
    """A connection whose `command` and `transact` are confirmed by replicas; what `call`, `ask` and `read` send is not.

    Attributes:
        replicas: how many have to have a write.

    Redis: WAIT behind each write.
    """

    def require(self, replicas: int) -> "ConfirmedConnection":
        """Set how many replicas have to have a write; return this connection."""
        self.replicas = replicas
        self._wait = pack("WAIT", replicas, max(1, int(500 * self.timeout)))
        self._due = False  # whether what is sent next is a write
        self._asked = False  # whether WAIT's answer is to come
        self._missing = ""  # why the last write is not confirmed
        return self

    def check(self) -> None:
        """Raise if the last write was not confirmed; it is told once.

        Raises:
            Unconfirmed.
        """
        missing, self._missing = self._missing, ""
        if missing:
            raise Unconfirmed(
                f"{self.address.shown}: written, but not confirmed: {missing}: if the server fails now this can be "
                "lost; a later write that is confirmed confirms it too. Is a replica up? See `info replication`"
            )

    def call(self, *args: str | bytes | int | float) -> Any:
        """Send one command and return its answer; nobody confirms it."""
        self.settle()
        return super().command(pack(*args))

    def command(self, request: bytes) -> Any:
        """Do as `Connection.command`, and ask who has it."""
        return self._written(super().command, request)

    def transact(
        self, request: Request, subjects: Sequence[Any], guard: bytes = b"", take: Take | None = None
    ) -> list[Any]:
        """Do as `Connection.transact`, and ask who has it."""
        return self._written(super().transact, request, subjects, guard, take)  # type: ignore[no-any-return]

    def _written(self, write: Callable[..., Any], *args: Any) -> Any:
        self._due = not (self._harmless or self.listening)
        try:
            return write(*args)
        finally:
            self._due = self._asked = False

    def _open_once(self, timeout: float) -> None:
        super()._open_once(timeout)
        self._has_data = lambda: True  # `_leftover` is called behind each answer: WAIT's may still be on its way

    def _send(self, request: Request, again: bool = True) -> None:
        if not self._due or self._opening:
            return super()._send(request, again)
        self._due, self._missing = False, ""  # what is sent to open the connection has no WAIT
        super()._send(request + self._wait if isinstance(request, bytes) else [*request, self._wait], again)
        self._asked = True

    def _leftover(self) -> None:
        if self._asked:
            self._asked = False
            self._missing = self._confirmation()
        super()._leftover()

    def _confirmation(self) -> str:
        """Take WAIT's answer; return why the write is not confirmed, or nothing."""
        try:
            answer = self._answer()
        except (ServerUnreachable, ServerTimeout) as error:
            return str(error)
        if isinstance(answer, hiredis.ReplyError):
            return f"the server said: {answer}"
        if answer >= self.replicas:
            return ""
        return f"{answer} of {self.replicas} replicas said within {self.timeout / 2:g} s that they have it"
