"""`laconvnet bench compare`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.kept import read
from laconvnet.launch.commands.output import rows
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import complain


def compare(
    old: Annotated[Path, Arg("rows, one JSON object a line", "OLD")],
    new: Annotated[Path, Arg("rows, one JSON object a line", "NEW")],
    *,
    fail_above: Annotated[
        float | None, Arg("exit code 1 where a row is worse beyond its interval and by more than this", "PERCENT")
    ] = None,
    json: JsonLines = False,
) -> int:
    """Two files of rows: what changed beyond chance.

    Compare two files of rows, kept by --json or --record, row by row by their ids.

    ratio is the new median by the old one; all medians are of what is spent (time, bytes, files), so more is worse. A
    row changed ("worse", "better") where the intervals of the two medians do not overlap: median +- 1.57 * (distance
    of the quartiles) / sqrt(rounds), the notches of a box plot, which do so by chance about once in twenty (McGill,
    Tukey and Larsen, The American Statistician 32, 1978). A row of one round has none ("-"); one that does not tell
    its rounds is taken to have three. "to baseline" is the row's ratio to its baseline of the same run, which a busy
    machine disturbs less. Of several rows of one id in a file the last counts. Files of different machines are
    compared with a warning.

      laconvnet bench compare docs/benchmarks/2026-01-31-a.jsonl docs/benchmarks/2026-03-01-a.jsonl --fail-above 10
    """
    from laconvnet.pipeline.bench.changes import changes, regressions

    if fail_above is not None and not 0 <= fail_above < math.inf:
        raise ConfigError(f"command line: --fail-above: {fail_above:g}: expected per cent, 0 or more")
    before, after = _one(old), _one(new)
    table = changes(before, after)
    if fail_above is not None and all(str(row["change"]).startswith("only") for row in table):
        raise ConfigError(f"{new}: no row has an id of {old}; --fail-above has nothing to look at")
    _warn((old, before), (new, after))
    rows(table if json else [_line(row) for row in table], json)
    failed = regressions(table, fail_above) if fail_above is not None else []
    if failed:
        names = ", ".join(row["id"] for row in failed)
        complain(f"laconvnet: worse by more than {fail_above:g} %: {names}")
    return 1 if failed else 0


def _one(path: Path) -> list[dict[str, Any]]:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; expected one of its files of rows")
    (table,) = read(path).values()
    if not table:
        raise ConfigError(f"{path}: holds no rows")
    return table


def _warn(*files: tuple[Path, list[dict[str, Any]]]) -> None:
    """By machine where both tell it, else by device: rows of before have no machine."""
    from laconvnet.pipeline.bench.changes import places

    (old, before), (new, after) = files
    for key in ("machine", "device"):
        was, now = places(before, key), places(after, key)
        if was and now:
            if was != now:
                of = f"{old} is of {' and '.join(sorted(was))}, {new} of {' and '.join(sorted(now))}"
                complain(f"laconvnet: {of}: another {key}")
            return


def _line(row: dict[str, Any]) -> dict[str, Any]:
    names = {"old_to_baseline": "old to baseline", "new_to_baseline": "new to baseline"}
    return {names.get(key, key): value for key, value in row.items() if not key.endswith("_interval")}
