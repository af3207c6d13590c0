"""Archivers: file names that are taken, tries, dead letters, pauses, configurations, and the command."""

import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archiving import NOTHING, arrays, files, stored, values, waiting
from programs import Program
from servers import OwnServer
from shareddata import DescriptionError, FieldError, SharedMemory, TemplateError, archive, cli
from shareddata.deadletters import letters, read
from waiting import eventually


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """The folder of dead letters where none is named."""
    return tmp_path / "state" / "shareddata" / "dead-letters"


class Failing(archive.DataArchiver):
    """Fails as often as it is told to."""

    fails = 0

    def _store(self, source_name: str, payload: Any, metadata: dict[str, Any]) -> None:
        if payload == "bad" and type(self).fails > 0:
            type(self).fails -= 1
            raise RuntimeError("not now")


@pytest.fixture
def failing() -> Iterator[type[Failing]]:
    yield Failing
    Failing.fails = 0


def array_archiver(shm: SharedMemory, template: str, **options: Any) -> archive.ArrayArchiver:
    return archive.ArrayArchiver(template, False, "cam", "frame", shm=shm, **options)


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_that_are_taken(shm: SharedMemory, tmp_path: Path) -> None:
    """Foreign files, folders and links stay as they are."""
    place = tmp_path / "data"
    place.mkdir()
    (place / "a.npy").write_text("mine")
    (place / "a_2.npy").mkdir()
    (place / "a_3.npy").symlink_to(tmp_path / "nowhere")
    with array_archiver(shm, f"{place}/{{{{ name }}}}.npy") as archiver:
        for number in range(3):
            archive.emit("cam", "frame", [number], {"name": "a"}, shm)
        stored(archiver, 3)
    assert (place / "a.npy").read_text() == "mine" and (place / "a_3.npy").is_symlink()
    assert not (tmp_path / "nowhere").exists()
    assert {f"a_{n + 4}.npy": np.load(place / f"a_{n + 4}.npy").tolist() for n in range(3)} == {
        **{"a_4.npy": [0], "a_5.npy": [1], "a_6.npy": [2]}
    }


def test_a_name_that_is_free_again(shm: SharedMemory, tmp_path: Path) -> None:
    """Whoever takes finished files away gets the next one under the first name."""
    with array_archiver(shm, "data/a.npy") as archiver:
        for number in range(4):
            archive.emit("cam", "frame", [number], {}, shm)
            stored(archiver, number + 1)
            if number == 1:
                (tmp_path / "data" / "a.npy").unlink()
                (tmp_path / "data" / "a_2.npy").unlink()
    assert arrays(tmp_path / "data") == {"a.npy": [2], "a_2.npy": [3]}


def test_a_redelivered_event_takes_its_own_name(shm: SharedMemory, tmp_path: Path) -> None:
    """Whether its file is there already, is there and is another's now, or is not there yet."""
    place = tmp_path / "data"
    with array_archiver(shm, f"{place}/a.npy", name="one") as archiver:
        archiver._finish = lambda work: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
        hook, threading.excepthook = threading.excepthook, lambda arguments: None
        try:
            archive.emit("cam", "frame", [1], {}, shm)
            archiver._worker_thread.join(10)
        finally:
            threading.excepthook = hook
    assert arrays(place) == {"a.npy": [1]} and waiting(shm, "cam", "frame")["events"] == 1
    for before, after in (
        ({"a.npy": [1]}, {"a.npy": [1]}),
        ({"a.npy": [1]}, {"a.npy": [1]}),
    ):
        assert arrays(place) == before
        with array_archiver(shm, f"{place}/a.npy", name="one") as archiver:
            eventually(lambda: waiting(shm, "cam", "frame") == NOTHING)
        assert arrays(place) == after


