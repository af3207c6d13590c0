"""The bridge to HEROS, as a real process in an environment of its own, with real HEROs as its peers.

heros needs another cbor2 than the tests: `scripts/test` makes `.venv/heros` beside `.venv/test`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servers import empty, free_port
from shareddata import DataDict, SharedMemory

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "heros" / "bin" / "python"
if not PYTHON.exists() or subprocess.run([PYTHON, "-c", "import heros"], capture_output=True).returncode:
    pytest.skip("heros is not installed in .venv/heros: scripts/test makes it", allow_module_level=True)

DESCRIPTION = {
    "LASER__measures": [["ts", 0.0], ["sender", ""], ["power", 0.0, {"unit": "W", "max": 2}], ["pixels", [], {}]],
    "LASER__command": [["ts", 0.0], ["sender", ""], ["target", 0.5, {"max": 2, "on_limit": "refuse"}], ["on", False]],
    "BRIDGE__heros": [
        ["ts", 0.0], ["sender", ""],
        *([name, 0] for name in ["sent", "replaced", "missed", "returned", "received", "written", "known", "refused"]),
    ],
}  # fmt: skip

# A peer: takes orders as lines of JSON, prints what it hears as lines of JSON.
PEER = """
import json, sys
import heros, heros.heros

class Camera(heros.LocalHERO):
    @heros.event
    def acquisition_data(self, data):
        return data

camera = Camera("camera")
observer = heros.heros.EventObserver("shareddata", "updated")
observer.register_callback(lambda name, data: print(json.dumps(["heard", name, data]), flush=True))
remote = None
print(json.dumps(["ready"]), flush=True)
for line in sys.stdin:
    order, *arguments = json.loads(line)
    if order == "emit":
        camera.acquisition_data(*arguments)
        print(json.dumps(["emitted"]), flush=True)
    else:
        remote = remote or heros.RemoteHERO("shareddata")
        print(json.dumps([order, getattr(remote, order)(*arguments)]), flush=True)
