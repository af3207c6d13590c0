"""Are the data as they should be: descriptions, records, their writers, and what streams keep.

It knows what a namespace holds and what may be wrong with it. It must not know the server's settings (`serverhealth`),
or how findings are shown. Invariants:

1. Looking changes nothing, and reads no more of a stream than its length and size.
2. What is wrong is told with a command that mends it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from shareddata import backlog, logs
from shareddata.datadesc import Record
from shareddata.descdiff import BEWARE, STOPS, differences
from shareddata.errors import ServerRefused
from shareddata.facts import NOTE, OK, WRONG, Facts, Finding, counted, several, size_text, unasked
from shareddata.lease import holders, who
from shareddata.table import View, age_text, clean
from shareddata.tslog import DEFAULT_MAX_BUCKETS
from shareddata.views import snapshot
from shareddata.wire import pack, question

_LONG = 86400.0  # seconds after which a record without a max_age is worth a note
_HELD_BACK = 8  # buckets that a reader may leave before it is told
_SAMPLES = 5
_PAGE = 500
_KINDS = {
    "tslog:": "logs", "sensor:": "sensors", "frames:": "frame files", "event:": "events", "fifo:": "queues",
    "shareddata:": "the library's own",
}  # fmt: skip


def described(facts: Facts, files: Mapping[str, Record]) -> Iterator[Finding]:
    """Whether the records are described, and as the files say."""
    shm = facts.shm
    here = {name: shm.describe(name) for name in shm.names()}
    if not here:
        where = f" in the namespace {shm.namespace!r}" if shm.namespace else ""
        yield Finding("descriptions", WRONG, f"nothing is described there{where}", "shareddata init FILE...")
        return
    missing = [name for name in files if name not in here]
    if missing:
        text = f"the files describe {several(missing)}, and the server does not know them"
        yield Finding("descriptions", WRONG, text, "shareddata init --keep FILE...")
    both = [name for name in files if name in here]
    found = differences({name: here[name] for name in both}, {name: files[name] for name in both})
    for each in found:
        verdict, text = WRONG if each.verdict in (STOPS, BEWARE) else NOTE, f"the files differ from the server: {each}"
        yield Finding("descriptions", verdict, text, "shareddata init --keep FILE...")
    if not missing and not found:
        asked = ", as the files say" if files else ""
        yield Finding("descriptions", OK, f"{counted(len(here), 'record')}, epoch {shm.epoch()}{asked}")


def records(facts: Facts, files: Mapping[str, Record]) -> Iterator[Finding]:
    """Whether records are written, can be read, and bear right times."""
    views, now = snapshot(facts.shm, facts.shm.names()), facts.shm.clock.now()
    held = holders(facts.connection, facts.shm.keys, [view.record.name for view in views if view.record.owner])
    fresh = 0
    for view in views:
        name = view.record.name
        if view.damage:
            remedy = f"shareddata set {name} FIELD=VALUE..., and end the program that wrote it"
            yield Finding("records", WRONG, view.damage, remedy)
        elif view.stale(now):
            yield Finding("records", WRONG, _old(view, now, held.get(name)), "start its writer again")
        elif view.written and (note := view.notes(now)):
            text, remedy = f"{name}: {note}", "on the writer's machine: timedatectl set-ntp true"
            yield Finding("records", WRONG, text, remedy)
        elif view.written and (view.age(now) or 0) > _LONG and view.record.max_age is None:
            yield Finding("records", NOTE, f"{name} was not written for {age_text(view.age(now))}")
        else:
            fresh += view.written
    never = [view.record.name for view in views if not view.written and not view.damage]
    if never:
        yield Finding("records", NOTE, f"never written since they were described: {several(never)}")
    if views:
        yield Finding("records", OK, f"{fresh} of {len(views)} are written and fresh")


def _old(view: View, now: float, held: tuple[dict[str, object], bool] | None) -> str:
    text = f"{view.record.name} is {view.notes(now)}: not written for {age_text(view.age(now))}"
    if held is None:
        return f"{text}; {clean(view.trame.sender)} wrote it last, and nobody holds it now"
    holder, lives = held
    return f"{text}; {who(holder)}, and {'lives: does its device?' if lives else 'was killed, or cut off'}"


def sizes(facts: Facts, files: Mapping[str, Record]) -> Iterator[Finding]:
    """How much memory records and streams take, and what they may grow to."""
    keys = facts.shm.keys
    names = facts.shm.names()
    try:
        size_of = _memory(facts, [keys.record(name) for name in names] + [keys.history(name) for name in names])
    except ServerRefused:
        yield unasked("sizes", "MEMORY USAGE")
        return
    now = [size_of[keys.record(name)] for name in names]
    histories = [size_of[keys.history(name)] for name in names]
    if names:
        most, biggest = max(zip(histories, names))
        text = f"{counted(len(names), 'record')}: {size_text(sum(now))} ({size_text(sum(now) / len(names))} each)"
        more = f"their histories {size_text(sum(histories))}, the biggest {biggest} with {size_text(most)}"
        yield Finding("sizes", OK, f"{text}, {more}")
        full = sum(_when_full(facts, name, size_of[keys.history(name)]) for name in names)
        yield from _bound(facts, full)
    for kind, (count, size) in _others(facts).items():
        yield Finding("sizes", OK, f"{kind}: {counted(count, 'key')}, {size_text(size)}")


def _when_full(facts: Facts, name: str, size: int) -> float:
    """Return the bytes that a history takes when it is full; one that is bounded by time as it is now."""
    bound = facts.shm.describe(name).history
    length = facts.connection.ask("XLEN", facts.shm.keys.history(name))
    return size * max(1.0, int(bound) / length) if isinstance(bound, int) and length else size


def _bound(facts: Facts, full: float) -> Iterator[Finding]:
    """Say whether all histories fit into the server's memory when they are full."""
    most = facts.number("maxmemory")
    if most and full > most:
        yield Finding(
            "sizes", WRONG, f"the histories will take {size_text(full)} when they are full, and the server may use "
            f"{size_text(most)}",
            'describe them with fewer trames ("history": 100), then shareddata init --keep FILE...',
        )  # fmt: skip
    else:
        yield Finding("sizes", OK, f"the histories take {size_text(full)} when they are full")


