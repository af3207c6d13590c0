"""What a soak runs: a server, links that can be disturbed, and programs that are kept running, as systemd would.

It knows processes, journals and the checks that belong to them, nothing of which faults come when. Invariants:

1. A program that ends is started again; one that ended without being told to is reported, with the end of its errors.
2. Nothing is left after `close()`: no process, no mount, no folder.
"""

import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

import oracle
import resources
from journal import DONE, PROGRESS, Line, Tail
from oracle import ArchiveCheck, Check, Findings, LogCheck, LogSeries, QueueCheck, Series
from proxy import Proxy
from roles import PRODUCERS, REPLACED, values
from servers import OwnServer, free_port, short_folder
from shareddata import SharedMemory

HERE = Path(__file__).parent
DISK = 384 << 20  # bytes of the small disk that the server's file is on
RESTART = 0.1  # seconds until a program that ended is started again
HISTORY = 1000


class Control:
    """The numbers that `disturb.c` reads: what is wrong with a process's disk and clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)

    def sync(self, seconds: float) -> None:
        """Let each fsync take so much longer."""
        self._map[0:8] = struct.pack("q", int(seconds * 1e6))

    def clock(self, seconds: float) -> None:
        """Set the wall clock off by so much."""
        self._map[8:16] = struct.pack("q", int(seconds * 1e6))

    def close(self) -> None:
        self._map.close()


class Slot:
    """A program that is kept running, under one name and with one journal.

    Attributes:
        killable: whether faults may kill it; the others are those whose memory is followed for the whole run.
        check: what compares what it saw.
        series: what it writes.
        progress: when it last got on, by its journal.
    """

    def __init__(self, name: str, role: str, link: str, *options: str, killable: bool = True) -> None:
        self.name, self.role, self.link, self.options, self.killable = name, role, link, options, killable
        self.check: Check | None = None
        self.series: Series | None = None
        self.progress = 0.0
        self._marks: deque[float] = deque(maxlen=2000)
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = 0.0
        self.killed = self.stopped = False

    def __repr__(self) -> str:
        return self.name

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def got_on(self, when: float) -> None:
        """Note that it got on with its work."""
        self.progress = when
        self._marks.append(when)

    def first_progress(self, after: float) -> float | None:
        """Return when it first got on after a time."""
        return next((when for when in self._marks if when > after), None)


def described(groups: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Return the data description: two records a group, with the group's owner."""
    fields = [["ts", 0.0], ["sender", ""], *[[name, type(value)()] for name, value in values(1).items()]]
    return {
        f"{group}__{half}": {"history": HISTORY, "fields": fields} | ({"owner": owner} if owner else {})
        for group, owner in groups
        for half in "ab"
    }


