"""The door: one socket to the server, transactions, and what the server sends by itself.

One sendall, one recv, hiredis parses. It must not know records or descriptions; it carries bytes made by `wire`, over
a socket that `address` has connected. Invariants:

1. A request that may change something is sent at most once. If its answer doesn't come, the error says that the outcome
   is unknown (`ServerError.outcome_unknown`), and the connection is closed: no late answer is taken for another's.
2. Before a request is sent, what arrived meanwhile is taken: a connection that the server closed is opened anew first,
   so that an idle program survives a server's restart.
3. Every call returns or raises within the time-out, and once more that time where a connection is to be opened first.
4. When anything is raised between sending and the answer, by a signal's handler too, the connection is closed.
5. In a forked child the socket is closed unsent; the child's first call opens its own.

A Connection belongs to one thread at a time.
"""

import logging
import os
import select
import socket
import ssl
import struct
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis

from shareddata import master
from shareddata.address import Address, refusal
from shareddata.codec import Buffer
from shareddata.errors import ServerError, ServerRefused, ServerSetupError, ServerTimeout, ServerUnreachable
from shareddata.wire import pack, queued

log = logging.getLogger("shareddata")

Take = Callable[[bytes | bytearray], bytes | bytearray | None]
"""What takes something out of an answer before it is parsed: it is given all that came of it so far, and returns what
is to be parsed instead, or None when more has to come. It may only wait for what the server is sure to send."""

Request = bytes | Sequence[Buffer]
"""What is sent: in one piece, or, where that would copy large values, in several."""

HEARD_WITHIN = 1.0
"""Seconds for which an answer from memory is given after the server was last heard."""

_PUSHED = {b"invalidate": 2, b"message": 3, b"pmessage": 4}  # what a push has at least
_JOINED = 65536  # bytes below which pieces are joined
_PIECES = 512  # sent by one call; the system's limit is 1024

_RETRY_FIRST, _RETRY_LONGEST = 0.01, 0.2  # seconds between tries to connect

_connections: "weakref.WeakSet[Connection]" = weakref.WeakSet()


def _drop_sockets_in_child() -> None:
    for connection in list(_connections):
        connection.close()


os.register_at_fork(after_in_child=_drop_sockets_in_child)


def _closed(_: int) -> list[Any]:
    """Stand for `poll` where there is no socket: something is to be done before anything is sent."""
    return [None]


_Push = hiredis.PushNotification

_SILENT = (TimeoutError, BlockingIOError)  # what a socket raises whose time is over


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    """Let the system watch the time of sending: a socket with a time-out of Python's own polls before each call.

    Receiving is preceded by a poll, whose time is right also where signals interrupt it (SO_RCVTIMEO's would begin
    anew with each signal).
    """
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(seconds)
        return
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))


def _send_pieces(sock: socket.socket, pieces: Sequence[Buffer]) -> None:
    """Send a request that is in several pieces; large ones are not copied, but where TLS has to."""
    if isinstance(sock, ssl.SSLSocket) or sum(map(len, pieces)) < _JOINED:
        return sock.sendall(b"".join(pieces))
    rest = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    while rest:
        sent = sock.sendmsg(rest[:_PIECES])
        while rest and sent >= len(rest[0]):
            sent -= len(rest.pop(0))
        if sent:
            rest[0] = rest[0][sent:]


