"""Times things that do the same work, side by side.

Every round runs every candidate once, so that a machine that slows down slows all of them; what counts is the median
over rounds and the distance of the quartiles. On a GPU the device's own events are read, and the device is kept busy
while the work is queued, so that the time of launching does not count.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
# A candidate is steps by name, run in this order; each gets what the one before returned, the first gets None.
Step = Callable[[Any], Any]

FLUSH_BYTES = 256 * 2**20  # more than the last cache of any GPU
# While the GPU idles in a kernel that only counts cycles, the queue is filled; seconds, at about this clock.
CYCLES_PER_S, LEAST_HEAD_START, MOST_HEAD_START = 2e9, 1e-3, 0.1


def compare(
    candidates: Mapping[str, Mapping[str, Step]],
    baseline: str,
    device: torch.device,
    rounds: int,
    cold: bool = False,
) -> list[Row]:
    """Times every step of every candidate, and their sum under the name "both" where there are several.

    Rows: name, baseline, ratio (the baseline's median over this one's), median, q1 and q3 (the quartiles over the
    rounds) and spread (their distance) in `unit` ms, rounds, device, step, cache (warm, or cold where it was flushed
    before every step), peak_mb (memory that a run takes on top of what was there; None where the system does not tell),
    note. A candidate that fails while it warms up has None for its numbers and a note: "out of memory", or "failed: "
    and the first line of the RuntimeError. Where the baseline fails or is no candidate there are no ratios.
    """
    clock = _EventClock(device, cold) if device.type == "cuda" else _ProcessorClock(cold)
    peaks: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for name, steps in candidates.items():
        try:
            peaks[name] = clock.prepare(steps)
        except torch.OutOfMemoryError:
            notes[name] = "out of memory"
        except RuntimeError as error:
            notes[name] = f"failed: {str(error).partition(chr(10))[0]}"
    times: dict[str, dict[str, list[float]]] = {name: {step: [] for step in candidates[name]} for name in candidates}
    for _ in range(rounds):
        for name in peaks:
            for step, taken in clock.run(candidates[name]).items():
                times[name][step].append(taken)
    for by_step in times.values():
        if len(by_step) > 1:
            by_step["both"] = [sum(parts) for parts in zip(*by_step.values(), strict=True)]
    medians = {
        (name, step): statistics.median(taken) if taken else None
        for name, by_step in times.items()
        for step, taken in by_step.items()
    }
    result = []
    for (name, step), median in medians.items():
        theirs = medians.get((baseline, step))
        low, high = quartiles(times[name][step]) if name in peaks else (None, None)
        result.append(
            {
                "name": name,
                "baseline": baseline,
                "ratio": theirs / median if theirs and median else None,
                "median": median,
                "spread": None if low is None or high is None else high - low,
                "q1": low,
                "q3": high,
                "rounds": rounds if name in peaks else None,
                "unit": "ms",
                "device": device_name(device),
                "step": step,
                "cache": "cold" if cold else "warm",
                "peak_mb": peaks.get(name),
                "note": notes.get(name),
            }
        )
    return result


def median_ms(work: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """The median time of one piece of work."""
    rows = compare({"work": {"work": lambda _: work()}}, "work", device, rounds)
    return float(rows[0]["median"])


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"


def peak_bytes(device: torch.device) -> Callable[[], int]:
    """Tells how much more memory of a GPU was taken at most since this call than before it."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)

    def taken() -> int:
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before

    return taken


class _ProcessorClock:
    def __init__(self, cold: bool) -> None:
        self.flush = torch.ones(FLUSH_BYTES // 4) if cold else None

    def prepare(self, steps: Mapping[str, Step]) -> float | None:
        """Runs all steps once (warming up) and tells how much memory they took at most, in MB."""
        _give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
            before = _status("VmRSS")
        except OSError:
            _run(steps)
            return None
        _run(steps)
        return (_status("VmHWM") - before) / 1e3

    def run(self, steps: Mapping[str, Step]) -> dict[str, float]:
        taken, state = {}, None
        for name, step in steps.items():
            if self.flush is not None:
                self.flush.add_(1)
            start = time.perf_counter()
            state = step(state)
            taken[name] = 1e3 * (time.perf_counter() - start)
        return taken


class _EventClock:
    def __init__(self, device: torch.device, cold: bool) -> None:
        self.device = device
        self.flush = torch.ones(FLUSH_BYTES // 4, device=device) if cold else None
        self.queueing: dict[Step, float] = {}  # seconds that filling the queue took

    def prepare(self, steps: Mapping[str, Step]) -> float:
        """Runs all steps twice (warming up) and tells how much memory they took at most, in MB."""
        _run(steps)  # libraries take their workspaces, kernels are loaded
        taken = peak_bytes(self.device)
        state = None
        for step in steps.values():
            start = time.perf_counter()
            state = step(state)
            self.queueing[step] = time.perf_counter() - start
        return taken() / 1e6

    def run(self, steps: Mapping[str, Step]) -> dict[str, float]:
        marks, state = {}, None
        with torch.cuda.device(self.device):
            for name, step in steps.items():
                torch.cuda.synchronize()
                if self.flush is not None:
                    self.flush.add_(1)
                head_start = min(max(LEAST_HEAD_START, 2 * self.queueing[step]), MOST_HEAD_START)
                torch.cuda._sleep(int(CYCLES_PER_S * head_start))
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                state = step(state)
                end.record()
                marks[name] = (start, end)
            torch.cuda.synchronize()
        return {name: start.elapsed_time(end) for name, (start, end) in marks.items()}


def _run(steps: Mapping[str, Step]) -> None:
    state = None
    for step in steps.values():
        state = step(state)


def _give_back() -> None:
    """Has glibc give back what it keeps of things that ran before: who finds that memory there seems to take none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    """kB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile; of one value, that value twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def spread(values: Sequence[float]) -> float:
    """The distance of the quartiles."""
    low, high = quartiles(values)
    return high - low


def processor() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
