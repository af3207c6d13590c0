"""The bridge to EPICS PVAccess, as a real process, with p4p's client and server: both directions, alarms, outages."""

import json
import re
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers import empty, free_port
from shareddata import DataDict, SharedMemory

pytest.importorskip("p4p", reason="p4p is not installed")

from p4p.client.thread import Context, Disconnected, RemoteError
from p4p.nt import NTEnum, NTScalar
from p4p.server import Server, StaticProvider
from p4p.server.thread import SharedPV
from p4p.util import _defaultWorkQueue
from shareddata.apps.bridge_pva import name_of, stamp

DESCRIPTION = {
    "RING__beam": {
        "max_age": 30,
        "history": 256,
        "fields": [
            ["ts", 0.0], ["sender", ""],
            ["current", 0.0, {"unit": "mA", "min": 0, "max": 500, "doc": "of the stored beam"}],
            ["bunches", 0], ["on", False], ["mode", ""], ["lifetimes", []],
            ["orbit", 0.0, {"dtype": "<f8", "shape": [2, 2]}],
        ],
    },
    "RING__command": [
        ["ts", 0.0], ["sender", ""], ["target", 20.0, {"max": 250, "on_limit": "refuse"}], ["mode", "off"],
        ["steps", [], {}], ["offsets", 0, {"dtype": "<i4", "shape": [3]}],
    ],
    "SECRET__key": [["ts", 0.0], ["sender", ""], ["key", ""]],
    "HUGE": [["ts", 0.0], ["sender", ""], ["E", 1 << 70, {"min": 0.5, "max": 1e30}], ["EE", 1.0, {"max": 5}]],
    "HUGEE": [["ts", 0.0], ["sender", ""], ["E", 0]],
    "BRIDGE__pva": [
        ["ts", 0.0], ["sender", ""], ["disconnected", 0],
        *([name, 0] for name in ["sent", "replaced", "missed", "returned", "received", "written", "known", "refused"]),
    ],
}  # fmt: skip


def network(port):
    """Return the environment of a server at this port, and what a client needs to find it there."""
    server = {
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1", "EPICS_PVAS_SERVER_PORT": str(port),
        "EPICS_PVAS_BROADCAST_PORT": str(free_port()), "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO", "PVXS_LOG": "*=CRIT",
    }  # fmt: skip
    client = {
        "EPICS_PVA_NAME_SERVERS": f"127.0.0.1:{port}", "EPICS_PVA_ADDR_LIST": "", "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": str(free_port()),
    }  # fmt: skip
    return server, client


@pytest.fixture
def url(servers):
    """One kind of server is enough here."""
    empty(servers["valkey"].url)
    return servers["valkey"].url


@pytest.fixture
def ring(shm):
    shm.init(DESCRIPTION)
    return shm


@pytest.fixture
def dd(ring):
    """A program that writes and reads the records."""
    with DataDict("HDL_RING", ring) as made:
        made.set_datas_to_read(["RING__command", "RING__beam"])
        made.beam, made.command = made.set_datas_to_write(["RING__beam", "RING__command"])
        yield made


@pytest.fixture
def port():
    return free_port()


@pytest.fixture(scope="module", autouse=True)
def _queue():
    """Start p4p's own threads, which it keeps."""
    for _ in range(4):
        _defaultWorkQueue()


@pytest.fixture
def client(port):
    """A client of the bridge, made when that listens: it looks anew for a server after ten seconds only."""
    made = []

    def make():
        made.append(Context("pva", conf=network(port)[1], useenv=False, nt=False))
        return made[-1]

    yield make
    for each in made:
        each.close()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def bridge(start, url, port, eventually):
    """Start the bridge: `bridge(*options)`; it serves at `port`."""

    def begin(*options, client=None, url=url):
        server, own = network(port)
        program = start("apps/bridge_pva.py", *options, "-u", url, **server, **(client or own))
        eventually(lambda: listens(port), 10, "the bridge")
        return program

    return begin


class Heard(list):
    """A monitor's values, exceptions as their type."""

    def __init__(self, context, name):
        super().__init__()
        self.subscription = context.monitor(name, self.take, request="record[queueSize=1000]", notify_disconnect=True)

    def take(self, found):
        self.append(type(found) if isinstance(found, Exception) else (found["value"], found["alarm.message"]))

    def values(self):
        return [each[0] for each in list(self) if isinstance(each, tuple) and each[1] != "never written"]


