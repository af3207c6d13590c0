#!/usr/bin/env python3
"""A bridge to HEROS: records become events of a HERO, and events of HEROs become events or records here.

Sources: heros (https://gitlab.com/atomiq-project/heros), whose objects are called HEROs; eclipse-zenoh carries them.

    bridge_heros.py 'BATTERY__*'                             a HERO `shareddata` with an event `updated`
    bridge_heros.py --events 'camera:acquisition_data'       events of the HERO camera, for archivers
    bridge_heros.py --events '*:acquisition_data'            of all HEROs
    bridge_heros.py --write MOTOR__command                   a method `set` of that HERO writes the record

Out: each update of a record is an event `updated` of the HERO (`shareddata`, or `shareddata_NAMESPACE`), a dictionary:
record, ts, sender, stale, values, units, out_of_limits; arrays are numpy arrays. The method `get(record)` returns the
newest one, for who comes late: an event reaches those that listen now. Nobody's listening is no loss, and is not told.

In: what a HERO emits is emitted here under the same name (source: the HERO's, event: the same), as `shareddata.archive`
takes it: an event's value that is a pair of anything and a dictionary is payload and metadata, anything else a payload
without. While the server is away a hundred events wait in order; what comes beyond them, or finds no room, is dropped,
logged and counted. `set(record, values, ts=None)` writes a record that --write names and answers when it is written:
"", else the reason. HEROs whose name is this bridge's own are not heard, so nothing comes back.

The network is set by HEROS_ZENOH_CONFIG (JSON of zenoh's configuration), and --zone, their realm. It knows no passwords
of its own: TLS and users are zenoh's. heros needs an older cbor2 than shareddata[arrays]: give this bridge an
environment of its own, `pip install '.[heros]'` in a checkout.
"""
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from shareddata.bridge import Bridge
from shareddata.errors import EventsFull, ServerTimeout, ServerUnreachable, SharedDataError
from shareddata.events import Emitter
from shareddata.handler import Handler, needs, program
from shareddata.memory import SharedMemory
from shareddata.names import check_log_name, check_name
from shareddata.outgoing import Update
from shareddata.table import clean
from shareddata.tally import Tally

log = logging.getLogger("shareddata")

MOST_WAITING = 100  # events that wait for the server
LONGEST = 5.0  # seconds that `set` waits for the program
_RETRY = 0.2


def content(update: Update) -> dict[str, Any]:
    """Return an update as it is emitted."""
    record, trame, stale = update
    fields = record.fields[2:]
    return {
        "record": record.name, "ts": float(trame.ts), "sender": trame.sender, "stale": stale,
        "values": dict(zip((f.name for f in fields), trame[2:])), "units": {f.name: f.unit for f in fields if f.unit},
        "out_of_limits": list(record.out_of_limits(trame)),
    }


def payload_of(data: Any) -> tuple[Any, dict[str, Any]]:
    """Return payload and metadata of what a HERO emitted.

    >>> payload_of([[1, 2], {"frame": 0}]), payload_of(5)
    (([1, 2], {'frame': 0}), (5, {}))
    """
    if isinstance(data, list | tuple) and len(data) == 2 and isinstance(data[1], Mapping):
        return data[0], dict(data[1])
    return data, {}


class Shown:
    """The HERO that shows records: what it was told last, and what it is asked to write."""

    def __init__(self) -> None:
        self.bridge: Bridge | None = None
        self.hero: Any = None
        self.newest: dict[str, dict[str, Any]] = {}

    def set(self, record: Any, values: Any, ts: float | None) -> str:
        """Have values written, and wait for the answer."""
        assert self.bridge is not None
        done, reasons = threading.Event(), ["no answer: whether it is written is not known"]

        def reply(reason: str) -> None:
            reasons[0] = reason
            done.set()

        if not isinstance(record, str) or not isinstance(values, Mapping):
            self.bridge.incoming.refuse("set", "expected a record's name and a dictionary of values")
            return "expected a record's name and a dictionary of values"
        known = record in self.bridge.incoming.names
        self.bridge.incoming.put(record, values, ts, f"set {record}" if known else "set", reply)
        done.wait(LONGEST)
        return reasons[0]


def hero(shown: Shown, name: str, realm: str) -> Any:
    """Return the HERO, which is there from now on."""
    import heros

    class Records(heros.LocalHERO):  # type: ignore[misc]  # heros has no types
        """Records of a shared memory."""

        @heros.event  # type: ignore[untyped-decorator]
        def updated(self, update: dict) -> dict:  # type: ignore[type-arg]  # heros reads annotations
            """Pass an update on."""
            return update

        def get(self, record: str) -> dict:  # type: ignore[type-arg]
            """Return a record's newest update."""
            return shown.newest.get(record, {})

        def set(self, record: str, values: dict, ts: float = None) -> str:  # type: ignore[type-arg,assignment]
            """Write a record; return "" or the reason why not."""
            return shown.set(record, values, ts)

    return Records(name, realm=realm)


