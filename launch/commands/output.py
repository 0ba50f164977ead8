"""What a command prints on standard output: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show(fields: Mapping[str, Any], as_json: bool) -> None:
    """One object: a line a field, or one JSON object."""
    if as_json:
        print(json.dumps(fields))
        return
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        print(f"{name:<{width}}  {_text(value)}")


def rows(table: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """A table: columns by name, or one JSON object a line."""
    if as_json:
        for row in table:
            print(json.dumps(row))
        return
    if not table:
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name, value in table[0].items():
        drawn.add_column(name, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in table:
        drawn.add_row(*(_text(value) for value in row.values()))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        # A pipe has no width: cutting or folding columns there would lose what the reader asked for.
        console.width = 10_000
    console.print(drawn)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(inner) for inner in value)
    return str(value)
