"""The one writer of a frame file: whole chunks and what describes them, in transactions.

It knows who may write, what is staged, and which chunks are kept. It must not know indices or h5py. Invariants:

1. One program writes a generation: the one that opened it last. The next transaction of any other is void.
2. All that is staged goes in one transaction: whoever reads sees all of it or nothing.
3. Of a dataset at most `keep` chunks are in Redis, those that were written last; no file in memory outlives its chunk.
4. What is known here is the truth: after a failure, or a reconnection, the next transaction writes the description
   whole.

The key `frames:NAME` holds the claim: which generation is the file's, and who writes it, as JSON. It is watched while
there is a writer, so that each transaction is void when somebody changed it.
"""

import json
import os
import socket
import sys
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from shareddata.codec import Buffer, numpy
from shareddata.connection import Connection
from shareddata.errors import FieldError, WriterConflict
from shareddata.framestore import SEALED, Extent, FrameStore, Layout, chunk_field
from shareddata.grid import Shape, outside
from shareddata.large import LIMIT, Change, LargeValues
from shareddata.names import chunks_key
from shareddata.wire import bulk, pack, pieces

NEWS = 100
"""Transactions of which the news stream tells, at least: readers only wait on it."""

_writers: "weakref.WeakSet[FrameWriter]" = weakref.WeakSet()


def _discard_in_child() -> None:
    for writer in list(_writers):
        writer.give_up("it was opened before this process was forked: open it again with mode='r+'")


os.register_at_fork(after_in_child=_discard_in_child)


def claim(generation: str) -> bytes:
    """Return what the file's key holds when this program becomes the writer of a generation."""
    return json.dumps(
        {
            "generation": generation,
            "writer": uuid.uuid4().hex,
            "program": os.path.basename(sys.argv[0]) or "python",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        }
    ).encode()


def generation_of(claimed: bytes | None) -> str | None:
    """Return the generation that a claim names."""
    return str(json.loads(claimed)["generation"]) if claimed else None


