"""Store and forward between two servers that stay: what arrives, once and in order, and what is said of the rest."""

import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from records import HEAD
from servers import OwnServer, empty, plain_client
from shareddata import DataDict, SharedMemory, cli, forwardview
from shareddata.errors import LogFormatError, SharedDataError, UnknownData, WriterConflict
from shareddata.forward import Forward
from shareddata.server import Server
from shareddata.tslog import TSLog
from waiting import eventually

RECORDS: dict[str, Any] = {
    "GPS": {"history": 1000, "fields": [*HEAD, ["number", 0], ["note", ""]]},
    "TIMED": {"history": "1h", "fields": [*HEAD, ["number", 0]]},
    "QUIET": {"history": 0, "fields": [*HEAD, ["number", 0]]},
}
OURS = {"namespace": "usv1", "to_namespace": "fleet"}


@pytest.fixture
def ends(server: Server, kind: str, servers: dict[str, Server]) -> Iterator[tuple[SharedMemory, SharedMemory]]:
    """Source and destination; two servers where this machine has two kinds, else two namespaces."""
    other = next((each for name, each in servers.items() if name != kind), server)
    empty(other.url)
    source = SharedMemory(url=server.url, namespace="usv1")
    with source, SharedMemory(url=other.url, namespace="fleet") as destination:
        yield source, destination


Ends = tuple[SharedMemory, SharedMemory]


def copy(ends: Ends, *names: str, **options: Any) -> Forward:
    """Forward until all is sent; return the closed Forward, for what it has counted."""
    with Forward(ends[0].url, ends[1].url, names, **{**OURS, **options}) as going:
        going.run(once=True)
    return going


def counts(going: Forward) -> dict[str, tuple[int, int, int | None]]:
    return {each.name: (each.sent, each.missed, each.behind) for each in going.progress}


def store(shm: SharedMemory, name: str, numbers: Iterator[int] | range, **options: Any) -> None:
    with TSLog(name, ["Qd"], shm=shm, **{"bucket_size": 10, **options}) as tslog:
        for number in numbers:
            tslog.store(number, number / 7)


def stored(shm: SharedMemory, name: str, **options: Any) -> list[int]:
    with TSLog(name, ["Qd"], shm=shm, **{"bucket_size": 10, **options}) as tslog:
        return [number for number, _ in tslog.reader(0)]


def flush(shm: SharedMemory, name: str, numbers: range) -> None:
    with DataDict("writer", shm) as dd:
        (data,) = dd.set_datas_to_write([name])
        for number in numbers:
            data.set(number=number)
            dd.flush()


