"""Large values: which go by reference, what their files live through, and what is left when programs are killed."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from programs import Program
from servers import OwnServer, free_port
from shareddata import DecodeError, ServerSetupError, ServerTimeout, SharedMemory, large, tmpfs
from shareddata.large import LargeValues
from shareddata.wire import pack, transaction
from waiting import eventually

BIG = bytes(range(256)) * 1000


def files(shm: SharedMemory) -> list[Path]:
    """Return the files of a server's large values, without the marks of its writers."""
    place = large.folder(shm.address)
    assert place is not None
    return [path for path in place.glob("*/*") if path.parent.name not in ("writing", "spare")]


def put(shm: SharedMemory, values: LargeValues, data: bytes | list[bytes], key: str = "k", field: str = "f") -> bytes:
    """Write a value as a writer does, and return what is in Redis."""
    connection = shm.connect()
    try:
        connection.settle()
        with values.change() as change:
            stored = change.store(key, data)
            commands = [pack("HGET", key, field), pack("HSET", key, field, stored)]
            change.replaced(connection.transact(transaction(commands), commands)[0])
        return stored
    finally:
        connection.close()


@pytest.mark.parametrize("size", [0, 1, large.LIMIT, large.LIMIT + 1, 6_000_000])
def test_a_value_comes_back_whole_whatever_its_size(shm: SharedMemory, size: int) -> None:
    stored = put(shm, LargeValues(shm), b"x" * size)
    assert large.read(stored) == b"x" * size
    assert large.is_reference(stored) == (size > large.LIMIT)
    assert large.size(stored) == size
    assert len(files(shm)) == (size > large.LIMIT)


def test_pieces_are_joined(shm: SharedMemory) -> None:
    pieces = [b"head", b"", *[bytes([i % 256]) * 700 for i in range(1500)]]
    stored = put(shm, LargeValues(shm), pieces)
    assert large.is_reference(stored) and large.read(stored) == b"".join(pieces)
    assert large.read(put(shm, LargeValues(shm), [b"a", memoryview(b"bc")])) == b"abc"


@pytest.mark.parametrize("data", [b"@file:x", b"@data:", b"@data:@file:host/0/a/b/c/1", b"@", b"@file"])
def test_bytes_that_look_like_a_reference_come_back_as_they_were(shm: SharedMemory, data: bytes) -> None:
    stored = put(shm, LargeValues(shm), data)
    assert large.read(stored) == data
    assert not large.is_reference(stored)


def test_what_is_replaced_is_unlinked_and_whoever_had_opened_it_keeps_it(shm: SharedMemory) -> None:
    values = LargeValues(shm)
    first = put(shm, values, BIG)
    view = large.read(first)
    second = put(shm, values, BIG[::-1])
    assert view == BIG and large.read(second) == BIG[::-1]
    with pytest.raises(large.Gone, match="not there any more"):
        large.read(first)
    assert len(files(shm)) == 1
    put(shm, values, b"small")
    assert files(shm) == []


def test_a_second_reference_lives_by_itself(shm: SharedMemory) -> None:
    values = LargeValues(shm)
    stored = put(shm, values, BIG)
    with values.change() as change:
        second = change.link("other", stored)
    assert second != stored and len(files(shm)) == 2
    put(shm, values, b"")
    for _ in range(3):
        put(shm, values, BIG[::-1])  # into a file that was given back, and into no other one
    assert large.read(second) == BIG
    put(shm, values, b"")
    with values.change() as change, pytest.raises(large.Gone, match="not there any more"):
        change.link("other", stored)


def test_files_are_written_again_and_only_a_few_are_kept_for_that(shm: SharedMemory) -> None:
    values, place = LargeValues(shm), large.folder(shm.address)
    assert place is not None
    inodes = set()
    for number in range(20):
        stored = put(shm, values, bytes([number]) * (200_000 - number))
        assert large.read(stored) == bytes([number]) * (200_000 - number)
        inodes.add(files(shm)[0].stat().st_ino)
    assert len(inodes) == 2
    for field in range(20):
        put(shm, values, BIG, field=str(field))
    for field in range(20):
        put(shm, values, b"", field=str(field))
    assert 1 < len(list(place.glob("spare/*"))) <= 4
    inodes = set()
    for number in range(20):  # the spare files, all too small, make room
        put(shm, values, bytes([number]) * 900_000)
        inodes.add(next(path for path in files(shm) if path.stat().st_size >= 900_000).stat().st_ino)
    assert len(inodes) == 2


