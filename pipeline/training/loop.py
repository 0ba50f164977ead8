"""The training loop."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.config import TrainConfig
from pipeline.data.examples import Examples, Items
from pipeline.data.loader import Loader
from pipeline.data.plan import mix, steps
from pipeline.tasks import TASKS
from pipeline.training import checkpoint, folder
from pipeline.training.ema import Ema
from pipeline.training.engine import Engine
from pipeline.training.log import Log
from pipeline.training.optimizer import build_optimizer
from pipeline.training.schedule import learning_rate
from pipeline.training.start import start
from pipeline.training.state import gather_moments, scatter_moments, whole


def train(config: TrainConfig, run: Path) -> bool:
    """Start or resume the run in this folder; whether it was finished (False: a signal asked it to stop).

    The process count comes from the environment that torchrun, srun or `laconvnet launch` sets. Raises ConfigError
    before any work for what cannot run, TrainingError for what cannot go on.
    """
    task_class = TASKS[config.model.task]
    examples = Examples.open(Path(config.data.folder), task_class.kind, config.data.split)
    if examples.kind == "question":
        examples = examples.answered()
    items = Items.of(examples, config.seed)
    total = steps(items.plan, config.data.batch, config.schedule.epochs)
    folder.check(config, run)
    finished = checkpoint.newest(run)
    if finished == checkpoint.folder_of(run, total):
        print(f"{run}: complete, all {total} steps are done", file=sys.stderr)
        return True

    engine = Engine(config.engine, config.data.batch, config.optimizer.clip, run)
    begun = start(config, run, examples)
    if engine.leads:
        folder.prepare(config, run)
        left_out = f"; {examples.wordless} {examples.kind}s without a word left out" if examples.wordless else ""
        print(f"{begun.told}{left_out}", file=sys.stderr)
        work = f"{total} steps of {config.data.batch} examples on {engine.world} process(es)"
        print(f"{work}, beginning at step {begun.step}", file=sys.stderr)
    model = begun.model.to(engine.device)
    ema = Ema(model, config.optimizer.ema) if config.optimizer.ema else None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wrapped = engine.wrap(model, build_optimizer(config.optimizer, trained, engine.device))
    zero = config.engine.zero
    if begun.state:
        scatter_moments(model, wrapped, zero, begun.state["moments"], begun.step)
        if ema:
            ema.load(begun.state["ema"])

    task = task_class(config.model, config.data.size, begun.vocabulary)
    requests = ((items.step(at, config.data.batch, engine.rank, engine.world), None) for at in range(begun.step, total))

    def publish(done: int) -> None:
        moments = gather_moments(model, wrapped, zero)
        with whole(model, zero):
            if engine.leads:
                state = {
                    "step": done,
                    "task": config.model.task,
                    "data": examples.identity,
                    "model": model.state_dict(),
                    "moments": moments,
                    "ema": ema.tensors if ema else None,
                }
                checkpoint.save(run, done, state, begun.vocabulary.to_json(), config.checkpoint.keep)

    done = begun.step
    stopping = False
    with (
        closing(
            Loader(examples, begun.vocabulary, config.data, config.data.batch // engine.world, engine.device)
        ) as loader,
        closing(loader.stream(requests)) as batches,
        closing(
            Log(run, config.log.every, total, config.schedule.epochs, config.data.batch, engine.accelerator)
        ) as log,
        _stop_signals() as asked,
    ):
        for step in range(begun.step, total):
            waiting = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - waiting
            # Dropout is a function of the step: a resumed run draws what the undisturbed one would have drawn.
            torch.manual_seed(mix(config.seed, 4, step, engine.rank))
            rate = learning_rate(config.schedule, config.optimizer.lr, step, total)
            for group in wrapped.optimizer.param_groups:
                group["lr"] = rate

            terms = task.loss(wrapped(batch.images, batch.tokens).float(), batch)
            loss = torch.stack(list(terms.values())).sum()
            wrapped.backward(loss)
            norm = engine.step(wrapped, trained)
            if ema:
                with whole(model, zero):
                    ema.update(model, step)

            done = step + 1
            log.step(step, {"loss": loss, **terms, "grad_norm": norm}, rate, waited)
            stopping = engine.agree(bool(asked)) and done < total
            if done % config.checkpoint.every == 0 or done == total or stopping:
                log.check(done)
                publish(done)
            if stopping:
                break
    engine.close()
    if stopping and engine.leads:
        print(f"stopped at step {done} of {total}, saved; the same command goes on from there", file=sys.stderr)
    return not stopping


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """SIGTERM, SIGUSR2 and Ctrl-C only leave a note: all ranks agree on it at a step's end, save and leave.

    A second Ctrl-C leaves at once, for a person who sees that no step ends any more.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        asked.append(number)

    kept = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
