"""CSV files, one for each written record: what was measured, on disk line by line.

It knows files and rows; it must not know sockets or records beyond a name, field names and a description to put beside
the file. Invariants:

1. An existing file is never overwritten or appended to.
2. A file holds whole rows only: a row that could not be written whole (full disk) is cut off again.
3. A row that can't be written never raises: it is logged once and counted (`lost`); writing resumes when there is room.
"""

import csv
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger("shareddata")


def folder_from_environment() -> Path | None:
    """Return the folder of the CSV files: $LOGDIR, None when it is unset or empty.

    Redis: none.
    """
    return Path(os.environ["LOGDIR"]) if os.environ.get("LOGDIR") else None


def _sidecar(path: Path) -> Path:
    """Return the name of the description beside a CSV file."""
    return path.with_name(path.name + ".json") if path.suffix == ".json" else path.with_suffix(".json")


class CsvLog:
    """The CSV file of one record written by one program.

    Args:
        folder: made if missing.
        sender: the program's name, for the file's name.
        name: the record's name.
        fields: the header.
        description: what goes into the sidecar `.json`, with the units.

    Attributes:
        path: the file, None while it could not be made.
        rows: how many rows were written.
        lost: how many could not be.
    """

    def __init__(
        self, folder: Path, sender: str, name: str, fields: Sequence[str], description: dict[str, Any]
    ) -> None:
        self._folder = folder
        self._sender = sender
        self._name = name
        self._fields = tuple(fields)
        self._description = description
        self._file = -1
        self._size = 0
        self._failing = False
        self.path: Path | None = None
        self.rows = 0
        self.lost = 0
        self._writer = csv.writer(self)
        self._try(self._create)

    def row(self, values: Sequence[Any]) -> None:
        """Write one row; what goes wrong is logged once and counted.

        Args:
            values: one for each field.
        """
        if self._try(self._row, values):
            self.rows += 1
        else:
            self.lost += 1

    def _row(self, values: Sequence[Any]) -> None:
        if self._file < 0:
            self._create()
        self._writer.writerow([v.tolist() if hasattr(v, "tolist") else v for v in values])

    def write(self, text: str) -> None:
        """Put one finished row into the file, whole or not at all (called by csv.writer)."""
        data = text.removesuffix("\r\n").encode() + b"\n"
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(28, os.strerror(28))
        except OSError:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += written

    def reopen(self) -> None:
        """Go on in a file of its own: in a forked child the old one belongs to the parent."""
        self.close()
        self._try(self._create)

    def close(self) -> None:
        """Close the file; a later row opens another."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _try(self, action: Any, *args: Any) -> bool:
        try:
            action(*args)
        except (OSError, ValueError, csv.Error) as error:
            if not self._failing:
                log.error("%s: rows of %s cannot be written: %s", self.path or self._folder, self._name, error)
            self._failing = True
            return False
        if self._failing and args:
            log.warning("%s: rows are written again; %d were lost", self.path, self.lost)
            self._failing = False
        return True

    def _create(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        first = self._folder / (os.environ.get("LOGFILE") or self._usual_name())
        number, path, sidecar = 1, first, _sidecar(first)
        while path.exists() or sidecar.exists() or not self._make(path):
            number += 1
            path = first.with_stem(f"{first.stem}_{number}")
            sidecar = _sidecar(path)
        self.path, self._size = path, 0
        content = {"record": self._name, "sender": self._sender, "description": self._description}
        try:
            self._writer.writerow(self._fields)
            with open(sidecar, "x", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            self.close()
            self.path = None
            path.unlink()
            if not isinstance(error, FileExistsError):  # that one would be another program's
                sidecar.unlink(missing_ok=True)
            raise

    def _make(self, path: Path) -> bool:
        """Make a file that is not there yet; False when another program was quicker."""
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        return True

    def _usual_name(self) -> str:
        sender = re.sub(r"[^A-Za-z0-9_.-]", "_", self._sender).lstrip("._") or "unnamed"
        return f"{time.strftime('%Y-%m-%d_%Hh%Mm%SsZ', time.gmtime())}_{sender}_{self._name}.csv"
