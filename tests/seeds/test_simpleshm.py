"""The examples of the SimpleSHM document, as they stand there but for the import lines."""

import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from programs import Program
from servers import OwnServer, free_port
from shareddata import DataDict, Datadict, FieldError, NotInitialized, SharedMemory

DESCRIPTION = """
{
    "PUPITRE__joyleft": [
        [ "ts", 0.0 ],
        [ "sender", "blip" ],
        [ "axe_horizontal", 0 ],
        [ "axe_vertical", 0 ],
        [ "rotation", 0 ],
        [ "bouton", false ]
    ],
    "BATTERY__command": [ [ "ts", 0.0 ], [ "sender", "" ], [ "command", "" ] ],
    "BATTERY__status": [ [ "ts", 0.0 ], [ "sender", "" ], [ "charging", false ] ],
    "BATTERY__measures": [ [ "ts", 0.0 ], [ "sender", "" ], [ "voltage", 0.0 ], [ "current", 0.0 ] ],
    "BATTERY__alarms": [ [ "ts", 0.0 ], [ "sender", "" ], [ "alarms", [] ] ],
    "DATA1": [ [ "ts", 0.0 ], [ "sender", "" ], [ "x", 0 ] ],
    "DATA2": [ [ "ts", 0.0 ], [ "sender", "" ], [ "x", 0 ] ],
    "DATA3": [ [ "ts", 0.0 ], [ "sender", "" ], [ "x", 0 ] ]
}
"""


