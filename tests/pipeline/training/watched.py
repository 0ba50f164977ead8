"""The command line, writing down what a rank does and, where it is told so, standing still in the middle of it.

Its environment says what is wanted:

    WATCHED     folder for rank-R.jsonl: a line when the first batch is asked for (`begun`, and `litter`: what is under
                way in the folder of checkpoints before the first step), one a step (`step`, `rows`, `loss`, and whether
                what the start has read is still `held`), one a checkpoint (`lines`: how many its thread has run so
                far, by file)
    STOP_AT     FILE:N: the process stops (SIGSTOP) before the N-th line of FILE that its checkpoint thread runs
    STOP_AFTER  STEP:NAME: the last rank sends itself the signal of this name as it begins the last of so many steps
    KEEP_BEGUN  1: begun-STEP.pt holds what this start has really put in its places
    BACKEND     what torch.compile compiles with, in place of its inductor, which takes minutes on a CPU; the last line
                says how many `graphs` it has compiled
    NUDGE       a new run begins on nudged weights, see rounding.py
    HALF        1: DeepSpeed believes this CPU to be capable of fp16, as GPUs are
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator

from laconvnet import files
from laconvnet.launch import cli
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.runs import publish
from laconvnet.pipeline.runs.scores import Score
from laconvnet.pipeline.training import checkpoint
from laconvnet.pipeline.training.session import Outcome, Session
from tests.rounding import begin_nudged

RANK = int(os.environ.get("RANK", "0"))
PLACE = Path(os.environ["WATCHED"])
# Publishing is the work of two files; the look at which checkpoints there are goes with it.
FILES = {shutil.__file__: "shutil", checkpoint.__file__: "checkpoint", files.__file__: "checkpoint"}
FILES |= {publish.__file__: "checkpoint", torch.serialization.__file__: "serialization"}
STOP_AT, _, _NUMBER = os.environ.get("STOP_AT", "").partition(":")
STOP_AFTER, _, _NAME = os.environ.get("STOP_AFTER", "").partition(":")
_init, _step, _stream, _write = Session.__init__, Session.step, Session.stream, checkpoint.Writer._write
_lines = dict.fromkeys(FILES.values(), 0)
_read: list[weakref.ref[torch.Tensor]] = []


def tell(**what: Any) -> None:
    file = os.open(PLACE / f"rank-{RANK}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{json.dumps(what)}\n".encode())  # whole, whenever the process is killed
    os.close(file)


def init(self: Session, *given: Any) -> None:
    _init(self, *given)
    state = given[-1].state
    _read.extend(map(weakref.ref, state["model"].values()) if state else ())
    if os.environ.get("KEEP_BEGUN") and state:
        wrapped = self.wrapped.optimizer
        adam = wrapped.optimizer if self.config.engine.zero else wrapped
        counts = sorted({int(state["step"]) for state in adam.state.values()})
        with self.state(self.first_step) as state:
            if RANK == 0:
                torch.save({**state, "adam_steps": counts}, PLACE / f"begun-{self.first_step}.pt")


def step(self: Session, number: int, batches: list[Batch]) -> Outcome:
    outcome = _step(self, number, batches)
    rows = [row for batch in batches for row in batch.rows.tolist()]
    tell(
        step=number,
        rows=rows,
        loss=float(outcome.terms["loss"]).hex(),
        held=any(tensor() is not None for tensor in _read),
    )
    return outcome


def stream(self: Session, first: int) -> Iterator[Batch]:
    run = Path(sys.argv[sys.argv.index("--run") + 1])
    tell(begun=self.first_step, litter=sorted(path.name for path in run.glob("checkpoints/.*")))
    accumulate = self.config.engine.accumulate
    for place, batch in enumerate(_stream(self, first), first * accumulate):
        if STOP_AFTER and place == (int(STOP_AFTER) - 1) * accumulate and self.engine.world - 1 == RANK:
            signal.raise_signal(signal.Signals[_NAME])
        yield batch


def write(self: checkpoint.Writer, step: int, state: dict[str, Any], vocabulary: str, score: Score | None) -> None:
    sys.settrace(trace)
    _write(self, step, state, vocabulary, score)
    sys.settrace(None)
    tell(lines=_lines)


def trace(frame: FrameType, event: str, _: Any) -> Any:
    name = FILES.get(frame.f_code.co_filename)
    if name == "serialization" and frame.f_code.co_name != "_save":
        return None  # tens of thousands of lines; those of `_save` lie between the tensors that are written
    if name and event == "line":
        _lines[name] += 1
        if name == STOP_AT and _lines[name] == int(_NUMBER):
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    return trace if name else None


Session.__init__, Session.step, Session.stream = init, step, stream  # type: ignore[assignment, method-assign]
checkpoint.Writer._write = write  # type: ignore[method-assign]
if os.environ.get("HALF"):
    get_accelerator().is_fp16_supported = lambda: True
if backend := os.environ.get("BACKEND"):
    torch.nn.Module.compile = partialmethod(torch.nn.Module.compile, backend=backend)  # type: ignore[assignment]
begin_nudged()
code = cli.main(sys.argv[1:])
if backend:
    tell(graphs=torch._dynamo.utils.counters["stats"]["unique_graphs"])
sys.exit(code)
