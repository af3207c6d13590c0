"""Handlers as people run them: real processes on a pseudo-terminal, a real server; stopped, unplugged, killed under."""

import csv
import os
import re
import signal
from decimal import Decimal
from itertools import islice

import pynmea2
import pytest
from shareddata.apps import hdl_gps

from shareddata import DataDict, SharedMemory
from shareddata.serialline import NMEA

BVM = "victron-vedirect/bvm702.dump"
SOLAR = "victron-vedirect/bluesolar_1.23.dump"


@pytest.fixture
def tty(tmp_path):
    return tmp_path / "tty"


def blocks_in(data, first):
    """Read the blocks that begin with this label, in another way than the handler."""
    text = re.sub(rb"(?<!\r\nChecksum\t):[0-9A-F]+\n", b"", data)
    blocks = re.findall(rb"\r\n" + first + rb"\t.*?\r\nChecksum\t.", text, re.DOTALL)
    assert all(sum(block) % 256 == 0 for block in blocks)
    return [dict(re.findall(r"\r\n([^\t]+)\t([^\r]*)(?=\r)", block[:-1].decode())) for block in blocks]


def voltages(blocks):
    return [(float(Decimal(block["V"]) / 1000), float(Decimal(block["I"]) / 1000)) for block in blocks]


def history(shm, name):
    """Return all that a record's history holds."""
    with DataDict("READER", shm) as dd, dd.follow_data(name, since=0, timeout=0.02) as follower:
        return list(follower)


def latest(shm, name):
    """Return a record's trame, None when it was never written."""
    with DataDict("READER", shm) as dd:
        dd.set_datas_to_read([name])
        return dd.next()[0]


def count(shm, name, number):
    """Return a condition: so many trames are in a record's history."""

    def enough():
        with DataDict("READER", shm) as dd, dd.follow_data(name, since=0, timeout=0.02) as follower:
            return len(list(islice(follower, number))) == number

    return enough


def test_every_block_of_a_battery_monitor_is_in_the_history(
    described, url, start, tty, recordings, tmp_path, eventually
):
    start("scripts/play", recordings / BVM, "--speed", 0, "--link", tty)
    battery = start("apps/hdl_battery.py", "-s", tty, "-u", url, "-a", "HDL_BATTERY", LOGDIR=str(tmp_path / "logs"))
    expected = voltages(blocks_in((recordings / BVM).read_bytes(), b"PID"))
    eventually(count(described, "BATTERY__totals", 453), 15)
    measured = history(described, "BATTERY__measures")
    assert [(trame.voltage, trame.current) for trame in measured] == expected
    assert {trame.sender for trame in measured} == {"HDL_BATTERY"}
    assert [trame.ts for trame in measured] == sorted({trame.ts for trame in measured})
    assert len(history(described, "BATTERY__alarms")) == len(expected) == 453
    # The recording ends in the middle of a block, and the player pulls the cable.
    eventually(lambda: (latest(described, "BATTERY__status") or ())[3:] == (False, 906, 1))
    assert battery.end() == 0
    rows = {path.name.split("HDL_BATTERY_")[1]: path for path in (tmp_path / "logs").glob("*.csv")}
    with rows["BATTERY__measures.csv"].open() as file:
        assert [(float(row["voltage"]), float(row["current"])) for row in csv.DictReader(file)] == expected
    assert "SOLAR__measures.csv" not in rows


def test_every_block_of_a_solar_charger_is_in_the_history(described, url, start, tty, recordings, eventually):
    start("scripts/play", recordings / SOLAR, "--speed", 0, "--link", tty)
    start("apps/hdl_battery.py", "-s", tty, "-u", url, "-f", 50)
    eventually(count(described, "SOLAR__measures", 248), 15)
    measured = [(trame.voltage, trame.current) for trame in history(described, "SOLAR__measures")]
    assert measured == voltages(blocks_in((recordings / SOLAR).read_bytes(), b"PID"))
    # The recording begins with the end of a block.
    eventually(lambda: (latest(described, "SOLAR__status") or ())[4:] == (248, 1))
    assert history(described, "BATTERY__measures") == []


