"""Goodput: the share of the time in which a run took steps that it had not taken before."""

from __future__ import annotations


class Goodput:
    """Fed with how many steps a run has taken, at every look.

    What a round takes to start, and steps that are taken again, are lost; so is a step that no round finishes.
    """

    def __init__(self, now: float) -> None:
        self._began = self._now = now
        self._useful = 0.0
        self._best = 0
        self._steps = 0  # of this round
        self._since = now  # when this round came so far

    def begin(self, now: float) -> None:
        """A round begins."""
        self._steps, self._since = 0, now

    def reached(self, steps: int, now: float) -> None:
        """The round that is at work has come so far."""
        self._now = now
        if steps == self._steps:
            return
        if self._steps and steps > self._best:
            new = (steps - max(self._best, self._steps)) / (steps - self._steps)
            self._useful += new * (now - self._since)
        self._best = max(self._best, steps)
        self._steps, self._since = steps, now

    @property
    def seconds(self) -> float:
        """How long it was looked at."""
        return self._now - self._began

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self._useful / self.seconds if self.seconds else 0.0
