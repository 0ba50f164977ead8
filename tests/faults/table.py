"""The page of docs/faults.md: which fault was tried where, and what came of it."""

from __future__ import annotations

import errno
import textwrap
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Protocol

_KINDS = {
    "open": "opening a file",
    "list": "listing a folder",
    "read": "reading",
    "write": "writing",
    "rename": "renaming",
    "link": "linking",
    "sync": "syncing to the disk",
}
_PHASES = {
    "train": "a run from its start to its end",
    "resume": "a run that goes on from its second last checkpoint",
    "eval": "scoring a split",
    "build": "building a set from raw files",
    "launch": "a graph of one stage on this machine",
}


class Point(Protocol):
    """A fault that was tried."""

    @property
    def scenario(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def times(self) -> int: ...
    @property
    def error(self) -> int: ...


def page(tried: Sequence[tuple[Point, str]], first_seed: int) -> str:
    """Markdown of the points and their outcomes: a row a fault, a column a command."""
    points = len(tried)
    about = (
        f"What came of {points} points, on {date.today()}, by `make faults POINTS={points} SEED={first_seed} "
        "TABLE=docs/faults.md`. At each, one call of the file system of a real command fails, once (1x) or from there "
        "on (always). *Waited out*: the command ended with the bytes of an undisturbed one. *Told*: it stopped with "
        "one line that names the file, exit code 1 or 2; then the same command without it came to those bytes. No "
        "whole checkpoint was lost at any of them."
    )
    lines = [
        "# Faults of the file system",
        "",
        textwrap.fill(about, 130),
        "",
        *(f"- **{phase}**: {about}" for phase, about in _PHASES.items()),
        "",
        f"| fault | | {' | '.join(_PHASES)} |",
        f"|---|---|{'---|' * len(_PHASES)}",
    ]
    rows = {(point.kind, point.error, point.times) for point, _ in tried}
    for kind, error, times in sorted(rows, key=lambda row: (list(_KINDS).index(row[0]), row[1], row[2])):
        fault = f"{_KINDS[kind]}: {errno.errorcode[error] if error else 'half of the bytes'}"
        cells = []
        for phase in _PHASES:
            outcomes = Counter(
                outcome
                for point, outcome in tried
                if (point.scenario, point.kind, point.error, point.times) == (phase, kind, error, times)
            )
            cells.append(", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items())))
        lines.append(f"| {fault} | {'1x' if times else 'always'} | {' | '.join(cells)} |")
    total = Counter(outcome for _, outcome in tried)
    lines += ["", f"In all: {', '.join(f'{outcome} {count}' for outcome, count in sorted(total.items()))}.", ""]
    return "\n".join(lines)
