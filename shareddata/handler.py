"""What every handler does: its command line, a clean stop, a steady rate, and going on while the server is away.

A handler is a program that drives a device. It knows how programs are started, stopped and paced, and `DataDict`; it
must not know any device or protocol. Invariants:

1. The options are the same in every handler, in the same order; the address is settled by `SharedMemory`, not here.
2. SIGINT and SIGTERM end the loops of `Handler`, and the program with exit code 0; a later second one ends it at once.
   What comes right behind the first is the same one again: `timeout` sends it to the program and to its group.
3. A server that goes away does not end a handler. It is logged once, the device goes on being read, the CSV logs go on,
   the newest values are sent when the server is back, and that is logged, with the number of updates in between.
4. A frame from the device is taken whole or dropped whole and counted.
5. A second copy ends with an error that names the first; with -t it takes the records over, and the first one ends.
6. An error that the user can mend is one line and exit code 1 (2 for wrong usage), a traceback only with -do-debug.
"""

import inspect
import logging
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn, Self, TypeVar

import plac

from shareddata import extras
from shareddata.data import Data
from shareddata.datadesc import same
from shareddata.datadict import DataDict
from shareddata.errors import ServerError, SharedDataError, UnknownData
from shareddata.login import check_typed
from shareddata.memory import SharedMemory
from shareddata.serialline import SerialLine
from shareddata.table import clean

T = TypeVar("T")
Records = Mapping[str, Mapping[str, Any]]
"""Values by record and field: `{"BATTERY__measures": {"voltage": 12.065, "current": -7.625}}`."""

log = logging.getLogger("shareddata")

_LONGEST_WAIT = 0.2
_RETRY = 0.5
_TIMEOUT = 1.0  # a device goes on sending, and the system keeps some seconds of it at most
_COMPLAIN_EVERY = 60.0
_SAME_SIGNAL = 0.3


