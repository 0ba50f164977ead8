"""Steps of the real engine, ZeRO 1 and 3, beside the same step bare: on batches from memory, so without DALI.

Each measurement is a process of its own: a process group, and what DeepSpeed and accelerate keep, are made once.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from laconvnet.kernels.bench import Row
from laconvnet.pipeline.bench import engine_steps
from laconvnet.pipeline.bench.engine_steps import BARE, ENGINE, Round, Work
from laconvnet.pipeline.bench.rows import empty_row, missing, rows_of, surroundings
from laconvnet.pipeline.bench.speed import Network

ZERO = (1, 3)
PRECISIONS = {"cuda": ("bf16", "fp16"), "cpu": ("fp32", "bf16")}
_START = "spawn"  # a GPU cannot be used in a process that was forked
_NEEDED = ("deepspeed", "accelerate", "transformers")


def rows(network: Network, device: torch.device, rounds: int, steps: int) -> Iterator[list[Row]]:
    """Yields two rows, bare and engine, for each precision and ZeRO stage; one that tells what is not installed.

    Rows have the times of a step in ms (`rows_of`, baseline bare), and pictures (those of a step: as many as there is
    room for), peak_mb (on a GPU, on top of what both ways keep), loss (of the last step), finite (whether all losses
    were) and skipped (steps that the engine left out, as fp16 does while it looks for its loss scale).
    """
    lacking = missing(_NEEDED)
    if lacking:
        yield [{**empty_row(ENGINE, f"left out: it needs {', '.join(lacking)}"), "bench": "engine"}]
        return
    for precision in PRECISIONS[device.type]:
        for zero in ZERO:
            work = Work(replace(network, precision=precision), zero, rounds, steps, device.type)
            where = surroundings(device)
            told = {"bench": "engine", **work.network.described, "zero": zero, "steps": steps}
            yield [{**row, **told, **where} for row in _measured(work)]


def _measured(work: Work) -> list[Row]:
    seen: list[Round] = []
    context: Any = multiprocessing.get_context(_START)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=engine_steps.measure, args=(work, there))
    process.start()
    there.close()
    try:
        failure = _read(here, seen)
        process.join()
    finally:
        process.kill()
        process.join()
    if failure or not seen:
        return [empty_row(ENGINE, failure or f"failed: exit code {process.exitcode}")]
    return _rows(seen)


def _read(lines: Connection, seen: list[Round]) -> str | None:
    """Take in the rounds until the process has ended; why it failed, where it says so."""
    while True:
        try:
            found = lines.recv()
        except EOFError:
            return None
        if isinstance(found, str):
            return found
        seen.append(found)


def _rows(seen: list[Round]) -> list[Row]:
    values = {name: [1e3 * one.seconds[name] for one in seen] for name in (BARE, ENGINE)}
    last = seen[-1]
    return [
        {
            **row,
            "pictures": last.pictures,
            "peak_mb": last.peak_mb[row["name"]],
            "loss": last.loss[row["name"]],
            "finite": all(one.finite[row["name"]] for one in seen),
            "skipped": sum(one.skipped for one in seen) if row["name"] == ENGINE else 0,
        }
        for row in rows_of(values, BARE, "ms")
    ]
