"""Pictures as PNG files.

It knows the format as far as arrays of grey or coloured pixels need it (ISO/IEC 15948); it must not know where pictures
come from or where files go. Invariant: what is read back from the file is the array.
"""

import struct
import zlib
from typing import Any

from shareddata.codec import numpy

_GREY, _COLOURED = 0, 2  # the format's numbers


def encode(picture: Any) -> bytes:
    r"""Return a picture as the content of a PNG file.

    Args:
        picture: an array of shape (height, width), uint8 or uint16, or (height, width, 3), red, green and blue.

    Raises:
        ValueError: another shape or type of array.
        ModuleNotFoundError: numpy is not installed.

        >>> import numpy
        >>> encode(numpy.zeros((2, 3), "u1"))[:8]
        b'\x89PNG\r\n\x1a\n'
    """
    pixels = numpy().asarray(picture)
    grey = pixels.ndim == 2
    if not (grey or pixels.ndim == 3 and pixels.shape[2] == 3) or pixels.dtype.name not in ("uint8", "uint16"):
        raise ValueError(
            f"a picture is of shape (height, width) or (height, width, 3), uint8 or uint16, not {pixels.shape} "
            f"{pixels.dtype}"
        )
    height, width = pixels.shape[:2]
    if not height or not width:
        raise ValueError(f"a picture has pixels, not {width} x {height}")
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, _GREY if grey else _COLOURED, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)  # 0: no filter
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
