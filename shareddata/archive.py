"""Archivers: what is emitted ends as files. The front room for whoever emits events or keeps them.

It knows which classes there are and how a configuration starts them. It must not know how anything is stored.
Invariants:

1. A configuration that is wrong starts nothing.

    {"_id": "my-camera-capturer", "classname": "herostools.actor.ArrayArchiver",
     "arguments": {"object_selector": "my-camera", "event_name": "acquisition_data", "save_template": "..."}}
"""

import difflib
import importlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shareddata import memory
from shareddata.archiver import DataArchiver, Status
from shareddata.errors import DescriptionError, SharedDataError
from shareddata.events import Emitter, emit
from shareddata.filearchive import ArrayArchiver, JsonArchiver
from shareddata.hdf5archive import Hdf5Archiver
from shareddata.memory import SharedMemory
from shareddata.paths import FileName
from shareddata.subscription import check

HERODataArchiver = DataArchiver

__all__ = [
    "ArrayArchiver",
    "Archivers",
    "DataArchiver",
    "Emitter",
    "HERODataArchiver",
    "Hdf5Archiver",
    "JsonArchiver",
    "Status",
    "configured",
    "emit",
    "start",
]

Config = Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str]

_OURS: dict[str, type[DataArchiver]] = {
    "ArrayArchiver": ArrayArchiver,
    "Hdf5Archiver": Hdf5Archiver,
    "JsonArchiver": JsonArchiver,
}
_ROOMS = ("shareddata.archive", "herostools.actor", "herostools.actor.data_archiver", "")


