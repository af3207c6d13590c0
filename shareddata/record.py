"""Recording: every update of records, from their histories into the files of a recording.

It knows which records are recorded, from where on, and what to do when the server or the disk fails. It must not know
how files are laid out (`track`) nor how histories are read (`stream`). Invariants:

1. Writers are not changed, asked or slowed down: only histories are read.
2. What a history still holds is recorded, once, whatever ended the recorder before; what it does not is counted.
3. When the disk is full nothing more is read: rows wait, and what histories drop meanwhile is counted as missed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from shareddata.errors import ServerTimeout, ServerUnreachable, SharedDataError
from shareddata.histories import Histories
from shareddata.memory import SharedMemory
from shareddata.track import SIZE, SPAN, End, Folder, Track

log = logging.getLogger("shareddata")

_WAIT = 0.5  # seconds in the server, at most: then signals are looked at, and progress is shown
_GATHER = 0.005  # seconds after a first entry in which others come: rows are written and asked for in larger pieces
_RETRY = 0.5  # seconds between two tries to write to a full disk
_DRAIN = 2.0  # seconds at most for what was flushed before the recorder was told to stop


class Recorded(NamedTuple):
    """What was recorded of a record."""

    name: str
    first: float | None
    """The first row's time, in seconds since 1970, by the server's clock; None without rows."""
    last: float | None
    written: int
    """Rows."""
    missed: int
    """Updates that the history dropped before they could be recorded; since the end of an earlier recording too."""


class Recorder:
    """Record every update of records into a folder. A context manager.

    Args:
        shm: the shared memory.
        folder: made if missing. A recording that is there goes on where each record ended.
        names: the records; all that have a history if empty, those that are described later too.
        since: where a record that is not there yet begins: see `Follower`; None from now on.
        size: bytes after which a file is followed by the next one.
        span: seconds after which it is.

    Attributes:
        tracks: what is recorded, by the record's name.
        left_out: records that have no history, when all are recorded.

    Raises:
        SharedDataError: a named record has no history, or the folder is another program's or another namespace's.
        UnknownData: no such record.
        OSError: the folder cannot be written.

    When the server goes, it waits for it and goes on where it was. It belongs to one thread at a time, but for `stop`.

        >>> with Recorder(shm, "run7") as recorder:
        ...     recorder.run(seconds=0.1)

    Redis: XREAD; MULTI, XRANGE, XINFO STREAM, EXEC.
    """

    def __init__(
        self,
        shm: SharedMemory,
        folder: str | Path,
        names: Iterable[str] = (),
        *,
        since: float | str | None = None,
        size: int = SIZE,
        span: float = SPAN,
    ) -> None:
        self.tracks: dict[str, Track] = {}
        self.left_out: list[str] = []
        self._shm = shm
        self._names = list(dict.fromkeys(names))
        self._limits = size, span
        self._stop = threading.Event()
        self._paused = self._unsaved = self._to_describe = False
        self._end = float("inf")
        self._missed: dict[str, int] = {}
        _check_histories(shm, self._names)
        self._folder = Folder(folder, shm.namespace)
        self._histories = Histories(shm, "shareddata record")
        try:
            self._begin(since)
            self._folder.save()
            self._unsaved = False
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def missed(self) -> int:
        """How many updates of all records were dropped before they could be recorded."""
        return sum(self._missed.values())

    @property
    def written(self) -> int:
        """How many rows of all records were written."""
        return sum(track.written for track in self.tracks.values())

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return sum(track.size for track in self.tracks.values())

    def table(self) -> list[Recorded]:
        """Return what was recorded, of each record.

        Redis: none.
        """
        rows = []
        for name, track in sorted(self.tracks.items()):
            last = track.end.id if track.end and track.written else ""
            rows.append(Recorded(name, seconds(track.first), seconds(last), track.written, self._missed[name]))
        return rows

    def stop(self) -> None:
        """Let `run` end, from a signal's handler or another thread: what was flushed until then is still recorded.

        Redis: none.
        """
        self._stop.set()

    def close(self) -> None:
        """Close files and connection, and let others write to the folder.

        Redis: none.
        """
        self._histories.close()
        for track in self.tracks.values():
            try:
                track.close()
            except OSError as error:  # its rows are there; only what sums them up is not
                log.warning("%s: the recording is not closed properly: %s", self._folder.path, error)
        self._folder.close()

    def run(self, seconds: float | None = None, progress: Callable[["Recorder"], None] = lambda recorder: None) -> None:
        """Record until `stop` is called.

        Args:
            seconds: or until so many have passed.
            progress: called about twice a second.

        Redis: XREAD; MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        self._end = float("inf") if seconds is None else time.monotonic() + seconds
        while not self._over():
            shown = time.monotonic() + _WAIT
            while not self._over() and (left := min(shown, self._end) - time.monotonic()) > 0:
                if self._step(left):
                    self._stop.wait(_GATHER)
            progress(self)
        drained = time.monotonic() + _DRAIN
        for place in self._histories.places.values():
            place.behind = True
        while not self._paused and self._step(_GATHER) and time.monotonic() < drained:
            pass

    def _over(self) -> bool:
        return self._stop.is_set() or time.monotonic() >= self._end

    def _step(self, wait: float) -> bool:
        """Record what is there; tell whether there was anything."""
        if self._histories.described_anew() or self._to_describe:
            self._described_anew()
        news = self._histories.news(wait)
        for name, entries in news.items():
            place, track = self._histories.places[name], self.tracks[name]
            track.add(entries, place.ordinal - len(entries))
            self._missed[name] = place.missed
        self._write()
        return any(news.values()) or any(place.behind for place in self._histories.places.values())

    def _write(self) -> None:
        """Write what was read; wait for room where there is none."""
        while True:
            try:
                if self._unsaved:
                    self._folder.save()
                    self._unsaved = False
                for track in self.tracks.values():
                    track.write()
            except OSError as error:
                if not self._paused:
                    log.warning(
                        "%s: cannot be written: %s: recording pauses; what histories drop until there is room is "
                        "counted as missed", self._folder.path, error,
                    )  # fmt: skip
                self._paused = True
                if self._stop.wait(_RETRY) or self._over():
                    log.warning(
                        "%s: what was read last could not be written: record again to have it", self._folder.path
                    )
                    return
            else:
                if self._paused:
                    log.warning("%s: recording goes on, %d updates missed so far", self._folder.path, self.missed)
                self._paused = False
                return

    # -- which records --------------------------------------------------------------------------------------------

    def _begin(self, since: float | str | None) -> None:
        """Open the tracks and go to where each record goes on."""
        for name in self._names or self._shm.names():
            if self._shm.describe(name).history:
                self._add(name, since)
            else:
                self.left_out.append(name)

    def _add(self, name: str, since: float | str | None) -> None:
        track = Track(self._folder, self._shm.describe(name), *self._limits)
        begun = track.end or self._folder.begun.get(name)
        place = self._histories.follow(name, *(begun or (since,)))
        if begun is None:
            self._folder.begun[name] = End(place.id, place.ordinal)
            self._unsaved = True
        track.describe(track.record, self._shm.eras(name))
        self.tracks[name] = track
        self._missed[name] = 0

    def _described_anew(self) -> None:
        """Take up new descriptions, and records that were not described before: from their oldest update on."""
        self._to_describe = True
        try:
            records = [self._shm.describe(name) for name in self._shm.names()]
            for record in records:
                if record.name in self.tracks:
                    self.tracks[record.name].describe(record, self._shm.eras(record.name))
                elif record.history and not self._names:
                    self._add(record.name, 0)
                elif record.name not in self.left_out and not self._names:
                    self.left_out.append(record.name)
                    log.warning("record %s has no history: it is not recorded", record.name)
            self._to_describe = False
        except (ServerUnreachable, ServerTimeout):
            pass  # the door has logged it; the next step tries again


def _check_histories(shm: SharedMemory, names: Iterable[str]) -> None:
    """Refuse records that cannot be recorded whole."""
    if without := [name for name in names if not shm.describe(name).history]:
        raise SharedDataError(
            f"{', '.join(without)}: without a history not every update can be recorded: describe "
            f'{"it" if len(without) == 1 else "them"} with "history": 256 (or "10s") and run '
            "`shareddata init --keep`: programs that run go on"
        )


def seconds(identity: str) -> float | None:
    """Return the time of an entry's id, in seconds since 1970; None for none.

    Redis: none.
    """
    return int(identity.partition("-")[0]) / 1000 if identity else None
