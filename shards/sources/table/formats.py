"""The files of tables: CSV, TSV, JSON lines and Parquet, read in batches of texts.

Whatever the format, a cell is a text: numbers as they are written, lists and objects as JSON, null where it is blank.
A file that cannot be read as a whole is an InputError; a row of another shape than the table is `broken`, and is left
out of the batches.
"""

from __future__ import annotations

import codecs
import json
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from laconvnet.files import is_unreadable
from laconvnet.shards.errors import InputError, joined
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.json_limits import MAX_VALUE_BYTES

ROW = "row"  # the column of the batches that tells each row's number
_BATCH_ROWS = 4096
_BATCH_BYTES = 2**28  # of the texts in a column of a batch of Parquet
_BLOCK_BYTES = 4 * 2**20  # of a CSV, some of them in memory; a row cannot be longer
_TOLD = 200  # characters of what Arrow says
_TEXTS = (pa.string(), pa.large_string(), pa.string_view())
# The number of a row, why it is none of the table, and what stands there.
Broken = Callable[[int, str], None]


class Table(Protocol):
    """One file."""

    @property
    def path(self) -> Path: ...

    @property
    def header(self) -> tuple[str, ...]:
        """The names of its columns."""

    @property
    def unit(self) -> str:
        """What is counted by the numbers of its rows."""

    def batches(self, used: Mapping[str, str], nested: frozenset[str], broken: Broken) -> Iterator[pa.RecordBatch]:
        """Batches of texts, with the names of ``used``, whose values are those of the header, and ROW.

        Only those of ``nested`` may hold lists and objects. Raises InputError where the file cannot be read.
        """


def opened(path: Path) -> Table:
    """The table in a file, by the ending of its name; raises InputError for another ending, and one without a table."""
    if path.suffix.lower() not in FORMATS:
        advice = "save a spreadsheet as CSV in UTF-8, and JSON as an object a line in .jsonl"
        names = ", ".join(FORMATS)
        raise InputError(f"{path}: not known as a table; expected a name that ends in one of {names}: {advice}")
    with _readable(path):
        return FORMATS[path.suffix.lower()](path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """An InputError for what Arrow raises of a file that it cannot read; OSError where nobody can."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        if is_unreadable(error):
            raise
        what = path.suffix.lower().removeprefix(".")
        told = joined(error)[:_TOLD]
        raise InputError(f"{path}: not the {what} it is named for ({told}); save it again") from error


class _Csv:
    """Cells between commas or tabs, quoted by double quotes; the header is row 1, blank lines are not counted."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path
        _need_utf8(path)
        with self._reader([], lambda number, reason: None) as reader:
            self.header = tuple(reader.schema.names)

    def batches(self, used: Mapping[str, str], nested: frozenset[str], broken: Broken) -> Iterator[pa.RecordBatch]:
        """See `Table.batches`."""
        gone: set[int] = set()

        def leave_out(number: int, reason: str) -> None:
            gone.add(number)
            broken(number, reason)

        number = 1
        with _readable(self.path), self._reader(list(used.values()), leave_out) as reader:
            for batch in reader:
                numbers: list[int] = []
                while len(numbers) < batch.num_rows:
                    number += 1
                    if number not in gone:
                        numbers.append(number)
                columns = [batch.column(name) for name in used.values()]
                yield pa.RecordBatch.from_arrays([*columns, pa.array(numbers, pa.int64())], [*used, ROW])

    def _reader(self, names: list[str], broken: Broken) -> Any:
        def tell(row: Any) -> str:
            told = f"{row.actual_columns} cells, the header has {row.expected_columns}"
            broken(row.number, f"{told}: {reprlib.repr(row.text)}")
            return "skip"

        return pyarrow.csv.open_csv(
            self.path,
            # Only one thread knows the number of a row.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            pyarrow.csv.ParseOptions(
                delimiter="\t" if self.path.suffix.lower() == ".tsv" else ",",
                newlines_in_values=True,
                invalid_row_handler=tell,
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )


def _need_utf8(path: Path) -> None:
    """Raise InputError where a text is not UTF-8, and where there is none.

    Arrow says so only of some rows, without their number, and of others on standard error.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, blank = 1, True
    with reading.opened(path) as (file, bar):
        while True:
            block = file.read(_BLOCK_BYTES)
            try:
                blank = not decoder.decode(block, final=not block).strip() and blank
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                told = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
                raise InputError(f"{path}: line {line}: {told}; save it as CSV in UTF-8") from error
            if not block:
                break
            line += block.count(b"\n")
            bar.update(len(block))
    if blank:
        raise InputError(f"{path}: holds nothing; expected a header, and a row for each expression or question")


class _Parquet:
    """A table of Parquet; its rows are counted from 1."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path
        with pq.ParquetFile(path) as file:
            self._schema = file.schema_arrow
            self.header = tuple(self._schema.names)

    def batches(self, used: Mapping[str, str], nested: frozenset[str], broken: Broken) -> Iterator[pa.RecordBatch]:
        """See `Table.batches`; raises InputError for a column whose values are neither texts nor numbers."""
        for role, name in used.items():
            kind = self._schema.field(name).type
            if not _is_plain(kind) and not (role in nested and pa.types.is_nested(kind)):
                raise InputError(f"{self.path}: column {name!r} holds {kind}, expected texts or numbers")
        number = 1
        # As dictionaries: a text of megabytes that each row has takes kilobytes in the file, and is here once.
        texts = [name for name in used.values() if self._schema.field(name).type in _TEXTS]
        file = pq.ParquetFile(self.path, read_dictionary=texts, page_checksum_verification=True)
        with _readable(self.path), file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(used.values())):
                columns = [_texts(batch.column(name)) for name in used.values()]
                numbers = pa.array(range(number, number + batch.num_rows), pa.int64())
                yield pa.RecordBatch.from_arrays([*columns, numbers], [*used, ROW])
                number += batch.num_rows


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    return kind in _TEXTS or any(test(kind) for test in numbers)


