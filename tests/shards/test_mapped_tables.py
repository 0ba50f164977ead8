"""Mapped tables: the same rows as any table's, the same bytes however it came, nothing copied but what is asked for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconvnet.shards.errors import InputError
from laconvnet.shards.format import tables
from laconvnet.shards.format.checksums import table_facts
from laconvnet.shards.format.tables import Columns, MappedTable, mapped, row_type, write

SCHEMA = pa.schema(
    [
        pa.field("number", pa.int32(), nullable=False),
        pa.field("large", pa.uint64(), nullable=False),
        pa.field("side", pa.float32(), nullable=False),
        pa.field("flag", pa.bool_(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("coco", pa.int64()),
        pa.field("answers", pa.list_(pa.string()), nullable=False),
    ]
)
NUMBERS = ("number", "large", "side")
TEXT = st.text(st.characters(codec="utf-8"), max_size=4)
ROW = st.fixed_dictionaries(
    {
        "number": st.integers(-(2**31), 2**31 - 1),
        "large": st.integers(0, 2**64 - 1),
        "side": st.floats(width=32, allow_nan=False),
        "flag": st.booleans(),
        "text": TEXT,
        "answer": st.none() | TEXT,
        "coco": st.none() | st.integers(-(2**63), 2**63 - 1),
        "answers": st.lists(TEXT, max_size=3),
    }
)


def stored(path: Path, *parts: pa.Table) -> MappedTable:
    write(path, SCHEMA, parts)
    return mapped(path, [SCHEMA], table_facts(path))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, max_size=30), batch=st.integers(1, 12), few=st.sampled_from([0, 1, 32]), data=st.data())
def test_rows_are_those_of_a_plain_take(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], batch: int, few: int, data: st.DataObject
) -> None:
    """In any order, with repetitions, over the borders of batches; looked at one by one, and batch by batch."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=40)) if rows else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BATCH_ROWS", batch)
        patch.setattr(tables, "_FEW", few)
        read = stored(tmp_path_factory.mktemp("tables") / "t.arrow", table)
        assert read.to_table().equals(table)
        assert read["text"].num_chunks == -(-len(rows) // batch)
        columns = Columns(read)
        for wanted in (np.array(chosen, np.int64), np.array(chosen, np.int32)):
            plain = table.take(pa.array(wanted))
            for field in SCHEMA:
                assert columns.values(field.name, wanted) == plain[field.name].to_pylist()
                found: dict[int, Any] = {}
                for where, values in columns.pieces(field.name, wanted):
                    found.update(zip(np.arange(len(chosen))[where].tolist(), values.to_pylist(), strict=True))
                assert [found[index] for index in range(len(chosen))] == plain[field.name].to_pylist()
            for name in NUMBERS:
                numbers = columns.numbers(name, wanted)
                assert numbers.dtype == SCHEMA.field(name).type.to_pandas_dtype()
                assert numbers.tolist() == plain[name].to_pylist()


def rows_of(count: int) -> pa.Table:
    return pa.table(
        {
            "number": np.arange(count, dtype=np.int32),
            "large": np.arange(count, dtype=np.uint64),
            "side": np.arange(count, dtype=np.float32),
            "flag": pa.array(np.arange(count) % 3 == 0),
            "text": [f"text {row}" for row in range(count)],
            "answer": [None if row % 4 == 0 else str(row) for row in range(count)],
            "coco": pa.array(np.arange(count), pa.int64(), mask=np.arange(count) % 5 == 0),
            "answers": [["a"] * (row % 3) for row in range(count)],
        },
        schema=SCHEMA,
    )


@pytest.mark.parametrize("few", [0, 32])
@pytest.mark.parametrize("wrong", [-1, 20])
def test_a_row_that_is_not_there_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int, few: int
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 7)
    monkeypatch.setattr(tables, "_FEW", few)
    columns = Columns(stored(tmp_path / "t.arrow", rows_of(20)))
    for read in (columns.numbers, columns.values, lambda *arguments: list(columns.pieces(*arguments))):
        with pytest.raises(IndexError, match=f"row {wrong} is out of bounds of a table of 20"):
            read("number", np.array([0, 3, 19, wrong]))


