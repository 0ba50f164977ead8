"""Keeps the newest state of a run in its supervisor's memory: whoever loses a rank goes on from there."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from laconvnet.pipeline.runs.memory import Memory, Record
from laconvnet.pipeline.runs.scores import Score
from laconvnet.pipeline.training.checkpoint import mapped
from laconvnet.pipeline.training.engine import Engine


class Keeper:
    """Says when a state is to be kept, and keeps it. Every process has one; without a supervisor it does nothing.

    To keep states may take ``share`` of the time: as often as that allows it is done, at best after every step. The
    states are those of ``run``, a record but for step and score.
    """

    def __init__(self, memory: Memory | None, share: float, engine: Engine, run: Record) -> None:
        self._memory, self._share, self._engine, self._run = memory, share, engine, run
        self._next: float = 0 if memory and share else math.inf
        self._reached = self._left = time.perf_counter()

    def reached(self, done: int) -> bool:
        """Tell the supervisor how far the run is; whether to keep its state now, the same on all processes."""
        if self._memory:
            self._memory.reach(done)
        self._left, self._reached = self._reached, time.perf_counter()
        return done >= self._next

    def left_out(self) -> None:
        """What came since `reached` or `keep` belongs to no step."""
        self._reached = time.perf_counter()

    def keep(self, done: int, state: dict[str, Any], vocabulary: str, score: Score | None = None) -> None:
        """Keep the state after `done` steps, at once after `reached` said so. All processes call this.

        What it takes is counted from there: to gather the state is most of it where processes share it out.
        """
        assert self._memory, "no supervisor, nothing to keep"
        if self._memory.keeps:
            record = replace(self._run, step=done, **(score._asdict() if score else {}))
            with self._memory.writing(record, vocabulary) as file:
                torch.save(mapped(state, _own), file)
        now = time.perf_counter()
        cost, step = now - self._reached, self._reached - self._left
        steps = 1 if self._share >= 1 else math.ceil(cost / (self._share * step))
        self._next = done + self._engine.agree(steps)
        self.left_out()  # what the next step takes begins here


def _own(tensor: Tensor) -> Tensor:
    """The tensor, with a storage of its own: of a view all that it is a view of would be saved."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
