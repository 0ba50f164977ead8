"""The two parts a supervisor can have: that of rank 0 decides for all, the others do as it says."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from laconvnet.launch.supervision.council import Begin, Clear, Council, Leave
from laconvnet.launch.supervision.ends import End
from laconvnet.launch.supervision.link import Hub, LinkError, Message, Wire


@dataclass(frozen=True)
class Start:
    """Start the rank of a round; all of that round meet at this port."""

    round: int
    port: int


Order = Start | Clear | Leave


class Part(Protocol):
    """What a supervisor knows of the others."""

    def ready(self) -> None:
        """Nothing of the own rank is at work."""

    def ended(self, round: int, end: End) -> None:
        """The own rank has ended."""

    def orders(self, seconds: float) -> list[Order]:
        """What to do; waits for it so long."""

    def linger(self, seconds: float) -> None:
        """Wait, at most so long, until rank 0 has had its last word: whoever ends first has all others ended."""

    def close(self) -> None:
        """The others may take this supervisor for gone."""


class Leader:
    """Rank 0: decides, and tells the others where there are any. ``port`` gives each round its own."""

    def __init__(self, council: Council, hub: Hub | None, port: Callable[[int], int]) -> None:
        self.council, self._hub, self._port = council, hub, port

    def ready(self) -> None:
        self.council.ready(0)

    def ended(self, round: int, end: End) -> None:
        self.council.ended(0, round, end, time.monotonic())

    def orders(self, seconds: float) -> list[Order]:
        lost = None
        for rank, message in self._heard(seconds):
            if message is None:
                lost = End(rank, "", "its supervisor is gone", fault="supervisor", of_node=True)
            else:
                self._take_in(rank, message)
        decided = Leave(lost) if lost else self.council.decide(time.monotonic())
        if decided is None:
            return []
        order = Start(decided.round, self._port(decided.round)) if isinstance(decided, Begin) else decided
        if self._hub:
            self._hub.send(_packed(order))
        return [order]

    def linger(self, seconds: float) -> None:
        return

    def close(self) -> None:
        if self._hub:
            self._hub.close()

    def _heard(self, seconds: float) -> Iterator[tuple[int, Message | None]]:
        if self._hub:
            yield from self._hub.receive(seconds)
        else:
            time.sleep(seconds)

    def _take_in(self, rank: int, message: Message) -> None:
        if message.get("ready"):
            self.council.ready(rank)
        elif "ended" in message:
            self.council.ended(rank, int(message["round"]), End.unpacked(message["ended"]), time.monotonic())


class Member:
    """Any other rank: does what rank 0 says, and leaves where that one is gone."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def ready(self) -> None:
        self._say({"ready": True})

    def ended(self, round: int, end: End) -> None:
        self._say({"round": round, "ended": end.packed()})

    def orders(self, seconds: float) -> list[Order]:
        if not select.select([self._wire.socket], [], [], seconds)[0]:
            return []
        try:
            return [_unpacked(message) for message in self._wire.receive()]
        except LinkError:
            return [Leave(End(0, "", "its supervisor is gone", fault="supervisor", of_node=True))]

    def linger(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with contextlib.suppress(LinkError):
            while (left := until - time.monotonic()) > 0:
                if select.select([self._wire.socket], [], [], left)[0]:
                    self._wire.receive()

    def close(self) -> None:
        self._wire.close()

    def _say(self, message: Message) -> None:
        try:
            self._wire.send(message)
        except OSError:
            return  # what comes next is the end of the connection


def _packed(order: Order) -> Message:
    if isinstance(order, Start):
        return {"start": order.round, "port": order.port}
    if isinstance(order, Clear):
        return {"clear": order.round}
    return {"leave": order.because.packed() if order.because else None, "repeats": order.repeats}


def _unpacked(message: Message) -> Order:
    if "start" in message:
        return Start(int(message["start"]), int(message["port"]))
    if "clear" in message:
        return Clear(int(message["clear"]))
    return Leave(End.unpacked(message["leave"]) if message["leave"] else None, bool(message["repeats"]))
