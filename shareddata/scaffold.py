"""The first files of a new device: a description, a handler and a reader that run at once.

It knows the templates beside it; it must not know servers or records. Invariants:

1. No file is ever overwritten: all are written, or none.
2. What is written runs as it stands.
"""

import re
from importlib.resources import files
from pathlib import Path

import jinja2

from shareddata.errors import SharedDataError

_FILES = {"{}.json": "description.json.jinja", "hdl_{}.py": "handler.py.jinja", "read_{}.py": "reader.py.jinja"}


def create(name: str, folder: str | Path = ".") -> list[Path]:
    """Write `NAME.json`, `hdl_NAME.py` and `read_NAME.py`, which describe, write and read the record `NAME__measures`.

    Args:
        name: letters, digits and underscores, beginning with a letter; in the record's name in capitals.
        folder: where; made if missing.

    Returns:
        The three files.

    Raises:
        SharedDataError: the name cannot be used, or one of the files is there already; nothing was written.
        OSError: the folder cannot be written to; nothing is left there.

    Redis: none.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise SharedDataError(f"the name {name!r}: use letters, digits and '_', and begin with a letter, like 'tank'")
    words = {
        "record": f"{name.upper()}__measures",
        "owner": f"HDL_{name.upper()}",
        "reader": f"READ_{name.upper()}",
        "handler": f"hdl_{name}.py",
    }
    texts = {Path(folder, file.format(name)): _text(template, words) for file, template in _FILES.items()}
    if there := [str(path) for path in texts if path.exists()]:
        raise SharedDataError(f"{', '.join(there)}: already there: choose another name or another folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    try:
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
            path.chmod(path.stat().st_mode | (0o111 if path.suffix == ".py" else 0))
    except OSError:
        for path in made:
            path.unlink()
        raise
    return made


def _text(template: str, words: dict[str, str]) -> str:
    text = files("shareddata").joinpath("templates", template).read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(text).render(words)
