"""Recording: every update of every record, once, whatever happens to the recorder, the server or the disk."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
import redis

from programs import Program
from records import HEAD
from servers import OwnServer
from shareddata import Data, DataDict, SharedDataError, SharedMemory, UnknownData, cli
from shareddata.record import Recorder
from shareddata.recording import Recording
from waiting import eventually

RECORDS = {
    "LONG": {"history": 100_000, "fields": [*HEAD, ["number", 0], ["text", ""]]},
    "OTHER": {"history": 100_000, "fields": [*HEAD, ["x", 0.0], ["a", 0.0, {"dtype": "<f4", "shape": [3]}]]},
    "SHORT": {"history": 10, "fields": [*HEAD, ["number", 0]]},
    "NONE": {"history": 0, "fields": [*HEAD, ["number", 0]]},
}


@pytest.fixture
def dd(shm: SharedMemory) -> Iterator[DataDict]:
    shm.init(RECORDS)
    with DataDict("writer", shm) as dd:
        yield dd


@contextmanager
def running(recorder: Recorder) -> Iterator[Recorder]:
    """Record in a thread until the end of the block; what was flushed in it is recorded."""
    with recorder:
        thread = threading.Thread(target=recorder.run)
        thread.start()
        try:
            yield recorder
        finally:
            recorder.stop()
            thread.join()


def write(dd: DataDict, data: Data, numbers: range) -> None:
    for number in numbers:
        data.set(number=number)
        dd.flush()


def numbers(folder: Path, name: str = "LONG") -> list[int]:
    return [entry.trame.number for entry in Recording(folder).entries([name])]


def test_every_update_is_recorded_as_it_is_in_the_history(dd: DataDict, client: redis.Redis, tmp_path: Path) -> None:
    one, two = dd.set_datas_to_write(["LONG", "OTHER"])
    with running(Recorder(dd.shm, tmp_path)) as recorder:
        for number in range(1500):
            one.set(number, f'text "{number}",\n' if number % 3 else "é")
            two.set(number / 3, numpy.array([number, 0.1, -1], "<f4"))
            dd.flush()
    assert recorder.left_out == ["NONE"]
    assert [(row.name, row.written, row.missed) for row in recorder.table()] == [
        ("LONG", 1500, 0), ("OTHER", 1500, 0), ("SHORT", 0, 0),
    ]  # fmt: skip
    recording = Recording(tmp_path)
    assert recording.records == {name: dd.shm.describe(name) for name in ("LONG", "OTHER")}
    for name in ("LONG", "OTHER"):
        layout = dd.shm.layout(name)
        history = client.xrange(f"{name}:history")
        expected = [
            (identity.decode(), layout.decode_entry([part for pair in fields.items() for part in pair], ""))
            for identity, fields in history
        ]
        found = [(entry.id, entry.trame) for entry in recording.entries([name])]
        assert repr(found) == repr(expected)
        first, last = (int(identity.partition(b"-")[0]) / 1000 for identity, _ in (history[0], history[-1]))
        (row,) = [row for row in recorder.table() if row.name == name]
        assert (row.first, row.last) == (first, last)


def test_from_now_on_or_from_the_oldest(dd: DataDict, tmp_path: Path) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    write(dd, data, range(5))
    with running(Recorder(dd.shm, tmp_path / "now", ["LONG"])), running(Recorder(dd.shm, tmp_path / "all", since=0)):
        write(dd, data, range(5, 8))
    assert numbers(tmp_path / "now") == [5, 6, 7]
    assert numbers(tmp_path / "all") == list(range(8))


def test_it_goes_on_where_it_ended(dd: DataDict, tmp_path: Path) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    total = 0
    for _ in range(3):
        with running(Recorder(dd.shm, tmp_path)) as recorder:
            write(dd, data, range(total, total + 50))
        write(dd, data, range(total + 50, total + 70))  # while nobody records
        total += 70
        assert recorder.missed == 0
    with running(Recorder(dd.shm, tmp_path)):
        pass
    assert numbers(tmp_path) == list(range(total))


def test_it_goes_on_for_a_record_that_had_no_update_yet(dd: DataDict, tmp_path: Path) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    write(dd, data, range(3))
    with running(Recorder(dd.shm, tmp_path, ["LONG"])):
        pass
    write(dd, data, range(3, 6))
    with running(Recorder(dd.shm, tmp_path, ["LONG"])) as recorder:
        pass
    assert numbers(tmp_path) == [3, 4, 5] and recorder.missed == 0


def test_what_was_trimmed_while_nobody_recorded_is_counted(dd: DataDict, client: redis.Redis, tmp_path: Path) -> None:
    (data,) = dd.set_datas_to_write(["SHORT"])
    written = missed = 0
    for rounds in range(3):
        with running(Recorder(dd.shm, tmp_path, ["SHORT"], since=0)) as recorder:
            pass
        written, missed = written + recorder.written, missed + recorder.missed
        assert written + missed == 500 * rounds
        write(dd, data, range(500 * rounds, 500 * (rounds + 1)))
        client.xtrim("SHORT:history", maxlen=7, approximate=False)
    with running(Recorder(dd.shm, tmp_path, ["SHORT"])) as recorder:
        pass
    assert (recorder.written, recorder.missed) == (7, 493)
    found = numbers(tmp_path, "SHORT")
    assert found == sorted(found) and len(found) == written + 7
    assert written + missed + 500 == 1500


def test_a_writer_that_is_too_fast(dd: DataDict, program: Callable[..., Program], tmp_path: Path) -> None:
    writer = program(
        """
        with SharedMemory(url=sys.argv[1]) as shm, DataDict("writer", shm) as dd:
            data, = dd.set_datas_to_write(["SHORT"])
            for number in range(5000):
                data.set(number)
                dd.flush()
        """,
        dd.shm.url,
    )
    with running(Recorder(dd.shm, tmp_path, ["SHORT"], since=0)) as recorder:
        writer.finish()
    assert recorder.written + recorder.missed == 5000
    found = numbers(tmp_path, "SHORT")
    assert found == sorted(set(found)) and len(found) == recorder.written


def test_records_that_are_described_later(dd: DataDict, tmp_path: Path) -> None:
    with running(Recorder(dd.shm, tmp_path)) as recorder:
        dd.shm.init(
            {"NEW": [*HEAD, ["number", 0]], "LONG": [*HEAD, ["number", 0], ["text", ""], ["more", 2.5]]}, keep=True
        )
        new, changed = dd.set_datas_to_write(["NEW", "LONG"])
        write(dd, new, range(3))
        write(dd, changed, range(3))
        eventually(lambda: recorder.written >= 6, message="rows of the new record")
    assert numbers(tmp_path, "NEW") == [0, 1, 2]
    assert [entry.trame.more for entry in Recording(tmp_path).entries(["LONG"])] == [2.5] * 3
    with running(Recorder(dd.shm, tmp_path)):
        write(dd, new, range(3, 5))
    assert numbers(tmp_path, "NEW") == [0, 1, 2, 3, 4]


def test_records_that_cannot_be_recorded(dd: DataDict, tmp_path: Path) -> None:
    with pytest.raises(
        SharedDataError, match='NONE: without a history .*describe it with "history": 256 .*init --keep'
    ):
        Recorder(dd.shm, tmp_path, ["LONG", "NONE"])
    with pytest.raises(UnknownData, match="LONGER"):
        Recorder(dd.shm, tmp_path, ["LONGER"])
    with Recorder(dd.shm, tmp_path), pytest.raises(SharedDataError, match="another program records there"):
        Recorder(dd.shm, tmp_path)
    with (
        SharedMemory(url=dd.shm.url, namespace="usv1") as other,
        pytest.raises(SharedDataError, match="namespace '', not of 'usv1'"),
    ):
        Recorder(other, tmp_path)


def test_a_server_that_is_restarted(own_server: Callable[..., OwnServer], tmp_path: Path) -> None:
    server = own_server()
    with SharedMemory(url=server.url) as shm, DataDict("writer", shm) as dd:
        shm.init(RECORDS)
        (data,) = dd.set_datas_to_write(["LONG"])
        with running(Recorder(shm, tmp_path)) as recorder:
            for rounds in range(3):
                write(dd, data, range(100 * rounds, 100 * rounds + 100))
                if rounds % 2:
                    eventually(lambda: recorder.written == 100 * rounds + 100, message="all rows")  # noqa: B023
                server.restart()
        with running(Recorder(shm, tmp_path)):
            pass
    assert numbers(tmp_path) == list(range(300))


def test_a_server_without_records(shm: SharedMemory, tmp_path: Path) -> None:
    with running(Recorder(shm, tmp_path)) as recorder, DataDict("writer", shm) as dd:
        shm.init(RECORDS)
        (data,) = dd.set_datas_to_write(["LONG"])
        write(dd, data, range(3))
        eventually(lambda: recorder.written == 3, message="the first rows")
    assert numbers(tmp_path) == [0, 1, 2]


RECORDER = """
    import resource, signal, threading
    from shareddata.record import Recorder
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    with SharedMemory(url=sys.argv[1]) as shm, Recorder(shm, sys.argv[2], ["SHORT"], since=0) as recorder:
        thread = threading.Thread(target=recorder.run)
        thread.start()
        say("ready")
        while not recorder._paused:
            time.sleep(0.01)
        say("full")
        sys.stdin.readline()
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        while recorder._paused:
            time.sleep(0.01)
        sys.stdin.readline()
        recorder.stop()
        thread.join()
        say(recorder.written, recorder.missed)
