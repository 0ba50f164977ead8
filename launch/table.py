"""Tables and lines for people: fitted to a terminal; in a pipe plain text, in which nothing is cut or folded."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Of the column `state`; only a terminal shows them, unless NO_COLOR is set.
STYLES = {
    "ok": "green", "done": "green", "found done": "green", "running": "cyan", "waiting": "yellow", "stopped": "yellow",
    "warning": "yellow", "error": "bold red", "failed": "bold red", "not there": "dim", "not started": "dim",
}  # fmt: skip
_PIPE = 10_000  # characters: a pipe has no width


def _rich(name: str) -> Any:
    """A module of rich, loaded where something is drawn: a GPU machine that prints JSON may hold little but PyTorch."""
    try:
        return importlib.import_module(f"rich.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tables need {error.name}, not installed here; pip install rich, or ask for --json"
        ) from error


def console(stream: TextIO | None = None) -> Console:
    """What writes to this stream (default: standard output); texts are no markup."""
    made: Console = _rich("console").Console(file=stream, markup=False, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = _PIPE
    return made


def drawn(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None) -> Table:
    """A table of these rows, at least one; `columns` maps keys to headings (default: the keys of the first row)."""
    table: Table = _rich("table").Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    columns = columns or {name: name for name in rows[0]}
    for name, heading in columns.items():
        number = isinstance(rows[0].get(name), int | float)
        table.add_column(one_line(heading), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_coloured(name, cell(row.get(name))) for name in columns))
    return table


def _coloured(column: str, text: str) -> Any:
    style = STYLES.get(text) if column == "state" else None
    return _rich("text").Text(text, style=style) if style else text


def write(table: Table, stream: TextIO | None = None) -> None:
    """Print a table; no line ends in spaces."""
    out = console(stream)
    with out.capture() as caught:
        out.print(table)
    print("\n".join(line.rstrip() for line in caught.get().splitlines()), file=out.file, flush=True)


def cell(value: Any) -> str:
    """A value as people read it: 1,234, 0.1235, yes, - for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{one_line(str(name))} {cell(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(cell(inner) for inner in value)
    return one_line(str(value))


def clock(seconds: float | None) -> str:
    """Seconds as people read them: 42 s, 3:05, 1:02:03; - for None."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
