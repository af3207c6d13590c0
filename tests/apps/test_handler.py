"""What every handler does: its command line, its rate, its stop, and going on without the server."""

import itertools
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata import DataDict
from shareddata.command import stopping
from shareddata.errors import FieldError, ServerUnreachable, UnknownData
from shareddata.handler import Handler, Rate, Stop, needs, program

ROOT = Path(__file__).resolve().parents[2]
APPS = sorted(path.stem for path in (ROOT / "apps").glob("hdl_*.py"))

BATTERY_HELP = """\
usage: hdl_battery.py [-h] [-do-debug] [-s /dev/ttyO1] [-f 2] [-r redissrv]
                      [-p 6379] [-a ./hdl_battery.py] [-i None] [-u None]
                      [-n ''] [-t]

options:
  -h, --help            show this help message and exit
  -do-debug             Show debugging information for the battery
  -s /dev/ttyO1, --serialport /dev/ttyO1
                        Serial line that the battery is connected to
  -f 2, --frequency 2   How often the battery is asked (and answered), in Hz;
                        its blocks are all taken as they come
  -r redissrv, --redis-server redissrv
                        Name or IP address of the cpu that Redis runs on
  -p 6379, --redis-port 6379
                        TCP port number to connect to Redis
  -a ./hdl_battery.py, --app-name ./hdl_battery.py
                        Name of the application for the SHM
  -i None, --env-init None
                        Name of the environment variable that holds the init
                        data of the shm
  -u None, --url None   Address of the server, instead of -r and -p: redis://,
                        rediss://, unix://, sentinel://, cluster://,
                        embedded://
  -n '', --namespace ''
                        Namespace of the records
  -t, --take-over       Write what another copy of this program writes: that
                        one ends
"""


def run(*command, cwd=ROOT / "apps", **environment):
    env = {**os.environ, "COLUMNS": "80", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=20, check=False, env=env)


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_battery_s_help_is_the_document_s():
    shown = run("./hdl_battery.py", "-h")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, BATTERY_HELP, "")


@pytest.mark.parametrize("app", APPS)
def test_each_handler_has_the_document_s_options(app):
    shown = run(f"./{app}.py", "-h").stdout
    for option in ("-do-debug", "-f ", "-r redissrv", "-p 6379", f"-a ./{app}.py", "-i None", "-u None", "-n ''"):
        assert f"[{option}" in shown
    assert ("-s /dev/" in shown) == (app in ("hdl_battery", "hdl_gps"))
    assert "optional arguments:" not in shown


