"""Archivers whose events are files of their own: arrays as npy, anything else as JSON.

It knows these formats and how a file gets its name: noted first, then whole, then under the name. It must not know how
events come or what becomes of those that fail (`archiver`). Invariants:

1. A file that is there is never written over: the next name has `_2`.
2. A file reads back as the payload was; what its format cannot hold is refused.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from shareddata.archiver import DataArchiver, Work
from shareddata.codec import encode_any, numpy
from shareddata.columns import listed
from shareddata.errors import FieldError
from shareddata.ledger import Ledger
from shareddata.paths import FileName
from shareddata.wholefile import Draft, Write, numbered
from shareddata.wire import shown

log = logging.getLogger("shareddata")

_NAMES = 10_000  # names whose last number is remembered


class FileArchiver(DataArchiver):
    """Stores each event as files of its own, whose names a template makes of the metadata.

    Args:
        save_template: the template (Jinja2). Beside the metadata it knows `_source`, `_event` and `_id`, the event's
            own number.
        *args: see `DataArchiver`.
        root: the folder that files stay below; None for the literal folder that the template begins with.
        **kwargs: see `DataArchiver`.

    Attributes:
        name_template: the template.

    Raises:
        TemplateError: the template cannot be read.

    Redis: as `DataArchiver`.
    """

    def __init__(
        self, save_template: str, *args: Any, root: str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> None:
        self.name_template = FileName(save_template, root)
        self._numbers: dict[str, int] = {}
        super().__init__(*args, **kwargs)

    def _distinction(self) -> str:
        return f"{self.name_template.text} {self.name_template.root}"

    def _prepare(self) -> None:
        if self.name_template.root is None:
            log.warning(
                "archiver %s: the template %r begins with an expression: events decide where files go; give "
                "root=FOLDER to keep them below it", self.name, self.name_template.text,
            )  # fmt: skip
        super()._prepare()

    def _path(self, source_name: str, metadata: Mapping[str, Any]) -> str:
        """Return the path that the template makes."""
        work = self._current
        number = work.identity.rpartition(":")[2] if work else ""
        return self.name_template.render({**metadata, "_source": source_name, "_event": self.event_name, "_id": number})

    def _write(self, path: str, write: Write, index: int = 0) -> None:
        """Put a whole file there, or under the next free name.

        Args:
            path: the name that the template made.
            write: writes the content.
            index: which of the event's files it is.
        """
        work = self._current
        assert work, "files are written while an event is stored"
        identity, ledger = f"{work.identity}:{index}", self._ledger if work.noted else None
        while True:
            name = self._name(work, identity, path, ledger)
            root = self.name_template.root or "/"
            if PurePosixPath(name).is_relative_to(root):  # a name of an earlier run may have another root
                with Draft(root, name, write, f"{self.name} {identity}", work.again) as draft:
                    if draft.publish(name, noted=ledger is not None):
                        self._last = name
                        return
            if ledger:
                ledger.release(identity, name)

    def _name(self, work: Work, identity: str, path: str, ledger: Ledger | None) -> str:
        """Return the name that is noted for a file, or else the first that is free, noted now."""
        if ledger and work.again and (mine := ledger.noted(identity)):
            work.notes[identity] = mine
            return mine
        if len(self._numbers) > _NAMES:
            self._numbers.clear()
        first = self._numbers.get(path, 1) if os.path.lexists(path) else 1
        for number, name in enumerate(numbered(path, first), first):
            if os.path.lexists(name):
                continue
            if ledger is None:
                return name
            if mine := self._claim(work, identity, name, ledger):
                if number > 1:
                    self._numbers[path] = number
                return mine
        raise AssertionError("there is always another number")

    def _claim(self, work: Work, identity: str, name: str, ledger: Ledger) -> str | None:
        """Note a name for a file; return the noted one, None when it is another's."""
        found = ledger.claim(work.event, identity, name)
        if found is None:
            return None
        mine, new = found
        if new and os.path.lexists(mine) and not ledger.is_adopted(identity, mine):
            ledger.release(identity, mine)  # it was taken while it was noted: by whom has no note of it any more
            return None
        work.notes[identity] = mine
        return mine


