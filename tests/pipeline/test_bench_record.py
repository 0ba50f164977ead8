"""Rows with a date: what they are called, what is written beside them, and that a file holds whole lines only."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet.kernels.bench.timing import device_name
from laconvnet.pipeline.bench import record
from laconvnet.pipeline.bench.ids import command_of, row_id
from laconvnet.pipeline.bench.record import Recorder, append, command_line
from laconvnet.pipeline.errors import ConfigError

LAYER = {
    "name": "unfold",
    "preset": "s,b",
    "size": 224,
    "dtype": "fp32",
    "stage": 2,
    "kernel_size": 7,
    "operation": "laconv",
    "direction": "both",
    "batch": 4,
    "cache": "warm",
    "device": "AMD EPYC, 2 threads",
    "median": 1.5,
}


NAMES: list[tuple[dict[str, Any], str]] = [
    (LAYER, "kernel/s-b/224/fp32/stage2/k7/laconv/both/unfold/batch4/cpu2"),
    (
        LAYER | {"cache": "cold", "device": "NVIDIA H100"},
        "kernel/s-b/224/fp32/stage2/k7/laconv/both/unfold/batch4/cold/cuda",
    ),
    ({"bench": "first batch", "name": "x", "step": "both", "samples": 9}, "data/first-batch/x/both/9-samples"),
    ({"bench": "decode", "name": "a, b", "step": "all", "pictures": 2}, "data/decode/a-b/2-pictures"),
    ({"bench": "checkpoint", "name": "step", "zero": 0, "batch": 2}, "train/checkpoint/step/batch2/zero0"),
    ({"bench": "checkpoint", "name": "S", "measure": "weights", "world": 8}, "scale/checkpoint/s/weights/world8"),
    ({"bench": "infer", "name": "laconv", "measure": "latency", "batch": 1}, "infer/latency/laconv/batch1"),
]


@pytest.mark.parametrize(("row", "name"), NAMES)
def test_a_row_is_called_by_what_it_is(row: dict[str, Any], name: str) -> None:
    assert row_id(row) == name
    again = {"date": "2026-01-01", "machine": "m", "commit": "c", "median": 7, "load": 3, "versions": {}}
    assert row_id({**row, **again}) == name, "a day, a machine or a number changes no name"
    assert name.startswith(command_of(row))


def test_what_is_kept_beside_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "commit", lambda: {"commit": "abc", "dirty": True})
    row = {**LAYER, "device": device_name(torch.device("cpu")), "peak_mb": math.nan}
    Recorder(tmp_path / "new" / "folder", "laconvnet bench kernel --quick").add([row, {**row, "stage": 3}])
    (file,) = (tmp_path / "new" / "folder").iterdir()
    first, second = map(json.loads, file.read_text().splitlines())
    assert {key: first[key] for key in LAYER} == {**LAYER, "device": row["device"]}
    assert (first["id"], first["peak_mb"]) == (row_id(row), None)
    assert second["id"] != first["id"]
    when = datetime.fromisoformat(first["date"])
    assert when.tzinfo == UTC
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert file.name == f"{first['date'][:10]}-{first['machine']}.jsonl"
    assert first["machine"].endswith(("-cores-cpu",) if not torch.cuda.is_available() else ("",))
    assert (first["commit"], first["dirty"], first["bench"]) == ("abc", True, "kernel")
    assert first["command"] == "laconvnet bench kernel --quick"
    assert first["versions"]["torch"] == torch.__version__
    assert "laconvnet" in first["versions"]
    assert {"cores", "load"} <= first.keys()


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--quick", "--record", "/here/rows"], "--quick"),
        (["--record", "/here/my rows", "--quick"], "--quick"),
        (["--record=/here/rows", "--quick"], "--quick"),
        (["--record", "--quick"], "--quick"),
        (["--quick", "--record"], "--quick"),
        (["--dtype", "fp32", "a b"], "--dtype fp32 'a b'"),
    ],
)
def test_where_rows_are_kept_is_no_part_of_the_command(words: list[str], kept: str) -> None:
    assert command_line(["laconvnet", "bench", "kernel", *words]) == f"laconvnet bench kernel {kept}"


def test_nothing_is_kept_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Recorder(None, "laconvnet").add([LAYER])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--record: .*file/below"):
        Recorder(tmp_path / "file" / "below", "laconvnet")
    assert (tmp_path / "file").read_text() == ""


def test_the_remains_of_a_half_line_go(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n{"b": ')
    append(file, [{"c": 3}])
    append(file, [{"d": 4}])
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"a": 1}, {"c": 3}, {"d": 4}]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    append(file, [{"a": 1}])
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with pytest.raises(OSError, match="only 5 of"):
        append(file, [{"b": 2}])
    assert file.read_text() == '{"a": 1}\n'


def _many(file: Path, number: int) -> None:
    for turn in range(50):
        append(file, [{"writer": number, "turn": turn, "text": "x" * 5000}] * 2)


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_many, args=(file, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 300
    assert all(first == second for first, second in zip(rows[::2], rows[1::2], strict=True))


def test_the_commit_is_that_of_a_checkout_of_this_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        named = ["-c", "user.name=n", "-c", "user.email=e@e"]
        subprocess.run(["git", "-C", str(tmp_path), *named, *words], check=True, capture_output=True)

    (tmp_path / "docs").mkdir()
    files = [tmp_path / "code.py", tmp_path / "docs" / "rows.jsonl"]
    for file in files:
        file.write_text("1")
    monkeypatch.setattr(record, "__file__", str(files[0]))
    assert record.commit() == {"commit": None, "dirty": None}
    git("init")
    git("add", "docs")
    git("commit", "-m", "somebody else's")
    assert record.commit() == {"commit": None, "dirty": None}
    git("add", "code.py")
    git("commit", "-m", "ours")
    clean = record.commit()
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    files[1].write_text("2")
    assert record.commit() == clean, "rows that are kept change no code"
    files[0].write_text("2")
    assert record.commit() == {**clean, "dirty": True}
