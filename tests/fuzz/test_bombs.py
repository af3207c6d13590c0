"""Small data that announce or unpack to enormous ones: refused, in a process that may have 700 MB at the most."""

import io
import struct
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from doors import zipped
from programs import Program
from shareddata import cbor, descfile, snapshots
from shareddata.errors import DecodeError, DescriptionError, LogFormatError
from shareddata.formats import Format

BOUNDED = """
    import resource
    import numpy
    resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
    from shareddata import cbor, descfile, large, snapshots
    from shareddata.formats import Format
    from shareddata.names import Names
    from shareddata.wire import Layout
"""
HEAD = '[["ts", 0.0], ["sender", ""], '


def announced(head: str, size: int) -> bytes:
    """Return CBOR that announces so much and holds none of it."""
    return bytes.fromhex(head) + struct.pack(">Q", size)


CBOR = [
    pytest.param(announced(head, size), id=f"{kind} of 2**{size.bit_length() - 1}")
    for kind, head in {"bytes": "5b", "text": "7b", "list": "9b", "map": "bb", "typed array": "d8565b"}.items()
    for size in (1 << 31, 1 << 60, (1 << 64) - 1)
] + [
    pytest.param(bytes.fromhex("d828828219ffff19ffff d856 40"), id="an array of no elements"),
    pytest.param(bytes.fromhex("d8288282001b8000000000000000d84040"), id="an array of no row and 2**63 columns"),
    pytest.param(bytes.fromhex("c5821b0fffffffffffffff01"), id="a number with an exponent of 2**60"),
    pytest.param(bytes.fromhex("d81c81d81d00"), id="a list that holds itself"),
    pytest.param(bytes.fromhex("d81c80") + b"\xd8\x1c\x82\xd8\x1d\x00\xd8\x1d\x00", id="lists that hold others twice"),
]


@pytest.mark.parametrize("data", CBOR)
def test_cbor(data: bytes) -> None:
    """What announces too much ends where the data end; nothing is made room for before."""
    try:
        assert len(repr(cbor.decode(data))) < 1000
    except ValueError:
        pass


def test_a_list_that_holds_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="holds itself"):
        cbor.decode(bytes.fromhex("d81c81d81d00"))


def bomb(size: int, announced_size: int | None = None) -> bytes:
    """Return a small zip with a member of so many zeros; perhaps one that announces another size."""
    file = io.BytesIO()
    packed = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
    with packed as archive, archive.open("a", "w", force_zip64=True) as member:
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    data = file.getvalue()
    if announced_size is not None:  # in the central directory, which is what counts
        place = data.index(b"PK\x01\x02") + 24
        data = data[:place] + struct.pack("<I", announced_size) + data[place + 4 :]
    return data


def test_a_zip_that_unpacks_to_too_much(tmp_path: Path) -> None:
    place = tmp_path / "s.zip"
    place.write_bytes(bomb(8 << 20))
    with pytest.raises(DecodeError, match="unpacked it has 8388608 bytes, expected 1000000 at the most: read it with"):
        snapshots.read(place, most=1_000_000)
    place.write_bytes(zipped(a=b"\x01"))
    assert snapshots.read(place, most=1) == {"a": 1}


def test_a_zip_that_tells_less_than_it_unpacks_to(tmp_path: Path) -> None:
    place = tmp_path / "s.zip"
    place.write_bytes(bomb(8 << 20, announced_size=1000))
    with pytest.raises(DecodeError, match="Bad CRC-32"):
        snapshots.read(place, most=1_000_000)


def test_many_members_of_the_same_bytes(tmp_path: Path) -> None:
    """Each member is small, all of them are not."""
    place = tmp_path / "s.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(50):
            archive.writestr(f"m{number}", bytes(100_000))
    with pytest.raises(DecodeError, match="unpacked it has 5000000 bytes"):
        snapshots.read(place, most=1_000_000)


def test_arrays_that_no_server_holds(tmp_path: Path) -> None:
    place = tmp_path / "d.json"
    place.write_text(f'{{"R": {HEAD}["v", 0, {{"dtype": "<f8", "shape": [100000, 100000]}}]]}}')
    with pytest.raises(DescriptionError, match="80000000000 bytes: Redis holds 536870912"):
        descfile.load(place)


def test_log_formats_that_no_log_has() -> None:
    with pytest.raises(LogFormatError, match="has 79999999992 bytes, expected 16777216 at the most"):
        Format("9999999999d")


ENORMOUS = [
    """
    from pathlib import Path
    array = '["v", 0, {"dtype": "<f8", "shape": [99999, 99999]}]'
    Path("d.json").write_text('{"R": [["ts", 0.0], ["sender", ""], ' + array + ']}')
    try:
        for record in descfile.load("d.json").values():
            Layout(record, Names("")).defaults()
    except DescriptionError:
        say("refused")
    """,
    """
    try:
        Format("9999999999d").dtype()
    except LogFormatError:
        say("refused")
    """,
    """
    try:
        snapshots.read("bomb.zip")
    except DecodeError as error:
        assert "expected 1073741824 at the most" in str(error), error
        say("refused")
    """,
    """
    liar = sys.argv[1]
    resource.setrlimit(resource.RLIMIT_DATA, (250 << 20, 250 << 20))
    try:
        snapshots.read(liar)
    except DecodeError:
        say("refused")
    """,
    """
    from pathlib import Path
    from shareddata import tmpfs
    Path("small").write_bytes(b"abc")
    assert tmpfs.read("small", 1 << 50) == b"abc"
    say("refused")
    """,
]


@pytest.mark.parametrize("code", ENORMOUS, ids=["description", "log format", "zip", "lying zip", "reference"])
def test_in_little_memory(program: Callable[..., Program], tmp_path: Path, code: str) -> None:
    place = tmp_path / "bomb.zip"
    if "bomb" in code:
        place.write_bytes(bomb(1 << 20, announced_size=1500 << 20))
    elif "liar" in code:
        place.write_bytes(bomb(320 << 20, announced_size=1000))
        assert place.stat().st_size < 1 << 20
    small = program(f"{textwrap.dedent(BOUNDED)}\nos.chdir({str(tmp_path)!r})\n{textwrap.dedent(code)}", place)
    assert small.line(30) == "refused"
