"""The server: an address that is taken before anything slow begins, and served until it is interrupted."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address

import uvicorn
from starlette.types import ASGIApp

from laconvnet.pipeline.errors import ConfigError

_LAST_PORT = 65535
_CONNECTIONS = 64  # at once; each may send an upload
_ENDING_SECONDS = 5  # for what is being answered when the server is interrupted


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at this address, at a free port for 0. Raises ConfigError where it cannot be had."""
    if port > _LAST_PORT:
        raise ConfigError(f"command line: --port: {port}: expected at most {_LAST_PORT}, or 0 for a free one")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"command line: --host: {host!r}: no address of this machine ({error})") from error
    bound = socket.socket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        what = f"--host {host} --port {port}: {error.strerror}"
        raise ConfigError(f"command line: {what}; expected a free port of this machine, or 0 for any") from error
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ip_address(bound.getsockname()[0]).is_loopback


def address(bound: socket.socket) -> str:
    """What a browser is given to open."""
    host, port = bound.getsockname()[:2]
    found = ip_address(host)
    name = socket.gethostname() if found.is_unspecified else f"[{host}]" if found.version == 6 else host
    return f"http://{name}:{port}/"


def serve(app: ASGIApp, bound: socket.socket, begun: Callable[[], object]) -> None:
    """Answer until SIGINT; ``begun`` is called when the first request would be answered."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        http="h11",
        ws="none",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_ENDING_SECONDS,
    )
    with suppress(KeyboardInterrupt):  # uvicorn has ended by then, and raises it for those who did not know
        _Server(config, begun).run([bound])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, begun: Callable[[], object]) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun()
