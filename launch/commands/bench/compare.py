"""`laconvnet bench compare`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.bench.kept import read
from laconvnet.launch.commands.output import rows

_ABOUT = """Compare two files of rows, kept by --json or --record, row by row by their ids.

ratio is the new median by the old one; all medians are of what is spent (time, bytes, files), so more is worse. A row
changed ("worse", "better") where the intervals of the two medians do not overlap: median +- 1.57 * (distance of the
quartiles) / sqrt(rounds), the notches of a box plot, which do so by chance about once in twenty (McGill, Tukey and
Larsen, The American Statistician 32, 1978). A row of one round has none ("-"); one that does not tell its rounds is
taken to have three. "to baseline" is the row's ratio to its baseline of the same run, which a busy machine disturbs
less. Of several rows of one id in a file the last counts. Files of different machines are compared with a warning.

  laconvnet bench compare docs/benchmarks/2026-01-31-a.jsonl docs/benchmarks/2026-03-01-a.jsonl --fail-above 10
"""


def add(group: Any) -> None:
    command = group.add_parser(
        "compare",
        help="two files of rows: what changed beyond chance",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("old", type=Path, metavar="OLD", help="rows, one JSON object a line")
    command.add_argument("new", type=Path, metavar="NEW", help="rows, one JSON object a line")
    command.add_argument(
        "--fail-above",
        type=float,
        metavar="PERCENT",
        help="exit code 1 where a row is worse beyond its interval and by more than this",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object a row")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline.bench.changes import changes, regressions
    from laconvnet.pipeline.errors import ConfigError

    limit = arguments.fail_above
    if limit is not None and not 0 <= limit < math.inf:
        raise ConfigError(f"command line: --fail-above: {limit:g}: expected per cent, 0 or more")
    old, new = (_one(path) for path in (arguments.old, arguments.new))
    table = changes(old, new)
    if limit is not None and all(str(row["change"]).startswith("only") for row in table):
        raise ConfigError(f"{arguments.new}: no row has an id of {arguments.old}; --fail-above has nothing to look at")
    _warn(arguments, old, new)
    rows(table if arguments.json else [_line(row) for row in table], arguments.json)
    failed = regressions(table, limit) if limit is not None else []
    if failed:
        print(f"laconvnet: worse by more than {limit:g} %: {', '.join(row['id'] for row in failed)}", file=sys.stderr)
    return 1 if failed else 0


def _one(path: Path) -> list[dict[str, Any]]:
    from laconvnet.pipeline.errors import ConfigError

    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; expected one of its files of rows")
    (table,) = read(path).values()
    if not table:
        raise ConfigError(f"{path}: holds no rows")
    return table


def _warn(arguments: argparse.Namespace, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    """By machine where both tell it, else by device: rows of before have no machine."""
    from laconvnet.pipeline.bench.changes import places

    for key in ("machine", "device"):
        before, after = places(old, key), places(new, key)
        if before and after:
            if before != after:
                of = f"{arguments.old} is of {' and '.join(sorted(before))}, {arguments.new} of"
                print(f"laconvnet: {of} {' and '.join(sorted(after))}: another {key}", file=sys.stderr)
            return


def _line(row: dict[str, Any]) -> dict[str, Any]:
    names = {"old_to_baseline": "old to baseline", "new_to_baseline": "new to baseline"}
    return {names.get(key, key): value for key, value in row.items() if not key.endswith("_interval")}
