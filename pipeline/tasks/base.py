"""The interface of a task for training and evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from laconvnet.pipeline.data.examples import Examples, Kind
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import ModelConfig

# Metric sums and counts by name, each (2,): added over batches and ranks, divided once at the end.
Sums = dict[str, NDArray[np.float64]]


class Task(ABC):
    """A task's targets, loss, answer and metric, at any size of the network's square."""

    kind: ClassVar[Kind]
    metrics: ClassVar[tuple[str, ...]]  # that `score` sums up, the main one first; a part of one is METRIC/PART
    wants_masks: ClassVar[bool] = False  # in its batches, and of the examples it is taught and scored by
    without_target: ClassVar[bool] = False  # whether an expression may speak of nothing in its image
    outputs: ClassVar[dict[str, str]]  # what `decoded` gives, by name, in words for who reads an exported file

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        self.config, self.vocabulary = config, vocabulary

    @classmethod
    def check(cls, examples: Examples) -> None:
        """Raises ConfigError for a set that lacks what this task is taught and scored by."""
        if cls.kind == "expression":
            examples.check(cls.wants_masks, cls.without_target)

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, each a scalar in fp32; their sum is minimised. ``output``: see the heads."""

    @abstractmethod
    def decoded(self, output: Tensor) -> dict[str, Tensor]:
        """What the head's output says of each example, as tensors (B, ...): what an exported file gives out.

        On the square, by the names of ``outputs``; in operators that every exporter takes.
        """

    @abstractmethod
    def answer(self, output: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """One answer per example, in pixels of the original image or words: what `predict` shows.

        ``output`` has the shape that the head in use gives it, B examples first.
        """

    @abstractmethod
    def score(self, answers: list[dict[str, Any]], examples: Examples, rows: NDArray[np.int64]) -> Sums:
        """Sums and counts, ``name -> [sum, count]`` (2,), of the examples at ``rows`` (B,), answer by answer.

        Writes truth and verdict into ``answers``.
        """


def add(total: Sums, more: Sums) -> None:
    """Adds sums and counts, (2,) each, in place."""
    for name, pair in more.items():
        total[name] = total.get(name, np.zeros(2)) + pair