def test_links_lead_nowhere_else(shm: SharedMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (place / "real" / "deep", outside):
        folder.mkdir(parents=True)
    for name, target in {
        "inside": "real/deep",
        "inside_absolute": str(place / "real"),
        "up": "real/../real/deep/..",
        "out": str(outside),
        "out_relative": "../outside",
        "out_late": "real/../../outside",
        "loop": "loop",
        "prefix": f"{place}2",
    }.items():
        (place / name).symlink_to(target)
    (tmp_path / "data2").mkdir()
    good, bad = ["inside", "inside_absolute", "up"], ["out", "out_relative", "out_late", "loop", "prefix"]
    with array_archiver(shm, f"{place}/{{{{ to }}}}/a.npy") as archiver:
        for to in good + bad:
            archive.emit("cam", "frame", [1], {"to": to}, shm)
        stored(archiver, len(good + bad))
    assert archiver.status[:3] == (3, 5, 5)
    assert files(outside) == files(tmp_path / "data2") == []
    assert sorted(path for path in files(place) if path.endswith(".npy")) == [
        "real/a.npy",
        "real/a_2.npy",
        "real/deep/a.npy",
    ]
    said = [message for message in caplog.messages if "dead letter" in message]
    assert len(said) == 5 and all(re.search("leads out of|too many symbolic links", text) for text in said)


@pytest.mark.parametrize(
    "value",
    ["../../etc/x", "/etc/x", "a\0b", "x" * 300, "", " ", ".hidden", "a\u202eb", "..", "a/../../../b", "\ud800"],
)
@pytest.mark.parametrize("root", [True, False])
def test_hostile_metadata(
    shm: SharedMemory, tmp_path: Path, dead: Path, caplog: pytest.LogCaptureFixture, value: str, root: bool
) -> None:
    """Nothing leaves the root; the dead letter and the log say why, and hold the event."""
    place = tmp_path / "data"
    options: dict[str, Any] = {"root": place} if root else {}
    with array_archiver(shm, "{{ name }}" if root else f"{place}/{{{{ name }}}}", **options) as archiver:
        archiver.feed("cam", (np.arange(3), {"name": value}))
        archiver.feed("cam", (np.arange(3), {"name": "good.npy"}))
        stored(archiver, 2)
    everything = {path for path in files(tmp_path) if not path.startswith("state/")}
    if not root and value == "/etc/x":
        assert everything == {"data/etc/x", "data/good.npy"}, "below the root"
        return
    assert everything == {"data/good.npy"} and archiver.status[:3] == (1, 1, 1)
    (path,) = dead.iterdir()
    letter = read(path)
    assert letter.payload.tolist() == [0, 1, 2] and letter.source == "cam" and letter.archiver == archiver.name
    assert letter.metadata == ({"name": value} if value != "\ud800" else letter.metadata)
    assert letter.error.startswith("TemplateError: ")
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "of cam is a dead letter" in said and "'name'" in said and str(path) in said


# -- tries and dead letters -------------------------------------------------------------------------------------------


def test_six_tries_within_ten_seconds(
    shm: SharedMemory, failing: type[Failing], dead: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are stored meanwhile; then the event is a dead letter, and acknowledged."""
    failing.fails = 100
    with failing("cam", "frame", name="failing", shm=shm) as archiver:
        archive.emit("cam", "frame", "bad", {"n": 1}, shm)
        archive.emit("cam", "frame", "good", {"n": 2}, shm)
        eventually(lambda: archiver.status.stored == 1, 2, "the other one")
        assert archiver.status.dead == 0
        eventually(lambda: archiver.status.dead == 1, 10, "the dead letter")
        eventually(lambda: waiting(shm, "cam", "frame") == NOTHING)
        assert failing.fails == 94
    assert [message for message in caplog.messages if "try " in message] == [
        message for message in caplog.messages if re.search(r"try [1-5] of 6 failed: RuntimeError: not now", message)
    ]
    (path,) = dead.iterdir()
    letter = read(path)
    assert (letter.archiver, letter.payload, letter.metadata) == ("failing", "bad", {"n": 1})
    assert letter.error == "RuntimeError: not now"
    assert "cam:frame:" in letter.identity


def test_a_try_that_succeeds(shm: SharedMemory, failing: type[Failing], dead: Path) -> None:
    failing.fails = 2
    with failing("cam", "frame", shm=shm) as archiver:
        archiver.feed("cam", ("bad", {}))
        eventually(lambda: archiver.status.stored == 1, 3)
    assert archiver.status[:3] == (1, 2, 0) and not dead.exists()


def test_no_retries(shm: SharedMemory, failing: type[Failing], dead: Path) -> None:
    failing.fails = 1
    with failing("cam", "frame", None, 0, shm=shm) as archiver:
        archiver.feed("cam", ("bad", {}))
        stored(archiver, 1)
    assert archiver.status[:3] == (0, 1, 1) and len(files(dead)) == 1


@pytest.mark.parametrize("payload", [{"a": 1}, "text", b"bytes", None, [[1], [2, 3]], [{}]])
def test_payloads_that_are_no_arrays(shm: SharedMemory, dead: Path, payload: Any) -> None:
    with array_archiver(shm, "data/a.npy") as archiver:
        archive.emit("cam", "frame", payload, {}, shm)
        stored(archiver, 1)
    (path,) = dead.iterdir()
    assert re.match("FieldError: cam: .* is no array", read(path).error) and read(path).payload == payload


@pytest.mark.parametrize("payload", [b"bytes", {"a": b"x"}])
def test_payloads_that_json_does_not_hold(shm: SharedMemory, dead: Path, payload: Any) -> None:
    with archive.JsonArchiver("data/a.json", False, "cam", "frame", shm=shm) as archiver:
        archive.emit("cam", "frame", payload, {}, shm)
        stored(archiver, 1)
    (path,) = dead.iterdir()
    assert re.match("FieldError: cam: .* cannot be written as JSON: JSON has no bytes", read(path).error)


@pytest.mark.parametrize("payload", [[1], {"metadata": 1}])
def test_metadata_that_cannot_be_merged(shm: SharedMemory, dead: Path, payload: Any) -> None:
    with archive.JsonArchiver("data/a.json", True, "cam", "frame", shm=shm) as archiver:
        archive.emit("cam", "frame", payload, {}, shm)
        stored(archiver, 1)
    (path,) = dead.iterdir()
    assert "expected a dictionary without the key 'metadata'" in read(path).error


def test_json_of_arrays(shm: SharedMemory, tmp_path: Path) -> None:
    payload = {"spectrum": np.arange(3), "deep": [{"mean": np.float64(0.5)}], "nan": float("nan")}
    with archive.JsonArchiver("data/a.json", True, "cam", "frame", shm=shm) as archiver:
        archive.emit("cam", "frame", payload, {"gain": np.float32(2)}, shm)
        stored(archiver, 1)
    (found,) = values(tmp_path / "data").values()
    assert str(found.pop("nan")) == "nan"
    assert found == {"spectrum": [0, 1, 2], "deep": [{"mean": 0.5}], "metadata": {"gain": 2.0}}


def test_dead_letters_are_tried_again(shm: SharedMemory, tmp_path: Path, dead: Path) -> None:
    """The template is mended; each letter goes when its event is stored, the others stay."""
    with array_archiver(shm, "data/{{ n }}.npy", name="one") as archiver:
        for number in range(3):
            archive.emit("cam", "frame", [number], {"number": number}, shm)
        archive.emit("cam", "frame", "text", {"n": 7}, shm)
        stored(archiver, 4)
    assert archiver.status.dead == 4
    with array_archiver(shm, "data/{{ n | default(number) }}.npy", name="other") as other:
        assert other.retry_dead_letters() == 0, "they are not its own"
    with array_archiver(shm, "data/{{ n | default(number) }}.npy", name="one", subscribe=False) as archiver:
        assert archiver.retry_dead_letters() == 4
    assert archiver.status[:3] == (3, 1, 1)
    assert arrays(tmp_path / "data") == {"0.npy": [0], "1.npy": [1], "2.npy": [2]}
    ((path, letter),) = letters(dead, "one")
    assert letter.payload == "text" and [path] == list(dead.iterdir())


def test_the_folder_of_dead_letters_cannot_be_used(shm: SharedMemory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        array_archiver(shm, "data/{{ n }}.npy", dead_letters=tmp_path / "file" / "dead")


def test_a_payload_that_somebody_removed(shm: SharedMemory, dead: Path) -> None:
    archive.emit("cam", "frame", [1], {}, shm)
    connection = shm.connect()
    connection.call("DEL", "event:cam:frame:values")
    connection.close()
    with array_archiver(shm, "data/a.npy") as archiver:
        stored(archiver, 1)
    (path,) = dead.iterdir()
    assert "its payload is not there any more" in read(path).error
    assert waiting(shm, "cam", "frame")["events"] == 0


# -- as a callback ----------------------------------------------------------------------------------------------------


def test_without_a_server(tmp_path: Path) -> None:
    """Only what is fed; equal arrays of one name are two files."""
    with archive.ArrayArchiver("data/{{ n }}.npy", False, "cam", "frame", subscribe=False) as archiver:
        for _ in range(3):
            archiver.feed("cam", ([1, 2], {"n": 0}))
    assert arrays(tmp_path / "data") == {"0.npy": [1, 2], "0_2.npy": [1, 2], "0_3.npy": [1, 2]}


@pytest.mark.parametrize("data", [None, 1, ([1],), ([1], {}, 3), ([1], 5), "ab"])
def test_what_cannot_be_fed(data: Any) -> None:
    archiver = archive.ArrayArchiver("data/{{ n }}.npy", False, "cam", "frame", subscribe=False)
    with archiver, pytest.raises(FieldError, match=r"cam fed .*expected \(payload, metadata\)"):
        archiver.feed("cam", data)


def test_feeding_waits_for_room(failing: type[Failing]) -> None:
    """Nothing is dropped, and memory is bounded."""
    gate = threading.Event()

    class Slow(archive.DataArchiver):
        def _store(self, source_name: str, payload: Any, metadata: dict[str, Any]) -> None:
            gate.wait()

    with Slow("cam", "frame", subscribe=False) as archiver:
        feeding = threading.Thread(target=lambda: [archiver.feed("cam", (n, {})) for n in range(300)])
        feeding.start()
        eventually(lambda: archiver.status.waiting > 50)
        assert archiver.status.waiting <= 101 and feeding.is_alive()
        gate.set()
        feeding.join(10)
    assert archiver.status.stored == 300


# -- configurations ---------------------------------------------------------------------------------------------------

GOOD = {
    "_id": "one",
    "classname": "shareddata.archive.JsonArchiver",
    "arguments": {"object_selector": "tank", "event_name": "level", "save_template": "data/{{ n }}.json"},
}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            {"classname": "herostools.actor.ArrayArchive"},
            DescriptionError,
            "'one'.*ArrayArchive' is no archiver.*ArrayArchiver",
        ),
        ({"classname": "shareddata.archive.Emitter"}, DescriptionError, "is no archiver"),
        ({"classname": None}, DescriptionError, "None is no archiver: did you mean"),
        ({"argumnets": {}}, DescriptionError, "the key 'argumnets' means nothing here"),
        ({"arguments": []}, DescriptionError, "expected an object"),
        ({"arguments": {**GOOD["arguments"], "save_tmplate": ""}}, DescriptionError, "did you mean save_template"),  # type: ignore[dict-item]
        ({"arguments": {**GOOD["arguments"], "xyzzy": ""}}, DescriptionError, "'xyzzy': these are: .*max_retries"),  # type: ignore[dict-item]
        ({"arguments": {"save_template": "x"}}, DescriptionError, "needs the argument '(object_selector|event_name)'"),
        ({"arguments": {**GOOD["arguments"], "save_template": "{{"}}, TemplateError, "the template '{{'"),  # type: ignore[dict-item]
        ({"_id": "a b"}, DescriptionError, "archiver name 'a b'"),
    ],
)
def test_wrong_configurations(shm: SharedMemory, change: dict[str, Any], error: type[Exception], says: str) -> None:
    """They start nothing, the others of the list neither."""
    with pytest.raises(error, match=says):
        archive.start([{**GOOD, "_id": "first"}, {**GOOD, **change}], shm)
    connection = shm.connect()
    assert "name" not in change and connection.ask("KEYS", "event:*") == []
    connection.close()


def test_other_wrong_configurations(shm: SharedMemory, tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="two archivers have the _id 'one'"):
        archive.start([GOOD, GOOD], shm)
    with pytest.raises(DescriptionError, match="holds no archiver"):
        archive.start([], shm)
    with pytest.raises(DescriptionError, match="archiver 2: found 7, expected an object"):
        archive.start([GOOD, 7], shm)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DescriptionError, match="a.json: no JSON"):
        archive.start("a.json", shm)
    with pytest.raises(OSError, match="missing.json"):
        archive.start(["missing.json"], shm)


def test_names_that_follow_from_the_work(shm: SharedMemory) -> None:
    """The same without a name is the same archiver; another template another one."""
    with array_archiver(shm, "a/{{ n }}.npy") as one, array_archiver(shm, "b/{{ n }}.npy") as other:
        assert one.name != other.name
    with array_archiver(shm, "a/{{ n }}.npy") as again:
        assert again.name == one.name


# -- the command ------------------------------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^(\d+|None)$") as end:
        cli.main(["archive", *arguments])
    return end.value.code or 0, *capsys.readouterr()


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_command(own_server: Callable[..., OwnServer], program: Callable[..., Program], tmp_path: Path) -> None:
    """Several archivers in one process, a line each, a draining stop."""
    server = own_server()
    (tmp_path / "one.json").write_text(json.dumps(GOOD))
    (tmp_path / "more.json").write_text(json.dumps([{**GOOD, "_id": "two"}, {**GOOD, "_id": "three"}]))
    code = "from shareddata.cli import main\nmain(['archive', *sys.argv[1:]])"
    running = program(code, "-u", server.url, "one.json", "more.json")
    lines = [running.line() for _ in range(4)]
    assert [line.split()[0] for line in lines] == ["ARCHIVER", "one", "two", "three"]
    with SharedMemory(url=server.url) as shm:
        for number in range(50):
            archive.emit("tank", "level", {"n": number}, {"n": number}, shm)
        running.send_signal(signal.SIGINT)
        lines = running.finish()
        assert waiting(shm, "tank", "level") == NOTHING
    assert [line.split()[:5] for line in lines[1:]] == [
        [name, "level", "of", "tank", "50"] for name in ("one", "two", "three")
    ]
    assert len(files(tmp_path / "data")) == 150


def test_the_command_retries_dead_letters(
    shm: SharedMemory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "one.json").write_text(json.dumps(GOOD))
    with archive.start("one.json", shm) as (archiver,):
        archive.emit("tank", "level", {}, {"m": 1}, shm)
        archive.emit("tank", "level", b"", {"n": 1}, shm)
        stored(archiver, 2)
    mended = {**GOOD, "arguments": {**GOOD["arguments"], "default_metadata": {"n": 0}}}  # type: ignore[dict-item]
    (tmp_path / "one.json").write_text(json.dumps(mended))
    code, out, err = call(capsys, "-u", shm.url, "--retry-dead-letters", "one.json")
    assert (code, out.splitlines()[-1]) == (1, "2 dead letters tried again, 1 left")
    assert values(tmp_path / "data") == {"0.json": {}}
    code, out, _ = call(capsys, "-u", shm.url, "--json", "--retry-dead-letters", "one.json")
    assert code == 1 and json.loads(out)[0]["stored"] == 0


def test_the_command_lists_and_forgets(shm: SharedMemory, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(capsys, "-u", shm.url, "--list")[1].split() == [
        "SOURCE",
        "EVENT",
        "KEPT",
        "MB",
        "DROPPED",
        "NOT",
        "YET",
        "ARCHIVED",
        "BY",
    ]
    with archive.start(GOOD, shm) as (archiver,):
        archive.emit("tank", "level", {}, {"n": 1}, shm)
        stored(archiver, 1)
    archive.emit("tank", "level", {}, {"n": 2}, shm)
    archive.emit("cam", "frame", bytes(200_000), {}, shm)
    lines = call(capsys, "-u", shm.url, "--list")[1].splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["cam", "frame", "1", "0.2", "0", "-", "(no", "archiver)"],
        ["tank", "level", "1", "0.0", "0", "one", "(1)"],
    ]
    found = json.loads(call(capsys, "-u", shm.url, "--list", "--json")[1])
    assert found[1]["archivers"] == {"one": 1}
    assert call(capsys, "-u", shm.url, "--forget", "one")[:2] == (
        0,
        "one is given up: events of 1 source don't wait for it any more\n",
    )
    code, _, err = call(capsys, "-u", shm.url, "--forget", "one")
    assert code == 1 and "no archiver 'one': there are none" in err


@pytest.mark.parametrize("arguments", [[], ["--list", "a.json"], ["--retry-dead-letters"], ["--list", "--forget", "a"]])
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2 and "give configurations (JSON files), or --list, or --forget NAME" in err


def test_a_wrong_configuration_is_told_before_the_server_is_waited_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**GOOD, "classname": "x"}))
    code, _, err = call(capsys, "-u", f"unix://{os.path.join(tmp_path, 'none')}", "a.json")
    assert code == 1 and "'x' is no archiver" in err
