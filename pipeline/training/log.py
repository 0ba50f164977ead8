"""What a run reports: a status line, JSON lines, TensorBoard."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.layout import LOG
from laconvnet.pipeline.training import hardware

if TYPE_CHECKING:
    from laconvnet.pipeline.config import TrainConfig
    from laconvnet.pipeline.training.session import Outcome, Session

LOG_VERSION = 2


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


class Log:
    """Collects the terms of each step on the device and reports their means once an interval, averaged over the ranks.

    A row of `log.jsonl` holds version, step, steps, epoch, the terms of the loss and `grad_norm` (means over the
    steps that were taken), lr, samples_per_s (all processes), samples_per_s_per_device, data_wait (share of the time
    spent waiting for data), mfu (share of the device's peak, by multiply-adds; null where the peak is not known),
    memory_mb (of this process), device_memory_mb, skipped (steps left out so far), loss_scale (fp16), eta_s and time.
    """

    def __init__(self, run: Path, config: TrainConfig, session: Session) -> None:
        self._config, self._session = config, session
        self._accelerator = session.engine.accelerator
        self._steps = session.source.total
        self._file = (run / LOG).open("a") if session.engine.leads else None
        self._peak = hardware.peak(session.engine.device, config.engine.precision)
        self._work = session.operations() if self._peak else 0
        self._sums: dict[str, Tensor] = {}
        self._taken = self._count = 0
        self._waited = 0.0
        self._since = time.perf_counter()
        self.last: dict[str, float] = {}
        self._accelerator.init_trackers("tensorboard")

    def step(self, step: int, outcome: Outcome, waited: float) -> None:
        """Take in step ``step`` (from 0); ``waited`` are the seconds it spent without data."""
        if not outcome.skipped:
            self._taken += 1
            for name, value in {**outcome.terms, "grad_norm": outcome.norm}.items():
                value = value.detach().float()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self._waited += waited
        if (step + 1) % self._config.log.every == 0 or step + 1 == self._steps:
            self._report(step + 1, outcome.rate)

    def _report(self, done: int, rate: float) -> None:
        seconds = time.perf_counter() - self._since
        means: dict[str, float] = {}
        if self._sums:
            total = self._accelerator.reduce(torch.stack(list(self._sums.values())), "mean")
            means = {name: value / self._taken for name, value in zip(self._sums, total.tolist(), strict=True)}
            self.last = means
        engine = self._session.engine
        speed = self._count * self._config.data.batch / seconds
        row = {
            "version": LOG_VERSION,
            "step": done,
            "steps": self._steps,
            "epoch": round(done / self._steps * self._config.schedule.epochs, 4),
            **means,
            "lr": rate,
            "samples_per_s": speed,
            "samples_per_s_per_device": speed / engine.world,
            "data_wait": self._waited / seconds,
            "mfu": speed / engine.world * self._work / self._peak if self._peak else None,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "device_memory_mb": hardware.memory(engine.device),
            "skipped": done - self._session.updates,
            "loss_scale": self._session.loss_scale,
            "eta_s": (self._steps - done) * seconds / self._count,
            "time": time.time(),
        }
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            print(_line(row), file=sys.stderr, flush=True)
        shown = (*means, "lr", "samples_per_s", "data_wait", "mfu", "loss_scale")
        self._accelerator.log({key: row[key] for key in shown if row[key] is not None}, step=done)
        self._sums, self._taken, self._count = {}, 0, 0
        self._waited, self._since = 0.0, time.perf_counter()

    def close(self) -> None:
        if self._file:
            self._file.close()


def _line(row: dict[str, Any]) -> str:
    minutes, seconds = divmod(round(row["eta_s"]), 60)
    parts = [f"step {row['step']}/{row['steps']}", f"epoch {row['epoch']:.2f}"]
    if "loss" in row:
        parts += [f"loss {row['loss']:.4f}", f"grad {row['grad_norm']:.2f}"]
    parts += [f"lr {row['lr']:.2e}", f"{row['samples_per_s']:.0f} samples/s", f"data wait {row['data_wait']:.0%}"]
    if row["mfu"] is not None:
        parts.append(f"mfu {row['mfu']:.1%}")
    memory = row["device_memory_mb"] or row["memory_mb"]
    parts.append(f"{memory / 1024:.1f} GB")
    if row["loss_scale"] is not None:
        parts.append(f"scale {row['loss_scale']:g}")
    if row["skipped"]:
        parts.append(f"skipped {row['skipped']}")
    return "  ".join([*parts, f"left {minutes}:{seconds:02d}"])
