"""What a demonstration plays on: a private server, and programs that end with it.

It knows a server, a shared memory and programs. It must not know what is shown. Invariant: however the block ends, the
programs and the server end with it, and nothing remains but logs and messages.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shareddata import large
from shareddata.memory import SharedMemory
from shareddata.server import Server
from shareddata.troupe import Troupe


@contextmanager
def private(folder: Path, flag: str) -> Iterator[tuple[SharedMemory, Troupe]]:
    """Run a server of its own; the block's programs log to `folder`, and find the ready flag's name in `$INIT_MSG`.

    Args:
        folder: where programs put their logs and messages.
        flag: the name of the ready flag.

    Redis: as `SharedMemory`.
    """
    environ = {name: value for name, value in os.environ.items() if name != "LOGFILE"}
    environ |= {"LOGDIR": str(folder), "INIT_MSG": flag}
    with (
        tempfile.TemporaryDirectory(prefix="shareddata-") as data,
        Server(data) as server,
        SharedMemory(url=server.url) as shm,
    ):
        arrays = large.folder(shm.address)
        try:
            with Troupe(folder, environ, [data, arrays] if arrays else [data]) as troupe:
                yield shm, troupe
        finally:
            large.forget(shm.address)