def test_over_tcp_values_go_through_the_server(own_server: Callable[..., OwnServer]) -> None:
    server = own_server(port=free_port())
    with SharedMemory(url=server.tcp_url) as shm:
        values = LargeValues(shm)
        assert not values.by_reference and large.folder(shm.address) is None
        stored = put(shm, values, BIG)
        assert stored == BIG and large.read(stored) is stored


@pytest.mark.parametrize(
    "stored",
    [
        b"@file:",
        b"@file:h/0/0123/k/../9",
        b"@file:h/0/0123/../k.1/9",
        b"@file:h/x/0123/k/k.1/9",
        b"@file:h/0/a/b/c/d/e/9",
        b"@file:h/0/a\x00b/k/k.1/9",
        b"@file:" + b"\xff" * 100,
    ],
)
def test_a_reference_that_leads_elsewhere_is_refused(stored: bytes) -> None:
    with pytest.raises(DecodeError, match="another program wrote it"):
        large.read(stored)


def test_a_value_of_another_machine_or_of_before_a_start_says_so(shm: SharedMemory) -> None:
    stored = put(shm, LargeValues(shm), BIG)
    files(shm)[0].unlink()
    with pytest.raises(large.Gone, match="not there any more"):
        large.read(stored)
    assert isinstance(large.lost(stored, "sensor a/b"), DecodeError)
    assert "started anew" in str(large.lost(stored, "sensor a/b"))
    elsewhere = re.sub(rb"@file:[^/]*", b"@file:rover", stored)
    error = large.lost(elsewhere, "sensor a/b")
    assert isinstance(error, ServerSetupError) and "memory of rover" in str(error) and "redis://" in str(error)


def test_a_file_that_was_cut_short_is_found(shm: SharedMemory) -> None:
    stored = put(shm, LargeValues(shm), BIG)
    os.truncate(files(shm)[0], 100)
    with pytest.raises(DecodeError, match="found 100 bytes, expected 256000"):
        large.read(stored)


def test_the_folder_is_private(shm: SharedMemory) -> None:
    put(shm, LargeValues(shm), BIG)
    assert tmpfs.root().stat().st_mode & 0o077 == 0
    assert files(shm)[0].stat().st_mode & 0o077 == 0


