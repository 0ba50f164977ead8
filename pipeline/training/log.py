"""What a run reports: a status line, JSON lines, curves."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laconvnet.files import appending, naming
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.runs.layout import LOG
from laconvnet.pipeline.training import hardware
from laconvnet.pipeline.training.curves import Curves
from laconvnet.pipeline.training.engine import Engine
from laconvnet.pipeline.training.session import Outcome
from laconvnet.pipeline.training.validation import Validated
from laconvnet.terminal import complain

LOG_VERSION = 2
_CURVES = (
    *("epoch", "lr", "samples_per_s", "samples_per_s_per_device", "data_wait", "mfu"),
    *("memory_mb", "device_memory_mb", "loss_scale", "skipped"),
)


@dataclass(frozen=True)
class Progress:
    """What a run is measured by: its steps, the one it begins behind, its processes, and what its devices could do.

    ``work`` are the floating-point operations that one example costs a step, ``peak`` those that a device can do a
    second; both 0 where the peak is not known. ``kernels`` is what LaConv runs in: compiled or plain, None for a model
    without it.
    """

    total: int
    first: int
    engine: Engine
    work: int
    peak: float
    kernels: str | None = None


class Log:
    """Collects the terms of each step on the device and reports their means once an interval, averaged over the ranks.

    A row of `log.jsonl` holds version, step, steps, epoch, the terms of the loss and `grad_norm` (means over the
    steps that were taken), lr, samples_per_s (all processes), samples_per_s_per_device, data_wait (share of the time
    spent waiting for data), mfu (share of the device's peak, by multiply-adds; null where the peak is not known),
    memory_mb (of this process), device_memory_mb, kernels (compiled or plain: what LaConv runs in; null in a model
    without it), skipped (steps left out so far), loss_scale (fp16), eta_s and time.
    """

    def __init__(self, run: Path, config: TrainConfig, progress: Progress, curves: Curves | None) -> None:
        """``curves`` are those of the main process."""
        self._config, self._progress, self._curves = config, progress, curves
        self._path = run / LOG
        self._file = appending(self._path) if progress.engine.is_main else None
        self._sums: dict[str, Tensor] = {}
        self._taken = self._count = 0
        self._waited = 0.0
        self._since = time.perf_counter()
        self._reported = progress.first
        self.last: dict[str, float] = {}

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._curves:
            self._curves.end(failed=kind is not None)
        if self._file:
            with naming(self._path):
                self._file.close()

    def step(self, step: int, outcome: Outcome, waited: float) -> None:
        """Take in step ``step`` (from 0); ``waited`` are the seconds it spent without data."""
        if not outcome.skipped:
            self._taken += 1
            for name, value in {**outcome.terms, "grad_norm": outcome.norm}.items():
                value = value.detach().float()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self._waited += waited
        if (step + 1) % self._config.log.every == 0 or step + 1 == self._progress.total:
            self._report(step + 1, outcome)

    def left_out(self, seconds: float) -> None:
        """So much time was no training: speed and what is left do not count it."""
        self._since += seconds

    def validated(self, step: int, split: str, found: Validated) -> None:
        """Tell of a validation after so many steps."""
        if self._file:
            complain(found.line)
        if self._curves:
            self._curves.add({f"{split}/{name}": value for name, value in found.metrics.items()}, step)
            if found.cards:
                self._curves.show(f"{split}/examples", found.cards, step)

    def _report(self, done: int, outcome: Outcome) -> None:
        run = self._progress
        seconds = time.perf_counter() - self._since
        means: dict[str, float] = {}
        if self._sums:
            total = run.engine.accelerator.reduce(torch.stack(list(self._sums.values())), "mean")
            means = {name: value / self._taken for name, value in zip(self._sums, total.tolist(), strict=True)}
            self.last = means
        speed = self._count * self._config.data.batch / seconds
        row: dict[str, Any] = {
            "version": LOG_VERSION,
            "step": done,
            "steps": run.total,
            "epoch": round(done / run.total * self._config.schedule.epochs, 4),
            **means,
            "lr": outcome.rate,
            "samples_per_s": speed,
            "samples_per_s_per_device": speed / run.engine.world,
            "data_wait": self._waited / seconds,
            "mfu": speed / run.engine.world * run.work / run.peak if run.peak else None,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "device_memory_mb": hardware.memory(run.engine.device),
            "kernels": run.kernels,
            "skipped": done - outcome.updates,
            "loss_scale": outcome.loss_scale,
            "eta_s": (run.total - done) * seconds / self._count,
            "time": time.time(),
        }
        if self._file:
            with naming(self._path):
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
            every = self._config.log.console
            if done // every > self._reported // every or done == run.total:
                complain(_line(row))
        if self._curves:
            self._curves.add({key: row[key] for key in (*means, *_CURVES) if row[key] is not None}, done)
        self._reported = done
        self._sums, self._taken, self._count = {}, 0, 0
        self._waited, self._since = 0.0, time.perf_counter()


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
    if row["kernels"] == "plain":
        parts.append("plain kernels")
    if row["loss_scale"] is not None:
        parts.append(f"scale {row['loss_scale']:g}")
    if row["skipped"]:
        parts.append(f"skipped {row['skipped']}")
    return "  ".join([*parts, f"left {minutes}:{seconds:02d}"])
