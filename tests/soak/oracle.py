"""Who knows every acknowledged write, and what everybody saw of it: nothing lost, torn, doubled or out of order.

It knows the lines of journals, and what was found at the end; nothing of servers or of how faults are made. Invariants:

1. A number counts as acknowledged when its writer noted so, once; as refused when every try of it was refused.
2. What is wrong is found while the soak runs, as soon as the journals show it; what can only be known at the end is
   found there.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator

import journal
from journal import BEGIN, CURSOR, DONE, INTENT, REFUSED, SEEN, UNKNOWN, WRONG, Line

KINDS = ("lost", "torn", "doubled", "out of order", "never written", "late")


class Findings:
    """What was found to be wrong: how often, and the first cases in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.cases: list[str] = []

    def add(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if len(self.cases) < 100:
            self.cases.append(f"{kind}: {text}")

    def __bool__(self) -> bool:
        return any(self.counts.values())


class Series:
    """The numbers that one producer wrote, in one journal or, where copies took over, in several.

    Attributes:
        intended: all that were ever to be written.
        acknowledged: those that the library said to be written, in the order of their notes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.intended: set[int] = set()
        self.acknowledged: list[int] = []
        self.counts: Counter[str] = Counter()
        self._outcomes: dict[int, set[str]] = {}

    def take(self, line: Line) -> None:
        if line.kind == INTENT:
            self.intended.add(line.number)
            self._outcomes.setdefault(line.number, set()).add(INTENT)
        elif line.kind in (DONE, UNKNOWN, REFUSED):
            self.counts[line.kind] += 1
            outcomes = self._outcomes.setdefault(line.number, set())
            outcomes.discard(INTENT)
            outcomes.add(line.kind)
            if line.kind == DONE:
                self.acknowledged.append(line.number)

    @property
    def last(self) -> int:
        """The last number that was acknowledged."""
        return max(self.acknowledged[-10:], default=0)  # where copies took over, their notes may overtake each other

    def never(self) -> set[int]:
        """Return the numbers that were refused, all tries of them: nobody may ever see them."""
        return {number for number, outcomes in self._outcomes.items() if outcomes == {REFUSED}}


class LogSeries(Series):
    """The numbers that a log's writer stored: committing one commits all that this copy stored before it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._stored: list[int] = []

    def take(self, line: Line) -> None:
        if line.kind == BEGIN:
            self._stored.clear()
        elif line.kind == INTENT:
            self.intended.add(line.number)
            if not self._stored or line.number > self._stored[-1]:
                self._stored.append(line.number)
        elif line.kind == DONE:
            done = [number for number in self._stored if number <= line.number]
            self.acknowledged += done
            self.counts[DONE] += len(done)
            self._stored = [number for number in self._stored if number > line.number]
        elif line.kind == UNKNOWN:
            self.counts[UNKNOWN] += 1


class Check:
    """What one consumer saw of a series.

    Args:
        name: the consumer's.
        series: what it should see.
        findings: where to report.
        every: whether every acknowledged number must be seen; else some are skipped, and the last one must be.
        again: whether a number may be seen again, as a value that did not change.
        hears: whether it sees nothing that was written before it began.
    """

    def __init__(
        self,
        name: str,
        series: Series,
        findings: Findings,
        every: bool = False,
        again: bool = False,
        hears: bool = False,
    ) -> None:
        self.name, self.series, self.findings = name, series, findings
        self.every, self.again, self.hears = every, again, hears
        self.first: int | None = None
        self.seen: set[int] = set()
        self.count = self.highest = 0
        self._waiting: deque[int] = deque()
        self._taken = 0  # how many of the series' acknowledged numbers are waited for or were seen

    def take(self, line: Line) -> None:
        if line.kind == WRONG:
            self.findings.add("torn", f"{self.name}: {' '.join(line.words)}")
        elif line.kind == SEEN:
            self.saw(line.number)

    def saw(self, number: int) -> None:
        self.count += 1
        self.first = self.first or number
        if number < self.highest:
            self.findings.add("out of order", f"{self.name}: {number} after {self.highest}")
        elif number == self.highest and not self.again:
            self.findings.add("doubled", f"{self.name}: {number}")
        self.highest = max(self.highest, number)
        if self.every:
            self.seen.add(number)

    def look(self) -> None:
        """Find what is lost by now: acknowledged, and not seen where a later one was."""
        acknowledged = self.series.acknowledged
        self._waiting.extend(acknowledged[self._taken :])
        self._taken = len(acknowledged)
        while self.every and self._waiting and self._waiting[0] <= self.highest:
            number = self._waiting.popleft()
            if number not in self.seen and not (self.hears and number < (self.first or 0)):
                self.findings.add("lost", f"{self.name}: {self.series.name} {number} was acknowledged")

    @property
    def up_to_date(self) -> bool:
        return self.highest >= self.series.last

    def finish(self) -> None:
        """Find what must be there at the end."""
        self.look()
        if not self.up_to_date:
            self.findings.add("late", f"{self.name}: ended at {self.highest}, the last one was {self.series.last}")
        strangers(self.name, self.seen, self.series, self.findings)


def strangers(name: str, seen: set[int], series: Series, findings: Findings) -> None:
    """Find numbers that nobody can have written: refused, or never sent."""
    for number in sorted(seen - series.intended | seen & series.never()):
        findings.add("never written", f"{name}: {series.name} {number} was refused, or never sent")


class LogCheck(Check):
    """What a log's reader saw: it begins behind its cursor, and numbers and sequence numbers belong together."""

    def __init__(self, name: str, series: Series, findings: Findings) -> None:
        super().__init__(name, series, findings, every=True)
        self.records: dict[int, int] = {}  # by sequence number
        self._position = 0
        self._moved, self._wanted = 0, 0
        self._begun = True

    def take(self, line: Line) -> None:
        if line.kind == BEGIN:
            self._begun = True
        elif line.kind == CURSOR and line.words[0] == "wanted":
            self._wanted = int(line.words[1])
        elif line.kind == CURSOR:
            self._moved = int(line.words[1])
        elif line.kind == SEEN:
            self._saw(line.number, int(line.words[1]))
        else:
            super().take(line)

    def _saw(self, number: int, position: int) -> None:
        if self._begun and position not in (self._moved + 1, self._wanted + 1):
            kind = "doubled" if position <= self._moved else "lost"
            self.findings.add(kind, f"{self.name}: began with record {position}, its cursor was at {self._moved}")
        elif not self._begun and position != self._position + 1:
            kind = "doubled" if position <= self._position else "lost"
            self.findings.add(kind, f"{self.name}: record {position} after {self._position}")
        self._begun, self._position = False, position
        known = self.records.setdefault(position, number)
        if known != number:
            self.findings.add("torn", f"{self.name}: record {position} was {known}, is {number}")
        elif number > self.highest:
            self.saw(number)
        elif number not in self.seen:
            self.findings.add("out of order", f"{self.name}: {number} after {self.highest}")


class QueueCheck(Check):
    """What was popped: at most once, in order; what was taken and did not arrive is gone, as promised."""

    def __init__(self, name: str, series: Series, findings: Findings) -> None:
        super().__init__(name, series, findings)
        self.excuses = 0  # pops of unknown outcome, and copies that were killed
        self._arrived: set[int] = set()

    def take(self, line: Line) -> None:
        if line.kind in (journal.FAILED, BEGIN):
            self.excuses += 1
        elif line.kind == SEEN:
            self._arrived.add(line.number)
        super().take(line)

    def finish(self) -> None:
        gone = [number for number in self.series.acknowledged if number not in self._arrived]
        if len(gone) > self.excuses:
            self.findings.add("lost", f"{self.name}: {len(gone)} elements, {self.excuses} pops failed: {gone[:5]}")
        strangers(self.name, self._arrived, self.series, self.findings)


class ArchiveCheck(Check):
    """What an archiver stored: the journal only counts; the files are looked at when all is over."""

    def take(self, line: Line) -> None:
        if line.kind == WRONG:
            super().take(line)

    def look(self) -> None:
        """Nothing is known before the end."""

    @property
    def up_to_date(self) -> bool:
        return True

    def files(self, numbers: Iterable[tuple[str, int]]) -> None:
        """Compare the files, each with the number in it, with what was emitted."""
        found: Counter[int] = Counter()
        for path, number in numbers:
            found[number] += 1
            if found[number] > 1:
                self.findings.add("doubled", f"{self.name}: {number} is in {path} and in another file")
        for number in self.series.acknowledged:
            if number not in found:
                self.findings.add("lost", f"{self.name}: event {number} was acknowledged")
        strangers(self.name, set(found), self.series, self.findings)
        self.count = sum(found.values())

    def finish(self) -> None:
        """Nothing more: `files` has looked."""


def history(name: str, entries: Iterable[tuple[int, str]], series: Series, findings: Findings) -> Iterator[int]:
    """Check what a history holds at the end, and yield its numbers, each once.

    Args:
        name: the record's.
        entries: number and ts of each.
        series: who wrote it.
        findings: where to report.
    """
    before = (0, "")
    seen: set[int] = set()
    for entry in entries:
        if entry[0] < before[0]:
            seen.add(entry[0])
            findings.add("out of order", f"history of {name}: {entry[0]} after {before[0]}")
        elif entry[0] == before[0] and entry != before:
            findings.add("doubled", f"history of {name}: {entry[0]} with another ts")
        elif entry[0] != before[0]:
            seen.add(entry[0])
            yield entry[0]
        before = entry
    strangers(f"history of {name}", seen, series, findings)
    first = min(seen, default=0)
    for number in series.acknowledged:
        if number >= first and number not in seen:
            findings.add("lost", f"history of {name}: {number} was acknowledged")
