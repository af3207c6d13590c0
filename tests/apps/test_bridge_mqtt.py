"""The bridge to MQTT, as a real process, with a real broker: both directions, loops, outages on both sides, rights."""

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shareddata.apps.bridge_mqtt import message, place, topic_of, understood

from certificates import certificates
from shareddata import DataDict, SharedMemory
from shareddata.datadesc import parse_record
from shareddata.errors import ServerSetupError
from shareddata.outgoing import Update, selected

mosquitto = pytest.importorskip("mosquitto", reason="paho-mqtt is not installed")
if mosquitto.EXECUTABLE is None:
    pytest.skip("mosquitto is not installed: apt install mosquitto", allow_module_level=True)

DESCRIPTION = {
    "OVEN__measures": {
        "max_age": 30,
        "fields": [
            ["ts", 0.0], ["sender", ""], ["temperature", 0.0, {"unit": "degC", "max": 300}],
            ["on", False], ["cycle", 0],
        ],
    },
    "OVEN__command": [
        ["ts", 0.0], ["sender", ""], ["target", 20.0, {"max": 250, "on_limit": "refuse"}], ["mode", "off"],
    ],
    "OVEN__image": [["ts", 0.0], ["sender", ""], ["pixels", 0, {"dtype": "<u2", "shape": [2, 2]}]],
    "SECRET__key": [["ts", 0.0], ["sender", ""], ["key", ""]],
    "BRIDGE__mqtt": [
        ["ts", 0.0], ["sender", ""], ["connected", False],
        *([name, 0] for name in ["sent", "replaced", "missed", "returned", "received", "written", "known", "refused"]),
    ],
}  # fmt: skip
MEASURES, COMMAND = "shareddata/OVEN__measures", "shareddata/OVEN__command"


