"""Leases: an owned record has one writer at a time, and one that was replaced can't write any more.

It knows who holds a record, who still lives, and the guard that each flush ends with. It must not know values, staging
or any other record than those it is told of. Invariants:

1. What a replaced writer sends is void, whenever it arrives: each transaction leaves the program's fence watched, and
   whoever takes one of its records writes there.
2. No clock of a program counts: a writer lives as long as its key, whose time the server keeps.
3. A flush costs one WATCH and one GET more, in the same send, however many records are held.
4. Records without an owner cost nothing: for them none of this is called.

In Redis: `NAME:lease` says who holds a record, as JSON, also after that program was killed. A key
`shareddata:writer:OWNER:ID` is there as long as the program lives; a thread renews it. `shareddata:fence:OWNER:ID` does
not exist, until somebody takes a record from the program: then it says who.
"""

import atexit
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from shareddata.connection import Connection
from shareddata.errors import ServerError, ServerRefused, ServerSetupError, ServerUnreachable, WriterConflict
from shareddata.memory import SharedMemory
from shareddata.names import Names
from shareddata.wire import pack, shown, transaction

log = logging.getLogger("shareddata")

LEASE = 3.0
"""Seconds after which a writer that is not heard of has lost its records to the next one that asks."""

_RENEW = LEASE / 3
_LATE = 1.5  # seconds that a server which has just been started gives its writers to come back
_POLL = 0.05
_FENCED = 60.0  # seconds that a fence tells who took the record; it need not last: what was watched stays void
_TRIES = 5

_held: "weakref.WeakSet[Lease]" = weakref.WeakSet()


class _Named(Protocol):
    @property
    def name(self) -> str: ...


@cache
def _release_at_exit() -> None:
    """Let programs that close nothing give back what they hold; called once the first socket is open.

    What is registered last runs first: sockets are closed at the end by what was registered with the first of them.
    """
    atexit.register(_release_all)


def _release_all() -> None:
    for lease in list(_held):
        lease.release()


