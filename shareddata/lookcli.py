"""The commands for looking: the page.

It knows what each command is for; it must not know keys, sockets or how anything is done. Invariants:

1. What needs an extra is imported when it is used, and its absence named with the remedy.
"""

import os
import sys
from pathlib import Path

from shareddata.command import Where, command

_TOKEN = "SHAREDDATA_PAGE_TOKEN"


@command(
    host=("Address to serve on; other than this machine's own it demands a token", "option", "H", str, None, "ADDRESS"),
    port=("Port to serve on; 0 for one that is free", "option", "P", int, None, "8000"),
    write=("Let who has the token write records", "flag", "w"),
    token=(f"File with the token; default: ${_TOKEN}, else a new token", "option", "t", str, None, "FILE"),
    names=("More names that this machine is called by, joined by commas", "option", "N", str, None, "NAMES"),
)
def page_(
    where: Where,
    host: str = "localhost",
    port: int = 8000,
    write: bool = False,
    token: str | None = None,
    names: str | None = None,
) -> None:
    """Show all records to browsers: live values, plots, logs; at http://localhost:8000/ unless it is said otherwise.

    Everything comes from this machine: it works without internet. Nothing can be changed from a browser, unless --write
    is given; who writes needs the token. With --host 0.0.0.0 other machines can look, and each request needs the token:
    the address that is printed holds it. The way there is not encrypted. Ctrl-C ends it, with exit code 0.

    Examples:
      shareddata page
      shareddata page --port 8080 --write
      shareddata page --host 0.0.0.0 --names robot7.example
    """
    try:
        from shareddata import page
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the page needs {error.name}: pip install 'shareddata[web]'") from None
    given = Path(token).read_text().strip() if token else os.environ.get(_TOKEN)
    called = [name for name in (names or "").split(",") if name]
    with where.open(timeout=1.0) as shm:
        shown = page.Page(shm, host=host, port=port, write=write, token=given, names=called)
        way = f"login?token={shown.token}" if not given and (write or shown.guarded) else ""
        print(f"{shown.url}{way}", flush=True)
        told = f"shows the records of {shm.url}; Ctrl-C ends it"
        print(f"{told}; who has this address may write" if way and write else told, file=sys.stderr)
        try:
            shown.run()
        except KeyboardInterrupt:
            pass  # the usual way to end it
