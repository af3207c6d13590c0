"""The one writer of a log: it appends numbered records in transactions, and survives outages.

It knows who writes a log, which records wait for a commit, and what to do when the server was away. It must not know
formats, readers or buckets. Invariants:

1. One program writes: the one that began last. Another one's next commit is void (WriterConflict), never mixed in.
2. A commit of unknown outcome is sent again and lands once: records carry their own numbers.
3. What the server lost (a power cut, without fsync) is sent again as far as it is held; the rest is counted in `lost`.
4. A number is given to another record only by another writer, and whoever reads can tell: see `parted`.

The key `tslog:NAME:writer` holds who writes, as JSON: the program, and the writers so far, newest first, each with the
first number that it gave. Each commit leaves the key watched, so that the next one is void when somebody changed it.
"""

import json
import logging
import os
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from shareddata.connection import Connection
from shareddata.errors import DecodeError, ServerRefused, WriterConflict
from shareddata.names import writer_key
from shareddata.numbered import Numbered
from shareddata.wire import pack, transaction

log = logging.getLogger("shareddata")

PAGE = 1000
"""Records of one transaction."""

_REMEMBERED = 32  # writers whose ids stay in the key


def token(before: Sequence[Any], first: int) -> bytes:
    """Return what the writer's key holds when this program becomes the writer.

    Args:
        before: the writers before it, newest first.
        first: the first number that it gives, 0 when it doesn't know yet.
    """
    writers = [[uuid.uuid4().hex, first], *[writer for writer in before if writer[1]]]
    return json.dumps(
        {
            "program": os.path.basename(sys.argv[0]) or "python",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "writers": writers[:_REMEMBERED],
        }
    ).encode()


def writers(text: bytes | None) -> list[Any]:
    """Return the writers that a token tells of, newest first: id and first number of each.

    Raises:
        DecodeError: it tells of none.
    """
    if not text:
        return []
    try:
        found = json.loads(text)["writers"]
        if all(isinstance(who, str) and isinstance(first, int) for who, first in found):
            return list(found)
        wrong = "the writers are no pairs of id and number"
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        wrong = str(error) or type(error).__name__
    raise DecodeError(f"found {text[:60]!r} where a log's writers stand ({wrong}): another program wrote it")


def newer(known: bytes | None, found: bytes | None) -> list[Any]:
    """Return the writers of a token that another one does not know: none when it is the same, or an older one."""
    ids = {writer[0] for writer in writers(known)}
    return list(takewhile(lambda writer: writer[0] not in ids, writers(found)))


def parted(known: bytes | None, found: bytes | None) -> int | None:
    """Return the first number that writers gave whom `known` does not know; None if there are none.

    Numbers from there on that were read before are other records now: the log was begun anew, or the server lost
    records and a new writer went on where it stood.
    """
    return min((first for _, first in newer(known, found) if first), default=None)


