"""One's own annotations as tables: CSV, TSV, JSON lines or Parquet, with the columns of `columns`.

A row is one expression of one region of a picture, or one question on it. A picture's rows may stand anywhere, also in
several tables (`sorting` tells what that costs); pictures come in the order of their names. Ids that a table lacks
are made of its name and the number of the row: header and first row of a CSV are 1 and 2, lines and rows of the others
are counted from 1. A row without a picture, of another shape than its table, or whose picture is a path out of its
folder, belongs to no sample; it is counted and lost under the split it tells, if it does.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import Account, RawSample
from laconvnet.shards.format.record import key
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition, picture_id, sample
from laconvnet.shards.sources.faults import EntryFault, lost
from laconvnet.shards.sources.table import formats
from laconvnet.shards.sources.table.cells import below
from laconvnet.shards.sources.table.columns import HELP, NAMES, NESTED, columns
from laconvnet.shards.sources.table.ids import Ids
from laconvnet.shards.sources.table.rows import Facts, Read, read, size_told
from laconvnet.shards.sources.table.sorting import Row, Sorter

_LOG = logging.getLogger(__name__)
_CELLS = (*NAMES, "b0", "b1", "b2", "b3")
_SCHEMA = pa.schema([*((name, pa.string()) for name in _CELLS), (formats.ROW, pa.int64()), ("table", pa.int32())])
_ANY_CASE = ("train", "val", "dev", "test")  # Train is train, or all would be held out; testA and testB keep theirs
_WORD_OF_SPLIT = re.compile(r"(train|val|dev|test)(?:[^a-z].*)?", re.IGNORECASE)
_NAME_OF_SPLIT = re.compile(r"(train|val|dev|test)\w*", re.IGNORECASE)


class Table:
    """Tables of one's own pictures."""

    name = "table"
    title = "own data: a row an expression or a question, in CSV, TSV, JSON lines or Parquet"
    licence = "own data: no licence is stated"
    files = HELP

    def samples(
        self,
        root: Path,
        *,
        images: Path | None,
        splits: Collection[str] | None,
        partition: str | None,
        with_images: bool = True,
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. All tables are read, and their rows sorted, before the first."""
        no_partition(partition, self.name)
        if not root.exists():
            raise InputError(f"{root}: no such file or folder; expected a table, or a folder of tables: change --root")
        paths = formats.found_in(root)
        if not paths:
            raise InputError(f"{root}: no table there; expected names that end in one of {', '.join(formats.FORMATS)}")
        folder = root if root.is_dir() else root.parent
        images_at = reading.image_folder(images or folder, "expected the pictures there; change --images", with_images)
        account = Account()
        tables = _Tables(splits, account)
        for path in paths:
            tables.read(formats.opened(path), alone=len(paths) == 1)
        choose_splits(splits, tables.known, root)

        def records() -> Iterator[RawSample]:
            for name, rows in tables.rows.groups():
                given = _sample(self, name, rows, tables.facts, images_at, account, with_images)
                if given is not None:
                    yield given

        return Samples(records(), tables.rows.keys(), account)


@dataclass(slots=True)
class _Tables:
    """The tables as they are read: what is known of each, and the rows of all that belong to a split, or to none."""

    splits: Collection[str] | None
    account: Account
    facts: list[Facts] = field(default_factory=list)
    rows: Sorter = field(default_factory=lambda: Sorter("picture"))
    known: set[str] = field(default_factory=set)

    def read(self, table: formats.Table, alone: bool) -> None:
        """Read a table, the only one or one of several; raises InputError for one that cannot be read, or is empty."""
        facts = Facts(table.path, table.unit, columns(table.header, table.path))
        if facts.columns.unknown:
            names = ", ".join(name.strip() or "one without a name" for name in facts.columns.unknown)
            _LOG.warning("%s: columns that mean nothing here: %s", table.path, names)
        split = None if "split" in facts.columns.named else _split_of(table.path, alone)
        ids, empty = Ids(), True

        def broken(number: int, reason: str) -> None:
            nonlocal empty
            empty = False
            if split is None or self.splits is None or split in self.splits:
                _lose(number, reason, facts, split or "", self.account)

        for batch in table.batches(facts.columns.used, NESTED, broken):
            empty = empty and not batch.num_rows
            rows = self._chosen(_normal(batch, len(self.facts), split))
            if "id" in facts.columns.named:
                ids.add(rows.select(_CELLS), rows.column(formats.ROW).to_pylist(), "id")
            self.rows.add(rows)
        if empty:
            raise InputError(f"{table.path}: holds no rows; expected a row for each expression or question")
        self.facts.append(replace(facts, twins=ids.twins(table.path, table.unit)))

    def _chosen(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of the chosen splits; those of none are lost, whatever was chosen."""
        self.known |= set(rows.column("split").unique().to_pylist()) - {None}
        if self.splits is None:
            return rows
        return rows.filter(pc.is_in(rows["split"], pa.array([*self.splits, None], pa.string())))


def _split_of(path: Path, alone: bool) -> str:
    """The split of a table without that column: its name, or train where it is the only one and of another name.

    train_v2 and train2014 are train, or all of them would be held out.
    """
    word = _WORD_OF_SPLIT.fullmatch(path.stem)
    if word:
        return word[1].lower()
    return "train" if alone and not _NAME_OF_SPLIT.fullmatch(path.stem) else path.stem


def _normal(batch: pa.RecordBatch, table: int, default: str | None) -> pa.RecordBatch:
    """The batch with all cells there are, null for blank ones, and the number of its table."""
    cells = {}
    for name in _CELLS:
        given = batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows, pa.string())
        trimmed = pc.utf8_trim_whitespace(given)
        cells[name] = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    cells["picture"] = pc.fill_null(pc.replace_substring_regex(cells["picture"], r"^(\./+)+", ""), "")
    cells["mask"] = pc.if_else(pc.equal(cells["mask"], "[]"), None, cells["mask"])  # no polygon is no mask
    lower = pc.utf8_lower(cells["split"])
    cells["split"] = pc.if_else(pc.is_in(lower, pa.array(_ANY_CASE)), lower, cells["split"])
    if default is not None:
        cells["split"] = pa.array([default] * batch.num_rows, pa.string())
    numbers = pa.array([table] * batch.num_rows, pa.int32())
    return pa.RecordBatch.from_arrays([*cells.values(), batch.column(formats.ROW), numbers], schema=_SCHEMA)