@pytest.mark.parametrize("app", APPS)
def test_each_handler_runs_as_a_module_too(app):
    shown = run(sys.executable, "-m", f"shareddata.apps.{app}", "-h", cwd="/")
    assert shown.returncode == 0
    assert f"[-a {app}.py]" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./hdl_battery.py", "--strange"], "unrecognized arguments: --strange"),
        (["./hdl_battery.py", "-f", "0"], "the frequency must be positive"),
        (["./hdl_battery.py", "-f", "nan"], "the frequency must be positive"),
        (["./hdl_battery.py", "-f", "often"], "argument -f/--frequency: invalid float value: 'often'"),
        (["./hdl_battery.py", "-p", "x"], "argument -p/--redis-port: invalid int value: 'x'"),
        (["./hdl_ains.py", "PROP__readings", "0", "--strange"], "unrecognized arguments: --strange"),
        (["./hdl_ains.py"], "the following arguments are required: record"),
    ],
)
def test_wrong_usage_exits_2(arguments, message):
    ended = run(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_the_user_can_mend_is_one_line_and_exit_1():
    ended = run("./hdl_host.py", "-u", "carrier-pigeon://roof", "-a", "HOST")
    assert ended.returncode == 1
    assert ended.stderr.startswith("HOST: ")
    assert "carrier-pigeon" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_with_do_debug_there_is_a_traceback():
    ended = run("./hdl_host.py", "-do-debug", "-u", "carrier-pigeon://roof")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


@pytest.mark.full
def test_no_server_is_one_line_and_exit_1(short_path):
    ended = run("./hdl_host.py", "-u", f"unix://{short_path}/none.sock", "-a", "HOST")
    assert ended.returncode == 1
    assert ended.stderr.startswith("HOST: ")
    assert ended.stderr.count("\n") == 1


def test_records_that_nobody_described_are_named(url):
    ended = run("./hdl_host.py", "-u", url)
    assert ended.returncode == 1
    assert "HOST__load" in ended.stderr


def test_the_address_may_come_from_the_environment():
    ended = run("./hdl_host.py", SHAREDDATA_URL="carrier-pigeon://roof")
    assert ended.returncode == 1
    assert "carrier-pigeon" in ended.stderr


def test_the_initialisation_is_waited_for(shm, url, start, eventually):
    program = start("apps/hdl_host.py", "-i", "INIT_MSG", "-u", url, "-f", 50, INIT_MSG="HOST_READY")
    shm.init(ROOT / "datadesc" / "host.json", flag="HOST_READY")
    with DataDict("READER", shm) as dd:
        dd.set_datas_to_read(["HOST__memory"])
        assert eventually(lambda: dd.next()[0]).total > 0
    assert program.end() == 0


@pytest.mark.full
def test_an_uninitialised_memory_is_waited_for_and_said(described, url, start):
    program = start("apps/hdl_host.py", "-i", "INIT_MSG", "-u", url, INIT_MSG="NOBODY_SETS_THIS")
    assert program.process.wait(15) == 1
    assert "NOBODY_SETS_THIS" in program.log()


# -- two copies --------------------------------------------------------------------------------------------------------


def test_a_second_copy_ends_with_the_name_of_the_first_or_takes_over(described, url, start, eventually):
    first = start("apps/hdl_host.py", "-u", url, "-f", 50, "-a", "HDL_HOST")
    with DataDict("READER", described) as dd:
        dd.set_datas_to_read(["HOST__memory"])
        eventually(lambda: dd.next()[0], timeout=15)
        second = start("apps/hdl_host.py", "-u", url, "-f", 50, "-a", "SECOND")
        assert second.process.wait(15) == 1
        assert "'HDL_HOST' ('hdl_host.py', process " in second.log() and "--take-over" in second.log()
        assert "Traceback" not in second.log()
        third = start("apps/hdl_host.py", "-u", url, "-f", 50, "-a", "THIRD", "--take-over")
        assert first.process.wait(15) == 1
        assert "'THIRD'" in first.log() and "can't write it any more" in first.log()
        eventually(lambda: dd.next()[0].sender == "THIRD")
        assert third.end() == 0


# -- the rate ----------------------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@given(st.floats(0.01, 1000), st.lists(st.floats(0, 0.9), max_size=50))
def test_the_rate_does_not_drift(frequency, delays):
    clock = Clock()
    begin, rate = clock.now, Rate(frequency, clock)
    for count, delay in enumerate(delays, start=1):
        assert not rate.due() or rate.remaining() == 0
        clock.now += rate.remaining() + delay / frequency
        while not rate.due():  # rounding
            clock.now += 1e-9
        assert clock.now == pytest.approx(begin + (count + delay) / frequency, rel=1e-6)
    assert rate.missed == 0


def test_times_that_were_missed_are_left_out_counted_and_said(caplog):
    clock = Clock()
    rate = Rate(10, clock)
    clock.now += 0.55
    assert rate.due()
    assert not rate.due()
    assert rate.missed == 4
    assert rate.remaining() == pytest.approx(0.05)
    assert [record.getMessage() for record in caplog.records] == ["cannot keep up with 10 Hz: 4 times left out so far"]
    clock.now += 0.5
    assert rate.due()
    assert len(caplog.records) == 1, "once a minute is enough"


# -- the stop ----------------------------------------------------------------------------------------------------------


def test_a_signal_ends_a_wait_at_once():
    with Stop() as stop:
        stop.running = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.wait(30)
        assert stop.requested


def test_before_the_loop_a_signal_ends_the_program():
    with Stop(), pytest.raises(SystemExit, match="0"):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("kind", ["handler", "command"])
def test_a_later_second_signal_ends_the_program_at_once(kind):
    """`timeout 10 hdl_tank.py` sends SIGTERM to the program and to its group, so it comes twice: that is one."""
    stops = []
    with Stop() if kind == "handler" else stopping(lambda: stops.append(1)) as stop:
        if stop:
            stop.running = True
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested if stop else stops == [1]
        with pytest.raises((SystemExit, KeyboardInterrupt), match="came twice" if stop else None):
            all(os.kill(os.getpid(), signal.SIGINT) is None for _ in itertools.count())


def test_the_signals_mean_what_they_meant_before():
    before = signal.getsignal(signal.SIGINT)
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_descriptor_ends_a_wait():
    reader, writer = os.pipe()
    with Stop() as stop:
        assert not stop.wait(0, reader)
        os.write(writer, b"!")
        assert stop.wait(30, reader)
    os.close(reader)
    os.close(writer)


# -- what the function gets --------------------------------------------------------------------------------------------


class Server:
    """In place of a DataDict: a server that goes and comes."""

    def __init__(self):
        self.away = False
        self.flushed = 0

    def flush(self):
        if self.away:
            raise ServerUnreachable("nobody answers")
        self.flushed += 1

    def next(self):
        self.flush()
        return ["trame"]


@pytest.fixture
def handler():
    with Stop() as stop:
        yield Handler(None, Server(), stop, pytest.fail)


def test_a_server_that_goes_away_is_said_once_and_so_is_its_return(handler, caplog):
    caplog.set_level(logging.INFO)
    assert handler.flush()
    handler.dd.away = True
    for attempt, nothing in ((handler.flush, False), (handler.flush, False), (handler.read, None)):
        handler._retry_at = 0.0  # its time has come
        assert attempt() == nothing
    handler.dd.away = False
    handler._retry_at = 0.0
    assert handler.flush()
    assert handler.read() == ["trame"]
    gone, back = (record.getMessage() for record in caplog.records)
    assert "takes nothing: nobody answers" in gone
    assert "2 updates came in between" in back


def test_while_the_server_is_away_it_is_not_asked_each_time(handler):
    handler.dd.away = True
    assert not handler.flush()
    handler.dd.away = False
    assert not handler.flush()
    assert handler.read() is None
    assert handler.dd.flushed == 0


def test_a_frame_that_makes_no_sense_is_counted(handler):
    assert not handler.take(lambda frame: {"A": {"x": int(frame)}}, "not a number")
    assert (handler.taken, handler.unreadable) == (0, 1)


def test_a_record_that_was_not_named_is_told(handler):
    handler._writes = {"A": True, "B": True}
    with pytest.raises(UnknownData, match="record 'C' was not named to handler.writes, only A, B: name it there"):
        handler.publish({"A": {"x": 1}, "C": {"x": 1}})


def test_a_frame_that_says_nothing_is_taken_too(handler):
    assert handler.take(lambda frame: {}, "hello")
    assert (handler.taken, handler.dd.flushed) == (1, 0)


DESCRIPTION = {
    "LAB__counter": [["ts", 0.0], ["sender", ""], ["count", 0]],
    "LAB__order": [["ts", 0.0], ["sender", ""], ["what", ""]],
}


def lab(**texts):
    return program(do_debug="Debug", frequency="How often", record="What", **texts)


def test_a_program_is_a_function_with_options(shm, url):
    shm.init(DESCRIPTION)
    seen = []

    @lab()
    def main(handler, record, frequency=50.0):
        handler.writes([record, "LAB__unheard_of"])
        for count, _ in enumerate(handler.ticks(frequency)):
            handler.publish({record: {"count": count}, "LAB__unheard_of": {"x": 1}})
            seen.append(frequency)
            if count == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    main(["LAB__counter", "-f", "200", "-u", url, "-a", "LAB"])
    assert seen == [200.0] * 4
    with DataDict("READER", shm) as dd:
        dd.set_datas_to_read(["LAB__counter"])
        (trame,) = dd.next()
    assert (trame.count, trame.sender) == (3, "LAB")


def test_orders_are_what_is_written_after_the_start(shm, url):
    shm.init(DESCRIPTION)
    obeyed = []

    @lab()
    def main(handler, record="LAB__order", frequency=100.0):
        handler.dd.set_datas_to_read([record])
        assert handler.orders() == []
        order.set("second")
        writer.flush()
        for _ in handler.ticks(frequency):
            obeyed.extend(trame.what for trame in handler.orders())
            if obeyed:
                os.kill(os.getpid(), signal.SIGTERM)

    with DataDict("CAPTAIN", shm) as writer:
        (order,) = writer.set_datas_to_write(["LAB__order"])
        order.set("first, before the start")
        writer.flush()
        main(["-u", url])
    assert obeyed == ["second"]


def test_an_order_with_nan_or_an_array_is_obeyed_once(shm):
    shm.init({
        "LAB__way": [["ts", 0.0], ["sender", ""], ["speed", 0.0], ["points", 0.0, {"dtype": "<f8", "shape": [2]}]],
        "LAB__other": [["ts", 0.0], ["sender", ""], ["x", 0]],
    })  # fmt: skip
    with DataDict("CAPTAIN", shm) as writer, DataDict("LAB", shm) as dd, Stop() as stop:
        way, other = writer.set_datas_to_write(["LAB__way", "LAB__other"])
        handler = Handler(shm, dd, stop, pytest.fail)
        dd.set_datas_to_read(["LAB__way", "LAB__other"])
        assert handler.orders() == []
        way.set(float("nan"), [1.0, 2.0])
        writer.flush()
        (order,) = handler.orders()
        assert list(order.points) == [1.0, 2.0]
        other.set(1)
        writer.flush()
        assert [trame.x for trame in handler.orders()] == [1], "the way is not ordered again"


def test_only_undescribed_records_is_an_error(shm, url):
    shm.init(DESCRIPTION)
    raised = []

    @lab()
    def main(handler, record="x", frequency=1.0):
        try:
            handler.writes(["LAB__unheard_of"])
        except UnknownData as error:
            raised.append(error)
            raise

    with pytest.raises(SystemExit, match="LAB__unheard_of"):
        main(["-u", url])
    assert raised


def test_a_value_that_does_not_fit_ends_the_program_with_one_line(shm, url):
    shm.init(DESCRIPTION)

    @lab()
    def main(handler, record="x", frequency=1.0):
        handler.writes(["LAB__counter"])
        with pytest.raises(FieldError, match="LAB__counter"):
            handler.publish({"LAB__counter": {"count": "three"}})
        handler.publish({"LAB__counter": {"count": "three"}})

    with pytest.raises(SystemExit, match=r"LAB__counter.*count"):
        main(["-u", url])


def test_what_a_device_needs_and_is_not_installed_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"no_such_module.*pip install 'shareddata\[hardware\]'"):
        needs("no_such_module")
