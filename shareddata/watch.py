"""Looking on: the newest values of records, again and again, on a terminal or as plain lines.

It knows listeners and terminals; it must not know how a record is turned into text (`table`). Invariants:

1. Whoever looks on costs the server little: it waits to be told of writes, and reads at most ten times a second however
   many there are.
2. A server that goes away is told of in the last line; when it is back the values go on.
3. However the looking ends, the terminal is put back as it was, and the last values stay on it.
4. A record that cannot be read, or is described anew, does not hide the others.
"""

import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TextIO

from shareddata.datadesc import same
from shareddata.datadict import DataDict
from shareddata.errors import DecodeError, DescriptionError, ServerTimeout, ServerUnreachable, UnknownData
from shareddata.listen import Listener
from shareddata.memory import SharedMemory
from shareddata.table import Line, View, as_json, clip, lay_out, line
from shareddata.views import snapshot

_NEWS = 0.5  # seconds without news after which ages are drawn again
_PAUSE = 0.1  # seconds between two looks
_PLAIN_PAUSE = 1.0  # seconds between two lines of a record
_RATE_OVER = 5.0  # seconds over which a rate is counted
_LOOK_AGAIN = 2.0  # seconds after which a record that could not be read is tried again

_STYLES = {"title": "\x1b[1m", "record": "\x1b[36m", "alarm": "\x1b[1;31m", "value": ""}


class Rates:
    """How often records are written, counted over the last seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, dict[str, int]]] = deque()

    def mark(self, now: float, counts: Mapping[str, int]) -> None:
        """Take note of how many writes of each record there were up to now."""
        self._marks.append((now, dict(counts)))
        while now - self._marks[0][0] > _RATE_OVER and len(self._marks) > 2:
            self._marks.popleft()

    def rate(self, name: str) -> float | None:
        """Return a record's writes per second, None while it is too early to tell."""
        if not self._marks or self._marks[-1][0] - self._marks[0][0] < 1:
            return None
        (begin, before), (end, after) = self._marks[0], self._marks[-1]
        return (after.get(name, 0) - before.get(name, 0)) / (end - begin)


class Watch:
    """The newest values of some records, kept up to date.

    Args:
        shm: the shared memory.
        names: the records; all that are described, also later, if empty.

    Attributes:
        views: what is known of each record, in order.
        trouble: what keeps the values from being the newest, "" when nothing does.
        now: the server's time when it was last looked.

    Raises:
        UnknownData: no such record.

    Redis: as `DataDict.listen_to_datas`.
    """

    def __init__(self, shm: SharedMemory, names: Sequence[str] = ()) -> None:
        self._shm = shm
        self._asked = list(dict.fromkeys(names))
        for name in self._asked:
            shm.describe(name)
        self._dd = DataDict("shareddata watch", shm)
        self._listener: Listener | None = None
        self._heard: list[str] = []
        self._rates = Rates()
        self._counted: Counter[str] = Counter()  # by the listeners before this one
        self._again_at = 0.0
        self.views: list[View] = []
        self.trouble = ""
        self.now = shm.clock.now()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dd.close()

    def look(self) -> None:
        """Wait for news, half a second at most, and bring `views` up to date; ages and rates change without news too.

        Raises:
            ServerRefused, ServerSetupError: waiting would not help.
        """
        try:
            self._take_news()
            self.trouble = "" if self.views else "nothing is described there yet: run `shareddata init FILE...`"
        except (ServerUnreachable, ServerTimeout) as error:
            self.trouble = str(error)
            time.sleep(_PAUSE)
        except (DecodeError, DescriptionError, UnknownData):
            self._forget()
        heard = self._listener.heard if self._listener else Counter[str]()
        self._rates.mark(time.monotonic(), self._counted + heard)
        self.now = self._shm.clock.now()
        for view in self.views:
            view.rate = self._rates.rate(view.record.name)

    def _take_news(self) -> None:
        if self._listener is None or self._outdated():
            self._begin()
            if self._listener is None:
                time.sleep(_NEWS)
            return  # what was read just now is shown before anything is waited for
        try:
            trames = next(self._listener)
        except StopIteration:
            return
        news, now = dict(zip(self._heard, trames)), self._shm.clock.now()
        for view in self.views:
            trame = news.get(view.record.name)
            if view.record.name in news and not same(trame, view.trame):
                view.trame, view.received = trame, now

    def _names(self) -> list[str]:
        described = self._shm.names()
        return [name for name in self._asked if name in described] if self._asked else described

    def _outdated(self) -> bool:
        """Tell whether the records are described anew, or one that could not be read is to be tried again."""
        names = self._names()
        if not names:  # a server that lost its data: show what was there
            return False
        damaged = any(view.damage for view in self.views) and time.monotonic() > self._again_at
        return damaged or [view.record for view in self.views] != [self._shm.describe(name) for name in names]

    def _begin(self) -> None:
        """Read everything, and listen to what can be read."""
        self._forget()
        names = self._names()
        if not names:
            return
        self.views = snapshot(self._shm, names)
        self._again_at = time.monotonic() + _LOOK_AGAIN
        self._heard = [view.record.name for view in self.views if not view.damage]
        if self._heard:
            pattern = None if len(self._heard) == 1 else "*"
            self._listener = self._dd.listen_to_datas(self._heard, pattern=pattern, timeout=_NEWS)
            self.views = snapshot(self._shm, names)  # what was written before the subscription stood is no news to it

    def _forget(self) -> None:
        if self._listener is not None:
            self._counted += self._listener.heard
            self._listener.close()
        self._listener = None


