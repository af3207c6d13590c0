"""Two neighbouring versions of the library on one server: what either writes, the other reads, and goes on with.

The earlier one is `previous.zip` (see SOURCES.md). Each side is a program of its own; which is which is exchanged.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from programs import Program
from records import HEAD
from waiting import eventually

PREVIOUS = Path(__file__).with_name("previous.zip")
CURRENT = Path(__file__).parents[2]

ANY_TYPE = [["f", 0.0, {"unit": "V", "min": -5}], ["i", 0], ["b", False], ["t", ""], ["l", []], ["o", {}], ["a", None]]
DESCRIBED: dict[str, Any] = {
    "ALL": [*HEAD, *ANY_TYPE],
    "GRID": {"history": 10, "fields": [*HEAD, ["v", 0.0, {"dtype": "<f4", "shape": [2, 2]}]]},
    "LATEST": {"history": 0, "fields": [*HEAD, ["number", 0]]},
    "SPAN": {"history": "1h", "fields": [*HEAD, ["number", 0]]},
}
INTERPRETER = """
    import json
    import numpy as np
    import shareddata
    from shareddata.archive import Emitter, start
    from shareddata.frames import FrameFile
    from shareddata.sensors import SensorReader, SensorWriter, pack_to_zip
    from shareddata.tslog import TSLog
    shm = SharedMemory(url=sys.argv[1])
    dd = DataDict(sys.argv[2], shm)
    for line in sys.stdin:
        kind, text = json.loads(line)
        if kind == "do":
            exec(text)
            say("null")
        else:
            say(json.dumps(eval(text)))
    shm.close()
"""


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.full)])
def kind(request: pytest.FixtureRequest) -> str:
    """The servers don't differ in this: one of them will do."""
    return str(request.param)


class Side:
    """A program that runs one of the versions, and does what it is told."""

    def __init__(self, program: Callable[..., Program], url: str, version: str) -> None:
        path = PREVIOUS if version == "previous" else CURRENT
        # the folder that the tests run in is left out: it holds the current version
        where = {"PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"}
        self.program = program(INTERPRETER, url, version, env=where)
        assert str(path) in self.ask("shareddata.__file__")

    def do(self, text: str) -> None:
        """Run statements."""
        self._tell("do", text)

    def ask(self, text: str) -> Any:
        """Return the value of an expression."""
        return self._tell("ask", text)

    def _tell(self, kind: str, text: str) -> Any:
        self.program.tell(json.dumps([kind, text]))
        return json.loads(self.program.line())


@pytest.fixture(params=["previous writes", "current writes"])
def sides(request: pytest.FixtureRequest, program: Callable[..., Program], url: str) -> Iterator[tuple[Side, Side]]:
    """Who writes, and who reads: the two versions, each way."""
    versions = ["previous", "current"] if request.param == "previous writes" else ["current", "previous"]
    found = [Side(program, url, version) for version in versions]
    yield found[0], found[1]
    for side in found:
        side.program.finish()


def test_records(sides: tuple[Side, Side]) -> None:
    """Either initialises and writes; the other reads, listens, follows, and writes the same record in its turn."""
    one, other = sides
    one.do(f"shm.init({DESCRIBED!r}, flag='READY')")
    assert other.ask("shm.names()") == sorted(DESCRIBED)
    assert other.ask("shm.describe('ALL').as_json()") == one.ask("shm.describe('ALL').as_json()")
    other.do("listening = dd.listen_to_datas(['ALL', 'GRID'], timeout=5)")
    other.do("following = dd.follow_data('SPAN', 0, timeout=2)")
    one.do("all, grid, latest, span = dd.set_datas_to_write(['ALL', 'GRID', 'LATEST', 'SPAN'])")
    one.do("all.set(1.5, -7, True, 'é\\r\\n', [1, None], {'k': [2]}, 'any'); grid.set([[1, 2], [3, 4.5]])")
    one.do("latest.set(3); span.set(1); dd.flush(); span.set(2); dd.flush()")
    assert other.ask("list(next(listening)[0][1:])")[1:] == [1.5, -7, True, "é\r\n", [1, None], {"k": [2]}, "any"]
    assert [other.ask("next(following).number") for _ in range(2)] == [1, 2]
    other.do("dd.set_datas_to_read(['ALL', 'GRID', 'LATEST', 'SPAN'])")
    read = "[(t.sender, t[2] if t._fields[2] != 'v' else t.v.tolist()) for t in dd.next()]"
    me = one.ask("dd.app_name")
    assert other.ask(read) == [[me, 1.5], [me, [[1, 2], [3, 4.5]]], [me, 3], [me, 2]]
    other.do("(mine,) = dd.set_datas_to_write(['SPAN']); mine.set(3); dd.flush()")
    assert other.ask("next(following).number") == 3
    one.do("following = dd.follow_data('SPAN', 0, timeout=2)")
    assert [one.ask("next(following).number") for _ in range(3)] == [1, 2, 3]