class Lease:
    """What one application holds. Made by `DataDict`.

    Args:
        connection: that of the flushes; its WATCH is this lease's.
        shm: the shared memory.
        app_name: the application's name, to be told to others.

    It belongs to one thread at a time, as its DataDict does.
    """

    def __init__(self, connection: Connection, shm: SharedMemory, app_name: str) -> None:
        self._connection = connection
        self._shm = shm
        self._keys: Names = shm.keys
        self._app_name = app_name
        self._records: dict[str, str] = {}  # that this program holds, or has lost: name and owner
        self._lost: dict[str, str] = {}  # why a record can't be written any more
        self._opened = 0  # which connection has the fence watched
        self._guard = self._token = self._alive = b""
        self._id = self._scope = ""
        self._renewal: _Renewal | None = None

    def holds(self, name: str) -> bool:
        """Tell whether this program is the writer of a record, as far as it knows."""
        return name in self._records and name not in self._lost

    # -- taking -------------------------------------------------------------------------------------------------------

    def claim(self, owners: Mapping[str, str], take_over: bool) -> None:
        """Become the writer of records, at once if nobody is; wait for one that was killed, a few seconds at most.

        Args:
            owners: the records, each with the owner that its description names.
            take_over: don't wait: whoever holds one of them can't write it any more.

        Raises:
            WriterConflict: another program holds one of them, and lives; nothing was taken.

        Redis: TIME; MULTI, SET, DEL, EXEC, WATCH, MGET; MULTI, SET for each record, EXEC, WATCH, GET; PTTL, INFO
        server where another program holds one.
        """
        self._begin(next(iter(owners.values())))
        patience = _Patience(self._connection, self._keys)
        try:
            while True:
                holders = self._look(owners)
                others = {name: holder for name in owners if (holder := holders[name]) and holder.get("id") != self._id}
                if others and not take_over and patience.wait_for(others):
                    time.sleep(_POLL)
                elif self._take(owners, others):
                    break
        except BaseException:
            if not self._records:
                self.release()
            raise
        self._records.update(owners)
        for name in owners:
            self._lost.pop(name, None)

    def _begin(self, owner: str) -> None:
        """Get an id, and begin to renew the key that says that this program lives.

        Redis: TIME.
        """
        if self._id:
            return
        identity, keys = uuid.uuid4().hex[:12], self._keys
        told = {
            "id": identity,
            "owner": owner,
            "app": self._app_name,
            "program": os.path.basename(sys.argv[0]) or "python",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._connection.clock() / 1000)),
        }
        self._token = json.dumps(told).encode()
        self._alive = pack("SET", keys.writer(owner, identity), self._token, "PX", int(LEASE * 1000))
        self._guard = pack("WATCH", keys.fence(owner, identity)) + pack("GET", keys.fence(owner, identity))
        self._id, self._scope = identity, owner
        self._renewal = _Renewal(self, self._shm.connect(self._app_name), self._alive)
        _held.add(self)
        _release_at_exit()

    def _look(self, more: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
        """Return who holds this program's records, and more; note which of its own were taken from it.

        From here on the program's fence and these leases are watched. A record was taken also when whoever took it has
        given it back since: the fence tells.

        Redis: MULTI, SET, EXEC, WATCH, MGET; where a record was taken again, with DEL.
        """
        names = [*dict.fromkeys([*self._records, *more])]
        leases, subject = [self._keys.lease(name) for name in names], f"the lease of record {names[0]}"
        fence = self._keys.fence(self._scope, self._id)
        guard = pack("WATCH", fence, *leases) + pack("MGET", fence, *leases)
        commands = [self._alive]
        self._connection.settle()
        while True:
            self._connection.transact(transaction(commands), [subject] * len(commands), guard)
            told, *texts = self._connection.guarded
            holders = {name: _holder(text) for name, text in zip(names, texts)}
            for name in self._records.keys() - self._lost.keys():
                holder = holders[name] or _holder(told)
                if holder and holder.get("id") != self._id:
                    self._lost[name] = self._told(name, holder, bool(holders[name]))
            if told is None:
                return holders
            commands = [self._alive, pack("DEL", fence)]  # now that it is noted; void if another one takes a record

    def _take(self, names: Iterable[str], others: Mapping[str, Mapping[str, Any]]) -> bool:
        """Write this program's name to records that were just looked at, and keep others from writing them.

        Returns:
            False when somebody was quicker.
        """
        subjects = [f"the lease of record {name}" for name in names]
        commands = [pack("SET", self._keys.lease(name), self._token) for name in names]
        for scope, identity in {(str(each.get("owner")), str(each.get("id"))) for each in others.values()}:
            fence = self._keys.fence(scope, identity)
            commands.append(pack("SET", fence, self._token, "PX", int(_FENCED * 1000)))
        commands.append(self._alive)
        return self._transact(transaction(commands), subjects + ["a lease"] * (len(commands) - len(subjects)))

    # -- writing ------------------------------------------------------------------------------------------------------

    def transact(self, request: bytes, subjects: Sequence[Any], staged: Iterable[_Named]) -> None:
        """Send a flush; it is void unless this program holds all that it held before.

        Args:
            request: from `wire.transaction`.
            subjects: for each command what it is about, for messages.
            staged: what is flushed.

        Raises:
            WriterConflict: another program has taken one of these records; nothing was written.
            ServerTimeout, ServerUnreachable, ServerRefused: as `Connection.transact`.

        Redis: the request, WATCH, GET; after a reconnection or a loss before that MULTI, SET, DEL, EXEC, WATCH,
        MGET, and MULTI, SET, EXEC for what the server has lost.
        """
        for _ in range(_TRIES):
            if self._opened != self._connection.opened or self._lost:
                self._confirm(staged)
            if self._transact(request, subjects):
                return
        raise ServerUnreachable(
            f"{self._connection.address.shown}: other programs touch the leases all the time: nothing was written"
        )

    def _transact(self, request: bytes, subjects: Sequence[Any]) -> bool:
        """Send a transaction that is void when this program was fenced off; find out before the next one if it was."""
        answers = self._connection.transact(request, subjects, self._guard)
        fenced = self._connection.guarded is not None
        self._opened = self._connection.opened if answers and not fenced else 0
        return bool(answers)

    def doubt(self) -> None:
        """Look before the next flush: the EXEC of something else ends what is watched on the connection."""
        self._opened = 0

    def _confirm(self, staged: Iterable[_Named]) -> None:
        """Find out what this program still holds, and take again what the server has lost."""
        self._begin(next(iter(self._records.values())))
        while self._opened != self._connection.opened:
            holders = self._look()
            free = [name for name in self._records if not holders[name] and name not in self._lost]
            if free:
                self._take(free, {})
            else:
                self._opened = self._connection.opened
        for data in staged:
            if data.name in self._lost:
                raise WriterConflict(self._lost[data.name])

    def _told(self, name: str, holder: Mapping[str, Any], holds: bool) -> str:
        back = "" if holds else ", and has given it back"
        where = f"{self._connection.address.shown}, record {name}"
        return f"{where}: {who(holder)}{back}: this program can't write it any more unless it declares it again"

    # -- the end ------------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Give the records back, so that the next program need not wait; where that fails, the lease runs out.

        Redis: MULTI, DEL, EXEC, WATCH, GET.
        """
        if self._renewal is None:
            return
        self._renewal.end()
        connection = self._connection
        try:
            if self._records and connection.connected and self._opened != connection.opened:
                self._confirm(())
            if self._records and connection.connected:
                keys = [self._keys.lease(name) for name in self._records if name not in self._lost]
                request = transaction([pack("DEL", *keys, self._keys.writer(self._scope, self._id))])
                connection.transact(request, ["the lease"], self._guard)
        except ServerError as error:
            log.debug("the lease is not given back, it runs out: %s", error)
        self._drop()

    def forget(self) -> None:
        """In a forked child: what the parent holds is the parent's; this program has to claim it anew."""
        self._drop()

    def _drop(self) -> None:
        _held.discard(self)
        if self._renewal is not None:
            self._renewal.forget()
        self._renewal, self._id, self._opened = None, "", 0


class _Patience:
    """Waiting for other writers: does one still live?"""

    def __init__(self, connection: Connection, keys: Names) -> None:
        self._connection = connection
        self._keys = keys
        self._rest: dict[str, int] = {}  # milliseconds of its lease, when last looked at
        self._late_until: float | None = None

    def wait_for(self, others: Mapping[str, Mapping[str, Any]]) -> bool:
        """Tell whether to go on waiting: False when none of them lives.

        Raises:
            WriterConflict: one of them does: it has renewed its lease.

        Redis: PTTL, INFO server.
        """
        waiting = False
        for name, holder in others.items():
            key = self._keys.writer(str(holder.get("owner")), str(holder.get("id")))
            rest, before = int(self._connection.ask("PTTL", key)), self._rest.get(name)
            if before is not None and rest > before:
                raise WriterConflict(
                    f"{self._connection.address.shown}, record {name}: {who(holder)}: run one copy only, or take over: "
                    "--take-over of a handler, in Python DataDict(..., take_over=True)"
                )
            self._rest[name] = rest
            waiting = waiting or rest >= 0
        return waiting or time.monotonic() < self._late()

    def _late(self) -> float:
        """Return until when a writer that is not there may come back: it can't renew while the server is down."""
        if self._late_until is None:
            try:
                text = self._connection.ask("INFO", "server")
                text = text if isinstance(text, str) else text.decode()
                up = int(text.partition("uptime_in_seconds:")[2].split()[0])
            except (ServerRefused, ServerSetupError, ValueError, IndexError):
                up = 0  # this user may not ask
            self._late_until = time.monotonic() + (_LATE if up < 2 * LEASE else 0.0)
        return self._late_until


class _Renewal:
    """A thread that says again and again that a program lives, as long as its lease is not forgotten."""

    def __init__(self, lease: Lease, connection: Connection, alive: bytes) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_renew, args=(connection, alive, self._stop), name="shareddata lease", daemon=True
        )
        self._thread.start()
        self._finalizer = weakref.finalize(lease, self._stop.set)

    def end(self) -> None:
        """End the thread; one that waits for a silent server ends after its time-out."""
        self._stop.set()
        self._thread.join(_POLL)

    def forget(self) -> None:
        """Leave the thread alone: it has ended, or is the parent's of a forked child."""
        self._finalizer.detach()