def test_fields_are_pvs_with_type_unit_limits_alarm_and_time(ring, dd, bridge, client, eventually):
    program, context = bridge("RING__beam", "HUGE", "-a", "PVA"), client()
    untouched = context.get("RING__beam:current", timeout=10)
    assert (untouched["alarm.severity"], untouched["alarm.message"]) == (3, "never written")
    heard = Heard(context, "RING__beam:bunches")
    eventually(lambda: len(heard) >= 1)
    now = time.time() + 0.123456789
    dd.beam.set(501.5, 6, ts=1e30)  # what no PV can have as its time
    dd.flush()
    eventually(lambda: heard.values() == [6])
    assert context.get("RING__beam:current")["timeStamp.secondsPastEpoch"] == 0
    dd.beam.set(501.5, 7, True, "user", [1, None], [[1, 2], [3, float("nan")]], ts=now)
    dd.flush()
    eventually(lambda: heard.values() == [6, 7])
    current = context.get("RING__beam:current")
    assert current["value"] == 501.5 and isinstance(current["value"], float)
    assert current["display.units"] == "mA" and current["display.description"] == "of the stored beam"
    assert (current["display.limitLow"], current["display.limitHigh"]) == (0, 500)
    assert (current["valueAlarm.highAlarmLimit"], current["valueAlarm.highAlarmSeverity"]) == (500, 2)
    assert (current["alarm.severity"], current["alarm.message"]) == (2, "HIHI")
    seconds, nanoseconds = current["timeStamp.secondsPastEpoch"], current["timeStamp.nanoseconds"]
    assert seconds + nanoseconds / 1e9 == pytest.approx(now, abs=1e-6)
    assert context.get("RING__beam:on")["value"] is True
    assert context.get("RING__beam:mode")["value"] == "user"
    assert json.loads(context.get("RING__beam:lifetimes")["value"]) == [1, None]
    assert context.get("RING__beam:orbit")["value"].tolist()[:3] == [1, 2, 3]
    for number in range(50):
        dd.beam.set(bunches=number, ts=now + 1 + number / 100)
        dd.flush()
    eventually(lambda: heard.values() == [6, 7, *range(50)], message="every update, in order")
    dd.beam.set(bunches=1 << 70)
    dd.flush()
    eventually(lambda: "64 bits" in context.get("RING__beam:bunches")["alarm.message"])
    eventually(lambda: program.log("integers of more than 64 bits"))
    huge, limit = context.get("HUGE:E"), context.get("HUGE:EE")["display.limitHigh"]
    assert (huge["value"], huge["display.limitLow"], huge["display.limitHigh"], limit) == (0, 1, (1 << 63) - 1, 5)
    with pytest.raises(RemoteError, match="(?i)put.*not|not.*support|unable"):
        context.put("RING__beam:current", 1.0)
    with pytest.raises(TimeoutError, match="SECRET__key"):
        context.get("SECRET__key:key", timeout=0.3)
    assert program.end() == 0
    assert "Traceback" not in program.log()


def test_puts_are_checked_written_and_answered(ring, dd, bridge, client, eventually):
    program, context = bridge("--write", "RING__command", "-a", "PVA"), client()
    context.get("RING__command:target", timeout=10)
    context.put("RING__command:target", 180)
    trame = dd.next()[0]
    assert (trame.target, trame.mode, trame.sender) == (180.0, "off", "PVA"), "the answer comes when it is written"
    assert trame.ts == pytest.approx(time.time(), abs=10)
    context.put("RING__command:mode", "ramp")
    context.put("RING__command:steps", "[1, 2.5]")
    context.put("RING__command:offsets", [1, 2, -3])
    trame = dd.next()[0]
    assert (trame.target, trame.mode, trame.steps, trame.offsets.tolist()) == (180.0, "ramp", [1, 2.5], [1, 2, -3])
    eventually(lambda: context.get("RING__command:target")["value"] == 180.0)
    with pytest.raises(RemoteError, match="out of limits"):
        context.put("RING__command:target", 251.0)
    with pytest.raises(RemoteError, match="shape"):
        context.put("RING__command:offsets", [1, 2])
    with pytest.raises(RemoteError, match="Expecting value"):
        context.put("RING__command:steps", "one, two")
    assert dd.next()[0][2:5] == trame[2:5]
    heard = Heard(context, "RING__command:target")
    dd.command.set(target=99.0)  # another program's
    dd.flush()
    eventually(lambda: heard.values()[-1:] == [99.0])
    assert program.end() == 0
    assert "written 4" in program.log() and "refused 3" in program.log() and "received 7" in program.log()


