"""Sections of the page beside the records: sensors, frames, logs and the doctor.

It knows their paths, templates and streams. It must not know how anything is read (`pagelooks`,
`pagesensors`, `pageframes`), nor who may ask (`pageguard`). Invariants:

1. A stream tells what is new to its browser and nothing else; it holds no more than the last text.
2. The doctor is called when somebody asks for it on this very page, never by looking at it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from shareddata import pageview
from shareddata.errors import ServerError, SharedDataError
from shareddata.facts import WRONG
from shareddata.memory import SharedMemory
from shareddata.pagefeed import Feed
from shareddata.pageframes import FrameFiles
from shareddata.pageguard import Guard
from shareddata.pagelooks import Doctor, Shared
from shareddata.pagesensors import Sensors

_ALIVE = 5.0  # seconds without news after which a stream says that it is still there
_LOGS_EVERY, _SENSORS_EVERY, _FRAMES_EVERY = 2.0, 0.5, 0.25


class Rooms:
    """The sections' answers. Made while the application runs; `close` it in the end.

    Args:
        shm: the shared memory.
        feed: what is known of the records.
        page: makes a page of a template, a request and content.
        stream: makes an answer of events.
    """

    def __init__(
        self,
        shm: SharedMemory,
        feed: Feed,
        page: Callable[..., Response],
        stream: Callable[[AsyncIterator[bytes]], Response],
    ) -> None:
        self._feed, self._page, self._stream = feed, page, stream
        self._frames = FrameFiles(shm)
        self._sensors = Sensors(shm)
        self._sensors_seen = Shared(self._sensors.look, _SENSORS_EVERY)
        self._frames_seen = Shared(self._frames.look, _FRAMES_EVERY)
        self._doctor = Doctor(shm)

    def close(self) -> None:
        """Close what was opened for looking."""
        self._frames.close()

    # -- pages --------------------------------------------------------------------------------------------------------

    async def logs(self, request: Request) -> Response:
        """Show the logs, and how far their readers are."""
        try:
            return self._page("logs.html", request, logs=list(map(pageview.log, await self._feed.logs())))
        except ServerError as error:
            return self._page("logs.html", request, 503, logs=[], trouble=str(error))

    async def sensors(self, request: Request) -> Response:
        """Show the sensors and their values."""
        return await self._seen("sensors.html", request, self._sensors_seen, {"sensors": []})

    async def frames(self, request: Request) -> Response:
        """Show the frame files with their newest frames."""
        return await self._seen("frames.html", request, self._frames_seen, {"files": [], "others": []})

    async def _seen(self, template: str, request: Request, shared: Shared, nothing: dict[str, Any]) -> Response:
        """Show what a look found; a server that is away is told of, and the page loads again when it is back."""
        try:
            return self._page(template, request, **(await shared.get()).content)
        except ServerError as error:
            return self._page(template, request, 503, trouble=str(error), **nothing)

    async def frame(self, request: Request) -> Response:
        """Send the newest frame of a dataset as a picture."""
        return await _picture(self._frames.picture, request, "file", "dataset")

    async def sensor(self, request: Request) -> Response:
        """Send a sensor's value as a picture."""
        return await _picture(self._sensors.picture, request, "sensor", "value")

    async def doctor(self, request: Request) -> Response:
        """Show the doctor's last report; examine when this page asks for it."""
        if request.method == "POST":
            if not Guard.same_origin(request.headers):
                raise HTTPException(403, "Another site's page may not call the doctor.")
            await self._doctor.examine(lambda: self._feed.now)
            return RedirectResponse("/doctor", 303)
        report = self._doctor.report
        wrong = sum(each.verdict == WRONG for each in report.findings) if report else 0
        return self._page("doctor.html", request, report=report, wrong=wrong)

    # -- streams ------------------------------------------------------------------------------------------------------

    async def events_of_logs(self, request: Request) -> Response:
        """Tell of the logs."""
        return self._stream(self._told(self._log_states, _LOGS_EVERY))

    async def events_of_sensors(self, request: Request) -> Response:
        """Tell of the sensors."""
        return self._stream(self._told(lambda: _text_of(self._sensors_seen), _SENSORS_EVERY))

    async def events_of_frames(self, request: Request) -> Response:
        """Tell of the frame files."""
        return self._stream(self._told(lambda: _text_of(self._frames_seen), _FRAMES_EVERY))

    async def _log_states(self) -> bytes:
        return pageview.text({"logs": list(map(pageview.log, await self._feed.logs()))})

    async def _told(self, look: Callable[[], Any], every: float) -> AsyncIterator[bytes]:
        """Yield what a look finds, whenever it is something else; and now and then that nothing changed."""
        feed, before, told_at = self._feed, b"", float("-inf")
        while not feed.closing:
            try:
                text: bytes = await look()
            except ServerError as error:
                text = pageview.text({"trouble": str(error)})
            if text != before or time.monotonic() - told_at > _ALIVE:
                before, told_at = text, time.monotonic()
                yield pageview.event(b'{"now":%.3f,' % feed.now + text[1:])
            end = time.monotonic() + every
            while not feed.closing and (rest := end - time.monotonic()) > 0:
                await feed.news(rest)


async def _picture(find: Callable[[str, str], bytes], request: Request, *names: str) -> Response:
    """Send what is found for the arguments of these names."""
    try:
        picture = await asyncio.to_thread(find, *(request.query_params.get(name, "") for name in names))
    except ServerError:
        raise
    except SharedDataError as error:  # it is not there, is no picture, or was trimmed before it could be read
        raise HTTPException(404, str(error)) from None
    return Response(picture, media_type="image/png")


async def _text_of(shared: Shared) -> bytes:
    return (await shared.get()).text


def routes(rooms: Callable[[], Rooms]) -> list[Route]:
    """Return the sections' paths; `rooms` is asked with each request."""

    def route(path: str, name: str, *methods: str) -> Route:
        async def answer(request: Request) -> Response:
            found: Response = await getattr(rooms(), name)(request)
            return found

        return Route(path, answer, methods=list(methods) or ["GET"])

    return [
        route("/sensors", "sensors"),
        route("/frames", "frames"),
        route("/frame.png", "frame"),
        route("/sensor.png", "sensor"),
        route("/logs", "logs"),
        route("/doctor", "doctor", "GET", "POST"),
        route("/events/logs", "events_of_logs"),
        route("/events/sensors", "events_of_sensors"),
        route("/events/frames", "events_of_frames"),
    ]
