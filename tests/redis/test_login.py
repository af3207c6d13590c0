"""Programs log in by name: from the environment or a file, never from a command line; over TLS with a certificate."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from certificates import certificates
from programs import Program
from records import PAIR
from servers import EXECUTABLES, OwnServer, free_port, plain_client
from shareddata import DataDict, ServerRefused, ServerSetupError, SharedMemory
from shareddata.address import Address
from shareddata.forward import Forward
from shareddata.login import check_typed, holds_password
from shareddata.server import Server

USERS = """
user default on >default ~* &* +@all
user PILOT on >geheim ~* &* +@all
user SHORE on >anders ~* &* +@all
"""


@pytest.fixture
def guarded(own_server: Callable[..., OwnServer], kind: str) -> OwnServer:
    return own_server(kind, port=free_port(), aclfile=USERS)


def bare(server: OwnServer) -> str:
    return f"redis://127.0.0.1:{server.port}"


def user_of(shm: SharedMemory) -> str:
    with shm._lock:
        return str(shm._connection.ask("ACL", "WHOAMI").decode())


# -- from the environment or a file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "environment", "user"),
    [
        ("", {"USER": "PILOT", "PASSWORD": "geheim"}, "PILOT"),
        ("", {"USER": "PILOT", "PASSWORD_FILE": "geheim\n"}, "PILOT"),
        ("", {"USER": "PILOT", "PASSWORD_FILE": "geheim", "PASSWORD": "the file counts"}, "PILOT"),
        ("", {"PASSWORD": "default"}, "default"),
        ("PILOT@", {"PASSWORD": "geheim"}, "PILOT"),
        ("PILOT@", {"USER": "SHORE", "PASSWORD": "geheim"}, "PILOT"),
        ("PILOT:geheim@", {"USER": "SHORE", "PASSWORD": "anders"}, "PILOT"),
    ],
)
def test_who_logs_in(
    guarded: OwnServer, address: str, environment: dict[str, str], user: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in environment.items():
        if name == "PASSWORD_FILE":
            (tmp_path / "password").write_text(value)
            value = str(tmp_path / "password")
        monkeypatch.setenv(f"SHAREDDATA_{name}", value)
    with SharedMemory(url=bare(guarded).replace("//", f"//{address}")) as shm:
        assert user_of(shm) == user
        assert "geheim" not in repr(shm) + repr(shm.address)


def test_a_changed_password_is_taken_up(guarded: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("geheim\n")
    monkeypatch.setenv("SHAREDDATA_USER", "PILOT")
    monkeypatch.setenv("SHAREDDATA_PASSWORD_FILE", str(file))
    admin = plain_client(guarded.url, username="default", password="default")
    with SharedMemory(url=bare(guarded)) as shm, admin as client:
        client.execute_command("ACL", "SETUSER", "PILOT", "resetpass", ">neu")
        client.execute_command("CLIENT", "KILL", "USER", "PILOT")
        with pytest.raises(ServerRefused, match="correct user and password") as refused:
            shm.names()
        assert "geheim" not in str(refused.value)
        file.write_text("neu\n")
        assert shm.names() == []


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"USER": "PILOT"}, r"\$SHAREDDATA_USER is 'PILOT', and there is no password: set \$SHAREDDATA_PASSWORD_FILE"),
        ({"USER": "PILOT", "PASSWORD_FILE": "/nowhere"}, r"PASSWORD_FILE is '/nowhere': cannot be read: No such file"),
        ({"USER": "PILOT", "PASSWORD_FILE": "/"}, "cannot be read: Is a directory"),
        ({"USER": "PILOT", "PASSWORD_FILE": sys.executable}, "cannot be read: it is no text"),
    ],
)
def test_a_login_that_cannot_be(
    guarded: OwnServer, environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"SHAREDDATA_{name}", value)
    with pytest.raises(ServerSetupError, match=says):
        SharedMemory(url=bare(guarded))


def test_an_embedded_server_asks_for_no_login(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDDATA_USER", "PILOT")
    monkeypatch.setenv("SHAREDDATA_PASSWORD", "geheim")
    with Server(short_path / "data"), SharedMemory(url=f"embedded://{short_path}/data") as shm:
        assert user_of(shm) == "default"


# -- not on a command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "holds"),
    [
        ("redis://host", False), ("redis://PILOT@host:1/0", False), ("unix:///a:b@c", False), ("redis://h?db=1", False),
        ("redis://:geheim@host", True), ("rediss://PILOT:geheim@host?db=1", True), ("redis://h?password=x", True),
        ("redis://h?db=1&ssl_password=x", True), ("redis://:geheim@[::1", True), ("nonsense://a:b@c", True),
        ("redis://h?password=", False), ("host", False),
    ],
)  # fmt: skip
def test_an_address_with_a_password_is_known(url: str, holds: bool) -> None:
    assert holds_password(url) == holds


def test_what_was_typed_is_checked() -> None:
    check_typed(None, "-u")
    with pytest.raises(ServerSetupError, match=r"^--to: .* set \$SHAREDDATA_TO_PASSWORD_FILE") as error:
        check_typed("redis://:geheim@host", "--to", "SHAREDDATA_TO")
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "-u", "redis://:geheim@localhost"],
        ["watch", "-u", "unix:///s?password=geheim"],
        ["forward", "--from", "redis://:geheim@a", "--to", "redis://b"],
        ["forward", "--from", "redis://a", "--to", "redis://me:geheim@b"],
        ["replay", "-u", "URL", "redis://:geheim@localhost"],
    ],
)
def test_a_command_refuses_a_typed_password(arguments: list[str], url: str) -> None:
    command = [sys.executable, "-m", "shareddata", *(url if each == "URL" else each for each in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "a password on a command line can be read by everybody" in ended.stderr and "geheim" not in ended.stderr


def test_a_handler_refuses_a_typed_password() -> None:
    command = [sys.executable, "-m", "shareddata.apps.hdl_host", "-a", "HOST", "-u", "redis://:geheim@localhost"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("HOST: -u: a password on a command line") and "geheim" not in ended.stderr


def test_a_forward_logs_in_at_both_ends(
    own_server: Callable[..., OwnServer], guarded: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each end gets its own login: the vehicle's password is never offered to the shore."""
    vehicle = own_server("valkey", port=free_port(), aclfile="user default on >fahrzeug ~* &* +@all\n")
    for name, value in {"PASSWORD": "fahrzeug", "TO_USER": "SHORE", "TO_PASSWORD": "anders"}.items():
        monkeypatch.setenv(f"SHAREDDATA_{name}", value)
    with SharedMemory(url=bare(vehicle)) as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(1, "a")
        dd.flush()
    with Forward(bare(vehicle), bare(guarded), ["LEFT"]) as forward:
        forward.run(once=True)
    with SharedMemory(url=Address(bare(guarded), "SHAREDDATA_TO")) as shm:
        assert user_of(shm) == "SHORE" and shm.names() == ["LEFT"]
    monkeypatch.delenv("SHAREDDATA_TO_USER")
    monkeypatch.delenv("SHAREDDATA_TO_PASSWORD")
    with Forward(bare(vehicle), bare(guarded), ["LEFT"]) as forward, pytest.raises(ServerRefused, match="log in"):
        forward.run(once=True)


