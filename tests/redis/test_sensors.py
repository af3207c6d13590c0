"""Sensors: writing, reading, packing, removing; over a unix socket and over TCP."""

import copy
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from programs import Program
from sensing import files, keys, large_keys, references
from servers import OwnServer, free_port, plain_client
from shareddata import DescriptionError, FieldError, SensorNotInitializedError, ServerRefused, SharedMemory, sensors
from shareddata.errors import DecodeError
from shareddata.sensors import SensorReader, SensorWriter, pack_to_zip
from shareddata.server import Server
from waiting import eventually

BIG = np.arange(100_000, dtype="u2").reshape(250, 400)


@pytest.fixture(params=["unix", "tcp"])
def shm(
    request: pytest.FixtureRequest, kind: str, url: str, own_server: Callable[..., OwnServer]
) -> Iterator[SharedMemory]:
    address = url if request.param == "unix" else own_server(kind, port=free_port()).tcp_url
    with SharedMemory(url=address) as memory:
        yield memory


@pytest.fixture
def writer(shm: SharedMemory) -> SensorWriter:
    return SensorWriter("camera", "front", shm)


VALUES: dict[str, Any] = {
    "int": 5,
    "huge": 2**70,
    "float": -0.1,
    "text": "gr\u00fc\u00df",
    "none": None,
    "yes": True,
    "data": b"\0\xff",
    "list": [1, "a", None, [2.5]],
    "pose": {"x": 1.5, "axis": {"name": "z", "up": True}},
    "empty": {},
    "look_alike": b"@file:x/y",
}


def test_every_kind_of_value_is_read_as_it_was_written(shm: SharedMemory, writer: SensorWriter) -> None:
    for name, value in VALUES.items():
        writer.write(name, value)
    reader = SensorReader("camera", "front", shm)
    for name, value in VALUES.items():
        found = reader.get_data(name)
        assert found == value and type(found) is type(value)
        assert getattr(reader, name) == value
    assert reader.get_data() == VALUES
    assert reader.get_data("pose/axis/name") == "z" and reader.get_data("pose/axis") == {"name": "z", "up": True}


@pytest.mark.parametrize("array", [BIG, BIG[:3, :2], np.array([1.5, np.nan]), np.zeros((3_000_000,), "u1")])
def test_arrays_small_and_large(shm: SharedMemory, writer: SensorWriter, array: np.ndarray) -> None:
    writer.write("image", array)
    writer.write("both", {"image": array, "at": 5.0})
    reader = SensorReader("camera", "front", shm)
    both, whole = reader.get_data("both"), reader.get_data()
    for found in (reader.image, both["image"], reader.get_data("both/image"), whole["image"], whole["both"]["image"]):
        assert found.dtype == array.dtype and np.array_equal(found, array, equal_nan=array.dtype.kind == "f")
        assert not found.flags.writeable
    assert len(files(shm)) == references(shm)
    assert bool(files(shm)) == (shm.address.socket_path is not None and array.nbytes > 65536)