class Connection:
    """One socket to the server, opened when it is first used and again when it broke.

    Args:
        address: where.
        timeout: seconds within which every call returns or raises.
        epoch_key: the key whose changes are noticed (`epoch`, `epoch_news`).
        setup: called with this connection each time it was opened anew, before anything else is sent.
        name: what `CLIENT LIST` shows of it.

    Attributes:
        epoch: the value of the epoch key when it was last asked for.
        epoch_news: True when the epoch key has changed since, or the connection was opened anew.
        tracking: whether it is told when anything that it has read is changed, and not only the epoch; set before it is
            opened.
        invalidated: True when something that it has read and tracks was changed since the last answer.
        opened: how often the connection was opened.
        listening: whether `messages` are kept.
        messages: what the server pushed since the last `transact`: `[kind, channel or keys, ...]`.
        covered: what it had pushed before the answer of the last `transact`, which therefore knows of it.
        guarded: the value of the guard's key behind the last `transact` that had one.
        heard: when the server was last heard, by the monotonic clock.

    Redis: CLIENT TRACKING ON, GET of the epoch key.
    """

    def __init__(
        self,
        address: Address,
        timeout: float,
        epoch_key: str,
        setup: "Callable[[Connection], None] | None" = None,
        name: str = "shareddata",
    ) -> None:
        self.address = address
        self.timeout = timeout
        self._patience = max(1, int(timeout * 1000))
        self._epoch_key = epoch_key
        self._epoch_bytes = epoch_key.encode()
        self._master = master.of(address)  # who finds the server in charge, where the address stands for several
        self._slot = master.slot_of(epoch_key) if self._master else 0
        self._setup = setup
        self._name = name
        self._sock: socket.socket | None = None
        self.epoch: bytes | None = None
        self.epoch_news = False
        self.tracking = False
        self.invalidated = False
        self.opened = 0
        self.listening = False
        self.messages: list[list[Any]] = []
        self.covered: list[list[Any]] = []
        self.guarded: Any = None
        self.heard = 0.0
        self._clock_offset: int | None = None
        self._close_socket: Callable[[], object] = lambda: None
        self._away = False
        self._harmless = False
        self._opt_in = self._opening = False
        self._follow_until = 0.0  # while another server's answer was followed: until when that goes on
        self._ready: Callable[[int], list[Any]] = _closed
        _connections.add(self)

    def __repr__(self) -> str:
        return f"<Connection {self.address.shown}{'' if self._sock else ' (closed)'}>"

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a socket; the server may have closed it meanwhile."""
        return self._sock is not None

    @property
    def peer(self) -> tuple[str, int] | None:
        """Host and port of the server in charge, where the address stands for several and the connection is open."""
        node = self._master.peer(self._sock) if self._master else None
        return node and node[:2]

    def open(self, wait: float | None = None) -> None:
        """Open the connection if it isn't, trying again until the time is over.

        Args:
            wait: seconds to go on trying; the connection's time-out if None. The first try has the whole time-out.

        Raises:
            ServerUnreachable: when nobody answered in that time.
            ServerRefused, ServerSetupError: at once: waiting would not help.
        """
        if self._sock is not None:
            return
        if self._opening:
            raise ServerUnreachable(f"{self.address.shown}: the connection broke while it was opened: nothing was sent")
        wait = self.timeout if wait is None else wait
        deadline, pause, tries = time.monotonic() + wait, _RETRY_FIRST, 0
        while True:
            try:
                rest = max(0.05, deadline - time.monotonic())
                return self._open_once(min(self.timeout, rest) if tries else self.timeout)
            except (ServerUnreachable, ServerTimeout):
                self.close()
                if time.monotonic() + pause >= deadline:
                    raise
            except BaseException:
                self.close()
                raise
            self._pause(pause)
            pause, tries = min(2 * pause, _RETRY_LONGEST), tries + 1

    def _open_once(self, timeout: float) -> None:
        sock = self._dial(timeout)
        closes = sock.close if self._master is None else partial(self._master.close, sock)
        self._close_socket = weakref.finalize(self, closes)  # also of a connection that is forgotten
        self._use(sock)
        self._clock_offset = None
        self.messages.clear()
        harmless = self._harmless
        try:  # a signal's handler may raise anywhere in here
            self._harmless = self._opening = True
            self._patience = max(1, int(timeout * 1000))
            _set_timeout(sock, timeout)
            self.track()
            if self._setup:
                self._setup(self)
            _set_timeout(sock, self.timeout)
        finally:
            self._harmless, self._opening = harmless, False
            self._patience = max(1, int(self.timeout * 1000))
        self.opened += 1
        self.epoch_news = self.invalidated = True
        if self._away:
            self._away = False
            log.warning("%s: the server is back", self.address.shown)

    def _use(self, sock: socket.socket) -> None:
        """Speak through a connected socket, with a parser of its own."""
        self._sock = sock
        reader = hiredis.Reader()
        self._feed, self._gets, self._has_data = reader.feed, reader.gets, reader.has_data
        self._recv = sock.recv
        self._ready = self._watch(sock)

    # What takes time but is no answer; `aio` has its own of these three, and of nothing else.

    def _dial(self, timeout: float) -> socket.socket:
        """Return a new socket, connected and authenticated."""
        if self._master is None:
            return self.address.open(timeout, self._name)
        return self._master.open(timeout, self._name, self._slot)

    def _pause(self, seconds: float) -> None:
        """Wait before the next try."""
        time.sleep(seconds)

    def _watch(self, sock: socket.socket) -> Callable[[int], list[Any]]:
        """Return what waits so many milliseconds for something to read, and returns nothing when nothing came."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        pending = getattr(sock, "pending", None)
        return poll.poll if pending is None else lambda ms: [None] if pending() else poll.poll(ms)

    def track(self, *how: str) -> None:
        """Ask to be told when the epoch is changed, and, when it is tracking, whatever else this connection reads.

        Args:
            how: other arguments of CLIENT TRACKING ON.

        Redis: CLIENT TRACKING, GET.
        """
        self._opt_in = not self.tracking and not how
        if how:  # another way than the one that the connection was opened with
            self.call("CLIENT", "TRACKING", "OFF")
        self.call("CLIENT", "TRACKING", "ON", *(("OPTIN",) if self._opt_in else how))
        self.refresh_epoch()

    def close(self) -> None:
        """Close the socket; nothing is sent. The next call opens a new one."""
        self._sock = None
        self._ready = _closed
        self.invalidated = True
        self._close_socket()

    def refresh_epoch(self) -> bytes | None:
        """Ask for the epoch, and be told when it changes again.

        Redis: GET.
        """
        self.epoch_news = False
        if self._opt_in:
            self.ask("CLIENT", "CACHING", "YES")
        self.epoch = self.ask("GET", self._epoch_key)
        return self.epoch

    # -- what arrives by itself -----------------------------------------------------------------------------------

    def quiet(self) -> bool:
        """Tell whether nothing arrived and the server was heard within the last second: memory is up to date."""
        return not self._ready(0) and time.monotonic() - self.heard < HEARD_WITHIN

    def settle(self) -> None:
        """Take what arrived by itself; open the connection if it is closed, by us or by the server.

        The first call that finds the server gone waits for it up to the time-out; later ones try once until it is back.

        Raises:
            ServerUnreachable, ServerTimeout, ServerRefused, ServerSetupError: nothing was sent.
        """
        if not self._ready(0):
            return
        away = self._away
        if self._sock is not None:
            try:
                self._take()
            except ServerUnreachable:
                pass  # it was idle: nothing is lost, and what follows opens a new one
        if self._sock is None:
            self.open(0.0 if away else None)

    def wait(self, seconds: float) -> bool:
        """Wait until something arrives by itself; it is left for what comes next.

        Returns:
            False when nothing came in that time.
        """
        return bool(self._ready(max(0, int(seconds * 1000))))

    def _take(self) -> None:
        """Receive once what came without a question, and sort it into the attributes."""
        reason = "the server closed it"
        try:
            data = self._recv(65536)
            self._feed(data)
        except OSError as error:
            data, reason = b"", str(error)
        except BaseException:
            self.close()
            raise
        if not data:
            self._fail(ServerUnreachable(f"{self.address.shown}: the idle connection broke: {reason}"))
        self.heard = time.monotonic()
        self._leftover()

    def _push(self, push: Sequence[Any]) -> None:
        try:
            if len(push) < _PUSHED.get(push[0], 1):
                raise IndexError
            if push[0] == b"invalidate":
                keys = push[1]
                if keys is None or self._epoch_bytes in keys:
                    self.epoch_news = True
                if keys != [self._epoch_bytes]:
                    self.invalidated = True
        except (IndexError, TypeError):
            self._fail(self._stranger(f"it pushed {push!r:.60}"))
        if self.listening:
            self.messages.append(list(push))

    # -- questions ------------------------------------------------------------------------------------------------

    def call(self, *args: str | bytes | int | float) -> Any:
        """Send one command and return its answer.

        Raises:
            ServerTimeout, ServerUnreachable: the outcome is unknown if the command was sent.
            ServerRefused, ServerSetupError: the server said no.
        """
        self.settle()
        return self.command(pack(*args))

    def ask(self, *args: str | bytes | int | float) -> Any:
        """Send one command that changes nothing and return its answer; once more where the connection broke.

        Raises:
            ServerTimeout, ServerUnreachable, ServerRefused, ServerSetupError.
        """
        self.settle()
        return self._twice(self.command, pack(*args))

    def _twice(self, question: Callable[..., Any], *args: Any) -> Any:
        """Ask what may be asked again, and say in errors that nothing was changed."""
        was_open, harmless, self._harmless = self._sock is not None, self._harmless, True
        try:
            return question(*args)
        except ServerUnreachable:
            if not was_open or self._opening:
                raise
            return question(*args)
        finally:
            self._harmless = harmless

    def command(self, request: bytes) -> Any:
        """Send one prepared command and return its answer: the data path of one record without history.

        Call `settle` before it.
        """
        answer = self._ask(request)
        if isinstance(answer, hiredis.ReplyError):
            if self._follow(answer):
                return self._again(self.command, request)
            raise refusal(str(answer), self.address.shown, ": nothing was written")
        return answer

    def subscribe(self, command: bytes) -> None:
        """Send a SUBSCRIBE or PSUBSCRIBE and wait until it stands; what is published comes into `messages`.

        Redis: the command, PING.
        """
        self._send(command + pack("PING"))  # the subscription is answered by a push, or by an error before the PONG
        answer = self._answer()
        if isinstance(answer, hiredis.ReplyError):
            self.close()
            raise refusal(str(answer), self.address.shown)
        self._leftover()

    def transact(
        self, request: Request, subjects: Sequence[Any], guard: bytes = b"", take: Take | None = None
    ) -> list[Any]:
        """Send a MULTI/EXEC and return what its commands answered. This is the data path: call `settle` before it.

        Args:
            request: from `wire.transaction`, or `wire.pieces`.
            subjects: for each command what it is about, for messages.
            guard: WATCH and GET of a key, sent behind: when somebody changes it, the next `transact` is void.
            take: is offered EXEC's answer as it comes, from its first byte on; also each time it is asked again.

        Returns:
            An answer for each command; `[]` when the transaction was void. The guard's value is in `guarded`.

        Raises:
            ServerTimeout, ServerUnreachable: the outcome is unknown if the request was sent (`outcome_unknown`).
            ServerRefused: nothing was written, or the message lists what was.

        Redis: MULTI, the commands, EXEC.
        """
        queueing: list[Any] = []
        try:
            if guard and self._sock is None:
                self._fail(ServerUnreachable(f"{self.address.shown}: the connection is closed: nothing was written"))
            if guard:
                request = request + guard if isinstance(request, bytes) else [*request, guard]
            self._send(request, not guard)
            data = self._receive()
            expected = queued(len(subjects))
            if data.startswith(expected):
                if take:
                    self._feed(self._without_taken(bytearray(data[len(expected) :]), take))
                else:
                    self._feed(data, len(expected), len(data) - len(expected))
            else:
                self._feed(data)
                queueing = [self._answer() for _ in range(len(subjects) + 1)]
            answer = self._gets()
            if answer is False or type(answer) is _Push:
                answer = self._answer(answer)
            if guard:
                self._answer()
                self.guarded = self._answer()
            self.invalidated = False  # it knows of all that was pushed before it
            if self.listening:
                if type(answer) is list and _Push in map(type, answer):
                    answer = self._parted(answer)
                self.covered, self.messages = self.messages, []
            if self._has_data():
                self._leftover()
        except hiredis.ProtocolError as error:
            self._fail(self._stranger(str(error)))
        except BaseException:
            self.close()  # also when a signal's handler raised: no late answer is taken for another's
            raise
        if type(answer) is not list:
            if answer is None:
                return []
            if not isinstance(answer, hiredis.ReplyError):
                self._fail(self._stranger(f"it answered {answer!r:.60} to a transaction"))
            if self._follow(answer, *queueing, guarded=bool(guard)):
                return self._again(self.transact, request, subjects, guard, take)  # type: ignore[no-any-return]
            raise self._aborted(queueing, subjects)
        if hiredis.ReplyError in map(type, answer):
            raise self._partly(answer, subjects)
        return answer

    def read(self, request: bytes, subjects: Sequence[Any], take: Take | None = None) -> list[Any]:
        """Do the same for commands that change nothing: asked once more where the connection broke.

        Args:
            request: from `wire.question`: a single command stands alone.
            subjects: for each command what it is about.
            take: see `transact`; for several commands.

        Redis: MULTI, the commands, EXEC, or the only command; after a broken connection again.
        """
        if take:
            return self._twice(self.transact, request, subjects, b"", take)  # type: ignore[no-any-return]
        return self._twice(self.single if len(subjects) == 1 else self.transact, request, subjects)  # type: ignore[no-any-return]

    def single(self, request: bytes, subjects: Sequence[Any]) -> list[Any]:
        """Do as `transact` does for a single command that stands alone."""
        answer = self._ask(request, covers=True)
        if isinstance(answer, hiredis.ReplyError):
            if self._follow(answer):
                return self._again(self.single, request, subjects)  # type: ignore[no-any-return]
            raise refusal(str(answer), f"{self.address.shown}, {subjects[0]}")
        return [answer]

    def check(self) -> None:
        """Raise if the last write was not confirmed by replicas, where that is asked for: see `confirmed`."""

    def clock(self) -> int:
        """Return the server's clock in milliseconds since 1970; asked once for each connection.

        Redis: TIME.
        """
        if self._clock_offset is None:
            seconds, microseconds = self.call("TIME")
            self._clock_offset = int(seconds) * 1000 + int(microseconds) // 1000 - int(time.monotonic() * 1000)
        return self._clock_offset + int(time.monotonic() * 1000)

    def _ask(self, request: bytes, covers: bool = False) -> Any:
        """Send a request that has one answer, and return it.

        Args:
            request: a command.
            covers: whether the answer knows of what was pushed before it, as a read of a group does.
        """
        try:
            self._send(request)
            self._feed(self._receive())
            answer = self._gets()
            if answer is False or type(answer) is _Push:
                answer = self._answer(answer)
            if covers:
                self.invalidated = False
                if self.listening:
                    self.covered, self.messages = self.messages, []
            if self._has_data():
                self._leftover()
        except hiredis.ProtocolError as error:
            self._fail(self._stranger(str(error)))
        except BaseException:
            self.close()
            raise
        return answer

    def _follow(self, *answers: Any, guarded: bool = False) -> bool:
        """Where another server is in charge now, as an answer says, which did nothing: connect to that one.

        Args:
            answers: errors among them.
            guarded: whether it was a guarded transaction: its WATCH ended with the connection.

        Returns:
            Whether to ask again there; False for any other answer.

        Raises:
            ServerUnreachable: it can't be reached yet; nothing was written.
        """
        texts = (str(each) for each in answers if isinstance(each, hiredis.ReplyError))
        moved = next((text for text in texts if self._master and self._master.moved(text)), "")
        if not moved:
            return False
        self.close()
        if self._follow_until and moved.startswith("MOVED") and self.address.several and self.address.several.replica:
            raise ServerRefused(f"{self.address.shown}: this address reads from a replica: nothing was written")
        now = time.monotonic()
        if guarded or self._opening or now >= (self._follow_until or now + self.timeout):
            raise ServerUnreachable(
                f"{self.address.shown}: another server is in charge now ({moved}): nothing was written: try again"
            )
        if self._follow_until:
            self._pause(_RETRY_FIRST)  # the other one sends us on, too: a slot is being moved
        self.open()
        return True

    def _again(self, ask: Callable[..., Any], *args: Any) -> Any:
        """Ask the server that is in charge now, and go on following for the time-out at most."""
        if self._follow_until:
            return ask(*args)
        self._follow_until = time.monotonic() + self.timeout
        try:
            return ask(*args)
        finally:
            self._follow_until = 0.0

    def _aborted(self, answers: Sequence[Any], subjects: Sequence[Any]) -> ServerError:
        """Return the error for a transaction that the server refused whole, or would not begin."""
        begun, *answers = answers
        if isinstance(begun, hiredis.ReplyError):
            done = [str(s) for reply, s in zip(answers, subjects) if not isinstance(reply, hiredis.ReplyError)]
            carried_out = f"; done one by one instead: {', '.join(done)}" if done else ": nothing was written"
            return refusal(str(begun), self.address.shown, carried_out)
        errors = [(reply, who) for reply, who in zip(answers, subjects) if isinstance(reply, hiredis.ReplyError)]
        text, who = errors[0] if errors else ("EXECABORT", "the transaction")
        return refusal(str(text), f"{self.address.shown}, {who}", ": nothing was written")

    def _partly(self, answer: Sequence[Any], subjects: Sequence[Any]) -> ServerError:
        """Return the error for an EXEC of which some commands failed: an error there does not undo the others."""
        results = list(zip(answer, subjects))
        text, who = next((r, s) for r, s in results if isinstance(r, hiredis.ReplyError))
        done = dict.fromkeys(str(s) for r, s in results if not isinstance(r, hiredis.ReplyError))
        rest = f"; done all the same: {', '.join(done)}" if done else ""
        return refusal(str(text), f"{self.address.shown}, {who}", rest)

    # -- bytes ----------------------------------------------------------------------------------------------------

    def _send(self, request: Request, again: bool = True) -> None:
        """Send all of a request.

        What could not be sent whole ends without its last bytes and was not carried out: it is sent again, once.

        Args:
            request: the bytes.
            again: False for a guarded transaction: its WATCH ended with the old connection.
        """
        if self._sock is None:
            self.open()
        try:
            if isinstance(request, bytes):
                self._sock.sendall(request)  # type: ignore[union-attr]
            else:
                _send_pieces(self._sock, request)  # type: ignore[arg-type]
        except _SILENT:
            self._fail(ServerTimeout(f"{self.address.shown}: it takes no more data: nothing was written"))
        except OSError as broken:
            if not again:
                self._fail(
                    ServerUnreachable(f"{self.address.shown}: the connection broke ({broken}): nothing was written")
                )
            self.close()
            self.open()
            try:
                self._sock.sendall(request if isinstance(request, bytes) else b"".join(request))  # type: ignore[union-attr]
            except OSError as error:
                self._fail(
                    ServerUnreachable(f"{self.address.shown}: the connection broke ({error}): nothing was written")
                )

    def _receive(self) -> bytes:
        try:
            if not self._ready(self._patience):
                raise TimeoutError
            data = self._recv(65536)
        except OSError as error:
            self._broken(error)
        if not data:
            self._broken(ConnectionResetError("the server closed it"))
        self.heard = time.monotonic()
        return data

    def _without_taken(self, data: bytearray, take: Take) -> bytes:
        """Return what is to be parsed of an answer, receiving as long as `take` wants more."""
        deadline = time.monotonic() + self.timeout
        while (rest := take(data)) is None:
            if time.monotonic() > deadline:
                self._broken(TimeoutError())
            data += self._receive()
        return bytes(rest)

    def _parse(self) -> Any:
        """Return the next whole answer that is here, False if there is none; pushes are sorted out."""
        while True:
            try:
                reply = self._gets()
            except hiredis.ProtocolError as error:
                self._fail(self._stranger(str(error)))
            if type(reply) is _Push:
                self._push(reply)
            else:
                return reply

    def _answer(self, first: Any = False) -> Any:
        """Return the next answer, receiving as long as it isn't whole.

        Args:
            first: what the parser gave: a push, or False for nothing whole.
        """
        if type(first) is _Push:
            self._push(first)
        reply = self._parse()
        if reply is False:
            deadline = time.monotonic() + self.timeout
            while reply is False:
                if time.monotonic() > deadline:
                    self._broken(TimeoutError())
                self._feed(self._receive())
                reply = self._parse()
        return reply

    def _parted(self, answer: Sequence[Any]) -> list[Any]:
        """Return EXEC's answers without what was pushed between them.

        Redis before 7.2 pushes that a record expires as it is read into the middle of EXEC's answer, where it counts as
        one of the commands' answers; as many come behind.
        """
        found = []
        for each in answer:
            if type(each) is _Push:
                self._push(each)
            else:
                found.append(each)
        return found + [self._answer() for _ in range(len(answer) - len(found))]

    def _stranger(self, what: str) -> ServerSetupError:
        return ServerSetupError(
            f"{self.address.shown}: whoever answers is no Redis server: {what}: correct the address",
            outcome_unknown=not self._harmless,
        )

    def _leftover(self) -> None:
        """Sort out what came behind an answer: pushes."""
        if self._has_data() and (reply := self._parse()) is not False:
            self._fail(ServerUnreachable(f"{self.address.shown}: an answer without a question: {reply!r}"))

    def _broken(self, error: OSError) -> Any:
        silent = isinstance(error, _SILENT)
        text = f"no answer within {self.timeout:g} s" if silent else f"the connection broke ({error})"
        if self._harmless:
            outcome = ": is the server stopped, or the link cut? Nothing was changed"
        else:
            outcome = " after the request was sent: the server may have applied it, the outcome is unknown"
        kind = ServerTimeout if silent else ServerUnreachable
        self._fail(kind(f"{self.address.shown}: {text}{outcome}", outcome_unknown=not self._harmless))

    def _fail(self, error: ServerError) -> Any:
        """Close the connection and raise; the first time since it was open, say so in the log."""
        if self._sock is not None and not self._away:
            self._away = True
            log.warning("the server went: %s", error)
        self.close()
        raise error
