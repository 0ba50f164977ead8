"""What a run is validated by while it trains, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.scores import Criterion
from laconvnet.pipeline.tasks import TASKS


@dataclass(frozen=True)
class ValidateConfig:
    """Validation while training: what `laconvnet eval` says of the checkpoint of that step, to the byte.

    Args:
        every: Epochs between two validations, such as 1 or 0.5; the last step always makes one. 0: never.
        split: The split of the set that is scored.
        metric: What checkpoints are compared by; by default the main metric of the task. Without validation it names a
            number that training reports, such as loss: the checkpoint at which it was lowest stays, too.
        keep_best: The best checkpoint stays, and is what eval, predict, export and init_from take.
        patience: The run ends after so many validations in a row that were no better than the best. 0: never.
        examples: How many examples each validation draws, the same ones every time.
    """

    every: float = 0.0
    split: str = "val"
    metric: str | None = None
    keep_best: bool = True
    patience: int = 0
    examples: int = 12

    def __post_init__(self) -> None:
        if not 0 <= self.every < float("inf"):
            raise ConfigError(f"validate.every: {self.every}: expected epochs, such as 1 or 0.5, or 0 for never")
        for name in ("patience", "examples"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"validate.{name}: {value}: expected a number of 0 or more")
        if self.patience and not self.every:
            raise ConfigError(
                f"validate.patience: {self.patience}: there is nothing to wait for without validation; set "
                "validate.every, such as 1"
            )

    def check(self, task: str) -> None:
        """Raises ConfigError for a metric that the task is not scored by."""
        known = TASKS[task].metrics
        if self.every and self.metric and self.metric.partition("/")[0] not in known:
            raise ConfigError(f"validate.metric: {self.metric!r}: {task} is scored by {', '.join(known)}: choose one")

    def criterion(self, task: str) -> Criterion | None:
        """What checkpoints are compared by; None where nothing compares them."""
        if self.every:
            return Criterion(self.metric or TASKS[task].metrics[0], self.split)
        return Criterion(self.metric) if self.metric and self.keep_best else None