def test_attributes_are_always_live(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("number", 0)
    reader = SensorReader("camera", "front", shm)
    for number in range(5):
        writer.write("number", number)
        assert reader.number == number
    writer.write("later", "a value that was not there when the reader was made")
    assert reader.later.startswith("a value")


def test_attributes_of_names_with_blanks_and_dots(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("wheel speed.left", 3)
    reader = SensorReader("camera", "front", shm)
    assert reader.wheel_speed_left == 3 and reader.get_data("wheel speed.left") == 3
    assert reader.attributes == ["wheel_speed_left", "attributes"]


def test_what_there_is_is_listed(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("number", 1)
    reader = SensorReader("camera", "front", shm)
    assert reader.attributes == ["number", "attributes"]
    writer.write("pose", {"x": 1, "y": 2}, {"unit": "m"})
    pack_to_zip(["number"], writer.data_path)
    pack_to_zip(["number"], writer.data_path, zipname="metadata")
    assert reader.attributes == ["number", "attributes"]
    reader.update_attributes()
    assert reader.attributes == ["number", "pose", "pose_attr", "attributes", "measurement", "metadata"]
    assert {"number", "pose", "measurement", "get_data"} <= set(dir(reader))


def test_what_is_not_there(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("number", 1)
    reader = SensorReader("camera", "front", shm)
    with pytest.raises(AttributeError, match="sensor camera/front at .*: no value 'nmber' was written: did you mean"):
        _ = reader.nmber
    with pytest.raises(SensorNotInitializedError, match="no value 'nmber' was written: did you mean 'number'"):
        reader.get_data("nmber")
    with pytest.raises(FileNotFoundError, match="no value 'number/x' was written"):
        reader.get_data("number/x")
    for name in ("measurement", "metadata"):
        assert not hasattr(reader, name)
        with pytest.raises(SensorNotInitializedError, match=f"nothing was packed as '{name}'.*pack_to_zip first"):
            reader.get_data(name)
    with pytest.raises(AttributeError, match="_private"):
        _ = reader._private


def test_attributes_of_a_value(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("voltage", 12.5, {"unit": "V", "range": [0, 60]})
    reader = SensorReader("camera", "front", shm)
    assert reader.voltage_attr == {"unit": "V", "range": [0, 60]} and reader.get_data("voltage_attr/unit") == "V"
    writer.write("voltage", 12.6, {"unit": "mV"})
    assert reader.voltage_attr == {"unit": "mV"}


def test_a_dictionary_replaces_the_one_before_whole(shm: SharedMemory, writer: SensorWriter) -> None:
    def values_of() -> Any:
        return SensorReader("camera", "front", shm).get_data()

    writer.write("pose", {"x": 1, "y": {"z": 2}})
    writer.write("pose", {"x": 3})
    assert values_of() == {"pose": {"x": 3}}
    writer.write("pose/y", 4)
    assert values_of() == {"pose": {"x": 3, "y": 4}}
    writer.write("pose", 5)
    assert values_of() == {"pose": 5}
    writer.write("pose/a/b", 6)
    assert values_of() == {"pose": {"a": {"b": 6}}}
    writer.write("pose", {})
    assert values_of() == {"pose": {}}
    writer.write("pose", {"x": 1})
    assert values_of() == {"pose": {"x": 1}}


def test_the_sensor_itself_as_a_dictionary(shm: SharedMemory) -> None:
    """As the original's network example does: a writer named `.`, readers named after what is below."""
    with SensorWriter("network", ".", shm) as writer:
        writer.write(".", {"eth0": {"sent": 1, "got": 2}, "lo": {"sent": 3}})
        writer.write(".", {"eth0": {"sent": 5}})
        eth0 = SensorReader("network", "eth0", shm)
        assert eth0.attributes == ["sent", "attributes"] and eth0.sent == 5 and eth0.get_data() == {"sent": 5}
        assert SensorReader("network", None, shm).get_data() == {"eth0": {"sent": 5}, "lo": {"sent": 3}}
        with pytest.raises(SensorNotInitializedError, match="sensor network/eth1"):
            SensorReader("network", "eth1", shm)
        with pytest.raises(FieldError, match="value '.': found int, expected a dictionary"):
            writer.write(".", 5)
        writer.write(".", {})
        assert SensorReader("network", None, shm).get_data() == {"eth0": {"sent": 5}, "lo": {"sent": 3}}


def test_bounds_that_keep_nothing_are_refused(shm: SharedMemory) -> None:
    for keep, keep_bytes in ((0, 1), (-1, 1), (1, -1)):
        with pytest.raises(FieldError, match="expected 1 or more, and 0 or more"):
            SensorWriter("camera", "front", shm, keep=keep, keep_bytes=keep_bytes)


def test_what_was_replaced_is_there_for_a_reader_far_away(shm: SharedMemory, writer: SensorWriter) -> None:
    """Over TCP: who has read a reference has time to get the value; in the end nothing is left."""
    with plain_client(shm.address.url) as client:
        for number in range(5):
            writer.write("image", BIG + number)
            left = len(large_keys(shm)) - references(shm, b"@key:")
            assert left == (min(number, 2) if shm.address.socket_path is None else 0)
        writer.close()
        assert len(large_keys(shm)) == references(shm, b"@key:") == client.scard("sensor:camera/front:large")


def test_without_cbor2_the_error_names_what_to_install(
    shm: SharedMemory, writer: SensorWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cbor2", None)
    with pytest.raises(ModuleNotFoundError, match=r"sensors need cbor2.*pip install 'shareddata\[arrays\]'"):
        writer.write("number", 1)


def test_a_value_that_cannot_be_written_is_named(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("number", 1)
    for data, says in (
        (object(), "sensor camera/front, value 'pose/y': object: object cannot be written as CBOR"),
        (np.zeros(3, "f16"), "sensor camera/front, value 'pose/y': ndarray: an array of float128 cannot be written"),
        ({"a": {1, object()}}, "value 'pose/y/a': set"),
    ):
        with pytest.raises(FieldError, match=says):
            writer.write("pose", {"x": 1, "y": data})
    with pytest.raises(FieldError, match="value 'number_attr': object"):
        writer.write("number", 2, object())  # type: ignore[arg-type]
    assert SensorReader("camera", "front", shm).get_data() == {"number": 1}
    with plain_client(shm.address.url) as client:
        assert client.xlen("sensor:camera/front:writes") == 1


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a\0b", "", "x" * 300])
def test_hostile_names_are_refused(shm: SharedMemory, writer: SensorWriter, name: str) -> None:
    writer.write("number", 1)
    with pytest.raises(FieldError, match="sensor camera/front, value"):
        writer.write(name, 1)
    with pytest.raises(DescriptionError, match="sensor"):
        SensorWriter("camera", name, shm)
    with pytest.raises(DescriptionError, match="sensor"):
        SensorReader("camera", name, shm)
    with pytest.raises(FieldError, match="value"):
        pack_to_zip([name], writer.data_path)
    with pytest.raises(FieldError, match="zipname"):
        pack_to_zip(["number"], writer.data_path, zipname=name)
    assert keys(shm) == ["sensor:camera/front", "sensor:camera/front:writes", "shareddata:sensors"]


# -- which sensor ---------------------------------------------------------------------------------------------------


def test_the_first_that_is_still_there(shm: SharedMemory) -> None:
    """In order of creation, whatever they are called and whoever writes last."""
    writers = [SensorWriter("dummy", name, shm) for name in ("z", "a", "m")]
    for number, writer in enumerate(writers):
        writer.write("number", number)
    SensorWriter("other", "x", shm).write("number", 99)
    writers[0].write("number", 0)
    readers = [SensorReader("dummy", index, shm) for index in (None, 0, 1, 2, -1)]
    assert [reader.number for reader in readers] == [0, 0, 1, 2, 2]
    assert [reader.filename for reader in readers] == ["z", "z", "a", "m", "m"]
    writers[0].remove()
    assert SensorReader("dummy", None, shm).number == 1
    writers[0].write("number", 5)  # created anew: the last one
    assert [SensorReader("dummy", index, shm).number for index in range(3)] == [1, 2, 5]
    with pytest.raises(SensorNotInitializedError, match="sensor dummy at .*: found 3 sensors"):
        SensorReader("dummy", 3, shm)


def test_a_writer_that_comes_again_keeps_its_place(shm: SharedMemory) -> None:
    for name in ("a", "b", "a", "b"):
        with SensorWriter("dummy", name, shm) as writer:
            writer.write("number", 1)
    assert [SensorReader("dummy", index, shm).filename for index in range(2)] == ["a", "b"]


def test_a_sensor_that_has_written_nothing(shm: SharedMemory) -> None:
    SensorWriter("dummy", "first", shm)
    for name in (None, "first", 0):
        with pytest.raises(SensorNotInitializedError, match="its writer has to write something first"):
            SensorReader("dummy", name, shm)
    SensorWriter("camera", "front", shm).write("number", 1)
    with pytest.raises(FileNotFoundError, match=r"did you mean 'camera/front'\?"):
        SensorReader("camera", "fromt", shm)
    assert keys(shm) == ["sensor:camera/front", "sensor:camera/front:writes", "shareddata:sensors"]


@pytest.mark.parametrize("name", [1.5, True, b"x"])
def test_what_is_no_name_of_a_sensor(shm: SharedMemory, name: Any) -> None:
    with pytest.raises(FieldError, match="is no name and no number"):
        SensorReader("dummy", name, shm)


def test_namespaces_do_not_know_each_other(shm: SharedMemory) -> None:
    SensorWriter("camera", "front", shm).write("number", 1)
    with SharedMemory(url=shm.address.url, namespace="usv1") as other:
        with pytest.raises(SensorNotInitializedError, match="found no sensor"):
            SensorReader("camera", None, other)
        SensorWriter("camera", "front", other).write("number", 2)
        assert SensorReader("camera", None, other).number == 2
        assert SensorReader("camera", None, shm).number == 1
        with plain_client(shm.address.url) as client:
            assert client.hlen("{usv1}:sensor:camera/front") == 1


def test_removing_leaves_nothing(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("image", BIG)
    writer.write("number", 1)
    pack_to_zip(["image", "number"], writer.data_path)
    pack_to_zip(["number"], writer.data_path, "odd")
    reader = SensorReader("camera", "front", shm)
    writer.remove()
    assert keys(shm) == [] and files(shm) == []
    with pytest.raises(AttributeError, match="no value 'number' was written"):
        _ = reader.number
    writer.write("number", 2)
    assert reader.number == 2
    assert sensors.remove("camera/front", shm) and not sensors.remove("camera/front", shm)


def test_a_sensor_that_was_removed_comes_back_with_the_next_write(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("image", BIG)
    writer.write("number", 1)
    sensors.remove("camera/front", shm)
    writer.write("number", 2)
    assert SensorReader("camera", None, shm).get_data() == {"number": 2}
    with pytest.raises(SensorNotInitializedError, match="no value 'image' was written"):
        pack_to_zip(["image"], writer.data_path)
    assert files(shm) == []


# -- packing --------------------------------------------------------------------------------------------------------


def test_packed_values_stay_as_they_were(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("number", 1)
    writer.write("image", BIG)
    writer.write("pose", {"x": 1, "y": 2})
    pack_to_zip(["number", "image", "pose"], writer.data_path)
    writer.write("number", 2)
    writer.write("image", BIG + 1)
    writer.write("pose", {"x": 3})
    reader = SensorReader("camera", "front", shm)
    for found in (reader.measurement, reader.get_data("measurement"), reader.get_data("measurement.zip")):
        assert list(found) == ["number", "image", "pose"]
        assert found["number"] == 1 and found["pose"] == {"x": 1, "y": 2} and np.array_equal(found["image"], BIG)
    assert len(files(shm)) == references(shm)


def test_packing_by_other_names(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("number", 1)
    pack_to_zip({"number"}, data_path=writer.data_path, zipname="metadata")
    pack_to_zip(["number"], writer.data_path, zipname="odd one.zip")
    reader = SensorReader("camera", "front", shm)
    assert reader.metadata == {"number": 1} and reader.get_data("odd one.zip") == {"number": 1}
    pack_to_zip([], writer.data_path)
    assert reader.measurement == {}


def test_a_value_of_a_packs_name(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("measurement", 5)
    reader = SensorReader("camera", "front", shm)
    assert reader.get_data("measurement") == 5
    pack_to_zip(["measurement"], writer.data_path)
    assert reader.measurement == {"measurement": 5}


def test_packing_what_was_never_written(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("number", 1)
    with pytest.raises(SensorNotInitializedError, match="no value 'nmber' was written, nothing was packed: did you"):
        pack_to_zip(["number", "nmber"], writer.data_path)
    with pytest.raises(TypeError, match="names is the text 'number': give a list"):
        pack_to_zip("number", writer.data_path)
    assert not hasattr(SensorReader("camera", "front", shm), "measurement")


def test_packing_what_an_earlier_program_wrote(shm: SharedMemory, writer: SensorWriter) -> None:
    writer.write("image", BIG)
    writer.write("pose", {"x": 1})
    second = SensorWriter("camera", "front", shm)
    second.write("number", 2)
    pack_to_zip(["number", "image", "pose/x"], second.data_path)
    found = SensorReader("camera", "front", shm).measurement
    assert found["number"] == 2 and np.array_equal(found["image"], BIG) and found["pose"] == {"x": 1}


def test_packing_a_sensor_by_its_path(shm: SharedMemory, writer: SensorWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also another program's, at the default address."""
    writer.write("number", 7)
    writer.write("image", BIG)
    monkeypatch.setattr(sensors.memory, "default", lambda given=None: given or shm)
    pack_to_zip(["number"], "camera/front")
    reader = SensorReader("camera", "front")
    assert reader.measurement == {"number": 7}
    pack_to_zip(["image"], os.path.join(sensors.TMPFS_PATH, "camera", "front"))
    assert np.array_equal(reader.measurement["image"], BIG)
    pack_to_zip(["number"], f"{writer.data_path}")
    with pytest.raises(SensorNotInitializedError, match="camera/rear at .*: no value 'number'.*: there are none"):
        pack_to_zip(["number"], "camera/rear")
    with pytest.raises(DescriptionError, match="expected directory/name, or a path below"):
        pack_to_zip(["number"], "/etc/camera/front")


def test_the_folder_for_own_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPFS_PATH", str(tmp_path / "a" / "b"))
    assert str(tmp_path / "a" / "b") == sensors.TMPFS_PATH and os.path.isdir(sensors.TMPFS_PATH)
    monkeypatch.delenv("TMPFS_PATH")
    assert os.stat(sensors.TMPFS_PATH).st_uid == os.getuid() and os.stat(sensors.TMPFS_PATH).st_mode & 0o077 == 0
    with pytest.raises(AttributeError, match="no attribute 'TMPFSPATH'"):
        _ = sensors.TMPFSPATH


def test_values_undecoded(shm: SharedMemory, writer: SensorWriter, tmp_path: Path) -> None:
    writer.write("number", 1000)
    writer.write("image", BIG)
    writer.write("pose", {"x": 1})
    pack_to_zip(["number", "image"], writer.data_path, compress=True)
    reader = SensorReader("camera", "front", shm)
    assert reader.get_binary("number") == bytes.fromhex("1903e8")
    assert reader.get_binary("pose") == bytes.fromhex("a1617801")
    assert reader.get_binary("image").endswith(BIG.tobytes())
    for name in ("measurement", "measurement.zip"):
        (tmp_path / "m.zip").write_bytes(reader.get_binary(name))
        found = sensors.read(tmp_path / "m.zip")
        assert found["number"] == 1000 and np.array_equal(found["image"], BIG)
        assert (tmp_path / "m.zip").stat().st_size < BIG.nbytes
    with pytest.raises(SensorNotInitializedError, match="nothing was packed as 'metadata'"):
        reader.get_binary("metadata")


# -- bounds ---------------------------------------------------------------------------------------------------------


def test_writes_are_kept_up_to_a_number(shm: SharedMemory) -> None:
    with SensorWriter("camera", "front", shm, keep=100) as writer, plain_client(shm.address.url) as client:
        for number in range(400):
            writer.write("number", number)
            assert client.xlen("sensor:camera/front:writes") <= 110
        kept = client.xrange("sensor:camera/front:writes")
        assert len(kept) >= 100 and kept[-1][1] == {b"number": bytes.fromhex("19018f")}


def test_writes_are_kept_up_to_so_many_bytes_wherever_they_are(shm: SharedMemory) -> None:
    with SensorWriter("camera", "front", shm, keep_bytes=1_000_000) as writer, plain_client(shm.address.url) as client:
        for number in range(20):
            writer.write("image", BIG + number)
            pack_to_zip(["image"], writer.data_path)
            assert client.xlen("sensor:camera/front:writes") == min(number + 1, 4)
            assert client.xlen("sensor:camera/front:packed:measurement") == min(number + 1, 4)
            assert len(files(shm)) == references(shm)
        writer.write("huge", np.zeros(3_000_000, "u1"))  # larger than all together: kept alone
        assert client.xlen("sensor:camera/front:writes") == 1


def test_a_new_program_keeps_to_the_bounds_too(shm: SharedMemory) -> None:
    with plain_client(shm.address.url) as client:
        for _ in range(30):
            with SensorWriter("camera", "front", shm, keep=10, keep_bytes=1_000_000) as writer:
                writer.write("number", 1)
        assert 10 <= client.xlen("sensor:camera/front:writes") <= 22
        for _ in range(12):
            with SensorWriter("camera", "front", shm, keep=10, keep_bytes=1_000_000) as writer:
                writer.write("image", BIG)
                writer.write("image", BIG)
        assert client.xlen("sensor:camera/front:writes") <= 5
        assert len(files(shm)) == references(shm)


# -- the server -----------------------------------------------------------------------------------------------------


def test_a_key_of_another_kind_is_said(shm: SharedMemory, writer: SensorWriter) -> None:
    with plain_client(shm.address.url) as client:
        client.hset("sensor:camera/front", "number", b"\xff")
        client.zadd("shareddata:sensors", {"camera/front": 1})
        reader = SensorReader("camera", "front", shm)
        with pytest.raises(DecodeError, match="camera/front, value 'number': found b'.xff', expected a value in CBOR"):
            _ = reader.number
        client.hset("sensor:camera/front", mapping={"number": b"\1", "a": b"\1", "a/b": b"\2"})
        with pytest.raises(DecodeError, match="sensor camera/front, value 'a/b': 'a' is a value itself"):
            reader.get_data()
        client.set("sensor:camera/rear", "x")
        with pytest.raises(ServerRefused, match="WRONGTYPE"):
            SensorWriter("camera", "rear", shm).write("number", 1)


def test_a_reference_whose_file_was_removed_is_said(url: str) -> None:
    with SharedMemory(url=url) as shm:
        SensorWriter("camera", "front", shm).write("image", BIG)
        for path in files(shm):
            path.unlink()
        with pytest.raises(DecodeError, match="value 'image': found a reference to .*which is not there"):
            _ = SensorReader("camera", "front", shm).image


# -- the loop -------------------------------------------------------------------------------------------------------


class Counter(SensorWriter):
    """Counts its calls, and fails when it is told to."""

    calls = 0
    fails = False

    def writer_worker(self) -> None:
        self.calls += 1
        self.write("calls", self.calls)
        if self.fails:
            raise ValueError("the device says no")


def test_a_loop_that_is_started_and_stopped(shm: SharedMemory) -> None:
    counter = Counter("dummy", "first", shm)
    counter.start(0)
    eventually(lambda: counter.calls > 100)
    with pytest.raises(FieldError, match="is started already"):
        counter.start(0)
    counter.stop()
    calls = counter.calls
    assert SensorReader("dummy", None, shm).calls == calls
    counter.stop()
    counter.start(3600)
    eventually(lambda: counter.calls == calls + 1)
    counter.close()  # at once, in the middle of its pause


def test_a_loop_keeps_its_rate(shm: SharedMemory) -> None:
    with Counter("dummy", "first", shm) as counter:
        begin = time.monotonic()
        counter.start(0.01)
        eventually(lambda: counter.calls >= 50)
        assert time.monotonic() - begin > 0.45


def test_what_the_worker_raises_ends_the_loop_and_is_told(shm: SharedMemory, caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter("dummy", "first", shm)
    counter.fails = True
    counter.start(0)
    eventually(lambda: "writer_worker failed, the loop has ended" in caplog.text)
    assert "the device says no" in caplog.text
    with pytest.raises(ValueError, match="the device says no"):
        counter.stop()
    counter.stop()
    assert counter.calls == 1
    counter.fails = False
    counter.start(0)
    eventually(lambda: counter.calls > 5)
    counter.stop()


def test_a_worker_may_stop_its_own_loop(shm: SharedMemory) -> None:
    class Once(SensorWriter):
        def writer_worker(self) -> None:
            self.write("number", 1)
            self.stop()

    once = Once("dummy", "first", shm)
    once.run(0)
    assert SensorReader("dummy", None, shm).number == 1
    with pytest.raises(NotImplementedError, match="SensorWriter has no writer_worker of its own"):
        SensorWriter("dummy", "first", shm).run(0)


def test_a_loop_outlives_its_server(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, fsync="always")
    with SharedMemory(url=server.url, timeout=0.5) as shm, Counter("dummy", "first", shm) as counter:
        counter.start(0.001)
        eventually(lambda: counter.calls > 10)
        server.kill()
        server.start()
        calls = counter.calls
        eventually(lambda: counter.calls > calls + 10)
        reader = SensorReader("dummy", None, shm)
        seen = reader.calls
        eventually(lambda: reader.calls > seen)


def test_the_last_value_is_there_when_the_program_has_ended(program: Callable[..., Program], url: str) -> None:
    code = """
    from shareddata.sensors import SensorWriter, pack_to_zip
    writer = SensorWriter("dummy", "first")
    for number in range(100):
        writer.write("number", number)
        pack_to_zip(["number"], writer.data_path)
    """
    program(code, env={"SHAREDDATA_URL": url}).finish()
    with SharedMemory(url=url) as shm:
        reader = SensorReader("dummy", "first", shm)
        assert reader.number == 99 and reader.measurement == {"number": 99}


def test_a_forked_child_writes_by_itself(program: Callable[..., Program], url: str) -> None:
    code = """
    from shareddata.sensors import SensorReader, SensorWriter
    class Loop(SensorWriter):
        def writer_worker(self):
            self.write("parent", os.getpid())
    writer = Loop("dummy", "first")
    writer.start(0.001)
    reader = SensorReader("dummy", None) if writer.write("child", 0) is None else None
    heard = []
    reader.attach_watchdog("child", heard.append)
    child = os.fork()
    if child == 0:
        writer.write("child", os.getpid())
        writer.stop()
        reader.close()
        os._exit(0)
    os.waitpid(child, 0)
    reader.disable_watchdog("child")
    say(reader.child == child, heard == [child])
    writer.close()
    """
    assert program(code, env={"SHAREDDATA_URL": url}).finish() == ["True True"]


def test_a_forked_child_gives_large_values_keys_of_its_own(
    program: Callable[..., Program], own_server: Callable[..., OwnServer], kind: str
) -> None:
    code = """
    from shareddata.sensors import SensorReader, SensorWriter
    writer = SensorWriter("dummy", "first")
    writer.write("number", 0)
    child = os.fork()
    for number in range(5):
        writer.write("parent" if child else "child", [b"pc"[child == 0]] * 100_000)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    values = SensorReader("dummy").get_data()
    say(values["parent"] == [112] * 100_000, values["child"] == [99] * 100_000)
    writer.close()
    """
    environment = {"SHAREDDATA_URL": own_server(kind, port=free_port()).tcp_url}
    assert program(code, env=environment).finish() == ["True True"]


def test_a_reader_of_names_that_exclude_each_other(client: redis.Redis, url: str) -> None:
    """Another program wrote both `a` and `a/b`: the reader can be made, and each can be read."""
    client.hset("sensor:x/y", mapping={"a": b"\1", "a/b": b"\2"})
    with SharedMemory(url=url) as shm, SensorReader("x", "y", shm) as reader:
        assert reader.attributes == ["a", "attributes"] and reader.a == 1 and reader.get_data("a/b") == 2


def test_plain_clients_see_what_is_written(client: redis.Redis, url: str) -> None:
    """As the reference describes it."""
    with SharedMemory(url=url) as shm, SensorWriter("camera", "front", shm) as writer:
        writer.write("number", 1)
        writer.write("pose", {"x": 2})
        pack_to_zip(["number"], writer.data_path)
        pack_to_zip(["number"], writer.data_path, "metadata", compress=True)
    assert client.hgetall("sensor:camera/front") == {b"number": b"\1", b"pose/x": b"\2"}
    written = [fields for _, fields in client.xrange("sensor:camera/front:writes")]
    assert written == [{b"number": b"\1"}, {b"pose/x": b"\2"}]
    assert client.smembers("sensor:camera/front:packed") == {b"measurement", b"metadata"}
    names = ("measurement", "metadata")
    packed = {name: client.xrange(f"sensor:camera/front:packed:{name}")[0][1] for name in names}
    assert packed == {
        "measurement": {b".": b"stored", b"number": b"\1"},
        "metadata": {b".": b"deflated", b"number": b"\1"},
    }
    assert client.zrange("shareddata:sensors", 0, -1) == [b"camera/front"]


# -- any writes, one after the other --------------------------------------------------------------------------------

short_names = st.sampled_from(["a", "b", "a/b", "a/b/c", "b/a", "c"])
letters = st.sampled_from("abc")
nested = st.recursive(
    st.integers(0, 9) | st.builds(dict), lambda inner: st.dictionaries(letters, inner, max_size=3), max_leaves=5
)
whole = st.tuples(st.just("."), st.dictionaries(letters, nested))
writes = st.lists(st.tuples(short_names, nested) | whole, max_size=8)


def put(model: dict[str, Any], name: str, data: Any) -> None:
    """Write into nested dictionaries as into a sensor."""
    if name == ".":
        for key, value in data.items():
            put(model, key, value)
        return
    *above, last = name.split("/")
    for part in above:
        if not isinstance(model.get(part), dict):
            model[part] = {}
        model = model[part]
    model[last] = copy.deepcopy(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes)
def test_any_writes_leave_what_nested_dictionaries_would_hold(server: Server, steps: list[tuple[str, Any]]) -> None:
    with SharedMemory(url=server.url) as shm, SensorWriter("any", "first", shm) as writer:
        writer.remove()
        model: dict[str, Any] = {}
        for step, (name, data) in enumerate(steps):
            if step % 3 == 2:
                writer = SensorWriter("any", "first", shm)  # another program goes on
            writer.write(name, data)
            put(model, name, data)
            found = SensorReader("any", "first", shm).get_data() if model else {}
            assert found == model
