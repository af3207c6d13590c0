"""What stands in Redis of one generation of a frame file, and reading it.

It knows the file's description, its chunks and its news. It must not know how a file is written, who may write it, or
what h5py looks like. Invariants:

1. A chunk is read whole: one field of a hash, or one file that is never changed.
2. Descriptions are as of one moment, the last `refresh`.
3. A chunk that is not there was never written, or is not kept any more: which of both is never guessed.

In Redis, for the generation `G` of the file `NAME` (its key is `frames:NAME:G`):

    frames:NAME:G          hash: `state`, `created`, `by_reference`, and for each object `group:/PATH`,
                           `dataset:/PATH` (JSON, never changed), `extent:/PATH` (JSON: shape, last chunk that is not
                           kept), `attrs:/PATH` (JSON)
    frames:NAME:G:/PATH    hash: `0.0.0` (a chunk's place in the grid) -> its elements, raw, little-endian, in C order;
                           or a reference to a file that holds them
    frames:NAME:G:news     stream: an entry for each transaction
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shareddata import large
from shareddata.codec import Buffer, numpy
from shareddata.errors import DecodeError, NoMoreFrames, NoSuchFrame
from shareddata.grid import Shape
from shareddata.memory import SharedMemory
from shareddata.names import chunks_key, generation_key, news_key
from shareddata.wire import pack, transaction

WRITING, SEALED, REPLACED, REMOVED = "writing", "sealed", "replaced", "removed"

_BLOCK = 1.0  # seconds, or half of the time-out
_PAGE_BYTES = 16_000_000  # asked for at once
_TRIES = 10  # to read chunks as of one moment


class Extent(NamedTuple):
    """How far a dataset reaches."""

    shape: Shape
    gone: Shape | None = None
    """The last chunk, in the order of the grid, that is not kept any more."""


@dataclass(frozen=True)
class Layout:
    """What of a dataset never changes.

    Attributes:
        path: its absolute path.
        dtype: numpy's name of the elements, little-endian.
        itemsize: bytes of an element.
        maxshape: None in a dimension that grows without end.
        chunks: the shape of a chunk.
        keep: how many chunks are kept.
    """

    path: str
    dtype: str
    itemsize: int
    maxshape: tuple[int | None, ...]
    chunks: Shape
    keep: int

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk."""
        return self.itemsize * math.prod(self.chunks)

    def as_json(self) -> bytes:
        """Return it as it stands in Redis."""
        stored = {"dtype": self.dtype, "maxshape": self.maxshape, "chunks": self.chunks, "keep": self.keep}
        return json.dumps(stored).encode()