class Archivers(tuple[DataArchiver, ...]):
    """Archivers that were started together: a tuple, and a context manager that stops them."""

    def __enter__(self) -> "Archivers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all: what was emitted until now is stored. They stop at the same time.

        Redis: as for the events.
        """
        for archiver in self:
            archiver._stop_event.set()
        with ExitStack() as stack:  # each is closed, also when another one raises
            for archiver in self:
                stack.callback(archiver.close)


class Configured:
    """One archiver of a configuration, checked and not started.

    Args:
        where: the file and place, for messages.
        content: `_id`, `classname` and `arguments`.

    Raises:
        DescriptionError, TemplateError: naming the place, the mistake and the remedy.
    """

    def __init__(self, where: str, content: Any) -> None:
        self.name: str | None = content.get("_id") if isinstance(content, Mapping) else None
        self._where = where = f"{where}, {self.name!r}" if self.name else where
        if not isinstance(content, Mapping):
            raise DescriptionError(f"{where}: found {str(content):.60}, expected an object with a classname")
        for key in content.keys() - {"_id", "_rev", "classname", "arguments"}:
            raise DescriptionError(f"{where}: the key {key!r} means nothing here: expected _id, classname, arguments")
        self.arguments = content.get("arguments", {})
        if not isinstance(self.arguments, Mapping):
            raise DescriptionError(f"{where}: the arguments are {str(self.arguments):.60}, expected an object")
        self.kind = self._class(content.get("classname"))
        self.name = self.name or self.arguments.get("name")
        self._check()

    def _class(self, name: Any) -> type[DataArchiver]:
        module, _, word = str(name).rpartition(".")
        if module in _ROOMS and word in _OURS:
            return _OURS[word]
        try:
            found = None if module in _ROOMS else getattr(importlib.import_module(module), word)
        except (ImportError, AttributeError) as error:
            raise DescriptionError(f"{self._where}: the class {name!r} cannot be had: {error}") from None
        if not (inspect.isclass(found) and issubclass(found, DataArchiver)):
            near = difflib.get_close_matches(word, _OURS, 1) or list(_OURS)
            raise DescriptionError(f"{self._where}: {name!r} is no archiver: did you mean {' or '.join(near)}?")
        return found

    def _check(self) -> None:
        """Compare the arguments with what the class takes."""
        known = _parameters(self.kind)
        for name in self.arguments.keys() - known.keys():
            near = difflib.get_close_matches(name, known, 1)
            these = ", ".join(sorted(known.keys() - {"self", "shm"}))
            hint = f"did you mean {near[0]}?" if near else f"these are: {these}"
            raise DescriptionError(f"{self._where}: {self.kind.__name__} takes no argument {name!r}: {hint}")
        left_out = {"self", "object_selector", "event_name"} if "follow" in self.arguments else {"self"}
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in self.arguments and name not in left_out:
                raise DescriptionError(f"{self._where}: {self.kind.__name__} needs the argument {name!r}")
        names = (self.arguments.get("object_selector", "*"), self.arguments.get("event_name", "x"))
        check(self.name or "x", *names)
        if "save_template" in known:
            FileName(self.arguments["save_template"], self.arguments.get("root"))

    def start(self, shm: SharedMemory, **more: Any) -> DataArchiver:
        """Make the archiver, which begins; `more` is put into its arguments."""
        try:
            return self.kind(**{**self.arguments, **more, "name": self.name, "shm": shm})
        except SharedDataError:
            raise
        except (TypeError, ValueError) as error:
            raise DescriptionError(f"{self._where}: {error}") from None


def _parameters(kind: type[DataArchiver]) -> dict[str, inspect.Parameter]:
    """Return what a class takes, and what those take that it hands `**kwargs` on to."""
    known: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__:
        if "__init__" in vars(each):
            own = inspect.signature(vars(each)["__init__"]).parameters.values()
            known = {p.name: p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} | known
            if not any(p.kind is p.VAR_KEYWORD for p in own):
                break
    return known


def configured(config: Config) -> list[Configured]:
    """Return what a configuration says, checked.

    Args:
        config: an object with `_id`, `classname` and `arguments`, a list of such, or a JSON file that holds either.

    Raises:
        DescriptionError: it is wrong; the message names file, place and remedy.
        OSError: a file cannot be read.

    Redis: none.
    """
    found = [Configured(where, content) for where, content in _contents(config, "configuration")]
    if not found:
        raise DescriptionError("the configuration holds no archiver")
    names = [each.name for each in found if each.name]
    for name in names:
        if names.count(name) > 1:
            raise DescriptionError(f"two archivers have the _id {name!r}: they would share the events: rename one")
    return found


def _contents(config: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield what is to be an archiver, and where it stands."""
    if isinstance(config, str | os.PathLike):
        path = Path(config)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DescriptionError(f"{path}: no JSON: {error}") from None
        each = content if isinstance(content, list) else [content]
        for number, one in enumerate(each, 1):
            yield (f"{path}, archiver {number}" if len(each) > 1 else str(path)), one
    elif isinstance(config, Sequence):
        for number, one in enumerate(config, 1):
            yield from _contents(one, f"{where}, archiver {number}")
    else:
        yield where, config


def start(config: Config, shm: SharedMemory | None = None, *, subscribe: bool = True) -> Archivers:
    """Start the archivers of a configuration.

    Args:
        config: see `configured`.
        shm: the shared memory; None for this process's own at the default address.
        subscribe: False to store only what is fed, or dead letters.

    Returns:
        The archivers; `with` stops them.

    Raises:
        DescriptionError, TemplateError: the configuration is wrong; nothing was started.
        OSError: a file, or a folder of dead letters, cannot be used.
        ServerUnreachable, ServerRefused, ServerSetupError: no server, or not on these terms.

        >>> config = {
        ...     "_id": "my-camera-capturer",
        ...     "classname": "herostools.actor.ArrayArchiver",
        ...     "arguments": {
        ...         "object_selector": "my-camera",
        ...         "event_name": "acquisition_data",
        ...         "save_template": "images/{{ '%04d' % frame }}.npy",
        ...     },
        ... }
        >>> with start(config, shm) as archivers:
        ...     emit("my-camera", "acquisition_data", [[1, 2], [3, 4]], {"frame": 0}, shm)
        >>> archivers[0].status.stored
        1

    Redis: as `DataArchiver`.
    """
    found = configured(config)
    shm = memory.default(shm)
    more = {} if subscribe else {"subscribe": False}
    with ExitStack() as stack:
        archivers = Archivers([stack.enter_context(each.start(shm, **more)) for each in found])
        stack.pop_all()
    return archivers
