"""The frame files of a namespace: which there are, in the order of their creation; making, taking over, removing.

It knows the claims of files, the stream that lists them, and how many there may be. It must not know what h5py looks
like. Invariants:

1. A name has one generation: whoever creates it anew removes the one before, in the same transaction.
2. There are at most `FILES`: creating another one removes the one that was finished first, or, when none is finished,
   the one that has not been written for longest.
3. What is removed leaves no chunk and no file in memory behind; its description stays for an hour, to say what
   happened.

The stream `shareddata:frames` has an entry for each file that there is: `name`, `generation`.
"""

import difflib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from shareddata.connection import Connection
from shareddata.errors import UnknownData
from shareddata.framestore import REMOVED, REPLACED, SEALED, WRITING, Description, FrameStore
from shareddata.framewriter import NEWS, FrameWriter, claim, generation_of
from shareddata.large import LIMIT, LargeValues
from shareddata.memory import SharedMemory
from shareddata.names import Names, chunks_key, generation_key, news_key
from shareddata.wire import pack, transaction

FILES = 16
"""How many frame files there are at most."""

_REMEMBERED = 3600  # seconds for which what happened to a generation is known


class Listed(NamedTuple):
    """An entry of the list of files."""

    id: str
    """Its place in the stream: the server's time in milliseconds, and a number."""
    name: str
    generation: str


class Info(NamedTuple):
    """What there is to know of a frame file without opening it: see `files`."""

    name: str
    generation: str
    created: float
    """When, in seconds since 1970, by the server's clock."""
    changed: float
    """When it was last written, the same."""
    state: str
    """`writing` or `sealed`."""
    writer: dict[str, Any]
    """The program that opened it last for writing: program, host, pid, since."""
    metadata: dict[str, Any]
    """The attributes of the file."""


def entry(fields: Sequence[Any]) -> Listed:
    """Return an entry of the stream."""
    identity, (_, name, _, generation) = fields
    return Listed(identity.decode(), name.decode(), generation.decode())


def listed(connection: Connection, keys: Names) -> list[Listed]:
    """Return the files that there are, in the order of their creation.

    Redis: XRANGE.
    """
    return [entry(each) for each in connection.ask("XRANGE", keys.frame_files(), "-", "+")]


def files(shm: SharedMemory) -> list[Info]:
    """Return what there is to know of all frame files, in the order of their creation.

    Redis: XRANGE; MULTI, HGETALL, XREVRANGE and GET for each, EXEC.
    """
    with _connected(shm) as connection:
        there = listed(connection, shm.keys)
        return [info for each, info in zip(there, _looked_at(connection, shm.keys, there)) if info.state != REMOVED]


def _looked_at(connection: Connection, keys: Names, there: Sequence[Listed]) -> list[Info]:
    if not there:
        return []
    commands = []
    for each in there:
        generation = generation_key(keys.frames(each.name), each.generation)
        commands += [
            pack("HMGET", generation, "state", "attrs:/"),
            pack("XREVRANGE", news_key(generation), "+", "-", "COUNT", 1),
            pack("GET", keys.frames(each.name)),
        ]
    connection.settle()
    answers = connection.read(transaction(commands), [f"frame file {each.name!r}" for each in there for _ in "123"])
    return [_info(each, *answers[3 * i : 3 * i + 3]) for i, each in enumerate(there)]


def _info(each: Listed, fields: Any, news: Any, claimed: bytes | None) -> Info:
    state, attrs = fields
    writer = json.loads(claimed) if claimed and generation_of(claimed) == each.generation else {}
    return Info(
        *(each.name, each.generation, _seconds(each.id), _seconds(news[0][0].decode()) if news else 0.0),
        REMOVED if state is None else state.decode(),
        {name: writer[name] for name in ("program", "host", "pid", "since") if name in writer},
        json.loads(attrs or b"{}"),
    )


def _seconds(identity: str) -> float:
    return int(identity.partition("-")[0]) / 1000


@contextmanager
def _connected(shm: SharedMemory) -> Iterator[Connection]:
    connection = shm.connect("shareddata frame files")
    try:
        connection.open()
        yield connection
    finally:
        connection.close()


