"""PNG files, read back by the format's own rules."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata import png

SIDES = st.integers(1, 9)


def read(content):
    """Read a PNG file of unfiltered rows back, checking each chunk."""
    assert content[:8] == bytes([0x89, *b"PNG", 13, 10, 26, 10])
    chunks, rest = {}, content[8:]
    while rest:
        (length,), kind = struct.unpack(">I", rest[:4]), rest[4:8]
        data, check = rest[8 : 8 + length], rest[8 + length : 12 + length]
        assert struct.unpack(">I", check)[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        rest = rest[12 + length :]
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *others = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert others == [0, 0, 0]
    samples = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 0).all()
    pixels = np.frombuffer(rows[:, 1:].tobytes(), f">u{depth // 8}")
    return pixels.reshape((height, width) if samples == 1 else (height, width, 3))


@given(SIDES, SIDES, st.sampled_from(["u1", "<u2", ">u2"]), st.booleans(), st.integers(0, 2**32 - 1))
def test_what_is_read_back_is_the_picture(height, width, dtype, grey, seed):
    shape = (height, width) if grey else (height, width, 3)
    picture = np.random.default_rng(seed).integers(0, 256 ** np.dtype(dtype).itemsize, shape).astype(dtype)
    seen = read(png.encode(picture))
    assert seen.shape == picture.shape and (seen == picture).all()


def test_views_are_pictures_too():
    picture = np.arange(600, dtype=np.uint16).reshape(20, 30)[::-2, 3::4]
    assert (read(png.encode(picture)) == picture).all()


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros(3, "u1"), r"not \(3,\) uint8"),
        (np.zeros((3, 3, 4), "u1"), r"not \(3, 3, 4\) uint8"),
        (np.zeros((3, 3)), r"not \(3, 3\) float64"),
        (np.zeros((0, 3), "u1"), r"has pixels, not 3 x 0"),
    ],
)
def test_what_is_no_picture(picture, says):
    with pytest.raises(ValueError, match=says):
        png.encode(picture)
