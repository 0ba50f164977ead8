"""What a command prints on standard output: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from laconvnet.launch.table import cell, drawn, write
from laconvnet.terminal import one_line, say


def show(fields: Mapping[str, Any], as_json: bool) -> None:
    """One object: a line a field, or one JSON object."""
    if as_json:
        say(json.dumps(fields))
        return
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        say(f"{one_line(name):<{width}}  {cell(value)}")


def rows(table: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """A table: columns by name, or one JSON object a line."""
    if as_json:
        for row in table:
            say(json.dumps(row))
    elif table:
        write(drawn(table))
