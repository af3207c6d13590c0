"""The server that gets copies: what it has of them, the right to write there, and transactions that others void.

It knows how far copies are there (`copies.Place`), and who else writes there. It must not know when anything is read
from the source, or sent. Invariants:

1. Entries and Places are written in one transaction, so that the destination itself tells where to go on.
2. A transaction is void when anybody else wrote there since it was last looked at; what a given up one still does is
   over when the next `look` ends.
3. What somebody else wrote is kept, and named: a WriterConflict of that record or log.

In Redis: the hash `shareddata:forwarded:IDENTITY` holds who forwards (`writer`), and a Place for each record and log.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from shareddata.address import Address
from shareddata.copies import HistoryCopy, LogCopy, Place, Stream, order
from shareddata.eras import Era
from shareddata.errors import LogFormatError, ServerUnreachable, SharedDataError, WriterConflict
from shareddata.logwriter import newer, writers
from shareddata.logwriter import token as writer_token
from shareddata.memory import SharedMemory
from shareddata.names import Names
from shareddata.numbered import Numbered
from shareddata.wire import pack, transaction

log = logging.getLogger("shareddata")

_UNKNOWN = 1 << 62  # an ordinal that the next page corrects


class End:
    """One of the two servers; connected when it is first there."""

    def __init__(self, address: Address, namespace: str, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        self._memory: SharedMemory | None = None
        self.url = address.shown
        self.keys = Names(namespace)

    def open(self) -> None:
        """Connect; later, each connection opens itself."""
        if self._memory is None:
            wait = min(1.0, self._timeout)
            self._memory = SharedMemory(
                url=self._address, namespace=self.keys.namespace, wait=wait, timeout=self._timeout
            )
            self.connection = self._memory.connect("shareddata forward")
            self.side = self._memory.connect("shareddata forward")  # what is asked here ends no WATCH there

    @property
    def memory(self) -> SharedMemory:
        """The shared memory there, once it is open."""
        assert self._memory is not None, "opened before it is used"
        return self._memory

    def close(self) -> None:
        """Close all connections."""
        if self._memory is not None:
            self.connection.close()
            self.side.close()
            self._memory.close()


class Destination(End):
    """The destination of one Forward.

    Args:
        address: where it is.
        namespace: where the copies are.
        timeout: seconds within which it has to answer.
        source: the source's address, to be told.
        max_buckets: buckets of each log that are kept for readers.
        take_over: go on where somebody else has written; a log that is not the source's is dropped.
    """

    def __init__(
        self, address: Address, namespace: str, timeout: float, *, source: str, max_buckets: int, take_over: bool
    ) -> None:
        super().__init__(address, namespace, timeout)
        self._source = source
        self._max_buckets = max_buckets
        self._take_over = take_over
        self._identity = ""
        self._id = uuid.uuid4().hex
        self._token = b""
        self._before: bytes | None = None  # what the destination had in its place
        self._guard = b""
        self._state_key = ""
        self._opened = 0

    @property
    def known(self) -> bool:
        """Whether what it has is known since the connection was opened. It is opened where it was closed."""
        self.open()
        self.connection.settle()
        return self.connection.opened == self._opened

    def look(self, streams: Sequence[Stream], identity: str) -> None:
        """Find out where to go on, and take the right to write.

        Args:
            streams: what is to be copied.
            identity: the source's.

        Raises:
            WriterConflict: another forward of this source has begun since.
            SharedDataError: it is the source.

        Redis: as `SharedMemory.init`; MULTI, HGETALL, TYPE, GET, EXEC, WATCH, HGET; MULTI, XREVRANGE, EXEC; MULTI,
        HSET, SET, EXEC.
        """
        if identity != self._identity:
            self._identity, self._token = identity, b""
        self._describe(streams)
        self._sync(streams)
        self._opened = self.connection.opened

    def note(self, stream: Stream, place: Place) -> bytes:
        """Return the command that notes how far a stream is."""
        return pack("HSET", self._state_key, stream.field, json.dumps(asdict(place)))

    def write(self, commands: Sequence[bytes]) -> None:
        """Write at the destination, or find out at the next step who else has written there."""
        self._transact(commands)
        if self.connection.guarded != self._token:
            raise ServerUnreachable(f"{self.url}: another program begins to forward there")

    def _describe(self, streams: Sequence[Stream]) -> None:
        """Carry the descriptions over that differ.

        Redis: HGETALL, XREVRANGE; as `SharedMemory.init`.
        """
        destination = self.memory
        there = set(destination.names())
        changed, earlier = {}, {}
        for stream in streams:
            if not isinstance(stream, HistoryCopy) or stream.record is None:
                continue
            notes = self._not_noted(stream)
            if notes or stream.name not in there or destination.describe(stream.name) != stream.record:
                changed[stream.name], earlier[stream.name] = stream.record.as_json(), notes
        if changed:
            destination.init(changed, keep=True, earlier=earlier)

    def _not_noted(self, stream: HistoryCopy) -> list[Era]:
        """Return how the source described a record earlier, as far as the destination has not noted that.

        Redis: XREVRANGE where there is anything.
        """
        noted = self.memory.eras(stream.name) if stream.eras else []
        return [era for era in stream.eras if not noted or order(era.until) > order(noted[-1].until)]

    def _sync(self, streams: Sequence[Stream]) -> None:
        """Find out where to go on, and take the right to write: what is late on its way is void from now on.

        Redis: MULTI, HGETALL, TYPE, GET, EXEC, WATCH, HGET; MULTI, XREVRANGE, EXEC; MULTI, HSET, SET, EXEC.
        """
        keys = self.keys
        state_key = self._state_key = keys.forwarded(self._identity)
        watched = [state_key, *(each.to_key for each in streams if each.kind == "history")]
        questions = [pack("HGET", keys.forward(), "identity"), pack("HGETALL", state_key)]
        for stream in streams:
            questions.append(pack("TYPE", stream.to_key))
            if isinstance(stream, LogCopy):
                watched += [stream.to_made_key, stream.to_writer_key]
                questions += [pack("GET", stream.to_made_key), pack("GET", stream.to_writer_key)]
        self._guard = pack("WATCH", *watched) + pack("HGET", state_key, "writer")
        answers = iter(self._transact(questions))
        if (next(answers) or b"").decode() == self._identity:
            raise SharedDataError(f"{self.url}: source and destination are the same: name two")
        state = {name.decode(): text for name, text in next(answers).items()}
        self._check_role(state.get("writer"))
        there = {
            stream.field: _There(next(answers), *((next(answers), next(answers)) if stream.kind == "log" else ()))
            for stream in streams
        }
        self._look_at_last([(stream, there[stream.field]) for stream in streams])
        commands: list[bytes] = []
        for stream in streams:
            place = Place(**json.loads(state[stream.field])) if stream.field in state else None
            try:
                commands += self._settle(stream, place, there[stream.field])
            except (WriterConflict, LogFormatError) as error:
                stream.trouble = str(error)
                log.warning("%s", error)
        self._claim([stream for stream in streams if not stream.trouble], commands)

    def _look_at_last(self, streams: "Sequence[tuple[Stream, _There]]") -> None:
        """Find out the id of the last entry that is kept of each stream.

        Redis: MULTI, XREVRANGE, EXEC, WATCH, HGET.
        """
        streams = [(stream, there) for stream, there in streams if there.kind == b"stream"]
        if streams:
            answers = self._transact([pack("XREVRANGE", stream.to_key, "+", "-", "COUNT", 1) for stream, _ in streams])
            for (_, there), entries in zip(streams, answers):
                there.last = entries[0][0].decode() if entries else ""

    def _transact(self, commands: Sequence[bytes]) -> list[Any]:
        """Send commands to the destination in one transaction that is void when anybody else has written there.

        Redis: MULTI, the commands, EXEC, WATCH, HGET.
        """
        subjects = ["the destination"] * len(commands)
        answers = self.connection.transact(transaction(commands), subjects, self._guard)
        if not answers:
            raise ServerUnreachable(f"{self.url}: somebody else writes there at this moment")
        return answers

    def _check_role(self, found: bytes | None) -> None:
        """Refuse to go on beside another forward of the same source."""
        self._before = found
        who = json.loads(found or b"{}")
        if self._token and newer(self._token, found) and who.get("id") != self._id:
            raise WriterConflict(
                f"{self.url}: process {who['pid']} on {who['host']} forwards {self._source} there "
                f"since {who['since']}: run one forward for one source and destination"
            )

    def _claim(self, streams: Sequence[Stream], commands: Sequence[bytes]) -> None:
        """Write who forwards, beside what the logs need to be written to."""
        token = self._as_writer(self._before, 1, turn=uuid.uuid4().hex)
        commands = [*commands, pack("HSET", self._state_key, "writer", token)]
        commands += [self.note(stream, stream.place) for stream in streams]
        self._transact(commands)
        self._token = token
        for stream in streams:
            if isinstance(stream, LogCopy):
                stream.token = stream.claim

    def _as_writer(self, before: bytes | None, first: int, **more: str) -> bytes:
        """Return what says that this program writes, for a log's writer key and for the state."""
        told = json.loads(writer_token(writers(before), first))
        return json.dumps(
            {**told, "program": f"shareddata forward from {self._source}", "id": self._id, **more}
        ).encode()

    def _settle(self, stream: Stream, place: Place | None, there: "_There") -> list[bytes]:
        """Set a stream's place to what the destination has; return what has to be written there first.

        Raises:
            WriterConflict, LogFormatError: what is there is not a copy of this stream.
        """
        where = f"{self.url}, {stream}"
        if there.kind not in (b"none", b"stream"):
            raise WriterConflict(
                f"{where}: the key {stream.to_key} is a {there.kind.decode()} there: forward into another namespace "
                "(--to-namespace)"
            )
        drop = False
        stream.place = place or stream.place  # for whoever looks on, also when it ends here
        if isinstance(stream, LogCopy):
            self._check_writer(where, stream, there)
        if there.kind == b"none" or (place is None and not there.last):
            if stream.place.sent:
                log.warning("%s: the destination has lost it: what the source still has is sent again", stream)
            stream.settle(stream.begin())
        elif place is not None and order(there.last) <= order(place.id):
            stream.settle(place)
        elif not self._take_over:
            raise WriterConflict(
                f"{where}: other programs have written there, up to {there.last}: forward into another namespace "
                "(--to-namespace), or go on all the same with --take-over"
            )
        elif place is not None:
            stream.settle(replace(place, id=there.last))
        elif isinstance(stream, LogCopy):
            drop = True
            stream.settle(stream.begin())
        else:
            stream.settle(replace(stream.begin(), id=there.last, at=there.last, ordinal=_UNKNOWN))
        return self._claim_log(where, stream, there, drop) if isinstance(stream, LogCopy) else []

    def _check_writer(self, where: str, stream: LogCopy, there: "_There") -> None:
        """Refuse to go on beside a program that has become the writer since this one was."""
        writer = json.loads(there.writer or b"{}")
        if stream.token and newer(stream.token, there.writer) and writer.get("id") != self._id and not self._take_over:
            raise WriterConflict(
                f"{where}: {writer.get('program')}, process {writer.get('pid')} on {writer.get('host')}, writes it "
                f"since {writer.get('since')}: forward into another namespace (--to-namespace), or end that program "
                "and start again"
            )

    def _claim_log(self, where: str, stream: LogCopy, there: "_There", drop: bool) -> list[bytes]:
        """Return what makes this program the writer of a log at the destination, and the log what it is at the source.

        Raises:
            LogFormatError: a log of another shape is there.

        Redis: XINFO STREAM, XINFO GROUPS.
        """
        drop = drop or stream.anew
        if there.made not in (None, stream.made) and not drop:
            raise LogFormatError(
                f"{where}: made there with {(there.made or b'').decode()}, at the source with {stream.made.decode()}: "
                "open it there as it was made, or forward into another namespace (--to-namespace)"
            )
        stream.anew = False
        commands = [pack("SET", stream.to_made_key, stream.made)]
        if drop:
            groups = Numbered(self.side, stream.to_key).extent().cursors
            commands.append(pack("DEL", stream.to_key))
            commands += [pack("XGROUP", "CREATE", stream.to_key, group, "0", "MKSTREAM") for group in groups]
        if drop or not stream.token or stream.token != there.writer:
            stream.claim = self._as_writer(there.writer, order(stream.place.id)[0] + 1)
            commands.append(pack("SET", stream.to_writer_key, stream.claim))
        return commands

    def clean(self, stream: LogCopy, before: int) -> None:
        """Drop buckets at the destination, as the log's writer does at the source; all are kept that nobody reads.

        Redis: XINFO GROUPS, XTRIM.
        """
        size, number = stream.bucket_size, stream.place.ordinal
        newest = (number - 1) // size
        if newest <= (before - 1) // size:
            return
        numbered = Numbered(self.side, stream.to_key)
        read = min(numbered.extent().cursors.values(), default=0) // size * size
        numbered.trim(max(read, (newest - self._max_buckets + 1) * size) + 1)


@dataclass
class _There:
    """What the destination has of one stream."""

    kind: bytes
    made: bytes | None = None
    writer: bytes | None = None
    last: str = ""
