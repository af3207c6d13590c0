"""The pages of `shareddata page`: what is asked for by which path, and what is answered.

It knows paths, templates and streams of events. It must not know how values are kept up to date (`pagefeed`), who may
ask (`pageguard`), or addresses. Invariants:

1. Whatever comes from a record is escaped by the templates, and put into pages by the scripts as text only.
2. A stream sends when its browser has taken what was sent before: it holds a place, never a queue.
3. A write is refused unless writing was switched on and the token was given; it says who wrote.

The sections beside the records are in `pagerooms`; each is a line in `SECTIONS`, a template and a route.
"""

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from shareddata import metrics, pagerooms, pageview, pagewrite, table
from shareddata.datadesc import Record
from shareddata.errors import FieldError, ServerError, ServerRefused, SharedDataError, UnknownData, WriterConflict
from shareddata.memory import SharedMemory
from shareddata.pagefeed import TICK, Batch, Feed
from shareddata.pageguard import Guard, unauthorised
from shareddata.table import View

log = logging.getLogger("shareddata")

Files = Mapping[str, tuple[bytes, str]]
"""What is served as it stands: content and media type, by name."""


class Section(NamedTuple):
    """A part of the page that has its place in the navigation."""

    title: str
    path: str


SECTIONS = (
    Section("Records", "/"),
    Section("Sensors", "/sensors"),
    Section("Frames", "/frames"),
    Section("Logs", "/logs"),
    Section("Doctor", "/doctor"),
)

