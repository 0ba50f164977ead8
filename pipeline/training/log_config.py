"""What of a run is reported, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from laconvnet.pipeline.errors import ConfigError


@dataclass(frozen=True)
class LogConfig:
    """What is reported, and how often.

    Args:
        every: Steps between two status lines.
        profile: First step and end of a window under torch's profiler, counted from each start.
    """

    every: int = 50
    profile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"log.every: {self.every}: expected at least 1")
        if self.profile and not 0 <= self.profile[0] < self.profile[1]:
            raise ConfigError(f"log.profile: {list(self.profile)}: expected a first step and a later end")
