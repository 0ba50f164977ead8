"""The formats of tables: the same cells out of each, and what is none of the format."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laconvnet.shards.errors import InputError
from laconvnet.shards.sources.table import formats
from tests.messages import tells
from tests.shards.tables import write

ROWS: list[dict[str, Any]] = [
    {"picture": "a.jpg", "text": 'two\nlines, "quoted"', "x": 1.5, "box": [1, 2.25, 3, 4]},
    {"picture": "é/b.jpg", "text": None, "x": 2.0, "box": [[1, 2, 3, 4], [5, 6, 7, 8]]},
]
USED = {"picture": "picture", "expression": "text", "b0": "x", "box": "box"}
NESTED = frozenset(("box",))


def cells(path: Path, used: dict[str, str]) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """The rows of a table, and the numbers and reasons of those that are broken."""
    broken: list[tuple[int, str]] = []
    batches = formats.opened(path).batches(used, NESTED, lambda number, reason: broken.append((number, reason)))
    return [row for batch in batches for row in batch.to_pylist()], broken


@pytest.mark.parametrize(("name", "first"), [("t.csv", 2), ("t.tsv", 2), ("t.jsonl", 1), ("T.PARQUET", 1)])
def test_each_format_gives_the_same_texts(tmp_path: Path, name: str, first: int) -> None:
    rows = [row if not name.endswith("PARQUET") else row | {"box": [[1, 2.25, 3, 4]]} for row in ROWS]
    write(tmp_path / name.lower(), rows).rename(tmp_path / name)
    table = formats.opened(tmp_path / name)
    assert table.header == ("picture", "text", "x", "box")
    found, broken = cells(tmp_path / name, USED)
    assert broken == []
    assert [(row["picture"], row["expression"], row["row"]) for row in found] == [
        ("a.jpg", 'two\nlines, "quoted"', first),
        ("é/b.jpg", None, first + 1),
    ]
    assert [float(row["b0"]) for row in found] == [1.5, 2.0]
    assert [json.loads(row["box"]) for row in found] == [row["box"] for row in rows]


def test_only_the_columns_that_are_used_are_read(tmp_path: Path) -> None:
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        path = write(tmp_path / name, [{"picture": "a.jpg", "text": "it", "more": 3}])
        (found,) = cells(path, {"picture": "picture", "expression": "text"})[0]
        assert set(found) == {"picture", "expression", "row"}


def test_a_row_of_another_length_is_broken_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("picture,text\na.jpg,one\n\nb.jpg\nc.jpg,three\nd.jpg,four,more\ne.jpg,five\n")
    found, broken = cells(path, {"picture": "picture", "expression": "text"})
    assert [(row["row"], row["expression"]) for row in found] == [(2, "one"), (4, "three"), (6, "five")]
    assert [number for number, _ in broken] == [3, 5]
    assert tells(broken[0][1], "1 cells, the header has 2", "b.jpg")


def test_broken_rows_are_numbered_over_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_BLOCK_BYTES", 200)
    path = tmp_path / "t.csv"
    lines = [f"p{number}.jpg,text {number}" if number % 7 else f"p{number}.jpg" for number in range(2, 200)]
    path.write_text("\n".join(["picture,text", *lines]))
    found, broken = cells(path, {"picture": "picture", "expression": "text"})
    assert [row["expression"] for row in found] == [f"text {row['row']}" for row in found]
    assert [number for number, _ in broken] == list(range(7, 200, 7))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"picture": "b.jpg"', ("broken JSON",)),
        ("[1]", ("[1] is no object",)),
        ('{"picture": ["b.jpg"], "text": "it"}', ("key 'picture'", "expected a text or a number")),
        ('{"picture": "\\ud800"}', ("surrogates",)),
        ('{"picture": ' + "[" * 100_000, ("broken JSON",)),
    ],
)
def test_a_line_that_is_no_row_is_broken_alone(tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"picture": "a.jpg"}\n \n' + line + '\n{"text": 5, "picture": true}\n')
    found, broken = cells(path, {"picture": "picture", "expression": "text"})
    assert [(row["row"], row["picture"], row["expression"]) for row in found] == [(1, "a.jpg", None), (4, "true", "5")]
    ((number, reason),) = broken
    assert number == 3
    assert tells(reason, *words)


def test_a_key_of_the_last_line_is_a_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"picture": "a.jpg"}] * 5000 + [{"picture": "b.jpg", "mask": "b.png"}])
    assert formats.opened(path).header == ("picture", "mask")
    found, _ = cells(path, {"picture": "picture", "mask": "mask"})
    assert found[-1] == {"picture": "b.jpg", "mask": "b.png", "row": 5001}


def test_types_of_parquet_that_are_texts_or_numbers(tmp_path: Path) -> None:
    table = pa.table(
        {
            "a": pa.array(["x", "y", "x"]).dictionary_encode(),
            "b": pa.array([Decimal("1.50"), None, Decimal("2.00")]),
            "c": pa.array([1, None, 3], pa.int8()),
            "d": pa.array([True, False, None]),
            "e": pa.array(["x", None, "z"], pa.large_string()),
            "f": pa.array(["x", None, "z"], pa.string_view()),
            "box": pa.array([{"size": [2, 2], "counts": b"04"}, None, {"size": [1, 4], "counts": b"4"}]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found, _ = cells(tmp_path / "t.parquet", {name: name for name in table.column_names})
    mask = '{"size": [2, 2], "counts": "04"}'
    assert [tuple(row.values()) for row in found[:2]] == [
        ("x", "1.50", "1", "true", "x", "x", mask, 1),
        ("y", None, None, "false", None, None, None, 2),
    ]
    for name in ("picture", "expression"):
        with pytest.raises(InputError, match=r"t\.parquet: column 'box' holds struct<.*>, expected texts or numbers"):
            cells(tmp_path / "t.parquet", {name: "box"})
    pq.write_table(pa.table({"box": [b"\x89PNG"]}), tmp_path / "u.parquet")
    with pytest.raises(InputError, match="column 'box' holds binary"):
        cells(tmp_path / "u.parquet", {"box": "box"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", r"t\.csv: holds nothing; expected a header"),
        ("t.csv", b"\xef\xbb\xbf\n \r\n", r"t\.csv: holds nothing; expected a header"),
        ("t.csv", b"picture,text\n\xff.jpg,it\n", r"t\.csv: line 2: byte 0xff is not UTF-8; save it as CSV in UTF-8"),
        ("t.csv", b"picture,text\na.jpg,it\nb.jpg,t\xc3", r"t\.csv: line 3: byte 0xc3 is not UTF-8"),
        ("t.jsonl", b'[{"picture": "a.jpg"}]\n', r"t\.jsonl: line 1: .* is no object, nor .*; expected an object"),
        ("t.jsonl", b"\nno\nno\n", r"t\.jsonl: line 2: broken JSON .*; expected an object a line"),
        ("t.parquet", b"picture,text\n", r"t\.parquet: not the parquet it is named for"),
        ("t.xlsx", b"", r"t\.xlsx: not known as a table; .*\.csv.*\.parquet: save a .* as CSV"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        cells(path, {"picture": "picture"})
    assert "\n" not in str(caught.value)


def test_a_row_that_is_no_text_is_told_by_the_message_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow writes a traceback on standard error where such a row has another length; a letter may span two blocks."""
    monkeypatch.setattr(formats, "_BLOCK_BYTES", 5)
    path = tmp_path / "t.csv"
    path.write_bytes("picture,text\nü.jpg,éé\n".encode() + b"\xfc.jpg,it,more\n")
    with pytest.raises(InputError, match=r"t\.csv: line 3: byte 0xfc is not UTF-8"):
        formats.opened(path)
    assert "Traceback" not in capfd.readouterr().err


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_VALUE_BYTES", 30)
    path = tmp_path / "t.jsonl"
    path.write_text('{"picture": "a.jpg"}\n{"picture": "' + "b" * 40 + '"}\n')
    with pytest.raises(InputError, match=r"t\.jsonl: line 2: longer than 30 bytes"):
        formats.opened(path)


def test_texts_that_take_more_than_their_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of one long text and its number in each row."""
    pq.write_table(pa.table({"picture": ["p" * 10_000] * 1000}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 2000
    assert len(cells(tmp_path / "t.parquet", {"picture": "picture"})[0]) == 1000
    monkeypatch.setattr(formats, "_BATCH_BYTES", 9_999_999)
    with pytest.raises(InputError, match=r"t\.parquet: .*more than 9999999 bytes of texts in 1000 rows"):
        cells(tmp_path / "t.parquet", {"picture": "picture"})


def test_damage_in_a_parquet_file_is_found(tmp_path: Path) -> None:
    table = pa.table({"picture": [f"{number}.jpg" for number in range(1000)]})
    pq.write_table(table, tmp_path / "t.parquet", compression=None, use_dictionary=False, write_page_checksum=True)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[data.index(b"500.jpg")] ^= 1
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"t\.parquet: not the parquet"):
        cells(tmp_path / "t.parquet", {"picture": "picture"})


def test_the_tables_of_a_folder(tmp_path: Path) -> None:
    for name in ("val.parquet", "train.csv", "notes.txt", "a.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in formats.found_in(tmp_path)] == ["train.csv", "val.parquet"]
    assert formats.found_in(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