class FrameWriter:
    """What a program does that writes a frame file.

    Args:
        store: the generation. Its connection is used, and reads on it must be single commands: the EXEC of a
            transaction would end its WATCH.
        claimed: what this program put there.
        large: the large values of this program.

    Attributes:
        description: what readers see after the next commit.

    Redis: MULTI, HMGET, HSET, HDEL, XADD, EXEC, WATCH, GET.
    """

    def __init__(self, store: FrameStore, claimed: bytes, large: LargeValues) -> None:
        self._store = store
        self._connection: Connection = store.connection
        self._key = key = store.file_key
        self._claimed = claimed
        self._large = large
        self.guard = pack("WATCH", key) + pack("GET", key)
        self.description = store.description
        self._acknowledged = dict(self.description.raw)
        self._dirty: set[bytes] = set()
        self._staged: dict[str, dict[Shape, Any]] = {}
        self._removed: dict[str, set[Shape]] = {}
        self._kept: dict[str, OrderedDict[Shape, None]] = {}  # in the order in which they were first written
        self._begun: dict[str, tuple[Shape, Any]] = {}  # the last chunk of each dataset that was written in part
        self._copies: dict[str, Any] = {}  # an array for each dataset, used again: new memory is as dear as the copy
        self._lent: dict[str, Any] = {}
        self._depth = 0
        self._at_once = False
        self._opened = 0
        self.ended = ""
        _writers.add(self)

    def adopt(self) -> None:
        """Go on with what the generation holds already.

        Redis: HKEYS for each dataset.
        """
        for path, layout in self.description.layouts.items():
            self._kept[path] = OrderedDict.fromkeys(self._store.chunks(layout))

    def created(self) -> None:
        """Be the writer whose creation was just carried out, with the guard behind it."""
        self._acknowledged = dict(self.description.raw)
        self._opened = self._connection.opened

    def give_up(self, reason: str) -> None:
        """Write no more; what is staged is dropped."""
        self.ended = self.ended or reason
        self._undo()

    # -- staging ------------------------------------------------------------------------------------------------------

    @property
    def grouping(self) -> bool:
        """Whether what is staged waits for the end of a `together` block of the program's."""
        return self._depth > 0 and not self._at_once

    def check(self) -> None:
        """Raise when nothing can be written any more."""
        if self.ended:
            raise WriterConflict(f"{self._store.subject}: {self.ended}")
        if self.description.state == SEALED:
            raise ValueError(f"{self._store.subject}: it was sealed: create it again with mode='w'")

    @contextmanager
    def together(self, at_once: bool = False) -> Iterator[None]:
        """Group all that is staged in the block in one transaction; an exception in the block drops it all.

        Args:
            at_once: the outermost block ends before the program could change what it stages.
        """
        self.check()
        self._at_once = self._at_once if self._depth else at_once
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            self._undo()
            raise
        self._depth -= 1
        if not self._depth:
            self.commit()

    def describe(self, kind: str, path: str, value: bytes) -> None:
        """Stage a change of the description."""
        self._dirty.add(self.description.put(kind, path, value))

    def extend(self, path: str, extent: Extent) -> None:
        """Stage how far a dataset reaches."""
        self.describe("extent", path, json.dumps(extent).encode())

    def stage(self, layout: Layout, chunk: Shape, array: Any) -> None:
        """Stage a whole chunk.

        Args:
            layout: the dataset.
            chunk: its place in the grid.
            array: its elements, contiguous; it is not changed until it is written.

        Raises:
            FieldError: more chunks are staged than the dataset keeps.
        """
        staged = self._staged.setdefault(layout.path, {})
        staged[chunk] = array
        if self._begun.get(layout.path, (None, array))[1] is not array:
            del self._begun[layout.path]
        self.check_room(layout, len(staged))

    def check_room(self, layout: Layout, count: int) -> None:
        """Raise FieldError when so many chunks at once are more than the dataset keeps."""
        if count > layout.keep:
            raise FieldError(
                f"{self._store.subject}, dataset {layout.path}: {count} chunks are written at once, and {layout.keep} "
                "are kept: create the dataset with a greater keep"
            )

    def copied(self, layout: Layout, part: Any) -> Any:
        """Return a copy of a whole chunk's elements, to be staged."""
        copy = self._copies.pop(layout.path, None)
        if copy is None:
            copy = numpy().empty(layout.chunks, layout.dtype)
        copy[...] = part
        self._lent[layout.path] = copy
        return copy

    def part(self, layout: Layout, chunk: Shape) -> Any:
        """Return the elements of a chunk as an array that may be changed and is then staged, None if none is known."""
        staged = self._staged.get(layout.path, {}).get(chunk)
        if staged is not None:
            return staged
        begun, array = self._begun.get(layout.path, ((), None))
        return array if begun == chunk else None

    def begin_part(self, layout: Layout, chunk: Shape, array: Any) -> None:
        """Remember the chunk that is written in part: its next part needs no reading."""
        self._begun[layout.path] = (chunk, array)

    def staged(self, layout: Layout, chunk: Shape) -> Any:
        """Return the elements of a staged chunk, None if it is not staged."""
        return self._staged.get(layout.path, {}).get(chunk)

    def has(self, layout: Layout, chunk: Shape) -> bool:
        """Tell whether a chunk is in Redis."""
        return chunk in self._kept.get(layout.path, ())

    def remove_outside(self, layout: Layout, shape: Shape) -> list[Shape]:
        """Stage the removal of the chunks beyond a shape; return those that are kept or staged and remain."""
        staged = self._staged.get(layout.path, {})
        known = [*dict.fromkeys([*self._kept.get(layout.path, ()), *staged])]
        beyond = {chunk for chunk in known if outside(shape, layout.chunks, chunk)}
        for chunk in beyond:
            staged.pop(chunk, None)
        self._begun.pop(layout.path, None)
        self._removed.setdefault(layout.path, set()).update(beyond)
        return [chunk for chunk in known if chunk not in beyond]

    # -- committing ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Commit what is staged, unless it waits for the end of `together`."""
        if not self._depth:
            self.commit()

    def commit(self) -> None:
        """Write all that is staged in one transaction.

        Raises:
            ServerUnreachable, ServerTimeout: writing the same again is harmless.
            ServerRefused: nothing was written.
            WriterConflict: another program writes this file now, or created a newer generation, or removed it.
        """
        if not (self._dirty or self._staged or self._removed):
            return
        try:
            self.check_conflict()
            self._watch()
            with self._large.change() as change:
                done = self._send(change)
            if not done:
                self._check_claim(self._connection.guarded)
                raise WriterConflict(f"{self._store.subject}: its claim was touched: nothing was written; try again")
        except BaseException:
            self._undo()
            raise
        self._acknowledged = dict(self.description.raw) if self._dirty else self._acknowledged
        self._forget_staged()

    def check_conflict(self) -> None:
        """Raise when this program is not the writer any more."""
        if self.ended:
            raise WriterConflict(f"{self._store.subject}: {self.ended}")

    def _watch(self) -> None:
        """See that the claim is watched; after a reconnection anew, and the whole description is written again.

        Redis: WATCH, GET.
        """
        self._connection.settle()
        while self._opened != self._connection.opened:
            opened = self._connection.opened
            self._connection.call("WATCH", self._key)
            self._check_claim(self._connection.call("GET", self._key))
            self._dirty.update(self.description.raw)
            self._opened = opened

    def _check_claim(self, found: bytes | None) -> None:
        if found == self._claimed:
            return
        self._opened = 0
        if generation_of(found) != self._store.generation:
            how = "a newer one was created" if found else "it was removed, or the server lost it"
            self.ended = f"{how}: create it again with mode='w'"
            self.check_conflict()
        who = json.loads(found or b"{}")
        self.ended = (
            f"{who.get('program')}, process {who.get('pid')} on {who.get('host')}, writes it since {who.get('since')}: "
            "nothing was written; run one writer only, or open it again with mode='r+' to take over"
        )
        self.check_conflict()

    def _send(self, change: Change) -> bool:
        """Send the transaction; False when it was void."""
        parts: list[Buffer] = []
        subjects: list[str] = []
        taken: list[int] = []
        stored: list[Buffer] = []
        drops = {path: self._drops(self.description.layouts[path]) for path in {**self._staged, **self._removed}}
        for path, dropped in drops.items():
            layout = self.description.layouts[path]
            for command, takes in self._chunk_commands(change, layout, dropped, stored):
                taken += [len(subjects)] if takes else []
                subjects.append(f"{self._store.subject}, dataset {path}")
                parts += command
        parts += self._news(subjects)
        request = pieces(parts)
        for path, staged in self._staged.items():
            self._kept.setdefault(path, OrderedDict()).update(dict.fromkeys(staged))  # whatever the outcome
        answers = self._connection.transact(request, subjects, self.guard)
        if not answers:
            change.replaced(*stored)
            return False
        for i in taken:
            change.replaced(*answers[i])
        for path, dropped in drops.items():
            for chunk in dropped:
                self._kept[path].pop(chunk, None)
        return True

    def _news(self, subjects: list[str]) -> list[Buffer]:
        """Return the commands that change the description and tell of the transaction."""
        commands: list[Buffer] = []
        if self._dirty:
            raw = self.description.raw
            pairs = [each for name in sorted(self._dirty & raw.keys()) for each in (name, raw[name])]
            commands.append(pack("HSET", self._store.key, *pairs))
            subjects.append(self._store.subject)
        what = " ".join(self._staged) or self.description.state
        commands.append(pack("XADD", self._store.news, "MAXLEN", "~", NEWS, "*", "written", what))
        subjects.append(self._store.subject)
        return commands

    def _drops(self, layout: Layout) -> list[Shape]:
        """Return the chunks that go with this transaction, and note the last of them in the extent."""
        kept, removed = self._kept.get(layout.path, ()), self._removed.get(layout.path, set())
        new = [chunk for chunk in self._staged.get(layout.path, ()) if chunk not in kept]
        excess = len(kept) + len(new) - sum(chunk in kept for chunk in removed) - layout.keep
        old = list(islice((chunk for chunk in chain(kept, new) if chunk not in removed), max(0, excess)))
        if old:
            shape, gone = self.description.extents[layout.path]
            last = max(old) if gone is None else max(gone, *old)
            if last != gone:
                self.extend(layout.path, Extent(shape, last))
        return [*old, *removed]

    def _chunk_commands(
        self, change: Change, layout: Layout, dropped: Sequence[Shape], stored: list[Buffer]
    ) -> Iterator[tuple[list[Buffer], bool]]:
        """Yield the commands that change a dataset's chunks, and whether they answer what they replace."""
        key = chunks_key(self._store.key, layout.path)
        staged = self._staged.get(layout.path, {})
        if layout.chunk_bytes > LIMIT and self._large.by_reference:
            touched = [*staged, *dropped]
            yield [pack("HMGET", key, *map(chunk_field, touched))], True
        if staged:
            command: list[Buffer] = [b"*%d\r\n" % (2 + 2 * len(staged)), bulk("HSET"), bulk(key)]
            for chunk, array in staged.items():
                value = change.pieces(key, array.reshape(-1).view("u1").data)
                stored += value
                command += (bulk(chunk_field(chunk)), b"$%d\r\n" % sum(map(len, value)), *value, b"\r\n")
            yield command, False
        if dropped:
            yield [pack("HDEL", key, *map(chunk_field, dropped))], False

    def _undo(self) -> None:
        """Forget what was staged: the description is that of the last commit, and is written whole with the next."""
        self.description.take(self._acknowledged, self._store.subject)
        self._forget_staged()
        self._begun.clear()
        self._dirty.update(self.description.raw)

    def _forget_staged(self) -> None:
        self._dirty.clear()
        self._staged.clear()
        self._removed.clear()
        self._copies.update(self._lent)
        self._lent.clear()
