"""Watchdogs and snapshots: every write heard, every pack kept, in order, and nothing after they were ended."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensing import files, references
from servers import OwnServer, free_port, plain_client
from shareddata import FieldError, ServerError, SharedMemory
from shareddata.sensors import SensorReader, SensorWriter, pack_to_zip, read
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
    writer = SensorWriter("camera", "front", shm)
    writer.write("number", -1)
    return writer


@pytest.fixture
def reader(shm: SharedMemory, writer: SensorWriter) -> Iterator[SensorReader]:
    with SensorReader("camera", "front", shm) as reader:
        yield reader


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- watchdogs ------------------------------------------------------------------------------------------------------


def test_every_write_is_heard_in_order(writer: SensorWriter, reader: SensorReader) -> None:
    heard: list[int] = []
    reader.attach_watchdog("number", heard.append)
    for number in range(1000):
        writer.write("number", number)
        writer.write("other", number)
    reader.disable_watchdog("number")
    assert heard == list(range(1000)) and reader.missed == 0
    writer.write("number", 1000)
    assert len(heard) == 1000


def test_what_is_written_just_before_the_end_is_heard(writer: SensorWriter, reader: SensorReader) -> None:
    for round_ in range(30):
        heard: list[int] = []
        reader.attach_watchdog("number", heard.append)
        writer.write("number", round_)
        reader.disable_watchdog("number")
        assert heard == [round_]


def test_what_was_written_before_is_not_heard(writer: SensorWriter, reader: SensorReader) -> None:
    first: list[int] = []
    second: list[int] = []
    reader.attach_watchdog("number", first.append)
    for number in range(100):
        writer.write("number", number)
    reader.attach_watchdog("number", second.append)
    writer.write("number", 100)
    reader.disable_watchdog("number")
    assert first == list(range(101)) and second == [100]


def test_watchdogs_of_several_values_share_one_thread_and_its_order(writer: SensorWriter, reader: SensorReader) -> None:
    heard: list[tuple[str, Any]] = []
    threads = threading.active_count()
    for name in ("number", "pose", "pose/x", "."):
        reader.attach_watchdog(name, lambda value, name=name: heard.append((name, value)))  # type: ignore[misc]
    assert threading.active_count() == threads + 1
    writer.write("number", 1)
    writer.write("pose", {"x": 2, "y": 3})
    writer.write("pose/x", 4)
    reader.close()
    assert heard == [
        *(("number", 1), (".", {"number": 1})),
        *(("pose", {"x": 2, "y": 3}), ("pose/x", 2), (".", {"pose": {"x": 2, "y": 3}})),
        *(("pose", {"x": 4}), ("pose/x", 4), (".", {"pose": {"x": 4}})),
    ]
    assert threading.active_count() == threads


def test_large_values_are_heard_whole(shm: SharedMemory, writer: SensorWriter, reader: SensorReader) -> None:
    heard: list[Any] = []
    reader.attach_watchdog("image", heard.append)
    for number in range(10):
        writer.write("image", BIG + number)
    reader.disable_watchdog("image")
    assert [each[0, 0] for each in heard] == list(range(10))
    assert all(np.array_equal(each, BIG + number) for number, each in enumerate(heard))
    assert len(files(shm)) == references(shm)


def test_a_value_that_was_never_written_can_be_watched(writer: SensorWriter, reader: SensorReader) -> None:
    heard: list[Any] = []
    reader.attach_watchdog("later", heard.append)
    writer.write("later", 5)
    reader.disable_watchdog("later")
    assert heard == [5]


def test_packs_are_heard_as_well(writer: SensorWriter, reader: SensorReader) -> None:
    heard: list[tuple[str, Any]] = []
    for name in ("measurement", "measurement.zip", "odd.zip", "number"):
        reader.attach_watchdog(name, lambda value, name=name: heard.append((name, value)))  # type: ignore[misc]
    writer.write("pose", {"x": 1})
    pack_to_zip(["number", "pose"], writer.data_path)
    eventually(lambda: len(heard) == 2)
    pack_to_zip([], writer.data_path, "odd")
    pack_to_zip(["pose"], writer.data_path, "metadata")
    reader.disable_watchdog("odd.zip")
    with pytest.raises(FieldError, match="no watchdog is attached to 'odd.zip'"):
        reader.disable_watchdog("odd.zip")
    reader.close()
    whole = {"number": -1, "pose": {"x": 1}}
    assert heard == [("measurement", whole), ("measurement.zip", whole), ("odd.zip", {})]


def test_a_function_that_raises_is_called_again(
    writer: SensorWriter, reader: SensorReader, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def fails(number: int) -> None:
        heard.append(number)
        raise RuntimeError(f"cannot use {number}")

    reader.attach_watchdog("number", fails)
    for number in range(3):
        writer.write("number", number)
    reader.disable_watchdog("number")
    assert heard == [0, 1, 2]
    assert caplog.text.count("sensor camera/front: a watchdog of 'number' failed") == 3
    assert "RuntimeError: cannot use 2" in caplog.text


def test_a_function_may_end_its_own_watchdog(writer: SensorWriter, reader: SensorReader) -> None:
    heard: list[int] = []

    def once(number: int) -> None:
        heard.append(number)
        reader.disable_watchdog("number")

    reader.attach_watchdog("number", once)
    for number in range(5):
        writer.write("number", number)
    eventually(lambda: heard)
    reader.close()
    assert heard == [0]


def test_a_function_may_write_and_read(shm: SharedMemory, writer: SensorWriter, reader: SensorReader) -> None:
    """As the original's circle finder does: a sensor that is made from another one."""
    finder = SensorWriter("circle_finder", "1", shm)
    reader.attach_watchdog("number", lambda number: finder.write("double", [2 * number, reader.number]))
    writer.write("number", 21)
    reader.disable_watchdog("number")
    assert SensorReader("circle_finder", None, shm).double == [42, 21]


