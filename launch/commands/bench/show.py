"""`laconvnet bench show`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.bench.tables import NEEDED, check_plot, plot, show_layers, show_parts


def add(group: Any) -> None:
    show = group.add_parser(
        "show", help="tables of rows that were kept", description="Print the tables of rows kept by --json."
    )
    show.add_argument("file", type=Path, help="rows, one JSON object a line")
    show.add_argument("--plot", type=Path, metavar="FILE", help="draw a roofline of those of `bench kernel`, as PNG")
    show.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    check_plot(arguments.plot)
    table = _read(arguments.file)
    layers = [row for row in table if "bench" not in row]
    if layers:
        show_layers(layers)
    show_parts([row for row in table if "bench" in row])
    if arguments.plot and layers:
        plot(layers, arguments.plot)
    return 0


def _read(path: Path) -> list[dict[str, Any]]:
    from laconvnet.pipeline.errors import ConfigError

    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    table = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not (row.keys() >= NEEDED or row.keys() >= {"bench", "name", "median"}):
            raise ConfigError(f"{path}: line {number}: expected a row of `laconvnet bench COMMAND --json`")
        table.append(row)
    return table