def test_without_room_a_value_goes_through_the_server(
    shm: SharedMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = LargeValues(shm)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    stored = put(shm, values, BIG)
    monkeypatch.undo()
    assert stored == BIG and files(shm) == []
    assert "goes through the server" in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_another_user_is_told_why_a_value_cannot_be_read(shm: SharedMemory, program: Callable[..., Program]) -> None:
    stored = put(shm, LargeValues(shm), BIG)
    other = program(
        """
        from shareddata import large
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
        try:
            large.read(os.fsencode(sys.argv[1]))
        except ServerSetupError as error:
            say(error)
        """,
        os.fsdecode(stored),
    )
    said = other.line()
    assert "only user 0" in said and "redis://" in said


READER = """
    from shareddata import large
    shm = SharedMemory(url=sys.argv[1])
    connection, seen, again = shm.connect(), set(), 0
    while True:
        stored = connection.ask("HGET", "k", "f")
        try:
            view = large.read(stored)
        except large.Gone:
            again += 1
            continue
        first, last = view[0], view[-1]
        assert view == bytes([first]) * len(view), (first, last)
        seen.add(first)
        if len(seen) > 200:
            say("whole", again)
            break
"""


def test_readers_see_whole_values_while_they_are_replaced(shm: SharedMemory, program: Callable[..., Program]) -> None:
    values = LargeValues(shm)
    put(shm, values, b"0" * 100_000)
    readers = [program(READER, shm.url) for _ in range(2)]
    number = 0
    while any(reader.process.poll() is None for reader in readers) and number < 200_000:
        number += 1
        put(shm, values, bytes([number % 256]) * 100_000)
    assert [reader.line().split()[0] for reader in readers] == ["whole"] * 2
    assert len(files(shm)) == 1


# -- what is left behind ----------------------------------------------------------------------------------------------

KILLED = """
    from shareddata.large import LargeValues
    from shareddata.wire import pack, transaction
    url, how = sys.argv[1:]
    shm = SharedMemory(url=url)
    values, connection = LargeValues(shm), shm.connect()
    connection.open()
    for number in range(10**9):
        with values.change() as change:
            stored = change.store("k", bytes([number % 256]) * 100_000)
            if how == "before" and number == 3:
                say("there")
                time.sleep(60)
            commands = [pack("HGET", "k", "f"), pack("HSET", "k", "f", stored),
                        pack("XADD", "s", "*", "v", change.link("s", stored))]
            connection.transact(transaction(commands), commands)
            if how == "after" and number == 3:
                say("there")
                time.sleep(60)
        if number == 3 and how == "within":
            say("there")
"""


@pytest.mark.parametrize("how", ["before", "after", "within"])
def test_what_a_killed_writer_left_is_removed_by_the_next_start(
    shm: SharedMemory, client: redis.Redis, program: Callable[..., Program], how: str
) -> None:
    writer = program(KILLED, shm.url, how)
    assert writer.line() == "there"
    writer.kill()
    stored = client.hget("k", "f")
    kept = [fields[b"v"] for _, fields in client.xrange("s")] if how == "within" else []
    put(shm, LargeValues(shm), b"small", key="other")  # this process's first change there
    assert large.read(stored)[:1] == large.read(stored)[-1:]
    for value in kept[:-1]:
        assert large.size(value) == 100_000
    used = {stored, *(fields[b"v"] for _, fields in client.xrange("s"))}
    assert {str(path) for path in files(shm)} >= {large._parsed(value).path for value in used}
    linked = {path for path in files(shm) if path.parent.name == "k"}
    assert linked >= {Path(large._parsed(stored).path)}
    assert all(str(path) in {large._parsed(value).path for value in used} for path in files(shm))


def test_what_is_replaced_after_a_sweep_is_removed_too(
    shm: SharedMemory, client: redis.Redis, program: Callable[..., Program]
) -> None:
    writer = program(KILLED, shm.url, "within")
    assert writer.line() == "there"
    writer.kill()
    values = LargeValues(shm)
    for number in range(20):
        put(shm, values, bytes([number]) * 100_000)
    assert len([path for path in files(shm) if path.parent.name == "k"]) == 1


def test_a_change_over_tcp_leaves_those_over_the_socket_alone(own_server: Callable[..., OwnServer]) -> None:
    server = own_server(port=free_port())
    with SharedMemory(url=server.url) as near, SharedMemory(url=server.tcp_url) as far:

        def interrupted() -> None:
            with LargeValues(near).change() as change:
                change.store("k", BIG)
                raise KeyboardInterrupt("here")

        with pytest.raises(KeyboardInterrupt, match="here"):
            interrupted()
        assert put(far, LargeValues(far), BIG) == BIG
        assert len(files(near)) == 1
        put(near, LargeValues(near), b"small")
        assert files(near) == []


def test_files_of_a_living_writer_are_not_swept(
    shm: SharedMemory, client: redis.Redis, program: Callable[..., Program]
) -> None:
    writer = program(KILLED, shm.url, "before")
    assert writer.line() == "there"
    before = files(shm)
    assert len(before) == 3 + 3 + 1  # of three writes, and of the one in flight
    assert LargeValues(shm).sweep() == 0
    assert files(shm) == before


def test_a_write_of_unknown_outcome_keeps_its_file_until_it_is_known(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with SharedMemory(url=server.url, timeout=0.3) as shm:
        values = LargeValues(shm)
        put(shm, values, BIG)
        server.stop()
        with pytest.raises(ServerTimeout, match="unknown|silent"):
            put(shm, values, BIG[::-1])
        server.cont()
        with server.client() as client:
            eventually(lambda: large.read(client.hget("k", "f"))[:1] in (BIG[:1], BIG[-1:]))
            before = client.hget("k", "f")
        after = put(shm, values, b"small", field="other")
        assert after == b"small"
        assert large.read(before) in (BIG, BIG[::-1])
        assert files(shm) == [Path(large._parsed(before).path)]


def test_a_folder_whose_server_is_gone_for_good_is_removed(
    own_server: Callable[..., OwnServer], tmp_path: Path
) -> None:
    with SharedMemory(url=own_server().url) as shm:
        place = large.folder(shm.address)
        assert place is not None
        deserted = place.parent / "0123456789abcdef"
        (deserted / "k").mkdir(parents=True)
        (deserted / "k" / "1.1").write_bytes(b"x")
        (deserted / "server").write_text(f"{tmp_path}/gone/redis.sock\n{tmp_path}/gone\n")
        put(shm, LargeValues(shm), BIG)
        assert not deserted.exists()


def test_a_forked_child_has_a_mark_of_its_own(shm: SharedMemory) -> None:
    values = LargeValues(shm)
    put(shm, values, BIG)
    place = large.folder(shm.address)
    assert place is not None
    mine = tmpfs.writer(str(place)).name
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            put(shm, values, BIG, key="child")
            os.write(writing, tmpfs.writer(str(place)).name.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode()
    os.close(reading), os.close(writing)
    assert theirs and theirs != mine
    assert LargeValues(shm).sweep() == 0  # the child is dead, its value is in use
    assert {path.name.partition(".")[0] for path in files(shm)} == {mine, theirs}