"""


def test_a_full_disk(dd: DataDict, client: redis.Redis, program: Callable[..., Program], tmp_path: Path) -> None:
    """Nothing more can be written; there is room again; what the history dropped meanwhile is counted."""
    recorder = program(RECORDER, dd.shm.url, tmp_path)
    (data,) = dd.set_datas_to_write(["SHORT"])
    assert recorder.line() == "ready"
    write(dd, data, range(300))
    assert recorder.line() == "full"
    write(dd, data, range(300, 1000))
    recorder.tell()
    eventually(lambda: any(b",999\n" in path.read_bytes() for path in tmp_path.glob("*.csv")), message="the last row")
    recorder.tell()
    written, missed = map(int, recorder.finish()[-1].split())
    assert written + missed == 1000 and missed > 0
    found = numbers(tmp_path, "SHORT")
    assert found == sorted(set(found)) and len(found) == written
    assert "recording pauses" in recorder.errors() and "recording goes on" in recorder.errors()


# -- the command ----------------------------------------------------------------------------------------------------


@contextmanager
def command(*arguments: str | Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "shareddata", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_with_a_table(dd: DataDict, tmp_path: Path, number: signal.Signals) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    with command("record", "-u", dd.shm.url, tmp_path) as process:
        eventually(lambda: (tmp_path / "recording.json").exists(), message="the recording")
        write(dd, data, range(5))
        process.send_signal(number)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == "not recorded, for want of a history: NONE\n"
    head, *rows, last = out.splitlines()
    assert head.split() == ["RECORD", "FIRST", "LAST", "WRITTEN", "MISSED"]
    assert [row.split()[::4] for row in rows] == [["LONG", "0"], ["OTHER", "0"], ["SHORT", "0"]]
    assert rows[0].split()[3] == "5" and rows[1].split()[1:4] == ["-", "-", "0"]
    assert last == f"{tmp_path}: 5 rows, 0.0 MB, 0 missed"


def test_the_command_for_programs(dd: DataDict, tmp_path: Path) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    write(dd, data, range(5))
    arguments = ("--json", "--since", "0", "--length", "0.2s", "--every", "1h", "--megabytes", "1")
    with command("record", "-u", dd.shm.url, *arguments, tmp_path, "LONG") as process:
        out, errors = process.communicate(timeout=20)
    (row,) = json.loads(out)
    assert (row["name"], row["written"], row["missed"], errors) == ("LONG", 5, 0, "")
    assert abs(row["last"] - time.time()) < 60


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--every", "often"], 2, "--every: 'often' is no time"),
        (["--megabytes", "0"], 2, "--megabytes must be above 0"),
        (["--length", "5"], 2, "--length: '5' is no time"),
        (["NONE"], 1, "NONE: without a history not every update can be recorded"),
    ],
)
def test_the_command_refuses(
    dd: DataDict, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    names = [each for each in arguments if each == "NONE"]
    options = [each for each in arguments if each != "NONE"]
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match=str(code)):
            cli.main(["record", "-u", dd.shm.url, *options, str(tmp_path), *names])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert says in capsys.readouterr().err


def test_a_recording_is_no_file(shm: SharedMemory, tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    with pytest.raises(SharedDataError, match="x.csv: is a file: a recording is a folder: give another name"):
        Recorder(shm, tmp_path / "x.csv")
