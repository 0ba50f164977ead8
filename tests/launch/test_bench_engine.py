"""`laconvnet bench train --part engine`: DeepSpeed's engine beside bare steps, on batches from memory."""

from __future__ import annotations

import json
import math
from multiprocessing.connection import Connection

import pytest
import torch

from laconvnet.launch import cli
from laconvnet.pipeline.bench import engine, engine_steps
from laconvnet.pipeline.bench.engine_steps import Round, Work
from laconvnet.pipeline.bench.ids import row_id
from laconvnet.pipeline.bench.speed import Network
from laconvnet.pipeline.model import ModelConfig

CPU = torch.device("cpu")
TINY = Network(ModelConfig("tiny"), 32, 6, 2, "fp32", 1)
COMMAND = ["bench", "train", "--device", "cpu", "--part", "engine", "--rounds", "2", "--json"]
KEYS = ["--data.batch", "2", "--data.size", "32", "--data.threads", "1"]


def made_up(work: Work, there: Connection) -> None:
    """Rounds of a process that computes nothing; of bf16 a loss is lost, and ZeRO 3 has no room."""
    if work.zero == 3:
        there.send("out of memory")
        return
    for number in range(work.rounds):
        lost = work.network.precision == "bf16"
        loss = {"bare": 2.0, "engine": math.nan if lost else 1.0}
        seconds = {"bare": 0.010, "engine": 0.012}
        there.send(Round(2, number, seconds, {"bare": 5.0, "engine": 6.0}, loss, {"bare": True, "engine": not lost}))


def crashed(work: Work, there: Connection) -> None:
    raise SystemExit(7)


def test_rows_of_what_was_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(engine_steps, "measure", made_up)
    monkeypatch.setattr(engine, "_START", "fork")  # at once
    assert cli.main([*COMMAND, *KEYS]) == 0
    table = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(row["precision"], row["zero"], row["name"], row["median"], row["note"]) for row in table]
    assert told == [
        (precision, zero, *rest)
        for precision in ("fp32", "bf16")
        for zero, *rest in (
            (1, "bare", 10.0, None),
            (1, "engine", 12.0, None),
            (3, "engine", None, "out of memory"),
        )
    ]
    ours = table[1]
    assert (ours["bench"], ours["preset"], ours["size"], ours["batch"], ours["steps"]) == ("engine", "tiny", 32, 2, 3)
    assert (ours["baseline"], ours["rounds"], ours["pictures"], ours["skipped"]) == ("bare", 2, 2, 1)
    assert ours["over_percent"] == pytest.approx(20)
    assert (ours["peak_mb"], ours["loss"], ours["finite"]) == (6, 1, True)
    assert (table[4]["loss"], table[4]["finite"]) == (None, False)  # JSON has no NaN
    assert table[0]["skipped"] == 0
    assert len({row_id(row) for row in table}) == len(table)
    assert {row_id(row).split("/")[0] for row in table} == {"train"}


def test_a_process_that_dies_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_steps, "measure", crashed)
    monkeypatch.setattr(engine, "_START", "fork")
    first = next(engine.rows(TINY, CPU, 1, 1))
    assert [row["note"] for row in first] == ["failed: exit code 7"]


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_NEEDED", ("torch", "nowhere_to_be_found"))
    (only,) = engine.rows(TINY, CPU, 1, 1)
    assert [(row["bench"], row["median"], row["note"]) for row in only] == [
        ("engine", None, "left out: it needs nowhere_to_be_found")
    ]


@pytest.mark.slow
def test_the_real_engine_trains(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(engine, "ZERO", (3,))
    monkeypatch.setattr(engine, "PRECISIONS", {"cpu": ("bf16",)})
    (found,) = engine.rows(TINY, CPU, 1, 2)
    assert [(row["name"], row["zero"], row["note"], row["finite"]) for row in found] == [
        ("bare", 3, None, True),
        ("engine", 3, None, True),
    ]
    assert all(row["median"] > 0 and row["skipped"] == 0 for row in found)
    assert capfd.readouterr().out == ""  # where rows are printed
