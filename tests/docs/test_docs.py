"""Every page of the docs does what it says: its blocks are run in order, its links lead somewhere."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import pytest

from page_run import run_page
from pages import ROOT, PageError, all_pages, anchors, links
from servers import OwnServer

PAGES = all_pages()
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def short(page: Path) -> str:
    return str(page.relative_to(ROOT))


def reader_environ(folder: Path, url: str) -> dict[str, str]:
    """Return the environment of a reader who installed the package and has a server of their own.

    redis-cli without an address reaches that server, as it would on a machine whose server is at the usual place.
    """
    programs = folder / ".programs"
    programs.mkdir()
    if client := shutil.which("redis-cli"):
        wrapper = programs / "redis-cli"
        wrapper.write_text(f'#!/bin/sh\nexec {client} -s {shlex.quote(urlparse(url).path)} "$@"\n')
        wrapper.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    return kept | {"PATH": path, "HOME": str(folder), "SHAREDDATA_URL": url, "PYTHONUNBUFFERED": "1", "COLUMNS": "80"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES, ids=short)
def test_page(page: Path, short_path: Path, own_server: Callable[..., OwnServer]) -> None:
    run_page(page, short_path, reader_environ(short_path, own_server().url))


@pytest.mark.parametrize("page", LINKED, ids=short)
def test_links(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{short(page)} links to {link}, which is not there"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{short(page)} links to {link}: no such heading"


# The runner itself: what it must notice.

FENCE = "```"


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text.replace("~~~", FENCE))
    return page


def run_text(folder: Path, text: str) -> int:
    work = folder / "work"
    work.mkdir()
    return run_page(page_of(folder, text), work, reader_environ(folder, "unix:///none"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("~~~python\nx = 1\n~~~\n\n~~~python\nassert x == 2\n~~~\n", r"(?s)page.md:6.*AssertionError"),
        ("~~~python\n>>> 1 + 1\n3\n~~~\n", r"(?s)line 2.*Expected:\s+3\s+Got:\s+2"),
        ("~~~sh\n$ echo one\ntwo\n~~~\n", r"(?s)page.md:2.*expected:\s+two\s+said:\s+one"),
        ("~~~sh\n$ false\n~~~\n", r"exit code 1, expected 0"),
        ("~~~sh\n$ true\n[exit 2]\n~~~\n", r"exit code 0, expected 2"),
        ("~~~sh\n$ exit 3\n~~~\n", r"ended the session with 3"),
        ("~~~sh\necho\n~~~\n", r"begins with a command"),
        ("~~~bash\n$ true\n~~~\n", r"call it sh"),
        ("<!-- not run: too hard -->\n~~~sh\n$ true\n~~~\n", r"'too hard' is no reason"),
        ("~~~python\n", r"never closed"),
    ],
    ids=["python", "doctest", "output", "failure", "success", "exit", "no command", "language", "reason", "open fence"],
)
def test_runner_notices(short_path: Path, text: str, says: str) -> None:
    with pytest.raises(PageError, match=says):
        run_text(short_path, text)


def test_runner_goes_on_from_block_to_block(short_path: Path) -> None:
    text = """
<!-- file: sub/given.json -->
~~~json
{"a": 1}
~~~
~~~sh
$ cd sub
$ export WHO=me
$ sleep 600 &
~~~
~~~python
import os
assert os.environ["WHO"] == "me"
print(open("sub/given.json").read())
~~~
  ~~~sh
  $ cat given.json; echo "$WHO"; \\
  > cat missing.json
  {"a": ...}
  me
  cat: missing.json: ...
  [exit 1]
  $ kill -INT %1; wait %1
  [exit 130]
  $ sleep 600 & sleep 600 &
  ~~~
<!-- not run: needs root -->
~~~sh
$ reboot
~~~
<!-- needs: no-such-program -->
~~~sh
$ no-such-program
~~~
~~~text
anything
~~~
"""
    assert run_text(short_path, text) == 4


def test_runner_knows_links(short_path: Path) -> None:
    page = page_of(short_path, "# A *b*, c!\n[x](y.md#z) [w](https://w) `[no](no.md)`\n~~~text\n# no\n[n](n)\n~~~\n")
    assert links(page) == ["y.md#z"]
    assert anchors(page) == {"a-b-c"}
