"""What a run reports: a status line, JSON lines, TensorBoard."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError, TrainingError

LOG_VERSION = 1


@dataclass(frozen=True)
class LogConfig:
    """What is reported, and how often.

    Args:
        every: Steps between two status lines.
    """

    every: int = 50

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"log.every: {self.every}: expected at least 1")


class Log:
    """Collects the terms of each step on the device and reports their means once an interval.

    The values leave the device only then, averaged over the ranks; a loss or gradient norm that is not finite is
    found at that moment and stops the run, before any checkpoint takes it in.
    """

    def __init__(self, run: Path, every: int, steps: int, epochs: float, batch: int, accelerator: Any) -> None:
        self._every, self._steps, self._epochs, self._batch = every, steps, epochs, batch
        self._accelerator = accelerator
        self._file = (run / "log.jsonl").open("a") if accelerator.is_main_process else None
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._waited = 0.0
        self._since = time.perf_counter()
        accelerator.init_trackers("tensorboard")

    def step(self, step: int, terms: Mapping[str, Tensor], rate: float, waited: float) -> None:
        """Take in step ``step`` (from 0); ``waited`` are the seconds it spent without data."""
        for name, value in terms.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self._waited += waited
        if (step + 1) % self._every == 0 or step + 1 == self._steps:
            self._report(step + 1, rate)

    def check(self, step: int) -> None:
        """Raises TrainingError when a term since the last report is not finite."""
        for name, value in self._sums.items():
            if not torch.isfinite(value):
                raise TrainingError(
                    f"{name} is {value.item()} within the {self._count} steps before step {step}; nothing of them was "
                    "saved: lower optimizer.lr or train in fp32, the run resumes from its last checkpoint"
                )

    def _report(self, done: int, rate: float) -> None:
        self.check(done)
        seconds = time.perf_counter() - self._since
        total = self._accelerator.reduce(torch.stack(list(self._sums.values())), "mean")
        means = {name: value / self._count for name, value in zip(self._sums, total.tolist(), strict=True)}
        row = {
            "version": LOG_VERSION,
            "step": done,
            "steps": self._steps,
            "epoch": round(done / self._steps * self._epochs, 4),
            **means,
            "lr": rate,
            "samples_per_s": self._count * self._batch / seconds,
            "data_wait": self._waited / seconds,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "eta_s": (self._steps - done) * seconds / self._count,
            "time": time.time(),
        }
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            print(_line(row), file=sys.stderr, flush=True)
        self._accelerator.log({key: row[key] for key in (*means, "lr", "samples_per_s", "data_wait")}, step=done)
        self._sums, self._count, self._waited, self._since = {}, 0, 0.0, time.perf_counter()

    def close(self) -> None:
        if self._file:
            self._file.close()


def _line(row: dict[str, Any]) -> str:
    minutes, seconds = divmod(round(row["eta_s"]), 60)
    return (
        f"step {row['step']}/{row['steps']}  epoch {row['epoch']:.2f}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
        f"grad {row['grad_norm']:.2f}  {row['samples_per_s']:.0f} samples/s  data wait {row['data_wait']:.0%}  "
        f"left {minutes}:{seconds:02d}"
    )
