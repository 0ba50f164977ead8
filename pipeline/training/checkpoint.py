"""Checkpoints: one folder a step, published whole or not at all. `runs.checkpoints` tells which are there."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from laconvnet.files import read_bytes
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs import checkpoints, fence
from laconvnet.pipeline.runs.checkpoints import Facts
from laconvnet.pipeline.runs.layout import CHECKPOINTS, STATE, VOCABULARY, step_folder, step_of
from laconvnet.pipeline.runs.memory import Kept
from laconvnet.pipeline.runs.publish import drop, publish
from laconvnet.pipeline.runs.scores import Criterion, Score
from laconvnet.pipeline.tensor_file import read_tensors

SERVES = ("step", "task", "data", "model", "ema")  # of a state: what answering and another stage need
RESUMES = (*SERVES, "updates", "moments", "loss_scale")  # what its own run needs to go on


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep.

    Args:
        every: Steps between two checkpoints; the last step always makes one.
        keep: How many of the newest stay; the best stays as well, see `validate`.
        memory: Under `laconvnet launch`: the share of the time that may go into keeping the newest state in memory that
            outlives the ranks, for a stage that loses one goes on from there; 0 keeps none, 1 keeps it at every step.
    """

    every: int = 1000
    keep: int = 2
    memory: float = 0.01

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ConfigError(f"checkpoint: every={self.every}, keep={self.keep}: expected at least 1 of each")
        if not 0 <= self.memory <= 1:
            raise ConfigError(f"checkpoint.memory: {self.memory}: expected a share from 0 to 1")


@dataclass(frozen=True)
class Origin:
    """Which run a checkpoint is of: its configuration (`resumable.seal`) and the code (`git describe`)."""

    config: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class Saved:
    """What a start goes on from: where it lay, the state and the vocabulary's text."""

    place: str
    state: dict[str, Any]
    vocabulary: str

    @classmethod
    def read(cls, folder: Path) -> Saved:
        """A published checkpoint of the own run. Raises ConfigError as `read`."""
        return cls(f"{folder}", *read(folder, RESUMES))

    @classmethod
    def kept(cls, kept: Kept) -> Saved:
        """What an earlier rank has left in the supervisor's memory."""
        state = read_tensors(kept.file, mmap=True)
        return cls(f"step {kept.record.step}, kept in memory", state, kept.vocabulary)


class Writer:
    """Publishes checkpoints in a thread, one at a time, while training goes on. Only the main process has one.

    ``may_publish`` raises where this process must not publish any more; the best by ``criterion`` stays.
    """

    def __init__(
        self,
        run: Path,
        config: CheckpointConfig,
        origin: Origin = Origin(),
        may_publish: Callable[[], None] = fence.check,
        criterion: Criterion | None = None,
    ) -> None:
        self._run, self._config, self._origin, self._may_publish = run, config, origin, may_publish
        self._criterion = criterion
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written; `finish` raises why."""
        return self._failure is not None

    def submit(self, step: int, state: dict[str, Any], vocabulary: str, score: Score | None = None) -> None:
        """Copy the state as it stands now and begin to write it; waits for the one before.

        A disk without room for it is a failure like any other: nothing is begun.
        """
        self._join()
        if not self._failure:
            self._failure = self._without_room(_bytes(state))
        if self._failure:
            return
        # The next step writes over the tensors that the state names.
        frozen = mapped(state, _copied)
        self._thread = threading.Thread(target=self._write, args=(step, frozen, vocabulary, score), name="checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Return when nothing is being written; raises TrainingError where a checkpoint could not be."""
        self._join()
        if isinstance(self._failure, TrainingError):  # it has been told to publish nothing
            raise self._failure
        if self._failure:
            raise TrainingError(
                f"{self._run}: the checkpoint could not be written ({self._failure}); the ones before are whole: make "
                "room for it and start the run again, it resumes from them"
            ) from self._failure

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def _without_room(self, needed: int) -> OSError | None:
        try:
            free = shutil.disk_usage(self._run).free
        except OSError as error:
            return error
        if free < needed * 1.05:
            return OSError(f"it takes {needed / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB left")
        return None

    def _write(self, step: int, state: dict[str, Any], vocabulary: str, score: Score | None) -> None:
        try:
            save(folder_of(self._run, step), state, vocabulary, score, self._origin, self._may_publish)
            _prune(self._run, self._config.keep, step, self._criterion)
        except BaseException as error:  # handed to the thread that trains
            self._failure = error


def folder_of(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / step_folder(step)


def save(
    final: Path,
    state: dict[str, Any],
    vocabulary: str,
    score: Score | None = None,
    origin: Origin = Origin(),
    may_publish: Callable[[], None] = fence.check,
) -> None:
    """Publish a state as the checkpoint of this folder, see `runs.publish`. One process calls it."""
    scored = score._asdict() if score else {}
    facts = Facts(state["step"], config=origin.config, data=state.get("data"), code=origin.code, **scored)
    publish(final, facts, lambda file: torch.save(state, file), vocabulary, may_publish)


def _prune(run: Path, keep: int, step: int, criterion: Criterion | None) -> None:
    """Drop what is neither among the newest nor the best after the checkpoint of this step was published.

    What is ahead of it is not this start's to judge, and what is damaged is never dropped: a start sets it aside.
    """
    behind = {at: folder for folder in checkpoints.published(run) if (at := step_of(folder)) <= step}
    scores: dict[int, float] = {}
    kept = {*list(behind)[-keep:]}
    for at, folder in behind.items():
        try:
            marker = checkpoints.read_marker(folder)
        except checkpoints.Damaged:
            kept.add(at)
        else:
            score = marker.score_by(criterion) if criterion else None
            scores |= {at: score} if score is not None else {}
    if criterion and scores:
        kept.add(cast("int", criterion.best(scores)))
    for at, folder in behind.items():
        if at not in kept:
            drop(folder)


def set_aside(folder: Path) -> Path:
    """Move a damaged checkpoint out of the run's way, whole as it is; where to."""
    taken = folder.with_name(f"damaged-{folder.name}")
    number = 1
    while taken.exists():
        number += 1
        taken = folder.with_name(f"damaged-{folder.name}-{number}")
    folder.rename(taken)
    return taken


def _bytes(state: Any) -> int:
    """How much its tensors take."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    return sum(map(_bytes, state.values())) if isinstance(state, dict) else 0


def mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same state with every tensor, of any shape, changed."""
    if isinstance(state, Tensor):
        return change(state)
    return {name: mapped(value, change) for name, value in state.items()} if isinstance(state, dict) else state


def _copied(tensor: Tensor) -> Tensor:
    """A copy in the host's memory."""
    return tensor.detach().to("cpu", copy=True)


def read(folder: Path, fields: Sequence[str] = SERVES) -> tuple[dict[str, Any], str]:
    """State and vocabulary of a published checkpoint. Only tensors and plain values are unpickled.

    The tensors are mapped from the file: a process reads those it looks at, and a node keeps them in memory once.
    Raises ConfigError for a state that lacks one of ``fields`` or holds anything else than data.
    """
    file = folder / STATE
    state = read_tensors(file, mmap=True)
    missing = [name for name in fields if not isinstance(state, dict) or name not in state]
    if missing:
        raise ConfigError(
            f"{file}: has no {', '.join(missing)}; expected what `laconvnet train` saves: use another checkpoint"
        )
    return state, read_bytes(folder / VOCABULARY).decode("utf-8")