def _lose(number: int, reason: str, facts: Facts, split: str, account: Account) -> None:
    """Count and lose a row of another shape than its table: what it speaks of nobody knows."""
    where = f"{facts.path}: {facts.unit} {number}"
    kind = "expression" if "expression" in facts.columns.named else "question"
    takes = {"region": 1, "expression": 1} if kind == "expression" else {"question": 1}
    account.count(split, **takes)
    error = EntryFault("row", f"{where}: {reason}")
    account.faults.append(lost(error, kind, f"{facts.path.stem}-{number}", split, facts.path, takes))


def _sample(
    source: Table, name: str, rows: list[Row], tables: list[Facts], images: Path, account: Account, with_images: bool
) -> RawSample | None:
    """The sample of a picture; None, and its faults in the account, for rows that name none that can be used."""
    path, size, blocked = images, (0, 0), None
    try:
        path, size = _path(name, images, tables[rows[0]["table"]].where(rows[0])), size_told(rows, tables)
    except EntryFault as error:
        blocked = error
    found = read(rows, tables, account, lambda: _size(path, size, with_images), blocked)
    id = picture_id(name)
    if name:
        for split in found.splits:
            account.count(split, picture=1)
    if blocked is None:
        regions, questions = tuple(found.regions), tuple(found.questions)
        return sample(source, path, id, name, size, regions, questions, faults=tuple(found.faults))
    _without_sample(blocked, key(source.name, id) if name else "", name, found, tables[rows[0]["table"]], account)
    return None


def _without_sample(error: EntryFault, sample_key: str, name: str, found: Read, facts: Facts, account: Account) -> None:
    account.faults += [replace(fault, key=sample_key) for fault in found.faults]
    if name:
        for split in sorted(found.splits):
            account.faults.append(lost(error, "picture", name, split, facts.path, {"picture": 1}, key=sample_key))


def _path(name: str, images: Path, where: str) -> Path:
    if not name:
        raise EntryFault("no picture", f"{where}: no picture is given")
    return below(images, name, where, "picture")


def _size(path: Path, told: tuple[int, int], with_images: bool) -> tuple[int, int] | None:
    if min(told) > 0:
        return told
    return reading.image_size(path) if with_images else None


TABLE = Table()