def test_a_table_without_rows(tmp_path: Path) -> None:
    for number, parts in enumerate(([], [SCHEMA.empty_table()], [rows_of(0), rows_of(0)])):
        read = stored(tmp_path / f"{number}.arrow", *parts)
        assert read.to_table().equals(SCHEMA.empty_table())
        columns, none = Columns(read), np.array([], np.int64)
        assert columns.numbers("side", none).tolist() == columns.values("answers", none) == []
        assert list(columns.pieces("text", none)) == []
        with pytest.raises(IndexError, match="row 0 is out of bounds of a table of 0"):
            columns.values("text", np.array([0]))


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 50), max_size=8),
    batch=st.integers(3, 60),
    before=st.integers(0, 9),
    after=st.integers(0, 9),
)
def test_the_same_bytes_in_whatever_parts_a_table_comes(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], batch: int, before: int, after: int
) -> None:
    """Parts of any size, slices of larger tables among them."""
    folder = tmp_path_factory.mktemp("parts")
    table = rows_of(before + 50 + after).slice(before, 50)
    borders = [0, *sorted(cuts), 50]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BATCH_ROWS", batch)
        stored(folder / "whole.arrow", pa.Table.from_pylist(table.to_pylist(), schema=SCHEMA))
        parts = [table.slice(begin, end - begin) for begin, end in pairwise(borders)]
        stored(folder / "parts.arrow", *parts)
    assert (folder / "parts.arrow").read_bytes() == (folder / "whole.arrow").read_bytes()
    assert table_facts(folder / "parts.arrow") == table_facts(folder / "whole.arrow")


def test_what_memory_holds_under_a_null_is_not_written(tmp_path: Path) -> None:
    missing = np.arange(20) % 5 == 0
    for name, under in (("zeros", 0), ("others", 77)):
        coco = pa.array(np.where(missing, under, np.arange(20)), pa.int64(), mask=missing)
        at = SCHEMA.get_field_index("coco")
        stored(tmp_path / name, rows_of(20).set_column(at, SCHEMA.field("coco"), coco))
    assert (tmp_path / "zeros").read_bytes() == (tmp_path / "others").read_bytes()


def test_a_long_table_is_not_held_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 1000)
    part = rows_of(1000)
    largest, before = 0, pa.total_allocated_bytes()

    def parts() -> Any:
        nonlocal largest
        for _ in range(100):
            largest = max(largest, pa.total_allocated_bytes() - before)
            yield pa.concat_tables([part.slice(0, 400), part.slice(400)]).combine_chunks()

    write(tmp_path / "t.arrow", SCHEMA, parts())
    assert 0 < largest < 10 * part.nbytes


def test_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 10_000)
    write(tmp_path / "t.arrow", SCHEMA, [rows_of(50_000)])
    before = pa.total_allocated_bytes()
    read = mapped(tmp_path / "t.arrow", [SCHEMA], table_facts(tmp_path / "t.arrow"))
    columns = Columns(read)
    assert columns.values("text", np.array([49_999, 3])) == ["text 49999", "text 3"]
    assert columns.numbers("side", np.array([49_999, 3])).tolist() == [49_999, 3]
    assert pa.total_allocated_bytes() - before < 1000
    assert read.nbytes > 1_000_000


def test_another_table_is_refused_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    write(path, SCHEMA, [rows_of(3)])
    found = table_facts(path)
    other = pa.schema([*list(SCHEMA)[:-1], pa.field("families", pa.string())])
    with pytest.raises(InputError, match=r"t.arrow: other columns .*answers.*families.*\); build"):
        mapped(path, [other], found)
    swapped = pa.schema(list(SCHEMA)[::-1])
    with pytest.raises(InputError, match=r"t.arrow: other columns than expected"):
        mapped(path, [swapped], found)


def test_row_numbers_are_as_wide_as_the_table_is_long() -> None:
    assert [row_type(count) for count in (0, 2**31 - 1, 2**31, 10**12)] == [np.int32, np.int32, np.int64, np.int64]


def test_a_batch_is_of_so_many_rows_that_every_version_writes_the_same_bytes(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("number", pa.int32(), nullable=False)])
    table = pa.table({"number": np.arange(2**18 + 1, dtype=np.int32)}, schema=schema)
    write(tmp_path / "it.arrow", schema, [table])
    with pa.ipc.open_file(tmp_path / "it.arrow") as reader:
        assert [reader.get_batch(at).num_rows for at in range(reader.num_record_batches)] == [2**18, 1]
