"""One network trained by the engine and bare, in turn; in a process of its own (see `pipeline.bench.engine`)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from laconvnet.kernels.bench.timing import peak_bytes
from laconvnet.pipeline.bench.speed import WORDS, Network, Way, made_input
from laconvnet.pipeline.model import build_model
from laconvnet.pipeline.training import norms
from laconvnet.pipeline.training.engine import Engine, EngineConfig
from laconvnet.pipeline.training.optimizer import OptimizerConfig, build_optimizer

BARE, ENGINE = "bare", "engine"


@dataclass(frozen=True)
class Work:
    """What is measured: a network under a ZeRO stage; ``rounds`` of ``steps`` a way, on "cpu" or "cuda"."""

    network: Network
    zero: int
    rounds: int
    steps: int
    device: str


@dataclass
class Round:
    """What was seen in one round, by way: seconds a step, the peak in MB (None on a CPU), the last loss."""

    pictures: int
    skipped: int
    seconds: dict[str, float]
    peak_mb: dict[str, float | None]
    loss: dict[str, float]
    finite: dict[str, bool]


class Driven:
    """A model that the engine trains: as `speed.Way`, a step at a time, the loss a mean of squares."""

    def __init__(self, engine: Engine, network: Network) -> None:
        torch.manual_seed(0)
        model = build_model(network.model, WORDS).to(engine.device).train()
        norms.prepare(model, norms.fused(engine.config, engine.device), freeze=False)
        self.engine, self.skipped = engine, 0
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.wrapped = engine.wrap(model, build_optimizer(OptimizerConfig(), self.trained, engine.adam_device))

    def step(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Train on images (B, 3, S, S) and words (B, L); the loss, a scalar."""
        loss: Tensor = self.wrapped(images, tokens).float().square().mean()
        self.wrapped.backward(loss)
        _, skipped = self.engine.step(self.wrapped, self.trained)
        self.skipped += skipped
        return loss.detach()


def measure(work: Work, there: Connection) -> None:
    """Send a `Round` for each round; text that says why, in place of the next, where one fails."""
    os.dup2(2, 1)  # DeepSpeed logs to standard output, where rows are printed
    if work.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        network = work.network
        config = EngineConfig(zero=work.zero, precision=network.precision)  # type: ignore[arg-type]
        with Engine(config, network.batch, OptimizerConfig.clip) as engine:
            _measure(work, engine, there)
    except torch.OutOfMemoryError:
        there.send("out of memory")
    except Exception as error:
        there.send(f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        raise


def _measure(work: Work, engine: Engine, there: Connection) -> None:
    network = work.network
    images, tokens = made_input(network, network.batch, engine.device)
    bare = Way(network, engine.device, reference=False)
    bare.fit(images, tokens)
    images, tokens = images[: bare.pictures], tokens[: bare.pictures]
    driven = Driven(engine, network)
    driven.step(images, tokens)
    ways: dict[str, Callable[[], Tensor]] = {
        BARE: lambda: bare.step(images, tokens),
        ENGINE: lambda: driven.step(images, tokens),
    }
    for number in range(work.rounds):
        seen = Round(bare.pictures, driven.skipped, {}, {}, {}, {})
        for name in sorted(ways, reverse=bool(number % 2)):
            _round(seen, name, ways[name], work.steps, engine.device)
        seen.skipped = driven.skipped - seen.skipped
        there.send(seen)


def _round(seen: Round, name: str, step: Callable[[], Tensor], steps: int, device: torch.device) -> None:
    peak = peak_bytes(device) if device.type == "cuda" else None
    start = time.perf_counter()
    losses = [step() for _ in range(steps)]
    seen.peak_mb[name] = peak() / 1e6 if peak else None  # waits for the GPU
    seen.seconds[name] = (time.perf_counter() - start) / steps
    values = [float(loss) for loss in losses]
    seen.loss[name], seen.finite[name] = values[-1], all(map(math.isfinite, values))
