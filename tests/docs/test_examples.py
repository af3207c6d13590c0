"""Every example in a docstring runs.

An example may use `shm`, a SharedMemory on which the shipped descriptions were just initialised, and the public names.
"""

import doctest
import importlib
from importlib.resources import files
from pathlib import Path

import pytest

import shareddata
from servers import empty
from shareddata import SharedMemory
from shareddata.server import Server

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(path.stem for path in Path(shareddata.__file__).parent.glob("*.py") if path.stem != "__main__")
DESCRIPTIONS = sorted(str(file) for file in files("shareddata.descriptions").iterdir() if file.name.endswith(".json"))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, servers: dict[str, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty(servers["valkey"].url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHAREDDATA_URL", servers["valkey"].url)
    module = shareddata if name == "__init__" else importlib.import_module(f"shareddata.{name}")
    public = {public: getattr(shareddata, public) for public in shareddata.__all__}
    with SharedMemory() as shm:
        shm.init(*DESCRIPTIONS)
        failed, _ = doctest.testmod(module, extraglobs=public | {"shm": shm}, optionflags=FLAGS)
    assert not failed, "see the output above"
