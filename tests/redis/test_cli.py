"""The commands: what they print, their exit codes, and that they stop as they should."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from servers import OwnServer, free_port, plain_client
from shareddata import DataDict, SharedMemory, arguments, cli, server, watch
from waiting import eventually

TANK = {
    "TANK__measures": {
        "doc": "What is in the tank.",
        "owner": "HDL_TANK",
        "history": 10,
        "fields": [
            ["ts", 0.0], ["sender", ""], ["count", 0], ["level", 0.0, {"unit": "m", "min": 0, "max": 1.9}],
            ["open", False], ["note", ""], ["list", []], ["any", None],
        ],
    },
    "TANK__command": [["ts", 0.0], ["sender", ""], ["command", "", {"doc": "open, close"}]],
    "TANK__quiet": {"history": 0, "fields": [["ts", 0.0], ["sender", "blip"], ["x", 0]]},
}  # fmt: skip
ONE = {"A": [["ts", 0.0], ["sender", ""], ["x", 0]]}

Said = tuple[int, str, str]
Call = Callable[..., Said]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Call a command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "100")
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str | Path) -> Said:
        capsys.readouterr()
        try:
            cli.main([str(each) for each in arguments])
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def tank(url: str, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The tank is described on the server that $SHAREDDATA_URL names; its file."""
    monkeypatch.setenv("SHAREDDATA_URL", url)
    monkeypatch.chdir(tmp_path)
    Path("tank.json").write_text(json.dumps(TANK))
    assert call("init", "tank.json")[0] == 0
    return tmp_path / "tank.json"


def write(url: str, count: int, level: float = 1.0) -> None:
    with SharedMemory(url=url) as shm, DataDict("HDL_TANK", shm) as dd:
        (data,) = dd.set_datas_to_write(["TANK__measures"])
        data.set(count=count, level=level)
        dd.flush()


@contextmanager
def program(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run `python -m shareddata` as a program of its own, and kill it if it is still there at the end."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "shareddata", *arguments], **streams | options) as running:
        try:
            yield running
        finally:
            running.kill()


# -- the front ------------------------------------------------------------------------------------------------------


def test_empty_command_line(call: Call) -> None:
    code, out, err = call()
    assert code == 2 and out == ""
    assert all(name in err for name in cli.COMMANDS)


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help(call: Call, word: str) -> None:
    code, out, err = call(word)
    assert (code, err) == (0, "")
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in cli.COMMANDS)


