"""Checksums of mapped tables: no value of a block is seen before the block was compared, and each once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from laconvnet.shards.errors import InputError
from laconvnet.shards.format import checksums, tables
from laconvnet.shards.format.checksums import file_facts, table_facts
from laconvnet.shards.format.tables import Columns, MappedTable, mapped, write

SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("answers", pa.list_(pa.string()), nullable=False),
        pa.field("flag", pa.bool_(), nullable=False),
    ]
)
ROWS, BATCH = 25, 10
TABLE = pa.table(
    {
        "number": np.arange(ROWS),
        "text": [f"text {row}" for row in range(ROWS)],
        "answer": [None if row % 2 else f"answer {row}" for row in range(ROWS)],
        "answers": [[f"{row}"] * (row % 3) for row in range(ROWS)],
        "flag": [row % 2 == 0 for row in range(ROWS)],
    },
    schema=SCHEMA,
)
# What each way to read a column must refuse, given the table and the column's name.
READERS: dict[str, Callable[[MappedTable, str], object]] = {
    "numbers": lambda table, name: Columns(table).numbers("number", np.arange(ROWS)),
    "values": lambda table, name: Columns(table).values(name, np.arange(ROWS)),
    "values of few": lambda table, name: Columns(table).values(name, np.array([24, 12, 3])),
    "pieces": lambda table, name: list(Columns(table).pieces(name, np.arange(ROWS))),
    "getitem": lambda table, name: table[name],
    "select": lambda table, name: list(table.select([name]).to_batches()),
    "to_batches": lambda table, name: list(table.to_batches()),
    "slice": lambda table, name: table.slice(12, 2),
    "to_table": lambda table, name: table.to_table(),
    "to_pylist": lambda table, name: table.to_pylist(),
    "check": lambda table, name: table.check(),
}


@pytest.fixture(autouse=True)
def _small_batches_read_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", BATCH)
    monkeypatch.setattr(tables, "WHOLE_BYTES", 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "t.arrow", SCHEMA, [TABLE])
    return tmp_path / "t.arrow"


def flip(file: Path, at: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def place_of(file: Path, column: str, batch: int, buffer: int) -> int:
    """The first byte of a buffer of a column in a batch."""
    whole = pa.py_buffer(file.read_bytes())
    with pa.ipc.open_file(whole) as reader:
        buffers = reader.get_batch(batch).column(column).buffers()
    return int(buffers[buffer].address - whole.address)


def test_every_byte_of_a_file_is_compared(file: Path) -> None:
    found = table_facts(file)
    assert mapped(file, [SCHEMA], found).to_table().equals(TABLE)
    assert [len(digits) // 16 for digits in found["columns"].values()] == [3] * len(SCHEMA)
    for at in range(file.stat().st_size):
        flip(file, at, at % 8)
        with pytest.raises(InputError, match=r"t.arrow: the checksum of .* differs from the manifest's"):
            mapped(file, [SCHEMA], found).check()
        flip(file, at, at % 8)
    mapped(file, [SCHEMA], found).check()


@pytest.mark.parametrize(
    ("read", "column", "buffer"),
    [
        (read, column, buffer)
        for column, buffer in (("number", 1), ("text", 1), ("text", 2), ("answer", 0), ("answers", 1), ("flag", 1))
        for read in READERS
        if (read, column) == ("numbers", "number") or read != "numbers"
    ],
)
def test_no_value_is_read_from_a_damaged_block(file: Path, read: str, column: str, buffer: int) -> None:
    """Values, offsets, validity: by whatever method they are read."""
    found = table_facts(file)
    flip(file, place_of(file, column, 1, buffer))
    with pytest.raises(InputError, match=rf"t.arrow: .*column '{column}' in batch 1, bytes \d+ to \d+") as error:
        READERS[read](mapped(file, [SCHEMA], found), column)
    assert "copy it again" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_blocks_of_a_damaged_file_are_read(file: Path) -> None:
    """Nothing else is digested: neither other columns, nor other batches of this one."""
    found = table_facts(file)
    flip(file, place_of(file, "text", 1, 2))
    table = mapped(file, [SCHEMA], found)
    columns = Columns(table)
    assert columns.numbers("number", np.arange(ROWS)).tolist() == list(range(ROWS))
    assert columns.values("text", np.array([0, 9, 20])) == ["text 0", "text 9", "text 20"]
    assert table.slice(0, BATCH).equals(TABLE.slice(0, BATCH))
    assert table.slice(2 * BATCH, 99).equals(TABLE.slice(2 * BATCH))
    for _ in range(2):  # and what was refused once is refused again
        with pytest.raises(InputError, match="'text' in batch 1"):
            columns.values("text", np.array([0, 10]))


def test_a_block_is_digested_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[tuple[int, int]] = []
    plain = checksums._Blocks.checksum

    def counted(self: Any, batch: int, column: int) -> str:
        digested.append((batch, column))
        return plain(self, batch, column)

    found = table_facts(file)
    monkeypatch.setattr(checksums._Blocks, "checksum", counted)
    table = mapped(file, [SCHEMA], found)
    assert digested == []
    columns = Columns(table)
    for _ in range(3):
        columns.values("text", np.array([3, 24]))
    assert sorted(digested) == [(0, 1), (2, 1)]
    table.to_pylist()
    table.check()
    list(table.select(["flag"]).to_batches())
    assert sorted(digested) == [(batch, column) for batch in range(3) for column in range(len(SCHEMA))]


def test_a_small_table_is_compared_when_it_is_opened(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = table_facts(file)
    flip(file, place_of(file, "flag", 2, 1))
    mapped(file, [SCHEMA], found)
    monkeypatch.setattr(tables, "WHOLE_BYTES", file.stat().st_size)
    with pytest.raises(InputError, match="'flag' in batch 2"):
        mapped(file, [SCHEMA], found)


def test_nothing_of_a_damaged_frame_is_parsed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema, a batch's head, the footer: Arrow is not given bytes that nobody wrote."""
    found = table_facts(file)
    (first, length), *_ = found["bodies"]
    monkeypatch.setattr(pa.ipc, "open_file", lambda *_: pytest.fail("parsed"))
    for at in (0, 20, first - 1, first + length, file.stat().st_size - 20):
        flip(file, at)
        with pytest.raises(InputError, match=r"t.arrow: .*schema.*footer differs"):
            mapped(file, [SCHEMA], found)
        flip(file, at)


