"""Validation while training: the state of a run is scored as `laconvnet eval` scores the checkpoint that it becomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from laconvnet.files import publish_json
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.inference import evaluate
from laconvnet.pipeline.inference.evaluate import Interrupted, Result, Subject
from laconvnet.pipeline.inference.restore import of_state
from laconvnet.pipeline.report.drawn import draw
from laconvnet.pipeline.report.sheet import Card
from laconvnet.pipeline.runs.layout import DRAWN, SCORES, VALIDATIONS, validation_folder
from laconvnet.pipeline.runs.records import add_line
from laconvnet.pipeline.runs.scores import Criterion, Score, in_words, scores_of, standing, validations
from laconvnet.pipeline.training.ending import is_validated
from laconvnet.pipeline.training.engine import Engine
from laconvnet.pipeline.training.session import Source


@dataclass(frozen=True)
class Validated:
    """What came of a validation: the score for the marker of the checkpoint, all metrics, and whether the run ends.

    ``line`` says it in words; ``cards``, in the main process, are of the examples that were drawn.
    """

    score: Score
    metrics: dict[str, float]
    ends: bool
    line: str
    cards: list[Card]


class Validation:
    """When a run is validated, on what, and how. Every process has one."""

    def __init__(self, config: TrainConfig, run: Path, source: Source, criterion: Criterion) -> None:
        """Raises ConfigError for a split that is not there, or that lacks what the task is scored by."""
        self._config, self._run, self._criterion = config, run, criterion
        self._total, self._epoch = source.total, source.items.plan.epoch_length
        try:
            self._subject = Subject.open(config, Path(config.data.folder), config.validate.split)
            if self._subject.examples.kind == "question":
                self._subject.examples.answered()  # raises where it hides all answers
        except ConfigError as error:
            raise ConfigError(f"validate.split: {config.validate.split!r}: {error}") from error

    @classmethod
    def of(cls, config: TrainConfig, run: Path, source: Source) -> Validation | None:
        """That of a run; None where it is not validated."""
        criterion = config.validate.criterion(config.model.task)
        return cls(config, run, source, criterion) if criterion and config.validate.every else None

    def is_due(self, step: int) -> bool:
        """Whether the state after so many steps is validated: at the first step behind each border, and at the last."""
        return step == self._total or self._borders(step) > self._borders(step - 1)

    def _borders(self, step: int) -> int:
        return int(step * self._config.data.batch / (self._config.validate.every * self._epoch))

    def is_owed(self, step: int) -> bool:
        """Whether a start at this step has to validate it: the one before was told to stop meanwhile, or is lost."""
        return self.is_due(step) and not is_validated(self._run, step, self._criterion)

    def of_state(
        self, state: dict[str, Any], vocabulary: Vocabulary, engine: Engine, goes_on: Callable[[], bool]
    ) -> Validated | None:
        """Score this state and write down what came of it; None where a process no longer ``goes_on``.

        All processes call it; the state is what its checkpoint will hold. No random number is drawn that training
        would have drawn.
        """
        began = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            ready = of_state(self._config, vocabulary, state, engine.device)
        try:
            found = evaluate.score(ready, self._subject, self._run, engine.ranks, goes_on=goes_on)
        except Interrupted:
            return None
        cards: list[Card] = []
        row = engine.ranks.from_main(lambda: self._record(found, began, cards))
        score = row["score"] if self._config.validate.keep_best else None
        marked = Score(score, self._criterion.metric, self._criterion.split)
        return Validated(marked, row["metrics"], row["ends"], f"{in_words(row)}; took {row['seconds']:.1f} s", cards)

    def _record(self, found: Result, began: float, cards: list[Card]) -> dict[str, Any]:
        """Write scores and drawings, whose ``cards`` are added, and the line of this validation; the line."""
        config, criterion, step = self._config.validate, self._criterion, found.report["step"]
        if criterion.metric not in found.metrics:
            there = ", ".join(found.metrics)
            raise TrainingError(
                f"validate.metric: {criterion.metric!r}: {config.split} has {there}: choose one of them"
            )
        score = found.metrics[criterion.metric]
        known = scores_of(validations(self._run), criterion)
        stands = standing(criterion, {**known, step: score}, step)
        assert stands
        row = {
            "step": step,
            "steps": self._total,
            "epoch": round(step / self._total * self._config.schedule.epochs, 4),
            "metric": criterion.metric,
            "split": criterion.split,
            "score": score,
            "best_step": stands.best_step,
            "best": stands.best,
            "waited": stands.waited,
            "ends": 0 < config.patience <= stands.waited and step < self._total,
            "metrics": found.metrics,
            "examples": found.report["examples"],
        }
        folder = validation_folder(self._run, step)
        folder.mkdir(parents=True, exist_ok=True)
        publish_json(folder / SCORES, found.report)
        if config.examples:
            manifest, title = self._subject.examples.manifest, f"{self._run.absolute().name}, step {step}"
            cards += draw(folder / DRAWN, title, in_words(row), manifest, found.answers, config.examples)
        row["seconds"] = time.perf_counter() - began
        add_line(self._run / VALIDATIONS, row)
        return row