def _memory(facts: Facts, keys: Sequence[str]) -> dict[str, int]:
    """Return the bytes that keys take, 0 for one that is not there.

    Redis: MULTI, MEMORY USAGE for each, EXEC.
    """
    found: dict[str, int] = {}
    for start in range(0, len(keys), _PAGE):
        page = keys[start : start + _PAGE]
        commands = [pack("MEMORY", "USAGE", key, "SAMPLES", _SAMPLES) for key in page]
        facts.connection.settle()
        answers = facts.connection.read(question(commands), ["the size of a key"] * len(commands))
        found.update((key, size or 0) for key, size in zip(page, answers))
    return found


def _others(facts: Facts) -> dict[str, tuple[int, int]]:
    """Return how many keys there are beside records, and their bytes, by kind.

    Redis: SCAN, MEMORY USAGE.
    """
    prefix, cursor = facts.shm.keys.prefix, b"0"
    found: dict[str, list[str]] = {}
    while True:
        cursor, keys = facts.connection.ask("SCAN", cursor, "COUNT", 1000)
        for key in keys:
            name = key.decode(errors="replace").removeprefix(prefix)
            kind = next((kind for begin, kind in _KINDS.items() if name.startswith(begin)), None)
            if kind and key.startswith(prefix.encode()):
                found.setdefault(kind, []).append(key.decode(errors="replace"))
        if cursor in (b"0", "0"):
            break
    return {kind: (len(keys), sum(_memory(facts, keys).values())) for kind, keys in sorted(found.items())}


def cursors(facts: Facts, files: Mapping[str, Record]) -> Iterator[Finding]:
    """Whether readers hold logs back, or have lost records; whether archivers leave events."""
    for state in logs.states(facts.shm):
        if state.damage:
            yield Finding("logs", WRONG, clean(state.damage))
            continue
        for reader in state.cursors:
            lost, lag = state.missing(reader), state.lag(reader)
            who_reads = f"log {state.name}: {clean(reader)}"
            if lost:
                text = f"{who_reads} has not committed {lag} records, of which {lost} are dropped already"
                yield Finding("logs", WRONG, text, _give_up(facts, state.name, reader))
            elif lag > _HELD_BACK * state.bucket_size:
                buckets = f"the log keeps {lag // state.bucket_size} buckets for it"
                most = f"{DEFAULT_MAX_BUCKETS} at most, unless it was opened with other max_buckets"
                text = f"{who_reads} has not committed {lag} records: {buckets}, {most}"
                yield Finding("logs", WRONG, text, f"start that reader, or {_give_up(facts, state.name, reader)}")
        kept = f"{counted(state.length, 'record')}, {counted(len(state.cursors), 'cursor')}"
        yield Finding("logs", OK, f"log {state.name}: {kept}")
    for waiting in backlog.backlogs(facts.shm):
        left = {name: count for name, count in waiting.archivers.items() if count}
        what = f"events {waiting.event} of {waiting.source}"
        if waiting.dropped:
            yield Finding("events", NOTE, f"{what}: {waiting.dropped} were dropped while nobody archived them")
        for name, count in left.items():
            remedy = f"start it, or shareddata archive --forget {name}"
            yield Finding("events", NOTE, f"{what}: the archiver {clean(name)} has {count} to do", remedy)


def _give_up(facts: Facts, log: str, reader: str) -> str:
    return f"redis-cli xgroup destroy '{facts.shm.keys.log(log)}' '{clean(reader)}'"


CHECKS: tuple[Callable[[Facts, Mapping[str, Record]], Iterator[Finding]], ...] = (described, records, sizes, cursors)
"""All checks, in the order in which they are told."""
