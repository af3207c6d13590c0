"""The camera: what its pictures show, against signals that are known; what it offers, as others see it."""

import csv
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from shareddata.apps.hdl_camera import COLOURS, HOP, LEVELS, WINDOW, Camera, Count, coloured, recorded, spectrogram

from shareddata import DataDict, SharedDataError, SharedMemory, archive, follow, frames
from shareddata.errors import SensorNotInitializedError
from shareddata.sensors import SensorReader

RATE = 100.0
IMU = Path(__file__).resolve().parents[1] / "data" / "xio-imu" / "sensor_data.csv"


def sine(frequency, amplitude=1.0, samples=1024):
    return amplitude * np.sin(2 * np.pi * frequency / RATE * np.arange(samples))


def write_recording(path, *axes, names=("Accelerometer X (g)", "Accelerometer Y (g)", "Accelerometer Z (g)")):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Time (s)", *names])
        rows.writerows([f"{number / RATE:.6f}", *row] for number, row in enumerate(zip(*axes)))
    return path


# -- the spectrogram ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [3.0, 12.5, 20.3, 45.0])
def test_a_sine_is_a_line_at_its_frequency_and_level(frequency):
    levels = spectrogram(sine(frequency, 0.1)[:, None], 256)[:, WINDOW // HOP :]
    rows = levels.argmax(axis=0)
    assert set(np.abs(rows - frequency / RATE * 512).round()) <= {0.0, 1.0}
    assert levels.max(axis=0) == pytest.approx(20 * math.log10(0.1), abs=0.1)
    far = np.abs(np.arange(256) - frequency / RATE * 512) > 40
    assert levels[far].max() < -20 - 50, "the window keeps a line narrow"


def test_two_sines_are_two_lines_and_axes_add_up():
    levels = spectrogram(np.stack([sine(10), sine(30), 0.01 * sine(20)], axis=1), 256)
    middle = levels[:, 100]
    peaks = [row for row in range(1, 255) if middle[row] == middle[row - 1 : row + 2].max() and middle[row] > -45]
    assert [round(row * RATE / 512) for row in peaks if middle[row] > -1] == [10, 30]
    assert middle[round(20 * 512 / RATE)] == pytest.approx(-40, abs=0.3)
    twice = spectrogram(np.stack([sine(10), sine(10)], axis=1), 256)
    assert twice[51, 100] - levels[51, 100] == pytest.approx(10 * math.log10(2), abs=0.01)


def test_a_column_shows_the_samples_that_end_with_it():
    samples = np.zeros(1024)
    samples[512:640] = sine(25, samples=128)
    levels = spectrogram(samples[:, None], 64).max(axis=0)
    seen = np.flatnonzero(levels > -100)
    assert seen[0] * HOP >= 512 > (seen[0] - 2) * HOP
    assert seen[-1] * HOP - WINDOW < 640 <= (seen[-1] + 2) * HOP - WINDOW
    assert levels.argmax() * HOP == pytest.approx(639, abs=HOP)


def test_what_does_not_move_is_not_seen_and_silence_has_a_level():
    assert spectrogram(np.full((512, 3), 9.81), 64).max() < -200
    assert np.isfinite(spectrogram(np.zeros((512, 1)), 64)).all()


def test_the_recording_has_no_end():
    """Its first columns look back at its last samples."""
    samples = sine(12.5)[:, None]
    levels = spectrogram(samples, 256).clip(-200)
    assert levels.shape == (256, 1024 // HOP)
    assert levels[:, 0] == pytest.approx(levels[:, WINDOW // HOP * 2], abs=1e-6)


# -- frames ------------------------------------------------------------------------------------------------------------


def test_frames_move_from_right_to_left_at_the_speed_of_the_recording(tmp_path):
    quiet = np.zeros(1024)
    samples = np.concatenate([sine(25, 0.5), quiet, quiet, quiet])
    camera = Camera(write_recording(tmp_path / "imu.csv", samples, samples * 0, samples * 0), "Accelerometer", 300, 64)
    assert camera.speed == pytest.approx(RATE / HOP)
    first, later = camera.frame(4.0), camera.frame(6.0)
    assert (first.shape, first.dtype) == ((64, 300), np.dtype("<u2"))
    assert (later[:, : 300 - 50] == first[:, 50:]).all(), "two seconds are 50 columns"
    assert (first[:, :150] == 0).all() and first[31, -1] > 50000, "frequency grows upwards: 25 Hz is the middle"
    assert (camera.frame(4.0 + len(samples) / RATE) == first).all(), "and again"


def test_black_and_white_are_the_ends_of_the_scale(tmp_path):
    black, white = LEVELS["Accelerometer"]
    signals = [sine(25, 10 ** (level / 20)) for level in (white + 5, white, (black + white) / 2, black - 10)]
    seen = []
    for signal in signals:
        path = write_recording(tmp_path / "imu.csv", signal, signal * 0, signal * 0)
        seen.append(int(Camera(path, "Accelerometer", 10, 64).frame(5.0)[31].max()))
    assert seen[0] == 65535 and seen[1] == pytest.approx(65535, rel=0.01)
    assert seen[2] == pytest.approx(32768, rel=0.01) and seen[3] < 10


def test_the_own_recording_is_recognised():
    """While the unit was moved by a machine there is a line near 45 Hz; at rest there is none."""
    rate, samples = recorded(IMU, "accelerometer")
    assert rate == pytest.approx(99.9, abs=0.1) and samples.shape == (2400, 3)
    lines = IMU.read_text().splitlines()
    assert samples[7].tolist() == [float(cell) for cell in lines[8].split(",")[4:7]]
    levels = spectrogram(samples, 256)
    moved, rest = (levels[210:256, column].max() for column in (175, 350))
    assert moved > -20 and rest < -45
    assert levels[128:, 175].argmax() + 128 == pytest.approx(45 / rate * 512, abs=8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"has no Gyroscope: its columns are $"),
        ("Time (s),Accelerometer X (g)\n0,1\n", r"imu.csv has no Gyroscope: its columns are Time \(s\), Acc"),
        ("Time (s),Gyroscope X (deg/s)\n0,1\n1,2\n", r"imu.csv has 2 samples: a spectrum takes at least 256"),
        ("Time (s),Gyroscope X (deg/s)\n0,one\n", r"could not convert string 'one'"),
    ],
)
def test_a_recording_that_is_none(tmp_path, text, says):
    path = tmp_path / "imu.csv"
    path.write_text(text)
    with pytest.raises(SharedDataError, match=says):
        recorded(path, "Gyroscope")


def test_frames_that_were_due_and_not_taken_are_counted(monkeypatch):
    times = iter([100.0, 100.0, 100.1, 100.5])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    count, frame = Count(10), np.full((64, 2), 65535, np.uint16)
    assert count.took(frame) == {"number": 0, "rate": 0.0, "mean": 1.0, "taken": 1, "missed": 0}
    assert count.took(frame) == {"number": 1, "rate": pytest.approx(10), "mean": 1.0, "taken": 2, "missed": 0}
    assert count.took(frame) == {"number": 2, "rate": pytest.approx(4), "mean": 1.0, "taken": 3, "missed": 3}


def test_colours_keep_the_order_of_levels():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = coloured(ramp)
    assert (picture.shape, picture.dtype) == ((256, 256, 3), np.uint8)
    assert tuple(picture[0, 0]) == COLOURS[0] and tuple(picture[-1, -1]) == COLOURS[-1]
    brightness = picture.reshape(-1, 3) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) >= 0).all() and len(np.unique(brightness.round(6))) > 200


