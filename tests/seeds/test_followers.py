"""The examples of KeyFollower's document, with the lines changed that h5py and its own indices ask for, nothing else.

Each section begins with the file that the document made: one of them writes zeros into it, and the later ones show what
a whole file gives.
"""

import contextlib
import io
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

MAKING = """
    import h5py
    from swmr_tools.KeyFollower import Follower
    import numpy as np
    
    #create a sequential array of the numbers 1-8 and reshape them into an array
    # of shape (2,4,1,1)
    complete_key_array = np.arange(8).reshape(2,4,1,1) + 1

    with h5py.File("test_file.h5", "w", libver = "latest") as f:
        f.create_group("keys")
        f["keys"].create_dataset("key_1", data = complete_key_array)
"""  # noqa: W293

ALL_KEYS = """
    # using an instance of Follower in a for loop
    with h5py.File("test_file.h5", "r", swmr = True) as f:
        kf = Follower(f, ["keys"])
        for key in kf:
            print(key)
    0
    1
    2
    3
    4
    5
    6
    7
"""

ZEROS = """
    with h5py.File("test_file.h5", "r+") as f:
        #set all values in the second row to zero
        f["keys/key_1"][1,:,:,:] = 0

    with h5py.File("test_file.h5", "r", swmr = True) as f:
        kf = Follower(f, ["keys"], timeout = 1)
        for key in kf:
            print(key)
    0
    1
    2
    3
"""

EXCEPTION_HANDLING = """
    try:
        f = h5py.File("test_file.h5", "r", swmr_mode = True)
        kf = Follower(f, "keys")
        for key in kf:
        ...
    finally:
        f.close()
"""

CONTEXT_MANAGER = """
    with h5py.File("test_file.h5", "r", swmr_mode = True) as f:
        kf = Follower(f, "keys")
        for key in kf:
        ...
"""

NEXT = """
    with h5py.File("test_file.h5", "r", swmr_mode = True) as f:
        kf = Follower(f, ["keys"])
        print(next(kf))
    1
        print(next(kf))
    2
        print(next(kf))
    3
        print(next(kf))
    4
        print(next(kf))
    5
        print(next(kf))
    6
        print(next(kf))
    7
        print(next(kf))
    8
    
    with h5py.File("test_file.h5", "r", swmr_mode = True) as f:
        kf = Follower(f, ["keys"])
        for i in kf:
            print(i)
    1
    2
    3
    4
    5
    6
    7
    8
"""  # noqa: W293

CHANGES = {
    "from swmr_tools.KeyFollower import Follower": "from shareddata.follow import Follower",
    "swmr_mode = True": "swmr = True",  # h5py's argument
    "for key in kf:\n    ...": "for key in kf:\n        ...",  # what may stand there is left open
}


def program_and_output(example: str, first: int = 0) -> tuple[str, str]:
    """Return the lines of an example that are Python, and what it says that they print, indices counted from 0."""
    lines = textwrap.dedent(example).splitlines()
    program = "\n".join(line for line in lines if not line.isdigit())
    for written, meant in CHANGES.items():
        program = program.replace(written, meant)
    return program + "\n", "".join(f"{int(line) - first}\n" for line in lines if line.isdigit())


def run(example: str, names: dict[str, Any], first: int = 0) -> str:
    """Run an example, check what it prints, and return that."""
    program, expected = program_and_output(example, first)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "<the document>", "exec"), names)
    assert printed.getvalue() == expected
    return expected


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the document's first blocks, in a folder with the file that they make."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    run(MAKING, names)
    return names


def test_all_keys_are_there(names: dict[str, Any]) -> None:
    assert len(run(ALL_KEYS, names).splitlines()) == 8


def test_zeros_end_it_after_the_time(names: dict[str, Any]) -> None:
    begun = time.monotonic()
    assert len(run(ZEROS, names).splitlines()) == 4
    assert 1 <= time.monotonic() - begun < 8


@pytest.mark.parametrize("example", [EXCEPTION_HANDLING, CONTEXT_MANAGER], ids=["try", "with"])
def test_one_group_as_a_text(names: dict[str, Any], example: str) -> None:
    run(example, names)
    assert names["key"] == 7
    assert not names["f"]


def test_next(names: dict[str, Any]) -> None:
    assert len(run(NEXT, names, first=1).splitlines()) == 16
