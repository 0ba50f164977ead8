"""How a rank ended, as its supervisor tells the others, and which of several ends was the cause."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from laconvnet.launch.outcomes import INTERRUPTED

_HINTS: dict[int, str] = {
    signal.SIGKILL: " (out of memory?)",
    signal.SIGBUS: " (a file it had mapped was cut off, or could not be read)",
}


@dataclass(frozen=True)
class End:
    """The end of one rank in one round.

    ``code`` is its exit code, None where it was ended from outside, by a signal or because it stood still. ``fault`` is
    what was at fault by its last words if it is not the command (`slurm.failures.transient`), and ``of_node`` whether
    its node is.
    """

    rank: int
    node: str
    reason: str
    code: int | None = None
    fault: str | None = None
    of_node: bool = False

    @property
    def told(self) -> str:
        """Who it was, and how it ended: what ended a rank from outside is said of it, its own words are its own."""
        return f"rank {self.rank} on {self.node}{' ' if self.code is None else ': '}{self.reason}"

    @property
    def is_good(self) -> bool:
        """Whether nothing is lost: it is done, or has saved and stopped because it was told to."""
        return self.code in (0, INTERRUPTED)

    @property
    def may_pass(self) -> bool:
        """Whether the same rank may well succeed on the same node."""
        return not self.of_node and (self.code is None or self.fault is not None)

    def packed(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def unpacked(cls, text: str) -> End:
        return cls(**json.loads(text))


def by_signal(number: int) -> str:
    """The words for a process that a signal has ended."""
    known = number in {*signal.Signals}  # real-time signals have no names
    name = signal.Signals(number).name if known else f"signal {number}"
    return f"was killed by {name}{_HINTS.get(number, '')}"


def cause(ends: Iterable[End]) -> End | None:
    """Whose end made the others end, None where nothing is lost.

    Who was ended from outside comes first, then who failed by itself: whoever lost a peer says that the network did it.
    Gloo and NCCL abort the process that lost one (SIGABRT), so that is looked for last.
    """
    lost = [end for end in ends if not end.is_good]
    return min(lost, key=_order, default=None)


def _order(end: End) -> int:
    if end.code is None:
        return 3 if "SIGABRT" in end.reason else 0
    return 1 if end.fault is None else 2
