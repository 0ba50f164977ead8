"""What the supervisors of a job do together, decided by that of rank 0: begin a round, end it, or leave.

A round is one life of all ranks. When one is lost the others can only wait for it: all are ended, and once they are
gone the next round begins. Nothing here touches a process or a socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from laconvnet.launch.outcomes import INTERRUPTED
from laconvnet.launch.supervision.ends import End, cause

PATIENCE_SECONDS = 600.0  # for all to come, and for what is left of a round to be gone
STOP_SECONDS = 60.0  # for all others to leave, once one was told to stop and has: they agree on the step at which to
GRACE_SECONDS = 2.0  # after the first end: the supervisor of the rank that is at fault may be the last to see it


@dataclass(frozen=True)
class Begin:
    """Start the ranks of a round."""

    round: int


@dataclass(frozen=True)
class Clear:
    """End what is left of a round, and say so."""

    round: int


@dataclass(frozen=True)
class Leave:
    """It is over: ``because`` of this end, None where all have done their work or were told to stop."""

    because: End | None = None
    repeats: bool = False


@dataclass
class Council:
    """The state of all ranks of a job.

    After ``restarts`` rounds in a row that brought no new step it gives up.
    """

    world: int
    restarts: int
    now: float  # when it meets first
    round: int = -1
    best: int = 0  # the most steps that were ever reached
    idle: int = 0
    stopping: bool = False
    last: End | None = None  # why the newest round began
    _ready: set[int] = field(default_factory=set)
    _ends: dict[int, End] = field(default_factory=dict)
    _since: float = 0.0  # the first end of the round
    _newest: float = 0.0  # and the newest
    _clearing: bool = False

    def ready(self, rank: int) -> None:
        """Nothing of this rank is at work."""
        self._ready.add(rank)

    def ended(self, rank: int, round: int, end: End, now: float) -> None:
        """A rank of a round has ended; a word of an earlier round comes too late."""
        if round == self.round and rank not in self._ends:
            self._since, self._newest = self._since if self._ends else now, now
            self._ends[rank] = end

    def reached(self, steps: int) -> None:
        """The run has taken so many steps."""
        if steps > self.best:
            self.best, self.idle = steps, 0

    def decide(self, now: float) -> Begin | Clear | Leave | None:
        """What to do now, said once; None as long as there is nothing to do but wait."""
        if self.round < 0 or self._clearing:
            return self._begin() if len(self._ready) == self.world else self._missing(now)
        why = cause(self._ends.values())
        all_ended = len(self._ends) == self.world
        if why is None:
            return Leave() if all_ended or self._waits_in_vain(now) else None
        if not all_ended and now - self._since < GRACE_SECONDS:
            return None
        if self.stopping or not why.may_pass:
            return Leave(why)
        if self.idle >= self.restarts:
            return Leave(why, repeats=True)
        self.idle += 1
        self.last, self._clearing, self.now = why, True, now
        self._ready.clear()
        return Clear(self.round)

    def _waits_in_vain(self, now: float) -> bool:
        """Whether some wait for peers that were told to stop, and did before they had come so far as to agree on it."""
        stopped = any(end.code == INTERRUPTED for end in self._ends.values())
        return stopped and now - self._newest >= STOP_SECONDS

    def _missing(self, now: float) -> Leave | None:
        if now - self.now < PATIENCE_SECONDS:
            return None
        rank = min({*range(self.world)} - self._ready)
        what = "was not to be ended" if self._clearing else "has no supervisor that came"
        return Leave(End(rank, "its node", f"{what} within {PATIENCE_SECONDS:g} seconds", fault="node", of_node=True))

    def _begin(self) -> Begin:
        self.round += 1
        self._clearing = False
        self._ends.clear()
        return Begin(self.round)
