"""Snapshots on disk: zip files of CBOR values, as the original TMPFS framework writes and reads them.

It knows zip members, folders of CBOR files, and how a snapshot is named. It must not know servers or sensors.
Invariants:

1. A snapshot has its name when it is whole, and never replaces a file. When it is put on disk is left to the system:
   waiting for it takes longer than writing, and datasets are recorded a thousand times a second.
2. A member is a value: its name is the value's, `outer/inner` for one of a nested dictionary. Nothing is ever written
   where a member's name leads; a name that leads elsewhere is refused.
3. What this module wrote it reads back the same, nested dictionaries too; its zips say so in their comment. In other
   zips a folder that all members are in is left out, as the original does with what its `write_zip` made.
"""

import time
import zipfile
import zlib
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO

from shareddata import cbor, tree, wholefile
from shareddata.errors import DecodeError, FieldError

_OURS = b"shareddata"
DEFLATE_LEVEL = 3
"""How zips are compressed where their writer has asked for it: as the original does."""

_EARLIEST, _LATEST = 315_619_200_000, 4_354_732_800_000  # milliseconds that a zip member's date can tell: 1980 to 2107
_LONGEST_NAME = 255 - len(".zip") - len("_1000000")


def write_zip(file: BinaryIO, members: Mapping[str, bytes], milliseconds: int, level: int = 0) -> None:
    """Write values as a zip file.

    Args:
        file: where to.
        members: CBOR by names.
        milliseconds: since 1970: the time of the members.
        level: 0 as they are, 1 to 9 deflated.
    """
    method = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
    date = time.localtime(min(max(milliseconds, _EARLIEST), _LATEST) / 1000)[:6]
    with zipfile.ZipFile(file, "w", method, compresslevel=level or None) as target:
        target.comment = _OURS
        for name, data in members.items():
            member = zipfile.ZipInfo(name, date)
            member.compress_type, member.external_attr = method, 0o644 << 16
            target.writestr(member, data, compresslevel=level or None)


def check_level(level: int) -> int:
    """Return a level of compression.

    Raises:
        FieldError: it is none.
    """
    if not isinstance(level, int) or not 0 <= level <= 9:
        raise FieldError(f"compresslevel {level!r}: expected 0 (as it is) to 9 (smallest)")
    return level


def save(
    folder: str | PathLike[str],
    stem: str,
    members: Mapping[str, bytes],
    milliseconds: int,
    level: int = 0,
    deflated: bool = False,
    once: bool = False,
) -> Path:
    """Write a snapshot into a folder, under a name that is not taken: `STEM.zip`, `STEM_1.zip`, ...

    Args:
        folder: where to.
        stem: the file's name, without `.zip`.
        members: CBOR by names.
        milliseconds: since 1970: the time of the members.
        level: 0 as they are, 1 to 9 deflated.
        deflated: deflate in any case.
        once: not again where a file of that name has the same content.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
    """
    place = Path(folder).absolute()
    stem = stem.encode()[:_LONGEST_NAME].decode(errors="ignore")
    level = level or (DEFLATE_LEVEL if deflated else 0)
    path = place / f"{stem}.zip"

    def content(file: BinaryIO) -> None:
        write_zip(file, members, milliseconds, level)

    with wholefile.Draft(str(place), str(path), content, f"{stem}.zip", durable=False) as draft:
        number = 0
        while not draft.publish(str(path), noted=once):
            number += 1
            path = place / f"{stem}_{number}.zip"
    return path


# -- reading --------------------------------------------------------------------------------------------------------


def read(path: str | PathLike[str]) -> Any:
    """Return what a snapshot holds, or a file of CBOR, or a folder of either.

    Args:
        path: a `.zip` file: a dictionary of its values, nested as they were; any other file: its value; a folder: a
            dictionary of what is in it, by file names.

    Raises:
        FileNotFoundError: there is nothing.
        DecodeError: the file is no zip, or what is in it is no CBOR, or a member's name leads elsewhere.

    Redis: none.
    """
    place = Path(fspath(path))
    if place.is_dir():
        return {each.name: read(each) for each in sorted(place.iterdir()) if not each.name.startswith(".shareddata-")}
    if place.suffix.lower() == ".zip":
        return _read_zip(place)
    try:
        return cbor.decode(place.read_bytes())
    except ValueError as error:
        raise DecodeError(f"{place}: expected a value in CBOR: {error}") from None


def _read_zip(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(place) as archive:
            ours = archive.comment == _OURS
            for member in archive.infolist():
                if not member.is_dir():
                    found[_member_name(place, member.filename)] = _decoded(archive.read(member), place, member.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DecodeError(f"{place}: no zip file, or a damaged one: {error}") from None
    try:
        return tree.nest(found if ours else _without_common_folder(found))  # type: ignore[no-any-return]
    except ValueError as error:
        raise DecodeError(f"{place}: member {error}") from None


def _member_name(place: Path, name: str) -> str:
    found = tree.cleaned(name)
    wrong = tree.trouble(name) or ("" if found else "the name is empty")
    if wrong:
        raise DecodeError(f"{place}: member {name!r}: {wrong}")
    return found


def _decoded(data: bytes, place: Path, name: str) -> Any:
    try:
        return cbor.decode(data)
    except ValueError as error:
        raise DecodeError(f"{place}: member {name!r}: expected a value in CBOR: {error}") from None


def _without_common_folder(values: Mapping[str, Any]) -> Mapping[str, Any]:
    tops = {name.partition("/")[0] for name in values if "/" in name}
    if len(tops) != 1 or not all("/" in name for name in values):
        return values
    return {name.partition("/")[2]: value for name, value in values.items()}