class Control:
    """A control system with some PVs, which can go and come back."""

    def __init__(self, **initial):
        self.pvs = {name: SharedPV(initial=value) for name, value in initial.items()}
        self.port = free_port()
        self.server = None

    def start(self):
        provider = StaticProvider("control")
        for name, pv in self.pvs.items():
            provider.add(name, pv)
        self.server = Server(providers=[provider], conf=network(self.port)[0], useenv=False)

    def stop(self):
        if self.server:
            self.server.stop()
        self.server = None


@pytest.fixture
def control():
    double, whole = NTScalar("d", display=True), NTScalar("l")
    made = Control(
        current=double.wrap({"value": 12.5, "display.units": "A", "timeStamp.secondsPastEpoch": 1000}),
        bunches=whole.wrap({"value": 5, "timeStamp.secondsPastEpoch": 900}),
        mode=NTEnum().wrap({"value.index": 1, "value.choices": ["off", "user"], "timeStamp.secondsPastEpoch": 901}),
    )
    made.double, made.whole = double, whole
    made.start()
    yield made
    made.stop()


def count(dd, ring, name):
    with DataDict("READER", ring) as reader:
        reader.set_datas_to_read(["BRIDGE__pva"])
        trame = reader.next()[0]
    return trame and getattr(trame, name)


@pytest.mark.timeout(60)
def test_pvs_of_others_are_written_to_records(ring, dd, bridge, control, tmp_path, eventually):
    (tmp_path / "pvs.json").write_text(
        json.dumps({"RING__beam": {"current": "current", "bunches": "bunches", "mode": "mode"}})
    )
    program = bridge("--pvs", tmp_path / "pvs.json", "-a", "PVA", client=network(control.port)[1])
    trame = eventually(lambda: (dd.next()[1] or ())[2:6] == (12.5, 5, False, "user") and dd.next()[1], 15)
    assert (trame.sender, trame.ts) == ("PVA", 1000.0)
    assert "the PV current is in A, record RING__beam, field current in mA" in program.log()
    now = time.time()
    stamped = {"timeStamp.secondsPastEpoch": int(now), "timeStamp.nanoseconds": 250_000_000}
    control.pvs["current"].post(control.double.wrap({"value": 13.5, **stamped}))
    eventually(lambda: dd.next()[1].current == 13.5)
    assert dd.next()[1].ts == int(now) + 0.25
    control.pvs["current"].post(
        control.double.wrap({"value": -1.0, "alarm.severity": 3, "alarm.message": "broken",
                             "timeStamp.secondsPastEpoch": int(now) + 1})
    )  # fmt: skip
    eventually(lambda: program.log("current: refused: .*its alarm is INVALID: broken"))
    assert dd.next()[1].current == 13.5
    for value, seconds in ((7, int(now) + 100_000), (8, int(now) - 6)):
        control.pvs["bunches"].post(control.whole.wrap({"value": value, "timeStamp.secondsPastEpoch": seconds}))
    eventually(lambda: dd.next()[1].bunches == 8, message="a clock that was wrong locks nothing out")
    control.stop()
    eventually(lambda: program.log("the PV bunches is gone"), 10)
    eventually(lambda: count(dd, ring, "disconnected") == 3)
    control.pvs["bunches"].post(control.whole.wrap({"value": 6, "timeStamp.secondsPastEpoch": int(now) - 5}))
    control.start()
    eventually(lambda: dd.next()[1].bunches == 6, 25, "the PVs again")
    assert dd.next()[1].ts == int(now) + 0.25, "the latest of the fields' times"
    assert dd.next()[1].current == 13.5
    assert program.end() == 0
    assert "Traceback" not in program.log()


@pytest.mark.timeout(60)
def test_a_server_that_goes_and_comes_and_so_the_bridge(own_server, bridge, client, eventually):
    server = own_server()
    with SharedMemory(url=server.url) as shm, DataDict("HDL_RING", shm) as dd:
        shm.init(DESCRIPTION)
        (command,) = dd.set_datas_to_write(["RING__command"])
        command.set(target=1.0)
        dd.flush()
        options = ("--write", "RING__command")
        program, context = bridge(*options, url=server.url), client()
        heard = Heard(context, "RING__command:target")
        eventually(lambda: heard.values() == [1.0], 10)
        server.kill()
        eventually(lambda: (1.0, "stale") in list(heard), 10, "an INVALID alarm")
        with pytest.raises(RemoteError, match="takes nothing"):
            context.put("RING__command:target", 2.0)
        server.restart()
        eventually(lambda: heard[-1] == (1.0, ""), 10)
        eventually(lambda: not context.put("RING__command:target", 3.0, throw=False), 10)
        eventually(lambda: heard.values()[-1] == 3.0)
        assert program.end() == 0