@dataclass
class Description:
    """What a generation holds, but for the frames.

    Attributes:
        raw: the hash as it stands in Redis.
        state: writing, sealed, replaced by a newer generation, or removed.
        created: when, in seconds since 1970, by the creator's clock.
        by_reference: whether chunks may be references to files in memory.
        groups: their paths; the root's is `/`.
        layouts: the datasets, by path.
        extents: how far they reach.
        attrs: the attributes of each object that has some.
    """

    raw: dict[bytes, bytes] = field(default_factory=dict)
    state: str = WRITING
    created: float = 0.0
    by_reference: bool = False
    groups: set[str] = field(default_factory=lambda: {"/"})
    layouts: dict[str, Layout] = field(default_factory=dict)
    extents: dict[str, Extent] = field(default_factory=dict)
    attrs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, raw: Mapping[bytes, bytes], where: str) -> None:
        """Be as a hash in Redis says.

        Raises:
            DecodeError: it is no description.
        """
        for name in self.raw.keys() - raw.keys():
            self._forget(*_split(name))
        for name, value in raw.items():
            if self.raw.get(name) == value:
                continue
            try:
                self._learn(*_split(name), value)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DecodeError(
                    f"{where}, field {name.decode(errors='replace')}: found {value!r:.60}, expected what describes a "
                    f"frame file ({error!r}): another program wrote it"
                ) from None
        self.raw = dict(raw)

    def put(self, kind: str, path: str, value: bytes) -> bytes:
        """Change one thing; return its field."""
        name = f"{kind}:{path}".encode() if path else kind.encode()
        self._learn(kind, path, value)
        self.raw[name] = value
        return name

    def _learn(self, kind: str, path: str, value: bytes) -> None:
        if kind == "extent":
            shape, gone = json.loads(value)
            self.extents[path] = Extent(tuple(shape), None if gone is None else tuple(gone))
        elif kind == "attrs":
            self.attrs[path] = json.loads(value)
        elif kind == "dataset":
            of = json.loads(value)
            itemsize = numpy().dtype(of["dtype"]).itemsize
            self.layouts[path] = Layout(
                path, of["dtype"], itemsize, tuple(of["maxshape"]), tuple(of["chunks"]), of["keep"]
            )
        elif kind == "group":
            self.groups.add(path)
        elif kind == "state":
            self.state = value.decode()
        elif kind == "created":
            self.created = float(value)
        elif kind == "by_reference":
            self.by_reference = value == b"1"

    def _forget(self, kind: str, path: str) -> None:
        kinds: dict[str, dict[str, Any]] = {"extent": self.extents, "attrs": self.attrs, "dataset": self.layouts}
        kinds.get(kind, {}).pop(path, None)
        if kind == "group":
            self.groups.discard(path)


def _split(name: bytes) -> tuple[str, str]:
    kind, _, path = name.decode(errors="replace").partition(":")
    return kind, path


def chunk_field(chunk: Shape) -> bytes:
    """Return the field of a chunk.

    >>> chunk_field((3, 0, 0))
    b'3.0.0'
    """
    return ".".join(map(str, chunk)).encode() or b"0"


def chunk_of(name: bytes, dimensions: int) -> Shape:
    """Return the chunk of a field."""
    return tuple(int(number) for number in name.split(b".")) if dimensions else ()


