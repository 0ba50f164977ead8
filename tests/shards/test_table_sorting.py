"""Rows by picture in bounded memory, and ids that occur twice."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from laconvnet.shards.sources.table.ids import Ids
from laconvnet.shards.sources.table.sorting import Sorter


def batches(pictures: list[str], rows: int) -> list[pa.RecordBatch]:
    numbers = list(range(len(pictures)))
    table = pa.table({"picture": pictures, "number": numbers})
    batch = table.to_batches()[0]
    return [batch.slice(begin, rows) for begin in range(0, len(pictures), rows)]


def _expected(pictures: list[str]) -> list[tuple[str, list[int]]]:
    return [
        (picture, [number for number, other in enumerate(pictures) if other == picture])
        for picture in sorted(set(pictures))
    ]


@pytest.mark.parametrize(("run_bytes", "count"), [(1, 18), (5000, 3), (1 << 30, 0)])
def test_rows_come_by_picture_in_the_order_they_came(
    run_bytes: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    random.seed(3)
    pictures = [f"{random.choice('abcdefghé猫')}{random.randrange(20)}.jpg" for _ in range(900)]
    sorter = Sorter("picture", run_bytes)
    for batch in batches(pictures, 50):
        sorter.add(batch)
    runs = list(tmp_path.rglob("*.arrow"))
    assert len(runs) == count
    assert sorter.keys() == (0 if runs else len(set(pictures)))
    found = [(picture, [row["number"] for row in rows]) for picture, rows in sorter.groups()]
    assert found == _expected(pictures)
    del sorter
    assert list(tmp_path.iterdir()) == [], "nothing stays behind"


@pytest.mark.parametrize(("more", "counts"), [(0, (0, 1, 1, 2)), (1, (0, 0, 1, 1))])
def test_a_run_ends_when_it_is_large_enough(
    more: int, counts: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two batches, or of three where it may be a byte larger than two."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (whole,) = batches(["a.jpg"] * 100, 100)
    sorter = Sorter("picture", 2 * whole.nbytes + more)
    for count in counts:
        sorter.add(whole)
        assert len(list(tmp_path.rglob("*.arrow"))) == count


def test_without_rows_there_is_no_picture() -> None:
    sorter = Sorter("picture")
    assert sorter.keys() == 0
    assert list(sorter.groups()) == []


def ids_of(rows: list[tuple[str | None, str]]) -> Ids:
    """In two batches; the rows are numbered from 2."""
    ids = Ids()
    for begin in (0, 2):
        part = rows[begin : begin + 2] if begin == 0 else rows[begin:]
        if part:
            batch = pa.RecordBatch.from_pydict({"id": [id for id, _ in part], "text": [text for _, text in part]})
            ids.add(batch, list(range(2 + begin, 2 + begin + len(part))), "id")
    return ids


def test_ids_that_occur_twice() -> None:
    rows = [
        ("a", "x"),
        (None, "x"),
        ("b", "x"),
        ("a", "x"),
        (None, "y"),
        ("b", "y"),
        ("c", "x"),
        ("b", "y"),
        ("a", "x"),
    ]
    found = ids_of(rows).twins(Path("t.csv"), "row")
    assert {number: error.cause for number, error in found.items()} == dict.fromkeys((4, 5, 7, 9, 10), "duplicate id")
    assert str(found[5]) == "t.csv: row 5: its id is that of row 2 too, alike"
    assert str(found[4]) == "t.csv: row 4: its id is that of row 7 too, with other contents"
    assert str(found[9]) == "t.csv: row 9: its id is that of row 4 too, with other contents"


def test_ids_of_their_own() -> None:
    assert ids_of([("a", "x"), ("b", "x"), ("c", "x")]).twins(Path("t.csv"), "row") == {}
    assert ids_of([]).twins(Path("t.csv"), "row") == {}
    assert ids_of([(None, "x")]).twins(Path("t.csv"), "row") == {}
