"""The rows of one measurement, as they are made: kept, printed, counted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Self

from laconvnet.launch.commands.bench.tables import show
from laconvnet.launch.commands.output import rows
from laconvnet.terminal import complain


class Measured:
    """JSON is printed row by row; tables are printed at the end, which may be an interruption."""

    def __init__(self, as_json: bool, record: Path | None) -> None:
        """Rows are kept where ``record`` says. Raises ConfigError where nothing can be written there."""
        from laconvnet.pipeline.bench.record import Recorder, command_line

        self.as_json = as_json
        self.keep = Recorder(record, command_line(["laconvnet", *sys.argv[1:]]))
        self.table: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.as_json:
            show(self.table)

    def add(self, found: list[dict[str, Any]]) -> None:
        from laconvnet.pipeline.bench.record import plain

        self.keep.add(found)
        self.table += found
        if self.as_json:
            rows([plain(row) for row in found], True)

    def failed(self) -> int:
        """The exit code; says how many rows failed."""
        count = sum(str(row["note"]).startswith("failed: ") for row in self.table)
        if count:
            complain(f"laconvnet: {count} rows failed and have no numbers; the notes tell why")
        return 1 if count else 0