@pytest.fixture
def broker():
    """Make a broker: `broker(options, socket=...)`."""
    made = []

    def make(*arguments, **options):
        made.append(mosquitto.Mosquitto(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def client():
    """Make a client of a broker: `client(broker, topic="#")`."""
    made = []

    def make(*arguments, **options):
        made.append(mosquitto.Client(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def url(servers):
    """One kind of server is enough here: what differs between them is tested below the bridge."""
    from servers import empty

    empty(servers["valkey"].url)
    return servers["valkey"].url


@pytest.fixture
def oven(shm):
    """A shared memory with the records of this module."""
    shm.init(DESCRIPTION)
    return shm


@pytest.fixture
def dd(oven):
    """A program that writes and reads them."""
    with DataDict("HDL_OVEN", oven) as made:
        made.set_datas_to_read(["OVEN__command"])
        made.measures, made.command = made.set_datas_to_write(["OVEN__measures", "OVEN__command"])
        yield made


@pytest.fixture
def bridge(start, url, eventually):
    """Start the bridge, wait until the broker has it: `bridge(broker, *options)`."""

    def begin(broker, *options, **environment):
        program = start("apps/bridge_mqtt.py", *options, "-b", broker.url, "-u", url, **environment)
        eventually(lambda: program.log("is there"), 10, "the bridge at its broker")
        if "--write" in options:
            eventually(lambda: program.log("sends what is to be written"), 10, "its subscription")
        return program

    return begin


def counts(shm):
    """Return the bridge's status record."""
    with DataDict("READER", shm) as dd:
        dd.set_datas_to_read(["BRIDGE__mqtt"])
        return dd.next()[0]


def test_every_update_goes_out_with_types_units_and_its_own_time(oven, dd, broker, client, bridge, eventually):
    one = broker()
    dd.measures.set(21.5, True, 7, ts=1000.25)
    dd.flush()
    ended = bridge(one, "OVEN__meas*", "-a", "MQTT")
    heard = client(one)
    eventually(lambda: heard.of(MEASURES))
    first = heard.of(MEASURES)[0]
    assert heard.heard[0][2] or heard.heard[1][2], "it is retained: who comes later has it at once"
    assert first.pop("bridge")
    assert first == {
        "record": "OVEN__measures", "ts": 1000.25, "sender": "HDL_OVEN", "stale": True, "out_of_limits": [],
        "values": {"temperature": 21.5, "on": True, "cycle": 7}, "units": {"temperature": "degC"},
    }  # fmt: skip
    begin = time.time()
    for number in range(50):
        dd.measures.set(float("nan") if number == 49 else 300.5, False, number, ts=begin + number / 100)
        dd.flush()
    eventually(lambda: len(heard.of(MEASURES)) == 51)
    told = heard.of(MEASURES)[1:]
    assert [each["values"]["cycle"] for each in told] == [*range(50)]
    assert [each["ts"] for each in told] == [begin + number / 100 for number in range(50)]
    assert told[0]["out_of_limits"] == ["temperature"] and not told[0]["stale"]
    assert told[-1]["values"]["temperature"] == "NaN"
    assert {each[0] for each in heard.heard} == {MEASURES, "shareddata/bridge/MQTT"}, "only what was named goes out"
    for number in range(50, 350):
        dd.measures.set(1.0, False, number)
        dd.flush()
    assert ended.end() == 0
    eventually(lambda: heard.heard[-1][:2] == ("shareddata/bridge/MQTT", b"offline"))
    assert [each["values"]["cycle"] for each in heard.of(MEASURES)[51:]] == [*range(50, 350)], "all that was written"
    assert "sent 351," in ended.log() and "Traceback" not in ended.log()
    assert (counts(oven).connected, counts(oven).sent) == (False, 351), "the last state is told too"


def test_arrays_and_plain_writes_go_out_too(oven, dd, broker, client, bridge, eventually, url):
    from servers import plain_client

    one = broker(socket=True)
    heard = client(one)
    bridge(one, "OVEN__*", "-f", 50)
    (image,) = dd.set_datas_to_write(["OVEN__image"])
    image.set([[1, 2], [3, 65535]])
    dd.flush()
    eventually(lambda: heard.of("shareddata/OVEN__image"))
    assert heard.of("shareddata/OVEN__image")[0]["values"] == {"pixels": [[1, 2], [3, 65535]]}
    dd.measures.set(1.0, True, 1)
    dd.flush()
    eventually(lambda: heard.of(MEASURES))
    with plain_client(url) as redis:  # as a C program does, without a history
        redis.hset("OVEN__measures", "temperature", "2.5")
    eventually(lambda: heard.of(MEASURES)[-1]["values"]["temperature"] == 2.5)


def test_a_record_that_was_not_written_for_long_is_said_to_be_stale(oven, dd, broker, client, bridge, eventually):
    one = broker()
    heard = client(one)
    bridge(one, "OVEN__measures")
    dd.measures.set(1.0, True, 1, ts=time.time() - 28.5)
    dd.flush()
    eventually(lambda: len(heard.of(MEASURES)) == 2, 8)
    fresh, stale = heard.of(MEASURES)
    assert (fresh["stale"], stale["stale"]) == (False, True)
    assert fresh["ts"] == stale["ts"]


def test_values_from_the_broker_are_checked_and_written(oven, dd, broker, client, bridge, eventually):
    one = broker()
    heard = client(one)
    program = bridge(one, "OVEN__*", "--write", "OVEN__command", "-a", "MQTT")
    when = time.time() - 5
    heard.publish(f"{COMMAND}/set", {"values": {"target": 180}, "ts": when})
    trame = eventually(lambda: dd.next()[0])
    assert (trame.target, trame.mode, trame.sender, trame.ts) == (180.0, "off", "MQTT", when)
    heard.publish(f"{COMMAND}/set", {"values": {"mode": "grill"}})
    eventually(lambda: dd.next()[0].mode == "grill")
    assert dd.next()[0].target == 180.0, "what is left out stays"
    assert dd.next()[0].ts == pytest.approx(time.time(), abs=10)
    eventually(lambda: counts(oven).returned == 2)
    assert heard.of(COMMAND) == [], "what came from there is not sent back"
    dd.command.set(100.0, "off")  # another program's is
    dd.flush()
    eventually(lambda: [each["values"]["target"] for each in heard.of(COMMAND)] == [100.0])
    assert program.end() == 0
    assert "written 2" in program.log() and "returned 2" in program.log()


def test_wrong_input_is_refused_logged_and_counted(oven, dd, broker, client, bridge, eventually):
    one = broker()
    heard = client(one)
    program = bridge(one, "--write", "OVEN__command,SECRET__key", "-do-debug")
    wrong = {
        b"\xff{": "decode",
        b"[" * 5000: "nested too deeply",
        b"12": 'expected an object like {"values"',
        b'{"value": {"target": 1}}': 'expected an object like {"values"',
        b'{"values": {}, "tss": 1}': "it has tss",
        b'{"values": {}}': "no values",
        b'{"values": {"target": "hot"}}': "expected float",
        b'{"values": {"target": true}}': "expected float",
        b'{"values": {"target": 251}}': "out of limits",
        b'{"values": {"targets": 1}}': "has no field 'targets'; it has target, mode",
        b'{"values": {"sender": "me"}}': "sender is no value",
        b'{"values": {"target": 1}, "ts": "now"}': "its ts is 'now'",
        b'{"values": {"target": 1}, "ts": 1e12}': "its ts is 1000000000000.0",
        b'{"values": {"target": 1}, "ts": NaN}': "its ts is nan",
        b'{"values": {"mode": "\\ud800"}}': "surrogates",
        b'{"values": {"target": 1}, "x": "%s"}' % (b"x" * (1 << 20)): "at the most",
    }
    for number, (payload, reason) in enumerate(wrong.items(), 1):
        heard.publish(f"{COMMAND}/set", payload)
        told = rf".*\(refused so far: {number}\)\n"
        line = eventually(lambda told=told: re.search(told, program.log()), message=reason)
        assert reason in line[0]
    heard.publish("shareddata/OVEN__measures/set", {"values": {"cycle": 1}})  # not asked for, so not heard
    heard.publish(f"{COMMAND}/set", {"values": {"target": 1, "mode": "on"}})
    eventually(lambda: dd.next()[0])
    assert dd.next()[0][2:] == (1.0, "on")
    eventually(lambda: counts(oven).refused == len(wrong))
    assert counts(oven).received == len(wrong) + 1


def test_old_and_retained_commands_are_not_obeyed(oven, dd, broker, client, bridge, eventually):
    one = broker()
    heard = client(one)
    now = time.time()
    heard.publish(f"{COMMAND}/set", {"values": {"target": 1}}, retain=True)
    program = bridge(one, "--write", "OVEN__command")
    eventually(lambda: program.log("retained and has no ts"))
    heard.publish(f"{COMMAND}/set", {"values": {"target": 2}, "ts": now})
    eventually(lambda: dd.next()[0])
    heard.publish(f"{COMMAND}/set", {"values": {"target": 3}, "ts": now - 1})
    heard.publish(f"{COMMAND}/set", {"values": {"target": 4}, "ts": now})
    heard.publish(f"{COMMAND}/set", {"values": {"target": 5}, "ts": now + 1})
    eventually(lambda: dd.next()[0].target == 5)
    eventually(lambda: counts(oven).known == 2)


def test_two_bridges_and_a_broker_mirror_a_record_both_ways_without_a_loop(
    url, broker, client, bridge, start, eventually
):
    """Each of the two shared memories has the record, and sends what its own programs write."""
    one = broker()
    heard = client(one)
    both = ("OVEN__command", "--write", "OVEN__command", "-T", "x/{record}", "--subscribe", "x/{record}")
    with (
        SharedMemory(url=url, namespace="ship") as ship, SharedMemory(url=url, namespace="shore") as shore,
        DataDict("CAPTAIN", ship) as on_ship, DataDict("OFFICE", shore) as on_shore,
    ):  # fmt: skip
        ship.init(DESCRIPTION), shore.init(DESCRIPTION)
        for name in ("ship", "shore"):
            bridge(one, *both, "-n", name, "-a", f"BRIDGE_{name}")
        for dd in (on_ship, on_shore):
            dd.set_datas_to_read(["OVEN__command"])
        (ours,), (theirs,) = (dd.set_datas_to_write(["OVEN__command"]) for dd in (on_ship, on_shore))
        ours.set(30.0, "ship")
        on_ship.flush()
        eventually(lambda: (on_shore.next()[0] or ())[2:] == (30.0, "ship"))
        assert on_shore.next()[0].ts == on_ship.next()[0].ts, "the time is that of the measurement"
        theirs.set(40.0, "shore")
        on_shore.flush()
        eventually(lambda: on_ship.next()[0][2:] == (40.0, "shore"))
        eventually(lambda: (counts(ship).returned, counts(shore).returned) == (2, 2))
        assert [each["values"]["mode"] for each in heard.of("x/OVEN__command")] == ["ship", "shore"]
        assert on_ship.next()[0].sender == "BRIDGE_ship"


@pytest.mark.timeout(60)
def test_a_broker_that_goes_and_comes_misses_nothing_silently(oven, dd, broker, client, bridge, eventually):
    one = broker()
    program = bridge(one, "OVEN__measures", "OVEN__image", "--write", "OVEN__command")
    (image,) = dd.set_datas_to_write(["OVEN__image"])
    image.set([[1, 2], [3, 4]])
    dd.measures.set(1.0, True, -1)
    dd.flush()
    eventually(lambda: counts(oven) and counts(oven).sent == 2)
    one.kill()
    eventually(lambda: program.log("is gone: .*; going on"))
    for number in range(20):
        dd.measures.set(1.0, True, number)
        dd.flush()
    eventually(lambda: counts(oven) and counts(oven).replaced == 19, 10)
    assert not counts(oven).connected
    one.start()
    heard = client(one)
    eventually(lambda: heard.of(MEASURES), 15)
    eventually(lambda: program.log(r"is there after \d"))
    assert heard.of(MEASURES)[0]["values"]["cycle"] == 19, "the newest waited"
    eventually(lambda: heard.of("shareddata/OVEN__image"), message="what this broker never had, or lost")
    heard.publish(f"{COMMAND}/set", {"values": {"target": 99}})
    eventually(lambda: dd.next()[0] and dd.next()[0].target == 99, message="the subscription again")
    eventually(lambda: counts(oven).connected)


@pytest.mark.timeout(60)
def test_a_server_that_goes_and_comes(own_server, broker, client, start, eventually):
    server, one = own_server(), broker()
    heard = client(one)
    with SharedMemory(url=server.url) as shm, DataDict("HDL_OVEN", shm) as dd:
        shm.init(DESCRIPTION)
        dd.set_datas_to_read(["OVEN__command"])
        (measures,) = dd.set_datas_to_write(["OVEN__measures"])
        program = start(
            "apps/bridge_mqtt.py", "OVEN__measures", "--write", "OVEN__command", "-b", one.url, "-u", server.url
        )
        measures.set(1.0, True, 1)
        dd.flush()
        eventually(lambda: heard.of(MEASURES), 10)
        server.kill()
        heard.publish(f"{COMMAND}/set", {"values": {"target": 1}, "ts": time.time() - 1})
        heard.publish(f"{COMMAND}/set", {"values": {"target": 2}, "ts": time.time()})
        eventually(lambda: program.log("takes nothing"), 10)
        server.restart()
        eventually(lambda: dd.next()[0] and dd.next()[0].target == 2, 15, "the newest command")
        measures.set(2.0, True, 2)
        dd.flush()
        eventually(lambda: heard.of(MEASURES)[-1]["values"]["cycle"] == 2, 10)
        eventually(lambda: program.log("the server is back after .* updates came in between"))
        assert program.end() == 0
        assert "Traceback" not in program.log()


def test_tls_user_and_password_from_a_file(oven, dd, broker, client, bridge, start, url, tmp_path, eventually):
    certificates(tmp_path)
    (tmp_path / "users").write_text("oven:secret\n")
    import subprocess

    tool = mosquitto.EXECUTABLE.replace("sbin/mosquitto", "bin/mosquitto_passwd")
    subprocess.run([tool, "-U", tmp_path / "users"], check=True)
    lines = [f"password_file {tmp_path / 'users'}", "allow_anonymous false", f"cafile {tmp_path / 'ca.crt'}"]
    lines += [f"certfile {tmp_path / 'server.crt'}", f"keyfile {tmp_path / 'server.key'}", "require_certificate true"]
    one = broker(lines)
    one.url = f"mqtts://oven@127.0.0.1:{one.port}"
    (tmp_path / "password").write_text("wrong\n")
    (tmp_path / "own.pem").write_text((tmp_path / "client.key").read_text() + (tmp_path / "client.crt").read_text())
    options = ("OVEN__measures", "-c", tmp_path / "ca.crt", "-k", tmp_path / "own.pem", "-b", one.url, "-u", url)
    program = start("apps/bridge_mqtt.py", *options, SHAREDDATA_MQTT_PASSWORD_FILE=str(tmp_path / "password"))
    eventually(lambda: program.log("refused us: Not authorized"), 10)
    (tmp_path / "password").unlink()
    eventually(lambda: program.log("is not asked: .* cannot be read"), 10)
    (tmp_path / "password").write_text("secret\n")  # mended while it runs
    eventually(lambda: program.log("is there"), 15)
    assert "secret" not in program.log()
    for scheme, reason in (("mqtts", "is not there, or not on these terms"), ("mqtt", "does not answer: is it")):
        address = f"{scheme}://127.0.0.1:{one.port}"
        stranger = start("apps/bridge_mqtt.py", "OVEN__measures", "-b", address, "-u", url)
        eventually(lambda stranger=stranger, reason=reason: stranger.log(reason), 10)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name the records that go out"),
        (["OVEN__measure"], 1, "did you mean OVEN__measures"),
        (["NO*"], 1, "no record 'NO*'"),
        (["--write", "OVEN__x"], 1, "no record 'OVEN__x'"),
        (["OVEN__measures", "-T", "all"], 2, "a topic holds {record}"),
        (["OVEN__measures", "-T", "a/{record}/#"], 2, "neither + nor #"),
        (["OVEN__measures", "-m", "some"], 2, "the mode is every or newest"),
        (["OVEN__measures", "-a", "A#"], 2, "neither + nor #"),
        (["OVEN__measures", "-f", "nan"], 2, "the frequency must be positive"),
        (["OVEN__measures", "-b", "http://x"], 1, "expected mqtt://host:port"),
        (["OVEN__measures", "-b", "mqtt://me:secret@x"], 1, "SHAREDDATA_MQTT_PASSWORD_FILE"),
        (["OVEN__measures", "-b", "mqtts://x", "-c", "/none"], 1, "-c /none"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(oven, url, start, arguments, code, message):
    program = start("apps/bridge_mqtt.py", *arguments, "-u", url)
    assert program.process.wait(10) == code
    assert message in program.log()
    assert "Traceback" not in program.log()


@pytest.mark.parametrize("address", ["mqtt://x:99999", "mqtt://[::1", "mqtt://a..b", "mqtt://", "unix://x/y", "mqtt:x"])
def test_wrong_addresses(address):
    with pytest.raises(ServerSetupError, match="expected mqtt://host:port"):
        place(address)


def test_topics():
    assert topic_of("a/{namespace}/b/{record}", "", "X") == "a/b/X"
    assert topic_of("{namespace}-{record}", "usv1", "X") == "usv1-X"
    assert selected(["A", "B"], ["B", "*"]) == ["A", "B"]


RECORD = parse_record(
    "R", [["ts", 0.0], ["sender", ""], ["f", 0.0], ["i", 0], ["b", False], ["s", ""], ["l", []], ["o", {}]]
)


@given(
    st.floats(0, 1e10),
    st.tuples(
        st.floats(allow_nan=False), st.integers(), st.booleans(), st.text(), st.lists(st.integers()),
        st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    ),
)  # fmt: skip
def test_what_goes_out_can_come_in(ts, values):
    trame = RECORD.trame(ts, "X", *values)
    found = understood(message(Update(RECORD, trame, False), "b"), retained=True)
    back = [float(each) if isinstance(own, float) else each for each, own in zip(found["values"].values(), values)]
    assert (found["ts"], back) == (ts, list(values))


def test_other_payloads_are_named():
    with pytest.raises(ValueError, match="Expecting value"):
        understood(b"on", False)
    assert understood(json.dumps({"values": {"a": 1}}).encode(), False) == {"values": {"a": 1}}
