"""The shared memory: one namespace on one server.

It knows descriptions, initialisation, readiness and the epoch of a namespace. It must not know how values are staged,
read or waited for: that is `datadict`'s and `listen`'s (only the past, in which nothing changes, is read here: `at`).
Invariants:

1. `init` is one transaction: a program sees the records all as before or all as after it.
2. A wrong description changes nothing.
3. A description that was read is kept until the epoch changes.
"""

import difflib
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

from shareddata import descfile, eras
from shareddata.address import Address, resolve
from shareddata.clock import ServerClock
from shareddata.confirmed import ConfirmedConnection
from shareddata.connection import Connection
from shareddata.datadesc import Record, check_compatible
from shareddata.descfile import Source
from shareddata.described import Descriptions
from shareddata.eras import Decode, Era
from shareddata.errors import (
    DecodeError,
    DescriptionError,
    NotInitialized,
    ServerRefused,
    ServerSetupError,
    UnknownData,
)
from shareddata.moment import Moment
from shareddata.names import FORMAT_VERSION, Names
from shareddata.wire import Layout, pack, question, transaction

log = logging.getLogger("shareddata")

READY = b"OK"
"""What the ready flag holds."""

_shared: "weakref.WeakSet[SharedMemory]" = weakref.WeakSet()


_defaults: "dict[str, SharedMemory]" = {}
_defaults_lock = threading.Lock()


def _free_locks_in_child() -> None:
    global _defaults_lock
    _defaults_lock = threading.Lock()
    for shm in list(_shared):
        shm._lock = shm.clock.lock = threading.RLock()


os.register_at_fork(after_in_child=_free_locks_in_child)


class _Closable(Protocol):
    def close(self) -> None: ...