def test_a_table_without_rows_is_a_frame(tmp_path: Path) -> None:
    write(tmp_path / "t.arrow", SCHEMA, [])
    found = table_facts(tmp_path / "t.arrow")
    assert (found["bodies"], set(found["columns"].values())) == ([], {""})
    assert mapped(tmp_path / "t.arrow", [SCHEMA], found).to_table().equals(SCHEMA.empty_table())


def test_threads_that_meet_at_a_damaged_block_are_all_refused(file: Path) -> None:
    found = table_facts(file)
    flip(file, place_of(file, "text", 1, 2))
    columns, barrier, refused = Columns(mapped(file, [SCHEMA], found)), Barrier(8), []

    def read() -> None:
        barrier.wait()
        try:
            columns.values("text", np.array([12]))
        except InputError:
            refused.append(1)

    threads = [Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 8


def test_a_table_without_checksums_of_blocks_is_compared_as_a_whole_where_it_is_asked_for(file: Path) -> None:
    """As version 2 of the manifest recorded it."""
    found = file_facts(file)
    flip(file, place_of(file, "flag", 1, 1))
    table = mapped(file, [SCHEMA], found)
    assert len(table.to_pylist()) == ROWS
    with pytest.raises(InputError, match=r"t.arrow: the checksum of the file differs"):
        table.check()
    flip(file, place_of(file, "flag", 1, 1))
    table.check()


def test_a_file_without_blocks_is_read_whole_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.arrow"
    write(path, SCHEMA, [TABLE])
    table = mapped(path, [SCHEMA], file_facts(path))
    read: list[Path] = []

    def counted(file: Path) -> dict[str, Any]:
        read.append(file)
        return file_facts(file)

    monkeypatch.setattr(checksums, "file_facts", counted)
    assert table.to_table().equals(TABLE)
    assert read == []
    for _ in range(2):
        table.check()
    assert read == [path]
