"""What every head is: a module on the last three stage maps and the words, and its own keys of the configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """The widths and sizes that a head is built for."""

    widths: tuple[int, int, int]  # of the maps at strides 8, 16, 32
    words: int  # width of the word features
    answers: int = 0  # of the data set, where the task is to choose one


class Head(ABC, nn.Module):
    """Raw predictions from features; targets, losses and answers belong to the tasks.

    Built by `Head(config, features)`, where `config` is an instance of the class's own `Config`, a frozen dataclass
    whose fields become the keys `model.heads.<name>.*`. Raises ConfigError naming the key that does not fit.
    """

    Config: ClassVar[type[Any]]
    tasks: ClassVar[tuple[str, ...]]  # that read its output
    grows: ClassVar[tuple[str, ...]] = ()  # parameters with one row an answer

    @abstractmethod
    def forward(self, maps: list[Tensor], words: Tensor, mask: Tensor) -> Tensor:
        """maps: the three maps (B, widths[i], H, W) at strides 8, 16, 32; words (B, L, D); mask (B, L), True = real."""
