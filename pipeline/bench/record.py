"""Rows kept with a date: what is written beside each, and the files that hold them.

A file is one day on one machine, `<date>-<machine>.jsonl`, to which rows are only ever added.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from laconvnet.pipeline.bench.ids import row_id, slug
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.version import version_of

Row = dict[str, Any]


class Recorder:
    """Adds the rows of one command to the file of this day and machine in ``folder``; to none without a folder."""

    def __init__(self, folder: Path | None, command: str) -> None:
        """Raises ConfigError for a folder that cannot be written, before anything is measured."""
        self.folder = folder
        if folder is None:
            return
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"command line: --record: {folder}: expected a folder that can be written")
        now = datetime.now(UTC)
        name = machine()
        self.file = folder / f"{now:%Y-%m-%d}-{name}.jsonl"
        self.told = {"date": now.isoformat(timespec="seconds"), "machine": name, **commit(), "command": command}

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, each with id, date, machine, commit, dirty, command, versions, cores and load; all or none."""
        if self.folder is None:
            return
        from laconvnet.pipeline.bench.rows import surroundings

        here, ours = surroundings(), version_of("laconvnet")
        made = []
        for row in rows:
            whole = {"bench": "kernel", **self.told, **here, **row}
            whole["versions"] = {"laconvnet": ours, **here["versions"], **(row.get("versions") or {})}
            made.append({"id": row_id(whole), **whole})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            append(self.file, made)
        except OSError as error:
            raise ConfigError(f"{self.file}: cannot be written ({error.strerror})") from error


def command_line(words: Sequence[str]) -> str:
    """These words as a shell takes them, without ``--record`` and its folder, which is a place on one machine."""
    kept: list[str] = []
    follows = False
    for word in words:
        if not (follows and not word.startswith("-")) and word.partition("=")[0] != "--record":
            kept.append(word)
        follows = word == "--record"
    return shlex.join(kept)


def append(file: Path, rows: Sequence[Row]) -> None:
    """Add lines by one write under a lock; a part of a line, which a full disk or a crash left, goes."""
    lines = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows).encode()
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        end = file.read_bytes().rfind(b"\n") + 1
        os.ftruncate(descriptor, end)
        written = os.write(descriptor, lines)
        if written < len(lines):
            os.ftruncate(descriptor, end)
            raise OSError(0, f"only {written} of {len(lines)} bytes were taken; is the disk full?")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(row: Row) -> Row:
    """The row with None where a number is none: JSON has no NaN."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def machine() -> str:
    """Processor, cores and GPU ("cpu" without one), as part of a file's name."""
    import torch

    from laconvnet.kernels.bench.timing import processor

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return slug(f"{processor()} {os.cpu_count()} cores {gpu}")


def commit() -> dict[str, Any]:
    """The commit of the code that runs, and whether tracked files other than docs/ differ from it (None: no checkout).

    An environment may lie inside somebody else's checkout: only one that tracks this very file counts.
    """
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return {"commit": None, "dirty": None}
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)docs")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