def test_the_destination_may_come_from_the_environment(url: str, own_server: Callable[..., OwnServer]) -> None:
    shore = own_server()
    with SharedMemory(url=url) as shm:
        shm.init(PAIR)
    environment = {**os.environ, "SHAREDDATA_TO_URL": shore.url}
    command = [sys.executable, "-m", "shareddata", "forward", "--from", url, "--once"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 0, ended.stderr
    with SharedMemory(url=shore.url) as shm:
        assert shm.names() == ["LEFT", "RIGHT"]


# -- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(own_server: Callable[..., OwnServer], short_path: Path) -> tuple[OwnServer, str, Path]:
    """A server that wants a certificate of each client, signed by its authority."""
    if "redis" not in EXECUTABLES:
        pytest.skip("the embedded server has no TLS")
    certificates(short_path)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "yes"]
    for name, file in (("cert", "server.crt"), ("key", "server.key"), ("ca-cert", "ca.crt")):
        options += [f"--tls-{name}-file", str(short_path / file)]
    server = own_server("redis", options=options, aclfile=USERS)
    return server, f"rediss://127.0.0.1:{port}?ssl_ca_certs={short_path}/ca.crt", short_path


def with_certificate(address: str, folder: Path, name: str) -> str:
    return f"{address}&ssl_certfile={folder}/{name}.crt&ssl_keyfile={folder}/{name}.key"


def test_a_client_s_certificate(
    tls: tuple[OwnServer, str, Path], program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address, folder = tls
    monkeypatch.setenv("SHAREDDATA_USER", "PILOT")
    monkeypatch.setenv("SHAREDDATA_PASSWORD", "geheim")
    with SharedMemory(url=with_certificate(address, folder, "client")) as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        assert user_of(shm) == "PILOT"
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(1, "a")
        assert dd.flush() == 1
    running = program(
        """
        with SharedMemory() as shm, DataDict("reader", shm) as dd:
            dd.set_datas_to_read(["LEFT"])
            say(dd.next()[0].number)
        """,
        env={"SHAREDDATA_URL": with_certificate(address, folder, "client")},
    )
    assert running.finish() == ["1"]


@pytest.mark.parametrize("name", [None, "stranger"])
def test_without_the_right_certificate_nobody_gets_in(tls: tuple[OwnServer, str, Path], name: str | None) -> None:
    _, address, folder = tls
    wrong = with_certificate(address, folder, name) if name else address
    with pytest.raises(ServerSetupError, match="TLS failed.*ssl_certfile"):
        SharedMemory(url=wrong, wait=0.5)