# -- the program -------------------------------------------------------------------------------------------------------


def latest(shm):
    with DataDict("READER", shm) as dd:
        dd.set_datas_to_read(["CAMERA__frames"])
        return dd.next()[0]


def camera_of(start, url, *options):
    return start("apps/hdl_camera.py", "-u", url, "-f", 50, "-w", 256, "-H", 128, *options)


def names(shm):
    """What there is: frame files, sensors, sources of events."""
    connection = shm.connect()
    try:
        sensors = [name.decode() for name in connection.ask("ZRANGE", shm.keys.sensors(), 0, -1)]
        return [info.name for info in frames.files(shm)], sensors, connection.ask("SMEMBERS", shm.keys.events())
    finally:
        connection.close()


def test_frames_are_followed_in_order_until_the_camera_stops(described, url, start, eventually):
    camera = camera_of(start, url, "-o", "frames", "-c", "front", "-k", 1000)
    eventually(lambda: names(described)[0] == ["front"])
    with frames.FrameFile("front", described) as file:
        follower = follow.Follower(file, ["keys"], timeout=10)
        seen = [(index, file["data"][index]) for index in islice(follower, 40)]
        assert [index for index, _ in seen] == list(range(40))
        assert file["keys/frame"][39, 0, 0] == 40 and file.attrs["signal"] == "Accelerometer"
        eventually(lambda: latest(described).taken > 45)
        assert camera.end() == 0
        rest = list(follower)
        assert file.sealed and rest[-1] + 1 == len(file["data"]) == latest(described).taken
    own = Camera(IMU, "Accelerometer", 256, 128)
    width = own.columns.shape[1]
    for _, frame in seen:  # each is what is seen at some time, one column or more after the one before
        at = [last for last in range(width) if (own.frame(last / own.speed + 1e-9)[:, -1] == frame[:, -1]).all()]
        assert any((own.frame(last / own.speed + 1e-9) == frame).all() for last in at)
    assert (frames.FrameFile("front", described)["data"][0] == seen[0][1]).all()


