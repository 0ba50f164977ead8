"""Lists of what is asked of models, in tables of people: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from laconvnet.pipeline.inference.asks import Ask
from laconvnet.shards.errors import InputError
from laconvnet.shards.sources.table.columns import NAMES, by_plain_name, by_role
from laconvnet.shards.sources.table.formats import ROW, Table, opened

_ROLES = {
    "image": NAMES["picture"],
    "text": (*NAMES["expression"], *NAMES["question"]),
    "id": NAMES["id"],
}


def of_table(path: Path, images: Path | None) -> list[Ask]:
    """What the rows of a table ask, about images by their path below ``images``, or below the table's own folder.

    A row that is none, or lacks image or text, is a fault of its own. Raises InputError for a file that is no table,
    and for one without the columns.
    """
    table = opened(path)
    used, folder = _columns(table), images or path.parent
    broken: list[Ask] = []

    def none(row: int, reason: str) -> None:
        broken.append(Ask(row, folder, "", fault=f"{path}: {table.unit} {row}: {reason}"))

    found = [
        _ask(row, folder, f"{path}: {table.unit} {row[ROW]}")
        for batch in table.batches(used, frozenset(), none)
        for row in batch.to_pylist()
    ]
    if not found and not broken:
        raise InputError(f"{path}: holds no row; expected one for each text that is asked")
    return sorted([*found, *broken], key=lambda ask: ask.row)


def _ask(row: dict[str, Any], folder: Path, where: str) -> Ask:
    lacking = next((name for name in ("image", "text") if not row[name]), None)
    fault = f"{where}: no {lacking}" if lacking else None
    return Ask(row[ROW], folder / (row["image"] or ""), row["text"] or "", row.get("id"), fault)


def _columns(table: Table) -> dict[str, str]:
    """The column of each role. Raises InputError where image or text has none, or two, or one is there twice."""
    used = by_role(_ROLES, by_plain_name(table.header, table.path), table.path)
    lacking = next((role for role in ("image", "text") if role not in used), None)
    if lacking is not None:
        found, names = ", ".join(table.header) or "none", ", ".join(_ROLES[lacking])
        raise InputError(f"{table.path}: no column {lacking}; found {found}; any of {names} would do")
    return used