class World:
    """Everything that runs. A context manager.

    Args:
        kind: of the server: `valkey` or `redis`.
        seed: of what is random.
        rate: how much is written: a factor.
    """

    def __init__(self, kind: str, seed: int, rate: float) -> None:
        self.kind, self.chance, self.rate = kind, random.Random(seed), rate
        self.findings = Findings()
        self.troubles: list[str] = []
        self.skipped: dict[str, str] = {}  # what cannot be made here, and why
        self.samples: dict[tuple[str, int], list[resources.Sample]] = defaultdict(list)
        self.slots: list[Slot] = []
        self.leaving: list[tuple[Slot, subprocess.Popen[bytes], float]] = []
        self.server_expected = True
        self.finishing = False
        self._open = ExitStack()
        self._controls: dict[str, Control] = {}
        self._tails: dict[str, Tail] = {}
        self._sampled = 0.0

    def __enter__(self) -> "World":
        try:
            self.folder = short_folder()
            self._open.callback(shutil.rmtree, self.folder)
            self.disk = self._small_disk()
            self.preload = self._compiled()
            with self.disturbable("server"):
                self.server = OwnServer(self.kind, fsync="always", port=free_port(), folder=self.disk / "server")
            self._open.callback(self.server.close)
            self.links = {name: Proxy(self.server.url) for name in ("left", "right")}
            for link in self.links.values():
                self._open.callback(link.close)
            self._start_programs()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything, whatever state it is in."""
        for process in [slot.process for slot in self.slots] + [process for _, process, _ in self.leaving]:
            if process is not None:
                process.kill()
                process.wait()
        for closable in [*self._tails.values(), *self._controls.values()]:
            closable.close()
        self._open.close()

    # -- what it stands on --------------------------------------------------------------------------------------------

    def _small_disk(self) -> Path:
        """Return a folder that is a small disk of its own, where this user may mount one."""
        place = self.folder / "disk"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(place)]
        if os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
            self._open.callback(subprocess.run, ["umount", "--lazy", str(place)], check=True)
        else:
            self.skipped["small disk"] = "no right to mount a small disk: no full disk"
        return place

    def _compiled(self) -> Path | None:
        """Build what slows a disk down and sets a clock off."""
        built = self.folder / "disturb.so"
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(built), str(HERE / "disturb.c"), "-ldl"]
        if shutil.which("cc") and subprocess.run(command, capture_output=True).returncode == 0:
            return built
        self.skipped["preload"] = "no C compiler (cc): no slow disk, no clock that is set"
        return None

    def control(self, name: str) -> Control:
        """Return what disturbs a process."""
        if name not in self._controls:
            self._controls[name] = Control(self.folder / f"{name}.control")
        return self._controls[name]

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a process whose disk and clock can be disturbed."""
        control = self.control(name)
        found = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
        return found | ({"LD_PRELOAD": str(self.preload), "SOAK_CONTROL": str(control.path)} if self.preload else {})

    @contextmanager
    def disturbable(self, name: str) -> Iterator[None]:
        """Let what is started meanwhile be disturbable."""
        before = dict(os.environ)
        os.environ.update(self.environment(name))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    # -- the server ---------------------------------------------------------------------------------------------------

    def kill_server(self) -> None:
        self.server_expected = False
        self.server.kill()

    def start_server(self) -> None:
        with self.disturbable("server"):
            self.server.start()
        self.server_expected = True

    # -- the programs -------------------------------------------------------------------------------------------------

    def _start_programs(self) -> None:
        groups = [("ONE", "HDL_ONE"), ("TWO", "HDL_TWO"), ("FREE", "")]
        with SharedMemory(url=self.server.url) as shm:
            shm.init(described(groups))
        for group, owner in groups:
            self._group(group, owner or "HDL_FREE", links=("direct", "left", "right"))
        self._log()
        self._others()
        for slot in self.slots:
            self.start(slot)

    def _add(self, slot: Slot, series: Series | None = None, check: Check | None = None) -> None:
        slot.series, slot.check = series, check
        self._tails[slot.name] = Tail(self.folder / f"{slot.name}.journal")
        self.slots.append(slot)

    def _group(self, group: str, writer: str, links: tuple[str, ...]) -> None:
        """Add one group's writer and who reads it."""
        series, link = Series(writer), links[len(self.slots) % 3]
        kept = group == "ONE"  # of each kind one is never killed: its memory is followed for the whole run
        self._add(Slot(writer, "writer", link, f"records={group}", self._rate(25), killable=not kept), series)
        follow = f"FOLLOW_{group}"
        check = Check(follow, series, self.findings, every=True)
        self._add(Slot(follow, "follower", links[1], f"record={group}__a", killable=not kept), check=check)
        if group != "TWO":
            name = f"LISTEN_{group}"
            check = Check(name, series, self.findings, again=True)
            self._add(Slot(name, "listener", links[2], f"records={group}", killable=not kept), check=check)
        if group != "FREE":
            name = f"READ_{group}"
            check = Check(name, series, self.findings, again=True)
            self._add(
                Slot(name, "poller", links[len(self.slots) % 3], f"records={group}", self._rate(20), killable=not kept),
                check=check,
            )

    def _log(self) -> None:
        series = LogSeries("LOG")
        self._add(Slot("LOG", "log_writer", "left", self._rate(80)), series)
        for number, link in enumerate(("direct", "right")):
            check = LogCheck(f"LOG_{number}", series, self.findings)
            self._add(Slot(f"LOG_{number}", "log_reader", link, f"reader={number}", killable=number > 0), check=check)

    def _others(self) -> None:
        for source, link in (("arrays", "direct"), ("objects", "right")):
            series, name = Series(f"EMIT_{source}"), f"ARCHIVE_{source}"
            self._add(Slot(series.name, "emitter", link, f"source={source}", self._rate(8)), series)
            check = ArchiveCheck(name, series, self.findings)
            self._add(Slot(name, "archiver", link, f"source={source}", killable=source == "arrays"), check=check)
        series = Series("PUSH")
        self._add(Slot("PUSH", "pusher", "left", self._rate(15)), series)
        self._add(Slot("POP", "popper", "right"), check=QueueCheck("POP", series, self.findings))
        series = Series("SENSOR")
        self._add(Slot("SENSOR", "sensor", "left", self._rate(15)), series)
        check = Check("WATCHDOG", series, self.findings, every=True, hears=True)
        self._add(Slot("WATCHDOG", "watchdog", "direct", "sensor=SENSOR", killable=False), check=check)

    def _rate(self, rate: float) -> str:
        return f"rate={rate * self.rate}"

    def url(self, link: str) -> str:
        return self.links[link].url if link in self.links else self.server.url

    def start(self, slot: Slot, *options: str) -> None:
        """Start a program."""
        with (self.folder / f"{slot.name}.errors").open("ab") as errors:
            slot.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", str(HERE / "roles.py"), slot.role, slot.name]
                + [self.url(slot.link), str(self.folder), *slot.options, *options],
                env=self.environment(slot.name),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # a control-C is for the soak alone
            )
        slot.killed = slot.stopped = False

    def replace(self, slot: Slot) -> None:
        """Start another copy of a writer, which takes its records from the one that runs."""
        assert slot.process is not None and slot.series is not None
        self.leaving.append((slot, slot.process, time.monotonic()))
        self.start(slot, "take_over=1", f"first={max(slot.series.intended, default=0) + 1000}")

    # -- time ---------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let everything run for so long, keeping programs up and looking at what they note."""
        end = time.monotonic() + seconds
        while True:
            self.tick()
            if (rest := end - time.monotonic()) <= 0:
                return
            time.sleep(min(0.03, rest))

    def tick(self) -> None:
        """Read the journals, start again what ended, take samples."""
        for slot in self.slots:
            for line in self._tails[slot.name].news():
                self._take(slot, line)
        for slot in self.slots:
            if slot.check is not None:
                slot.check.look()
        if not self.finishing:
            self._keep_up()
        self._look_after_those_who_leave()
        if self.server_expected and self.server.server.ended():
            self.troubles.append(f"the server ended by itself: {self._end_of(self.server.folder / 'server.log')}")
            self.start_server()
        if time.monotonic() - self._sampled >= 1.0:
            self._sampled = time.monotonic()
            self._sample()

    def _take(self, slot: Slot, line: Line) -> None:
        if slot.series is not None:
            slot.series.take(line)
        if slot.check is not None:
            slot.check.take(line)
        if line.kind in PROGRESS:
            slot.got_on(line.when)

    def _keep_up(self) -> None:
        for slot in self.slots:
            if slot.process is None or slot.process.poll() is None:
                continue
            if not slot.ended:
                slot.ended = time.monotonic()
                if not slot.killed:
                    self._report_end(slot, slot.process.returncode)
            elif time.monotonic() - slot.ended > RESTART:
                slot.ended = 0.0
                self.start(slot)

    def _report_end(self, slot: Slot, code: int) -> None:
        self.troubles.append(f"{slot.name} ended with {code}: {self._end_of(self.folder / f'{slot.name}.errors')}")

    def _end_of(self, path: Path) -> str:
        return " | ".join(path.read_text(errors="replace").splitlines()[-8:]) if path.exists() else "nothing"

    def _look_after_those_who_leave(self) -> None:
        for each in list(self.leaving):
            slot, process, since = each
            if process.poll() is not None:
                self.leaving.remove(each)
                if process.returncode not in (REPLACED, -signal.SIGKILL):
                    self._report_end(slot, process.returncode)
            elif time.monotonic() - since > 20:
                self.leaving.remove(each)
                self.troubles.append(f"{slot.name}: the writer that was replaced goes on after 20 s")
                process.kill()
                process.wait()

    def _sample(self) -> None:
        now = time.monotonic()
        pids = [(slot.name, slot.pid) for slot in self.slots if slot.process and slot.process.poll() is None]
        if self.server_expected:
            pids.append(("server", self.server.pid))
        for name, pid in pids:
            if (found := resources.sample(pid, now)) is not None:
                self.samples[name, pid if name != "server" else 0].append(found)

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Let everything run until a condition holds; tell whether it did in that time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.run(0.02)
        return True

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let who writes end, who reads catch up, and look at everything that is there."""
        self.run(0)
        self.finishing = True
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is not None and slot.role not in PRODUCERS:
                self.start(slot)  # it was just about to be started again
        producers = [slot for slot in self.slots if slot.role in PRODUCERS]
        self._end(producers)
        self.run(0)
        checks = [slot.check for slot in self.slots if slot.check is not None]
        self.wait(lambda: all(check.up_to_date for check in checks), 20)
        archives = [slot for slot in self.slots if isinstance(slot.check, ArchiveCheck)]
        self.wait(lambda: all(self._archived(slot) for slot in archives), 20)
        self._end([slot for slot in self.slots if slot.role not in PRODUCERS])
        self.run(0)
        for check in checks:
            check.finish()
        for slot in archives:
            assert isinstance(slot.check, ArchiveCheck)
            slot.check.files(self._files(slot))
        self._look_into_the_server()

    def _end(self, slots: list[Slot]) -> None:
        """Tell programs to end, and report those that end with an error, or don't."""
        running = [slot for slot in slots if slot.process is not None and slot.process.poll() is None]
        for slot in running:
            os.kill(slot.pid, signal.SIGTERM)
        self.wait(lambda: all(slot.process.poll() is not None for slot in running), 20)  # type: ignore[union-attr]
        for slot in running:
            assert slot.process is not None
            if (code := slot.process.poll()) is None:
                self.troubles.append(f"{slot.name} did not end within 20 s after SIGTERM")
            elif code not in (0, -signal.SIGTERM):  # it may not have come as far as to its own handling of signals
                self._report_end(slot, code)

    def _archived(self, slot: Slot) -> bool:
        series = self.series_of(slot)
        return len({number for _, number in self._files(slot)}) >= len(set(series.acknowledged))

    def series_of(self, slot: Slot) -> Series:
        """Return what a consumer sees."""
        assert slot.check is not None
        return slot.check.series

    def _files(self, slot: Slot) -> Iterator[tuple[str, int]]:
        """Yield the files of an archive and the number in each; what is torn is reported."""
        source = slot.options[0].partition("=")[2]
        for path in sorted((self.folder / source).rglob("*")):
            if path.is_file() and path.suffix in (".json", ".npy"):
                number = _number_in(path)
                if number is None:
                    self.findings.add("torn", f"{slot.name}: {path.name}")
                else:
                    yield path.name, number

    def _look_into_the_server(self) -> None:
        """Compare what a plain client finds: histories, the records' last values, both halves of each group."""
        with self.server.client() as client:
            for slot in self.slots:
                if slot.role != "writer" or slot.series is None:
                    continue
                group = slot.options[0].partition("=")[2]
                halves = []
                for record in (f"{group}__a", f"{group}__b"):
                    found = client.xrange(f"{record}:history")
                    entries = [(int(entry[b"number"]), entry[b"ts"].decode()) for _, entry in found]
                    numbers = list(oracle.history(record, entries, slot.series, self.findings))
                    halves.append(numbers)
                    now = int(client.hget(record, "number") or 0)
                    if numbers and now != numbers[-1]:
                        self.findings.add("torn", f"{record} is {now}, its history ends with {numbers[-1]}")
                common = min(map(len, halves))
                if common and halves[0][-common:] != halves[1][-common:]:
                    self.findings.add("torn", f"the histories of {group}__a and {group}__b differ")

    def counted(self) -> dict[str, tuple[int, int]]:
        """Return for each role how many writes were acknowledged and how many values were seen."""
        found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for slot in self.slots:
            if slot.series is not None:
                found[slot.role][0] += slot.series.counts[DONE]
            if slot.check is not None:
                found[slot.role][1] += slot.check.count
        return {role: (wrote, saw) for role, (wrote, saw) in found.items()}


def _number_in(path: Path) -> int | None:
    """Return the number that a file of an archive is all of; None when it is not whole."""
    try:
        if path.suffix == ".json":
            value = json.loads(path.read_text())
            return value["number"] if value["square"] == value["number"] ** 2 else None
        array = np.load(path, allow_pickle=False)
    except (ValueError, KeyError, EOFError):
        return None
    return int(array[0]) if len(array) and (array == array[0]).all() else None