def current(shm: SharedMemory, name: str, connection: Connection) -> str:
    """Return the generation that a name stands for now.

    Raises:
        UnknownData: there is no such file; the message names near ones.

    Redis: GET; XRANGE when it raises.
    """
    generation = generation_of(connection.ask("GET", shm.keys.frames(name)))
    if generation is None:
        names = [each.name for each in listed(connection, shm.keys)]
        near = difflib.get_close_matches(name, names, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {len(names)} others"
        raise UnknownData(f"{shm.url}: no frame file {name!r}: {hint}; mode='w' creates one")
    return generation


# -- writing ----------------------------------------------------------------------------------------------------------


def take_over(store: FrameStore, large: LargeValues) -> FrameWriter:
    """Become the writer of the generation that there is; whoever wrote it can't any more.

    Raises:
        UnknownData: there is no such file any more.
        ValueError: it was sealed.

    Redis: WATCH, GET, MULTI, SET, EXEC, WATCH, GET; MULTI, HGETALL, XREVRANGE, EXEC; HKEYS for each dataset.
    """
    mine = _claim(store.connection, store.file_key, store.generation)
    if mine is None:
        raise UnknownData(f"{store.subject}: it was replaced or removed just now: open it again")
    store.refresh()
    if store.description.state == SEALED:
        raise ValueError(f"{store.subject}: it was sealed: no more can be written; create it anew with mode='w'")
    writer = FrameWriter(store, mine, large)
    writer.adopt()
    if large.by_reference:
        writer.describe("by_reference", "", b"1")
    return writer


def _claim(connection: Connection, key: str, generation: str) -> bytes | None:
    """Put a claim of this program into a file's key; None when the key is of another generation.

    Redis: WATCH, GET, MULTI, SET, EXEC, WATCH, GET.
    """
    mine, guard = claim(generation), pack("WATCH", key) + pack("GET", key)
    while True:
        connection.call("WATCH", key)
        opened = connection.opened
        if generation_of(connection.call("GET", key)) != generation:
            connection.call("UNWATCH")
            return None
        if opened == connection.opened and connection.transact(transaction([pack("SET", key, mine)]), [key], guard):
            return mine


def create(
    shm: SharedMemory, name: str, large: LargeValues, metadata: bytes, only_new: bool
) -> tuple[FrameStore, FrameWriter]:
    """Create a file: a new generation of its name.

    Args:
        shm: the shared memory.
        name: the file's.
        large: the large values of this program.
        metadata: the attributes of the file, as they stand in Redis.
        only_new: refuse a name that there is already.

    Raises:
        FileExistsError: there is such a file, and only a new one was wanted.

    Redis: XRANGE; WATCH; MULTI, HGETALL, HVALS, DEL, SET, HSET, XADD, XDEL, EXPIRE, EXEC.
    """
    generation = uuid.uuid4().hex[:12]
    store = FrameStore(shm, name, generation)
    mine = claim(generation)
    writer = FrameWriter(store, mine, large)
    store.description.put("state", "", WRITING.encode())
    store.description.put("created", "", b"%a" % time.time())
    store.description.put("attrs", "/", metadata)
    if large.by_reference:
        store.description.put("by_reference", "", b"1")
    pairs = [each for pair in store.description.raw.items() for each in pair]
    making = [
        pack("SET", store.file_key, mine),
        pack("HSET", store.key, *pairs),
        pack("XADD", store.news, "*", "written", "created"),
        pack("XADD", shm.keys.frame_files(), "*", "name", name, "generation", generation),
    ]
    try:
        while not _made(shm, store.connection, large, name, making, writer.guard, only_new):
            pass  # others created or removed files meanwhile
    except BaseException:
        store.connection.close()
        raise
    writer.created()
    return store, writer


def remove(name: str, shm: SharedMemory) -> None:
    """Remove a frame file; its writer and its readers are told.

    Raises:
        UnknownData: there is no such file.

    Redis: as `create`.
    """
    with _connected(shm) as connection:
        current(shm, name, connection)
        large = LargeValues(shm)
        while not _removed(shm, connection, large, name):
            pass  # others created or removed files meanwhile


def _removed(shm: SharedMemory, connection: Connection, large: LargeValues, name: str) -> bool:
    there = [each for each in listed(connection, shm.keys) if each.name == name]
    return not there or _exchange(shm, connection, large, {there[0]: REMOVED}, [], pack("UNWATCH") + pack("UNWATCH"))


def _made(
    shm: SharedMemory, connection: Connection, large: LargeValues, name: str, making: list[bytes], guard: bytes,
    only_new: bool,
) -> bool:  # fmt: skip
    there = listed(connection, shm.keys)
    old = [each for each in there if each.name == name]
    if old and only_new:
        raise FileExistsError(f"{shm.url}: there is a frame file {name!r}: mode='w' replaces it")
    others = [each for each in there if each.name != name]
    victims = _victims(connection, shm.keys, others, len(others) + 1 - FILES) if len(others) >= FILES else []
    ends = {**dict.fromkeys(old, REPLACED), **dict.fromkeys(victims, REMOVED)}
    return _exchange(shm, connection, large, ends, making, guard)


def _victims(connection: Connection, keys: Names, there: Sequence[Listed], count: int) -> list[Listed]:
    """Return the files that make room: those that were finished first, then those not written for longest."""
    infos = _looked_at(connection, keys, there)
    order = sorted(zip(infos, there), key=lambda pair: (pair[0].state == WRITING, pair[0].changed))
    return [each for _, each in order[:count]]


def _exchange(
    shm: SharedMemory, connection: Connection, large: LargeValues, old: Mapping[Listed, str], making: list[bytes],
    guard: bytes,
) -> bool:  # fmt: skip
    """Remove generations, each with its last state, and make another one, in one transaction.

    Their writers are fenced off first, so that what is to be removed does not change any more.

    Returns:
        False when others created or removed files meanwhile.
    """
    keys = shm.keys
    for each in old:
        _claim(connection, keys.frames(each.name), each.generation)
    connection.call("WATCH", keys.frame_files(), *[keys.frames(each.name) for each in old])
    opened = connection.opened
    if not old.keys() <= set(listed(connection, keys)):
        connection.call("UNWATCH")
        return False
    commands: list[bytes] = []
    taken: list[int] = []
    for each, state in old.items():
        description = _described(connection, keys, each)
        referring = _referring(description) if large.by_reference else []
        taken += range(len(commands), len(commands) + len(referring))
        commands += _removal(keys, each, description, referring, state)
    commands += making
    if opened != connection.opened:
        return False
    with large.change() as change:
        answers = connection.transact(transaction(commands), ["the frame files"] * len(commands), guard)
        for i in taken if answers else ():
            change.replaced(*answers[i])
    if not answers:
        connection.call("UNWATCH")
    return bool(answers)


def _described(connection: Connection, keys: Names, each: Listed) -> Description:
    description, key = Description(), generation_key(keys.frames(each.name), each.generation)
    description.take(connection.ask("HGETALL", key), f"key {key}")
    return description


def _referring(description: Description) -> list[str]:
    """Return the datasets whose chunks are references."""
    layouts = description.layouts.values() if description.by_reference else ()
    return [layout.path for layout in layouts if layout.chunk_bytes > LIMIT]


def _removal(
    keys: Names, each: Listed, description: Description, referring: Sequence[str], state: str
) -> list[bytes]:  # fmt: skip
    """Return the commands that remove a generation; those that answer its references come first."""
    file = keys.frames(each.name)
    generation = generation_key(file, each.generation)
    return [
        *(pack("HVALS", chunks_key(generation, path)) for path in referring),
        pack("DEL", file, *(chunks_key(generation, path) for path in description.layouts)),
        pack("HSET", generation, "state", state),
        pack("EXPIRE", generation, _REMEMBERED),
        pack("XADD", news_key(generation), "MAXLEN", "~", NEWS, "*", "written", state),
        pack("EXPIRE", news_key(generation), _REMEMBERED),
        pack("XDEL", keys.frame_files(), each.id),
    ]