@pytest.mark.parametrize("log", ["gpsd/ublox-8.log", "gpsd/humminbird-M37.log"])
def test_every_position_of_a_gps_is_in_the_history(described, url, start, tty, recordings, eventually, log):
    lines = (recordings / log).read_bytes().decode("latin-1").split("\n")
    positions = [line for line in lines if re.search(r"\$..(GGA|RMC|GLL|GNS),.*\*..\r?$", line)]
    told = [pynmea2.parse(line[line.rfind("$"):]) for line in positions]
    start("scripts/play", recordings / log, "--speed", 0, "--link", tty)
    gps = start("apps/hdl_gps.py", "-s", tty, "-u", url, "-a", "HDL_GPS", "-b", 9600)
    eventually(count(described, "GPS__position", len(told)), 15)
    trames = history(described, "GPS__position")
    assert [(trame.latitude, trame.longitude) for trame in trames] == [
        (pytest.approx(each.latitude), pytest.approx(each.longitude)) for each in told
    ]
    assert [trame.sentence for trame in trames] == [each.talker + each.sentence_type for each in told]
    assert gps.end(signal.SIGINT) == 0


def test_an_order_acknowledges_the_alarms_that_are_on(described, url, start, tty, tmp_path, eventually):
    body = b"\r\nPID\t0x203\r\nV\t10400\r\nAlarm\tON\r\nAR\t5\r\nRelay\tON\r\nChecksum\t"
    recording = tmp_path / "alarm.dump"
    recording.write_bytes(body + bytes([-sum(body) % 256]))
    start("apps/hdl_battery.py", "-s", recording, "-u", url, "-f", 50)
    with DataDict("CAPTAIN", described) as dd:
        (command,) = dd.set_datas_to_write(["BATTERY__command"])
        dd.set_datas_to_read(["BATTERY__alarms"])
        alarms = eventually(lambda: dd.next()[0])
        assert (alarms.alarm, alarms.reasons) == (True, ["low voltage", "low state of charge"])
        assert not alarms.acknowledged
        command.set("acknowledge")
        dd.flush()
        eventually(lambda: dd.next()[0].acknowledged)


def test_an_unplugged_cable_is_waited_for(described, url, start, tty, recordings, eventually):
    battery = start("apps/hdl_battery.py", "-s", tty, "-u", url, "-f", 50)
    eventually(lambda: battery.log("no line"))
    first = start("scripts/play", recordings / BVM, "--speed", 20, "--link", tty)
    eventually(count(described, "BATTERY__measures", 5), 15)
    first.process.kill()
    tty.unlink()  # else it may soon lead to somebody else's terminal
    eventually(lambda: (seen := latest(described, "BATTERY__status")) and not seen.connected)
    before = len(history(described, "BATTERY__measures"))
    start("scripts/play", recordings / BVM, "--speed", 20, "--link", tty)
    eventually(count(described, "BATTERY__measures", before + 5), 15)
    status = eventually(lambda: (seen := latest(described, "BATTERY__status")).connected and seen)
    assert status.dropped <= 1, "the block that was interrupted"
    said = re.findall(r"no line|is back", battery.log())
    assert said == ["no line", "is back", "no line", "is back"]
    assert battery.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("app", ["hdl_battery", "hdl_gps", "hdl_host"])
def test_it_stops_cleanly(described, url, start, tty, app, number, eventually):
    line = [] if app == "hdl_host" else ["-s", tty]
    program = start(f"apps/{app}.py", *line, "-u", url, "-do-debug")
    eventually(lambda: program.log("no line") or (app == "hdl_host" and latest(described, "HOST__memory")))
    assert program.end(number) == 0
    assert "Traceback" not in program.log()


