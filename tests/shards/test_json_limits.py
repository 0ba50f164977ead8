"""JSON of others: what nests without end or is one value of gigabytes is refused before the parser holds it."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import pytest

from laconvnet.launch.cli import main
from laconvnet.shards.errors import InputError
from laconvnet.shards.sources import json_limits, reading
from laconvnet.shards.sources.json_limits import MAX_DEPTH, JsonLimitError, LimitedJson


def drained(content: bytes, block: int, depth: int = 1) -> bytes:
    """What is read of it, in blocks of so many bytes."""
    limited, blocks = LimitedJson(io.BytesIO(content), depth), []
    while read := limited.read(block):
        blocks.append(read)
    return b"".join(blocks)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
def test_depth_is_that_of_brackets_outside_of_strings(block: int) -> None:
    for text in (b'"[[["', b'"\\"[[["', b'"\\\\"', b'"\\\\\\"["', b'{"a": "}"}'):
        content = b"[" * (MAX_DEPTH - 1) + text + b"," + b"[]" + b"]" * (MAX_DEPTH - 1)
        assert drained(content, block) == content
        hidden = b"[" * (MAX_DEPTH - 1) + text + b",[[]]" + b"]" * (MAX_DEPTH - 1)
        with pytest.raises(JsonLimitError, match=f"nested more than {MAX_DEPTH} deep"):
            drained(hidden, block)


def test_closing_brackets_in_strings_hide_no_depth() -> None:
    with pytest.raises(JsonLimitError):
        drained(b'["]",' * (MAX_DEPTH + 1), 64)


def test_one_value_is_bounded_and_any_number_of_them_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_limits, "MAX_VALUE_BYTES", 1000)
    item = json.dumps({"a": [1] * 50, "b": {"c": "x" * 50}}).encode()
    for content, depth in (
        (b"[" + b",".join([item] * 100) + b"]", 1),
        (b'{"images": [' + b",".join([item] * 100) + b"]}", 2),
        (b'{"info": [' + b",".join([b"[1]"] * 900) + b'], "images": [' + item + b"]}", 2),
        (b"[" + b"1," * 1000 + b"1]", 1),
        (b"{" + b'"k":1,' * 1000 + b'"k":1}', 1),
    ):
        assert drained(content, 64, depth) == content
    for content in (
        b'[{"a": [' + b"1," * 1000,
        b'[{"a": "' + b"x" * 2000,
        b'[{"a": "' + b"[,]" * 2000,
        b'["' + b"x," * 2000,
        b"[" + b"1" * 2000,
        b"[" + b'{"a":' * 3 + b'{"k":1},' * 1000,
    ):
        with pytest.raises(JsonLimitError, match="one value of more than 1000 bytes"):
            drained(content, 64)


@pytest.mark.parametrize("content", [b"[" * 100_000, nested(100_000), b'[{"a":' + nested(100_000), b'{"a":' * 100_000])
def test_nesting_without_end_takes_no_memory_and_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "deep.json"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"^{path}: refused JSON: nested more than {MAX_DEPTH} deep"):
            list(reading.read_items(path))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", ["1e999999", "-1e999999", "NaN", "Infinity", "9" * 10_000, "9" * 40])
def test_a_number_that_is_none_names_the_file(tmp_path: Path, number: str) -> None:
    path = tmp_path / "number.json"
    path.write_text(f'[{{"bbox": [0, 0, 1, {number}]}}]')
    with pytest.raises(InputError, match=rf"^{path}: broken JSON"):
        list(reading.read_items(path))


def test_an_integer_that_no_table_holds_is_refused() -> None:
    assert reading.field({"id": 2**63 - 1}, "here", int, "id") == 2**63 - 1
    for value in (2**63, -(2**63) - 1, 10**5000):
        with pytest.raises(InputError, match=r"here: key 'id' has \d+ bits, expected a number of 64"):
            reading.field({"id": value}, "here", int, "id")


def test_a_build_of_such_a_file_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "VG_100K").mkdir()
    (tmp_path / "VG_100K" / "1.jpg").touch()
    for name in ("image_data.json", "region_descriptions.json"):
        (tmp_path / name).write_bytes(b"[" * 100_000)
    code = main(["shards", "build", "visual_genome", "--root", str(tmp_path), "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert f"{tmp_path / 'image_data.json'}: refused JSON" in line
    assert not (tmp_path / "out").exists()