_ALIVE = 5.0  # seconds without news after which a stream says that it is still there
_MOST_STREAMS = 200  # each holds a connection, and what its browser has not taken yet
_SPAN = 600.0  # seconds of the history that a plot begins with
_ENTRY = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")  # an entry of a history
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class App:
    """The application. `asgi` is what a server runs; the feed is made when that starts, and ends with it.

    Args:
        shm: the shared memory.
        write: whether records may be written.
        token: what is demanded for that.
        names: names that this machine may be called by.
        always: whether the token is demanded for reading too.
        cookie: the name of the cookie that stands for the token.
        library: the plotting library's script and style sheet.
    """

    def __init__(
        self,
        shm: SharedMemory,
        *,
        write: bool,
        token: str,
        names: Sequence[str],
        always: bool,
        cookie: str,
        library: Mapping[str, Path],
    ) -> None:
        self._shm = shm
        self._write = write
        self._always = always
        self._files = _static_files(library)
        templates = jinja2.PackageLoader("shareddata", "templates/page")
        self._templates = jinja2.Environment(loader=templates, autoescape=True, undefined=jinja2.StrictUndefined)
        self._templates.globals.update(sections=SECTIONS, write=write, table=table, pageview=pageview)
        self._streams = 0
        self._feed: Feed | None = None
        self._rooms: pagerooms.Rooms | None = None
        handlers: Any = {kind: self._told(answer) for kind, answer in _ANSWERS.items()}
        app = Starlette(routes=self._routes(), lifespan=self._lifespan, exception_handlers=handlers)
        self.asgi = self._guard = Guard(app, names=names, token=token, always=always, cookie=cookie)

    @property
    def feed(self) -> Feed:
        """What is shown; there while the application runs."""
        if self._feed is None:
            raise RuntimeError("the application does not run")
        return self._feed

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._feed = Feed(self._shm)
        self._rooms = pagerooms.Rooms(self._shm, self._feed, self._page, self._stream)
        try:
            yield
        finally:
            await self._feed.close()
            self._rooms.close()

    def _rooms_open(self) -> pagerooms.Rooms:
        if self._rooms is None:
            raise RuntimeError("the application does not run")
        return self._rooms

    def _routes(self) -> list[Route]:
        return [
            Route("/", self._records),
            Route("/record/{name}", self._record),
            Route("/events/records", self._events_of_records),
            Route("/events/record/{name}", self._events_of_record),
            Route("/servdata/{name}", self._servdata),
            Route("/setdata/{name}", self._setdata, methods=["POST"]),
            Route("/metrics", self._metrics),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/static/{name}", self._static),
            *pagerooms.routes(self._rooms_open),
        ]

    # -- pages --------------------------------------------------------------------------------------------------------

    def _page(self, template: str, request: Request, status: int = 200, **content: Any) -> Response:
        words = {
            **{"path": request.url.path, "now": self.feed.now, "shm": self._shm},
            **{"authorised": request.state.authorised, "trouble": self.feed.trouble, "described": self.feed.described},
            "stranger": self._always and not request.state.authorised,
        }
        return HTMLResponse(self._templates.get_template(template).render(words | content), status)

    def _told(self, answer: Callable[[Request, Exception], Response]) -> Callable[..., Awaitable[Response]]:
        """Return what answers an error as a page where somebody looks, else as JSON."""

        async def told(request: Request, error: Exception) -> Response:
            said = answer(request, error)
            if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
                return said
            text = error.detail if isinstance(error, HTTPException) else str(error)
            return self._page("error.html", request, said.status_code, said=text)

        return told

    async def _records(self, request: Request) -> Response:
        await self._settled()
        return self._page("records.html", request, views=list(self.feed.views.values()))

    async def _record(self, request: Request) -> Response:
        view = await self._view(request)
        return self._page("record.html", request, view=view, fields=pageview.fields(view.record), span=_SPAN)

    async def _settled(self) -> None:
        """Wait, not for long, until the records were read for the first time."""
        end = time.monotonic() + 2
        self.feed.seen()
        while not self.feed.described and time.monotonic() < end:
            await self.feed.news(0.1)

    async def _view(self, request: Request) -> View:
        """Return what is known of the record that a path names."""
        await self._settled()
        name = request.path_params["name"]
        if name not in self.feed.views:
            await asyncio.to_thread(self._shm.describe, name)  # raises UnknownData, with names that are near
            raise UnknownData(f"record {name} was described just now: ask again")
        return self.feed.views[name]

    async def _static(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        content, kind = found
        headers = {"cache-control": "no-cache", "etag": f'"{hash(content) & 0xFFFFFFFFFFFFFFFF:x}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    async def _metrics(self, request: Request) -> Response:
        await self._settled()
        if self.feed.views and self.feed.trouble:  # what is known may be old, and nothing says so
            raise HTTPException(503, self.feed.trouble)
        try:
            states = await self.feed.logs()
        except ServerRefused as error:  # this program has no right to look at logs
            log.debug("no logs among the metrics: %s", error)
            states = []
        text = metrics.text(list(self.feed.views.values()), states, self.feed.now)
        return Response(text, media_type=metrics.MEDIA_TYPE)

    # -- events -------------------------------------------------------------------------------------------------------

    def _stream(self, events: AsyncIterator[bytes]) -> Response:
        """Answer with events, as long as there is a place for another stream."""
        if self._streams >= _MOST_STREAMS:
            return PlainTextResponse(f"{_MOST_STREAMS} streams are open already: close some pages.\n", 503)
        return StreamingResponse(self._counted(events), media_type="text/event-stream")

    async def _counted(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            yield b"retry: 2000\n\n"
            async for event in events:
                yield event
        except SharedDataError as error:
            log.debug("a stream ended: %s", error)  # its browser opens another one
        finally:
            self._streams -= 1

    async def _events_of_records(self, request: Request) -> Response:
        return self._stream(self._records_as_they_change())

    async def _records_as_they_change(self) -> AsyncIterator[bytes]:
        feed, seen, told_at = self.feed, -1, 0.0
        await self._settled()
        while not feed.closing:
            if feed.version > seen or time.monotonic() - told_at > _ALIVE:
                told, seen, told_at = feed.changes(seen), feed.version, time.monotonic()
                yield pageview.event(told)
            else:
                await feed.news(_ALIVE)

    async def _events_of_record(self, request: Request) -> Response:
        view = await self._view(request)
        span, after = _number(request, "span", _SPAN), request.headers.get("last-event-id", "")
        after = after or request.query_params.get("after", "")
        since: float | str = max(0.0, self.feed.now - max(0.0, span)) if math.isfinite(span) else 0
        if _ENTRY.fullmatch(after):
            since = after
        return self._stream(self._record_as_it_changes(view.record, since))

    async def _record_as_it_changes(self, record: Record, since: float | str) -> AsyncIterator[bytes]:
        """Yield the history first, then what comes into it, and the newest values beside."""
        feed, name, seen, told_at, place, described = self.feed, record.name, -1, 0.0, "", ""
        channel = feed.join(name) if record.history else None
        try:
            while not feed.closing:
                news = feed.version > seen and (feed.changed(name) > seen or feed.described != described)
                if news or time.monotonic() - told_at > _ALIVE:
                    told, seen, told_at = feed.changes(seen, name), feed.version, time.monotonic()
                    described = feed.described
                    yield pageview.event(told, "state")
                    if channel is None and (points := _newest(feed.views.get(name))):
                        yield pageview.event(pageview.text(points), "points")
                elif channel is not None and channel.begin is not None and not place:
                    place = channel.begin
                    found = await feed.past(name, since, place)
                    told = pageview.text(found | {"history": True, "continued": isinstance(since, str)})
                    yield pageview.event(told, "points", place)
                elif channel is not None and place and channel.last != place:
                    (batches, gap), place = channel.since(place), channel.last
                    for batch in batches or [Batch("", place, pageview.text(pageview.columns(record, [])))]:
                        more = b'"gap":%b,"missed":%d' % (b"true" if gap else b"false", channel.missed)
                        yield pageview.event(b'{"columns":%b,%b}' % (batch.text, more), "points", batch.last)
                        gap = False
                else:
                    await feed.news(_ALIVE)
        finally:
            if channel is not None:
                feed.leave(name, channel)

    async def _servdata(self, request: Request) -> Response:
        """Send a record's values as they change, `frequency` times a second at most."""
        view = await self._view(request)
        for strange in request.query_params.keys() - {"fields", "frequency"}:
            raise FieldError(f"{strange}=: expected fields=NAME,NAME and frequency=NUMBER")
        names = [name for name in request.query_params.get("fields", "").split(",") if name]
        for name in names:
            pagewrite.field_of(view.record, name)
        frequency = _number(request, "frequency", 1.0)
        if not 0 < frequency <= 1 / TICK:
            raise FieldError(f"frequency={frequency:g}: give 0.001 to {1 / TICK:g}, in events a second")
        return self._stream(self._values_as_they_change(view.record.name, names, 1 / frequency))

    async def _values_as_they_change(self, name: str, names: Sequence[str], pause: float) -> AsyncIterator[bytes]:
        feed, seen, told_at, due = self.feed, -2, time.monotonic(), 0.0
        while not feed.closing:
            now = time.monotonic()
            if feed.changed(name) > seen and now >= due:
                seen, told_at, due = feed.changed(name), now, now + pause
                view = feed.views.get(name)
                yield pageview.event(pageview.text(pageview.values(view, names) if view else {}))
            elif now - told_at > _ALIVE:
                told_at = now
                yield b": still there\n\n"
            else:
                await feed.news(min(_ALIVE, due - now) if feed.changed(name) > seen else _ALIVE)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _login(self, request: Request) -> Response:
        if request.method == "GET" and "token" not in request.query_params:
            return self._page("login.html", request, wrong=False, next=request.query_params.get("next", "/"))
        given = dict(request.query_params)
        if request.method == "POST":
            given = dict(parse_qsl((await pagewrite.body_of(request)).decode(errors="replace")))
        back = given.get("next", "/")
        if not self._guard.fits(given.get("token", "")):
            await asyncio.sleep(0.5)  # who guesses gets tired
            return self._page("login.html", request, 401, wrong=True, next=back)
        return self._guard.remember(RedirectResponse(back if back.startswith("/record/") else "/", 303))

    async def _setdata(self, request: Request) -> Response:
        """Write a record: the fields named get new values, as `shareddata set` does it."""
        if not self._write:
            raise HTTPException(403, "Writing is off: start the page with --write.")
        if not request.state.authorised:
            return unauthorised()
        if not self._guard.same_origin(request.headers):
            raise HTTPException(403, "Another site's page may not write here.")
        view = await self._view(request)
        client = request.client.host if request.client else "nobody"
        given = pagewrite.given_in(await pagewrite.body_of(request), request.headers.get("content-type", ""))
        if not given:
            raise FieldError("the request holds no fields: send field=value, or a JSON object")
        sender = f"{given.pop('sender', '') or 'page'} ({client})"
        fields = {name: pagewrite.field_of(view.record, name) for name in given}
        values = {name: pagewrite.value_of(fields[name], value) for name, value in given.items()}
        written = await asyncio.to_thread(pagewrite.write, self._shm, view.record.name, sender, values)
        log.info("%s wrote %s: %s", table.clean(sender), view.record.name, table.fields_text(written))
        return Response(table.as_json(written), media_type="application/json")


def _number(request: Request, name: str, usual: float) -> float:
    text = request.query_params.get(name)
    try:
        return usual if text is None else float(text)
    except ValueError:
        raise FieldError(f"{name}={text}: expected a number") from None


def _newest(view: View | None) -> dict[str, Any] | None:
    """Return the newest point of a record without history."""
    if view is None or not view.written:
        return None
    point = pageview.point(view.record, view.trame)
    return {"columns": pageview.columns(view.record, [point])} if point[0] is not None else None


def _static_files(library: Mapping[str, Path]) -> Files:
    own = {each.name: each.read_bytes() for each in files("shareddata").joinpath("static").iterdir() if each.is_file()}
    return {
        name: (content, _TYPES[name[name.rindex(".") :]])
        for name, content in (own | {name: path.read_bytes() for name, path in library.items()}).items()
    }


def _answer(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: JSONResponse({"error": str(error)}, status)


def _say(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


_ANSWERS: dict[Any, Callable[[Request, Exception], Response]] = {
    UnknownData: _answer(404),
    FieldError: _answer(400),
    WriterConflict: pagewrite.held,
    ServerError: _answer(503),
    SharedDataError: _answer(500),
    HTTPException: _say,
}
