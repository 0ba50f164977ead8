"""Lines of JSON between the supervisors of a job: that of rank 0 listens, the others come to it.

Whoever comes first proves that it belongs to the job, by a secret that lies in a file only the user may read. No line
carries code, and what cannot be read ends the connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Message = dict[str, Any]

MEET_SECONDS = 600.0  # nodes of a job do not start at once
_GREET_SECONDS = 5.0  # for who listens at a port to say who it is
_TRY_SECONDS = 0.2
_LINE_BYTES = 1 << 20


class LinkError(RuntimeError):
    """The supervisors of a job could not meet, or one of them is gone."""


def make_secret(file: Path) -> None:
    """Write the secret of a start of a job; readable to this user alone."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32))


class Wire:
    """One connection, line by line."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._rest = b""

    def send(self, message: Message) -> None:
        """Raises OSError where the other side is gone."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message]:
        """What has come, once anything has. Raises LinkError where the other side is gone, or says what it must not."""
        try:
            came = self.socket.recv(1 << 16)
        except OSError as error:
            raise LinkError(f"{error}") from error
        if not came:
            raise LinkError("its connection has ended")
        *lines, self._rest = (self._rest + came).split(b"\n")
        if len(self._rest) > _LINE_BYTES:
            raise LinkError("it sends a line without an end")
        try:
            found = [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise LinkError(f"it sends what is no JSON ({error})") from error
        if not all(isinstance(message, dict) for message in found):
            raise LinkError("it sends what is no message")
        return found

    def close(self) -> None:
        self.socket.close()


class Hub:
    """The side of rank 0: the connections of all other ranks, as they come."""

    def __init__(self, host: str, ports: Sequence[int], secret: str, world: int) -> None:
        self._listener = _bound(host, ports)
        self._secret, self._world = secret, world
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._strangers: dict[int, tuple[Wire, str]] = {}
        self.wires: dict[int, Wire] = {}

    def receive(self, seconds: float) -> Iterator[tuple[int, Message | None]]:
        """What the others say within so many seconds, by rank; None of one that is gone."""
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                self._welcome()
            elif key.fd in self._strangers:
                yield from self._admit(key.fd)
            else:
                rank = next(rank for rank, wire in self.wires.items() if wire.socket is key.fileobj)
                try:
                    for message in self.wires[rank].receive():
                        yield rank, message
                except LinkError:
                    self._forget(self.wires.pop(rank))
                    yield rank, None

    def send(self, message: Message) -> None:
        """To all others; one that is gone is told of by `receive`."""
        for wire in self.wires.values():
            with contextlib.suppress(OSError):
                wire.send(message)

    def close(self) -> None:
        for wire in (*self.wires.values(), *(wire for wire, _ in self._strangers.values())):
            wire.close()
        self._listener.close()
        self._selector.close()

    def _welcome(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone already
            return
        wire, nonce = Wire(connection), secrets.token_hex(16)
        with contextlib.suppress(OSError):
            wire.send({"laconvnet": nonce, "proof": _proof(self._secret, "hub", nonce)})
        self._strangers[connection.fileno()] = wire, nonce
        self._selector.register(connection, selectors.EVENT_READ)

    def _admit(self, number: int) -> Iterator[tuple[int, Message | None]]:
        wire, nonce = self._strangers.pop(number)
        try:
            first, *rest = wire.receive() or [{}]
        except LinkError:
            first, rest = {}, []
        rank, proof = first.get("rank"), str(first.get("proof"))
        awaited = {*range(1, self._world)} - self.wires.keys()
        # A stranger may give any value for a rank: it is an awaited number before anything is made of it.
        if type(rank) is int and rank in awaited and _equal(proof, _proof(self._secret, f"rank {rank}", nonce)):
            self.wires[rank] = wire
            for message in rest:
                yield rank, message
        else:
            self._forget(wire)

    def _forget(self, wire: Wire) -> None:
        self._selector.unregister(wire.socket)
        wire.close()


def join(host: str, ports: Sequence[int], secret: str, rank: int, seconds: float = MEET_SECONDS) -> Wire:
    """The connection of another rank to rank 0, which may start later. Raises LinkError where there is none in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for port in ports:
            with contextlib.suppress(OSError, LinkError, ValueError):
                return _joined(host, port, secret, rank)
        time.sleep(_TRY_SECONDS)
    raise LinkError(f"rank {rank} did not find rank 0 on {host} within {seconds:g} seconds")


def _joined(host: str, port: int, secret: str, rank: int) -> Wire:
    wire = Wire(socket.create_connection((host, port), timeout=_GREET_SECONDS))
    try:
        greeting, *_ = wire.receive()
        nonce = str(greeting.get("laconvnet"))
        if not _equal(str(greeting.get("proof")), _proof(secret, "hub", nonce)):
            raise LinkError("somebody else listens there")
        wire.send({"rank": rank, "proof": _proof(secret, f"rank {rank}", nonce)})
    except BaseException:
        wire.close()
        raise
    wire.socket.settimeout(None)
    return wire


def _bound(host: str, ports: Sequence[int]) -> socket.socket:
    for port in ports:
        with contextlib.suppress(OSError):
            return socket.create_server((host, port))
    raise LinkError(f"none of {len(ports)} ports is free on {host or 'this machine'}: {', '.join(map(str, ports))}")


def _proof(secret: str, who: str, nonce: str) -> str:
    return hmac.new(secret.encode(), f"{who} {nonce}".encode(), hashlib.sha256).hexdigest()


def _equal(given: str, expected: str) -> bool:
    """In a time that tells nothing; bytes, for a stranger may send any letters."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