class SharedMemory:
    """The records of one namespace on one server. The constructor connects.

    Args:
        host: the server's name or address, `localhost` if None.
        port: its TCP port, 6379 if None.
        env_init: the name of the environment variable that holds the name of the ready flag. When given, the
            constructor also waits for that flag (`wait_for_init`).
        url: the server's address instead of host and port: `redis://`, `rediss://`, `unix://`, `embedded:///folder`,
            `sentinel://host,host/name`, `cluster://host,host`.
            Without url, host and port: $SHAREDDATA_URL, else localhost:6379.
        namespace: records of different namespaces don't know each other; `""` for none.
        wait: seconds to wait for the first connection.
        timeout: seconds within which each later call returns or raises.
        confirm: how many replicas have to have a write before it counts as done; see `Unconfirmed`.

    Raises:
        ServerUnreachable, ServerRefused, ServerSetupError: no server, or not on these terms.
        NotInitialized: the ready flag did not come.

    Attributes:
        clock: the server's clock: `clock.now()`, `clock.offset`.

    It may be shared by threads, is a context manager, and closes what was made on it (`DataDict`, ...) with it.

    Redis: CLIENT TRACKING, GET.
    """

    _clock = ServerClock

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        env_init: str | None = None,
        *,
        url: str | Address | None = None,
        namespace: str = "",
        wait: float = 10.0,
        timeout: float = 3.0,
        confirm: int = 0,
    ) -> None:
        if not isinstance(confirm, int) or confirm < 0:
            raise ValueError(f"confirm={confirm!r}, expected a number of replicas, 0 for none")
        if not (isinstance(timeout, int | float) and 0 < timeout < 1e9):
            raise ValueError(f"timeout={timeout!r}, expected seconds above 0")
        self.confirm = confirm
        self.address: Address = resolve(url, host, port)
        self.keys = Names(namespace)
        if self.address.several and self.address.several.scheme == "cluster" and not namespace:
            raise ServerSetupError(
                f"{self.address.shown}: in a cluster records need a namespace, which is in one slot: "
                "SharedMemory(..., namespace='usv1'), or -n usv1 on the command line"
            )
        self.env_init = env_init
        self.timeout = timeout
        self._lock = threading.RLock()
        self._dependents: weakref.WeakSet[_Closable] = weakref.WeakSet()
        self._connection = SharedMemory.connect(self, setup=self._check_format)  # `aio` makes its others another way
        self.clock = self._clock(self._connection, self._lock)
        self._described = Descriptions(self._connection, self.keys, self.clock.now)
        _shared.add(self)
        try:
            self._connection.open(wait)
            if env_init is not None:
                self.wait_for_init()
        except BaseException:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        namespace = f", namespace {self.namespace!r}" if self.namespace else ""
        return f"<SharedMemory {self.url}{namespace}>"

    def __enter__(self) -> "SharedMemory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and CSV files of everything made on this memory. What was staged is not written."""
        with ExitStack() as stack:  # each is closed, also when another one raises
            stack.callback(self._connection.close)
            for dependent in list(self._dependents):
                stack.callback(dependent.close)

    @property
    def url(self) -> str:
        """The server's address, with the password blanked."""
        return self.address.shown

    @property
    def namespace(self) -> str:
        """The namespace, `""` for none."""
        return self.keys.namespace

    def connect(self, name: str = "shareddata", setup: Callable[[Connection], None] | None = None) -> Connection:
        """Return a new connection, not opened yet, for one thread of this program.

        Args:
            name: what `CLIENT LIST` shows of it.
            setup: called each time the connection was opened.
        """
        if self.confirm:
            return ConfirmedConnection(self.address, self.timeout, self.keys.epoch, setup, name).require(self.confirm)
        return Connection(self.address, self.timeout, self.keys.epoch, setup, name)

    def attach(self, dependent: _Closable) -> None:
        """Close something when this memory is closed."""
        self._dependents.add(dependent)

    # -- descriptions ---------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of the described records, sorted.

        Redis: HGETALL when the descriptions changed.
        """
        with self._lock:
            return self._described.names()

    def describe(self, name: str, at: float | str | None = None) -> Record:
        """Return the description of a record: its fields, units and limits.

        Args:
            name: the record.
            at: seconds since 1970, by the server's clock, or the id of an entry of its history: the description that
                was in force then. Of times before the oldest one that is known that one; None for now.

        Raises:
            UnknownData: no record has this name; the message names near ones.
            DecodeError: what is in Redis is no description.

        Redis: HMGET when it was not read since the descriptions changed; with `at` XREVRANGE.
        """
        if at is not None:
            now = self.describe(name)
            then = eras.milliseconds(at) if isinstance(at, str) else millisecond(at)
            return replace(eras.in_force(self.eras(name), now, then), clock=self.clock.now)
        with self._lock:
            record = self._described.get(name)
            if record is not None:
                return record
            names = self._described.names()
        within = f" in the namespace {self.namespace!r}" if self.namespace else ""
        init = f"`shareddata init{f' -n {self.namespace}' if self.namespace else ''} FILE...`"
        if not names:
            raise UnknownData(f"{self.url}: no record {name!r}: nothing is described there{within}: run {init}")
        near = difflib.get_close_matches(str(name), names, 3)
        there = f"there are {len(names)}: see `shareddata list`, or"
        hint = f"did you mean {' or '.join(near)}? Else" if near else there
        raise UnknownData(f"{self.url}: no record {name!r} is described{within}: {hint} describe it: {init}")

    def layout(self, name: str) -> Layout:
        """Return the prepared bytes of a record.

        Raises:
            UnknownData: no record has this name.
        """
        return Layout(self.describe(name), self.keys)

    def layouts(self, names: Sequence[str]) -> list[Layout]:
        """Return the prepared bytes of records, whose descriptions are asked for at once.

        Raises:
            UnknownData: no record has one of these names.

        Redis: HMGET when they were not read since the descriptions changed.
        """
        with self._lock:
            self._described.ask_for(names)
            return [self.layout(name) for name in names]

    def recheck(self, connection: Connection, layouts: Sequence[Layout]) -> bool:
        """Check that records are still described as a program knows them, when their connection has news of the epoch.

        A server that was started again without its data has no descriptions: the program goes on, with a warning.

        Returns:
            False when the server has no descriptions.

        Raises:
            DescriptionError: one was described anew, incompatibly.
            UnknownData: one is not described any more.

        Redis: GET, and HMGET when the epoch is another one.
        """
        epoch = connection.refresh_epoch()
        if epoch is None:
            log.warning("%s: the server has lost its descriptions: going on; initialise it again", self.url)
            return False
        try:
            self._compare(epoch, layouts)
            return True
        except BaseException:
            connection.epoch_news = True
            raise

    def _compare(self, epoch: bytes, layouts: Sequence[Layout]) -> None:
        """Check that records are described, in this epoch, as a program knows them."""
        with self._lock:
            if epoch != self._described.epoch:
                self._described.forget()
            self._described.ask_for([layout.record.name for layout in layouts])
        for layout in layouts:
            check_compatible(layout.record, self.describe(layout.record.name))

    def epoch(self) -> int:
        """Return how often this namespace was initialised.

        Redis: GET.
        """
        with self._lock:
            epoch = self._connection.refresh_epoch()
            if epoch != self._described.epoch:
                self._described.forget()
            return int(epoch or 0)

    def _check_format(self, connection: Connection) -> None:
        """Refuse a layout that this library does not know.

        Redis: GET.
        """
        found = connection.ask("GET", self.keys.format)
        if found is not None and not (found.isdigit() and int(found) <= FORMAT_VERSION):
            raise ServerSetupError(
                f"{self.url}: the data there have format {found.decode(errors='replace')}, this library knows "
                f"{FORMAT_VERSION}: pip install --upgrade shareddata"
            )

    # -- the past -----------------------------------------------------------------------------------------------------

    def eras(self, name: str) -> list[Era]:
        """Return how a record was described earlier, the oldest first, each with the id of when that ended.

        Redis: XREVRANGE.
        """
        with self._lock:
            self._connection.settle()
            (answer,) = self._connection.read(eras.question(self.keys, name), [f"record {name}"])
        return eras.answered(self.keys, name, answer)

    def decoder(self, layout: Layout) -> Decode:
        """Return what decodes the entries of a record's history, each with the types that it was written with.

        Redis: XREVRANGE.
        """
        return eras.decoder(layout, self.keys, self.eras(layout.record.name))

    def at(self, time: float, before: bool = False) -> dict[str, Any]:
        """Return all records as they were at a time, from their histories.

        Initialisations and expiries are in no history: a record is as it was last flushed. `Recording.at` answers the
        same of a recording.

        Args:
            time: seconds since 1970, by the server's clock, of which histories know milliseconds.
            before: leave out what was flushed in that very millisecond.

        Returns:
            Trames by name; None for a record that nobody had flushed until then. What is not known is not in it:
            records without history, and those whose history does not reach back so far.

        Raises:
            DecodeError: an entry does not fit the description.

            >>> with DataDict("HDL_BATTERY", shm) as dd:
            ...     (measures,) = dd.set_datas_to_write(["BATTERY__measures"])
            ...     measures.set(voltage=12.5)
            ...     count = dd.flush()
            >>> shm.at(time.time() + 1)["BATTERY__measures"].voltage
            12.5

        Redis: MULTI, XREVRANGE twice for each record, EXEC; XINFO STREAM for each that had nothing then.
        """
        with self._lock:
            layouts = [layout for layout in self.layouts(self.names()) if layout.has_history]
            end = millisecond(time, before)
            commands = [pack("XREVRANGE", layout.history_key, end, "-", "COUNT", 1) for layout in layouts]
            commands += [eras.question(self.keys, layout.record.name) for layout in layouts]
            self._connection.settle()
            answers = self._connection.read(question(commands), layouts * 2) if commands else []
            found = Moment()
            for layout, entries, notes in zip(layouts, answers, answers[len(layouts) :]):
                if entries:
                    identity, fields = entries[0]
                    decode = eras.decoder(layout, self.keys, eras.answered(self.keys, layout.record.name, notes))
                    found[layout.record.name] = decode(fields, identity.decode())
                elif not self._trimmed(layout):
                    found[layout.record.name] = None
            return found

    def received(self, trames: Mapping[str, Any]) -> dict[str, float | None]:
        """Return when the server received values, by its own clock, which the histories know.

        Args:
            trames: by record name; None for a record that has no value.

        Returns:
            Seconds since 1970 by name; None where a trame is not the history's last one, or there is no history.

        Raises:
            UnknownData: no such record.

        Redis: MULTI, XREVRANGE for each record, EXEC.
        """
        with self._lock:
            layouts = [layout for name in trames if (layout := self.layout(name)).has_history]
            commands = [pack("XREVRANGE", layout.history_key, "+", "-", "COUNT", 1) for layout in layouts]
            self._connection.settle()
            answers = self._connection.read(question(commands), layouts) if commands else []
        found: dict[str, float | None] = dict.fromkeys(trames)
        for name, entries in zip((layout.record.name for layout in layouts), answers):
            if entries and trames[name] is not None and _same_flush(trames[name], entries[0][1]):
                found[name] = int(entries[0][0].partition(b"-")[0]) / 1000
        return found

    def first(self, name: str, since: int) -> float:
        """Return when the server received a history's first entry from a time on; infinity if there is none.

        Args:
            name: the record.
            since: milliseconds since 1970, as what is returned.

        Redis: XRANGE.
        """
        with self._lock:
            found = self._connection.ask("XRANGE", self.keys.history(name), since, "+", "COUNT", 1)
        return eras.milliseconds(found[0][0].decode()) if found else math.inf

    def _trimmed(self, layout: Layout) -> bool:
        """Tell whether a history has lost entries.

        Redis: XINFO STREAM.
        """
        try:
            info = self._connection.ask("XINFO", "STREAM", layout.history_key)
        except ServerRefused as error:
            if "no such key" in str(error):  # nothing was ever flushed
                return False
            raise
        return bool(info[b"entries-added"] > info[b"length"])

    # -- initialisation -------------------------------------------------------------------------------------------

    def init(
        self, *sources: Source, flag: str | None = None, keep: bool = False, prune: bool = False,
        earlier: Mapping[str, Sequence[Era]] | None = None,
    ) -> list[str]:
        """Describe records and blank them, all in one transaction.

        Other keys, other records, histories and logs stay. How a record with history was described until now is noted
        where that differs: what its history holds is read as it was written.

        Args:
            *sources: paths of JSON descriptions, or dictionaries.
            flag: the key that is set to OK; when None and the memory was made with `env_init`, that variable's value.
            keep: keep the values of fields that are described as before, add and remove the others.
            prune: drop records (with their histories) that were described earlier and are not any more.
            earlier: how records were described earlier on another server, whose entries are copied, from its `eras`: to
                be noted instead of how they were described here until now.

        Returns:
            The names of the described records.

        Raises:
            DescriptionError: a description is wrong; nothing was changed.

        Redis: HMGET, WATCH, GET, MULTI, DEL, HSET (with keep: HSETNX, HDEL), XADD, INCR, SET, EXEC.
        """
        records = descfile.load(*sources)
        flag = flag if flag is not None or self.env_init is None else self._flag()
        if flag in records:
            raise DescriptionError(f"the ready flag {flag!r} has a record's name: choose another one")
        with self._lock:
            while not self._initialise(records, flag, keep, prune, earlier or {}):
                self._described.forget()
            self._connection.check()
        return list(records)

    def _initialise(
        self, records: Mapping[str, Record], flag: str | None, keep: bool, prune: bool,
        earlier: Mapping[str, Sequence[Era]],
    ) -> bool:
        """Describe records, unless another program does at the same moment: then nothing is changed."""
        texts, epoch = self._described.texts(records), self._described.epoch
        before = {name: self.describe(name) for name in self.names()} if keep or prune else {}
        commands = []
        for record in records.values():
            layout = Layout(record, self.keys)
            commands += _merge(layout, before.get(record.name)) if keep else _blank(layout)
            declaration = record.declaration()
            if elsewhere := earlier.get(record.name):
                commands += [eras.note(self.keys, record.name, e.record.declaration(), e.until) for e in elsewhere]
            else:
                commands += self._note(record, texts[record.name], declaration.encode())
            commands.append(pack("HSET", self.keys.datadesc, record.name, declaration))
        for name in before.keys() - records.keys() if prune else ():
            keys = self.keys.record(name), self.keys.history(name), self.keys.described(name), self.keys.lease(name)
            commands.append(pack("DEL", *keys))
            commands.append(pack("HDEL", self.keys.datadesc, name))
        commands.append(pack("SET", self.keys.format, FORMAT_VERSION))
        commands.append(pack("INCR", self.keys.epoch))
        if flag:
            commands.append(pack("SET", self.keys.flag(flag), READY))
        self._connection.settle()
        self._connection.ask("WATCH", self.keys.epoch)
        if self._connection.ask("GET", self.keys.epoch) != epoch:
            self._connection.ask("UNWATCH")
            return False
        return bool(self._connection.transact(transaction(commands), ["initialisation"] * len(commands)))

    def _note(self, record: Record, text: bytes | None, declaration: bytes) -> list[bytes]:
        """Return the command that notes how a record was described until now, if that differs and it has a history."""
        if text is None or text == declaration:
            return []
        try:
            before = self._described.parsed(record.name, text)
        except DecodeError:  # what was no description is none of the past either
            return []
        return [eras.note(self.keys, record.name, text)] if before.history or record.history else []

    def wait_for_init(self, timeout: float = 10.0) -> None:
        """Wait until the ready flag says that the records are initialised.

        Args:
            timeout: seconds.

        Raises:
            NotInitialized: the flag did not come; at once when the environment variable is not set.

        Redis: GET.
        """
        flag = self._flag()
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                found = self._connection.ask("GET", self.keys.flag(flag))
            if found == READY:
                return
            if time.monotonic() >= deadline:
                shown = "is not there" if found is None else f"holds {found!r}"
                raise NotInitialized(
                    f"{self.url}: waited {timeout:g} s for the flag {flag!r}, which {shown}: "
                    f"run `python -m shareddata -i {self.env_init} datadesc.json`"
                )
            time.sleep(0.02)

    def _flag(self) -> str:
        if not self.env_init:
            raise NotInitialized("no ready flag was named: give SharedMemory(env_init='INIT_MSG')")
        flag = os.environ.get(self.env_init)
        if not flag:
            raise NotInitialized(
                f"the environment variable {self.env_init} is not set: export {self.env_init}=NAME_OF_THE_FLAG, the "
                "same for the initialisation and for all programs"
            )
        return flag


def default(shm: SharedMemory | None = None) -> SharedMemory:
    """Return the memory that was given, or this process's own one at the default address, made when it is first needed.

    For front rooms whose constructors need not name a server. It stays open as long as the process runs.

    Args:
        shm: the memory that was given, if any.

    Raises:
        ServerUnreachable, ServerRefused, ServerSetupError: no server at $SHAREDDATA_URL, else localhost:6379.
    """
    if shm is not None:
        return shm
    url = resolve().url
    with _defaults_lock:
        if url not in _defaults:
            _defaults[url] = SharedMemory()
        return _defaults[url]


def millisecond(time: float, before: bool = False) -> int:
    """Return the id of the last entry of a history up to a time, or `before` it: milliseconds since 1970.

    >>> millisecond(1784540000.123), millisecond(1784540000.123, before=True)
    (1784540000123, 1784540000122)
    """
    return -(-round(time * 1e6) // 1000) - 1 if before else round(time * 1e6) // 1000


def _same_flush(trame: Any, entry: Sequence[bytes]) -> bool:
    """Tell whether a history's entry is what a record holds, as far as its writer's name and time tell."""
    try:
        return bool(float(entry[1]) == trame.ts and entry[3].decode() == trame.sender)
    except (ValueError, IndexError):
        return False  # another program put it there


def _blank(layout: Layout) -> list[bytes]:
    """Return the commands that set a record to its defaults."""
    return [pack("DEL", layout.key), layout.hset + layout.pack(layout.defaults())]


def _merge(layout: Layout, before: Record | None) -> list[bytes]:
    """Return the commands that keep the fields that are described as before, and set the others to their defaults."""
    known: dict[str, Any] = {f.name: f.kind for f in before.fields} if before else {}
    body = layout.encode(layout.defaults())
    commands = []
    for field, value in zip(layout.record.fields, body):
        how = "HSETNX" if known.get(field.name, field.kind) == field.kind else "HSET"
        commands.append(pack(how, layout.key, field.name, value))
    gone = known.keys() - {f.name for f in layout.record.fields}
    if gone:
        commands.append(pack("HDEL", layout.key, *sorted(gone)))
    return commands