def test_version(call: Call) -> None:
    assert re.fullmatch(r"shareddata \d+\.\d+.*\n", call("--version")[1])


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command(call: Call, name: str) -> None:
    code, out, err = call(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: shareddata {name} ") and "examples:\n  " in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nwe"], "no command 'nwe': did you mean 'new'"),
        (["xyz"], "no command 'xyz': commands are init"),
        (["-p", "6380", "list", "-j"], "the command comes first: shareddata list -p 6380 -j\n"),
        (["-d", "get", "A B"], "the command comes first: shareddata get -d 'A B'\n"),
        (["init"], "give at least one data description"),
        (["check"], "give at least one data description"),
        (["get"], "required: NAME"),
        (["get", "A", "--unknown"], "unrecognized arguments: --unknown"),
        (["list", "A"], "unrecognized arguments: A"),
        (["get", "-p", "x", "A"], "invalid int value: 'x'"),
        (["set", "A"], "required: FIELD=VALUE"),
        (["tail", "--since", "soon", "A"], "'soon' is no time"),
        (["tail", "--count", "-1", "A"], "--count: '-1': expected 0 or more"),
        (["log", "tail", "--count", "-2", "a"], "--count: '-2': expected 0 or more"),
        (["watch", "--seconds", "nan"], "--seconds: 'nan': expected 0 or more"),
        (["docs", "--live", "-1"], "--live: '-1': expected 0 or more"),
        (["page", "--port", "-1"], "--port: '-1': expected 0 to 65535"),
        (["serve", "--port", "80000"], "--port: '80000': expected 0 to 65535"),
        (["export", "--from", "2026-07-20", "--to", "2026-07-19", "a.csv"], "00.000Z is before --from, 2026"),
        (["plot", "--since", "2026-07-20", "--to", "2026-07-19", "A"], "00.000Z is before --since, 2026"),
        (["serve", "--bind", "::"], "--bind needs --port"),
        (["serve", "--stop", "--status"], "give one of --status, --stop and --foreground"),
        (["serve", "--fsync", "never"], "invalid choice: 'never'"),
    ],
)
def test_wrong_usage(call: Call, arguments: list[str], says: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert says in err


def test_nobody_there(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "SOON", 0.05)
    code, out, err = call("list", "-r", "127.0.0.1", "-p", str(free_port()))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1 and "nobody answers" in err and "shareddata serve" in err


def test_debug_shows_where_it_came_from(call: Call) -> None:
    with pytest.raises(OSError, match="no-such-place"):
        call("new", "--debug", "--folder", "/proc/no-such-place", "tank")
    assert call("new", "--folder", "/proc/no-such-place", "tank")[0] == 1


# -- init and check -------------------------------------------------------------------------------------------------


def test_init_as_in_the_document(url: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({name.upper(): ONE["A"]}))
    environ = {**os.environ, "INIT_MSG": "SPARTAN_INIT", "SHAREDDATA_URL": url}
    with program("-i", "INIT_MSG", "a.json", "b.json", cwd=tmp_path, env=environ) as running:
        out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")
    assert "2 records described, epoch 1, flag SPARTAN_INIT set" in out
    with plain_client(url) as client:
        assert client.get("SPARTAN_INIT") == b"OK"
        assert client.hget("B", "x") == b"0"


def test_init_as_in_the_document_in_a_namespace_named_like_a_command(call: Call, tank: Path) -> None:
    assert call("-n", "page", "tank.json")[0] == 0
    Path("list").write_text(json.dumps(ONE))
    assert call("-d", "list")[0] == 0


def test_init_keeps_and_prunes(call: Call, tank: Path, url: str) -> None:
    write(url, 5)
    Path("one.json").write_text(json.dumps({"TANK__measures": TANK["TANK__measures"]}))
    code, out, _ = call("init", "--keep", "--prune", "one.json")
    assert code == 0 and "1 record described, epoch 2" in out
    with SharedMemory(url=url) as shm:
        assert shm.names() == ["TANK__measures"]
    assert "count  5" in call("get", "TANK__measures", "count")[1]


def test_a_wrong_description_changes_nothing(call: Call, tank: Path, url: str) -> None:
    write(url, 5)
    Path("wrong.json").write_text('{\n "B": [["ts", 0.0], ["sender", ""],\n  ["x", 0, {"unti": "V"}]]}')
    code, out, err = call("init", "tank.json", "wrong.json")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "wrong.json:2" in err and "record B" in err and "did you mean 'unit'" in err
    assert "count  5" in call("get", "TANK__measures", "count")[1]


def test_the_flags_variable_must_be_set(call: Call, tank: Path) -> None:
    code, _, err = call("init", "-i", "NO_SUCH_VARIABLE", "tank.json")
    assert code == 1 and "export NO_SUCH_VARIABLE=" in err


def test_namespaces_are_apart(call: Call, tank: Path) -> None:
    assert call("init", "-n", "usv1", "tank.json")[0] == 0
    assert call("set", "-n", "usv1", "TANK__command", "command=open")[0] == 0
    assert call("get", "-n", "usv1", "TANK__command", "command")[1] == "command  open\n"
    assert call("get", "TANK__command")[0] == 1


def test_check_names_every_wrong_file(call: Call, tank: Path) -> None:
    Path("a.json").write_text("{")
    Path("b.json").write_text('{"B": [["ts", 0.0], ["sender", ""], ["x", 0], ["x", 0]]}')
    code, out, err = call("check", "a.json", "tank.json", "b.json", "missing.json")
    assert (code, out, err.count("\n")) == (1, "", 3)
    assert "a.json:1" in err and "record B: field 'x' is given twice" in err and "missing.json: cannot be read" in err
    Path("c.json").write_text(json.dumps({"TANK__quiet": TANK["TANK__quiet"]}))
    assert "c.json: record TANK__quiet is described in tank.json already" in call("check", "tank.json", "c.json")[2]


def test_check_says_what_is_right(call: Call, tank: Path) -> None:
    assert call("check", "tank.json") == (0, "OK: 3 records, 14 fields in 1 file\n", "")
    code, out, _ = call("check", "--json", "tank.json", "missing.json")
    shown = json.loads(out)
    assert (code, shown["ok"], shown["records"]) == (1, False, {"tank.json": list(TANK)})
    assert list(shown["errors"]) == ["missing.json"]


# -- list, get, set -------------------------------------------------------------------------------------------------


def test_list(call: Call, tank: Path, url: str) -> None:
    write(url, 5)
    lines = call("list")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["RECORD", "TANK__command", "TANK__measures", "TANK__quiet"]
    assert re.fullmatch(
        r"TANK__measures  HDL_TANK +\d\.\d s  count level \[m\] open note .* What is in the tank\.", lines[2]
    )
    assert "never" in lines[1]
    shown = json.loads(call("list", "--json")[1])
    assert shown["TANK__measures"]["sender"] == "HDL_TANK" and shown["TANK__measures"]["owner"] == "HDL_TANK"
    assert shown["TANK__command"]["ts"] is None


def test_list_of_nothing(call: Call, url: str) -> None:
    code, out, err = call("list", "-u", url)
    assert (code, out) == (0, "") and "no record is described" in err


def test_a_damaged_record_does_not_hide_the_others(call: Call, tank: Path, url: str) -> None:
    write(url, 5)
    with plain_client(url) as client:
        client.hset("TANK__command", "ts", "soon")
    assert re.search(r"TANK__command +damaged", call("list")[1])
    code, _, err = call("get", "TANK__command")
    assert code == 1 and "found b'soon'" in err
    assert json.loads(call("get", "--json", "TANK__command")[1])["values"] is None


def test_get(call: Call, tank: Path, url: str) -> None:
    write(url, 5, 0.1 + 0.2)
    lines = call("get", "TANK__measures")[1].splitlines()
    assert [line.split()[0] for line in lines] == [field[0] for field in TANK["TANK__measures"]["fields"]]  # type: ignore[call-overload]
    assert re.match(r"ts +\d{4}-\d\d-\d\dT.*Z +\(\d\.\d s\)", lines[0])
    assert call("get", "TANK__measures", "level", "count")[1] == "count  5\nlevel  0.30000000000000004  m\n"
    write(url, 5, 2.5)
    assert "(above 1.9)" in call("get", "TANK__measures")[1]
    shown = json.loads(call("get", "--json", "TANK__measures", "level")[1])
    assert 0 <= shown.pop("age") < 60 and abs(shown.pop("received") - time.time()) < 60
    assert shown == {"record": "TANK__measures", "values": {"level": 2.5}, "out_of_limits": ["level"], "stale": False}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["TANK__measure"], "did you mean TANK__measures"),
        (["TANK__measures", "lvl"], "no field 'lvl': did you mean 'level'"),
        (["TANK__measures"], "has no value: it was never written"),
    ],
)
def test_get_what_is_not_there(call: Call, tank: Path, arguments: list[str], says: str) -> None:
    code, out, err = call("get", *arguments)
    assert (code, out) == (1, "") and says in err


