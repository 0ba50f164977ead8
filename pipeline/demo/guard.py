"""Who may speak to the server, and what a browser may do with what it says.

A page of any site can make a browser send requests to this machine. Where a name of that site is made to lead here
("DNS rebinding"), the browser takes both for one site; the Host header still has that name. Otherwise the site cannot
read an answer, but it can have something done: the Origin header tells.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",  # or the browser would write the images to its disk
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """An application behind these checks: ``loopback`` says that only this machine is served, ``names`` are its own."""

    def __init__(self, app: ASGIApp, loopback: bool, names: Collection[str]) -> None:
        self._app, self._loopback, self._names = app, loopback, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, secured)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._knows(_name(host)):
            return JSONResponse({"error": f"Host: {host!r}: not a name of this server"}, 421)
        if scope["method"] == "POST" and origin is not None and urlsplit(origin).netloc != host:
            return JSONResponse({"error": f"Origin: {origin!r}: another site than this one"}, 403)
        return None

    def _knows(self, name: str) -> bool:
        """An address is no name that could have been made to lead here."""
        try:
            address = ip_address(name)
        except ValueError:
            return name == "localhost" or name in self._names
        return address.is_loopback or not self._loopback


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