@pytest.fixture(autouse=True)
def _environment(url: str, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the document: a description in the folder, `INIT_MSG` exported; and where the server is."""
    monkeypatch.chdir(short_path)
    monkeypatch.setenv("INIT_MSG", "SPARTAN_INIT")
    monkeypatch.setenv("SHAREDDATA_URL", url)
    Path("datadesc.json").write_text(DESCRIPTION)


@pytest.fixture
def ddict() -> Iterator[DataDict]:
    """Initialise the shared memory, and access it in the first of the document's two ways."""
    shm_conx = SharedMemory()
    shm_conx.init("datadesc.json", flag="SPARTAN_INIT")
    yield Datadict("APP_NAME", shm_conx)
    shm_conx.close()


def test_initialising_from_the_command_line() -> None:
    command = [sys.executable, "-m", "shareddata", "-i", "INIT_MSG", "datadesc.json"]
    with SharedMemory() as shm:
        shm.env_init = "INIT_MSG"
        with pytest.raises(NotInitialized, match="python -m shareddata -i INIT_MSG"):
            shm.wait_for_init(0)
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")
        shm.wait_for_init(0)
        assert [field.name for field in shm.describe("PUPITRE__joyleft").fields] == [
            "ts", "sender", "axe_horizontal", "axe_vertical", "rotation", "bouton"
        ]
        with Datadict("APP_NAME", shm) as dd:
            dd.set_datas_to_read(["PUPITRE__joyleft"])
            (trame,) = dd.next()
            assert trame == (0.0, "blip", 0, 0, 0, False)
            assert trame.bouton is False and trame.sender == "blip"


def test_access_to_the_shared_memory() -> None:
    shm_conx = SharedMemory()
    ddict = Datadict("APP_NAME", shm_conx)
    assert Datadict is DataDict
    assert ddict.app_name == "APP_NAME"
    shm_conx.close()


def test_access_with_host_port_and_the_name_of_the_variable(own_server: Callable[..., OwnServer]) -> None:
    server = own_server(port=free_port())
    redis_server, redis_port, env_init, app_name = "localhost", server.port, "INIT_MSG", "HDL_BATTERY"
    with SharedMemory(redis_server, redis_port) as shm:
        shm.init("datadesc.json", flag="SPARTAN_INIT")
    with SharedMemory(redis_server, redis_port, env_init) as shm:
        dd = DataDict(app_name, shm)
        dd.set_datas_to_read(["BATTERY__command"])
        assert dd.next() == [None]


def test_declaring_data(ddict: DataDict) -> None:
    dd = ddict
    dd.set_datas_to_read(["BATTERY__command"])
    shm_status, shm_measures, shm_alarms = dd.set_datas_to_write(
        ["BATTERY__status", "BATTERY__measures", "BATTERY__alarms"]
    )
    (cmd_data,) = ddict.set_datas_to_write(["BATTERY__command"])
    shm_status.set(True)
    shm_measures.set(12.5, -3)
    shm_alarms.set(["low voltage"])
    cmd_data.set("acknowledge", ts=time.time())
    assert dd.flush() == 4
    dd.set_datas_to_read(["BATTERY__status", "BATTERY__measures", "BATTERY__alarms"])
    command, status, measures, alarms = dd.next()
    assert command.command == "acknowledge"
    assert (status.charging, measures.voltage, measures.current, alarms.alarms) == (True, 12.5, -3.0, ["low voltage"])


def test_reading_again_and_again(ddict: DataDict) -> None:
    dd = ddict
    dd.set_datas_to_read(["DATA1", "DATA2", "DATA3"])
    datas = dd.set_datas_to_write(["DATA1", "DATA2", "DATA3"])
    for data, value in zip(datas, (1, 2, 3)):
        data.set(value)
    dd.flush()
    for step, (trame1, trame2, trame3) in enumerate(dd):
        assert (trame1.x, trame2.x, trame3.x) == (1, 2, 3)
        if step == 100:
            break
    trame1, trame2, trame3 = dd.next()
    assert (trame1.x, trame2.x, trame3.x) == (1, 2, 3)
    assert isinstance(dd.next(), list)


def test_waiting_for_the_first_of_a_group(ddict: DataDict) -> None:
    dd = ddict
    data_listen = dd.listen_to_datas(["DATA1", "DATA2", "DATA3"])

    def write() -> None:
        with SharedMemory() as shm, DataDict("OTHER", shm) as other:
            data1, data2, data3 = other.set_datas_to_write(["DATA1", "DATA2", "DATA3"])
            data2.set(2)
            data3.set(3)
            other.flush()
            data1.set(1)
            other.flush()

    writer = threading.Thread(target=write)
    writer.start()
    for trame1, trame2, trame3 in data_listen:
        assert (trame1.x, trame2.x, trame3.x) == (1, 2, 3)
        break
    writer.join()


def test_waiting_for_one_gives_a_list_too(ddict: DataDict) -> None:
    dd = ddict
    data_listen = dd.listen_to_datas(["DATA1"], timeout=5)
    (data1,) = dd.set_datas_to_write(["DATA1"])
    data1.set(7)
    dd.flush()
    trames = next(data_listen)
    assert isinstance(trames, list) and [trame.x for trame in trames] == [7]


def test_time_and_sender(ddict: DataDict) -> None:
    """Given as keywords, or assigned to the Data before."""
    (cmd_data,) = ddict.set_datas_to_write(["BATTERY__command"])
    ddict.set_datas_to_read(["BATTERY__command"])
    ts = time.time()
    cmd_data.set("acknowledge", ts=ts)
    ddict.flush()
    assert ddict.next() == [(ts, "APP_NAME", "acknowledge")]
    cmd_data.ts, cmd_data.sender = 5.5, "somebody"
    cmd_data.set("acknowledge")
    ddict.flush()
    assert ddict.next() == [(5.5, "somebody", "acknowledge")]
    cmd_data.set("acknowledge", ts=6, sender="another")
    ddict.flush()
    assert ddict.next() == [(6.0, "another", "acknowledge")]
    with pytest.raises(FieldError, match="BATTERY__command"):
        cmd_data.set("acknowledge", 5)


def test_nothing_is_written_before_flush(ddict: DataDict) -> None:
    dd = ddict
    data1, data2 = dd.set_datas_to_write(["DATA1", "DATA2"])
    dd.set_datas_to_read(["DATA1", "DATA2"])
    data1.set(1)
    data2.set(2)
    assert dd.next() == [None, None]
    dd.flush()
    assert [trame.x for trame in dd.next()] == [1, 2]


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_log_files(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each written record, one row for each `set`, closed by the context manager."""
    monkeypatch.setenv("LOGDIR", str(short_path / "log"))
    with SharedMemory() as shm:
        shm.init("datadesc.json")
        dd = DataDict("HDL_BATTERY", shm)
        dd.set_datas_to_read(["DATA1"])
        measures, command = dd.set_datas_to_write(["BATTERY__measures", "BATTERY__command"])
        for voltage in (12.5, 12.25, 12.0):
            measures.set(voltage, 1, ts=voltage)
        command.set("it's, \"quoted\"\nand long", ts=1.0)
        (path,) = (short_path / "log").glob("*_HDL_BATTERY_BATTERY__measures.csv")
        expected = [["ts", "sender", "voltage", "current"]] + [
            [str(voltage), "HDL_BATTERY", str(voltage), "1"] for voltage in (12.5, 12.25, 12.0)
        ]
        assert [row[:3] for row in rows(path)] == [row[:3] for row in expected], "on disk line by line, before flush"
        dd.flush()
        measures.set(11.5, 1, ts=11.5)
    assert len(rows(path)) == 5
    time.strptime(path.name[:21], "%Y-%m-%d_%Hh%Mm%SsZ")
    (other,) = (short_path / "log").glob("*_BATTERY__command.csv")
    assert rows(other)[1][2] == "it's, \"quoted\"\nand long"
    assert not list((short_path / "log").glob("*DATA1*"))
    assert "fields" in json.dumps(json.loads(path.with_suffix(".json").read_text()))


@pytest.mark.parametrize("logdir", ["", None])
def test_no_log_files(short_path: Path, monkeypatch: pytest.MonkeyPatch, logdir: str | None) -> None:
    """`LOGDIR=''` or none at all."""
    if logdir is None:
        monkeypatch.delenv("LOGDIR", raising=False)
    else:
        monkeypatch.setenv("LOGDIR", logdir)
    with SharedMemory() as shm:
        shm.init("datadesc.json")
        dd = DataDict("APP_NAME", shm)
        (data1,) = dd.set_datas_to_write(["DATA1"])
        data1.set(1)
        assert dd.flush() == 1
    assert [path.name for path in short_path.rglob("*")] == ["datadesc.json"]


def test_two_applications(program: Callable[..., Program]) -> None:
    """A joystick in one program, who reads it in another: each waits until the memory is initialised."""
    joystick = program(
        """
        with SharedMemory(env_init="INIT_MSG") as shm:
            dd = DataDict("PUPITRE", shm)
            joyleft, = dd.set_datas_to_write(["PUPITRE__joyleft"])
            sys.stdin.readline()
            for position in range(100):
                joyleft.set(position, -position, 0, position % 2 == 1)
                dd.flush()
            say("done")
        """
    )
    reader = program(
        """
        with SharedMemory(env_init="INIT_MSG") as shm:
            dd = Datadict("READER", shm)
            data_listen = dd.listen_to_datas(["PUPITRE__joyleft"])
            say("listening")
            for joyleft, in data_listen:
                assert joyleft.sender == "PUPITRE"
                assert joyleft.axe_vertical == -joyleft.axe_horizontal
                assert joyleft.bouton is (joyleft.axe_horizontal % 2 == 1)
                if joyleft.axe_horizontal == 99:
                    break
            say("end")
        """
    )
    with SharedMemory() as shm:
        shm.init("datadesc.json", flag="SPARTAN_INIT")
    assert reader.line() == "listening"
    joystick.tell("go")
    assert joystick.finish() == ["done"]
    assert reader.finish() == ["end"]
