"""Snapshots on disk: zips made by hand, names, and what never leaves the folder."""

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest

from shareddata import DecodeError, FieldError, cbor, snapshots
from shareddata.sensors import read

NUMBERS = {"number": b"\x02", "number_x2": b"\x04"}


def stored_zip(members: Mapping[str, bytes]) -> bytes:
    """Return a zip file without compression, byte by byte as PKWARE's APPNOTE describes it (4.3.7, 4.3.12, 4.3.16)."""
    body, directory = b"", b""
    for name, data in members.items():
        place, path = len(body), name.encode()
        sizes = (zlib.crc32(data), len(data), len(data), len(path), 0)
        alike = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0x6000, 0x5A61, *sizes)
        body += b"PK\3\4" + alike + path + data
        directory += b"PK\1\2" + struct.pack("<H", 20) + alike + struct.pack("<HHHII", 0, 0, 0, 0o100644 << 16, place)
        directory += path
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def file_of(folder: Path, members: Mapping[str, bytes], name: str = "1717000000000_first.zip") -> Path:
    path = folder / name
    path.write_bytes(stored_zip(members))
    return path


# What the original framework writes: cbor2's encoding of plain values; arrays of one dimension as typed arrays, with 68
# for unsigned bytes; of more dimensions as tag 40, the shape a list; bytes in the machine's order.
ORIGINAL = {
    "number": bytes.fromhex("02"),
    "temperature": bytes.fromhex("fb4036800000000000"),
    "name": bytes.fromhex("6566697273 74".replace(" ", "")),
    "depth": bytes.fromhex("d845") + bytes.fromhex("46") + struct.pack("<3H", 1, 2, 700),
    "image": bytes.fromhex("d828 82 83 02 02 03 d844 4c".replace(" ", "")) + bytes(range(12)),
    "circles": bytes.fromhex("d828828201 02 d85548".replace(" ", "")) + struct.pack("<2f", 1.5, -2),
    "pose/x": bytes.fromhex("01"),
    "pose/axis/name": bytes.fromhex("617a"),
    "number_attr/unit": bytes.fromhex("6156"),
}


def test_a_zip_of_the_original_made_by_hand(tmp_path: Path) -> None:
    found = read(file_of(tmp_path, ORIGINAL))
    arrays = {name: found.pop(name) for name in ("depth", "image", "circles")}
    assert found == {
        "number": 2,
        "temperature": 22.5,
        "name": "first",
        "pose": {"x": 1, "axis": {"name": "z"}},
        "number_attr": {"unit": "V"},
    }
    assert (arrays["depth"].dtype, arrays["depth"].tolist()) == (np.dtype("u2"), [1, 2, 700])
    assert (arrays["image"].dtype, arrays["image"].shape) == (np.dtype("u1"), (2, 2, 3))
    assert arrays["image"].tolist()[1] == [[6, 7, 8], [9, 10, 11]]
    assert arrays["circles"].dtype == np.dtype("f4") and arrays["circles"].tolist() == [[1.5, -2.0]]


def test_a_deflated_zip_with_folders_as_members(tmp_path: Path) -> None:
    path = tmp_path / "a.ZIP"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as target:
        target.writestr("pose/", b"")
        target.writestr("pose/x", cbor2.dumps([1.5] * 100))
        target.writestr("number", cbor2.dumps(1))
    assert read(path) == {"pose": {"x": [1.5] * 100}, "number": 1}


def test_the_folder_that_the_originals_write_zip_makes_is_left_out(tmp_path: Path) -> None:
    one = file_of(tmp_path, {"measurement/number": b"\x01", "measurement/pose/x": b"\x02"})
    assert read(one) == {"number": 1, "pose": {"x": 2}}
    assert read(file_of(tmp_path, {"a/x": b"\x01", "b/x": b"\x02"})) == {"a": {"x": 1}, "b": {"x": 2}}


def originals_read(path: Path) -> dict[str, Any]:
    """Read a zip as the original does: with zipfile and cbor2, the first folder of each member left out."""
    found: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            *above, last = member.filename.split("/")
            place = found
            for part in above[1:]:
                place = place.setdefault(part, {})
            with archive.open(member) as file:
                place[last] = cbor2.CBORDecoder(file, tag_hook=lambda tag, _: (tag.tag, tag.value)).decode()
    return found


@pytest.mark.parametrize("level", [0, 3])
def test_the_original_reads_what_is_written(tmp_path: Path, level: int) -> None:
    image = np.arange(12, dtype="u1").reshape(2, 2, 3)
    values = {"number": 2, "text": "first", "image": image, "pose/x": 1.5}
    members = {name: b"".join(cbor.encode(value)) for name, value in values.items()}
    path = snapshots.save(tmp_path, "1_a", members, 1, level)
    assert originals_read(path) == {
        "number": 2,
        "text": "first",
        "image": (40, ((2, 2, 3), (64, bytes(range(12))))),
        "x": 1.5,
    }
    found = read(path)
    assert found.pop("image").tolist() == image.tolist()
    assert found == {"number": 2, "text": "first", "pose": {"x": 1.5}}