class FrameStore:
    """One generation of a frame file, to be read. It has a connection and belongs to one thread at a time.

    Args:
        shm: the shared memory.
        name: the file's.
        generation: which one; `use` says it later.

    Attributes:
        subject: the file, for messages.
        connection: opened when it is first used.
        description: as of the last `refresh`.
    """

    def __init__(self, shm: SharedMemory, name: str, generation: str = "") -> None:
        self.name = name
        self.file_key = shm.keys.frames(name)
        self.subject = f"frame file {name!r}"
        self.connection = shm.connect("shareddata frames")
        self.connection.listening = True  # chunks are not tracked
        self.description = Description()
        self._seen = "0-0"
        self.use(generation)

    def use(self, generation: str) -> None:
        """Be the store of a generation."""
        self.generation = generation
        self.key = generation_key(self.file_key, generation)
        self.news = news_key(self.key)

    def refresh(self) -> None:
        """Read the description.

        Redis: MULTI, HGETALL, XREVRANGE, EXEC.
        """
        commands = [pack("HGETALL", self.key), pack("XREVRANGE", self.news, "+", "-", "COUNT", 1)]
        self.connection.settle()
        raw, last = self.connection.read(transaction(commands), [self.subject] * 2)
        if raw:
            self.description.take(raw, f"{self.connection.address.shown}, key {self.key}")
        else:
            self.description.state = REMOVED
        self._seen = last[0][0].decode() if last else "0-0"

    def wait(self, seconds: float) -> bool:
        """Wait until something was written since the last `refresh`.

        Returns:
            False when nothing was written in that time.

        Redis: XREAD.
        """
        deadline = time.monotonic() + seconds
        longest = min(_BLOCK, self.connection.timeout / 2)
        while True:
            rest = deadline - time.monotonic()
            block = ("BLOCK", max(1, int(1000 * min(longest, rest)))) if rest > 0 else ()
            if self.connection.ask("XREAD", "COUNT", 1, *block, "STREAMS", self.news, self._seen):
                return True
            if rest <= 0:
                return False

    def chunks(self, layout: Layout) -> list[Shape]:
        """Return which chunks are there, in the order of the grid.

        Redis: HKEYS.
        """
        fields = self.connection.ask("HKEYS", chunks_key(self.key, layout.path))
        return sorted(chunk_of(name, len(layout.chunks)) for name in fields)

    def has(self, layout: Layout, chunk: Shape) -> bool:
        """Tell whether a chunk is there.

        Redis: HEXISTS.
        """
        return bool(self.connection.ask("HEXISTS", chunks_key(self.key, layout.path), chunk_field(chunk)))

    def fetch(self, layout: Layout, chunks: Sequence[Shape]) -> list[Buffer | None]:
        """Return the bytes of chunks, None for those that are not there. Each is whole.

        They are as of one moment, but for more than 16 MB, and for large ones that are overwritten faster than they
        can be read.

        Redis: HMGET; again for chunks that were replaced meanwhile.
        """
        page = max(1, _PAGE_BYTES // max(1, layout.chunk_bytes))
        found: list[Buffer | None] = []
        for start in range(0, len(chunks), page):
            found += self._page(layout, chunks[start : start + page])
        return found

    def _page(self, layout: Layout, chunks: Sequence[Shape]) -> list[Buffer | None]:
        """Return the bytes of chunks as of one moment; each for itself when they change faster than they are read."""
        found: dict[int, Buffer | None] = {}
        before: dict[int, bytes] = {}
        tries = 0
        while len(found) < len(chunks):
            tries += 1
            wanted = [i for i in range(len(chunks)) if tries <= _TRIES or i not in found]
            fields = [chunk_field(chunks[i]) for i in wanted]
            for i, stored in zip(wanted, self.connection.ask("HMGET", chunks_key(self.key, layout.path), *fields)):
                try:
                    found[i] = None if stored is None else self._whole(layout, large.read(stored))
                except large.Gone:
                    if before.get(i) == stored:
                        raise large.lost(stored, f"{self.subject}, dataset {layout.path}") from None
                    before[i] = stored
                    found.pop(i, None)
        return [found[i] for i in range(len(chunks))]

    def _whole(self, layout: Layout, data: Buffer) -> Buffer:
        if len(data) != layout.chunk_bytes:
            raise DecodeError(
                f"{self.subject}, dataset {layout.path}: found a chunk of {len(data)} bytes, expected "
                f"{layout.chunk_bytes}: another program wrote it"
            )
        return data

    def check_absent(self, layout: Layout, chunk: Shape) -> None:
        """Raise when a chunk that is not there was there once.

        Raises:
            NoMoreFrames: the file was replaced or removed.
            NoSuchFrame: it is not kept any more; the message says which are.

        Redis: HKEYS when it raises.
        """
        state = self.description.state
        if state in (REPLACED, REMOVED):
            raise NoMoreFrames(f"{self.subject}: it was {state}: open it again to read what is there now")
        shape, gone = self.description.extents[layout.path]
        if gone is None or chunk > gone:
            return
        left = [_begin(each, shape, layout) for each in self.chunks(layout)]
        there = f"{len(left)} chunks are left, from {left[0]} to that at {left[-1]}" if left else "none are left"
        raise NoSuchFrame(
            f"{self.subject}, dataset {layout.path}: what begins at {_begin(chunk, shape, layout)} is not kept any "
            f"more: {there}; create the dataset with a greater keep than {layout.keep}"
        )


def _begin(chunk: Shape, shape: Shape, layout: Layout) -> str:
    """Return the first index of a chunk, in the dimensions that more than one chunk share."""
    scan = max((axis for axis, size in enumerate(shape) if size > layout.chunks[axis]), default=0) + 1
    numbers = [number * length for number, length in zip(chunk, layout.chunks)][:scan]
    return str(numbers[0]) if len(numbers) == 1 else str(tuple(numbers))
