"""A real MQTT broker for tests, and a client of it: Debian's mosquitto, and paho.

It knows mosquitto's configuration and nothing of shareddata's programs. Invariant: nothing of a broker is left after
`close()`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from servers import free_port, short_folder
from waiting import eventually

EXECUTABLE = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Mosquitto:
    """A broker on a free port, or with `socket=True` on a unix socket. `options` are lines of its configuration."""

    def __init__(self, options=(), socket=False):
        self.folder = short_folder()
        self.port = 0 if socket else free_port()
        self.socket = self.folder / "mqtt.sock"
        self.url = f"unix://{self.socket}" if socket else f"mqtt://127.0.0.1:{self.port}"
        listener = f"listener 0 {self.socket}" if socket else f"listener {self.port} 127.0.0.1"
        lines = ["persistence false", "log_dest stdout", listener, *(options or ["allow_anonymous true"])]
        if os.getuid() == 0:
            lines.insert(0, "user root")
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self.process = None
        self.start()

    def start(self):
        """Start it, again with nothing retained."""
        with (self.folder / "log").open("ab") as log:
            command = [EXECUTABLE, "-c", str(self.folder / "mosquitto.conf")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        eventually(self.listens, message="the broker")

    def listens(self):
        """Tell whether it takes connections."""
        assert self.process.poll() is None, self.log()
        address = ("127.0.0.1", self.port) if self.port else str(self.socket)
        with socket.socket(socket.AF_INET if self.port else socket.AF_UNIX) as probe:
            return probe.connect_ex(address) == 0

    def log(self):
        """Return its messages."""
        return (self.folder / "log").read_text()

    def kill(self):
        """End it at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        """End it, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)


class Client:
    """A client that keeps what it hears: (topic, payload, retained), in order."""

    def __init__(self, broker: Mosquitto, topic="#", login=None, ca: Path | None = None):
        self.heard = []
        self._ready = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, transport="tcp" if broker.port else "unix")
        if login:
            self.client.username_pw_set(*login)
        if ca:
            self.client.tls_set(str(ca))
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = lambda _c, _u, found: self.heard.append((found.topic, found.payload, found.retain))
        host = "127.0.0.1" if broker.port else str(broker.socket)
        self.client.connect(host, broker.port or 1, 10)
        self.client.loop_start()
        assert self._ready.wait(5), broker.log()

    def publish(self, topic, payload, retain=False):
        """Publish something, JSON unless it is bytes, and wait until the broker has it."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.client.publish(topic, data, qos=1, retain=retain).wait_for_publish(5)

    def of(self, topic):
        """Return what was heard of a topic, as JSON."""
        return [json.loads(payload) for heard, payload, _ in list(self.heard) if heard == topic]

    def close(self):
        """Disconnect."""
        self.client.disconnect()
        self.client.loop_stop()
        self.client = None  # paho closes its own sockets with its client
