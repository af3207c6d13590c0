"""`shareddata sensor`: listing, values, watching, snapshots, removing."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from programs import Program
from sensing import keys
from servers import plain_client
from shareddata import SharedMemory, cli
from shareddata.sensors import SensorWriter, pack_to_zip, read
from waiting import eventually

Said = tuple[int, str, str]
Call = Callable[..., Said]


@pytest.fixture
def call(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call `shareddata sensor` in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("SHAREDDATA_URL", url)

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit, check=lambda _: True) as ended:
            cli.main(["sensor", *map(str, arguments)])
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def writer(shm: SharedMemory) -> SensorWriter:
    writer = SensorWriter("camera", "front", shm)
    writer.write("exposure", 0.02)
    writer.write("image", np.arange(100_000, dtype="u2").reshape(250, 400))
    writer.write("pose", {"x": 1.5, "axis": {"name": "z\x1b[2J"}})
    writer.write("raw", bytes(20))
    pack_to_zip(["exposure", "pose"], writer.data_path)
    return writer


RUN = """
from shareddata import cli
cli.main(sys.argv[1:])
"""


def test_list(writer: SensorWriter, shm: SharedMemory, call: Call) -> None:
    SensorWriter("imu", ".", shm).write("gyro", [1, 2, 3])
    code, out, _ = call("list")
    title, camera, imu = (re.split(r"\s{2,}", line.replace(" s  ", "s  ")) for line in out.splitlines())
    assert code == 0 and title == ["SENSOR", "WRITTEN", "KEPT", "PACKED", "VALUES"]
    assert camera[0] == "camera/front" and camera[2:] == [
        *("4", "measurement", "exposure, image, pose/axis/name, pose/x, raw"),
    ]
    assert imu[0] == "imu" and imu[2:] == ["1", "-", "gyro"]
    found = json.loads(call("list", "--json")[1])
    assert [each["name"] for each in found] == ["camera/front", "imu"]
    assert found[0]["values"] == ["exposure", "image", "pose/axis/name", "pose/x", "raw"]
    assert found[0]["packed"] == ["measurement"] and found[0]["kept"] == 4 and found[0]["written"] > 0


def test_list_where_there_is_none(call: Call) -> None:
    code, out, err = call("list")
    assert (code, out) == (0, "") and "there is no sensor" in err
    assert call("list", "--json")[1] == "[]\n"


def test_get(writer: SensorWriter, call: Call) -> None:
    code, out, _ = call("get", "camera/front")
    assert (code, out.splitlines()) == (
        0,
        [
            "exposure = 0.02",
            "image = uint16 array of 250 x 400: 0 1 2 3 ...",
            "pose/axis/name = 'z\\x1b[2J'",
            "pose/x = 1.5",
            f"raw = 20 bytes: {' '.join(['00'] * 16)} ...",
        ],
    )
    assert call("get", "camera", "pose/x", "exposure")[1] == "pose/x = 1.5\nexposure = 0.02\n"
    found = json.loads(call("get", "--json", "camera/front", "pose", "raw")[1])
    assert found == {"pose": {"x": 1.5, "axis": {"name": "z\x1b[2J"}}, "raw": "00" * 20}
    assert json.loads(call("get", "--json", "camera", "image")[1])["image"][1][:2] == [400, 401]
    assert json.loads(call("get", "--json", "camera", "measurement")[1])["measurement"]["exposure"] == 0.02


def test_json_is_strict(shm: SharedMemory, call: Call) -> None:
    values = {"nan": float("nan"), "inf": np.array([1.0, -np.inf]), "when": {1, 2}, "n": [None, True]}
    SensorWriter("a", "b", shm).write(".", values)
    found = json.loads(call("get", "--json", "a/b")[1], parse_constant=pytest.fail)
    assert found == {"nan": "NaN", "inf": [1.0, "-Infinity"], "when": [1, 2], "n": [None, True]}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["get", "camera/rear"], 1, "sensor camera/rear at .*: found no sensor: .*did you mean 'camera/front'"),
        (["get", "camera", "expsure"], 1, "no value 'expsure' was written: did you mean 'exposure'"),
        (["get", "../x"], 1, "leads elsewhere"),
        (["get"], 2, "get which sensor"),
        (["list", "x"], 2, "list takes no name"),
        (["snapshot", "camera"], 2, "snapshot takes a sensor and a folder"),
        (["snapshot", "camera", "nowhere"], 1, "nowhere: there is no such folder"),
        (["snapshot", "-z", "11", "camera", "."], 1, "compresslevel 11"),
        (["grow"], 2, "invalid choice"),
    ],
)
def test_mistakes_are_told_in_one_line(
    writer: SensorWriter, call: Call, arguments: list[str], code: int, says: str
) -> None:
    found, _, err = call(*arguments)
    assert found == code and re.search(says, err), err
    assert code == 2 or len(err.splitlines()) == 1


def test_remove(writer: SensorWriter, shm: SharedMemory, call: Call) -> None:
    assert call("rm", "camera/front") == (0, "camera/front: removed\n", "")
    assert keys(shm) == []
    assert call("rm", "camera/front", "x") == (
        1,
        "",
        "camera/front: there is no such sensor\nx: there is no such sensor\n",
    )


def test_watch(writer: SensorWriter, call: Call, program: Callable[..., Program], url: str) -> None:
    environment = {"SHAREDDATA_URL": url}
    one = program(RUN, "sensor", "watch", "--json", "-c", 3, "camera", "exposure", "pose/x", env=environment)
    two = program(RUN, "sensor", "watch", "-c", 4, "camera/front", env=environment)
    with plain_client(url) as client:
        eventually(lambda: sum(each["cmd"] == "xread" for each in client.client_list()) == 2)
    writer.write("exposure", 1)
    writer.write("raw", b"ab")
    writer.write("pose", {"x": 2, "y": 3})
    writer.write("exposure", np.array([True]))
    assert one.finish() == ['{"exposure": 1}', '{"pose/x": 2}', '{"exposure": [true]}']
    lines = [line.split("  ", 1)[1] for line in two.finish()]
    assert lines[:4] == ["exposure = 1", "raw = 2 bytes: 61 62", "pose/x = 2", "pose/y = 3"]
    assert lines[4:] == ["exposure = bool array of 1: True"]


def test_snapshot(writer: SensorWriter, call: Call, tmp_path: Path) -> None:
    code, out, _ = call("snapshot", "camera/front", tmp_path)
    assert code == 0 and read(out.strip())["exposure"] == 0.02
    assert Path(out.strip()).parent == tmp_path


def test_snapshots_of_each_pack(
    writer: SensorWriter, program: Callable[..., Program], url: str, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    arguments = ("sensor", "snapshot", "--follow", "-c", 5, "-z", 9, "camera", dataset)
    follows = program(RUN, *arguments, env={"SHAREDDATA_URL": url})
    with plain_client(url) as client:
        eventually(lambda: any(each["cmd"] == "xread" for each in client.client_list()))
    for number in range(5):
        writer.write("exposure", number)
        pack_to_zip(["exposure"], writer.data_path)
    assert follows.finish() == [f"{dataset}: 5 snapshots"]
    assert sorted(read(path)["exposure"] for path in dataset.iterdir()) == list(range(5))
