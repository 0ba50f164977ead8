"""The training loop as it is, watched from where it asks for its batches; in a process of its own.

    python -m laconvnet.pipeline.bench.loop PART FOLDER DESCRIPTOR

trains the configuration FOLDER/config.yaml to its end and writes what it sees, one JSON object a line, to the open
file DESCRIPTOR. What a step of the loop takes is the time from handing out its batches to being asked for the next
ones. The parts, and their lines:

    loop        step, and the seconds of: bare, averaged (bare, and the averages taken in), loop
    supervised  the same
    checkpoint  step, seconds, saves (whether a checkpoint follows this step); at last, bytes of a checkpoint
    memory      step, resident_mb
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.bench.training import CONFIG, LOOKS
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import loop
from laconvnet.pipeline.training.session import Session
from laconvnet.pipeline.training.state import whole

_RUN = "run"
_KEPT = 4  # batches that are made before and given again and again: nothing waits for data
Tell = Callable[[dict[str, Any]], None]


class InstrumentedSession(Session):
    """A session that tells what the loop around it takes."""

    def __init__(self, tell: Tell, *given: Any) -> None:
        super().__init__(*given)
        self.tell = tell

    def stream(self, first: int) -> Generator[Batch]:
        with closing(super().stream(first)) as made:
            kept = [list(islice(made, self.config.engine.accumulate)) for _ in range(_KEPT)]
        for step in range(first, self.source.total):
            yield from self.watch(step, kept[step % _KEPT])

    def watch(self, step: int, batches: list[Batch]) -> Iterator[Batch]:
        raise NotImplementedError

    def seconds(self, work: Callable[[list[Batch]], None], batches: list[Batch]) -> float:
        start = time.perf_counter()
        work(batches)
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)


class PairedTiming(InstrumentedSession):
    """Each step of the loop beside the same one bare: forward, loss, backward, the engine's step."""

    def watch(self, step: int, batches: list[Batch]) -> Iterator[Batch]:
        ways = {"bare": self.bare, "averaged": self.averaged}
        taken = {name: self.seconds(ways[name], batches) for name in sorted(ways, reverse=bool(step % 2))}
        start = time.perf_counter()
        yield from batches
        self.wait()
        self.tell({"step": step, **taken, "loop": time.perf_counter() - start})

    def bare(self, batches: list[Batch]) -> None:
        for batch in batches:
            terms = self.task.loss(self.wrapped(batch.images, batch.tokens).float(), batch)
            self.wrapped.backward(torch.stack(list(terms.values())).sum())
            self.wrapped.step()

    def averaged(self, batches: list[Batch]) -> None:
        self.bare(batches)
        if self.ema:
            with whole(self.model, self.config.engine.zero):
                self.ema.update(self.updates)


class Saving(InstrumentedSession):
    """Steps that save beside steps that do not."""

    def watch(self, step: int, batches: list[Batch]) -> Iterator[Batch]:
        start = time.perf_counter()
        yield from batches
        self.wait()
        saves = (step + 1) % self.config.checkpoint.every == 0
        self.tell({"step": step, "seconds": time.perf_counter() - start, "saves": saves})


class Growing(InstrumentedSession):
    """The real loader's batches, and the memory of this process now and then."""

    def stream(self, first: int) -> Generator[Batch]:
        every = max(1, round(self.source.total / self.config.schedule.epochs / LOOKS))
        for step, batch in enumerate(Session.stream(self, first), first):
            yield batch
            if (step + 1) % every == 0:
                self.tell({"step": step, "resident_mb": psutil.Process().memory_info().rss / 1e6})


PARTS: dict[str, type[InstrumentedSession]] = {
    "loop": PairedTiming,
    "supervised": PairedTiming,
    "checkpoint": Saving,
    "memory": Growing,
}


def watch(part: str, folder: Path, tell: Tell) -> bool:
    """Train FOLDER/config.yaml to its end, telling; whether it came there."""
    config, run = configuration.load(folder / CONFIG), folder / _RUN
    if not loop.train(config, run, functools.partial(PARTS[part], tell)):
        return False
    if part == "checkpoint":
        (*_, last) = checkpoints.published(run)
        tell({"bytes": sum(file.stat().st_size for file in last.iterdir())})
    return True


def main(part: str, folder: Path, descriptor: int) -> int:
    with os.fdopen(descriptor, "w") as lines:

        def tell(line: dict[str, Any]) -> None:
            lines.write(json.dumps(line) + "\n")
            lines.flush()

        return 0 if watch(part, folder, tell) else 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
