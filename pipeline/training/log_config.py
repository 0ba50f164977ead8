"""What of a run is reported, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from laconvnet.pipeline.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True)
class LogConfig:
    """What is reported, and how often.

    Args:
        every: Steps between two rows of log.jsonl, which are the points of the trackers' curves too.
        console: Steps between two status lines; one is printed with the first row behind each.
        trackers: Who draws the curves: `tensorboard`, `wandb` (Weights & Biases), `mlflow`; any of them, or none.
        project: What wandb takes for its project and mlflow for its experiment.
        profile: First step and end of a window under torch's profiler, counted from each start.
    """

    every: int = 10
    console: int = 50
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    project: str = "laconvnet"
    profile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("every", "console"):
            if getattr(self, name) < 1:
                raise ConfigError(f"log.{name}: {getattr(self, name)}: expected at least 1")
        if len(set(self.trackers)) < len(self.trackers):
            raise ConfigError(f"log.trackers: {list(self.trackers)}: expected each one once")
        if not self.project.strip():
            raise ConfigError("log.project: '': expected a name")
        if self.profile and not 0 <= self.profile[0] < self.profile[1]:
            raise ConfigError(f"log.profile: {list(self.profile)}: expected a first step and a later end")