def test_it_goes_on_when_the_server_is_killed_and_comes_back(own_server, start, tty, recordings, tmp_path, eventually):
    server = own_server(fsync="always")
    with SharedMemory(url=server.url) as shm:
        shm.init(recordings.parents[1] / "datadesc" / "battery.json")
        start("scripts/play", recordings / BVM, "--speed", 10, "--link", tty)
        battery = start("apps/hdl_battery.py", "-s", tty, "-u", server.url, "-a", "B", LOGDIR=str(tmp_path / "logs"))
        eventually(count(shm, "BATTERY__measures", 10), 15)
        with DataDict("READER", shm) as dd, dd.follow_data("BATTERY__measures", since=0) as follower:
            before = list(islice(follower, 10))
        server.kill()
        eventually(lambda: battery.log("the server takes nothing"))
        (log,) = (tmp_path / "logs").glob("*BATTERY__measures.csv")
        rows = len(log.read_text().splitlines())
        eventually(lambda: len(log.read_text().splitlines()) > rows + 10, message="rows while the server is away")
        server.start()
        eventually(lambda: battery.log("the server is back after"), 10)
        eventually(count(shm, "BATTERY__measures", len(before) + 10), 15)
        assert battery.end() == 0
        trames = history(shm, "BATTERY__measures")
        assert repr(trames[: len(before)]) == repr(before), "nothing that was acknowledged is lost"  # NaN is not NaN
        assert len({trame.ts for trame in trames}) == len(trames), "nothing is there twice"
        assert len(re.findall("the server takes nothing|the server is back after", battery.log())) == 2
        with log.open() as file:
            logged = [(float(row["voltage"]), float(row["current"])) for row in csv.DictReader(file)]
        expected = voltages(blocks_in((recordings / BVM).read_bytes(), b"PID"))
        assert logged == expected[: len(logged)], "the CSV log has each block"
        assert len(logged) >= len(trames)


def test_it_comes_back_over_a_slow_link_that_was_silent(own_server, proxy, start, recordings, eventually):
    link = proxy(own_server().url)
    with SharedMemory(url=link.url) as shm:
        shm.init(recordings.parents[1] / "datadesc" / "host.json")
        link.latency = 0.1
        host = start("apps/hdl_host.py", "-u", link.url, "-f", 10, "-do-debug")
        eventually(lambda: latest(shm, "HOST__memory"))
        link.swallow()
        eventually(lambda: host.log("the server takes nothing"), 10)
        link.heal()
        link.latency = 0.1
        eventually(lambda: host.log("the server is back after"), 10)
        before = latest(shm, "HOST__memory")
        eventually(lambda: latest(shm, "HOST__memory").ts > before.ts)
        assert host.end() == 0


def test_a_namespace_and_a_name_with_slashes_are_taken(server, start, recordings, tmp_path, eventually):
    with SharedMemory(url=server.url, namespace="usv1") as shm:
        shm.init(recordings.parents[1] / "datadesc" / "host.json")
        host = start("apps/hdl_host.py", "-u", server.url, "-n", "usv1", "-a", "./hdl_host.py", LOGDIR=str(tmp_path))
        assert eventually(lambda: latest(shm, "HOST__memory")).sender == "./hdl_host.py"
        assert host.end() == 0
    assert len(list(tmp_path.glob("*HOST__memory.csv"))) == 1


def test_it_goes_on_when_the_description_lacks_records(shm, url, start, tty, recordings, eventually):
    described = {
        name: [["ts", 0.0], ["sender", ""], *fields]
        for name, fields in {
            "GPS__position": [["valid", False], ["latitude", 0.0], ["longitude", 0.0], ["utc", 0.0], ["sentence", ""]]
        }.items()
    }
    shm.init(described)
    start("scripts/play", recordings / "gpsd/sounder.log", "--speed", 0, "--link", tty)
    gps = start("apps/hdl_gps.py", "-s", tty, "-u", url)
    positions = [each for each in NMEA().feed((recordings / "gpsd/sounder.log").read_bytes()) if "ECGLL" in each[0]]
    eventually(count(shm, "GPS__position", len(positions)), 15)
    assert "not described, so not written: GPS__status" in gps.log()
    assert hdl_gps.decode(positions[-1])["GPS__position"]["latitude"] == history(shm, "GPS__position")[-1].latitude


def test_the_machine_is_measured(described, url, start, eventually):
    host = start("apps/hdl_host.py", "-u", url, "-f", 20, "-a", "HDL_HOST")
    names = ["HOST__load", "HOST__memory", "HOST__disks", "HOST__network", "HOST__temperatures"]
    with DataDict("READER", described) as dd:
        dd.set_datas_to_read(names)
        trames = eventually(lambda: all(dd.next()) and dd.next())
    load, memory, disks, network, temperatures = trames
    assert len({trame.ts for trame in trames}) == 1, "all of one time"
    assert load.cpus == os.cpu_count()
    assert load.load_1min == pytest.approx(os.getloadavg()[0], abs=1)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.total == pytest.approx(pages, rel=0.01)
    assert 0 < memory.used < 1
    assert set(disks.free) == set(disks.total)
    assert network.received >= 0
    assert "lo" not in network.up
    assert isinstance(temperatures.sensors, dict)
    assert host.end() == 0
