"""Sensors under stress: nothing torn, nothing missed over a server's restart, nothing left behind by kills."""

import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from programs import Program
from sensing import files, keys, large_keys, references
from servers import OwnServer, free_port
from shareddata import SharedMemory
from shareddata.errors import ServerError
from shareddata.large import LargeValues
from shareddata.sensors import SensorReader, SensorWriter, pack_to_zip, read
from waiting import eventually

# Writes what must match: a pair in a dictionary, an array of equal elements, and both packed together. Small and large.
WRITER = """
    import numpy as np
    from shareddata.sensors import SensorWriter, pack_to_zip
    shm = SharedMemory(url=sys.argv[1])
    writer = SensorWriter("stress", sys.argv[2], shm, keep=500, keep_bytes=8_000_000)
    number, size = int(sys.argv[4]), int(sys.argv[3])
    while True:
        number += 1
        writer.write("pair", {"left": number, "right": {"number": number, "array": np.full(100, number)}})
        writer.write("image", np.full((size, 3), number, "u4"))
        pack_to_zip(["pair", "image"], writer.data_path)
        if number % 20 == 0:
            say(number)
"""

SIZES = {"small": 10, "large": 30_000}  # rows of 12 bytes: 120 bytes, 360 kB


def check_pair(pair: dict) -> int:
    number = pair["left"]
    assert pair["right"]["number"] == number and (pair["right"]["array"] == number).all(), pair
    return int(number)


def check_image(image: np.ndarray) -> int:
    assert (image == image[0, 0]).all()
    return int(image[0, 0])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", ["unix", "tcp"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_ever_torn(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str, size: str, way: str, full: bool
) -> None:
    """Two sensors, two programs writing one of them at once; values, packs and watchdogs are whole."""
    server = own_server(kind, port=free_port())
    url = server.url if way == "unix" else server.tcp_url
    programs = [program(WRITER, url, name, SIZES[size], start) for name, start in (("a", 0), ("b", 0), ("b", 10**6))]
    for each in programs:
        each.line()
    rounds = 3000 if full else 300
    heard: list[int] = []
    with SharedMemory(url=url) as shm, SensorReader("stress", "a", shm) as one, SensorReader("stress", "b", shm) as two:
        one.attach_watchdog("image", lambda image: heard.append(check_image(image)))
        one.attach_watchdog("pair", check_pair)
        seen = []
        for _ in range(rounds):
            for reader in (one, two):
                check_pair(reader.pair)
                check_image(reader.image)
                whole = reader.measurement
                packed = check_pair(whole["pair"]), check_image(whole["image"])
                assert reader is two or packed[0] == packed[1]
                everything = reader.get_data()
                check_pair(everything["pair"])
                check_image(everything["image"])
            seen.append(packed[0])
        for each in programs:
            each.kill()
        one.disable_watchdog("image")
        one.close()
        two.close()
        assert len(set(seen)) > 5, "nothing changed while this test read"
        assert all(b > a for a, b in pairwise(heard)) and len(heard) > 5
        assert one.missed >= heard[-1] - heard[0] + 1 - len(heard)


@pytest.mark.timeout(300)
def test_ten_thousand_writes_are_heard_over_restarts_of_the_server(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str, full: bool
) -> None:
    """With fsync=always what was written is there after a kill: each number is heard once, in order."""
    server = own_server(kind, fsync="always")
    count = 40_000 if full else 10_000
    code = """
    from shareddata.errors import ServerError
    from shareddata.sensors import SensorReader, SensorWriter
    shm = SharedMemory(url=sys.argv[1], timeout=2)
    writer = SensorWriter("camera", "front", shm)
    number, count, unknown = 0, int(sys.argv[2]), []
    writer.write("number", -1)
    sys.stdin.readline()
    while number < count:
        try:
            writer.write("number", number)
        except ServerError as error:
            if not error.outcome_unknown:
                time.sleep(0.01)
                continue
            unknown.append(number)  # written or not: not repeated
        number += 1
        if number % 2000 == 0:
            say(number)
    say(*unknown)
    """
    writer = program(code, server.url, count)
    heard: list[int] = []
    with SharedMemory(url=server.url, timeout=2) as shm:
        reader = eventually(lambda: _reader(shm), 10)
        reader.attach_watchdog("number", heard.append)
        writer.tell()
        for at in range(2000, count, 2000):
            assert writer.line(60) == str(at)
            if at % 4000 == 0:
                server.restart()
        unknown = set(map(int, " ".join(writer.finish(60)).split()))
        unknown.discard(count)
        reader.disable_watchdog("number")
        assert all(b > a for a, b in pairwise(heard)), "something was heard twice, or out of order"
        assert set(range(count)) - set(heard) <= unknown, "something that was written was not heard"
        assert len(unknown) <= count // 4000 + 1 and reader.missed == 0
        reader.close()


