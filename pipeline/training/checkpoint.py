"""Checkpoints: one folder a step, published whole or not at all."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from laconvnet.files import publishing_folder, read_object, sync_tree
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs import fence
from laconvnet.pipeline.runs.layout import CHECKPOINTS, COMMIT, STATE, VOCABULARY, committed, step_folder, step_of


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep.

    Args:
        every: Steps between two checkpoints; the last step always makes one.
        keep: How many of the newest stay.
        best: A reported number, such as loss; the checkpoint at which it was lowest stays as well.
    """

    every: int = 1000
    keep: int = 2
    best: str | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ConfigError(f"checkpoint: every={self.every}, keep={self.keep}: expected at least 1 of each")


class Writer:
    """Publishes checkpoints in a thread, one at a time, while training goes on. Only the main process has one."""

    def __init__(self, run: Path, config: CheckpointConfig) -> None:
        self._run, self._config = run, config
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written; `finish` raises why."""
        return self._failure is not None

    def submit(self, step: int, state: dict[str, Any], vocabulary: str, reported: dict[str, float]) -> None:
        """Copy the state as it stands now and begin to write it; waits for the one before.

        A disk without room for it is a failure like any other: nothing is begun.
        """
        self._join()
        needed, free = _bytes(state), shutil.disk_usage(self._run).free
        if free < needed * 1.05:
            self._failure = OSError(f"it takes {needed / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB left")
        if self._failure:
            return
        # The next step writes over the tensors that the state names.
        frozen = _copied(state)
        score = reported.get(self._config.best) if self._config.best else None
        self._thread = threading.Thread(target=self._write, args=(step, frozen, vocabulary, score), name="checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Return when nothing is being written; raises TrainingError where a checkpoint could not be."""
        self._join()
        if self._failure:
            raise TrainingError(
                f"{self._run}: the checkpoint could not be written ({self._failure}); the ones before are whole: make "
                "room for it and start the run again, it resumes from them"
            ) from self._failure

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None

    def _write(self, step: int, state: dict[str, Any], vocabulary: str, score: float | None) -> None:
        try:
            save(folder_of(self._run, step), state, vocabulary, score)
            _prune(self._run, self._config, step)
        except BaseException as error:  # handed to the thread that trains
            self._failure = error


def folder_of(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / step_folder(step)


def save(final: Path, state: dict[str, Any], vocabulary: str, score: float | None = None) -> None:
    """Publish a checkpoint as this folder. One process calls it.

    Everything is written and synced in a folder of another name, the commit marker last, and the rename makes it a
    checkpoint: a kill at any point leaves the ones before untouched.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with publishing_folder(final) as partial:
        with (partial / STATE).open("wb") as file:
            torch.save(state, file)
        (partial / VOCABULARY).write_text(vocabulary, encoding="utf-8")
        marker = {
            "version": 1,
            "step": state["step"],
            "score": score,
            "files": {name: _describe(partial / name) for name in (STATE, VOCABULARY)},
        }
        (partial / COMMIT).write_text(json.dumps(marker))
        sync_tree(partial)  # takes long: nothing but the rename may come after the look at the fence
        fence.check()
        if final.exists():
            _drop(final)


def _prune(run: Path, config: CheckpointConfig, step: int) -> None:
    """Drop what is neither among the newest nor the best after the checkpoint of this step was published."""
    there = published(run)
    # Those ahead were passed over by this start for damage: counted as newest, they would drive out the whole ones.
    behind = [folder for folder in there if step_of(folder) <= step]
    scores = {folder: score for folder in behind if (score := _score(folder)) is not None}
    kept = {*behind[-config.keep :], *([min(scores, key=lambda folder: scores[folder])] if scores else [])}
    for folder in there:
        if folder not in kept:
            _drop(folder)


def _drop(folder: Path) -> None:
    """Delete a checkpoint; a kill leaves no part of it under its name."""
    gone = folder.with_name(f".{folder.name}.dropped")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def _score(folder: Path) -> float | None:
    try:
        return read_object(folder / COMMIT).get("score")
    except (OSError, ValueError):
        return None


def _bytes(state: Any) -> int:
    """How much its tensors take."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    return sum(map(_bytes, state.values())) if isinstance(state, dict) else 0


def _copied(state: Any) -> Any:
    """The same with every tensor copied to the host's memory."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    return {name: _copied(value) for name, value in state.items()} if isinstance(state, dict) else state


def published(run: Path) -> list[Path]:
    """The committed checkpoints of a run, oldest first."""
    return committed(run)


def newest(run: Path) -> Path | None:
    """The newest checkpoint that is whole, or None. One whose files are not what its marker says is passed over."""
    return next((folder for folder in reversed(published(run)) if is_whole(folder)), None)


def resolve(place: Path) -> Path:
    """A run folder or checkpoint folder to a checkpoint; raises ConfigError where there is none."""
    if (place / COMMIT).is_file():
        if not is_whole(place):
            raise ConfigError(f"{place}: its files are not those that were written; use another checkpoint")
        return place
    found = newest(place)
    if found is None:
        raise ConfigError(
            f"{place}: holds no whole checkpoint; expected a run folder of `laconvnet train` that has saved one"
        )
    return found


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """State and vocabulary of a published checkpoint. Only tensors and plain values are unpickled.

    The tensors are mapped from the file: a process reads those it looks at, and a node keeps them in memory once.
    """
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)
    return state, (folder / VOCABULARY).read_text(encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was published here and its files are still what its marker says."""
    try:
        files = read_object(folder / COMMIT)["files"]
        return all(_describe(folder / name) == described for name, described in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _describe(file: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_64()
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return {"bytes": file.stat().st_size, "xxh3": digest.hexdigest()}
