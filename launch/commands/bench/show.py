"""`laconvnet bench show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench import tables
from laconvnet.launch.commands.bench.kept import read
from laconvnet.launch.commands.output import rows
from laconvnet.pipeline.errors import ConfigError


def show(
    file: Annotated[Path, Arg("rows, one JSON object a line; or a folder of such files (*.jsonl)")],
    *,
    out: Annotated[Path | None, Arg("write a page in Markdown in place of printing", "FILE")] = None,
    plot: Annotated[Path | None, Arg("draw a roofline of those of `bench kernel`, as PNG", "FILE")] = None,
    json: JsonLines = False,
) -> None:
    """Tables of rows that were kept.

    Print the tables of rows kept by --json or --record, or write a page of them in Markdown, where every row has an
    anchor: laconvnet bench show docs/benchmarks --out docs/benchmarks/README.md

    For example:
      laconvnet bench show docs/benchmarks
    """
    tables.check_plot(plot)
    files = read(file)
    table = [row for kept in files.values() for row in kept]
    if out:
        _write(out, files)
    elif json:
        rows(table, json)
    else:
        tables.show(table)
    if plot:
        tables.plot(table, plot)


def _write(out: Path, files: dict[str, list[dict[str, Any]]]) -> None:
    from laconvnet.files import publish_text
    from laconvnet.pipeline.bench.page import page

    try:
        publish_text(out, page(files))
    except OSError as error:
        raise ConfigError(f"command line: --out: {out}: cannot be written ({error.strerror})") from error
