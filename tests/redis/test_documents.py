"""`shareddata docs` and `shareddata stubs` on servers: who reads and writes, and names that a C program reads with."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import OwnServer, plain_client
from shareddata import DataDict, ServerRefused, SharedMemory, TSLog, cli, stubs, uses

HEAD = [["ts", 0.0], ["sender", ""]]
TANK: dict[str, Any] = {
    "TANK__measures": {"owner": "HDL_TANK", "fields": [*HEAD, ["level", 0.0, {"unit": "m"}], ["open", False]]},
    "TANK__command": [*HEAD, ["valve", ""]],
    "TANK__silent": [*HEAD, ["x", 0]],
}


@pytest.fixture
def busy(shm: SharedMemory) -> Iterator[SharedMemory]:
    """Programs that read, listen, follow and write."""
    shm.init(TANK)
    stop = threading.Event()

    def work() -> None:
        with DataDict("HDL_TANK", shm) as tank, DataDict("PILOT", shm) as pilot, DataDict("LOGGER", shm) as logger:
            (data,) = tank.set_datas_to_write(["TANK__measures"])
            (order,) = pilot.set_datas_to_write(["TANK__command"])
            tank.set_datas_to_read(["TANK__command"])
            pilot.set_datas_to_read(["TANK__measures"])
            follower = logger.follow_data("TANK__measures", timeout=0.01)
            while not stop.wait(0.01):
                data.set(1.0, True)
                order.set("open")
                for each in (tank, pilot):
                    each.flush()
                    each.next()
                list(follower)

    thread = threading.Thread(target=work)
    thread.start()
    yield shm
    stop.set()
    thread.join()


def test_who_reads_and_writes(busy: SharedMemory, client: Any) -> None:
    before = client.config_get("slowlog*")
    seen = uses.look(busy, 1.0)
    assert seen.writers == {"TANK__measures": {"HDL_TANK"}, "TANK__command": {"PILOT"}}
    assert seen.readers == {"TANK__measures": {"PILOT", "LOGGER"}, "TANK__command": {"HDL_TANK"}}
    assert client.config_get("slowlog*") == before
    assert client.slowlog_len() == 0


def test_namespaces_do_not_mix(busy: SharedMemory) -> None:
    with SharedMemory(url=busy.url, namespace="usv1") as shm:
        shm.init(TANK)
        assert uses.look(shm, 0.3) == uses.Uses()


def test_settings_are_put_back_when_it_is_interrupted(
    busy: SharedMemory, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = client.config_get("slowlog*")

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(uses, "_entries", interrupted)
    with pytest.raises(KeyboardInterrupt, check=lambda _: True):
        uses.look(busy, 0.3)
    assert client.config_get("slowlog*") == before


def test_server_that_does_not_allow_it(own_server: Callable[..., OwnServer]) -> None:
    server = own_server(aclfile="user default on nopass ~* &* +@all -config\n")
    with SharedMemory(url=server.url) as shm, pytest.raises(ServerRefused, match="NOPERM"):
        uses.look(shm, 0.1)


def test_log_and_moment_show_themselves_in_notebooks(shm: SharedMemory) -> None:
    shm.init(TANK)
    with TSLog("tank/fast", ["Qf"], shm=shm) as log:
        log.store(1, 2.0)
        shown = log._repr_html_()
    assert "<td>Qf</td>" in shown and "<td>last number</td><td>1</td>" in shown
    with DataDict("HDL_TANK", shm) as dd:
        (data,) = dd.set_datas_to_write(["TANK__measures"])
        data.set(1.25, True)
        dd.flush()
    assert "<td>HDL_TANK</td><td>level=1.25  open=True</td>" in shm.at(time.time() + 1)._repr_html_()


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit, check=lambda _: True) as end:
        cli.main(list(arguments))
    return int(end.value.code or 0), *capsys.readouterr()


def test_docs_of_a_running_system(
    busy: SharedMemory, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "interface.html"
    code, out, _ = command(capsys, "docs", "-u", url, "--live", "1", "--title", "USV 1", "-o", str(target))
    assert (code, out) == (0, f"{target}: 3 records\n")
    assert "<dd>LOGGER, PILOT</dd>" in target.read_text() and "<title>USV 1</title>" in target.read_text()
    code, out, _ = command(capsys, "docs", "-u", url)
    assert code == 0 and out.startswith("# Interface\n") and "HDL\\_TANK" in out
    code, _, err = command(capsys, "docs", "-o", "x.pdf")
    assert code == 2 and "end the document's name with .html or .md" in err


def test_stubs_of_a_server(shm: SharedMemory, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys, "stubs", "-u", url)
    assert code == 1 and "no record is described there" in err
    shm.init(TANK)
    assert "class TANK__measures(NamedTuple):" in command(capsys, "stubs", "-u", url)[1]
    target = tmp_path / "records.h"
    assert command(capsys, "stubs", "-u", url, "-o", str(target))[1] == f"{target}: 3 records\n"
    assert '#define TANK__measures_KEY "TANK__measures"' in target.read_text()


READER = r"""
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "records.h"

int main(int argc, char **argv) {
    redisContext *redis = redisConnectUnix(argv[argc - 1]);
    if (!redis || redis->err) return 1;
    const char *words[] = TANK__measures_HMGET;
    redisReply *reply = redisCommandArgv(redis, TANK__measures_COUNT + 2, words, NULL);
    if (!reply || reply->type != REDIS_REPLY_ARRAY) return 2;
    TANK__measures tank;
    tank.level = atof(reply->element[TANK__measures_at_level]->str);
    tank.open = !strcmp(reply->element[TANK__measures_at_open]->str, "true");
    tank.sender = reply->element[TANK__measures_at_sender]->str;
    printf("%s: %s %.2f %s, open %d\n", tank.sender, TANK__measures_field.level, tank.level, TANK__measures_unit.level,
           tank.open);
    reply = redisCommand(redis, "HGET %s %s", TANK__measures_KEY, TANK__measures_field.sender);
    printf("%s\n", reply->str);
    return 0;
}
"""


@pytest.mark.skipif(
    not (shutil.which("gcc") and Path("/usr/include/hiredis/hiredis.h").exists()),
    reason="gcc or libhiredis is not installed (Debian: apt install gcc libhiredis-dev)",
)
def test_c_program_reads_a_record(shm: SharedMemory, url: str, tmp_path: Path) -> None:
    shm.init(TANK)
    with DataDict("HDL_TANK", shm) as dd:
        (data,) = dd.set_datas_to_write(["TANK__measures"])
        data.set(1.25, True, ts=time.time())
        dd.flush()
    (tmp_path / "records.h").write_text(stubs.header({name: shm.describe(name) for name in shm.names()}))
    (tmp_path / "main.c").write_text(READER)
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-o", "main", "main.c", "-lhiredis"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with plain_client(url):
        read = subprocess.run(
            [tmp_path / "main", url.removeprefix("unix://")], capture_output=True, text=True, timeout=10
        )
    assert read.stdout == "HDL_TANK: level 1.25 m, open 1\nHDL_TANK\n"
