"""Checkpoints: one folder a step, published whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from pipeline.errors import ConfigError

_STATE, _VOCABULARY, _COMMIT = "state.pt", "vocabulary.json", "COMMIT"


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep.

    Args:
        every: Steps between two checkpoints; the last step always makes one.
        keep: How many of the newest stay.
    """

    every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ConfigError(f"checkpoint: every={self.every}, keep={self.keep}: expected at least 1 of each")


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def save(run: Path, step: int, state: dict[str, Any], vocabulary: str, keep: int) -> Path:
    """Publish the checkpoint of ``step`` (steps done) and drop the oldest beyond ``keep``. One process calls it.

    Everything is written and synced in a folder of another name, the commit marker last, and the rename makes it a
    checkpoint: a kill at any point leaves the ones before untouched.
    """
    final = folder_of(run, step)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with (partial / _STATE).open("wb") as file:
            torch.save(state, file)
            _sync(file.fileno())
        with (partial / _VOCABULARY).open("w", encoding="utf-8") as text:
            text.write(vocabulary)
            text.flush()
            _sync(text.fileno())
        marker = {
            "version": 1,
            "step": step,
            "files": {name: _describe(partial / name) for name in (_STATE, _VOCABULARY)},
        }
        with (partial / _COMMIT).open("w") as text:
            json.dump(marker, text)
            text.flush()
            _sync(text.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(final.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in published(run)[:-keep]:
        shutil.rmtree(old)
    return final


def published(run: Path) -> list[Path]:
    """The committed checkpoints of a run, oldest first."""
    return sorted(path.parent for path in (run / "checkpoints").glob(f"step-*/{_COMMIT}"))


def newest(run: Path) -> Path | None:
    """The newest checkpoint that is whole, or None. One whose files are not what its marker says is passed over."""
    return next((folder for folder in reversed(published(run)) if _is_whole(folder)), None)


def resolve(place: Path) -> Path:
    """A run folder or checkpoint folder to a checkpoint; raises ConfigError where there is none."""
    if (place / _COMMIT).is_file():
        if not _is_whole(place):
            raise ConfigError(f"{place}: its files are not those that were written; use another checkpoint")
        return place
    found = newest(place)
    if found is None:
        raise ConfigError(
            f"{place}: holds no whole checkpoint; expected a run folder of `laconvnet train` that has saved one"
        )
    return found


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """State and vocabulary of a published checkpoint. Only tensors and plain values are unpickled."""
    state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    return state, (folder / _VOCABULARY).read_text(encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / _COMMIT).read_text())["files"]
        return all(_describe(folder / name) == described for name, described in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _describe(file: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_64()
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return {"bytes": file.stat().st_size, "xxh3": digest.hexdigest()}


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
