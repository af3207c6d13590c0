#!/usr/bin/env python3
"""A bridge to an MQTT broker: records go out as JSON, and named records can be written from there.

Sources: OASIS, "MQTT Version 3.1.1"; Eclipse paho-mqtt 2.

    bridge_mqtt.py 'BATTERY__*' GPS__position                  two kinds of records go out
    bridge_mqtt.py --write MOTOR__command                      a record can be written, nothing goes out
    bridge_mqtt.py -b mqtts://broker -n usv1 'BATTERY__*'      over TLS, of the namespace usv1

Out, to `shareddata/NAMESPACE/RECORD` (`shareddata/RECORD` without a namespace), retained, quality of service 1:

    {"record": "BATTERY__measures", "ts": 1700000000.5, "sender": "HDL_BATTERY", "stale": false, "bridge": "...",
     "values": {"voltage": 12.65, "alarms": []}, "units": {"voltage": "V"}, "out_of_limits": []}

Retained, so that who subscribes has the newest value at once; 1, so that the broker acknowledges each message. It may
come twice: the ts tells. `stale` is true in one more message when the record was not written for its max_age. While
the broker is away the newest value of each record waits, and what it replaced is counted; so it is when the broker is
so slow that a thousand messages wait. A broker that comes back gets the newest values once more. Numbers that JSON does
not know are the texts "NaN", "Infinity" and "-Infinity"; arrays are lists.

In, from the topic of a record and `/set`, or from --subscribe (`'shareddata/usv1/{record}'` takes what another bridge
sends): an object with "values", and with "ts" when it was measured; fields that are left out stay as they are. The
subscription has quality 1 and no session: what was sent while this program was not there is not obeyed later. Refused,
logged and counted is what is no such object, does not fit the description, or is retained without a ts. What is not
later than the record is left out, and what has this bridge's own "bridge".

The bridge's state is at `.../bridge/NAME`: "online", or "offline" which the broker itself says when the bridge is lost.
"""
import json
import logging
import os
import secrets
import socket
import ssl
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from shareddata.bridge import Bridge
from shareddata.errors import ServerSetupError, SharedDataError
from shareddata.handler import Handler, needs, program
from shareddata.login import check_typed, login
from shareddata.outgoing import Update
from shareddata.table import clean, dumps
from shareddata.tally import Tally

log = logging.getLogger("shareddata")

PREFIX = "SHAREDDATA_MQTT"
TOPIC = "shareddata/{namespace}/{record}"
KNOWN = {"record", "ts", "sender", "stale", "bridge", "values", "units", "out_of_limits"}
MOST_IN_FLIGHT = 100  # messages that the broker has not acknowledged
MOST_WAITING = 1000  # messages that the broker was not given yet
LARGEST = 1 << 20  # bytes of a message that is taken
LAST = 2.0  # seconds that the broker has at the end to take what waits for it
PORTS = {"mqtt": 1883, "mqtts": 8883}


def topic_of(template: str, namespace: str, record: str) -> str:
    """Return a topic; a level that the namespace leaves empty is left out.

    >>> topic_of(TOPIC, "usv1", "GPS__position"), topic_of(TOPIC, "", "GPS__position")
    ('shareddata/usv1/GPS__position', 'shareddata/GPS__position')
    """
    levels = [each.replace("{namespace}", namespace).replace("{record}", record) for each in template.split("/")]
    return "/".join(level for level, given in zip(levels, template.split("/")) if level or not given)


def message(update: Update, bridge: str) -> bytes:
    """Return the payload of an update."""
    record, trame, stale = update
    ts, sender, *values = trame
    names = [field.name for field in record.fields[2:]]
    return dumps({
        "record": record.name, "ts": ts, "sender": sender, "stale": stale, "bridge": bridge,
        "values": dict(zip(names, values)), "units": {f.name: f.unit for f in record.fields[2:] if f.unit},
        "out_of_limits": list(record.out_of_limits(trame)),
    }).encode()


