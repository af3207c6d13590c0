"""DataDict: an application's view of the shared memory: what it reads, writes and listens to.

It knows groups of records, staging and flushing, and the memory of a group that nobody changed. It must not know RESP
or sockets (`wire`, `connection`), how change is waited for (`listen`), nor how two writers are kept apart (`lease`).
Invariants:

1. A group is read in one transaction and never torn; `flush` writes all that was staged in one transaction.
2. A flush that fails forgets nothing, and is never repeated by itself.
3. A group is answered from memory only while the server was heard within the last second, nothing in it was changed by
   anybody, and this program has not flushed any of its records since.
"""

import os
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from shareddata import csvlog
from shareddata.csvlog import CsvLog
from shareddata.data import Data
from shareddata.datadesc import Record
from shareddata.errors import FieldError, ServerRefused, UnknownData
from shareddata.fifo import Fifo
from shareddata.lease import Lease
from shareddata.listen import Listener
from shareddata.memory import SharedMemory
from shareddata.stream import Follower
from shareddata.wire import Group, Layout, transaction

_open: "weakref.WeakSet[DataDict]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for dd in list(_open):
        dd._after_fork()


os.register_at_fork(after_in_child=_forget_in_child)


class DataDict:
    """What one application reads and writes. Connects when it is first used.

    Args:
        app_name: the sender of the records it writes, and part of their CSV files' names.
        shm: the shared memory.
        take_over: write owned records also when another program does: that one can't any more.

    A DataDict belongs to one thread at a time. It is a context manager, and an endless iterator over the group declared
    with `set_datas_to_read`: each step reads it.

        >>> with DataDict("VIEWER", shm) as dd:
        ...     dd.set_datas_to_read(["BATTERY__measures"])
        ...     measures, = dd.next()
    """

    def __init__(self, app_name: str, shm: SharedMemory, *, take_over: bool = False) -> None:
        if not isinstance(app_name, str) or not app_name:
            raise FieldError(f"the application's name is {app_name!r}, expected a text: it is its records' sender")
        self.app_name = app_name
        self.shm = shm
        self.take_over = take_over
        self._reader = shm.connect(app_name)
        self._reader.tracking = True  # its answers are kept until one is changed
        self._writer = shm.connect(app_name)
        self._group: Group | None = None
        self._read_names: frozenset[str] = frozenset()
        self._memory: Callable[[], list[Any]] | None = None
        self._written: dict[str, Data] = {}
        self._staged: dict[Data, None] = {}
        self._lease: Lease | None = None  # as long as none of the records has an owner
        self._dependents: weakref.WeakSet[Listener | Follower | Fifo] = weakref.WeakSet()
        shm.attach(self)
        _open.add(self)

    def __repr__(self) -> str:
        return f"<DataDict {self.app_name} on {self.shm.url}: {len(self._staged)} staged>"

    def __enter__(self) -> "DataDict":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and CSV files. What was staged and not flushed is not written.

        Redis: for records with an owner MULTI, DEL, EXEC.
        """
        for dependent in list(self._dependents):
            dependent.close()
        if self._lease is not None:
            self._lease.release()
        self._reader.close()
        self._writer.close()
        for data in self._written.values():
            if data.csv is not None:
                data.csv.close()

    # -- reading --------------------------------------------------------------------------------------------------

    def set_datas_to_read(self, names: Iterable[str]) -> None:
        """Declare records to read; several calls append to the group.

        Args:
            names: a list of record names; the order is that of the trames.

        Raises:
            UnknownData: no such record.

        Redis: HMGET when the descriptions changed.
        """
        layouts = self.shm.layouts(_listed(names))
        self._group = Group([*(self._group.layouts if self._group else ()), *layouts])
        self._read_names |= {layout.record.name for layout in layouts}
        self._memory = None

    def read(self, *, fresh: bool = False) -> list[Any]:
        """Return the group's trames, in the order of declaration.

        None stands for a record that expired, was deleted, or was never written and described with an empty sender.
        A group that nobody changed is answered from memory, while the server was heard within the last second.

        Args:
            fresh: ask the server in any case.

        Raises:
            ServerTimeout, ServerUnreachable: no answer within the time-out; a broken connection is asked anew once.
            DecodeError: what is in Redis does not fit the description.
            DescriptionError: the records were described anew, incompatibly.

        Redis: MULTI, HMGET for each record, EXEC; for a single record HMGET.
        """
        if self._memory is not None and not fresh and self._reader.quiet():
            return self._memory()
        return self._ask()

    next = __next__ = read

    def __iter__(self) -> "DataDict":
        return self

    def _ask(self) -> list[Any]:
        group, reader, self._memory = self._group, self._reader, None
        if group is None:
            raise UnknownData("nothing to read was declared: call set_datas_to_read([...]) first")
        reader.settle()
        if reader.epoch_news:
            self.shm.recheck(reader, group.layouts)
        replies = reader.read(group.request, group.layouts)
        trames = group.decode(replies)
        if not reader.invalidated:
            self._memory = partial(group.decode, replies) if group.mutable else trames.copy
        return trames

    # -- writing --------------------------------------------------------------------------------------------------

    def set_datas_to_write(self, names: Iterable[str]) -> list[Data]:
        """Declare records to write, and open their CSV files when $LOGDIR is set.

        Of a record that has an owner in its description this program becomes the only writer, until `close` or its end.
        Where a program that wrote it was killed, that takes up to five seconds.

        Args:
            names: a list of record names.

        Returns:
            A list of `Data`, one for each name, also when there is only one.

        Raises:
            UnknownData: no such record.
            WriterConflict: another program writes one that has an owner; the message names it.

        Redis: HMGET when the descriptions changed; MULTI, HMGET for each record, EXEC; for records with an owner WATCH,
            MGET, MULTI, SET, EXEC.
        """
        layouts = self.shm.layouts(_listed(names))
        group = Group(layouts)
        self._claim([layout.record for layout in layouts])
        now = group.decode(self._read_own(group)) if layouts else []
        for layout, trame in zip(layouts, now):
            name = layout.record.name
            if name not in self._written:
                values = layout.defaults() if trame is None else trame
                self._written[name] = Data(layout, self.app_name, values, self._staged, self._csv(layout))
        return [self._written[layout.record.name] for layout in layouts]

    def _read_own(self, group: Group) -> list[Any]:
        """Read what is to be written, on the connection of the flushes."""
        writer, layouts = self._writer, group.layouts
        writer.settle()
        answers = writer.read(group.request, layouts)
        if self._lease is not None and len(layouts) > 1:
            self._lease.doubt()
            answers = answers or writer.read(group.request, layouts)  # void when another program took a record
        return answers

    def _claim(self, records: Sequence[Record]) -> None:
        """Become the writer of the records that have an owner."""
        held = self._lease
        owners = {each.name: each.owner for each in records if each.owner and not (held and held.holds(each.name))}
        if owners:
            lease = held or Lease(self._writer, self.shm, self.app_name)
            try:
                lease.claim(owners, self.take_over)
            except ServerRefused as error:
                raise _with_owners(error, [each for each in records if each.name in owners]) from None
            self._lease = lease

    def _csv(self, layout: Layout) -> CsvLog | None:
        folder = csvlog.folder_from_environment()
        if folder is None:
            return None
        record = layout.record
        return CsvLog(folder, self.app_name, record.name, [f.name for f in record.fields], record.as_json())

    def flush(self, ts: float | None = None) -> int:
        """Write all that was set since the last flush, in one transaction.

        A record without history that is flushed alone is one HSET, atomic by itself. If this raises, nothing is
        forgotten: the next flush writes the same ts, sender and values. `outcome_unknown` of the error tells whether
        the server may have applied it already.

        Args:
            ts: one time for all of them, in seconds since 1970, instead of their own.

        Returns:
            How many records were written.

        Raises:
            ServerTimeout, ServerUnreachable, ServerRefused: see `outcome_unknown`; the message lists what was written.
            DescriptionError: the records were described anew, incompatibly; nothing was written.
            WriterConflict: another program writes one of them now; nothing was written.
            Unconfirmed: written, and nothing is staged any more; but too few replicas have it (`confirm`).

        Redis: MULTI, HSET and XADD for each record (PEXPIRE or PERSIST when it may expire), EXEC; for records with an
        owner also WATCH, GET.
        """
        staged, writer = self._staged, self._writer
        if not staged:
            return 0
        if ts is not None:
            for data in staged:
                data.restamp(ts)
        writer.settle()
        if writer.epoch_news:
            self._described_anew()
        parts: list[bytes] = []
        subjects: list[Layout | str] = []
        expiring: list[Data] = []
        for data in staged:
            layout, body = data.layout, data.body
            if layout.has_history:
                parts += (layout.hset, body, layout.xadd_since(writer.clock()) if layout.span else layout.xadd, body)
                subjects += (layout, layout.history)
            else:
                parts += (layout.hset, body)
                subjects.append(layout)
            if data.may_expire or data.expire is not None:
                parts.append(layout.expiry(data.expire))
                subjects.append(layout)
                expiring.append(data)
        try:
            if self._lease is not None:
                self._lease.transact(transaction(parts), subjects, staged)
            elif len(subjects) == 1:
                writer.command(b"".join(parts))
            else:
                writer.transact(transaction(parts), subjects)
        except ServerRefused as error:
            raise _with_owners(error, [data.layout.record for data in staged]) from None
        for data in expiring:
            data.may_expire = data.expire is not None
        if self._read_names and not self._read_names.isdisjoint([data.name for data in staged]):
            self._memory = None  # who writes reads at once what it wrote
        count = len(staged)
        staged.clear()
        if self.shm.confirm:
            writer.check()
        return count

    def write(self, timestamp: float | None = None) -> int:
        """Flush; the name that later versions of SimpleSHM use.

        Redis: as `flush`.
        """
        return self.flush(timestamp)

    def _described_anew(self) -> None:
        """Take up a compatible new description of the records that are written."""
        if not self.shm.recheck(self._writer, [data.layout for data in self._written.values()]):
            return
        for data in self._written.values():
            data.adopt(data.layout.described_as(self.shm.describe(data.name), self.shm.keys))
        try:
            self._claim([data.layout.record for data in self._written.values()])
        except BaseException:
            self._writer.epoch_news = True  # a record that has an owner now is not written without a claim
            raise

    # -- waiting --------------------------------------------------------------------------------------------------

    def listen_to_datas(
        self, names: Iterable[str], pattern: str | None = None, timeout: float | None = None
    ) -> Listener:
        """Wait for news: yield the group, always as a list, whenever its first record is written by anybody.

        It is subscribed when this returns. A slow program skips to the newest values and never sees older ones again;
        `follow_data` gives every update.

        Args:
            names: the records to read; the first is the one that is heard.
            pattern: a glob of record names that are heard instead of the first.
            timeout: seconds of silence after which the iteration ends; None for never.

        Redis: SUBSCRIBE (PSUBSCRIBE), CONFIG GET, CONFIG SET; MULTI, HMGET for each record, EXEC at each news.
        """
        layouts = self.shm.layouts(_listed(names))
        listener = Listener(self.shm, layouts, pattern, timeout, self.app_name)
        self._dependents.add(listener)
        return listener

    def follow_data(self, name: str, since: float | str | None = None, timeout: float | None = None) -> Follower:
        """Yield every flushed update of a record, in order, from its history.

        Args:
            name: the record.
            since: None from now on, 0 from the oldest that is kept, seconds since 1970, or an entry's id.
            timeout: seconds of silence after which the iteration ends; None for never.

        Redis: XREAD, XINFO STREAM.
        """
        follower = Follower(self.shm, self.shm.layout(name), since, timeout, self.app_name)
        self._dependents.add(follower)
        return follower

    def declare_fifos(self, names: Iterable[str]) -> list[Fifo]:
        """Return queues, one for each name: many writers, each element taken by one reader.

        Redis: none.
        """
        fifos = [Fifo(self.shm, name, self.app_name) for name in _listed(names)]
        for fifo in fifos:
            self._dependents.add(fifo)
        return fifos

    def _after_fork(self) -> None:
        """In a forked child: what the parent has staged is the parent's, CSV files go on under another name."""
        self._staged.clear()
        self._memory = None
        if self._lease is not None:
            self._lease.forget()
        for data in self._written.values():
            if data.csv is not None:
                data.csv.reopen()


def _with_owners(error: ServerRefused, records: Sequence[Record]) -> ServerRefused:
    """Return the error for a lack of rights with the names of those who have them."""
    if "NOPERM" not in str(error):
        return error
    named = [each for each in records if re.search(rf"record {re.escape(each.name)}\b", str(error))] or records
    whose = ", ".join(f"{each.name} {f'belongs to {each.owner}' if each.owner else 'has no owner'}" for each in named)
    return ServerRefused(f"{error} ({whose})", outcome_unknown=error.outcome_unknown)


def _listed(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"{names!r} is a text, expected a list of names: [{names!r}]")
    return list(names)