def test_the_sensor_has_the_newest_picture(described, url, start, eventually):
    camera = camera_of(start, url, "-o", "sensor", "-s", "Gyroscope")
    eventually(lambda: names(described)[1] == ["camera/camera"])
    with SensorReader("camera", shm=described) as reader:
        first = eventually(lambda: packed_of(reader))
        eventually(lambda: reader.measurement["about"]["frame"] > first["about"]["frame"] + 5)
        assert camera.end() == 0
        last = reader.measurement
        assert last["picture"].shape == (128, 256, 3) and (last["picture"] == reader.picture).all()
    assert last["about"] == {
        "frame": latest(described).number, "ts": latest(described).ts, "signal": "Gyroscope", "frequency": 50.0,
        "exposure": pytest.approx(1.28, abs=0.01),
    }
    assert (last["picture"] != first["picture"]).any()


def packed_of(reader):
    try:
        return reader.measurement
    except (AttributeError, SensorNotInitializedError):
        return None


def test_each_frame_is_an_event(described, url, start, tmp_path, eventually):
    template = str(tmp_path / "{{ '%04d' % frame }}.npy")
    letters = tmp_path / "letters"
    with archive.ArrayArchiver(
        template, object_selector="front", event_name="acquisition_data", shm=described, dead_letters=letters
    ) as archiver:
        camera = camera_of(start, url, "-o", "events", "-c", "front")
        eventually(lambda: archiver.status.stored >= 30)
        assert camera.end() == 0
    taken = latest(described).taken
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == [f"{number:04d}.npy" for number in range(taken)]
    assert np.load(tmp_path / "0000.npy").shape == (128, 256)


def test_it_offers_what_is_asked_for(described, url, start, eventually):
    camera = camera_of(start, url, "-o", "")
    eventually(lambda: (seen := latest(described)) and seen.taken > 5)
    assert names(described) == ([], [], [])
    assert camera.end() == 0
    camera = camera_of(start, url)
    eventually(lambda: names(described) == (["camera"], ["camera/camera"], [b"camera:acquisition_data"]))
    assert camera.end() == 0


def test_events_that_find_no_room_hold_nobody_up(described, url, start, tmp_path, eventually):
    archiver = archive.ArrayArchiver(
        "{{ frame }}.npy", root=tmp_path, dead_letters=tmp_path, shm=described, object_selector="camera",
        event_name="acquisition_data",
    )  # fmt: skip
    archiver.close()  # what it has not taken is kept for it
    camera = camera_of(start, url, "-o", "frames,events", "-f", 200)
    trame = eventually(lambda: (seen := latest(described)) and seen.refused > 20 and seen, 15)
    assert camera.log("not emitted: .*100 events"), camera.log()
    with frames.FrameFile("camera", described) as file:
        assert len(file["data"]) >= trame.taken > 100
    assert camera.log().count("not emitted") == 1
    assert camera.end() == 0


def test_the_camera_goes_on_when_the_server_comes_back(own_server, start, eventually):
    server = own_server(fsync="always")
    with SharedMemory(url=server.url) as shm:
        shm.init(IMU.parents[3] / "datadesc" / "camera.json")
        camera = camera_of(start, server.url)
        eventually(lambda: (seen := latest(shm)) and seen.taken > 20)
        server.kill()
        eventually(lambda: camera.log("the server takes nothing"))
        server.start()
        eventually(lambda: camera.log("the server is back after"), 10)
        with frames.FrameFile("camera", shm) as file:
            before = len(file["data"])
            eventually(lambda: file.refresh() or len(file["data"]) > before + 20)
        assert latest(shm).refused > 0
        assert camera.end() == 0
        assert "Traceback" not in camera.log()


def test_the_record_counts(described, url, start, eventually):
    camera = start("apps/hdl_camera.py", "-f", 50, "-u", url, "-a", "HDL_CAMERA")
    trame = eventually(lambda: (seen := latest(described)) and seen.taken >= 30 and seen, 15)
    assert trame.sender == "HDL_CAMERA" and trame.number == trame.taken - 1
    assert 5 < trame.rate <= 60 and 0.1 < trame.mean < 0.9 and trame.refused == 0
    assert camera.end() == 0
    assert "Traceback" not in camera.log()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-s", "Barometer"], 2, r"the signal is one of Accelerometer, Gyroscope"),
        (["-H", 63], 2, r"64 rows or more"),
        (["-o", "frames,smell"], 2, r"any of frames, sensor, events, not smell"),
        (["-R", "/nowhere.csv"], 1, r"No such file or directory: '/nowhere.csv'"),
        (["-R", __file__], 1, r"has no Accelerometer"),
    ],
)
def test_wrong_options(described, url, start, options, code, says, eventually):
    camera = start("apps/hdl_camera.py", *options, "-u", url)
    assert camera.process.wait(15) == code
    assert camera.log(says) and "Traceback" not in camera.log(), camera.log()
