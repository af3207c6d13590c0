"""The archivers of their document: its configuration, its file names, its classes and all that it names on them."""

import inspect
import json
import logging
import threading
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest

from archiving import arrays, stored
from shareddata import SharedDataError, SharedMemory, archive

DOCUMENT = """
{
  "_id": "my-camera-capturer",
  "classname": "herostools.actor.ArrayArchiver",
  "arguments": {
    "object_selector": "my-camera",
    "event_name": "acquisition_data",
    "default_metadata": {
      "file_path": "/mnt/mystorage/images"
    },
    "save_template": "{{ file_path }}/testimg-{{ '%04d' % ( frame / 2 ) |round(0, 'floor') }}-{{ frame % 2 }}.npy"
  }
}
"""
FILES = ["testimg-0000-0.npy", "testimg-0000-1.npy", "testimg-0001-0.npy"]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """The document's configuration, with another folder: nobody may write to /mnt."""
    found: dict[str, Any] = json.loads(DOCUMENT.replace("/mnt/mystorage/images", str(tmp_path / "images")))
    return found


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_the_configuration(
    shm: SharedMemory, config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It works, yields exactly the three names, and warns that events decide where files go."""
    with caplog.at_level(logging.WARNING), archive.start(config, shm) as (archiver,):
        assert archiver.name == "my-camera-capturer"
        for frame in range(3):
            archive.emit("my-camera", "acquisition_data", np.full((2, 2), frame), {"frame": frame}, shm)
        stored(archiver, 3)
    assert arrays(tmp_path / "images") == {name: [[i, i], [i, i]] for i, name in enumerate(FILES)}
    (warning,) = caplog.messages
    assert "events decide where files go; give root=FOLDER" in warning and "my-camera-capturer" in warning


@pytest.mark.parametrize("form", ["file", "list", "file with a list", "list of files"])
def test_other_forms(shm: SharedMemory, config: dict[str, Any], tmp_path: Path, form: str) -> None:
    file = tmp_path / "camera.json"
    file.write_text(json.dumps([config] if form == "file with a list" else config))
    given: Any = {"list": [config], "list of files": [str(file)]}.get(form, file)
    with archive.start(given, shm) as archivers:
        archive.emit("my-camera", "acquisition_data", [1, 2], {"frame": 5}, shm)
    assert [each.status.stored for each in archivers] == [1]
    assert arrays(tmp_path / "images") == {"testimg-0002-1.npy": [1, 2]}


def test_the_event_s_metadata_win_over_the_defaults(shm: SharedMemory, config: dict[str, Any], tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    with archive.start(config, shm):
        archive.emit("my-camera", "acquisition_data", [1], {"frame": 0, "file_path": elsewhere}, shm)
    assert arrays(tmp_path / "elsewhere") == {"testimg-0000-0.npy": [1]}
    assert not (tmp_path / "images").exists()


def test_as_a_callback(shm: SharedMemory, config: dict[str, Any], tmp_path: Path) -> None:
    """`feed` takes what the source's own event would call it with."""
    archiver = archive.ArrayArchiver(**config["arguments"], shm=shm)
    for frame in range(3):
        archiver.feed("my-camera", (np.full((2, 2), frame), {"frame": frame}))
    archiver._teardown()
    assert list(arrays(tmp_path / "images")) == FILES
    with pytest.raises(SharedDataError, match="was stopped: it did not take an event of my-camera"):
        archiver.feed("my-camera", (np.zeros(2), {"frame": 3}))


SIGNATURES = {
    "DataArchiver": ["object_selector", "event_name", "default_metadata", "max_retries"],
    "ArrayArchiver": ["save_template", "split_data_array"],
    "JsonArchiver": ["save_template", "merge_metadata"],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_constructors(name: str) -> None:
    parameters = inspect.signature(getattr(archive, name)).parameters
    assert list(parameters)[: len(SIGNATURES[name])] == SIGNATURES[name]


def test_the_classes() -> None:
    assert archive.HERODataArchiver is archive.DataArchiver
    assert issubclass(archive.ArrayArchiver, archive.DataArchiver)
    assert issubclass(archive.JsonArchiver, archive.DataArchiver)
    assert inspect.isabstract(archive.DataArchiver)
    assert archive.DataArchiver.__abstractmethods__ == {"_store"}
    assert list(inspect.signature(archive.DataArchiver.feed).parameters) == [
        "self",
        "source_name",
        "data",
        "retry_count",
    ]
    assert list(inspect.signature(archive.DataArchiver._store).parameters)[1:] == ["source_name", "payload", "metadata"]
    for method in ("_process_queue", "_stop", "_teardown"):
        assert list(inspect.signature(getattr(archive.DataArchiver, method)).parameters) == ["self"]


def test_the_attributes(shm: SharedMemory, config: dict[str, Any], tmp_path: Path) -> None:
    with archive.start(config, shm) as (archiver,):
        assert isinstance(archiver, archive.ArrayArchiver)
        assert archiver.metadata == {"file_path": str(tmp_path / "images")}
        assert archiver.max_retries == 5 and archiver.split_data_array is False
        assert archiver.name_template.render(frame=3, file_path="/a") == "/a/testimg-0001-1.npy"
        assert isinstance(archiver._payload_queue, Queue)
        assert isinstance(archiver._stop_event, threading.Event) and not archiver._stop_event.is_set()
        assert isinstance(archiver._worker_thread, threading.Thread) and archiver._worker_thread.is_alive()
    assert archiver._stop_event.is_set() and not archiver._worker_thread.is_alive()
    template = str(tmp_path / "{{ n }}.json")
    with archive.JsonArchiver(template, object_selector="a", event_name="b", shm=shm) as json_archiver:
        assert json_archiver.merge_metadata is False and json_archiver.name_template.root == str(tmp_path)


def test_splitting(shm: SharedMemory, tmp_path: Path) -> None:
    template = str(tmp_path / "images" / "{{ run }}-{{ _split_index }}.npy")
    with archive.ArrayArchiver(template, True, "cam", "frames", shm=shm) as archiver:
        archive.emit("cam", "frames", np.arange(6).reshape(3, 2), {"run": "a"}, shm)
        stored(archiver, 1)
    assert arrays(tmp_path / "images") == {"a-0.npy": [0, 1], "a-1.npy": [2, 3], "a-2.npy": [4, 5]}


@pytest.mark.parametrize(
    ("merge", "expected"),
    [(False, {"level": 2.5}), (True, {"level": 2.5, "metadata": {"unit": "m", "run": 1}})],
)
def test_json(shm: SharedMemory, tmp_path: Path, merge: bool, expected: dict[str, Any]) -> None:
    template = str(tmp_path / "values" / "{{ run }}.json")
    with archive.JsonArchiver(template, merge, "tank", "level", {"unit": "m"}, shm=shm) as archiver:
        archive.emit("tank", "level", {"level": 2.5}, {"run": 1}, shm)
        stored(archiver, 1)
    assert json.loads((tmp_path / "values" / "1.json").read_text()) == expected


def test_an_archiver_of_one_s_own(shm: SharedMemory) -> None:
    """`_store` is all that a subclass needs."""
    found: list[Any] = []

    class Mine(archive.HERODataArchiver):
        def _store(self, source_name: str, payload: Any, metadata: dict[str, Any]) -> None:
            found.append((source_name, payload, metadata))

    with Mine("cam-*", "frames", {"gain": 1, "run": 0}, shm=shm) as archiver:
        archive.emit("cam-1", "frames", "a payload", {"run": 7}, shm)
        stored(archiver, 1)
    assert found == [("cam-1", "a payload", {"gain": 1, "run": 7})]