def test_what_is_written_reads_back_nested_also_when_all_is_in_one_folder(tmp_path: Path) -> None:
    path = snapshots.save(tmp_path, "1_a", {"pose/x": b"\x01", "pose/y": b"\x02"}, 1)
    assert read(path) == {"pose": {"x": 1, "y": 2}}


def test_snapshots_are_stored_as_they_are_or_deflated(tmp_path: Path) -> None:
    members = {"text": b"".join(cbor.encode("a" * 10_000))}
    sizes = [snapshots.save(tmp_path, f"{level}", members, 1, level).stat().st_size for level in (0, 1, 9)]
    assert sizes[0] > 10_000 and sizes[1] < 300 and sizes[2] <= sizes[1]
    assert snapshots.save(tmp_path, "d", members, 1, 0, deflated=True).stat().st_size < 300
    with zipfile.ZipFile(tmp_path / "d.zip") as archive:
        assert archive.testzip() is None


def test_a_name_that_is_taken_gets_a_number_and_nothing_is_replaced(tmp_path: Path) -> None:
    paths = [snapshots.save(tmp_path, "1_a", {"n": bytes([n])}, 1) for n in range(4)]
    assert [path.name for path in paths] == ["1_a.zip", "1_a_1.zip", "1_a_2.zip", "1_a_3.zip"]
    assert [read(path)["n"] for path in paths] == [0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)


def test_what_is_there_once_is_not_written_again(tmp_path: Path) -> None:
    for _ in range(3):
        snapshots.save(tmp_path, "a_metadata", {"n": b"\x01"}, 5000, once=True)
    snapshots.save(tmp_path, "a_metadata", {"n": b"\x02"}, 5000, once=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_metadata.zip", "a_metadata_1.zip"]


def test_a_very_long_name_is_cut_off(tmp_path: Path) -> None:
    path = snapshots.save(tmp_path, "1_" + "\u00fc" * 300, {"n": b"\x01"}, 1)
    assert path.exists() and len(path.name.encode()) <= 255


@pytest.mark.parametrize("milliseconds", [0, 1, 1_717_000_000_000, 10**14])
def test_a_clock_that_is_wrong_hinders_nothing(tmp_path: Path, milliseconds: int) -> None:
    assert read(snapshots.save(tmp_path, "1_a", NUMBERS, milliseconds)) == {"number": 2, "number_x2": 4}


@pytest.mark.parametrize("level", [-1, 10, "3", None, 1.0])
def test_levels_that_are_none(level: Any) -> None:
    with pytest.raises(FieldError, match="expected 0 .* to 9"):
        snapshots.check_level(level)


def test_a_folder_and_a_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "pose").mkdir()
    (tmp_path / "pose" / "x").write_bytes(b"\x01")
    (tmp_path / "number").write_bytes(b"\x02")
    file_of(tmp_path, NUMBERS, "measurement.zip")
    assert read(tmp_path) == {"measurement.zip": {"number": 2, "number_x2": 4}, "number": 2, "pose": {"x": 1}}
    assert read(str(tmp_path / "number")) == 2


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "a\nb", "x" * 300])
def test_members_with_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    path = file_of(tmp_path, {"number": b"\x01", name: b"\x02"})
    with pytest.raises(DecodeError, match=r"_first\.zip: member .*: (the name|a part of the name|characters)"):
        read(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"a": b"\x5f"}, "member 'a': expected a value in CBOR"),
        ({"a": b""}, "member 'a': expected a value in CBOR"),
        ({"a": b"\x01", "a/b": b"\x02"}, "member 'a/b': 'a' is a value itself"),
        ({"a/b": b"\x01", "a": b"\x02", "c": b"\x03"}, "member 'a' is a value, and others stand below it"),
    ],
)
def test_members_that_make_no_values(tmp_path: Path, members: Mapping[str, bytes], says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        read(file_of(tmp_path, members))


@pytest.mark.parametrize("cut", [0, 10, 60, 100])
def test_a_zip_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(stored_zip(ORIGINAL)[:cut])
    with pytest.raises(DecodeError, match="a.zip: no zip file, or a damaged one"):
        read(path)


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    data = bytearray(stored_zip(NUMBERS))
    data[30 + len("number")] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DecodeError, match="damaged one: Bad CRC-32 for file 'number'"):
        read(tmp_path / "a.zip")


def test_nothing_there_and_nothing_readable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(DecodeError, match="a: expected a value in CBOR"):
        read(tmp_path / "a")


def test_a_snapshot_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """A program that is killed while it writes leaves no file with a snapshot's name."""
    code = (
        "import os, signal, sys\nfrom shareddata import snapshots\n"
        "class Deadly(bytes):\n    def __len__(self):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "snapshots.save(sys.argv[1], '1_a', {'a': b'x', 'b': Deadly(b'y')}, 1)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30)
    assert done.returncode == -9
    assert [path for path in tmp_path.iterdir() if path.suffix == ".zip"] == []
    assert read(tmp_path) == {}


def test_writing_takes_any_stream() -> None:
    file = io.BytesIO()
    snapshots.write_zip(file, NUMBERS, 1)
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["number", "number_x2"] and archive.read("number") == b"\x02"
