"""The short table at the end: what became of each part, and the few numbers one looks for first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.gpu_run.runner import Outcome

_WIDTH = 110  # characters of what a part said last
Row = dict[str, Any]


def table(outcomes: Sequence[Outcome], folder: Path, since: str) -> str:
    """The parts, a line each, and the numbers of the rows in ``folder`` that were measured ``since`` (ISO 8601)."""
    lines = [_line(outcome) for outcome in outcomes]
    return "\n".join([*lines, *headlines(rows(folder, since))]) + "\n"


def _line(outcome: Outcome) -> str:
    state = f"{outcome.state}: {outcome.why}" if outcome.why else outcome.state
    said = f" | {outcome.said[:_WIDTH]}" if outcome.said else ""
    return f"{outcome.name:<10} {outcome.seconds:4.0f} s  {state}{said}"


def rows(folder: Path, since: str) -> list[Row]:
    """The rows that were kept since then; a line that is not whole is passed over."""
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and str(row.get("date", "")) >= since:
                found.append(row)
    return found


def headlines(found: Sequence[Row]) -> list[str]:
    """Of the operator a line a way, ms forward and backward together by stage; of the rest a line a row."""
    return [*_operator(found), *_steps(found), *_failures(found)]


def _operator(found: Iterable[Row]) -> list[str]:
    ways: dict[str, list[str]] = {}
    for row in found:
        told = (row.get("bench", "kernel"), row.get("operation"), row.get("direction"), row.get("cache"))
        if told == ("kernel", "laconv", "both", "warm") and row["median"] is not None:
            way = f"laconv {row['preset']} {row['size']} {row['dtype']}, both, ms by stage: {row['name']}"
            ways.setdefault(way, []).append(f"{row['stage']}: {row['median']:.3f}")
    return [f"{way:<58} {'  '.join(stages)}" for way, stages in ways.items()]


def _steps(found: Iterable[Row]) -> list[str]:
    lines = []
    for row in found:
        if row.get("bench") in ("step", "graph", "speed", "engine") and row["median"] is not None:
            about = " ".join(str(row[key]) for key in ("bench", "name", "preset", "size", "precision") if key in row)
            zero = f", ZeRO {row['zero']}" if "zero" in row else ""
            lines.append(f"{about}{zero}, {row['pictures']} images: {_step_ms(row):.2f} ms a step{_more(row)}")
    return lines


def _step_ms(row: Row) -> float:
    return float(row.get("step_ms") or row["median"])


def _more(row: Row) -> str:
    told = f", {1e3 * row['pictures'] / _step_ms(row):.0f} images/s"
    if row.get("peak_mb") is not None:
        told += f", peak {row['peak_mb']:.0f} MB"
    if row.get("finite") is False:
        told += ", LOSS NOT FINITE"
    return told


def _failures(found: Iterable[Row]) -> list[str]:
    notes = (f"{row.get('bench', 'kernel')} {row['name']}: {row['note']}" for row in found if row.get("note"))
    told = ("failed: ", "out of memory", "left out", "no room")
    return [note for note in dict.fromkeys(notes) if any(words in note for words in told)]
