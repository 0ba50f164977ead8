"""The training loop."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.prefetch import Stalled
from laconvnet.pipeline.data.sizes import Sizes
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs import fence, folder, owner, resumable
from laconvnet.pipeline.runs.layout import CONFIG, INCIDENT_STATE
from laconvnet.pipeline.runs.memory import Memory, Record
from laconvnet.pipeline.runs.owner import Owner
from laconvnet.pipeline.runs.version import code_version
from laconvnet.pipeline.training import checkpoint, curves, guard, hardware, kernels, resume
from laconvnet.pipeline.training.curves import Curves
from laconvnet.pipeline.training.ending import complete
from laconvnet.pipeline.training.engine import Engine
from laconvnet.pipeline.training.keeper import Keeper
from laconvnet.pipeline.training.log import Log, Progress
from laconvnet.pipeline.training.profile import profiled
from laconvnet.pipeline.training.saver import Saver, Turn
from laconvnet.pipeline.training.session import Session, Source, report_start
from laconvnet.pipeline.training.signals import stop_signals
from laconvnet.pipeline.training.start import start
from laconvnet.pipeline.training.validation import Validation
from laconvnet.terminal import complain

T = TypeVar("T")


def train(config: TrainConfig, run: Path, made: Callable[..., Session] = Session) -> bool:
    """Start or resume the run in this folder; whether it was finished (False: a signal asked it to stop).

    The process count comes from the environment that torchrun, srun or `laconvnet launch` sets. ``made`` puts the
    session together: a measurement watches its steps by one of its own. Raises ConfigError before any work for what
    cannot run, TrainingError for what cannot go on.
    """
    faulthandler.enable(file=2)  # a signal such as SIGBUS, of a file cut off while it is mapped, leaves where it struck
    source = Source.open(config)
    folder.check(config, run)
    if told := complete(config, run, source.total):
        _tidy_up(run)
        complain(f"{run}: {told}")
        return True

    curves.check(config.log)
    validation = Validation.of(config, run, source)
    with ExitStack() as held, Engine(config.engine, config.data.batch, config.optimizer.clip) as engine:
        own = engine.ranks.each(lambda: held.enter_context(owner.take(run)) if engine.is_main else None)
        memory = Memory.inherited()
        saved = resume.saved(config, run, engine.ranks, memory)
        start_state = start(config, saved, source.examples, engine.ranks)
        laconv = kernels.settle(start_state.model, engine)
        session = made(config, source, engine, start_state)
        if engine.is_main:
            folder.prepare(config, run, laconv.words if laconv else None)
            report_start(source, engine, config, start_state)
            if laconv:
                complain(f"LaConv runs in {laconv.words}")
        del start_state, saved  # the session has taken in what was saved
        record = engine.ranks.from_main(lambda: _record(session, run, own))
        keeper = Keeper(memory, config.checkpoint.memory, engine, record)
        writer = _writer(config, run, own, record) if own else None
        drawing = engine.is_main and config.log.trackers
        drawn = engine.ranks.each(lambda: _curves(session, run, record) if drawing else None)
        log = Log(run, config, _progress(session, laconv.kind if laconv else None), drawn)
        return _train(session, run, writer, keeper, validation, log)


def _tidy_up(run: Path) -> None:
    """Clear what a kill may have left behind in a run that is complete, where nobody is at work there."""
    if os.environ.get("RANK", "0") == "0":
        with suppress(ConfigError, OSError), owner.take(run):
            folder.sweep(run)


def _record(session: Session, run: Path, own: Owner | None) -> Record:
    """What is said of every state of this run, but for its step and score; the main process knows."""
    assert own is not None
    data = session.source.examples.fingerprint
    return Record(0, None, resumable.seal(run / CONFIG), data, code_version(), str(run.absolute()), own.token)


def _writer(config: TrainConfig, run: Path, own: Owner, record: Record) -> checkpoint.Writer:
    def may_publish() -> None:
        fence.check()
        own.check()

    origin, criterion = checkpoint.Origin(record.config, record.code), config.validate.criterion(config.model.task)
    kept_by = criterion if config.validate.keep_best else None
    return checkpoint.Writer(run, config.checkpoint, origin, may_publish, kept_by)


def _curves(session: Session, run: Path, record: Record) -> Curves:
    fingerprints = {"data": record.data, "configuration": record.config, "code": record.code}
    facts = configuration.flat(session.config) | {f"fingerprint.{name}": value for name, value in fingerprints.items()}
    return Curves(session.config.log, run, session.first_step, facts)


def _train(
    session: Session,
    run: Path,
    writer: checkpoint.Writer | None,
    keeper: Keeper,
    validation: Validation | None,
    log: Log,
) -> bool:
    """Take the steps that are left; whether the run was finished."""
    engine, total = session.engine, session.source.total
    left = f"{run} goes on from its last checkpoint"
    try:
        with stop_signals(left) as signals, Sizes(session.source.examples.manifest, signals) as sizes:
            done, turn = _take_steps(session, run, writer, keeper, validation, log, signals)
            engine.ranks.each(lambda: _conclude(writer, sizes))  # a second signal may come meanwhile
    except Stalled:
        raise  # this process alone: the others stand in a collective, and to leave together would be to wait with them
    except TrainingError:
        engine.leave()  # every process has come to the same end
        raise
    stopped = turn == Turn.STOP
    if stopped and engine.is_main:
        complain(f"stopped at step {done} of {total}, saved; the same command goes on from there")
    return not stopped


def _conclude(writer: checkpoint.Writer | None, sizes: Sizes) -> None:
    if writer:
        writer.finish()
    sizes.check()


def _take_steps(
    session: Session,
    run: Path,
    writer: checkpoint.Writer | None,
    keeper: Keeper,
    validation: Validation | None,
    log: Log,
    signals: list[int],
) -> tuple[int, Turn]:
    """Train to the end, or to the step at which a process was asked to stop; how far it came, and what ended it."""
    config, source, engine = session.config, session.source, session.engine
    watch = guard.Guard(config.guard)
    done = session.first_step
    with (
        closing(session.stream(session.first_step)) as stream,
        log,
        profiled(config.log, run, engine.rank) as profiler,
    ):
        saver = Saver(session, writer, keeper, validation, log, signals)
        turn = saver.begin(done)
        while turn == Turn.GO_ON and done < source.total:
            step = done
            waiting = time.perf_counter()
            batches = list(islice(stream, config.engine.accumulate))
            waited = time.perf_counter() - waiting
            own = Turn.FAILED if writer and writer.failed else Turn.STOP if signals else Turn.GO_ON
            heard = engine.ask(own)  # the answer travels while the step is computed
            outcome = session.step(step, batches)
            if outcome.bad:
                _write_down(session, watch, run, step, batches, outcome)
            elif not outcome.skipped:
                watch.good()
            done = step + 1
            log.step(step, outcome, waited)
            profiler.step()
            turn = Turn(heard())
            if turn != Turn.FAILED:
                turn = saver.after(done, turn)
    return done, turn


def _progress(session: Session, laconv: str | None) -> Progress:
    engine = session.engine
    peak = hardware.peak(engine.device, session.config.engine.precision) or 0
    work = session.operations() if peak else 0
    return Progress(session.source.total, session.first_step, engine, work, peak, laconv)


def _write_down(session: Session, watch: guard.Guard, run: Path, step: int, batches: list[Any], outcome: Any) -> None:
    """Keep what led to a bad step, and the state before it: a replay starts from there. All processes must call it."""
    place = guard.folder_of(run, step)
    record = session.examine(step, batches, outcome)
    guard.write(place, session.engine.rank, record)
    if watch.skipped < guard.STATES:
        with session.state(step) as state:
            if session.engine.is_main:
                checkpoint.save(place / INCIDENT_STATE, state, session.vocabulary.to_json())
        session.engine.agree(Turn.GO_ON)  # the state is there before any process ends the run
    first = record["first_not_finite"]
    where = f"first in the output of {first}" if first else "in the backward pass"
    watch.bad(run, step, f"loss or gradient is not finite, {where} (process {session.engine.rank})")
