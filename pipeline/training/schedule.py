"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from laconvnet.pipeline.errors import ConfigError


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the epochs.

    Args:
        kind: `cosine` falls to `floor` over the run (REC, RES, pretraining); `step` is cut at `drops` (CLEVR).
        epochs: Length of the run in passes over the data; fractions are allowed.
        warmup: Epochs of linear warm-up from zero.
        floor: Where the cosine ends.
        drops: Epochs after which the `step` schedule multiplies the rate by `factor`.
        factor: The factor of each drop.
    """

    kind: Literal["cosine", "step"] = "cosine"
    epochs: float = 25.0
    warmup: float = 3.0
    floor: float = 1e-6
    drops: tuple[float, ...] = (20.0, 22.0)
    factor: float = 0.2

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise ConfigError(f"schedule.epochs: {self.epochs}: expected more than 0")
        if not 0 <= self.warmup < self.epochs:
            raise ConfigError(
                f"schedule.warmup: {self.warmup}: expected at least 0 and less than epochs ({self.epochs})"
            )


def learning_rate(config: ScheduleConfig, peak: float, step: int, steps: int) -> float:
    """The rate of step ``step`` (from 0) in a run of ``steps`` steps: warm-up, then cosine or drops."""
    epoch = (step + 1) / steps * config.epochs
    if epoch < config.warmup:
        return peak * epoch / config.warmup
    if config.kind == "step":
        return peak * config.factor ** sum(epoch > drop for drop in config.drops)
    progress = (epoch - config.warmup) / (config.epochs - config.warmup)
    return config.floor + (peak - config.floor) * (1 + math.cos(math.pi * progress)) / 2