class Screen:
    """A terminal's second screen, which is left as it was found. A context manager.

    Args:
        out: the terminal.
        title: what stands in the first line.
    """

    def __init__(self, out: TextIO, title: str) -> None:
        self._out = out
        self._title = title
        self._colour = not os.environ.get("NO_COLOR")
        self._last: list[Line] = []

    def __enter__(self) -> Self:
        self._out.write("\x1b[?1049h\x1b[?25l\x1b[?7l")  # second screen, no cursor, lines don't wrap
        return self

    def __exit__(self, *_: object) -> None:
        self._out.write("\x1b[?7h\x1b[?25h\x1b[?1049l")
        self._out.write("".join(each.text + "\n" for each in self._last))
        self._out.flush()

    def draw(self, watch: Watch) -> None:
        """Draw the table as large as the terminal is now."""
        size = os.get_terminal_size(self._out.fileno())
        width, height = size.columns or 80, size.lines or 24
        now = watch.now
        written = [view for view in watch.views if view.written or view.damage]
        quiet = len(watch.views) - len(written)
        self._last = lay_out(written, width, max(1, height - 2), now)
        foot = watch.trouble or (f"{quiet} records were never written" if quiet else "")
        title = f"{self._title}   {time.strftime('%H:%M:%S', time.gmtime(now))} UTC"
        last = Line(clip(foot, width), "alarm" if watch.trouble else "value")
        lines = [Line(clip(title, width), "value"), *self._last, last]
        body = "\n".join(f"\x1b[2K{self._styled(each)}" for each in lines[:height])
        self._out.write(f"\x1b[H{body}\x1b[J")
        self._out.flush()

    def _styled(self, each: Line) -> str:
        style = _STYLES.get(each.kind, "") if self._colour else ""
        return f"{style}{each.text}\x1b[0m" if style else each.text


def is_terminal(out: TextIO) -> bool:
    """Tell whether a table can be drawn on an output."""
    return out.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def show(
    shm: SharedMemory,
    names: Sequence[str] = (),
    *,
    seconds: float | None = None,
    json: bool = False,
    title: str = "",
    out: TextIO | None = None,
) -> None:
    """Show records as they change: a table that redraws on a terminal, else a line for each record that changed.

    Args:
        shm: the shared memory.
        names: the records, the most important first; all if empty.
        seconds: for how long; until interrupted if None.
        json: JSON lines instead, also on a terminal.
        title: what stands above the table.
        out: standard output if None.

    Raises:
        KeyboardInterrupt: Ctrl-C; the terminal is put back.

    Redis: as `DataDict.listen_to_datas`.
    """
    out = out or sys.stdout
    end = None if seconds is None else time.monotonic() + seconds
    with Watch(shm, names) as watch:
        if json or not is_terminal(out):
            _until(end, watch, _lines(out, json), 0 if json else _PLAIN_PAUSE)
            return
        with _Quiet(), Screen(out, title or f"shareddata watch {shm.url}, Ctrl-C ends") as screen:
            _until(end, watch, screen.draw, _PAUSE)


def _until(end: float | None, watch: Watch, draw: Callable[[Watch], None], pause: float) -> None:
    while True:
        watch.look()
        draw(watch)
        rest = pause if end is None else min(pause, end - time.monotonic())
        if rest < 0:
            return
        time.sleep(max(_PAUSE, rest) if end is None else rest)


def _lines(out: TextIO, json: bool) -> Callable[[Watch], None]:
    """Return what writes a line for each record that changed, or became stale, since it was called last."""
    before: dict[str, str] = {}
    told = ""

    def draw(watch: Watch) -> None:
        nonlocal told
        for view in watch.views:
            state = as_json(view, stale=view.stale(watch.now))  # text: NaN is never equal to NaN
            if (view.written or view.damage) and before.get(view.record.name) != state:
                before[view.record.name] = state
                out.write((state if json else line(view, watch.now)) + "\n")
        if watch.trouble != told and watch.trouble:
            logging.getLogger("shareddata").warning("%s", watch.trouble)
        told = watch.trouble
        out.flush()

    return draw


class _Quiet:
    """Keep the library's log off a screen that is drawn on: its last line says the same."""

    def __enter__(self) -> None:
        self._log = logging.getLogger("shareddata")
        self._before = self._log.propagate, self._log.handlers[:]
        self._log.propagate = False
        self._log.handlers = [logging.NullHandler()]

    def __exit__(self, *_: object) -> None:
        self._log.propagate, self._log.handlers = self._before
