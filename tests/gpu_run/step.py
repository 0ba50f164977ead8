"""A whole training step of a network: its time, memory and dearest kernels; the same as a captured CUDA graph.

    python -m tests.gpu_run.step --device cuda --batch 64 --record FOLDER --kernels FILE
    python -m tests.gpu_run.step --device cuda --graph --record FOLDER

Rows are kept as those of `laconvnet bench train`; the table of kernels holds the 25 that took most time, a line each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from laconvnet.kernels.bench import Row
from laconvnet.kernels.bench.timing import device_name, peak_bytes
from laconvnet.pipeline.bench.record import Recorder, command_line
from laconvnet.pipeline.bench.rows import empty_row, rows_of, surroundings
from laconvnet.pipeline.bench.speed import SMALL, Network, Way, made_input
from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.training.optimizer import OptimizerConfig

ROUNDS, STEPS, PROFILED, DEAREST = 5, 4, 3, 25


def waited(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(ways: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, list[float]]:
    """ms of one call, by way; in each round each way is called a few times."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            waited(device)
            start = time.perf_counter()
            for _ in range(STEPS):
                work()
            waited(device)
            taken[name].append(1e3 * (time.perf_counter() - start) / STEPS)
    return taken


def step_row(way: Way, network: Network, given: tuple[Tensor, Tensor]) -> Row:
    """The row of a step that is warm: ms, and the peak in MB on top of what stays (on a GPU)."""
    peak = peak_bytes(way.device) if way.device.type == "cuda" else None
    (row,) = rows_of(timed({"laconv": lambda: way.step(*given)}, way.device), "laconv", "ms")
    room = None if way.pictures == network.batch else f"{way.pictures} of {network.batch} images: no room for more"
    return {**row, "peak_mb": peak() / 1e6 if peak else None, "pictures": way.pictures, "note": room}


def dearest(way: Way, given: tuple[Tensor, Tensor]) -> str:
    """The kernels that took most of a step (on a CPU: the operations), ms and calls a step."""
    on_gpu = way.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(PROFILED):
            way.step(*given)
        waited(way.device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    spent = {
        event.key: (_self_ms(event, on_gpu) / PROFILED, event.count / PROFILED)
        for event in seen.key_averages()
        if event.device_type == kind
    }
    whole = sum(ms for ms, _ in spent.values())
    lines = [f"{device_name(way.device)}: {whole:.3f} ms in {len(spent)} kernels a step of {way.pictures} images"]
    ordered = sorted(spent.items(), key=lambda item: -item[1][0])
    lines += [f"{ms:9.3f} ms {ms / whole:6.1%} {calls:7.1f} x  {name}" for name, (ms, calls) in ordered[:DEAREST]]
    return "\n".join(lines) + "\n"


def _self_ms(event: Any, on_gpu: bool) -> float:
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3


def graph_rows(way: Way, given: tuple[Tensor, Tensor]) -> list[Row]:
    """Forward, backward and clipping, launched one by one and as one captured graph; what failed says why.

    The optimizer's step is outside: PyTorch's keeps its count on the host unless it is told to be captured.
    """
    static = tuple(tensor[: way.pictures].clone() for tensor in given)

    def work() -> None:
        way.loss(*static).backward()
        nn.utils.clip_grad_norm_(way.weights, OptimizerConfig.clip)

    def eager() -> None:
        way.optimizer.zero_grad(set_to_none=True)
        work()

    try:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                eager()
        torch.cuda.current_stream().wait_stream(aside)
        way.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        values = timed({"captured": graph.replay}, way.device)
    except RuntimeError as error:
        return [empty_row("captured", f"failed: {str(error).partition(chr(10))[0]}")]
    norm = torch.stack([weight.grad.norm() for weight in way.weights if weight.grad is not None]).norm()
    note = None if bool(norm.isfinite()) else "failed: the gradient of the last replay is not finite"
    values = {"eager": timed({"eager": eager}, way.device)["eager"], **values}
    return [{**row, "pictures": way.pictures, "note": note} for row in rows_of(values, "eager", "ms")]


def main(argv: list[str]) -> int:
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--device", choices=("cpu", "cuda"), required=True)
    line.add_argument("--preset", default="s")
    line.add_argument("--size", type=int, default=416)
    line.add_argument("--batch", type=int, default=64)
    line.add_argument("--precision", choices=("bf16", "fp16", "fp32"), default="bf16")
    line.add_argument("--graph", action="store_true")
    line.add_argument("--record", type=Path, required=True)
    line.add_argument("--kernels", type=Path)
    given = line.parse_args(argv)
    device = torch.device(given.device)
    network = Network(ModelConfig(given.preset), given.size, batch=given.batch, precision=given.precision)
    network = SMALL if device.type == "cpu" else network
    keep = Recorder(given.record, command_line(["tests.gpu_run.step", *argv]))
    way, inputs = Way(network, device, reference=False), made_input(network, network.batch, device)
    way.fit(*inputs)
    where = surroundings(device)
    found = graph_rows(way, inputs) if given.graph else [step_row(way, network, inputs)]
    named = {"bench": "graph" if given.graph else "step", **network.described, **where}
    keep.add({**row, **named} for row in found)
    for row in found:
        took = "-" if row["median"] is None else f"{row['median']:.2f} ms"
        print(f"{row['name']}, {way.pictures} images: {took}{', ' + row['note'] if row['note'] else ''}", flush=True)
    if given.kernels:
        given.kernels.write_text(dearest(way, inputs))
    return int(any(str(row["note"]).startswith("failed: ") for row in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