@pytest.mark.full
@pytest.mark.timeout(60)
def test_clients_find_a_bridge_that_was_started_again(ring, dd, bridge, client, eventually):
    program, context = bridge("RING__command"), client()
    dd.command.set(target=3.0)
    dd.flush()
    heard = Heard(context, "RING__command:target")
    eventually(lambda: heard.values() == [3.0], 10)
    assert program.end() == 0
    eventually(lambda: Disconnected in list(heard), 10)
    program = bridge("RING__command")
    eventually(lambda: heard[-1] == (3.0, ""), 35)
    assert program.end() == 0


@pytest.mark.full
@pytest.mark.timeout(60)
def test_two_bridges_in_a_ring_do_not_loop(url, start, eventually, tmp_path):
    """Each monitors what the other one serves: a value goes round once at the most."""
    ports = [free_port(), free_port()]
    with (
        SharedMemory(url=url, namespace="a") as a, SharedMemory(url=url, namespace="b") as b,
        DataDict("HDL_A", a) as on_a, DataDict("HDL_B", b) as on_b,
    ):  # fmt: skip
        programs = []
        for own, other, shm, here, there in ((0, 1, a, "a", "b"), (1, 0, b, "b", "a")):
            shm.init(DESCRIPTION)
            file = tmp_path / f"{here}.json"
            file.write_text(json.dumps({"RING__beam": {"current": f"{there}:RING__beam:current"}}))
            environment = network(ports[own])[0] | network(ports[other])[1]
            options = ("RING__beam", "--pvs", file, "-n", here, "-u", url)
            programs.append(start("apps/bridge_pva.py", *options, "-a", f"BRIDGE_{here}", **environment))
        for dd in (on_a, on_b):
            dd.set_datas_to_read(["RING__beam"])
        (ours,), (theirs,) = (dd.set_datas_to_write(["RING__beam"]) for dd in (on_a, on_b))
        for program, there in zip(programs, "ba"):
            eventually(lambda program=program, there=there: program.log(f"the PV {there}:.* is there"), 20)
        ours.set(current=1.5, ts=time.time() - 1)
        on_a.flush()
        eventually(lambda: on_b.next()[0] and on_b.next()[0].current == 1.5)
        theirs.set(current=2.5)
        on_b.flush()
        eventually(lambda: on_a.next()[0].current == 2.5)
        assert (on_a.next()[0].ts, on_a.next()[0].sender) == (
            pytest.approx(on_b.next()[0].ts, abs=1e-6),
            "BRIDGE_a",
        )
        for program in programs:
            assert program.end() == 0
            assert int(re.search(r"written (\d+),", program.log())[1]) <= 3, program.log()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name the records that go out"),
        (["RING__bear"], 1, "did you mean RING__beam"),
        (["RING__beam", "--name", "x:{record}"], 2, "holds {record} and {field}"),
        (["RING__beam", "-m", "some"], 2, "the mode is every or newest"),
        (["--pvs", "{pvs}"], 1, "has no field 'currents' for the PV x"),
        (["--pvs", "/none"], 1, "/none"),
        (["HUGE", "HUGEE", "-N", "{record}{field}"], 1, "record HUGEE: the PV HUGEEE: add() will not"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(ring, url, start, port, tmp_path, arguments, code, message):
    (tmp_path / "pvs.json").write_text('{"RING__beam": {"currents": "x"}}')
    arguments = [str(tmp_path / "pvs.json") if each == "{pvs}" else each for each in arguments]
    server, client = network(port)
    program = start("apps/bridge_pva.py", *arguments, "-u", url, **server, **client)
    assert program.process.wait(10) == code
    assert message in program.log()
    assert "Traceback" not in program.log()


def test_names_and_times():
    assert name_of("{record}.{field}", "usv1", "A", "b") == "A.b"
    assert stamp(1.25) == {"secondsPastEpoch": 1, "nanoseconds": 250_000_000}
    for none in (float("nan"), float("inf"), -1e30):
        assert stamp(none) == {"secondsPastEpoch": 0, "nanoseconds": 0}


@given(st.floats(-1e10, 1e12))
def test_a_time_that_comes_back_is_the_same(ts):
    """Else it would be later than the record's, and go round in circles."""
    found = stamp(ts)
    assert 0 <= found["nanoseconds"] < 10**9
    assert found["secondsPastEpoch"] + found["nanoseconds"] / 1e9 == pytest.approx(ts, rel=0, abs=6e-10)
    if ts > 1e8:
        assert found["secondsPastEpoch"] + found["nanoseconds"] / 1e9 == ts