def _reader(shm: SharedMemory) -> SensorReader | None:
    try:
        return SensorReader("camera", "front", shm)
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("way", ["unix", "tcp"])
@pytest.mark.parametrize("size", [1, 30_000])
def test_snapshots_and_watchdogs_over_restarts_of_the_server(
    own_server: Callable[..., OwnServer], kind: str, way: str, size: int, tmp_path: Path
) -> None:
    """One snapshot for each pack, none missed and none double; large values too, in files or in keys."""
    server = own_server(kind, fsync="always", port=free_port())
    heard: list[int] = []
    with SharedMemory(url=server.url if way == "unix" else server.tcp_url, timeout=2) as shm:
        writer = SensorWriter("camera", "front", shm)
        writer.write("image", np.full((size, 3), 10**6))
        with SensorReader("camera", None, shm) as reader:
            reader.start_write(tmp_path)
            reader.attach_watchdog("image", lambda image: heard.append(check_image(image)))
            for number in range(80):
                writer.write("image", np.full((size, 3), number))
                pack_to_zip(["image"], writer.data_path)
                if number % 30 == 20:
                    server.restart()
            reader.disable_watchdog("image")
            reader.stop_watchdog()
            assert sorted(check_image(read(path)["image"]) for path in tmp_path.iterdir()) == list(range(80))
            assert heard == list(range(80)) and reader.missed == 0


@pytest.mark.timeout(180)
def test_killed_writers_leave_no_file_behind(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str, full: bool
) -> None:
    """After the next start of a writer every file has its reference, and every reference its file."""
    server = own_server(kind)
    luck = random.Random(11)
    left_behind = 0
    with SharedMemory(url=server.url) as shm:
        for round_ in range(50 if full else 8):
            writer = program(WRITER, server.url, "a", SIZES["large"], round_ * 10**6)
            writer.line()
            time.sleep(luck.random() / 50)  # not a wait for anything: the moment of the kill
            writer.kill()
            left_behind += len(files(shm)) != references(shm)
            LargeValues(shm).sweep()
            assert len(files(shm)) == references(shm) > 0
            reader = SensorReader("stress", "a", shm)
            check_image(reader.image)
            whole = reader.measurement
            assert check_pair(whole["pair"]) == check_image(whole["image"])
            reader.close()
        SensorWriter("stress", "a", shm).remove()
        assert files(shm) == []
    assert left_behind, "no kill ever left a file behind: this test tried nothing"


@pytest.mark.timeout(180)
def test_killed_writers_over_tcp_leave_no_key_behind(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str, full: bool
) -> None:
    """The next writer's first write removes what the one before could not."""
    server = own_server(kind, port=free_port())
    luck = random.Random(13)
    with SharedMemory(url=server.tcp_url) as shm:
        for round_ in range(30 if full else 5):
            writer = program(WRITER, server.tcp_url, "a", SIZES["large"], round_ * 10**6)
            writer.line()
            time.sleep(luck.random() / 50)  # not a wait for anything: the moment of the kill
            writer.kill()
            with SensorReader("stress", "a", shm) as reader:
                check_image(reader.image)
                assert check_pair(reader.measurement["pair"]) == check_image(reader.measurement["image"])
        with server.client() as client:
            assert len(large_keys(shm)) >= references(shm, b"@key:") > 0
            for token in ("a.1", "b.2"):  # what a kill between the two transactions leaves
                client.set(f"sensor:stress/a:large:{token}", b"x" * 100_000)
                client.sadd("sensor:stress/a:large", token)
        with SensorWriter("stress", "a", shm) as writer:
            writer.write("number", 1)
        assert len(large_keys(shm)) == references(shm, b"@key:") > 0
        SensorWriter("stress", "a", shm).remove()
        assert keys(shm) == []


def test_a_write_of_unknown_outcome_is_told_and_nothing_is_left(
    own_server: Callable[..., OwnServer], proxy: Callable[..., object], short_path: Path, kind: str
) -> None:
    server = own_server(kind)
    link = proxy(server.url, socket_path=str(short_path / "s"))
    with SharedMemory(url=link.url, timeout=0.5) as shm, SensorWriter("camera", "front", shm) as writer:  # type: ignore[attr-defined]
        writer.write("image", np.zeros(100_000, "u1"))
        link.half_open()  # type: ignore[attr-defined]
        with pytest.raises(ServerError, match="the outcome is unknown") as caught:
            writer.write("image", np.ones(100_000, "u1"))
        assert caught.value.outcome_unknown
        link.cut()  # type: ignore[attr-defined]
        link.heal()  # type: ignore[attr-defined]
        reader = SensorReader("camera", "front", shm)
        assert check_image(reader.image.reshape(-1, 1)) == 1  # it had been written
        writer.write("image", np.full(100_000, 2, "u1"))
        assert check_image(reader.image.reshape(-1, 1)) == 2
        assert len(files(shm)) == references(shm)


def test_many_threads_share_a_writer_and_a_reader(url: str) -> None:
    with SharedMemory(url=url) as shm, SensorWriter("camera", "front", shm) as writer:
        writer.write("n0", [0, 0])
        failed: list[BaseException] = []

        def work(index: int) -> None:
            try:
                for number in range(200):
                    writer.write(f"n{index}", [number, number])
                    left, right = reader.get_data(f"n{index}")
                    assert left == right == number
            except BaseException as error:  # noqa: BLE001  told to the test
                failed.append(error)

        with SensorReader("camera", "front", shm) as reader:
            threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failed == [] and reader.get_data() == {f"n{index}": [199, 199] for index in range(4)}
