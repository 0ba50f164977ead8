"""Tables as Arrow files that processes map: a machine holds one copy, however many of its processes read it.

A file is Arrow's IPC format, not compressed, in batches of `BATCH_ROWS` rows (fewer in the last). The kernel reads a
page of it when a process accesses it, and may drop it again; nothing of it is copied into a process but the rows that
are requested. Each column of a batch is compared with the manifest's checksum before a value of it is seen.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from laconvnet.files import is_unreadable, retried
from laconvnet.shards.errors import InputError, joined
from laconvnet.shards.format.checksums import REMEDY, TableChecksums, compare_frame, is_by_block

BATCH_ROWS = 2**18
WHOLE_BYTES = 256 * 2**20  # up to which a table is compared when it is opened: some 30 ms out of the page cache
# Rows of one batch from which on one call for all of them is quicker than a look at each.
_FEW = 32

Rows = NDArray[np.signedinteger[Any]]
Where = slice | NDArray[np.int64]


def row_type(count: int) -> type[np.signedinteger[Any]]:
    """The numbers that rows of a table of so many are kept in: half the memory where 32 bits suffice."""
    return np.int32 if count <= np.iinfo(np.int32).max else np.int64


def write(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
    """Write a table, given in parts of any size, as ``path``; the bytes depend on its rows alone.

    Holds one batch and one part at a time.
    """
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        waiting: list[pa.Table] = []
        rows = 0
        for part in parts:
            waiting.append(part.replace_schema_metadata(None))
            rows += len(part)
            while rows >= BATCH_ROWS:
                whole = pa.concat_tables(waiting)
                writer.write_batch(_batch(whole.slice(0, BATCH_ROWS)))
                waiting = [whole.slice(BATCH_ROWS)]
                rows -= BATCH_ROWS
        if rows:
            writer.write_batch(_batch(pa.concat_tables(waiting)))


def _batch(table: pa.Table) -> pa.RecordBatch:
    # A slice would be written with what memory holds beside it: behind its last flag, and under a null. What `take`
    # gives is made anew, with zeros there.
    (batch,) = table.combine_chunks().to_batches()
    return batch.take(pa.array(np.arange(len(batch))))


def mapped(path: Path, schemas: Sequence[pa.Schema], found: Mapping[str, Any]) -> MappedTable:
    """The table of a file, of one of these schemas, in the memory that the file is mapped to.

    ``found`` is what the manifest recorded of it (`shards.format.checksums.table_facts`). A file of at most
    `WHOLE_BYTES` is compared with it at once, of a longer one its frame; the rest when it is first read.

    Raises InputError where it is missing, of another size or frame, no Arrow file or of other columns. A file that is
    cut off, or cannot be read (the disk's EIO), while it is mapped ends the process by SIGBUS: no checksum and no
    exception comes before that. One that is replaced by a rename is read on as it was.
    """
    try:
        # Not by Arrow's own map: a file that Python opens is seen by those who watch what a start opens.
        with retried(path, lambda: path.open("rb")) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != found["bytes"]:
                raise InputError(f"{path}: table of {size} bytes, the manifest says {found['bytes']}; {REMEDY}")
            pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        compare_frame(path, pages, found)
        with pa.ipc.open_file(pa.py_buffer(pages)) as reader:
            table = reader.read_all()
        if not is_by_block(found):  # else it is what was written, and to look at it would read pages of every batch
            table.validate()
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        if is_unreadable(error):
            raise
        raise InputError(f"{path}: cannot be read as an Arrow table ({joined(error)}); {REMEDY}") from error
    if not any(table.schema.equals(schema) for schema in schemas):
        wrong = sorted(set(map(str, table.schema)) ^ set(map(str, schemas[0])))
        raise InputError(f"{path}: other columns than expected ({'; '.join(wrong)}); build the set again")
    if is_by_block(found) and set(found["columns"]) != set(table.column_names):
        raise InputError(f"{path}: the manifest has checksums of other columns; {REMEDY}")
    checked = MappedTable(table, TableChecksums(path, pages, table, found), size)
    if is_by_block(found) and size <= WHOLE_BYTES:
        checked.check()
    return checked


class MappedTable:
    """A table in mapped memory: what of `pyarrow.Table` is used of it, and no value before its block was compared.

    A block is one column of one batch. Where a method compares one for the first time, it raises InputError for bytes
    that are not those that were written, naming file, column, batch and place.
    """

    def __init__(self, table: pa.Table, checksums: TableChecksums, nbytes: int) -> None:
        self._table, self._checksums = table, checksums
        self.nbytes = nbytes  # of the file
        self.schema: pa.Schema = table.schema
        self.column_names: list[str] = table.column_names
        self._ends = np.cumsum([len(chunk) for chunk in table.column(0).chunks], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """A whole column; for a few of its rows see `Columns`."""
        self._checksums.compare_all([name])
        return self._table[name]

    def check(self) -> None:
        """Compare all of the file that was not compared yet; where no blocks were recorded, by reading it whole."""
        self._checksums.compare_file()

    def select(self, names: Sequence[str]) -> MappedTable:
        """These columns alone."""
        return MappedTable(self._table.select(names), self._checksums, self.nbytes)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """Batch after batch, each compared when it is requested."""
        for number, batch in enumerate(self._table.to_batches()):
            self._compare(number)
            yield batch

    def slice(self, first: int, count: int) -> pa.Table:
        """``count`` rows from ``first`` on, or as many as there are; reads the batches that they are in."""
        begin = int(np.searchsorted(self._ends, first, "right"))
        end = int(np.searchsorted(self._ends, first + count, "left"))
        for number in range(begin, min(end + 1, len(self._ends))):
            self._compare(number)
        return self._table.slice(first, count)

    def to_table(self) -> pa.Table:
        """All of it."""
        self._checksums.compare_all(self.column_names)
        return self._table

    def to_pylist(self) -> list[dict[str, Any]]:
        """All rows, as Python's values."""
        return list(self.to_table().to_pylist())

    def unchecked(self, name: str) -> tuple[pa.ChunkedArray, Callable[[int], None]]:
        """A column, and what must be called with the number of a batch before a value of it is looked at."""
        return self._table[name], partial(self._checksums.compare, name)

    def _compare(self, batch: int) -> None:
        for name in self.column_names:
            self._checksums.compare(name, batch)


class Columns:
    """Rows of a table in any order. Arrow's own ``take`` copies all batches of a column into one at every call.

    Raises IndexError for a row that the table does not have, and InputError as `MappedTable`.
    """

    def __init__(self, table: MappedTable) -> None:
        self._table = table
        self._batches: dict[str, _Batches] = {}

    def numbers(self, name: str, rows: Rows) -> NDArray[Any]:
        """A column of numbers without nulls at these rows (N,): (N,) in the column's type."""
        batches = self._column(name)
        views = batches.views
        if batches.scattered(rows):
            return np.array([views[batch][at] for batch, at in batches.positions(rows)], batches.kind)
        taken = np.empty(len(rows), batches.kind)
        for batch, where, at in batches.groups(rows):
            taken[where] = views[batch][at]
        return taken

    def values(self, name: str, rows: Rows) -> list[Any]:
        """A column of any type at these rows (N,), as Python's values."""
        batches = self._column(name)
        if batches.scattered(rows):
            return [batches.arrays[batch][at].as_py() for batch, at in batches.positions(rows)]
        taken = np.empty(len(rows), object)
        for where, found in self.pieces(name, rows):
            taken[where] = np.fromiter(found.to_pylist(), object, len(found))
        return list(taken.tolist())

    def value(self, name: str, row: int) -> Any:
        """A column of one row, as Python's value."""
        return self.values(name, np.array([row]))[0]

    def pieces(self, name: str, rows: Rows) -> Iterator[tuple[Where, pa.Array]]:
        """A column at these rows (N,), batch by batch: which of the rows, and their values."""
        batches = self._column(name)
        for batch, where, at in batches.groups(rows):
            yield where, batches.arrays[batch].take(pa.array(at))

    def _column(self, name: str) -> _Batches:
        if name not in self._batches:
            self._batches[name] = _Batches(*self._table.unchecked(name))
        return self._batches[name]


class _Batches:
    """One column, and where in its batches its rows are."""

    def __init__(self, column: pa.ChunkedArray, check: Callable[[int], None]) -> None:
        self._check = check
        self.arrays: list[pa.Array] = column.chunks
        self._ends = np.cumsum([len(array) for array in self.arrays], dtype=np.int64)
        self._starts = np.append(0, self._ends)
        self.kind = column.type.to_pandas_dtype()
        numeric = pa.types.is_primitive(column.type) and not pa.types.is_boolean(column.type)
        self.views = [array.to_numpy() for array in self.arrays] if numeric and not column.null_count else []

    def scattered(self, rows: Rows) -> bool:
        return len(rows) < _FEW * len(self.arrays)

    def positions(self, rows: Rows) -> Iterator[tuple[int, int]]:
        """Batch and row in it, of each row."""
        batch, at = self._found(rows)
        for number in set(batch.tolist()):
            self._check(number)
        return zip(batch.tolist(), at.tolist(), strict=True)

    def groups(self, rows: Rows) -> Iterator[tuple[int, Where, NDArray[np.int64]]]:
        """Rows that lie in one batch, together: the batch, which of ``rows``, and where in the batch they are."""
        for first in range(0, len(rows), BATCH_ROWS):
            batch, at = self._found(rows[first : first + BATCH_ROWS])
            order = None
            if (batch[1:] < batch[:-1]).any():
                order = np.argsort(batch, kind="stable")
                batch, at = batch[order], at[order]
            borders = np.flatnonzero(batch[1:] != batch[:-1]) + 1
            for begin, end in pairwise([0, *borders.tolist(), len(batch)]):
                self._check(int(batch[begin]))
                where = slice(first + begin, first + end) if order is None else first + order[begin:end]
                yield int(batch[begin]), where, at[begin:end]

    def _found(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if len(rows) and (rows.min() < 0 or rows.max() >= self._starts[-1]):
            wrong = rows[(rows < 0) | (rows >= self._starts[-1])][0]
            raise IndexError(f"row {wrong} is out of bounds of a table of {self._starts[-1]}")
        batch = np.searchsorted(self._ends, rows, "right")
        return batch, rows - self._starts[batch]