def test_set_every_type(call: Call, tank: Path, url: str) -> None:
    values = ["count=-7", "level=1.5", "open=true", "note=a=b 'c'", "list=[1,{}]", 'any={"x": null}']
    code, out, _ = call("set", "TANK__measures", *values)
    assert code == 0 and "shareddata set  count=-7  level=1.5 m" in out
    shown = json.loads(call("get", "--json", "TANK__measures")[1])["values"]
    assert abs(shown.pop("ts") - time.time()) < 60
    assert shown == {
        "sender": "shareddata set", "count": -7, "level": 1.5, "open": True, "note": "a=b 'c'", "list": [1, {}],
        "any": {"x": None},
    }  # fmt: skip
    assert call("set", "-a", "PILOT", "TANK__measures", "level=nan")[0] == 0
    shown = json.loads(call("get", "--json", "TANK__measures")[1])["values"]
    assert (shown["sender"], shown["level"], shown["count"]) == ("PILOT", "NaN", -7)


def test_set_arrays(call: Call, url: str, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    path = tmp_path / "wave.json"
    path.write_text(json.dumps({"W": [["ts", 0.0], ["sender", ""], ["a", 0, {"dtype": "<f4", "shape": [2]}]]}))
    assert call("init", "-u", url, path)[0] == 0
    assert call("set", "-u", url, "W", "a=[1, 2.5]")[0] == 0
    assert call("get", "-u", url, "W", "a")[1] == "a  [1.0, 2.5]\n"
    assert "shape" in call("set", "-u", url, "W", "a=[1]")[2]


@pytest.mark.parametrize(
    ("values", "code", "says"),
    [
        (["count=1", "level=x"], 1, "field 'level': 'x' is no float [m]: nothing was written"),
        (["count=1.5"], 1, "'1.5' is no int"),
        (["open=yes"], 1, "'yes' is no bool"),
        (["list={}"], 1, "'{}' is no list written as JSON"),
        (["any=x"], 1, "is no JSON value written as JSON"),
        (["count=1", "cuont=1"], 1, "did you mean 'count'"),
        (["count"], 2, "'count': expected FIELD=VALUE"),
        (["count=1", "count=2"], 2, "count is given twice"),
    ],
)
def test_set_what_does_not_fit(call: Call, tank: Path, values: list[str], code: int, says: str) -> None:
    assert call("set", "TANK__measures", "count=3")[0] == 0
    found, out, err = call("set", "TANK__measures", *values)
    assert (found, out) == (code, "") and says in err
    assert call("get", "TANK__measures", "count")[1] == "count  3\n"


# -- tail -----------------------------------------------------------------------------------------------------------


def test_tail_from_history(call: Call, tank: Path, url: str) -> None:
    for count in range(5):
        write(url, count, count / 1.0)
    lines = call("tail", "--since", "0", "--timeout", "0", "TANK__measures")[1].splitlines()
    assert [line.split()[2] for line in lines] == [f"count={count}" for count in range(5)]
    assert "level=2 m (above 1.9)" in lines[2]
    assert len(call("tail", "--since", "1h", "--count", "2", "TANK__measures")[1].splitlines()) == 2
    assert call("tail", "--count", "0", "TANK__measures") == (0, "", "")
    shown = call("tail", "--json", "--since", str(time.time() - 60), "-t", "0", "TANK__measures")[1]
    assert [json.loads(line)["values"]["count"] for line in shown.splitlines()] == list(range(5))


def test_tail_tells_what_it_missed(call: Call, tank: Path, url: str) -> None:
    with SharedMemory(url=url) as shm, DataDict("HDL_TANK", shm) as dd:
        (data,) = dd.set_datas_to_write(["TANK__measures"])
        data.set(count=0)
        dd.flush()
        with program("tail", "--since", "0", "TANK__measures") as running:
            assert running.stdout is not None
            assert "count=0" in running.stdout.readline()
            os.kill(running.pid, signal.SIGSTOP)
            for count in range(2000):
                data.set(count=count)
                dd.flush()
            os.kill(running.pid, signal.SIGCONT)
            while "count=1999" not in running.stdout.readline():
                pass
            data.set(count=2000)  # what was missed is told with the next update at the latest
            dd.flush()
            assert running.stderr is not None
            assert re.match(r"missed \d+ updates: the history had dropped them", running.stderr.readline())
            running.send_signal(signal.SIGINT)
            assert running.wait(20) == 0


def test_tail_needs_a_history(call: Call, tank: Path) -> None:
    code, _, err = call("tail", "TANK__quiet")
    assert code == 1 and 'no history: describe it with "history": 256' in err


# -- watch ----------------------------------------------------------------------------------------------------------


def test_watch_in_plain_lines(call: Call, tank: Path, url: str) -> None:
    write(url, 5, 2.5)
    code, out, _ = call("watch", "--seconds", "0.2")
    assert code == 0 and "\x1b" not in out
    assert re.fullmatch(r"\S+Z  TANK__measures  HDL_TANK  count=5  level=2.5 m \(above 1.9\).*\n", out)
    shown = json.loads(call("watch", "--json", "-s", "0.2", "TANK__measures")[1])
    assert shown["record"] == "TANK__measures" and shown["out_of_limits"] == ["level"]


def test_watch_what_is_not_there(call: Call, tank: Path) -> None:
    code, _, err = call("watch", "TANK__measure")
    assert code == 1 and "did you mean" in err


def test_rates_are_counted_not_sampled(tank: Path, url: str) -> None:
    """Three hundred writes a second are told of as such, by a watch that reads ten times a second."""
    stop = threading.Event()

    def writer() -> None:
        with SharedMemory(url=url) as shm, DataDict("HDL_TANK", shm) as dd:
            (data,) = dd.set_datas_to_write(["TANK__measures"])
            begin = time.monotonic()
            while not stop.wait(0.002):
                data.set(count=int((time.monotonic() - begin) * 300))
                while data.values.count > writer.written:  # type: ignore[attr-defined]
                    writer.written += 1  # type: ignore[attr-defined]
                    data.set(count=writer.written)  # type: ignore[attr-defined]
                    dd.flush()

    writer.written = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=writer)
    with SharedMemory(url=url) as shm, watch.Watch(shm) as seen:
        thread.start()
        try:

            def rate() -> float | None:
                seen.look()
                time.sleep(0.1)
                return {view.record.name: view.rate for view in seen.views}["TANK__measures"]

            eventually(lambda: 250 < (rate() or 0) < 350, timeout=15, message="300 writes a second")
            assert {view.record.name: view.rate for view in seen.views}["TANK__command"] == 0
        finally:
            stop.set()
            thread.join()


