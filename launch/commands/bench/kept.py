"""Files of rows, read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.bench.tables import NEEDED, is_layer
from laconvnet.pipeline.errors import ConfigError


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of a file, or of every .jsonl of a folder, by the file's name without its suffix. Raises ConfigError."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path}: holds no .jsonl; expected rows kept by `laconvnet bench COMMAND --record`")
    return {file.stem: _rows(file) for file in files}


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    table = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not _is_row(row):
            raise ConfigError(f"{path}: line {number}: expected a row of `laconvnet bench COMMAND --json`")
        table.append(row)
    return table


def _is_row(row: Any) -> bool:
    """Whether it has what is read of a row; numbers may be None, where something was not measured."""
    if not isinstance(row, dict) or not row.keys() >= (NEEDED if is_layer(row) else {"bench", "name", "median"}):
        return False
    numbers = (row.get(key) for key in ("median", "spread", "q1", "q3", "ratio", "rounds"))
    return all(number is None or isinstance(number, int | float) for number in numbers)