class ArrayArchiver(FileArchiver):
    """Stores arrays as npy files.

    Args:
        save_template: makes the file's name of the metadata; see `FileArchiver`.
        split_data_array: whether an array becomes a file for each of its frames (its first dimension); the template
            then knows the frame's number as `_split_index`.
        *args: see `DataArchiver`.
        **kwargs: see `FileArchiver` and `DataArchiver`.

    Attributes:
        name_template: the template.
        split_data_array: see above.

    Raises:
        TemplateError: the template cannot be read.
        ModuleNotFoundError: numpy is not installed.

        >>> with ArrayArchiver("frames/{{ '%03d' % frame }}.npy", False, "my-camera", "frames", shm=shm) as archiver:
        ...     archiver.feed("my-camera", ([[1, 2], [3, 4]], {"frame": 7}))
        >>> archiver.status.last
        '.../frames/007.npy'

    Redis: as `DataArchiver`.
    """

    def __init__(self, save_template: str, split_data_array: bool = False, *args: Any, **kwargs: Any) -> None:
        numpy()
        self.split_data_array = split_data_array
        super().__init__(save_template, *args, **kwargs)

    def _store(self, source_name: str, payload: Any, metadata: dict[str, Any]) -> None:
        """Save an array, or each of its frames."""
        array = array_of(payload, source_name)
        if not self.split_data_array or array.ndim == 0:
            return self._save(source_name, array, metadata, 0)
        for index, frame in enumerate(array):
            self._save(source_name, frame, {**metadata, "_split_index": index}, index)

    def _save(self, source_name: str, array: Any, metadata: Mapping[str, Any], index: int) -> None:
        path = self._path(source_name, metadata)
        self._write(path, lambda file: numpy().save(file, array, allow_pickle=False), index)


class JsonArchiver(FileArchiver):
    """Stores dictionaries, or any other JSON value, as JSON files.

    Args:
        save_template: makes the file's name of the metadata; see `FileArchiver`.
        merge_metadata: whether the metadata are put into the data under the key `metadata`.
        *args: see `DataArchiver`.
        **kwargs: see `FileArchiver` and `DataArchiver`.

    Attributes:
        name_template: the template.
        merge_metadata: see above.

    Raises:
        TemplateError: the template cannot be read.

    Redis: as `DataArchiver`.
    """

    def __init__(self, save_template: str, merge_metadata: bool = False, *args: Any, **kwargs: Any) -> None:
        self.merge_metadata = merge_metadata
        super().__init__(save_template, *args, **kwargs)

    def _store(self, source_name: str, payload: Any, metadata: dict[str, Any]) -> None:
        """Save a value as JSON."""
        if self.merge_metadata:
            if not isinstance(payload, dict) or "metadata" in payload:
                raise FieldError(
                    f"{source_name}: found {shown(payload)}, expected a dictionary without the key 'metadata', so that "
                    "the metadata can be merged into it"
                )
            payload = {**payload, "metadata": metadata}
        try:
            text = encode_any(listed(payload))
        except (TypeError, ValueError) as error:
            raise FieldError(f"{source_name}: {shown(payload)} cannot be written as JSON: {error}") from None
        self._write(self._path(source_name, metadata), lambda file: file.write(text + b"\n"))


def array_of(payload: Any, source_name: str) -> Any:
    """Return a payload as an array of numbers, bools or texts.

    Raises:
        FieldError: it is none.
    """
    try:
        array = numpy().asarray(payload)
    except ValueError as error:
        raise FieldError(f"{source_name}: {shown(payload)} is no array: {error}") from None
    if array.dtype.kind not in "biufcUSmMV" or isinstance(payload, str | bytes | dict):
        raise FieldError(f"{source_name}: {shown(payload)} is no array: archive it with a JsonArchiver")
    return array