class Taken:
    """Events of HEROs on their way into the shared memory, in a thread of its own.

    Args:
        shm: the shared memory.
        own: the name of this bridge's HERO, which is not heard.
        tally: counts.
    """

    def __init__(self, shm: SharedMemory, own: str, tally: Tally) -> None:
        self._shm, self._own, self._tally = shm, own, tally
        self._queue: deque[tuple[str, str, Any]] = deque()
        self._news, self._end = threading.Condition(), threading.Event()
        self._emitters: dict[tuple[str, str], Emitter] = {}
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; what waits then is counted as dropped."""
        self._end.set()
        with self._news:
            self._news.notify()
        if self._thread.ident is not None:
            self._thread.join()
        if self._queue:
            self._tally.complain("missed", "end", f"{len(self._queue)} events were not written", len(self._queue))
        for emitter in self._emitters.values():
            emitter.close()

    def state(self) -> dict[str, Any]:
        """Return nothing more for the status record.

        Raises:
            SharedDataError: the thread has ended by a mistake; its traceback was printed.
        """
        if not self._thread.is_alive() and not self._end.is_set():
            raise SharedDataError("no event comes in any more, see above: start this program again")
        return {}

    def take(self, source: str, event: str, data: Any) -> None:
        """Take an event; in a thread of zenoh."""
        if source == self._own:
            self._tally.add("returned")
            return
        self._tally.add("received")
        with self._news:
            if len(self._queue) < MOST_WAITING:
                self._queue.append((source, event, data))
                self._news.notify()
                return
        self._tally.complain("missed", source, f"{source}:{event}: {MOST_WAITING} events wait for the server: dropped")

    def _work(self) -> None:
        while not self._end.is_set():
            with self._news:
                while not self._queue and not self._end.is_set():
                    self._news.wait()
                if self._end.is_set():
                    return
                source, event, data = self._queue[0]
            if self._emit(source, event, data):
                with self._news:
                    self._queue.popleft()
            else:
                self._end.wait(_RETRY)

    def _emit(self, source: str, event: str, data: Any) -> bool:
        """Emit an event; return False if it has to be tried again: what was written then is not written twice."""
        try:
            if (source, event) not in self._emitters:
                names = check_log_name(source, "source"), check_name(event, "event")
                self._emitters[source, event] = Emitter(*names, self._shm)
            self._emitters[source, event].emit(*payload_of(data))
        except (ServerUnreachable, ServerTimeout) as error:
            log.debug("no answer: %s", error)
            return False
        except EventsFull as error:
            self._tally.complain("missed", source, str(error))
        except SharedDataError as error:
            self._tally.complain("refused", source, f"{clean(source)}:{event}: refused: {error}")
        else:
            self._tally.add("written")
        return True


def observe(taken: Taken, selectors: Sequence[str], realm: str) -> list[Any]:
    """Hear events: `HERO:event`, the HERO's name or `*`."""
    import heros.heros

    found = []
    for selector in selectors:
        source, _, event = selector.partition(":")
        observer = heros.heros.EventObserver(source, event, realm=realm)
        observer.register_callback(lambda name, data, event=event: taken.take(name, event, data))
        found.append(observer)
    return found


@program(
    head=__doc__,
    do_debug="Show debugging information for the bridge",
    write="Records that the HERO's method `set` may write: A,B",
    events="Events that are heard: HERO:event, or *:event; several with commas",
    called="The name of this bridge's HERO; by default shareddata, or shareddata_NAMESPACE",
    zone="The realm of the HEROs",
    mode="What goes out: every (each update of records with a history) or newest (at most as often as -f)",
    frequency="How often records are looked at that have no history, or of which only the newest goes out, in Hz",
    records="Records that go out: names or globs ('BATTERY__*')",
)
def main(
    handler: Handler, write: str = "", events: str = "", called: str = "", zone: str = "heros", mode: str = "every",
    frequency: float = 10.0, *records: str,
) -> None:
    """Emit records as events of a HERO, and take events of HEROs. The program's head tells all of it."""
    needs("heros", "heros")
    if mode not in ("every", "newest"):
        handler.wrong_usage("the mode is every or newest")
    selectors = events.replace(",", " ").split()
    if wrong := [each for each in selectors if not all(each.partition(":")[::2])]:
        handler.wrong_usage(f"events are HERO:event, not {' '.join(wrong)}")
    namespace = handler.shm.namespace
    name = called or (f"shareddata_{namespace}" if namespace else "shareddata")
    shown = Shown()

    def send(update: Update) -> None:
        shown.newest[update.record.name] = found = content(update)
        shown.hero.updated(found)
        assert shown.bridge is not None
        shown.bridge.tally.add("sent")

    with Bridge(
        handler, records, write, send, every=mode == "every", frequency=frequency, only_in=bool(selectors),
        status="BRIDGE__heros",
    ) as bridge:  # fmt: skip
        shown.bridge, shown.hero = bridge, hero(shown, name, zone)
        taken = Taken(handler.shm, name, bridge.tally)
        observers = observe(taken, selectors, zone)
        taken.start()
        try:
            bridge.run(taken.state)
        finally:
            for each in (*observers, shown.hero):
                each._destroy_hero()
            taken.close()


if __name__ == "__main__":
    main()
