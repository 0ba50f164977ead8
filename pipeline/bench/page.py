"""A page of all rows that were kept, which other documents link into, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laconvnet.pipeline.bench.changes import by_id
from laconvnet.pipeline.bench.ids import command_of

Row = dict[str, Any]
_ABOUT = """# Measurements

Rows of `laconvnet bench ... --record`, a section a file: one day on one machine. This page is drawn from the files by
`laconvnet bench show docs/benchmarks --out docs/benchmarks/README.md`. Every row has an anchor to link to, the file's
name and the row's id: `#FILE/ID`. The median and the quartiles are those of n rounds, in which the row and its baseline
took turns; the ratio is the baseline's median by the row's, so that 2 is twice as good. Of a row that was measured
again on the same day the last is shown.
"""
_HEADING = "| row | median | quartiles | n | baseline | ratio | note |\n|---|---|---|---|---|---|---|"


def page(files: Mapping[str, Sequence[Row]]) -> str:
    """The page in Markdown of the rows of each file, by the file's name without its suffix; the newest first."""
    parts = [_ABOUT.strip()]
    for stem in sorted(files, reverse=True):
        rows = by_id(files[stem])
        parts.append(f"## {stem}")
        for command in sorted({command_of(row) for row in rows.values()}):
            chosen = {name: row for name, row in rows.items() if command_of(row) == command}
            parts += [f"### {command}, {stem}", "\n".join(_runs(chosen.values()))]
            parts.append("\n".join([_HEADING, *(_line(anchor(stem, name), name, row) for name, row in chosen.items())]))
    return "\n\n".join(part for part in parts if part) + "\n"


def anchor(stem: str, name: str) -> str:
    """What stands behind the # of a link to the row of this id in this file."""
    return f"{stem}/{name}"


def _runs(rows: Iterable[Row]) -> list[str]:
    """A line a run of a command: what was called, when, by which code and on what."""
    found: dict[tuple[Any, Any], str] = {}
    for row in rows:
        versions = row.get("versions") or {}
        code = (row.get("commit") or "not a checkout")[:12] + (", with changes" if row.get("dirty") else "")
        told = ", ".join(f"{name} {versions[name]}" for name in ("laconvnet", "torch") if versions.get(name))
        facts = [row.get("date"), code, told, row.get("device"), f"load {row['load']}" if "load" in row else None]
        found.setdefault(
            (row.get("date"), row.get("command")),
            f"* `{row.get('command') or 'rows without a date'}`: {'; '.join(str(fact) for fact in facts if fact)}",
        )
    return list(found.values())


def _line(target: str, name: str, row: Row) -> str:
    spread = [row.get("q1"), row.get("q3")]
    cells = [
        f'<a id="{target}"></a>{name}',
        " ".join(part for part in (_number(row["median"]), row.get("unit") or "") if part),
        " to ".join(_number(value) for value in spread) if None not in spread else "",
        _number(row.get("rounds")),
        row.get("baseline") or "",
        _number(row.get("ratio")),
        (row.get("note") or "").replace("|", "\\|"),
    ]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4g}"
