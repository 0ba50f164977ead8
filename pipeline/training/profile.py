"""A window of steps under torch's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from laconvnet.pipeline.runs.layout import PROFILE, rank_record
from laconvnet.pipeline.training.log_config import LogConfig

_WARMUP = 2


class Profiler:
    """Told of every step; without a window it does nothing."""

    def __init__(self, inner: torch.profiler.profile | None) -> None:
        self._inner = inner

    def step(self) -> None:
        if self._inner:
            self._inner.step()


@contextmanager
def profiled(config: LogConfig, run: Path, rank: int) -> Iterator[Profiler]:
    """Trace the steps of `log.profile`, counted from this start, to `<run>/profile/rank-<rank>.json` (Chrome's format).

    A window that reaches beyond the last step leaves no trace.
    """
    if not config.profile:
        yield Profiler(None)
        return
    first, last = config.profile
    place = run / PROFILE

    def write(inner: torch.profiler.profile) -> None:
        place.mkdir(parents=True, exist_ok=True)
        inner.export_chrome_trace(str(rank_record(place, rank)))

    warm = min(_WARMUP, first)
    window = torch.profiler.schedule(skip_first=first - warm, wait=0, warmup=warm, active=last - first, repeat=1)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with torch.profiler.profile(
        activities=activities, schedule=window, on_trace_ready=write, record_shapes=True
    ) as inner:
        yield Profiler(inner)
