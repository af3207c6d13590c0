"""The oracle of the soak finds what it is there to find: each kind of loss is told from what was promised."""

from collections.abc import Iterable

import pytest

from journal import Line
from oracle import ArchiveCheck, Check, Findings, LogCheck, LogSeries, QueueCheck, Series, history


def lines(text: str) -> Iterable[Line]:
    """Return the lines of a journal, given as `I1 A1 ...`; words are joined by colons."""
    for each in text.split():
        yield Line(each[0], 0.0, tuple(each[1:].split(":")))


def found(findings: Findings) -> dict[str, int]:
    return {kind: count for kind, count in findings.counts.items() if count}


WRITTEN = "I1 A1 I2 U2 I3 X3 I4 U4 I4 A4 I5 A5"  # 2 may be there, 3 may not, 4 was repeated


def written(kind: type[Series] = Series) -> Series:
    series = kind("W")
    for line in lines(WRITTEN):
        series.take(line)
    return series


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ("R1 R2 R4 R5", {}),
        ("R1 R4 R5", {}),
        ("R1 R2 R5", {"lost": 1}),
        ("R2 R4 R5", {"lost": 1}),
        ("R1 R2 R4", {"late": 1}),
        ("R1 R2 R2 R4 R5", {"doubled": 1}),
        ("R1 R2 R4 R2 R5", {"out of order": 1}),
        ("R1 R2 R3 R4 R5", {"never written": 1}),
        ("R1 R2 R4 R5 R6", {"never written": 1}),
        ("R1 R2 Tsplit R4 R5", {"torn": 1}),
    ],
)
def test_who_sees_everything(seen: str, expected: dict[str, int]) -> None:
    check = Check("R", written(), findings := Findings(), every=True)
    for line in lines(seen):
        check.take(line)
    check.finish()
    assert found(findings) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ("R1 R1 R5", {}),
        ("R5", {}),
        ("R1 R4", {"late": 1}),
        ("R4 R1 R5", {"out of order": 1}),
    ],
)
def test_who_sees_the_newest(seen: str, expected: dict[str, int]) -> None:
    check = Check("R", written(), findings := Findings(), again=True)
    for line in lines(seen):
        check.take(line)
    check.finish()
    assert found(findings) == expected


def test_what_is_lost_is_found_at_once() -> None:
    check = Check("R", written(), findings := Findings(), every=True)
    for line in lines("R1 R5"):
        check.take(line)
    check.look()
    assert found(findings) == {"lost": 1} and findings.cases == ["lost: R: W 4 was acknowledged"]


def test_who_hears_from_when_it_began() -> None:
    check = Check("R", written(), findings := Findings(), every=True, hears=True)
    for line in lines("R4 R5"):
        check.take(line)
    check.finish()
    assert not findings


LOG = "S1 I1 I2 A2 I3 S2 I4 U4 A4 I5 A5"  # 3 was stored and never committed: the writer was killed


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ("S9 R1:1 R2:2 R4:3 R5:4", {}),
        ("S9 R1:1 R2:2 R3:3 R4:4 R5:5", {}),
        ("S9 R1:1 R2:2 Cwanted:2 Cmoved:2 R4:3 S9 R4:3 R5:4", {}),
        ("S9 R1:1 R2:2 Cwanted:2 S9 R1:1 R2:2 R4:3 R5:4", {}),
        ("S9 R1:1 R2:2 Cwanted:2 S9 R4:3 R5:4", {}),
        ("S9 R1:1 R2:2 Cwanted:2 Cmoved:2 S9 R1:1 R2:2 R4:3 R5:4", {"doubled": 1}),
        ("S9 R1:1 R2:2 S9 R4:3 R5:4", {"lost": 1}),
        ("S9 R1:1 R4:2 R5:3", {"lost": 1}),
        ("S9 R1:1 R2:2 R5:4", {"lost": 2}),
        ("S9 R1:1 R2:2 R2:2 R4:3 R5:4", {"doubled": 1}),
        ("S9 R1:1 S9 R7:1 R2:2 R4:3 R5:4", {"torn": 1}),
    ],
)
def test_logs(seen: str, expected: dict[str, int]) -> None:
    series = LogSeries("LOG")
    for line in lines(LOG):
        series.take(line)
    check = LogCheck("R", series, findings := Findings())
    for line in lines(seen):
        check.take(line)
    check.finish()
    assert found(findings) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ("S9 R1 R4 R5", {}),
        ("S9 R1 F R5", {}),  # a pop of unknown outcome took one with it
        ("S9 S9 R5", {}),  # two copies, each may have taken one with it
        ("S9 R5", {"lost": 1}),
        ("S9 R1 R4 R4 R5", {"doubled": 1}),
        ("S9 R1 R3 R4 R5", {"never written": 1}),
    ],
)
def test_queues(seen: str, expected: dict[str, int]) -> None:
    check = QueueCheck("POP", written(), findings := Findings())
    for line in lines(seen):
        check.take(line)
    check.finish()
    assert found(findings) == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([1, 4, 5], {}), ([1, 2, 4, 5], {}), ([1, 5], {"lost": 1}), ([1, 4, 4, 5], {"doubled": 1}),
     ([1, 3, 4, 5], {"never written": 1})],
)
def test_archives(numbers: list[int], expected: dict[str, int]) -> None:
    check = ArchiveCheck("A", written(), findings := Findings())
    check.files((f"{number}.json", number) for number in numbers)
    assert found(findings) == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([1, 4, 4, 5], {}), ([4, 5], {}), ([1, 5], {"lost": 1}), ([1, 5, 4], {"out of order": 1}),
     ([1, 3, 4, 5], {"never written": 1})],
)
def test_histories(numbers: list[int], expected: dict[str, int]) -> None:
    findings = Findings()
    list(history("A", [(number, str(number)) for number in numbers], written(), findings))
    assert found(findings) == expected


def test_a_repeated_flush_has_the_same_time() -> None:
    findings = Findings()
    assert list(history("A", [(1, "1"), (4, "4"), (4, "5"), (5, "5")], written(), findings)) == [1, 4, 5]
    assert found(findings) == {"doubled": 1}