class Rate:
    """Keep a rate without drift: the n-th time is n periods after the start, however long the work between takes.

    Times that were missed are left out, not made up for in a burst, and counted.

    Args:
        frequency: times per second.
        clock: seconds; another clock for tests.

    Attributes:
        missed: how many times were left out since the start.
    """

    def __init__(self, frequency: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.frequency = frequency
        self.missed = 0
        self._clock = clock
        self._start = clock()
        self._count = 1
        self._complain_at = self._start

    def remaining(self) -> float:
        """Return the seconds until the next time, 0 when it has come."""
        return max(0.0, self._start + self._count / self.frequency - self._clock())

    def due(self) -> bool:
        """Tell whether the next time has come; if so, go on to the one after it. Warns when it cannot keep up."""
        now = self._clock()
        late = (now - self._start) * self.frequency - self._count
        if late < 0:
            return False
        skipped = int(late)
        self._count += skipped + 1
        self.missed += skipped
        if skipped and now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_EVERY
            log.warning("cannot keep up with %g Hz: %d times left out so far", self.frequency, self.missed)
        return True


class Stop:
    """SIGINT and SIGTERM as a condition, and as something that ends a wait.

    Attributes:
        requested: whether one of the signals came.
        running: whether the program's own loop has begun; before, a signal ends the program directly.
    """

    def __init__(self) -> None:
        self.requested = False
        self.running = False
        self._requested_at = 0.0
        self._reader, self._writer = os.pipe()
        self._before = {number: signal.signal(number, self._arrived) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: float, *descriptors: int) -> bool:
        """Wait until a stop is requested, one of the descriptors can be read, or time is over.

        Returns:
            Whether one of the descriptors can be read.
        """
        if self.requested:
            return False
        readable, _, _ = select.select([self._reader, *descriptors], [], [], max(0.0, seconds))
        return any(each != self._reader for each in readable)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self.running:
            raise SystemExit(0)
        if not self.requested:
            self.requested, self._requested_at = True, time.monotonic()
            os.write(self._writer, b"!")
        elif time.monotonic() - self._requested_at > _SAME_SIGNAL:
            raise SystemExit(f"stopped in the middle: signal {number} came twice")


class Handler:
    """What a program gets from `program` to work with.

    Attributes:
        shm: the shared memory.
        dd: this application's view of it.
        stop: the signals.
        taken: how many frames of the device were taken.
        unreadable: how many whole frames were dropped because their content made no sense.
    """

    def __init__(self, shm: SharedMemory, dd: DataDict, stop: Stop, wrong_usage: Callable[[str], NoReturn]) -> None:
        self.shm = shm
        self.dd = dd
        self.stop = stop
        self.wrong_usage = wrong_usage
        self.taken = 0
        self.unreadable = 0
        self._writes: dict[str, bool] = {}
        self._datas: dict[str, Data] = {}
        self._away_since: float | None = None
        self._retry_at = 0.0
        self._unsent = 0
        self._orders: list[Any] | None = None

    @property
    def running(self) -> bool:
        """Whether the program should go on."""
        return not self.stop.requested

    def ticks(self, frequency: float, *descriptors: int) -> Iterator[bool]:
        """Yield at a steady rate, and at once when one of the descriptors can be read, until the program is to stop.

        The first time comes at once.

        Args:
            frequency: times per second.
            descriptors: file descriptors to wait for, too.

        Yields:
            True when it is time, False when it is only that a descriptor can be read.
        """
        rate = Rate(frequency)
        due = True
        while self.running:
            yield due
            readable = self.stop.wait(rate.remaining(), *descriptors)
            due = rate.due()
            if not due and not readable:
                self.stop.wait(rate.remaining())  # woken a little early
                due = rate.due()

    def frames(self, line: SerialLine[T], frequency: float) -> Iterator[T | None]:
        """Yield each frame of a line as it arrives, and None at a steady rate, until the program is to stop.

        Args:
            line: where the frames come from; while it is away there are only the Nones.
            frequency: how often None comes, times per second.
        """
        rate = Rate(frequency)
        while self.running:
            yield from line.frames(min(rate.remaining(), _LONGEST_WAIT))
            if rate.due():
                yield None

    def writes(self, names: Sequence[str]) -> None:
        """Say which records this program writes; those that nobody described are left out, and logged.

        Redis: HGETALL of the descriptions.

        Raises:
            UnknownData: none of them is described.
        """
        described = set(self.shm.names())
        self._writes.update((name, name in described) for name in names)
        if missing := [name for name in names if name not in described]:
            log.info("not described, so not written: %s", ", ".join(missing))
        if len(missing) == len(names):
            self.shm.describe(names[0])

    def claim(self, names: Sequence[str]) -> Mapping[str, Data]:
        """Declare records now that were named to `writes`, not when they are first published; return what sets them.

        Who may not write them is told so at the start, and a value that comes while the server is away is kept.

        Raises:
            UnknownData: no such record.
            WriterConflict: another program writes one that has an owner.
            ServerUnreachable, ServerTimeout: no server.

        Redis: as `DataDict.set_datas_to_write`.
        """
        self._datas.update(zip(names, self.dd.set_datas_to_write(names)))
        return {name: self._datas[name] for name in names}

    def fields_for(self, record: str, channels: Sequence[str]) -> tuple[list[str], list[int]]:
        """Return a record's fields but ts and sender, and the channels as numbers; exit 2 if they do not fit together.

        Redis: HGETALL of the descriptions, when they changed.

        Raises:
            UnknownData: no such record is described.
        """
        fields = [field.name for field in self.shm.describe(record).fields[2:]]
        if not all(channel.isdigit() for channel in channels):
            self.wrong_usage(f"channels are numbers: {' '.join(channels)}")
        if len(channels) != len(fields):
            self.wrong_usage(f"{record} has {len(fields)} fields ({', '.join(fields)}), not {len(channels)}")
        return fields, [int(channel) for channel in channels]

    def take(self, decode: Callable[[T], Records], frame: T) -> bool:
        """Decode a frame and publish what it says; one that makes no sense is dropped whole and counted.

        Args:
            decode: returns the values by record and field; raises ValueError or LookupError for what cannot be read.
            frame: a whole frame.

        Redis: MULTI, HSET and XADD for each record, EXEC.
        """
        try:
            records = decode(frame)
        except (ValueError, LookupError) as error:
            self.unreadable += 1
            log.debug("dropped %r: %s", frame, error)
            return False
        self.taken += 1
        if records:
            self.publish(records)
        return True

    def publish(self, records: Records, ts: float | None = None) -> bool:
        """Set records and flush them together, all with the same time.

        Args:
            records: values by record and field; each record was named to `writes`.
            ts: seconds since the epoch, when it was measured; now by default.

        Returns:
            Whether the server has them; if not, they are sent later, unless newer ones replace them.

        Raises:
            UnknownData: a record was not named to `writes`.

        Redis: MULTI, HSET and XADD for each record, EXEC.
        """
        when = time.time() if ts is None else ts
        try:
            written = {name: values for name, values in records.items() if self._writes[name]}
        except KeyError as error:
            named = ", ".join(self._writes) or "nothing"
            raise UnknownData(f"record {error} was not named to handler.writes, only {named}: name it there") from None
        if not written.keys() <= self._datas.keys() and not self._declare([*written]):
            return False
        for name, values in written.items():
            self._datas[name].set(**{"ts": when, **values})
        return self.flush()

    def _declare(self, names: Sequence[str]) -> bool:
        """Declare records that are set for the first time, which takes the server and makes their CSV files."""
        begin = time.monotonic()
        try:
            self._datas.update(zip(names, self.dd.set_datas_to_write(names)))
        except ServerError as error:
            self._unsent += 1
            self._went_away(error, begin)
            return False
        return True

    def flush(self) -> bool:
        """Send what was set; return False, and go on, while the server is away.

        Redis: MULTI, HSET and XADD for each record, EXEC.
        """
        return self.attempt(self.dd.flush)

    def attempt(self, send: Callable[[], object]) -> bool:
        """Do something with the server; return False, and go on, while it is away.

        Args:
            send: does it, with time-outs of its own; it is not called while the server is left alone.

        Redis: what `send` does.
        """
        begin = time.monotonic()
        if begin < self._retry_at:
            self._unsent += 1
            return False
        try:
            send()
        except ServerError as error:
            self._unsent += 1
            self._went_away(error, begin)
            return False
        self._came_back()
        return True

    def read(self) -> list[Any] | None:
        """Return the trames of the records declared with `dd.set_datas_to_read`, None while the server is away.

        Redis: MULTI, HMGET for each record, EXEC; nothing when nobody changed them.
        """
        begin = time.monotonic()
        if begin < self._retry_at:
            return None
        try:
            trames: list[Any] = self.dd.next()
        except ServerError as error:
            self._went_away(error, begin)
            return None
        return trames

    def orders(self) -> list[Any]:
        """Return the trames that were written since the last call, of the records declared with `dd.set_datas_to_read`.

        The first call returns none: what was ordered before the start is not an order. Of several trames of a record
        that were written between two calls only the last one is seen.

        Redis: as `read`.
        """
        trames = self.read()
        if trames is None:
            return []
        before, self._orders = self._orders, trames
        if before is None:
            return []
        return [trame for trame, old in zip(trames, before) if trame is not None and not same(trame, old)]

    def status(self, line: SerialLine[Any]) -> dict[str, Any]:
        """Return the fields that each status record of a line has."""
        return {
            "device": line.device,
            "connected": line.connected,
            "frames": self.taken,
            "dropped": line.dropped + self.unreadable,
        }

    def _went_away(self, error: ServerError, begin: float) -> None:
        """Say so the first time, and leave the server alone for a while: the device does not wait."""
        now = time.monotonic()
        log.debug("no answer: %s", error)
        if self._away_since is None:
            self._away_since = now
            log.warning("the server takes nothing: %s; going on, the newest values are sent when it does", error)
        self._retry_at = now + max(_RETRY, 2 * (now - begin))

    def _came_back(self) -> None:
        if self._away_since is not None:
            away = time.monotonic() - self._away_since
            log.warning("the server is back after %.1f s; %d updates came in between", away, self._unsent)
        self._away_since = None
        self._unsent = 0


def needs(module: str, extra: str = "hardware") -> Any:
    """Import a module that only some devices need.

    Args:
        module: its name.
        extra: the extra of the package that installs it.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to.

    Redis: none.
    """
    return extras.needed(module, "this program needs", extra)


def program(**texts: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a program of a function that drives a device.

    The function gets a `Handler`, then its own parameters: those without a default are positional on the command line,
    those with one are options, by their first letter (a capital where a common option has the small one). The common
    options are added: -do-debug first, -r -p -a -i -u -n -t after the function's own. The program connects, waits for
    the initialisation when -i is given, runs the function, and stops as the module's head says.

    Args:
        texts: a help text for each of the function's parameters, and for `do_debug`; `head` for what the help tells
            below the usage, such as the module's own docstring.

    Returns:
        A decorator. The program that it makes takes a list of arguments, `sys.argv`'s by default.

    Example:
        >>> @program(do_debug="Show debugging information", frequency="How often, in Hz")
        ... def main(handler: Handler, frequency: float = 2) -> None:
        ...     handler.writes(["LAB__counter"])
        ...     for count, _ in enumerate(handler.ticks(frequency)):
        ...         handler.publish({"LAB__counter": {"count": count}})
    """

    def decorate(drive: Callable[..., None]) -> Callable[..., None]:
        def main(arglist: Sequence[str] | None = None) -> None:
            collect = _command_line(drive, texts)
            common, own, rest = plac.call(collect, sys.argv[1:] if arglist is None else list(arglist), eager=False)
            parser = plac.parser_from(collect)
            strange = [each for each in rest if each.startswith("-")]
            if strange:  # plac hands over options that it does not know as if they were positional
                parser.error(f"unrecognized arguments: {' '.join(strange)}")
            if not 0 < own.get("frequency", 1) < math.inf:
                parser.error("the frequency must be positive")
            _run(drive, common, (own, rest), parser.error)

        main.__doc__ = drive.__doc__
        return main

    return decorate


def _command_line(drive: Callable[..., None], texts: Mapping[str, str]) -> Callable[..., Any]:
    """Return a function of the signature that plac makes the document's command line of."""

    def collect(*values: Any) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
        common = dict(zip(names, values))
        own = {name: common.pop(name) for name in own_names}
        return common, own, values[len(names) :]

    given = list(inspect.signature(drive).parameters.values())[1:]
    rest = [each for each in given if each.kind is each.VAR_POSITIONAL]
    needed = [each for each in given if each.default is each.empty and each not in rest]
    options = [each for each in given if each.default is not each.empty]
    parameters = [
        *(each.replace(annotation=(texts[each.name], "positional", None, _type(each))) for each in needed),
        _option("do_debug", False, (texts["do_debug"], "flag")),
        *(_own_option(each, texts[each.name]) for each in options),
        *_common_options(),
        *(each.replace(annotation=(texts[each.name],)) for each in rest),
    ]
    names = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]
    own_names = [each.name for each in given if each not in rest]
    collect.__doc__ = texts.get("head")
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return collect


def _option(name: str, default: Any, annotation: tuple[Any, ...]) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _own_option(given: inspect.Parameter, text: str) -> inspect.Parameter:
    letter = given.name[0] if given.name[0] not in "hrpaiunt" else given.name[0].upper()
    shown = f"{given.default:g}" if isinstance(given.default, float) else None
    return _option(given.name, given.default, (text, "option", letter, _type(given), None, shown))


def _type(given: inspect.Parameter) -> Any:
    """Return what makes a value of a word: the annotation, else the default's type, else text."""
    if given.annotation is not given.empty:
        return given.annotation
    return str if given.default is given.empty else type(given.default)


def _common_options() -> list[inspect.Parameter]:
    """Return the options of every handler, in the order of their help: help, kind, letter, type, choices, metavar."""
    called = sys.argv[0] if not os.path.isabs(sys.argv[0]) else os.path.basename(sys.argv[0])
    machine = "Name or IP address of the cpu that Redis runs on"
    flag = "Name of the environment variable that holds the init data of the shm"
    address = (
        "Address of the server, instead of -r and -p: redis://, rediss://, unix://, sentinel://, cluster://, embedded://"
    )
    return [
        _option("redis_server", None, (machine, "option", "r", str, None, "redissrv")),
        _option("redis_port", None, ("TCP port number to connect to Redis", "option", "p", int, None, "6379")),
        _option("app_name", called, ("Name of the application for the SHM", "option", "a", str)),
        _option("env_init", None, (flag, "option", "i", str)),
        _option("url", None, (address, "option", "u", str)),
        _option("namespace", "", ("Namespace of the records", "option", "n", str)),
        _option("take_over", False, ("Write what another copy of this program writes: that one ends", "flag", "t")),
    ]


def _run(
    drive: Callable[..., None],
    common: Mapping[str, Any],
    own: tuple[Mapping[str, Any], Sequence[str]],
    wrong_usage: Callable[[str], NoReturn],
) -> None:
    """Connect, run the function until it ends, and turn what the user can mend into one line."""
    level = logging.DEBUG if common["do_debug"] else logging.INFO
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {common['app_name']}: %(message)s")
    host, port = (None, None) if common["url"] else (common["redis_server"], common["redis_port"])
    try:
        check_typed(common["url"], "-u")
        with (
            Stop() as stop,
            SharedMemory(
                host, port, common["env_init"], url=common["url"], namespace=common["namespace"], timeout=_TIMEOUT
            ) as shm,
            DataDict(common["app_name"], shm, take_over=common["take_over"]) as dd,
        ):
            handler = Handler(shm, dd, stop, wrong_usage)
            stop.running = True
            drive(handler, *own[0].values(), *own[1])
    except (SharedDataError, ImportError, OSError) as error:
        if common["do_debug"]:
            raise
        sys.exit(f"{common['app_name']}: {clean(str(error))}")
