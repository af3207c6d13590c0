"""A real Prometheus collects the page's metrics, and has answers to all that the dashboard asks."""

import json
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import free_port
from shareddata import DataDict, SharedMemory, TSLog
from shareddata.page import Page
from waiting import eventually
from web import ask

DASHBOARD = Path(__file__).parents[2] / "docs" / "howto" / "files" / "grafana-dashboard.json"
HEAD = [["ts", 0.0], ["sender", ""]]
TOKEN = "a-token-that-nobody-guesses"

pytestmark = [
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed (Debian: apt install it)"),
    pytest.mark.parametrize("kind", ["valkey"], indirect=True),
]


@pytest.fixture
def page(shm: SharedMemory) -> Iterator[Page]:
    """A page of a record and a log, that demands its token."""
    shm.init({"TANK__measures": {"max_age": 60.0, "fields": [*HEAD, ["level", 0.0, {"unit": "m", "max": 1.9}]]}})
    with DataDict("HDL_TANK", shm) as dd, TSLog("tank/fast", ["f"], shm=shm) as log:
        (data,) = dd.set_datas_to_write(["TANK__measures"])
        data.set(2.5)
        dd.flush()
        log.store(1.0)
        log.commit()
        with Page(shm, host="0.0.0.0", port=0, token=TOKEN) as page:
            yield page


@pytest.fixture
def prometheus(page: Page, short_path: Path) -> Iterator[str]:
    """The address of a Prometheus that collects the page's metrics twice a second."""
    (short_path / "token").write_text(TOKEN)
    collected = {
        **{"job_name": "shareddata", "scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "authorization": {"credentials_file": str(short_path / "token")},
        "static_configs": [{"targets": [f"127.0.0.1:{page.port}"]}],
    }
    (short_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [collected]}))
    address = f"127.0.0.1:{free_port()}"
    command = [
        *("prometheus", f"--config.file={short_path / 'prometheus.yml'}", f"--web.listen-address={address}"),
        f"--storage.tsdb.path={short_path / 'data'}",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        yield f"http://{address}"
        program.terminate()


def found(prometheus: str, expression: str) -> list[Any]:
    """Return what an expression gives now."""
    try:
        answer = ask(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    except ConnectionRefusedError:  # it is still starting
        time.sleep(0.1)
        return []
    assert answer.status == 200, answer.text
    return list(answer.json["data"]["result"])


def test_dashboard_has_answers(prometheus: str) -> None:
    (level,) = eventually(lambda: found(prometheus, "shareddata_tank_measures_level_meters"), timeout=30)
    assert level["value"][1] == "2.5" and level["metric"]["field"] == "level"
    (up,) = found(prometheus, "up")
    assert up["value"][1] == "1"
    panels = json.loads(DASHBOARD.read_text())["panels"]
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"].replace("$record", ".*").replace("$log", ".*")
            assert found(prometheus, expression), f"{panel['title']}: {expression} gives nothing"
    assert len(panels) == len({panel["id"] for panel in panels})