class LogWriter:
    """What a program does that stores into a log.

    Args:
        connection: for commits only: the EXEC of anything else would end its WATCH.
        stream: the log's, on another connection.
        subject: the log, for messages.
        hold: how many committed records are held, to be sent again when the server loses them.
        restore: called when the server has lost records, before they are sent again.

    Attributes:
        token: what this program put into the writer's key, empty until it is the writer.
        pending: the records that are not committed yet, in order, as `Numbered.tail` makes them.
        committed: the number of the last committed record.
        lost: committed records that the server lost and that were not held any more.

    Redis: MULTI, XADD for each record, EXEC, WATCH, GET.
    """

    def __init__(
        self, connection: Connection, stream: Numbered, subject: str, hold: int, restore: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._key = writer_key(stream.key)
        self._guard = pack("WATCH", self._key) + pack("GET", self._key)
        self._restore = restore
        self._opened = 0  # which connection has the key watched
        self._held: deque[bytes] = deque(maxlen=hold)
        self.token = b""
        self.pending: list[bytes] = []
        self.committed = 0
        self.lost = 0
        self.conflict = ""

    def begin(self) -> None:
        """Take the writer's role over from whoever had it, and go on behind the last record.

        Raises:
            WriterConflict: this program was a writer before, or another one begins just now.

        Redis: GET, SET, MULTI, XINFO STREAM, XINFO GROUPS, SET, EXEC, WATCH.
        """
        self.check()
        before = writers(self._connection.call("GET", self._key))
        claim = token(before, 0)
        self._connection.call("SET", self._key, claim)  # from here on, no other program's commit succeeds
        committed = self._stream.extent().last
        self.adopt(token(before, committed + 1), committed)
        try:
            self._claim(claim)
        except BaseException:
            self.forget()
            raise

    def _claim(self, expected: bytes | None) -> None:
        """Put the token into the key, if it still holds what is expected; the next commit looks whether it did.

        Redis: WATCH, GET, MULTI, SET, EXEC.
        """
        self._connection.call("WATCH", self._key)
        found = self._connection.call("GET", self._key)
        if found != expected:
            self._give_up(found)
        self._connection.settle()
        self._connection.transact(transaction([pack("SET", self._key, self.token)]), [self._subject], self._guard)
        self._check_guard()

    def adopt(self, text: bytes, committed: int) -> None:
        """Be the writer whose token is in the key already."""
        self.token, self.committed = text, committed

    def forget(self) -> None:
        """Be no writer any more; what was stored and not committed is discarded."""
        self.token, self._opened = b"", 0
        self.pending.clear()
        self._held.clear()

    def check(self) -> None:
        """Raise the conflict that ended this writer."""
        if self.conflict:
            raise WriterConflict(self.conflict)

    def commit(self) -> None:
        """Append all pending records, in transactions of at most a page.

        Raises:
            ServerUnreachable, ServerTimeout, ServerRefused: what is not committed stays pending.
            WriterConflict: another program stores into this log now, or put entries into its stream.
        """
        self.check()
        while self.pending:
            self._connection.settle()
            if self._opened != self._connection.opened:
                self._resume()
            else:
                self._send(self.pending[:PAGE])

    def _send(self, batch: Sequence[bytes]) -> None:
        """Append a batch in one transaction; it is void when the key was touched since the last one."""
        request = transaction([self._stream.appends(self.committed + 1, batch)])
        try:
            answers = self._connection.transact(request, [self._subject] * len(batch), self._guard)
        except ServerRefused as error:
            if "equal or smaller" not in str(error):
                raise
            self._opened = 0  # somebody added entries by hand
            return
        if answers:
            self._landed(len(batch))
        self._check_guard()

    def _landed(self, count: int) -> None:
        self.committed += count
        self._held.extend(self.pending[:count])
        del self.pending[:count]

    def _check_guard(self) -> None:
        found = self._connection.guarded
        if found != self.token:
            self._opened = 0
            self._give_up(found)

    def _give_up(self, found: bytes | None) -> None:
        """End this writer if the key has a newer one; an older one, or none, says that the server lost something."""
        if not newer(self.token, found):
            return
        who = json.loads(found or b"{}")
        self.token = b""
        self.conflict = (
            f"{self._connection.address.shown}, {self._subject}: {who.get('program')}, process {who.get('pid')} on "
            f"{who.get('host')}, writes it since {who.get('since')}: {len(self.pending)} records of this program were "
            "not written; run one writer only, or open the log again to take over"
        )
        self.check()

    # -- after an outage ------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """After a reconnection, find out what the server has, and send again what it lost.

        Redis: WATCH, GET, XINFO STREAM, XINFO GROUPS; XRANGE, or SET.
        """
        opened = self._connection.opened
        self._connection.call("WATCH", self._key)
        found = self._connection.call("GET", self._key)
        if found != self.token:
            self._give_up(found)
            return self._claim(found)
        last = self._stream.extent().last
        if last > self.committed:
            self._recognise(last)
        elif last < self.committed:
            self._send_again(last)
        self._opened = opened

    def _recognise(self, last: int) -> None:
        """Take records that are there as those of the commit whose outcome was unknown, if they are the same."""
        count = last - self.committed
        there, _ = self._stream.read(self.committed, count)
        if [self._stream.tail(field, value) for _, field, value in there] != self.pending[:count]:
            self.token = b""
            self.conflict = (
                f"{self._connection.address.shown}, {self._subject}: the records from {self.committed + 1} on are not "
                f"those that this program stored: another one put them into {self._stream.key}; run one writer only"
            )
            self.check()
        self._landed(count)

    def _send_again(self, last: int) -> None:
        """Put what the server lost back among the stored records, as far as it is held."""
        missing = self.committed - last
        self._restore()
        again = [self._held.pop() for _ in range(min(missing, len(self._held)))][::-1]
        self.pending[:0] = again
        self.committed -= len(again)
        self.lost += missing - len(again)
        log.warning(
            "%s, %s: the server lost %d committed records; %d are sent again, %d are lost",
            *(self._connection.address.shown, self._subject, missing, len(again), missing - len(again)),
        )
