"""How large the state of a run is, and what it takes to copy, write and read it."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from laconvnet.kernels.bench import Row, spread
from laconvnet.pipeline.bench.reads import NODE
from laconvnet.pipeline.bench.rows import counted
from laconvnet.pipeline.model import ModelConfig, build_model
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint

WORDS = 10_000
PRESETS = ("s", "b")


def sizes(preset: str) -> dict[str, int]:
    """Bytes of the parts of a checkpoint (see `Session.state`) of this network for referring expressions."""
    with torch.device("meta"):
        model = build_model(ModelConfig(preset=preset, task="rec"), WORDS, 0)
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return {"weights": tensors, "moments": 2 * 4 * trained, "averages": tensors}


def rows(rate: float, world: int, rounds: int) -> Iterator[Row]:
    """The size of a checkpoint, its writing at ``rate`` GB/s, and what really happened here ``rounds`` times."""
    for preset in PRESETS:
        parts = sizes(preset)
        total = sum(parts.values())
        name = f"LaConvNet-{preset.upper()}, {WORDS:,} words"
        for part, size in {**parts, "checkpoint": total}.items():
            yield counted(name, part, size / 1e6, "MB")
        yield counted(name, f"to write at {rate:g} GB/s", total / 1e9 / rate, "s")
        read, note = math.ceil(world / NODE) * total / 1e9, "each node maps it once for all its ranks"
        yield counted(name, f"read when {world} resume", read, "GB", note=note)
        if rounds:
            for measure, taken in _tried(total, rounds).items():
                yield counted(name, measure, statistics.median(taken), "s", spread=spread(taken))


def _tried(size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds to copy, publish and read a state of so many bytes in the folder of temporary files."""
    state: dict[str, Any] = {"step": 1, "model": {str(n): torch.rand(size // 4 // 100) for n in range(100)}}
    taken: dict[str, list[float]] = {"copied, here": [], "written, here": [], "checked and read, here": []}
    with tempfile.TemporaryDirectory() as place:
        run = Path(place)
        for _ in range(rounds):
            begun = time.perf_counter()
            copied = {name: tensor.to("cpu", copy=True) for name, tensor in state["model"].items()}
            ended = [time.perf_counter()]
            checkpoint.save(checkpoint.folder_of(run, 1), {**state, "model": copied}, "{}")
            ended.append(time.perf_counter())
            found = checkpoints.newest(run)
            assert found is not None
            loaded, _ = checkpoint.read(found, ())
            for tensor in loaded["model"].values():
                tensor.sum()  # looks at every page of it
            ended.append(time.perf_counter())
            for values, start, end in zip(taken.values(), (begun, *ended), ended, strict=False):
                values.append(end - start)
    return taken
