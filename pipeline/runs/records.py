"""Reading the small JSON files of runs and stages, which may be torn, or hold something else than was expected."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file. A torn line, which a killed run leaves, is passed over."""
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    value = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(value, dict):
                    yield value
    except FileNotFoundError:
        return


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number (json reads NaN and Infinity too)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
