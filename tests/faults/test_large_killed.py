"""Writers of large values are killed at random moments: every reference has its file, and every file its reference."""

import random
from collections.abc import Callable
from pathlib import Path

from programs import Program
from servers import OwnServer
from shareddata import SharedMemory, large
from shareddata.large import LargeValues

# Writes pairs as sensors are written: the newest in a hash, the last ten in a stream, as fast as it can.
WRITER = """
    from shareddata.large import LargeValues
    from shareddata.wire import pack, transaction
    shm = SharedMemory(url=sys.argv[1])
    values, connection, written = LargeValues(shm), shm.connect(), []
    connection.open()
    written = [(i.decode(), fields[1]) for i, fields in connection.ask("XRANGE", "s", "-", "+")]
    number = 0
    while True:
        number += 1
        with values.change() as change:
            stored = change.store("k", bytes([number % 256]) * 70_000)
            commands = [pack("HGET", "k", "f"), pack("HSET", "k", "f", stored),
                        pack("XADD", "s", "*", "v", entry := change.link("s", stored))]
            if len(written) >= 10:
                commands.append(pack("XTRIM", "s", "MINID", "=", written[-9][0]))
            answers = connection.transact(transaction(commands), commands)
            change.replaced(answers[0], *[each for _, each in written[:-9]])
        written = [*written[-9:], (answers[2].decode(), entry)]
        if number == int(sys.argv[2]):
            say("running")
"""


def test_after_kills_references_and_files_are_the_same(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], full: bool
) -> None:
    server = own_server()
    luck = random.Random(7)
    with SharedMemory(url=server.url) as shm, server.client() as client:
        place = large.folder(shm.address)
        assert place is not None

        def files() -> set[Path]:
            return {path for path in place.glob("*/*") if path.parent.name != "writing"}

        def references() -> set[Path]:
            stored = [*client.hvals("k"), *(fields[b"v"] for _, fields in client.xrange("s"))]
            return {Path(large._parsed(each).path) for each in stored}

        left_behind = 0
        for _ in range(100 if full else 15):
            writer = program(WRITER, server.url, luck.randrange(3, 300))
            assert writer.line() == "running"
            writer.kill()
            left_behind += files() != references()
            assert files() >= references()
            LargeValues(shm).sweep()
            assert files() == references()
            for stored in (*client.hvals("k"), *(fields[b"v"] for _, fields in client.xrange("s"))):
                view = large.read(stored)
                assert view == bytes([view[0]]) * 70_000
        assert references() and left_behind, "no kill ever left a file behind: this test tried nothing"
