"""Who may ask, from where, and how much they may send; before anything is read."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Collection
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem, answer, bad, too_large

OPEN: Final = ("/", "/health", "/ready", "/openapi.json")
"""What needs no token, beside the page's own files."""

PAGE: Final = "/page/"

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Refuses who has no token, what comes from another site, and what is too much."""

    def __init__(
        self,
        app: ASGIApp,
        most_bytes: int,
        token: str | None = None,
        hosts: Collection[str] | None = None,
        origins: Collection[str] = (),
    ) -> None:
        """
        Args:
            most_bytes: of a request.
            token: that callers must know, None for none.
            hosts: names that the server may be called by, None for any: a page elsewhere whose
                name was made to point here is no caller.
            origins: of pages elsewhere that may call; "*" for any.
        """
        self.app, self.most_bytes = app, most_bytes
        self.token, self.hosts, self.origins = token, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, room = Headers(scope=scope), self.most_bytes

        async def within() -> Message:
            nonlocal room
            message = await receive()
            room -= len(message.get("body", b""))
            if room < 0:
                raise self._too_large()
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refused = self._refuse(scope, headers)
        if refused is not None:
            return await answer(refused)(scope, receive, guarded)
        await self.app(scope, within, guarded)

    def _refuse(self, scope: Scope, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        name = (_split(f"//{host}").hostname or "") if host.isprintable() else ""
        if self.hosts is not None and name not in self.hosts:
            return Problem(
                HTTPStatus.MISDIRECTED_REQUEST, f"this server is not called {name[:60]!r}"
            )
        origin = headers.get("origin")
        if origin is not None and not self._friendly(origin, host):
            return Problem(
                HTTPStatus.FORBIDDEN,
                f"pages of {origin[:80]} may not call this server; `mdrt serve --cors` allows it",
            )
        if not scope.get("query_string", b"").isascii():
            return bad("what follows ? in the address is no ASCII; write it as %XX")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.most_bytes:
            return self._too_large()
        path = scope["path"]
        is_open = path in OPEN or path.startswith(PAGE) or scope["method"] == "OPTIONS"
        if self.token is None or is_open or self._knows(headers.get("authorization", "")):
            return None
        return Problem(
            HTTPStatus.UNAUTHORIZED,
            "this server asks for its token: send Authorization: Bearer TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )

    def _friendly(self, origin: str, host: str) -> bool:
        return "*" in self.origins or origin in self.origins or _split(origin).netloc == host

    def _knows(self, authorization: str) -> bool:
        """By Bearer; or by Basic's password, which is what Label Studio sends."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given).decode().partition(":")[2]
            except ValueError:  # no base64, or no text in it
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), (self.token or "").encode())

    def _too_large(self) -> Problem:
        return too_large(f"a request may have {self.most_bytes:,} bytes here, and this has more")


def _split(url: str) -> SplitResult:
    """A URL's parts; none of what is no URL, as a bracket that is not closed."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
