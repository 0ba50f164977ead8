"""`laconvnet bench show`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.bench.kept import read
from laconvnet.launch.commands.bench.tables import check_plot, is_layer, plot, show_layers, show_parts


def add(group: Any) -> None:
    show = group.add_parser(
        "show",
        help="tables of rows that were kept",
        description="Print the tables of rows kept by --json or --record, or write a page of them in Markdown, "
        "where every row has an anchor: laconvnet bench show docs/benchmarks --out docs/benchmarks/README.md",
    )
    show.add_argument("file", type=Path, help="rows, one JSON object a line; or a folder of such files (*.jsonl)")
    show.add_argument("--out", type=Path, metavar="FILE", help="write a page in Markdown in place of printing")
    show.add_argument("--plot", type=Path, metavar="FILE", help="draw a roofline of those of `bench kernel`, as PNG")
    show.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    check_plot(arguments.plot)
    files = read(arguments.file)
    table = [row for rows in files.values() for row in rows]
    layers = [row for row in table if is_layer(row)]
    if arguments.out:
        _write(arguments.out, files)
    else:
        if layers:
            show_layers(layers)
        show_parts([row for row in table if not is_layer(row)])
    if arguments.plot and layers:
        plot(layers, arguments.plot)
    return 0


def _write(out: Path, files: dict[str, list[dict[str, Any]]]) -> None:
    from laconvnet.files import publish_text
    from laconvnet.pipeline.bench.page import page
    from laconvnet.pipeline.errors import ConfigError

    try:
        publish_text(out, page(files))
    except OSError as error:
        raise ConfigError(f"command line: --out: {out}: cannot be written ({error.strerror})") from error
