"""When a stage waited, ran, was interrupted and failed: read from the files that its jobs left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.files import find_object
from laconvnet.pipeline.runs.layout import DONE, FAILED, JOB, STARTS, task_folder
from laconvnet.pipeline.runs.records import is_number, read_lines

KINDS = ("queued", "interrupted", "done", "running", "failed")  # those later are drawn over those before


@dataclass(frozen=True)
class Span:
    """A stretch of time, in seconds since 1970; `kind` is one of KINDS."""

    kind: str
    begin: float
    end: float


def places(folder: Path, tasks: int | None) -> list[Path]:
    """The folders of the stage's job: its own, or one for each task of its array."""
    return [task_folder(folder, tasks, task) for task in range(tasks)] if tasks else [folder]


def spans(places: list[Path], now: Callable[[], float] = time.time) -> tuple[Span, ...]:
    """The spans that the files of these folders tell, in the order of KINDS, those of a kind joined where they meet."""
    found = [span for place in places for span in _history(place, now())]
    return tuple(span for kind in KINDS for span in _joined(kind, found))


def _history(folder: Path, now: float) -> Iterator[Span]:
    job = find_object(folder / JOB) or {}
    ended = _ended(folder)
    # Only the newest job's time of submission is known; on this machine it is that of its start.
    submitted = job.get("started") if job.get("cluster") == "slurm" else None
    since: tuple[str, float] | None = None  # a start that has not ended: its job and its time
    left: tuple[str, float] | None = None  # the job that has ended last, and when
    for entry in read_lines(folder / STARTS):
        at, name = entry.get("time"), str(entry.get("job"))
        if not is_number(at):
            continue
        if entry.get("event") == "start":
            if since is not None:  # nobody came back to tell
                yield Span("interrupted", since[1], at)
            elif left is not None and left[0] == name:
                yield Span("queued", left[1], at)
            elif name == job.get("id") and is_number(submitted):
                yield Span("queued", submitted, at)
            since = name, at
        elif since is not None:
            outcome = entry.get("outcome")
            yield Span(outcome if outcome in ("done", "failed") else "interrupted", since[1], at)
            since, left = None, (name, at)
    if since is not None:
        kind, at = ended if ended is not None and ended[1] >= since[1] else ("running", now)
        yield Span(kind, since[1], max(at, since[1]))
    elif left is None and is_number(job.get("started")):  # nothing was noted
        kind, at = ended or ("queued" if submitted else "running", now)
        yield Span(kind, job["started"], max(at, job["started"]))


def _ended(folder: Path) -> tuple[str, float] | None:
    for name, kind in ((DONE, "done"), (FAILED, "failed")):
        record: dict[str, Any] = find_object(folder / name) or {}
        if is_number(record.get("ended")):
            return kind, float(record["ended"])
    return None


def _joined(kind: str, found: list[Span]) -> Iterator[Span]:
    newest: Span | None = None
    for span in sorted((span for span in found if span.kind == kind), key=lambda span: span.begin):
        if newest is None or span.begin > newest.end:
            if newest is not None:
                yield newest
            newest = span
        else:
            newest = Span(kind, newest.begin, max(newest.end, span.end))
    if newest is not None:
        yield newest