def _texts(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        lengths = pc.binary_length(values.dictionary.cast(pa.string())).take(values.indices)
        if (pc.sum(lengths).as_py() or 0) > _BATCH_BYTES:
            raise ValueError(f"more than {_BATCH_BYTES} bytes of texts in {len(values)} rows")
    if _is_plain(values.type):
        return values.cast(pa.string())
    return pa.array([None if one is None else _json(one) for one in values.to_pylist()], pa.string())


def _json(value: object) -> str:
    return json.dumps(value, default=lambda one: one.decode("ascii") if isinstance(one, bytes) else str(one))


class _JsonLines:
    """An object a line; what keys there are is known when the last line is, so that the file is read twice."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        keys: dict[str, None] = {}
        first = ""
        for number, found, reason in self._lines():
            keys |= dict.fromkeys(found)
            first = first or (reason and f"line {number}: {reason}")
        if first and not keys:
            raise InputError(f"{path}: {first}, nor has any other line one; expected an object a line")
        self.header = tuple(keys)

    def batches(self, used: Mapping[str, str], nested: frozenset[str], broken: Broken) -> Iterator[pa.RecordBatch]:
        """See `Table.batches`."""
        schema = pa.schema([*((role, pa.string()) for role in used), (ROW, pa.int64())])
        rows = self._rows(used, nested, broken)
        while lines := list(islice(rows, _BATCH_ROWS)):
            yield pa.RecordBatch.from_pylist(lines, schema)

    def _rows(self, used: Mapping[str, str], nested: frozenset[str], broken: Broken) -> Iterator[dict[str, Any]]:
        for number, found, reason in self._lines():
            try:
                if reason:
                    raise ValueError(reason)
                cells = {role: _cell(found.get(name), name, role in nested) for role, name in used.items()}
            except ValueError as error:
                broken(number, str(error))
            else:
                yield {**cells, ROW: number}

    def _lines(self) -> Iterator[tuple[int, dict[str, Any], str]]:
        """The number of each line that is not blank, its object, and why it is none."""
        with reading.opened(self.path) as (file, bar):
            number = 0
            while line := file.readline(MAX_VALUE_BYTES + 1):
                number += 1
                bar.update(len(line))
                if len(line) > MAX_VALUE_BYTES:
                    raise InputError(
                        f"{self.path}: line {number}: longer than {MAX_VALUE_BYTES} bytes; is it JSON lines?"
                    )
                if not line.strip():
                    continue
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield number, {}, f"broken JSON ({reprlib.repr(str(error))})"
                    continue
                is_object = isinstance(found, dict)
                yield number, found if is_object else {}, "" if is_object else f"{reprlib.repr(found)} is no object"


def _cell(value: object, name: str, nested: bool) -> str | None:
    """A cell of JSON as text; raises ValueError for one that cannot be in a column of texts, or in no text at all."""
    if isinstance(value, list | dict) and not nested:
        raise ValueError(f"key {name!r} is {reprlib.repr(value)}, expected a text or a number")
    if value is None or isinstance(value, str):
        (value or "").encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
        return value or None
    return json.dumps(value)


FORMATS: dict[str, Callable[[Path], Table]] = {
    ".csv": _Csv,
    ".tsv": _Csv,
    ".jsonl": _JsonLines,
    ".ndjson": _JsonLines,
    ".parquet": _Parquet,
}


def found_in(root: Path) -> list[Path]:
    """The tables of a folder by name, or the one that is named itself."""
    return sorted(file for file in root.iterdir() if file.suffix.lower() in FORMATS) if root.is_dir() else [root]