observer._destroy_hero()
camera._destroy_hero()
"""


class Peer:
    """HEROs in a process of their own."""

    def __init__(self, environment, folder):
        self.out = folder / "peer.out"
        with self.out.open("w") as out, (folder / "peer.log").open("w") as log:
            command = [PYTHON, "-c", PEER]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=log, text=True, env={**os.environ, **environment}
            )

    def told(self, what):
        lines = self.out.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n") and line.startswith("[")]
        return [each[1:] for each in found if each[0] == what]

    def ask(self, *order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def url(servers):
    """One kind of server is enough here."""
    empty(servers["valkey"].url)
    return servers["valkey"].url


@pytest.fixture
def environments():
    """Return what the bridge and its peer need to find each other, and nobody else."""
    port = free_port()
    common = {"mode": "peer", "scouting": {"multicast": {"enabled": False}}}
    one = {**common, "listen": {"endpoints": [f"tcp/127.0.0.1:{port}"]}}
    other = {
        **common,
        "listen": {"endpoints": []},
        "connect": {
            "endpoints": [f"tcp/127.0.0.1:{port}"],
            "timeout_ms": -1,
            "exit_on_failure": False,
            "retry": {"period_init_ms": 100, "period_max_ms": 500},
        },
    }
    return [{"HEROS_ZENOH_CONFIG": json.dumps(each)} for each in (one, other)]


@pytest.fixture
def peer(environments, tmp_path, eventually):
    made = Peer(environments[0], tmp_path)
    eventually(lambda: made.told("ready"), 15, (tmp_path / "peer.log").read_text)
    yield made
    made.close()


@pytest.fixture
def bridge(start, environments, monkeypatch):
    """Start the bridge: `bridge(url, *options)`."""
    monkeypatch.setattr(sys, "executable", str(PYTHON))

    def begin(url, *options):
        return start("apps/bridge_heros.py", *options, "-u", url, PYTHONPATH=str(ROOT), **environments[1])

    return begin


@pytest.fixture
def dd(shm):
    """A program that writes and reads the records."""
    shm.init(DESCRIPTION)
    with DataDict("HDL_LASER", shm) as made:
        made.set_datas_to_read(["LASER__command", "BRIDGE__heros"])
        made.measures, made.command = made.set_datas_to_write(["LASER__measures", "LASER__command"])
        yield made


def test_updates_are_events_and_commands_are_answered(dd, url, peer, bridge, eventually):
    dd.measures.set(0.5, [1, 2], ts=1000.5)
    dd.flush()
    program = bridge(url, "LASER__*", "--write", "LASER__command", "-a", "HEROS")
    eventually(lambda: dd.next()[1] and dd.next()[1].sent, 15)
    number = 0

    def reached():
        nonlocal number
        number += 1
        dd.measures.set(2.5, [number])
        dd.flush()
        return peer.told("heard")

    eventually(reached, 15, interval=0.1)
    eventually(lambda: peer.told("heard")[-1][1]["values"]["power"] == 2.5)
    name, update = peer.told("heard")[-1]
    assert (name, update["record"], update["sender"]) == ("shareddata", "LASER__measures", "HDL_LASER")
    assert update["units"] == {"power": "W"}
    assert update["values"]["power"] == 2.5 and update["out_of_limits"] == ["power"] and update["stale"] is False
    assert update["ts"] == pytest.approx(time.time(), abs=30)
    first = len(peer.told("heard"))
    for each in range(50):
        dd.measures.set(1.0, [f"in order {each}"])
        dd.flush()
    eventually(lambda: len(peer.told("heard")) >= first + 50)
    told = [each["values"]["pixels"][0] for _, each in peer.told("heard")]
    assert told[-50:] == [f"in order {each}" for each in range(50)]

    peer.ask("set", "LASER__command", {"target": 1.5})
    eventually(lambda: peer.told("set") == [[""]], 15)
    assert dd.next()[0][1:] == ("HEROS", 1.5, False)
    for wrong in ({"target": 3.0}, {"targets": 1.0}, "on"):
        peer.ask("set", "LASER__command", wrong)
    peer.ask("set", "LASER__measures", {"power": 1.0})
    eventually(lambda: len(peer.told("set")) == 5, 15)
    reasons = [each[0] for each in peer.told("set")[1:]]
    expected = ("out of limits", "has no field", "a dictionary of values", "may not be written")
    assert all(each in reason for each, reason in zip(expected, reasons, strict=True)), reasons
    peer.ask("get", "LASER__measures")
    eventually(lambda: peer.told("get") and peer.told("get")[0][0]["values"]["pixels"] == ["in order 49"], 10)
    eventually(lambda: dd.next()[1].returned == 1)
    assert [each for _, each in peer.told("heard") if each["record"] == "LASER__command"] == []
    assert program.end() == 0
    assert "Traceback" not in program.log()


@pytest.mark.timeout(60)
def test_events_of_heros_are_events_here_over_an_outage(own_server, peer, bridge, eventually):
    server = own_server()

    with SharedMemory(url=server.url) as shm:
        shm.init(DESCRIPTION)
        program = bridge(server.url, "--events", "*:acquisition_data")
        number = 0

        def archived():
            nonlocal number
            peer.ask("emit", [{"frame": number}, {"frame": number}])
            number += 1
            return shm.names() and server_has_events(server.url)

        eventually(archived, 20, interval=0.2)
        server.kill()
        for frame in range(1000, 1005):
            peer.ask("emit", [{"frame": frame}, {"frame": frame}])
        eventually(lambda: len(peer.told("emitted")) == number + 5, 10)
        server.restart()
        eventually(lambda: last_frame(server.url) == 1004, 20)
        assert program.end() == 0
        assert "Traceback" not in program.log()


def server_has_events(url):
    return last_frame(url) is not None


def last_frame(url):
    """Return the frame of the newest event, as another archiver would read it."""
    import cbor2

    from servers import plain_client

    with plain_client(url) as redis:
        keys = [key for key in redis.keys("*") if redis.type(key) == b"stream" and b"acquisition_data" in key]
        entries = [redis.xrevrange(key, count=1) for key in keys]
    found = [cbor2.loads(each[0][1][b"metadata"])["frame"] for each in entries if each]
    return found[0] if found else None


def test_what_is_wrong_is_said_at_the_start(dd, url, bridge):
    for options, code, message in [
        ([], 2, "name the records"),
        (["--events", "camera"], 2, "events are HERO:event, not camera"),
        (["LASER__m"], 1, "did you mean LASER__command or LASER__measures"),
    ]:
        program = bridge(url, *options)
        assert program.process.wait(15) == code
        assert message in program.log()
        assert "Traceback" not in program.log()