def _renew(connection: Connection, alive: bytes, stop: threading.Event) -> None:
    """Say again and again that this program lives, until it is told to stop.

    Redis: SET.
    """
    try:
        while not stop.wait(_RENEW):
            try:
                connection.settle()
                connection.command(alive)
            except ServerError as error:
                log.debug("the lease is not renewed: %s", error)
    finally:
        connection.close()


def holders(connection: Connection, keys: Names, names: Sequence[str]) -> dict[str, tuple[dict[str, Any], bool]]:
    """Return who holds records, by name, and whether that program lives; records that nobody holds are left out.

    Redis: MGET; PTTL for each.
    """
    if not names:
        return {}
    texts = connection.ask("MGET", *(keys.lease(name) for name in names))
    found = {name: holder for name, text in zip(names, texts) if (holder := _holder(text))}
    signs = {name: keys.writer(str(each.get("owner")), str(each["id"])) for name, each in found.items()}
    return {name: (each, int(connection.ask("PTTL", signs[name])) >= 0) for name, each in found.items()}


def who(holder: Mapping[str, Any]) -> str:
    """Return in words which program holds a record.

    >>> who({"app": "HDL_BATTERY", "program": "hdl_battery.py", "pid": 4711, "host": "robot", "since": "10:00"})
    "'HDL_BATTERY' ('hdl_battery.py', process 4711 on 'robot') writes it since '10:00'"
    """
    app, program, pid, host, since = (shown(holder.get(word)) for word in ("app", "program", "pid", "host", "since"))
    return f"{app} ({program}, process {pid} on {host}) writes it since {since}"


def _holder(text: bytes | None) -> dict[str, Any]:
    """Return what a lease says; nothing when there is none, or when what stands there is no lease."""
    try:
        found = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("id"), str) else {}