def history(shm: SharedMemory, name: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    with plain_client(shm.url) as client:
        return list(client.xrange(shm.keys.history(name)))


def test_a_log_is_the_same_log_there(ends: Ends) -> None:
    source, destination = ends
    store(source, "trip/a", range(1, 101), max_buckets=100)
    going = copy(ends)
    assert counts(going) == {"trip/a": (100, 0, 0)}
    with plain_client(source.url) as here, plain_client(destination.url) as there:
        assert here.xrange("{usv1}:tslog:trip/a") == there.xrange("{fleet}:tslog:trip/a")
        assert here.get("{usv1}:tslog:trip/a:log") == there.get("{fleet}:tslog:trip/a:log")
    assert stored(destination, "trip/a") == list(range(1, 101))
    store(source, "trip/a", range(101, 121))
    assert counts(copy(ends)) == {"trip/a": (120, 0, 0)}
    assert stored(destination, "trip/a") == list(range(1, 121))
    assert counts(copy(ends)) == {"trip/a": (120, 0, 0)}


def test_a_history_and_its_record(ends: Ends) -> None:
    source, destination = ends
    source.init(RECORDS)
    for name in ("GPS", "TIMED"):
        flush(source, name, range(300))
    flush(source, "QUIET", range(3))
    assert counts(copy(ends)) == {"GPS": (300, 0, 0), "TIMED": (300, 0, 0)}
    for name in ("GPS", "TIMED"):
        assert history(destination, name) == history(source, name)
        assert destination.describe(name) == source.describe(name)
    assert destination.names() == ["GPS", "TIMED"]
    with DataDict("reader", destination) as dd:
        dd.set_datas_to_read(["GPS", "TIMED"])
        gps, timed = dd.next()
        assert (gps.number, gps.sender, timed.number) == (299, "writer", 299)
        with dd.follow_data("GPS", 0, timeout=0.01) as follower:
            assert [trame.number for trame in follower] == list(range(300))


def test_names_and_globs(ends: Ends) -> None:
    source, _ = ends
    source.init(RECORDS)
    store(source, "nav/fine", range(3))
    store(source, "nav/rough", range(3))
    store(source, "engine", range(3))
    assert sorted(counts(copy(ends, "nav/*", "GPS"))) == ["GPS", "nav/fine", "nav/rough"]
    with pytest.raises(UnknownData, match="TANK.*neither a record with a history nor a log"):
        copy(ends, "TANK", "GPS")
    with pytest.raises(UnknownData, match="QUIET"):
        copy(ends, "QUIET")


def test_cleaning_waits_for_the_cursor_up_to_the_bound(ends: Ends) -> None:
    source, destination = ends
    store(source, "nav", range(1, 6), nreaders=0, max_buckets=4)
    assert counts(copy(ends)) == {"nav": (5, 0, 0)}
    store(source, "nav", range(6, 36), nreaders=0, max_buckets=4)
    assert counts(copy(ends)) == {"nav": (35, 0, 0)}, "cleaning waited"
    store(source, "nav", range(36, 100), nreaders=0, max_buckets=4)  # 10 buckets: the oldest six go
    assert counts(copy(ends)) == {"nav": (35 + 39, 25, 0)}, "60 are gone, of which 35 were sent"
    assert stored(destination, "nav") == [*range(1, 36), *range(61, 100)]
    assert counts(copy(ends)) == {"nav": (74, 25, 0)}


def test_what_a_history_dropped_is_counted_over_restarts(ends: Ends) -> None:
    source, destination = ends
    source.init(RECORDS)
    flush(source, "GPS", range(10))
    copy(ends)
    flush(source, "GPS", range(10, 60))
    with plain_client(source.url) as client:
        client.xtrim("{usv1}:GPS:history", maxlen=20, approximate=False)
        assert counts(copy(ends)) == {"GPS": (30, 30, 0), "TIMED": (0, 0, 0)}
        flush(source, "GPS", range(60, 70))
        client.xtrim("{usv1}:GPS:history", maxlen=0, approximate=False)
        assert counts(copy(ends))["GPS"] == (30, 40, 0), "all of it, and nothing behind it"
        flush(source, "GPS", range(70, 72))
        assert counts(copy(ends))["GPS"] == (32, 40, 0)
    assert [int(fields[b"number"]) for _, fields in history(destination, "GPS")] == [*range(10), *range(40, 60), 70, 71]


def test_all_of_a_log_dropped(ends: Ends) -> None:
    source, _ = ends
    store(source, "nav", range(30))
    copy(ends)
    store(source, "nav", range(5))
    with plain_client(source.url) as client:
        client.xtrim("{usv1}:tslog:nav", maxlen=0, approximate=False)
    assert counts(copy(ends)) == {"nav": (30, 5, 0)}
    store(source, "nav", range(5))
    assert counts(copy(ends)) == {"nav": (35, 5, 0)}


def test_what_was_dropped_before_the_first_forwarding_is_not_missed(ends: Ends) -> None:
    source, _ = ends
    source.init(RECORDS)
    flush(source, "GPS", range(20))
    store(source, "nav", range(1, 101), max_buckets=3)
    with plain_client(source.url) as client:
        client.xtrim("{usv1}:GPS:history", maxlen=5, approximate=False)
    assert counts(copy(ends, "GPS", "nav")) == {"GPS": (5, 0, 0), "nav": (30, 0, 0)}


def test_a_log_begun_anew(ends: Ends) -> None:
    source, destination = ends
    store(source, "nav", range(1, 31))
    copy(ends)
    with TSLog("nav", ["Qd"], bucket_size=10, shm=destination) as tslog, tslog.reader(0) as reader:
        assert len(list(reader)) == 30
        reader.commit()
        store(source, "nav", range(100, 105), recreate=True)
        assert counts(copy(ends)) == {"nav": (35, 0, 0)}
        assert [number for number, _ in reader] == list(range(100, 105))
        assert reader.restarts == 1
        reader.commit()


def test_a_log_begun_anew_under_a_running_forward(ends: Ends) -> None:
    source, destination = ends
    store(source, "nav", range(1, 31))
    with Forward(source.url, destination.url, **OURS) as going:
        while not going.done:
            going.step()
        store(source, "nav", range(100, 105), recreate=True)
        going.step()
        while not going.done:
            going.step()
        assert counts(going) == {"nav": (35, 0, 0)}
    assert stored(destination, "nav") == list(range(100, 105))


def test_what_was_not_sent_of_the_old_log_is_missed(ends: Ends) -> None:
    source, destination = ends
    store(source, "nav", range(1, 31))
    with Forward(source.url, destination.url, **OURS) as going:
        going.run(once=True)
        store(source, "nav", range(31, 41))
        going._read()  # it knows of them, and has not sent them
        going.streams["tslog:nav"].buffer.clear()
        store(source, "nav", range(100, 102), recreate=True)
        going.run(once=True)
        assert counts(going) == {"nav": (32, 10, 0)}
    assert stored(destination, "nav") == [100, 101]
    assert counts(copy(ends)) == {"nav": (32, 10, 0)}


def test_a_new_writer_gives_no_number_anew(ends: Ends) -> None:
    """Neither at the source, nor for readers at the destination when another forward begins."""
    source, destination = ends
    with TSLog("nav", ["Qd"], bucket_size=10, shm=destination) as tslog, tslog.reader(0) as reader:
        for start in range(0, 50, 5):
            store(source, "nav", range(start, start + 5), max_buckets=20)
            assert counts(copy(ends)) == {"nav": (start + 5, 0, 0)}
            assert [number for number, _ in reader] == list(range(start, start + 5))
        assert (reader.restarts, reader.missed) == (0, 0)


def test_a_record_described_anew(ends: Ends) -> None:
    source, destination = ends
    source.init(RECORDS)
    with Forward(source.url, destination.url, ["GPS"], **OURS) as going:
        flush(source, "GPS", range(3))
        going.run(once=True)
        fields = [*HEAD, ["number", 0, {"unit": "m"}], ["more", 7.5]]
        source.init({"GPS": {**RECORDS["GPS"], "fields": fields}}, keep=True)
        flush(source, "GPS", range(3, 5))
        going.run(once=True)
        assert destination.describe("GPS") == source.describe("GPS")
        assert counts(going) == {"GPS": (5, 0, 0)}
    with DataDict("reader", destination) as dd, dd.follow_data("GPS", 0, timeout=0.01) as follower:
        assert [(trame.number, trame.more) for trame in follower] == [(number, 7.5) for number in range(5)]


def test_a_reader_that_was_there_first(ends: Ends) -> None:
    source, destination = ends
    with TSLog("nav", ["Qd"], bucket_size=10, shm=destination) as tslog, tslog.reader(0) as reader:
        store(source, "nav", range(5))
        copy(ends)
        assert [number for number, _ in reader] == list(range(5))
        reader.commit()
    with TSLog("other", ["Q"], shm=destination):
        store(source, "other", range(5))
        going = copy(ends, "other")
    (progress,) = going.progress
    assert "made there with" in progress.trouble


def test_cleaning_at_the_destination(ends: Ends) -> None:
    source, destination = ends
    store(source, "nav", range(1, 96))
    copy(ends, max_buckets=3)
    assert stored(destination, "nav") == list(range(71, 96)), "nobody read there: the newest three buckets"
    with TSLog("nav", ["Qd"], bucket_size=10, shm=destination) as tslog, tslog.reader(0) as reader:
        list(reader)
        reader.commit()
        store(source, "nav", range(96, 121))
        copy(ends, max_buckets=3)
        assert [number for number, _ in reader] == list(range(96, 121))
    with plain_client(destination.url) as client:
        assert client.xrange("{fleet}:tslog:nav", count=1)[0][0] == b"91-0", "what it had read was dropped"


def test_a_local_writer_and_forward_conflict(ends: Ends) -> None:
    source, destination = ends
    store(source, "nav", range(5))
    with Forward(source.url, destination.url, **OURS) as going:
        going.run(once=True)
        with plain_client(destination.url) as client:
            who = json.loads(client.get("{fleet}:tslog:nav:writer"))
        assert who["program"] == f"shareddata forward from {source.url}"
        local = TSLog("nav", ["Qd"], bucket_size=10, shm=destination, commit_delta=1)
        local.store(77, 7.7)
        store(source, "nav", range(5, 7))
        going.run(once=True)
        (progress,) = going.progress
        assert "nav" in progress.trouble and "writes it since" in progress.trouble
        local.close()
    assert stored(destination, "nav") == [0, 1, 2, 3, 4, 77], "what the local program wrote stays"
    (progress,) = copy(ends).progress
    assert "written there, up to 6-0" in progress.trouble and "--take-over" in progress.trouble
    store(source, "nav", range(7, 9))
    assert counts(copy(ends, take_over=True))["nav"] == (8, 1, 0), "one number was taken"
    assert stored(destination, "nav") == [0, 1, 2, 3, 4, 77, 6, 7, 8]


def test_a_local_writer_finds_forward_writing(ends: Ends) -> None:
    source, destination = ends
    with TSLog("nav", ["Qd"], bucket_size=10, shm=source, commit_delta=1) as origin:
        origin.store(1, 1.0)
        copy(ends)
        local = TSLog("nav", ["Qd"], bucket_size=10, shm=destination, commit_delta=100)
        local.store(77, 7.7)
        origin.store(2, 1.0)
        copy(ends)
        with pytest.raises(WriterConflict, match="shareddata forward from"):
            local.commit()
        local.close()
    assert stored(destination, "nav") == [1, 2]


def test_a_local_writer_of_a_record(ends: Ends) -> None:
    source, destination = ends
    source.init(RECORDS)
    with Forward(source.url, destination.url, ["GPS", "TIMED"], **OURS) as going:
        flush(source, "GPS", range(3))
        flush(source, "TIMED", range(3))
        going.run(once=True)
        flush(destination, "GPS", range(100, 101))
        flush(source, "GPS", range(3, 5))
        flush(source, "TIMED", range(3, 5))
        going.run(once=True)
        gps, timed = going.progress
        assert "other programs have written there" in gps.trouble
        assert (timed.sent, timed.trouble) == (5, ""), "the others go on"
    assert len(history(destination, "GPS")) == 4


def test_another_source_of_the_same_names(ends: Ends, own_server: Callable[..., OwnServer]) -> None:
    source, destination = ends
    other = own_server()
    with SharedMemory(url=other.url, namespace="usv1") as second:
        for shm in (source, second):
            shm.init(RECORDS)
            flush(shm, "GPS", range(3))
            store(shm, "nav", range(3))
        copy(ends)
        going = copy((second, destination))
        troubles = {each.name: each.trouble for each in going.progress}
        assert "--to-namespace" in troubles["GPS"]
        assert "--take-over" in troubles["nav"]
        assert counts(copy((second, destination), to_namespace="usv2"))["nav"] == (3, 0, 0)
        assert not any(each.trouble for each in copy((second, destination), take_over=True).progress)


def test_two_destinations_have_their_own_cursors(ends: Ends) -> None:
    source, destination = ends
    store(source, "nav", range(5))
    copy(ends)
    copy(ends, to_namespace="second")
    with plain_client(source.url) as client:
        groups = {group["name"]: group["last-delivered-id"] for group in client.xinfo_groups("{usv1}:tslog:nav")}
    cursors = [name for name in groups if name.startswith(b"forward:")]
    assert len(cursors) == 2
    assert {groups[name] for name in cursors} == {b"5-0"}


def test_a_second_forward_ends_the_first(ends: Ends) -> None:
    source, destination = ends
    store(source, "nav", range(5))
    with Forward(source.url, destination.url, **OURS) as first:
        first.run(once=True)
        store(source, "nav", range(5, 10))
        copy(ends)
        store(source, "nav", range(10, 15))
        with pytest.raises(WriterConflict, match="run one forward"):
            first.run(once=True)
    copy(ends)
    assert stored(destination, "nav") == list(range(15))


def test_the_same_place(ends: Ends) -> None:
    source, _ = ends
    store(source, "nav", range(5))
    with pytest.raises(SharedDataError, match="are the same"):
        copy((source, source), to_namespace="usv1")


def test_a_key_of_another_type_at_either_end(ends: Ends) -> None:
    source, destination = ends
    source.init(RECORDS)
    flush(source, "GPS", range(3))
    with plain_client(source.url) as here, plain_client(destination.url) as there:
        here.set("{usv1}:TIMED:history", "text")
        store(source, "nav", range(3))
        there.set("{fleet}:tslog:nav", "text")
        troubles = {each.name: (each.sent, each.trouble) for each in copy(ends).progress}
    assert troubles["GPS"] == (3, "")
    assert "is a string, expected a stream" in troubles["TIMED"][1]
    assert "is a string there" in troubles["nav"][1]


def test_entries_larger_than_a_transaction(ends: Ends) -> None:
    source, destination = ends
    source.init({"BIG": {"history": 10, "fields": [*HEAD, ["text", ""]]}})
    with DataDict("writer", source) as dd:
        (data,) = dd.set_datas_to_write(["BIG"])
        for letter in "abcdef":
            data.set(letter * 3_000_000)
            dd.flush()
    assert counts(copy(ends)) == {"BIG": (6, 0, 0)}
    assert history(destination, "BIG") == history(source, "BIG")


def test_wrong_arguments() -> None:
    with pytest.raises(LogFormatError, match="at least 1"):
        Forward("redis://a", "redis://b", max_buckets=0)
    with pytest.raises(SharedDataError, match="no address"):
        Forward("http://a", "redis://b")


def test_passwords_are_in_no_name(ends: Ends) -> None:
    going = Forward("redis://:secret@a", "rediss://me:secret@shore:6380/1?ssl_cert_reqs=none", to_namespace="fleet")
    assert going._cursor == "forward:rediss://shore:6380/1 fleet"
    assert "secret" not in repr(going)
    going.close()


# The command.


@pytest.fixture
def command(ends: Ends, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    before = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit, check=lambda _: True) as end:
            cli.main(["forward", *arguments])
        return (end.value.code or 0, *capsys.readouterr())  # type: ignore[return-value]

    yield command
    signal.signal(signal.SIGTERM, before)


def test_the_command(
    ends: Ends, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = ends
    source.init(RECORDS)
    flush(source, "GPS", range(3))
    store(source, "nav", range(5))
    where = ["--from", source.url, "--to", destination.url, "--namespace", "usv1", "--to-namespace", "fleet"]
    code, out, err = command(*where, "--once", "GPS", "nav")
    assert (code, out.splitlines()) == (0, [
        "WHAT     NAME  SENT  MISSED  BEHIND",
        "history  GPS      3       0       0",
        "log      nav      5       0       0",
    ])  # fmt: skip
    assert command(*where, "--once", "TANK")[0] == 1
    assert command("--from", source.url)[0] == 2
    assert command("--to", destination.url)[0] == 2
    monkeypatch.setenv("SHAREDDATA_URL", source.url)
    assert command(*where[2:], "--once", "GPS", "nav")[0] == 0
    assert command(*where, "--timeout", "0")[0] == 2
    flush(destination, "GPS", range(1))
    code, out, err = command(*where, "--once", "GPS")
    assert code == 1
    assert "other programs have written there" in out


def test_until_it_is_stopped(ends: Ends) -> None:
    """The table is printed all the same; nothing is missed by the next one."""
    source, destination = ends
    store(source, "nav", range(5))
    where = ["--from", source.url, "--to", destination.url, "--namespace", "usv1", "--to-namespace", "fleet"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 0)):
        with subprocess.Popen(
            [sys.executable, "-m", "shareddata", "forward", *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            assert running.stderr is not None
            assert b" sent, 0 missed" in running.stderr.readline()
            eventually(lambda: stored(destination, "nav") == list(range(5)), 10, "the log at the destination")
            running.send_signal(number)
            out, _ = running.communicate(timeout=10)
            assert running.returncode == code
        assert out.decode().splitlines()[1].split() == ["log", "nav", "5", "0", "0"]


class Terminal(io.StringIO):
    """Looks like a terminal; what stands on its line last is `line`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number


def test_a_status_line(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    store(ends[0], "nav", range(5))
    master, slave = pty.openpty()
    try:
        out = Terminal(slave)
        with Forward(ends[0].url, ends[1].url, **OURS) as going, forwardview.Display(out) as display:
            going.run(once=True, tell=display.tell)
            logging.getLogger("shareddata").warning("said %s", "meanwhile")
            display.tell(going)
        assert "\r\x1b[Ksaid meanwhile\n" in out.getvalue(), "above the status line"
        assert "5 sent, 0 missed, 0 behind" in out.getvalue()
        assert out.getvalue().endswith("\r\x1b[K"), "the line is left empty"
    finally:
        os.close(master)
        os.close(slave)


def test_plain_lines(ends: Ends) -> None:
    store(ends[0], "nav", range(5))
    out = io.StringIO()
    with Forward(ends[0].url, ends[1].url, **OURS) as going, forwardview.Display(out) as display:
        going.run(once=True, tell=display.tell)
    assert "5 sent, 0 missed, 0 behind" in out.getvalue()
