"""The small JSON files of runs and stages, which may be torn, or hold something else than was expected."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from laconvnet.files import appending, naming, read_bytes


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file, none of an absent one. A torn line, which a killed run leaves, is passed over.

    Raises OSError for a file that cannot be read.
    """
    try:
        lines = read_bytes(file).decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def add_line(file: Path, entry: dict[str, Any]) -> None:
    """Add an object, with the time, to a JSON lines file. Raises OSError naming it."""
    with naming(file), appending(file) as stream:
        stream.write(json.dumps(entry | {"time": time.time()}) + "\n")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number (json reads NaN and Infinity too)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