def understood(payload: bytes, retained: bool) -> dict[str, Any]:
    """Return what a message from the broker holds.

    Raises:
        ValueError: it is not what this module's head says.
    """
    if len(payload) > LARGEST:
        raise ValueError(f"it has {len(payload)} bytes, expected {LARGEST} at the most")
    try:
        found = json.loads(payload)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict) or not isinstance(found.get("values"), dict):
        raise ValueError('expected an object like {"values": {"speed": 1.5}}')
    if strange := found.keys() - KNOWN:
        raise ValueError(f"it has {', '.join(sorted(strange))}, known are {', '.join(sorted(KNOWN))}")
    if retained and found.get("ts") is None:
        raise ValueError("it is retained and has no ts, so nobody knows of when it is: publish it without retain")
    return found


class Broker:
    """The connection to the broker, which paho's thread keeps, and what waits for it.

    Args:
        address: `mqtt://host:port`, `mqtts://host:port`, `unix:///path`; a user may be in it.
        files: the authority's certificates, and this client's certificate and key in one file; "" for none.
        state_topic: where the state is told.
        qos: of what goes out.

    Attributes:
        bridge: this bridge in messages, another one at each start.
        connected: whether the broker is there.
    """

    def __init__(self, address: str, files: tuple[str, str], state_topic: str, qos: int) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self.bridge = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.connected = False
        self.topics: dict[str, str] = {}  # to subscribe to, and the record of each
        self.take: Any = None
        self.tally = Tally()
        self._qos, self._state_topic, self._last_error = qos, state_topic, ""
        self._news = threading.Condition()
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._newest: dict[str, bytes] = {}  # by topic
        self._in_flight = 0
        self._of_state: set[int] = set()
        self._ending = self._answered = False
        self._reason = ""
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._lost_at: float | None = None
        scheme, host, port, user = place(address)
        kind: Literal["unix", "tcp"] = "unix" if scheme == "unix" else "tcp"
        self.shown = host if kind == "unix" else f"{host}:{port}"
        self._user = user
        login(PREFIX, self._user)  # what is wrong with it is said at the start
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, transport=kind)
        self._client.reconnect_delay_set(1, 10)
        self._client.will_set(state_topic, "offline", qos=1, retain=True)
        if scheme == "mqtts":
            self._client.tls_set_context(context(*files))
        self._client.on_pre_connect = self._log_in
        self._client.on_connect, self._client.on_disconnect = self._came, self._went
        self._client.on_connect_fail, self._client.on_subscribe = self._failed, self._subscribed
        self._client.on_message, self._client.on_publish = self._arrived, self._published
        self._client.connect_async(host, port, keepalive=15)

    def start(self) -> None:
        """Connect, and go on doing so whenever the broker is not there."""
        self._client.loop_start()
        self._thread.start()

    def close(self) -> None:
        """Publish what waits, as far as the broker takes it soon, say that the bridge ends, and disconnect."""
        with self._news:
            self._news.wait_for(lambda: not self.connected or not (self._waiting or self._in_flight), LAST)
            self._ending = True
            left = len(self._waiting) + self._in_flight
            self._news.notify_all()
        if left:
            self.tally.complain("missed", "end", f"{left} messages wait for the broker at the end", left)
        if self._thread.ident is not None:
            self._thread.join()
        said = self._client.publish(self._state_topic, "offline", qos=1, retain=True) if self.connected else None
        with suppress(RuntimeError):  # the broker has just gone
            if said is not None:
                said.wait_for_publish(1)
        self._client.disconnect()
        stuck: Any = self._client.socket() if said is not None and not said.is_published() else None
        if stuck is not None:
            with suppress(OSError):
                stuck.shutdown(socket.SHUT_RDWR)  # else paho waits until all that it has is sent
        self._client.loop_stop()

    def state(self) -> dict[str, Any]:
        """Return what the status record tells besides the counts.

        Raises:
            SharedDataError: the thread has ended by a mistake; its traceback was printed.
        """
        if not self._thread.is_alive() and not self._ending:
            raise SharedDataError("nothing is published any more, see above: start this program again")
        return {"connected": self.connected and not self._ending}

    def send(self, topic: str, payload: bytes) -> None:
        """Publish, or keep until the broker can take it; what a newer one replaces is counted."""
        with self._news:
            self._newest[topic] = payload
            full = len(self._waiting) >= MOST_WAITING
            if not self.connected or full:
                kept = [each for each in self._waiting if each[0] != topic]
                replaced = len(self._waiting) - len(kept)
                if full and replaced:
                    text = f"the broker is slow, {MOST_WAITING} messages wait for it: the newest values go on"
                    self.tally.complain("replaced", "", text, replaced)
                else:
                    self.tally.add("replaced", replaced)
                self._waiting = deque(kept)
            self._waiting.append((topic, payload))
            self._news.notify_all()

    def _work(self) -> None:
        """Publish what waits, as far as the broker keeps up.

        Never under our lock: paho tells us of acknowledgements under its own, which `publish` wants.
        """
        while True:
            with self._news:
                while not self._ending and not (
                    self.connected and self._waiting and self._in_flight < MOST_IN_FLIGHT
                ):
                    self._news.wait()
                if self._ending:
                    return
                topic, payload = self._waiting.popleft()
                self._in_flight += 1
            sent = self._client.publish(topic, payload, qos=self._qos, retain=True)
            if self._qos == 0 and sent.rc:  # not kept by paho: the broker has just gone
                with self._news:
                    self._waiting.appendleft((topic, payload))
                    self._in_flight = max(0, self._in_flight - 1)

    def _published(self, client: Any, userdata: Any, mid: int, *_: Any) -> None:
        if mid in self._of_state:
            self._of_state.discard(mid)
            return
        with self._news:
            if self._ending:  # it is counted as missed, or is our last word
                return
            self.tally.add("sent")
            self._in_flight = max(0, self._in_flight - 1)
            self._news.notify_all()

    # -- told by paho, in its thread --------------------------------------------------------------------------------

    def _log_in(self, client: Any, userdata: Any) -> None:
        self._answered, self._reason = False, ""
        try:
            found = login(PREFIX, self._user)
        except ServerSetupError as error:
            self._reason = f"is not asked: {error}"
            raise ConnectionAbortedError from None  # paho tries again, of this kind only
        client.username_pw_set(found.get("username") or self._user, found.get("password"))

    def _came(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._answered = True
        if reason.is_failure:
            self._complain(f"refused us: {reason}")
            return
        away = "" if self._lost_at is None else f" after {time.monotonic() - self._lost_at:.1f} s"
        log.info("the broker %s is there%s", self.shown, away)
        self._last_error, self._lost_at = "", None
        if self.topics:
            client.subscribe([(topic, 1) for topic in self.topics])
        self._of_state.add(client.publish(self._state_topic, "online", qos=1, retain=True).mid)
        with self._news:
            self.connected = True
            if self._qos == 0 and self._in_flight:  # lost, and never acknowledged
                text = "messages were on their way when the broker went"
                self.tally.complain("missed", "", f"{self._in_flight} {text}", self._in_flight)
                self._in_flight = 0
            waiting = {topic for topic, _ in self._waiting}  # of the others it may have lost what it retained
            self._waiting.extend(each for each in self._newest.items() if each[0] not in waiting)
            self._news.notify_all()

    def _subscribed(self, client: Any, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        if refused := [str(reason) for reason in reasons if reason.is_failure]:
            self._complain(f"refuses a subscription: {', '.join(refused)}")
        else:
            log.info("the broker %s sends what is to be written", self.shown)

    def _went(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._news:
            connected, self.connected = self.connected, False
            self._news.notify_all()
        if connected and reason.is_failure:
            self._lost_at = time.monotonic()
            log.warning("the broker %s is gone: %s; going on, the newest values wait for it", self.shown, reason)
        elif not self._answered and not self._ending:
            self._complain("does not answer: is it an MQTT broker, and on these terms (TLS, certificates)?")

    def _failed(self, client: Any, userdata: Any) -> None:
        self._complain(self._reason or "is not there, or not on these terms (TLS, certificates)")

    def _complain(self, text: str) -> None:
        """Say once what keeps us from the broker."""
        if text != self._last_error:
            self._last_error = text
            log.warning("the broker %s %s; trying again", self.shown, clean(text))

    def _arrived(self, client: Any, userdata: Any, found: Any) -> None:
        self.take(found.topic, found.payload, found.retain)


def place(address: str) -> tuple[str, str, int, str | None]:
    """Return scheme, host or path, port and user of a broker's address.

    >>> place("mqtts://me@broker.example"), place("unix:///run/mqtt.sock")
    (('mqtts', 'broker.example', 8883, 'me'), ('unix', '/run/mqtt.sock', 1, None))

    Raises:
        ServerSetupError: it is none.
    """
    wrong = f"-b {address}: expected mqtt://host:port, mqtts://host:port or unix:///path"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as error:
        raise ServerSetupError(f"{wrong}: {error}") from None
    if parts.scheme not in (*PORTS, "unix") or (parts.scheme == "unix") == bool(host):
        raise ServerSetupError(wrong)
    user = unquote(parts.username) if parts.username else None
    return (parts.scheme, host or parts.path, port or PORTS.get(parts.scheme, 1), user)


def context(authority: str, own: str) -> ssl.SSLContext:
    """Return what TLS is to be like.

    Raises:
        ServerSetupError: a file cannot be read, or is none.
    """
    try:
        made = ssl.create_default_context(cafile=authority or None)
        if own:
            made.load_cert_chain(own)
    except (OSError, ssl.SSLError) as error:
        raise ServerSetupError(f"-c {authority or '(none)'}, -k {own or '(none)'}: {error}") from None
    return made


def connect(bridge: Bridge, broker: Broker, subscribe: str, namespace: str) -> None:
    """Join both: what counts, which topics are heard, what becomes of messages."""
    tally, incoming = bridge.tally, bridge.incoming
    broker.tally = tally
    broker.topics = {topic_of(subscribe, namespace, name): name for name in incoming.names}

    def take(topic: str, payload: bytes, retained: bool) -> None:
        try:
            found = understood(payload, retained)
        except ValueError as error:
            incoming.refuse(topic, str(error))
            return
        if found.get("bridge") == broker.bridge:
            tally.add("returned")
        else:
            incoming.put(broker.topics[topic], found["values"], found.get("ts"), topic)

    broker.take = take


@program(
    head=__doc__,
    do_debug="Show debugging information for the bridge",
    broker="Address of the broker: mqtt://host:port, mqtts://host:port (TLS), unix:///path; user and password are"
    " $SHAREDDATA_MQTT_USER and the file that $SHAREDDATA_MQTT_PASSWORD_FILE names",
    write="Records that may be written from the broker: A,B",
    subscribe="Topics that they are written from; by default the record's topic and /set",
    topic="Topics that records go to",
    mode="What goes out: every (each update of records with a history) or newest (at most as often as -f)",
    frequency="How often records are looked at that have no history, or of which only the newest goes out, in Hz",
    qos="Quality of service of what goes out: 0, 1 or 2",
    ca="File with the certificates of the authorities that vouch for the broker; the system's by default",
    key="File with this bridge's certificate and key, where the broker asks for one",
    records="Records that go out: names or globs ('BATTERY__*')",
)
def main(
    handler: Handler, broker: str = "mqtt://localhost", write: str = "", subscribe: str = "", topic: str = TOPIC,
    mode: str = "every", frequency: float = 10.0, qos: int = 1, ca: str = "", key: str = "", *records: str,
) -> None:
    """Pass records on to an MQTT broker, and write records from there. The program's head tells all of it."""
    needs("paho.mqtt.client", "mqtt")
    check_typed(broker, "-b", PREFIX)
    if mode not in ("every", "newest") or qos not in (0, 1, 2):
        handler.wrong_usage("the mode is every or newest, the quality of service 0, 1 or 2")
    subscribe, namespace = subscribe or f"{topic}/set", handler.shm.namespace
    if not all("{record}" in each and not set("+#") & set(each) for each in (topic, subscribe)):
        handler.wrong_usage("a topic holds {record}, and neither + nor #")
    state = topic_of(topic, namespace, f"bridge/{handler.dd.app_name}")
    if set("+#") & set(state):
        handler.wrong_usage("the name -a is part of the topic of the bridge's state: it holds neither + nor #")
    peer = Broker(broker, (ca, key), state, qos)

    def send(update: Update) -> None:
        peer.send(topic_of(topic, namespace, update.record.name), message(update, peer.bridge))

    with Bridge(
        handler, records, write, send, every=mode == "every", frequency=frequency, status="BRIDGE__mqtt"
    ) as bridge:
        connect(bridge, peer, subscribe, namespace)
        peer.start()
        try:
            bridge.run(peer.state)
        finally:
            peer.close()


if __name__ == "__main__":
    main()
