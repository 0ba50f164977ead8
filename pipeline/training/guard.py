"""The guard: a step whose loss or gradient is not finite changes nothing, is written down, and can be run again.

DeepSpeed reduces the norm of the gradient over all processes and skips the step when it is not finite, so every process
knows without asking. A loss that is not finite is made to reach the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from laconvnet.files import publish_json
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs.layout import INCIDENTS, rank_record, step_folder

STATES = 3  # bad steps of one start whose state is kept: a run that skips many must not fill the disk


@dataclass(frozen=True)
class GuardConfig:
    """What happens at a step whose loss or gradient is not finite. Its weights are never taken in.

    Args:
        policy: `stop` ends the run there; `skip` leaves the step out and goes on.
        patience: With `skip`, so many such steps in a row end the run all the same.
    """

    policy: Literal["stop", "skip"] = "stop"
    patience: int = 3

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError(f"guard.patience: {self.patience}: expected at least 1")


def poisoned(loss: Tensor) -> Tensor:
    """The loss, of any shape, whose gradient is not finite where the loss is not: no process has to look at it."""
    return loss * (1 + (loss - loss).detach())


class Statistics:
    """The batch norms' running statistics as they stood before a step: a bad forward pass spoils them."""

    def __init__(self, model: nn.Module) -> None:
        self._live = list(model.buffers())
        self._kept = [buffer.clone() for buffer in self._live]

    def keep(self) -> None:
        torch._foreach_copy_(self._kept, self._live)

    def restore(self) -> None:
        torch._foreach_copy_(self._live, self._kept)


class Guard:
    """Counts the steps that were left out and ends the run where the policy says so."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._row = 0
        self.skipped = 0

    def good(self) -> None:
        self._row = 0

    def bad(self, run: Path, step: int, reason: str) -> None:
        """A step was left out; raises TrainingError where the run must not go on."""
        self.skipped += 1
        self._row += 1
        if self._config.policy == "stop" or self._row >= self._config.patience:
            row = f", {self._row} times in a row" if self._row > 1 else ""
            raise TrainingError(
                f"step {step}: {reason}{row}; nothing of it was taken in. {folder_of(run, step)} holds its samples and "
                f"the state before it: `laconvnet replay {run} {step}` runs it again in fp32; --guard.policy skip "
                "leaves such steps out"
            )


def folder_of(run: Path, step: int) -> Path:
    """What is kept of a bad step (counted from 0)."""
    return run / INCIDENTS / step_folder(step)


def describe(
    step: int, first: int, batches: Sequence[Batch], examples: Examples, terms: dict[str, Tensor]
) -> dict[str, Any]:
    """What one process fed to a step, and what came out of it: ``terms``, scalars by name.

    Its examples stand in the global batch from place ``first`` on; dropout follows the place.
    """
    rows = np.concatenate([batch.rows for batch in batches])
    keys = examples.manifest.sample_columns.values("key", examples.samples(rows))
    return {
        "step": step,
        "terms": {name: float(value) for name, value in terms.items()},
        "examples": [
            {"place": place, "example": row, "sample": key, "text": text}
            for place, (row, key, text) in enumerate(zip(rows.tolist(), keys, examples.texts(rows), strict=True), first)
        ],
    }


def write(folder: Path, rank: int, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    publish_json(rank_record(folder, rank), record)


@contextmanager
def first_not_finite(model: nn.Module) -> Iterator[list[str]]:
    """Within, forward passes put the name of each module whose output is not finite into the list, innermost first."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, list | tuple) else [output]
            if not all(bool(tensor.isfinite().all()) for tensor in tensors if isinstance(tensor, Tensor)):
                found.append(f"{name} ({type(module).__name__})")

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