def test_a_watchdog_that_is_not_there(reader: SensorReader) -> None:
    with pytest.raises(FieldError, match="sensor camera/front: no watchdog is attached to 'number'"):
        reader.disable_watchdog("number")
    reader.attach_watchdog("number", print)
    with pytest.raises(FieldError, match="no watchdog is attached to 'nmber': did you mean 'number'"):
        reader.disable_watchdog("nmber")
    reader.stop_watchdog()


def test_what_is_dropped_before_it_is_heard_is_counted(shm: SharedMemory, caplog: pytest.LogCaptureFixture) -> None:
    writer = SensorWriter("camera", "front", shm, keep=16)
    writer.write("number", -1)
    entered, go = threading.Event(), threading.Event()
    heard: list[int] = []

    def slow(number: int) -> None:
        heard.append(number)
        entered.set()
        assert go.wait(30)

    with SensorReader("camera", "front", shm) as reader:
        reader.attach_watchdog("number", slow)
        writer.write("number", 0)
        assert entered.wait(30)
        for number in range(1, 500):
            writer.write("number", number)
        go.set()
        reader.disable_watchdog("number")
        assert heard == sorted(heard) and heard[-1] == 499 and len(heard) < 500
        assert reader.missed == 500 - len(heard)
    assert f"{reader.missed} missed: they were trimmed before they could be read" in caplog.text


def test_large_values_that_are_dropped_before_they_are_heard_are_counted(shm: SharedMemory) -> None:
    writer = SensorWriter("camera", "front", shm, keep_bytes=1_000_000)
    writer.write("number", -1)
    entered, go = threading.Event(), threading.Event()
    heard: list[int] = []

    def slow(image: np.ndarray) -> None:
        heard.append(int(image[0, 0]))
        entered.set()
        assert go.wait(30)

    with SensorReader("camera", "front", shm) as reader:
        reader.attach_watchdog("image", slow)
        for number in range(2):
            writer.write("image", BIG + number)
        assert entered.wait(30)
        for number in range(2, 40):
            writer.write("image", BIG + number)
        go.set()
        reader.disable_watchdog("image")
        assert heard == sorted(heard) and heard[-1] == 39
        assert reader.missed == 40 - len(heard) > 0
    assert len(files(shm)) == references(shm)


def test_a_sensor_that_is_removed_and_comes_again_is_heard(writer: SensorWriter, reader: SensorReader) -> None:
    heard: list[int] = []
    reader.attach_watchdog("number", heard.append)
    for number in range(5):
        writer.write("number", number)
        eventually(lambda number=number: len(heard) == number + 1)  # type: ignore[misc]
        writer.remove()
    reader.disable_watchdog("number")
    assert heard == list(range(5)) and reader.missed == 0


