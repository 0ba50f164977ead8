"""What stands under a table of states: how many there are of each, and what to do next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconvnet.pipeline.runs.layout import GRAPH, REPORT

# In the order in which they are told.
STATES = ("done", "running", "waiting", "failed", "stopped", "not started")
CHECKS = {"ok": "ok", "warning": "warnings", "error": "errors", "not there": "not there"}


def of_stages(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Two lines on the rows of `launch.status`, of a graph or of a run in this folder."""
    counts = Counter(row["state"] for row in rows)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    if (folder / GRAPH).is_file():
        return [f"{len(rows)} stages: {told}", f"next: {_of_graph(rows, folder)}"]
    return [told, f"next: {_of_run(rows[0], folder)}"]


def _of_graph(rows: Sequence[Mapping[str, Any]], folder: Path) -> str:
    typed = shlex.quote(str(folder))
    by_state = {row["state"]: row["stage"] for row in reversed(rows)}  # the first of each
    failed = next((row["stage"] for row in rows if row["state"] == "failed" or row["failed"]), None)
    if failed is not None:
        return f"`laconvnet logs {typed} {failed}` tells why; when it is mended, the same launch goes on"
    if "running" in by_state:
        return f"`laconvnet status {typed} --watch`, or `laconvnet logs {typed} {by_state['running']} --follow`"
    if "waiting" in by_state:
        return f"it goes on by itself; `laconvnet status {typed} --watch` shows how"
    if by_state.keys() != {"done"}:
        return "the same `laconvnet launch` goes on"
    page = folder / REPORT
    return f"open {page}" if page.is_file() else f"`laconvnet report {typed}` draws it on one page"


def _of_run(row: Mapping[str, Any], folder: Path) -> str:
    typed, graph = shlex.quote(str(folder)), shlex.quote(str(folder.parent))
    return {
        "done": f"`laconvnet eval {typed} --data SET --split val` scores it, `laconvnet report {typed}` draws it",
        "running": f"`laconvnet status {typed} --watch`",
        "waiting": f"it goes on by itself; `laconvnet status {typed} --watch` shows how",
        "failed": f"`laconvnet logs {graph} {row['stage']}` tells why",
    }.get(row["state"], "the same command goes on")


def of_checks(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines on the rows of the doctor: how many of each state, and what to mend first."""
    counts = Counter(row["state"] for row in rows)
    told = ", ".join(f"{counts[state]} {name}" for state, name in CHECKS.items() if counts[state])
    errors = [row for row in rows if row["state"] == "error"]
    if not errors:
        return [told, "next: nothing stands in the way of a run"]
    return [told, *(f"next: {row['name']}: {row['meaning'] or row['found']}" for row in errors)]
