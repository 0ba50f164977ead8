"""What a run reports: a status line, JSON lines, TensorBoard."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laconvnet.files import appending, naming
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.runs.layout import LOG
from laconvnet.pipeline.training import hardware
from laconvnet.pipeline.training.session import Outcome
from laconvnet.terminal import complain

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_VERSION = 2


@dataclass(frozen=True)
class Progress:
    """What a run is measured by: its steps, its processes, and what its devices could do.

    ``trackers`` is accelerate's, which sums over the processes too. ``work`` are the floating-point operations that one
    example costs a step, ``peak`` those that a device can do a second; both 0 where the peak is not known. ``kernels``
    is what LaConv runs in: compiled or plain, None for a model without it.
    """

    total: int
    world: int
    trackers: Accelerator
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

    def __init__(self, run: Path, config: TrainConfig, progress: Progress) -> None:
        self._config, self._progress = config, progress
        self._path = run / LOG
        self._file = appending(self._path) if progress.trackers.is_main_process else None
        self._sums: dict[str, Tensor] = {}
        self._taken = self._count = 0
        self._waited = 0.0
        self._since = time.perf_counter()
        self.last: dict[str, float] = {}
        self._draws = True
        self._track(lambda: progress.trackers.init_trackers("tensorboard"))

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

    def validated(self, step: int, split: str, metrics: dict[str, float], line: str) -> None:
        """Tell of a validation after so many steps."""
        if self._file:
            complain(line)
        values = {f"{split}/{name}": value for name, value in metrics.items()}
        self._track(lambda: self._progress.trackers.log(values, step=step))

    def _report(self, done: int, outcome: Outcome) -> None:
        run = self._progress
        seconds = time.perf_counter() - self._since
        means: dict[str, float] = {}
        if self._sums:
            total = run.trackers.reduce(torch.stack(list(self._sums.values())), "mean")
            means = {name: value / self._taken for name, value in zip(self._sums, total.tolist(), strict=True)}
            self.last = means
        speed = self._count * self._config.data.batch / seconds
        row = {
            "version": LOG_VERSION,
            "step": done,
            "steps": run.total,
            "epoch": round(done / run.total * self._config.schedule.epochs, 4),
            **means,
            "lr": outcome.rate,
            "samples_per_s": speed,
            "samples_per_s_per_device": speed / run.world,
            "data_wait": self._waited / seconds,
            "mfu": speed / run.world * run.work / run.peak if run.peak else None,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "device_memory_mb": hardware.memory(run.trackers.device),
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
            complain(_line(row))
        shown = (*means, "lr", "samples_per_s", "data_wait", "mfu", "loss_scale")
        self._track(lambda: run.trackers.log({key: row[key] for key in shown if row[key] is not None}, step=done))
        self._sums, self._taken, self._count = {}, 0, 0
        self._waited, self._since = 0.0, time.perf_counter()

    def close(self) -> None:
        for tracker in self._progress.trackers.trackers:
            self._track(tracker.finish)
        if self._file:
            with naming(self._path):
                self._file.close()

    def _track(self, work: Callable[[], None]) -> None:
        """Do what draws curves; where their file cannot be written the run goes on without them, after one line."""
        if self._draws:
            try:
                work()
            except OSError as error:
                self._draws = False
                complain(f"TensorBoard: {error}; its curves end here, {self._path} goes on")


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
