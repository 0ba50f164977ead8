"""A run in memory: its data, model and optimizer, and one step of training."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from laconvnet.pipeline import distributed
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data import streams
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.loader import Batch, Loader, Request, requests_of
from laconvnet.pipeline.data.plan import mix, steps
from laconvnet.pipeline.model import build_model, draws
from laconvnet.pipeline.model.cost import cost
from laconvnet.pipeline.model.net import BlockStage
from laconvnet.pipeline.tasks import TASKS
from laconvnet.pipeline.training import norms
from laconvnet.pipeline.training.ema import Ema
from laconvnet.pipeline.training.engine import Engine
from laconvnet.pipeline.training.guard import Statistics, describe, first_not_finite, poisoned
from laconvnet.pipeline.training.optimizer import build_optimizer
from laconvnet.pipeline.training.schedule import learning_rate
from laconvnet.pipeline.training.start import Start
from laconvnet.pipeline.training.state import gather_optimizer_state, scatter_optimizer_state, whole
from laconvnet.terminal import complain


@dataclass(frozen=True)
class Source:
    """What a run reads, in which order, for how many steps."""

    examples: Examples
    items: Items
    total: int

    @classmethod
    def open(cls, config: TrainConfig) -> Source:
        task = TASKS[config.model.task]
        if config.data.streams:
            streams.check(config.data.streams, distributed.world())
        examples = Examples.open(Path(config.data.folder), task.kind, config.data.split)
        task.check(examples)
        if task.kind == "question":
            examples = examples.answered()
        items = Items.of(examples, config.seed, config.data.window, config.data.streams)
        return cls(examples, items, steps(items.plan, config.data.batch, config.schedule.epochs))


@dataclass(frozen=True)
class Outcome:
    """One step: terms of the loss and gradient norm (scalars on the device), and whether it was left out.

    An overflow is a step that fp16's loss scale was too high for; any other step that is left out is `bad`. ``updates``
    counts the steps taken so far, this one included, ``loss_scale`` is fp16's after it.
    """

    terms: dict[str, Tensor]
    norm: Tensor
    rate: float
    updates: int
    loss_scale: float | None = None
    skipped: bool = False
    bad: bool = False


class Session:
    """Everything of a run on one process, put together; `step` is the recipe."""

    def __init__(self, config: TrainConfig, source: Source, engine: Engine, start_state: Start) -> None:
        self.config, self.source, self.engine = config, source, engine
        # Not the start itself: it holds all that was in the checkpoint.
        self.vocabulary, self.first_step = start_state.vocabulary, start_state.step
        zero = config.engine.zero
        self.model = start_state.model.to(engine.device)
        stages = self.model.visual.stages
        for number, stage in enumerate(stages, 6 - len(stages)):  # networks over a backbone have the last three
            cast(BlockStage, stage).recompute = number in config.engine.recompute
        norms.prepare(self.model, norms.fused(config.engine, engine.device), config.optimizer.freeze_norms)
        self.draws = draws.Draws(self.model, config.seed)
        self.ema = Ema(self.model, config.optimizer.ema) if config.optimizer.ema else None
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.wrapped = engine.wrap(self.model, build_optimizer(config.optimizer, self.trained, engine.adam_device))
        self.statistics = Statistics(self.model)
        self.task = TASKS[config.model.task](config.model, start_state.vocabulary)
        self.updates = start_state.state["updates"] if start_state.state else 0
        if start_state.state:
            if self.updates:  # else Adam has no moments yet
                scatter_optimizer_state(self.model, self.wrapped, zero, start_state.state["moments"], self.updates)
            if self.ema:
                self.ema.load(start_state.state["ema"])
            if config.engine.precision == "fp16" and start_state.state["loss_scale"]:
                self.wrapped.optimizer.loss_scaler.__dict__.update(start_state.state["loss_scale"])

    def stream(self, first: int) -> Generator[Batch]:
        """The micro-batches of every step from `first` on, made ahead; to close it closes the loader behind it."""
        config, engine = self.config, self.engine
        largest = config.data.batch // engine.world // config.engine.accumulate
        masks = self.task.wants_masks
        reader = self._streams(first) if config.data.streams else None
        loader = Loader(self.source.examples, self.vocabulary, config.data, largest, engine.device, masks, reader)
        with closing(loader), closing(loader.stream(self.requests(first))) as batches:
            yield from batches

    def _streams(self, first: int) -> streams.Streams:
        data, engine, steps = self.config.data, self.engine, range(first, self.source.total)
        place = engine.rank, engine.world
        return streams.Streams(self.source.items, data.batch, steps, *place, self.task.wants_masks, data.patience)

    def requests(self, first: int) -> Iterator[Request]:
        """What this process asks for in every step from `first` on."""
        config, engine, items = self.config, self.engine, self.source.items
        for step in range(first, self.source.total):
            yield from requests_of(items, config.data, step, engine.rank, engine.world, config.engine.accumulate)

    @property
    def first_place(self) -> int:
        """Where in the global batch of every step the examples of this process begin."""
        return self.engine.rank * (self.config.data.batch // self.engine.world)

    def drawn(self, step: int, number: int, batch: Batch) -> AbstractContextManager[None]:
        """Within, dropout is that of a step's micro-batch (counted from 0): on any process, of any cut, the same.

        It has to last to the end of the backward pass, which may compute activations again.
        """
        first = self.first_place + number * len(batch.rows)
        return self.draws.of(step, torch.arange(first, first + len(batch.rows)), self.engine.device)

    def seed_step(self, step: int) -> None:
        """Make the random numbers of this process those of the step, for layers of others that draw from torch."""
        seed = mix(self.config.seed, 4, step, self.engine.rank)
        # torch.manual_seed looks for every kind of accelerator: at a small batch that takes a hundredth of the step.
        torch.default_generator.manual_seed(seed)
        if self.engine.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def step(self, step: int, batches: list[Batch]) -> Outcome:
        """Train on the micro-batches of one step."""
        self.statistics.keep()
        self.seed_step(step)
        rate = learning_rate(self.config.schedule, self.config.optimizer.lr, step, self.source.total)
        for group in self.wrapped.optimizer.param_groups:
            group["lr"] = rate
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            with self.drawn(step, number, batch):
                terms = self.task.loss(self.wrapped(batch.images, batch.tokens).float(), batch)
                loss = torch.stack(list(terms.values())).sum()
                self.wrapped.backward(poisoned(loss))
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
            if number + 1 < len(batches):
                self.wrapped.step()  # counts the micro-batch; the weights move at the last one
        norm, skipped = self.engine.step(self.wrapped, self.trained)
        if skipped:
            return Outcome(sums, norm, rate, self.updates, self._loss_scale(), skipped, self._is_bad(sums["loss"]))
        self.updates += 1
        if self.ema:
            with whole(self.model, self.config.engine.zero):
                self.ema.update(self.updates - 1)
        return Outcome(sums, norm, rate, self.updates, self._loss_scale())

    def _is_bad(self, loss: Tensor) -> bool:
        """Whether a step that was left out was more than an overflow of fp16; a spoiled forward pass is undone."""
        finite = bool(loss.isfinite())
        bad = self.config.engine.precision != "fp16" or bool(self.engine.agree(int(not finite)))
        if bad:
            self.statistics.restore()
        return bad

    def examine(self, step: int, batches: list[Batch], outcome: Outcome) -> dict[str, Any]:
        """What this process can tell of a bad step; every process must ask, for the batch norms are joint."""
        self.statistics.keep()
        self.seed_step(step)
        with torch.no_grad(), self.engine.autocast(), first_not_finite(self.model) as found:
            for number, batch in enumerate(batches):
                with self.drawn(step, number, batch):
                    self.wrapped(batch.images, batch.tokens)
        self.statistics.restore()
        record = describe(step, self.first_place, batches, self.source.examples, outcome.terms)
        return {
            "rank": self.engine.rank,
            "world": self.engine.world,
            "first_not_finite": found[0] if found else None,
            "gradient_norm": float(outcome.norm),
            **record,
        }

    @contextmanager
    def state(self, done: int) -> Iterator[dict[str, Any]]:
        """What a checkpoint holds after `done` steps, as views that the next step writes; all processes must enter."""
        zero = self.config.engine.zero
        moments = gather_optimizer_state(self.model, self.wrapped, zero) if self.updates else {}
        scaler = getattr(self.wrapped.optimizer, "loss_scaler", None)
        kept = ("cur_scale", "cur_iter", "last_overflow_iter")
        with whole(self.model, zero):
            yield {
                "step": done,
                "draws": draws.VERSION,
                "updates": self.updates,
                "task": self.config.model.task,
                "data": self.source.examples.fingerprint,
                "model": self.model.state_dict(),
                "moments": moments,
                "ema": self.ema.tensors if self.ema else None,
                "loss_scale": {name: getattr(scaler, name) for name in kept} if scaler and scaler.dynamic else None,
            }

    def operations(self) -> int:
        """Floating-point operations that one example costs a step: two a multiply-add, forward once, backward twice.

        Where sizes are drawn, the mean over them.
        """
        config = self.config
        sizes = config.data.sizes or (config.data.size,)
        with torch.device("meta"):  # neither weights nor random numbers are drawn for it
            model = build_model(config.model, len(self.vocabulary), len(self.vocabulary.answers))
        return 6 * sum(int(cost(model, size, config.data.words)["macs"]) for size in sizes) // len(sizes)

    def _loss_scale(self) -> float | None:
        return float(self.wrapped.optimizer.loss_scale) if self.config.engine.precision == "fp16" else None


def report_start(source: Source, engine: Engine, config: TrainConfig, start_state: Start) -> None:
    examples = source.examples
    skipped = f"; {examples.empty_texts} {examples.kind}s without a word left out" if examples.empty_texts else ""
    complain(f"{start_state.summary}{skipped}")
    work = f"{source.total} steps of {config.data.batch} examples on {engine.world} process(es)"
    complain(f"{work}, beginning at step {start_state.step}")


def in_full_precision(config: TrainConfig) -> TrainConfig:
    """The same run in fp32, as a replay wants it."""
    return replace(config, engine=replace(config.engine, precision="fp32", tf32=False, compile=False))