def test_a_value_that_is_no_cbor_is_told_and_the_next_one_heard(
    shm: SharedMemory, writer: SensorWriter, reader: SensorReader, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []
    reader.attach_watchdog("number", heard.append)
    with plain_client(shm.address.url) as client:
        client.xadd("sensor:camera/front:writes", {"number": b"\xff"})
    writer.write("number", 1)
    reader.disable_watchdog("number")
    assert heard == [1]
    assert "value 'number': found b'\\xff', expected a value in CBOR" in caplog.text


def test_where_nobody_may_wake_others_the_end_comes_within_a_second(
    own_server: Callable[..., OwnServer], kind: str
) -> None:
    server = own_server(kind)
    with server.client() as client, SharedMemory(url=server.url) as shm:
        client.execute_command("ACL", "SETUSER", "default", "-client|unblock")
        writer = SensorWriter("camera", "front", shm)
        writer.write("number", 0)
        heard: list[int] = []
        with SensorReader("camera", "front", shm) as reader:
            reader.attach_watchdog("number", heard.append)
            writer.write("number", 1)
            begin = time.monotonic()
            reader.disable_watchdog("number")
            assert heard == [1] and time.monotonic() - begin < 5


def test_the_server_is_away_when_a_watchdog_is_ended(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind)
    with SharedMemory(url=server.url, timeout=0.3) as shm:
        SensorWriter("camera", "front", shm).write("number", 0)
        reader = SensorReader("camera", "front", shm)
        reader.attach_watchdog("number", print)
        server.kill()
        with pytest.raises(ServerError, match="server|connection|nobody answers"):
            reader.disable_watchdog("number")
        assert not [thread for thread in threading.enumerate() if "watchdogs" in thread.name]
        reader.close()


# -- snapshots ------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_what_was_packed(writer: SensorWriter, reader: SensorReader, tmp_path: Path) -> None:
    writer.write("image", BIG)
    writer.write("pose", {"x": 1})
    before = time.time()
    pack_to_zip(["number", "image", "pose"], writer.data_path)
    after = time.time()
    writer.write("number", 5)
    assert reader.take_snapshot(str(tmp_path)) is True
    assert reader.take_snapshot(tmp_path, compresslevel=9) is True
    first, second = names(tmp_path)
    milliseconds = int(re.fullmatch(r"(\d+)_front\.zip", first)[1])  # type: ignore[index]
    assert before - 0.01 <= milliseconds / 1000 <= after + 0.01
    assert second == f"{milliseconds}_front_1.zip"
    for name in (first, second):
        found = read(tmp_path / name)
        assert found["number"] == -1 and np.array_equal(found["image"], BIG) and found["pose"] == {"x": 1}
    assert (tmp_path / second).stat().st_size < (tmp_path / first).stat().st_size
    assert reader.snapshots == 2 and reader.last_snapshot == tmp_path / second


def test_a_snapshot_where_nothing_was_packed_holds_all_values(
    writer: SensorWriter, reader: SensorReader, tmp_path: Path
) -> None:
    writer.write("pose", {"x": 1, "y": {"z": 2}}, {"unit": "m"})
    assert reader.take_snapshot(tmp_path)
    (name,) = names(tmp_path)
    assert abs(int(name.partition("_")[0]) / 1000 - time.time()) < 60
    assert read(tmp_path / name) == {"number": -1, "pose": {"x": 1, "y": {"z": 2}}, "pose_attr": {"unit": "m"}}


def test_snapshots_are_named_after_the_sensor(shm: SharedMemory, tmp_path: Path) -> None:
    SensorWriter("imu", "left foot/inner", shm).write("number", 1)
    SensorReader("imu", None, shm).take_snapshot(tmp_path)
    SensorReader("imu", "left foot/inner", shm, sensor_name="my foot").take_snapshot(tmp_path)
    assert sorted(name.partition("_")[2] for name in names(tmp_path)) == ["left_foot_inner.zip", "my_foot.zip"]


def test_a_snapshot_without_a_folder_or_with_a_wrong_level(reader: SensorReader, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        reader.take_snapshot(tmp_path / "nowhere")
    with pytest.raises(FieldError, match="compresslevel 10"):
        reader.take_snapshot(tmp_path, compresslevel=10)
    with pytest.raises(FieldError, match="compresslevel -1"):
        reader.start_write(tmp_path, compresslevel=-1)


def test_one_snapshot_for_each_pack(writer: SensorWriter, reader: SensorReader, tmp_path: Path) -> None:
    pack_to_zip(["number"], writer.data_path)
    reader.start_write(tmp_path / "dataset")
    for number in range(200):
        writer.write("number", number)
        pack_to_zip(["number"], writer.data_path)
    reader.stop_watchdog()
    pack_to_zip(["number"], writer.data_path)
    found = sorted((tmp_path / "dataset").iterdir(), key=snapshot_order)
    assert [read(path)["number"] for path in found] == list(range(200))
    assert (reader.snapshots, reader.missed) == (200, 0)


def snapshot_order(path: Path) -> tuple[int, int]:
    """Return what snapshots are to be sorted by: the time, and the number where there are several."""
    parts = path.stem.split("_")
    return int(parts[0]), int(parts[-1]) if len(parts) > 2 else 0


def test_a_snapshot_for_each_pack_a_thousand_times_a_second(
    shm: SharedMemory, tmp_path: Path, full: bool
) -> None:
    """Packs in a fixed rhythm, from a thread of the same program: the disk and Python's lock are shared."""
    count = 5000 if full else 1000

    class Fast(SensorWriter):
        number = 0

        def writer_worker(self) -> None:
            self.write("number", self.number)
            pack_to_zip(["number"], self.data_path)
            self.number += 1
            if self.number == count:
                self.stop()

    fast = Fast("fast", "first", shm)
    fast.write("number", -1)
    with SensorReader("fast", None, shm) as reader:
        reader.start_write(tmp_path)
        fast.run(0.001)
        reader.stop_watchdog()
        found = sorted(tmp_path.iterdir(), key=snapshot_order)
        assert [read(path)["number"] for path in found] == list(range(count))
        assert reader.missed == 0


def test_large_values_in_each_snapshot(
    shm: SharedMemory, writer: SensorWriter, reader: SensorReader, tmp_path: Path
) -> None:
    reader.start_write(tmp_path)
    for number in range(20):
        writer.write("image", BIG + number)
        pack_to_zip(["image"], writer.data_path)
    reader.stop_watchdog()
    found = sorted(tmp_path.iterdir(), key=snapshot_order)
    assert [read(path)["image"][0, 0] for path in found] == list(range(20))
    assert len(files(shm)) == references(shm)


def test_metadata_is_written_once(writer: SensorWriter, reader: SensorReader, tmp_path: Path) -> None:
    writer.write("lens", "50 mm")
    pack_to_zip(["lens"], writer.data_path, zipname="metadata")
    for _ in range(2):
        reader.start_write(tmp_path)
        for _ in range(3):
            pack_to_zip(["number"], writer.data_path)
        reader.stop_watchdog()
    assert [name for name in names(tmp_path) if "metadata" in name] == ["front_metadata.zip"]
    assert read(tmp_path / "front_metadata.zip") == {"lens": "50 mm"} and len(names(tmp_path)) == 7


@pytest.mark.parametrize("packs", [0, 3])
def test_metadata_that_come_later_are_written_too(
    writer: SensorWriter, reader: SensorReader, tmp_path: Path, packs: int
) -> None:
    reader.start_write(tmp_path)
    pack_to_zip(["number"], writer.data_path, zipname="metadata")
    for _ in range(packs):
        pack_to_zip(["number"], writer.data_path)
    reader.stop_watchdog()
    assert [name for name in names(tmp_path) if "metadata" in name] == ["front_metadata.zip"]
    assert len(names(tmp_path)) == packs + 1


def test_snapshots_that_are_to_be_deflated(writer: SensorWriter, reader: SensorReader, tmp_path: Path) -> None:
    writer.write("text", "a" * 50_000)
    reader.start_write(tmp_path)
    pack_to_zip(["text"], writer.data_path)
    pack_to_zip(["text"], writer.data_path, compress=True)
    reader.stop_watchdog()
    assert sorted(path.stat().st_size > 50_000 for path in tmp_path.iterdir()) == [False, True]


def test_one_dataset_is_written_at_a_time(
    reader: SensorReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.start_write(tmp_path)
    with pytest.raises(FieldError, match="snapshots are written already: call stop_watchdog first"):
        reader.start_write(tmp_path)
    reader.stop_watchdog()
    reader.stop_watchdog()
    monkeypatch.chdir(tmp_path)
    reader.start_write()
    reader.stop_watchdog()
    assert os.path.isdir("collected_data")


def test_a_folder_that_goes_away_holds_snapshots_up_and_loses_none(
    writer: SensorWriter, reader: SensorReader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a disk that is full, or taken out: what was packed meanwhile is written when it is back."""
    caplog.set_level(logging.WARNING)
    place = tmp_path / "dataset"
    reader.start_write(place)
    place.rmdir()
    place.write_text("in the way")
    for _ in range(5):
        pack_to_zip(["number"], writer.data_path)
    eventually(lambda: "one cannot be written" in caplog.text)
    place.unlink()
    place.mkdir()
    eventually(lambda: len(names(place)) == 5)
    reader.stop_watchdog()
    assert reader.missed == 0 and "they are written again" in caplog.text


def test_what_cannot_be_written_to_the_end_is_raised(
    writer: SensorWriter, reader: SensorReader, tmp_path: Path
) -> None:
    place = tmp_path / "dataset"
    reader.start_write(place)
    place.rmdir()
    place.write_text("in the way")
    for _ in range(3):
        pack_to_zip(["number"], writer.data_path)
    with pytest.raises(OSError, match="dataset"):
        reader.stop_watchdog()
    assert reader.missed == 3