def test_watch_takes_up_new_records_and_leaves_damaged_ones(tank: Path, url: str, call: Call) -> None:
    with SharedMemory(url=url) as shm, watch.Watch(shm) as seen:

        def views() -> dict[str, Any]:
            seen.look()
            return {view.record.name: view for view in seen.views}

        assert set(views()) == set(TANK)
        Path("one.json").write_text(json.dumps(ONE))
        call("init", "one.json")
        eventually(lambda: "A" in views(), message="the new record")
        with plain_client(url) as client:
            client.hset("A", "x", "broken")
            write(url, 77)
            eventually(lambda: views()["A"].damage and views()["TANK__measures"].trame.count == 77, message="damage")
            client.hset("A", "x", "5")
        eventually(lambda: not views()["A"].damage, message="the repair")


def test_watch_sees_what_was_written_while_it_subscribed(
    tank: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write came after the values were read and before the subscription stood: nothing announces it."""
    listen = DataDict.listen_to_datas

    def late(dd: DataDict, *args: Any, **options: Any) -> Any:
        write(url, 41)
        return listen(dd, *args, **options)

    monkeypatch.setattr(DataDict, "listen_to_datas", late)
    with SharedMemory(url=url) as shm, watch.Watch(shm) as seen:
        seen.look()
        assert {view.record.name: view.trame for view in seen.views}["TANK__measures"].count == 41


def test_watch_before_anything_is_described(url: str, call: Call, tmp_path: Path) -> None:
    with SharedMemory(url=url) as shm, watch.Watch(shm) as seen:
        seen.look()
        assert "nothing is described" in seen.trouble
        (tmp_path / "one.json").write_text(json.dumps(ONE))
        call("init", "-u", url, tmp_path / "one.json")

        def look() -> list[Any]:
            seen.look()
            return seen.views

        eventually(look, message="the record")
        assert seen.trouble == ""


def test_watch_and_tail_survive_a_restart(own_server: Callable[..., OwnServer], kind: str, tmp_path: Path) -> None:
    own = own_server(kind, fsync="always")
    (tmp_path / "tank.json").write_text(json.dumps(TANK))
    with SharedMemory(url=own.url) as shm:
        shm.init(tmp_path / "tank.json")
    write(own.url, 1)
    arguments = (
        ["watch", "--json", "-u", own.url],
        ["tail", "--json", "--since", "0", "-u", own.url, "TANK__measures"],
    )
    for command in arguments:
        with program(*command) as running:
            assert running.stdout is not None
            assert '"TANK__measures"' in running.stdout.readline()
            own.restart()
            write(own.url, 99)
            while '"count": 99' not in running.stdout.readline():
                assert running.poll() is None
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=20)
        assert running.returncode == 0


class Terminal:
    """A terminal with a program on it, and what it was sent."""

    def __init__(self, *arguments: str, columns: int, lines: int) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        self.text = ""
        environ = {**os.environ, "TERM": "xterm"}
        self.program = subprocess.Popen(
            [sys.executable, "-m", "shareddata", *arguments], stdin=slave, stdout=slave, stderr=slave, env=environ
        )
        os.close(slave)
        os.set_blocking(self.master, False)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self.master)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        """Take what came and return all that came so far."""
        try:
            while data := os.read(self.master, 65536):
                self.text += data.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass  # nothing more now, or the program has ended
        return self.text

    def frame(self) -> list[str]:
        """Return the lines of the last table that was drawn whole, without colours."""
        frames = self.read().split("\x1b[H")
        whole = next((frame for frame in reversed(frames) if frame.endswith("\x1b[J") or "\x1b[J" in frame), "")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", whole.partition("\x1b[J")[0]).split("\r\n")


def test_watch_on_a_terminal(tank: Path, url: str) -> None:
    write(url, 5, 2.5)
    with Terminal("watch", columns=80, lines=24) as terminal:
        lines = eventually(lambda: [each for each in terminal.frame() if "TANK__measures" in each], message="the table")
        assert re.match(r"! TANK__measures  HDL_TANK +\d\.\d s", lines[0])
        table = terminal.frame()
        assert table[0].startswith(f"shareddata watch {url}"[:78])
        assert [line.split() for line in table if line.startswith("    level")] == [
            ["level", "2.5", "m", "!", "above", "1.9"]
        ]
        write(url, 6)
        eventually(
            lambda: any(line.split()[:2] == ["count", "6"] for line in terminal.frame()), message="the next value"
        )
        terminal.resize(30, 5)
        eventually(lambda: 0 < max(map(len, terminal.frame())) <= 30, message="a narrow table")
        assert len(terminal.frame()) <= 5
        terminal.program.send_signal(signal.SIGINT)
        assert terminal.program.wait(20) == 0
        after = terminal.read().rpartition("\x1b[?1049l")[2]
        assert "\x1b[?25h" in terminal.text and "TANK__measures" in after, "the terminal is put back, the values stay"


def test_a_terminated_watch_puts_the_terminal_back(tank: Path, url: str) -> None:
    write(url, 5)
    with Terminal("watch", columns=80, lines=24) as terminal:
        eventually(lambda: "TANK__measures" in terminal.read(), message="the table")
        terminal.program.terminate()
        assert terminal.program.wait(20) == 143
        eventually(lambda: "\x1b[?25h\x1b[?1049l" in terminal.read(), message="the first screen")


def test_watch_tells_that_the_server_went(own_server: Callable[..., OwnServer], tmp_path: Path) -> None:
    own = own_server()
    (tmp_path / "tank.json").write_text(json.dumps(TANK))
    with SharedMemory(url=own.url) as shm:
        shm.init(tmp_path / "tank.json")
    write(own.url, 5)
    with Terminal("watch", "-u", own.url, columns=200, lines=24) as terminal:
        eventually(lambda: any("TANK__measures" in line for line in terminal.frame()), message="the table")
        own.kill()
        eventually(lambda: own.url in terminal.frame()[-1], timeout=10, message="the trouble in the last line")
        assert any("TANK__measures" in line for line in terminal.frame()), "the last values stay"
        own.start()
        eventually(lambda: own.url not in terminal.frame()[-1], timeout=10, message="the end of the trouble")


# -- how commands end -----------------------------------------------------------------------------------------------


def test_help_into_a_closed_pipe_says_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run([sys.executable, "-m", "shareddata", "--help"], stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_closed_pipe_is_no_error(tank: Path, url: str) -> None:
    write(url, 1)
    with program("tail", "--json", "--since", "0", "TANK__measures") as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        write(url, 2)
        assert running.wait(20) == 141
        assert running.stderr.read() == ""


@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    [
        (">/dev/full", 1, "shareddata docs: [Errno 28] No space left on device\n"),
        (">&-", 0, ""),
        (">/dev/null", 0, ""),
    ],
)
def test_output_that_cannot_be_written(tmp_path: Path, redirected: str, code: int, says: str) -> None:
    """A full disk, a closed stream, a locale that has no word for what is printed: never a traceback."""
    (tmp_path / "one.json").write_text(json.dumps({"A": {"doc": "in \u2126", "fields": ONE["A"]}}))
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "shareddata", "docs", "one.json"]
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (code, says)


def test_ctrl_c_elsewhere_is_130(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(ONE))
    with program("init", "-p", str(free_port()), str(tmp_path / "one.json")) as running:  # it waits for the server
        eventually(lambda: _handles(running.pid, signal.SIGTERM), timeout=20, message="the command's own beginning")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (130, "", "")


def _handles(pid: int, number: int) -> bool:
    """Tell whether a process handles a signal itself."""
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


# -- serve and new --------------------------------------------------------------------------------------------------


def test_serve_starts_finds_and_stops(call: Call, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(short_path))
    folder = short_path / "shareddata"
    try:
        assert call("serve", "--status")[0] == 1
        code, out, err = call("serve")
        assert (code, out) == (0, f"export SHAREDDATA_URL=unix://{folder}/redis.sock\n")
        assert f"started, its data are in {folder}" in err
        assert "was running already" in call("serve")[2]
        assert "It keeps what it was started with" in call("serve", "--fsync", "always")[2]
        assert call("serve", "--status") == (0, f"unix://{folder}/redis.sock\n", "")
        assert call("list", "-u", f"unix://{folder}/redis.sock")[0] == 0
        assert call("serve", "--stop")[1] == f"{folder}: stopped\n"
        assert call("serve", "--stop")[1] == f"{folder}: no server was running\n"
    finally:
        server.stop(folder)


def test_serve_on_a_port(call: Call, short_path: Path) -> None:
    port = str(free_port())
    try:
        assert call("serve", "--port", port, short_path)[0] == 0
        assert call("list", "-r", "127.0.0.1", "-p", port)[0] == 0
        server.stop(short_path)
        _, _, err = call("serve", "--port", port, "--bind", "127.0.0.1 0.0.0.0", short_path)
        assert "has no password" in err
    finally:
        server.stop(short_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_in_the_foreground(short_path: Path, number: signal.Signals) -> None:
    with program("serve", "--foreground", str(short_path)) as running:
        assert running.stdout is not None
        assert "started" in running.stdout.readline()
        assert server.find(short_path)
        running.send_signal(number)
        assert running.wait(20) == 0
    assert server.find(short_path) is None


def test_serve_in_the_foreground_ends_with_the_server(short_path: Path) -> None:
    with program("serve", "--foreground", str(short_path)) as running:
        assert running.stdout is not None
        running.stdout.readline()
        server.stop(short_path)
        _, err = running.communicate(timeout=20)
    assert running.returncode == 1 and "the server ended by itself" in err


def test_a_killed_foreground_takes_the_server_along(short_path: Path) -> None:
    with program("serve", "--foreground", str(short_path)) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.kill()
        running.wait()
    eventually(lambda: server.find(short_path) is None, message="the end of the server")


def test_new_runs_at_once(call: Call, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDDATA_URL", url)
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("new", "tank")
    assert code == 0
    commands = [line.strip() for line in out.splitlines() if line.startswith("    ")]
    assert commands == ["shareddata init tank.json", "python hdl_tank.py -a HDL_TANK &", "python read_tank.py"]
    assert call("init", "tank.json")[0] == 0
    assert os.access("hdl_tank.py", os.X_OK) and os.access("read_tank.py", os.X_OK)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with (
        subprocess.Popen([sys.executable, "hdl_tank.py", "-a", "HDL_TANK", "-f", "20"], **streams) as handler,  # type: ignore[call-overload]
        subprocess.Popen([sys.executable, "read_tank.py"], **streams) as reader,  # type: ignore[call-overload]
    ):
        try:
            shown = [reader.stdout.readline() for _ in range(3)]
            assert all(re.fullmatch(r"\d+: level \d\.\d\d\d m( \(out of limits\))?\n", line) for line in shown), shown
            handler.send_signal(signal.SIGTERM)
            said = handler.communicate(timeout=20)[0].splitlines()
            assert ([line for line in said if "cannot keep up" not in line], handler.returncode) == ([], 0)
            reader.send_signal(signal.SIGINT)
            assert (reader.communicate(timeout=20)[0].replace(shown[-1], "").count("Traceback"), reader.returncode) == (
                0,
                0,
            )
        finally:
            handler.kill()
            reader.kill()


def test_new_leaves_nothing_on_a_full_disk(tmp_path: Path) -> None:
    """Else the next try would say that the files are there already."""
    command = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, "-m", "shareddata", "new", "tank"]
    ended = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stderr) == (1, "shareddata new: [Errno 27] File too large\n")
    assert not list(tmp_path.iterdir())


def test_new_overwrites_nothing(call: Call, tmp_path: Path) -> None:
    (tmp_path / "read_tank.py").write_text("mine")
    code, _, err = call("new", "--folder", tmp_path, "tank")
    assert code == 1 and "read_tank.py: already there" in err
    assert [path.name for path in tmp_path.iterdir()] == ["read_tank.py"]


@pytest.mark.parametrize("name", ["2nd", "a b", "../x", "a-b", "é"])
def test_new_wants_a_name(call: Call, tmp_path: Path, name: str) -> None:
    code, _, err = call("new", "--folder", tmp_path / "folder", name)
    assert code == 1 and "use letters, digits and '_'" in err
    assert not (tmp_path / "folder").exists()


# -- diff -------------------------------------------------------------------------------------------------------------


def test_diff_of_two_files(call: Call, tank: Path) -> None:
    new = json.loads(tank.read_text())
    new["TANK__command"].append(["urgent", False])
    Path("new.json").write_text(json.dumps(new))
    assert call("diff", "tank.json", "tank.json") == (0, "0 differences: running programs go on\n", "")
    assert call("diff", "tank.json", "new.json") == (
        0,
        "compatible  TANK__command: field 'urgent' is new: running programs go on\n"
        "1 difference: running programs go on\n",
        "",
    )
    code, out, _ = call("diff", "new.json", "tank.json")
    assert code == 1 and "field 'urgent' is gone" in out and "NOT compatible" in out
    shown = json.loads(call("diff", "--json", "new.json", "tank.json")[1])
    assert (shown["compatible"], shown["differences"][0]["field"]) == (False, "urgent")


def test_diff_with_the_server(call: Call, tank: Path, url: str) -> None:
    Path("command.json").write_text(json.dumps({"TANK__command": [*TANK["TANK__command"], ["urgent", False]]}))  # type: ignore[misc]
    assert call("diff", "command.json")[:2] == (
        0,
        "compatible  TANK__command: field 'urgent' is new: running programs go on\n"
        "1 difference: running programs go on\n",
    )
    assert call("init", "--keep", "command.json")[0] == 0
    assert call("diff", "command.json")[1] == "0 differences: running programs go on\n"
    assert call("diff")[0] == call("diff", "a", "b", "c")[0] == 2
    assert "cannot be read" in call("diff", "missing.json")[2]
