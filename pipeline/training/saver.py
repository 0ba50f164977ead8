"""What becomes of the state after a step: it is kept in memory, validated, saved."""

from __future__ import annotations

import time
from enum import IntEnum
from typing import Any

from laconvnet.pipeline.runs.scores import Score
from laconvnet.pipeline.training.checkpoint import Writer
from laconvnet.pipeline.training.keeper import Keeper
from laconvnet.pipeline.training.log import Log
from laconvnet.pipeline.training.session import Session
from laconvnet.pipeline.training.validation import Validated, Validation


class Turn(IntEnum):
    """What comes next. Processes say one of the first three, and the highest counts for all of them."""

    GO_ON = 0
    STOP = 1  # saved; the same command goes on
    FAILED = 2
    END = 3  # the run is complete


class Saver:
    """Every process has one; what it does is a collective. ``signals`` are those that ask the run to stop."""

    def __init__(
        self,
        session: Session,
        writer: Writer | None,
        keeper: Keeper,
        validation: Validation | None,
        log: Log,
        signals: list[int],
    ) -> None:
        self._session, self._writer, self._keeper = session, writer, keeper
        self._validation, self._log, self._signals = validation, log, signals
        self._words = session.vocabulary.to_json()

    def begin(self, step: int) -> Turn:
        """Before the first step: validate what the start before did not come to."""
        validation = self._validation
        owes = validation and self._session.engine.ranks.from_main(lambda: validation.is_owed(step))
        return self._take(step, Turn.GO_ON, keeps=False, saves=True) if owes else Turn.GO_ON

    def after(self, done: int, turn: Turn) -> Turn:
        """After so many steps, where this is what the processes say of going on; what comes next."""
        total, every = self._session.source.total, self._session.config.checkpoint.every
        keeps = self._keeper.reached(done)
        saves = bool(turn) or done % every == 0 or done == total or self._is_due(done)
        return self._take(done, turn, keeps, saves) if keeps or saves else turn

    def _take(self, done: int, turn: Turn, keeps: bool, saves: bool) -> Turn:
        is_due, found = self._is_due(done), None
        with self._session.state(done) as state:
            if keeps:  # before it is validated, which takes long: whoever is lost meanwhile goes on from here
                self._keeper.keep(done, state, self._words, self._reported())
            if is_due and not turn:
                found = self._validated(state)
            if saves and self._writer:
                self._writer.submit(done, state, self._words, found.score if found else self._reported())
        if is_due and not found:
            return Turn.STOP
        return Turn.END if done == self._session.source.total or (found and found.ends) else turn

    def _is_due(self, done: int) -> bool:
        return self._validation is not None and self._validation.is_due(done)

    def _validated(self, state: dict[str, Any]) -> Validated | None:
        """What came of a validation; None where a signal has ended it. Its time counts for no step."""
        assert self._validation
        began, engine = time.perf_counter(), self._session.engine
        goes_on = lambda: not engine.agree(int(bool(self._signals)))  # noqa: E731
        found = self._validation.of_state(state, self._session.vocabulary, engine, goes_on)
        self._keeper.left_out()
        self._log.left_out(time.perf_counter() - began)
        if found:
            self._log.validated(state["step"], self._session.config.validate.split, found)
        return found

    def _reported(self) -> Score | None:
        """The number of training that checkpoints are compared by, where there is one."""
        config = self._session.config
        criterion = config.validate.criterion(config.model.task)
        value = self._log.last.get(criterion.metric) if criterion and not criterion.split else None
        return None if value is None or not criterion else Score(value, criterion.metric, None)
