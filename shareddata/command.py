"""What every command of the command line does: its options, one line for an error, exit codes, signals, closed pipes.

It knows how a command is started and how it ends; it must not know what any command does. Invariants:

1. Commands that talk to a server have -r -p -u -n, as handlers do; the address is settled by `SharedMemory`, not here.
2. Exit codes: 0 done; 1 an error that the user can mend, told in one line on standard error, with a traceback only with
   --debug; 2 wrong usage; 130 and 143 stopped by Ctrl-C and SIGTERM; 141 whoever read the output went away.
3. Nothing in an error's line is a control character: what a server said, and names, may come from strangers.
4. SIGTERM unwinds as Ctrl-C does: what a command opened is closed, the terminal is put back.
"""

import inspect
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import plac

from shareddata.errors import SharedDataError
from shareddata.login import check_typed
from shareddata.memory import SharedMemory
from shareddata.table import clean

Function = Callable[..., int | None]

_WHERE = {
    "redis_server": ("Name or IP address of the machine that Redis runs on", "option", "r", str, None, "redissrv"),
    "redis_port": ("TCP port to connect to Redis", "option", "p", int, None, "6379"),
    "url": (
        "Address instead of -r and -p: redis://, rediss://, unix://, sentinel://host,host/name, cluster://host,host, "
        "embedded:///folder; "
        "without any of the three: $SHAREDDATA_URL, else localhost:6379",
        *("option", "u", str, None, "URL"),
    ),
    "namespace": ("Namespace of the records", "option", "n", str, None, "NAME"),
}
_SAME_SIGNAL = 0.3
_DEBUG = ("Show tracebacks and debugging messages", "flag", "d")


class Where(NamedTuple):
    """The server that a command line names: not connected."""

    host: str | None
    port: int | None
    url: str | None
    namespace: str

    def open(self, wait: float = 10.0, timeout: float = 3.0) -> SharedMemory:
        """Connect.

        Args:
            wait: seconds to wait for the server.
            timeout: seconds for each later call.

        Raises:
            ServerSetupError: the address holds a password.
        """
        check_typed(self.url, "-u")
        host, port = (None, None) if self.url else (self.host, self.port)
        return SharedMemory(host, port, url=self.url, namespace=self.namespace, wait=wait, timeout=timeout)


class UsageError(Exception):
    """The command line asks for something that cannot be: its usage is shown, and the exit code is 2."""


class Command:
    """A function as a command.

    Args:
        function: gets a `Where` if the command talks to a server, then its own parameters: those without a default are
            positional, those with one are options or flags, `*names` takes the rest. It prints its result, and returns
            an exit code or None for 0. Its docstring is the help; from `Examples:` on it stands below the options.
        annotations: plac's, for each parameter of the function: help, kind, letter, type, choices, metavar.
        talks: whether it talks to a server.

    Attributes:
        name: as it is typed.
    """

    def __init__(self, function: Function, annotations: dict[str, Any], talks: bool) -> None:
        self.name = function.__name__.strip("_")
        self._function = function
        self._talks = talks
        given = list(inspect.signature(function).parameters.values())[1 if talks else 0 :]
        rest = [each for each in given if each.kind is each.VAR_POSITIONAL]
        self._own = [each.name for each in given if each not in rest]
        parameters = [each.replace(annotation=annotations[each.name]) for each in given if each not in rest]
        if talks:
            parameters += [_option(name, "" if name == "namespace" else None, _WHERE[name]) for name in _WHERE]
        parameters.append(_option("debug", False, _DEBUG))
        parameters += [each.replace(annotation=annotations[each.name]) for each in rest]
        self._names = [each.name for each in parameters if each not in rest and each.kind is not each.VAR_POSITIONAL]
        description, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\nExamples:\n")

        def collect(*values: Any) -> tuple[Any, ...]:
            return values

        collect.__doc__ = description.rstrip()
        collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        collect.prog = f"shareddata {self.name}"  # type: ignore[attr-defined]
        collect.epilog = f"examples:\n{examples}" if examples else None  # type: ignore[attr-defined]
        self._collect = collect

    @property
    def parser(self) -> Any:
        """The argparse parser that plac made."""
        return plac.parser_from(self._collect)

    @property
    def summary(self) -> str:
        """The first line of the help."""
        return str(self._collect.__doc__).partition("\n")[0].rstrip(".")

    def run(self, arglist: Sequence[str]) -> NoReturn:
        """Do what the arguments say, and exit.

        Raises:
            SystemExit: always, with the code that the module's head tells.
        """
        values = plac.call(self._collect, list(arglist), eager=False)
        named = dict(zip(self._names, values))
        rest = values[len(self._names) :]
        strange = [each for each in rest if each.startswith("-")]
        if strange:  # plac hands over options that it does not know as if they were positional
            self.parser.error(f"unrecognized arguments: {' '.join(strange)}")
        where = [Where(*(named[name] for name in _WHERE))] if self._talks else []
        sys.exit(self._guarded([*where, *(named[name] for name in self._own), *rest], named["debug"]))

    def _guarded(self, arguments: Sequence[Any], debug: bool) -> int:
        """Run the function and return the exit code."""
        level = logging.DEBUG if debug else logging.WARNING
        _prepare_output()
        logging.basicConfig(level=level, format=f"shareddata {self.name}: %(message)s")
        try:
            signal.signal(signal.SIGTERM, _terminated)
            code = self._function(*arguments) or 0
            sys.stdout.flush()
        except UsageError as error:
            self.parser.error(str(error))
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            return 141
        except (SharedDataError, ImportError, OSError) as error:
            if debug:
                raise
            sys.stderr.write(f"shareddata {self.name}: {clean(' '.join(str(error).splitlines()))}\n")
            return 1
        finally:
            let_output_go()
        return code


@contextmanager
def stopping(stop: Callable[[], object]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM call a function that ends the work; a later second one interrupts it as usual.

    What comes right behind the first is the same one again: `timeout` sends it to the program and to its group.

    Redis: none.
    """
    before: dict[int, Any] = {}
    came: list[float] = []

    def arrived(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append(time.monotonic())
            stop()
        elif time.monotonic() - came[0] > _SAME_SIGNAL:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, arrived)
        yield
    finally:
        restore()


def command(*, talks: bool = True, **annotations: Any) -> Callable[[Function], Command]:
    """Make a command of a function; see `Command`.

    Redis: none.
    """
    return lambda function: Command(function, annotations, talks)


def _option(name: str, default: Any, annotation: tuple[Any, ...]) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _prepare_output() -> None:
    """Let printing not fail for what the streams are: closed by the caller, or of a locale with few characters."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  open until the program ends, as the other is
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def let_output_go() -> None:
    """Leave nothing that cannot be written, to a closed pipe or a full disk: Python would try again at its end.

    Redis: none.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
