"""How a stage ended, by its files: they are written by whoever knows, and read by all others."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from laconvnet.files import find_object, publish_json
from laconvnet.pipeline.runs import history, layout

TAIL_LINES = 15
CANCELLED = "cancelled"  # the reason of a job that the user has ended
INTERRUPTED = 130  # exit code of a command that was told to stop, and has saved what it had


def record_failure(folder: Path, log: Path, facts: dict[str, Any], first: bool = False) -> dict[str, Any]:
    """Write the FAILED.json of a stage: the facts, and where, when and with which last words it failed; returns it.

    With ``first`` one that is there already stays.
    """
    record = {"host": socket.gethostname(), "ended": time.time(), "rank": 0, "log": str(log), "tail": tail(log)} | facts
    publish_json(folder / layout.FAILED, record, first=first)
    return record


def clear_ends(folder: Path) -> None:
    """The stage has neither succeeded nor failed from now on."""
    for name in layout.ENDS:
        (folder / name).unlink(missing_ok=True)


def is_done(folder: Path, fingerprint: str) -> bool:
    """Whether the stage has succeeded: its marker is there and speaks of it."""
    done = find_object(folder / layout.DONE)
    return done is not None and done.get("identity") == fingerprint


def settle(stage: Path, tasks: int, fingerprint: str) -> bool:
    """Whether the stage is done, because all tasks of its array are; if nobody has yet, its DONE.json is written."""
    if is_done(stage, fingerprint):
        return True
    places = history.places(stage, tasks)
    # From the end: what has been started last is what is missing, and mostly the first look tells.
    if not all(is_done(place, fingerprint) for place in reversed(places)):
        return False
    ended = [find_object(place / layout.DONE) or {} for place in places]
    newest = max(ended, key=lambda done: float(done["ended"]))
    began = min(float(done["started"]) for done in ended)
    record = newest | {"tasks": tasks, "started": began, "seconds": round(newest["ended"] - began, 3)}
    publish_json(stage / layout.DONE, record)
    return True


def tail(log: Path, lines: int = TAIL_LINES, size: int = 65536, since: int = 0) -> list[str]:
    """The last lines of a text file that are not empty, [] where there is none; a redrawn bar counts as one line.

    Only of what stands behind the first ``since`` bytes.
    """
    try:
        with log.open("rb") as stream:
            stream.seek(max(since, stream.seek(0, os.SEEK_END) - size))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    shown = [line.rstrip().rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in shown if line][-lines:]