def test_a_description_that_changes(sides: tuple[Side, Side]) -> None:
    """The other version describes anew: who runs goes on under a compatible description, and stops under another."""
    one, other = sides
    one.do("shm.init({'R': [['ts', 0.0], ['sender', ''], ['a', 0]]})")
    one.do("(r,) = dd.set_datas_to_write(['R']); r.set(1); dd.flush()")
    other.do("shm.init({'R': [['ts', 0.0], ['sender', ''], ['new', 'x'], ['a', 0, {'unit': 'V'}]]}, keep=True)")
    one.do("r.set(2); dd.flush()")
    other.do("dd.set_datas_to_read(['R'])")
    assert other.ask("[dd.next()[0].a, dd.next()[0].new]") == [2, "x"]
    other.do("shm.init({'R': [['ts', 0.0], ['sender', ''], ['a', '']]})")
    one.do("r.set(3)\ntry:\n    dd.flush()\n    said = ''\nexcept DescriptionError as error:\n    said = str(error)")
    assert "'a' is now str" in one.ask("said")


def test_logs(sides: tuple[Side, Side]) -> None:
    """A reader of either version reads behind its cursor, and a writer of either goes on behind the other's records."""
    one, other = sides
    make = "log = TSLog('trip', ['If'], shm=shm, commit_delta=4, bucket_size=8, nreaders=2)"
    one.do(f"{make}\nfor n in range(1, 11):\n    log.store(n, n / 2)\nlog.commit()")
    other.do(f"{make}\nreader = log.reader(0)")
    assert other.ask("[reader.next() for _ in range(6)]") == [[n, n / 2] for n in range(1, 7)]
    other.do("reader.commit(); reader.close()")
    one.do("reader = log.reader(0)")
    assert one.ask("reader.next()") == [7, 3.5]
    one.do("reader.close(); log.close()")
    other.do("for n in range(11, 21):\n    assert log.store(n, n / 2) == n\nlog.commit()")
    one.do(f"{make}\nreader = log.reader(1)")
    assert one.ask("[reader.next()[0] for _ in range(20)]") == list(range(1, 21))
    assert one.ask("[reader.missed, reader.restarts, log.stats().seqn]") == [0, 0, 20]


def test_sensors_and_frames(sides: tuple[Side, Side]) -> None:
    """Also large values, which are files where everybody is on one machine."""
    one, other = sides
    one.do("s = SensorWriter('cam', 'front', shm); s.write('pose', {'x': 1.5}); s.write('big', np.arange(50_000))")
    one.do("pack_to_zip(['pose'], s.data_path)")
    other.do("reader = SensorReader('cam', shm=shm); heard = []; reader.attach_watchdog('pose', heard.append)")
    assert other.ask("[reader.get_data('pose/x'), reader.measurement, int(reader.big.sum())]") == [
        1.5, {"pose": {"x": 1.5}}, 1249975000
    ]
    one.do("s.write('pose', {'x': 2.5})")
    assert eventually(lambda: other.ask("heard")) == [{"x": 2.5}]
    other.do("reader.close()")
    one.do("file = FrameFile('run', shm, 'w')")
    one.do("d = file.create_dataset('d', (0, 200, 200), 'u2', maxshape=(None, 200, 200))")
    one.do("d.resize(2, 0); d[0] = 7; d[1] = 8; d.flush(); file.attrs['gain'] = 3")
    other.do("seen = FrameFile('run', shm)")
    assert other.ask("[list(seen['d'].shape), int(seen['d'][1].sum())]") == [[2, 200, 200], 320000]
    assert other.ask("seen.attrs['gain']") == 3
    other.do("seen.close()")
    one.do("file.close()")


def test_events_and_queues(sides: tuple[Side, Side], tmp_path: Path) -> None:
    one, other = sides
    config = {
        "_id": "keeper",
        "classname": "herostools.actor.JsonArchiver",
        "arguments": {"object_selector": "*", "event_name": "level", "save_template": f"{tmp_path}/{{{{ n }}}}.json",
                      "dead_letters": str(tmp_path / "dead")},
    }
    one.do("out = Emitter('tank', 'level', shm)\nfor n in range(5):\n    out.emit({'v': n}, {'n': n})")
    other.do(f"archivers = start({config!r}, shm)")
    one.do("out.emit({'v': 'x' * 100_000}, {'n': 5})")
    eventually(lambda: len(list(tmp_path.glob("*.json"))) == 6, 15, "six files")
    other.do("archivers.close()")
    assert len(json.loads((tmp_path / "5.json").read_text())["v"]) == 100_000
    one.do("(queue,) = dd.declare_fifos(['orders']); queue.push('go', 1.5)")
    other.do("(queue,) = dd.declare_fifos(['orders'])")
    assert other.ask("queue.pop(timeout=1)") == ["go", 1.5]


def test_leases_meet_a_version_that_knows_none(program: Callable[..., Program], url: str) -> None:
    """The earlier version asks for no lease and is not kept out; among current ones the lease holds all the same."""
    earlier, first, second = (Side(program, url, version) for version in ("previous", "current", "current"))
    first.do("shm.init({'R': {'owner': 'HDL', 'fields': [['ts', 0.0], ['sender', ''], ['a', 0]]}})")
    first.do("(r,) = dd.set_datas_to_write(['R']); r.set(1); dd.flush()")
    earlier.do("(r,) = dd.set_datas_to_write(['R']); r.set(2); dd.flush()")
    first.do("r.set(3); dd.flush()")
    second.do("try:\n    dd.set_datas_to_write(['R'])\nexcept WriterConflict as error:\n    said = str(error)")
    assert "'current'" in second.ask("said")
    earlier.do("dd.set_datas_to_read(['R'])")
    assert earlier.ask("dd.next()[0].a") == 3
    for side in (earlier, first, second):
        side.program.finish()
