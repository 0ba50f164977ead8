"""What differs between two files of rows, and whether it is more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from laconvnet.pipeline.bench.ids import row_id

Row = dict[str, Any]
_LEAST = 3  # rounds of a row of before, which does not tell them: those of --quick


def by_id(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows under their ids; of several of one id the last, which was measured last."""
    return {row.get("id") or row_id(row): row for row in rows}


def notch(row: Row) -> tuple[float, float] | None:
    """median +- 1.57 * (q3 - q1) / sqrt(n): the notch of a box plot. None where one round or none was measured.

    Medians whose notches do not overlap differ at about the 95 % level (McGill, Tukey and Larsen, Variations of Box
    Plots, The American Statistician 32(1), 1978). n are the rounds.
    """
    rounds = row.get("rounds", _LEAST)
    if row["median"] is None or row.get("spread") is None or not rounds or rounds < 2:
        return None
    half = 1.57 * row["spread"] / math.sqrt(rounds)
    return row["median"] - half, row["median"] + half


def changes(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """A row an id, those of both first: id, unit, old, new (medians), ratio (new / old), change, old_interval,
    new_interval, old_to_baseline, new_to_baseline (the baseline's median over the row's, of the same run each).

    All medians are of what is spent (time, bytes, files), so more is worse. change is "worse" or "better" where the
    intervals do not overlap, "no" where they do, None where one is not known, "only old" and "only new".
    """
    before, after = by_id(old), by_id(new)
    both = [name for name in before if name in after]
    return [
        *(_change(name, before[name], after[name]) for name in both),
        *(_change(name, row, None) for name, row in before.items() if name not in after),
        *(_change(name, None, row) for name, row in after.items() if name not in before),
    ]


def _change(name: str, old: Row | None, new: Row | None) -> Row:
    some = old or new or {}
    was, now = (row["median"] if row else None for row in (old, new))
    before, after = (notch(row) if row else None for row in (old, new))
    return {
        "id": name,
        "unit": some.get("unit"),
        "old": was,
        "new": now,
        "ratio": now / was if was and now is not None else None,
        "change": "only old" if new is None else "only new" if old is None else _verdict(before, after),
        "old_interval": before,
        "new_interval": after,
        "old_to_baseline": old.get("ratio") if old else None,
        "new_to_baseline": new.get("ratio") if new else None,
    }


def _verdict(before: tuple[float, float] | None, after: tuple[float, float] | None) -> str | None:
    if before is None or after is None:
        return None
    return "worse" if after[0] > before[1] else "better" if after[1] < before[0] else "no"


def regressions(table: Iterable[Row], percent: float) -> list[Row]:
    """Those that are worse, by more than so many per cent of the old median."""
    return [row for row in table if row["change"] == "worse" and row["new"] > row["old"] * (1 + percent / 100)]


def places(rows: Iterable[Row], key: str) -> set[str]:
    """Where rows were measured: their machines or devices; what a row does not tell is not among them."""
    return {str(row[key]) for row in rows if row.get(key)}
