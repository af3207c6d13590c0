"""Who may ask a page for what: names of the machine, tokens, and headers that keep browsers from being misled.

It knows HTTP's headers; it must not know records, templates or the server. Invariants:

1. A page that is called by a name that is not this machine's own is not answered: a stranger's web page whose name was
   bound to this machine (DNS rebinding) reads nothing.
2. What needs the token is answered without it by 401, and nothing is done. Tokens are compared in constant time.
3. A cookie alone changes nothing: a request that changes something must come from a page of this very address, or bring
   the token itself.
4. Every answer carries the content security policy: scripts, styles and data come from here only.
"""

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shareddata.errors import FieldError

SHORTEST_TOKEN = 16
"""Characters that a token has at least."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_OPEN = ("/login", "/static/")  # what is answered without a token


def is_local(host: str) -> bool:
    """Tell whether an address can be reached from this machine only.

    >>> [is_local(each) for each in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "192.168.1.7")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(18)


def check_token(token: str) -> str:
    """Return a token that may be used.

    Raises:
        FieldError: it is too short, or has characters that a header cannot hold.
    """
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise FieldError(
            f"the token has {len(token)} characters: give {SHORTEST_TOKEN} or more, letters, digits and signs, no blank"
        )
    return token


class Guard:
    """The rules of one page, before its application.

    Args:
        app: what is behind.
        names: names that this machine may be called by, besides its addresses, `localhost` and its own name.
        token: what is demanded.
        always: whether it is demanded for reading too.
        cookie: the name of the cookie that stands for the token; browsers keep one for all ports of a machine.
    """

    def __init__(
        self, app: ASGIApp, *, names: Iterable[str] = (), token: str, always: bool, cookie: str = "shareddata"
    ) -> None:
        self._app = app
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own}.local", *(name.lower() for name in names)}
        self._token = token
        self._always = always
        self._session = hmac.new(secrets.token_bytes(32), token.encode(), hashlib.sha256).hexdigest()
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is not allowed, hand on what is, and put the headers on every answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        scope["state"]["authorised"] = self._knows(headers)
        app: ASGIApp = self._refusal(scope["path"], headers, scope["state"]["authorised"]) or self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, path: str, headers: Headers, authorised: bool) -> Response | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return PlainTextResponse(
                f"This page is not called {host[:100]!r}: use an address like http://localhost, or start it with "
                "--names and the names that it may be called by.\n",
                status_code=421,
            )
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("Other sites' pages may link here, and read nothing.\n", status_code=403)
        if self._always and not authorised and not path.startswith(_OPEN):
            if "text/html" in headers.get("accept", ""):
                back = f"?next={quote(path)}" if path.startswith("/record/") else ""
                return Response(status_code=303, headers={"location": f"/login{back}"})
            return unauthorised()
        return None

    def _is_ours(self, host: str) -> bool:
        """Tell whether a Host header names this machine: by an address, or by a name that nobody else can bind."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _knows(self, headers: Headers) -> bool:
        """Tell whether a request brings the token, or the cookie from a page of this very address."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.fits(given.strip()):
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        return hmac.compare_digest(cookie.encode(), self._session.encode())

    def fits(self, token: str) -> bool:
        """Tell whether this is the token."""
        return hmac.compare_digest(token.encode(), self._token.encode())

    def remember(self, response: Response) -> Response:
        """Let a browser that gave the token come again without it, as long as this program runs."""
        response.set_cookie(self._cookie, self._session, httponly=True, samesite="strict", path="/")
        return response

    @staticmethod
    def same_origin(headers: Headers) -> bool:
        """Tell whether a request that changes something comes from a page of this very address, or from no page."""
        if headers.get("sec-fetch-site") == "same-origin":  # which no script can set
            return True
        origin = headers.get("origin")
        if origin is None:
            return "bearer " in headers.get("authorization", "").lower()
        return origin.partition("://")[2] == headers.get("host")


def unauthorised() -> Response:
    """Return the answer to who brings no token."""
    return PlainTextResponse(
        "The token is missing or wrong: open /login in a browser, or send the header `Authorization: Bearer TOKEN`.\n",
        status_code=401,
        headers={"www-authenticate": "Bearer"},
    )
