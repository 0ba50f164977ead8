"""The doctor on a planned run: a set against its ranks, a cluster's file against its partitions."""

from __future__ import annotations

import json
import re
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from laconvnet.launch import cli, doctor
from laconvnet.launch.doctor import apart, data, slurm
from laconvnet.launch.doctor.check import Check, PlannedRun
from laconvnet.launch.slurm import queue
from laconvnet.launch.slurm.cluster import Cluster
from laconvnet.pipeline.bench.made import images, made_set
from laconvnet.pipeline.config import TrainConfig, load
from laconvnet.pipeline.data.plan import Plan
from tests.messages import tells


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    return made_set(tmp_path / "set", images(2, 64, 48), 40, 64, 48)


def config(folder: Path, *keys: str) -> TrainConfig:
    return load(None, ["--data.folder", str(folder), *keys])


def planned(asked: PlannedRun) -> dict[str, Check]:
    return {check.name: check for check in data.planned(asked)}


def test_a_set_that_fits(shards: Path) -> None:
    found = planned(PlannedRun(processes=1, config=config(shards, "--data.batch", "8", "--data.threads", "1")))
    assert {name: check.state for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert re.fullmatch(f"40 expressions of 'train' .* 40 items .* 1 shards at {shards}", found["set"].found)
    assert tells(found["batch"].found, "8 examples", "1 processes", "8 each", "5 steps")
    assert tells(found["window"].found, "none", "1 shards")
    assert "of order in each of 1 processes" in found["set memory"].found
    assert not planned(PlannedRun()), "nothing was asked"


def test_a_set_too_small_for_its_ranks(shards: Path) -> None:
    found = planned(PlannedRun(processes=48, config=config(shards, "--data.batch", "96", "--data.threads", "2")))
    assert (found["batch"].state, "more than the 40 items of an epoch" in found["batch"].found) == ("warning", True)
    assert (found["shards"].state, found["shards"].found) == ("warning", "1 shards for 48 processes of 2 threads")
    assert "--shard-bytes" in found["shards"].meaning


def test_a_batch_that_does_not_divide(shards: Path) -> None:
    found = planned(PlannedRun(processes=6, config=config(shards, "--data.batch", "32", "--engine.accumulate", "2")))
    batch = found["batch"]
    assert batch.state == "error"
    assert all(part in batch.found for part in ("32 examples", "6 processes", "2 micro-batches"))
    assert all(part in batch.meaning for part in ("data.batch", "multiple of 12", "36"))


def test_a_set_that_training_would_refuse(shards: Path) -> None:
    (set_,) = data.planned(PlannedRun(config=config(shards, "--data.split", "test")))
    assert (set_.name, set_.state) == ("set", "error")
    assert "split 'test': holds no expression" in set_.found
    shard = next(shards.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:100])
    (set_,) = data.planned(PlannedRun(config=config(shards)))
    assert "it is truncated" in set_.found


def test_windows(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = np.arange(0, 100_000, 1000)
    plan = Plan((100_000,), (1.0,), 0, 1, starts)

    def window(size: int, batch: int = 32) -> Check:
        return data.window(config(shards, "--data.window", str(size), "--data.batch", str(batch)), plan, 100)

    assert window(8000) == Check("window", "ok", "8,000 items, those of 8.0 shards")
    small = window(2000)
    assert (small.state, small.found) == ("warning", "2,000 items, those of 2.0 shards")
    assert "set data.window to 4,000" in small.meaning
    less = window(128, 256)
    assert (less.state, "fewer than a batch of 256" in less.found) == ("warning", True)
    assert window(100_000).state == "ok"
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 100))
    none = window(0)
    assert (none.state, "all 100 shards and keeps 50 open" in none.found) == ("warning", True)
    assert "ulimit -n 200" in none.meaning


def test_tables_that_do_not_fit_the_node(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from laconvnet.launch.doctor import machine

    asked = PlannedRun(processes=64, config=config(shards, "--data.batch", "64"), cluster=Cluster(gpus_per_node=8))
    tables = planned(asked)["set memory"]
    assert "in each of 8 processes of a node" in tables.found
    monkeypatch.setattr(machine, "memory_limit", lambda: 1_000)  # 8 x 40 x (4 + 1) bytes do not fit
    assert planned(asked)["set memory"].state == "error"
    monkeypatch.setattr(machine, "memory_limit", lambda: 10_000)
    assert tells(planned(asked)["set memory"].meaning, "tables", "again from disk")
    monkeypatch.setattr(machine, "memory_limit", lambda: 60_000)
    one = planned(replace(asked, processes=1))["set memory"]
    assert "in each of 1 processes" in one.found
    assert one.state != "error"


def test_without_slurm(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(work))
    (found,) = slurm.commands(PlannedRun())
    assert (found.state, found.found) == ("not there", "no command of SLURM's")
    (found,) = slurm.commands(PlannedRun(cluster=Cluster(), site=work / "site.yaml"))
    assert found.state == "error"
    assert not list(slurm.cluster(PlannedRun(cluster=Cluster(), site=work / "site.yaml")))


def test_a_part_of_slurm_and_a_silent_controller(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from laconvnet.launch.doctor.slurm import commands

    (found,) = commands(PlannedRun())
    assert found.state == "ok"
    silent = "[ $1 = --version ] || { echo 'slurm_load_partitions: down' >&2; exit 1; }"
    (slurm / "sinfo").write_text(f"#!/bin/bash\n{silent}\n")
    (found,) = commands(PlannedRun())
    assert (found.state, found.found) == ("warning", "slurm_load_partitions: down")
    assert "SLURM_CONF" in found.meaning
    monkeypatch.setattr(queue, "missing_commands", lambda: ["scontrol"])
    (found,) = commands(PlannedRun(cluster=Cluster()))
    assert (found.state, found.found) == ("error", "scontrol not found")


def test_a_clusters_file_against_its_partitions(slurm: Path, work: Path) -> None:
    from laconvnet.launch.doctor.slurm import cluster

    site = work / "site.yaml"

    def found(processes: int, **facts: object) -> list[tuple[str, str]]:
        facts = {"gpus_per_node": 4, "cpus_per_task": 1, **facts}
        asked = PlannedRun(processes=processes, cluster=Cluster(**facts), site=site)  # type: ignore[arg-type]
        return [(check.state, check.found) for check in cluster(asked)]

    ((state, fits),) = found(8)
    assert state == "ok"
    assert all(
        part in fits for part in ("8 processes", "2 nodes of 4", "1 cores", "partition (default)", "4 GPUs a node")
    )
    assert found(12) == [("error", "nodes: 3, but the default partition has 2")]
    assert found(4, gpus_per_node=8) == [("error", "GPUs a node: x 8, but the default partition has x 4")]
    assert found(1, partition="long") == [("error", "partition: got 'long', expected one of main, short")]
    ((state, output),) = found(7)
    assert (state, "expected a multiple of its 2 nodes" in output) == ("error", True)
    states, messages = zip(*found(4, partition="short", cpus_per_task=4), strict=True)
    assert set(states) == {"error"}
    assert any("16" in one or "4 processes a node of 4 cores" in one for one in messages)
    assert any("minutes" in one for one in messages)
    assert any("GPUs a node" in one for one in messages)


def test_the_whole_command_line(
    shards: Path, slurm: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(apart, "GROUPS", ())
    monkeypatch.setattr(doctor, "HERE", {"cluster": doctor.HERE["cluster"]})
    (work / "run.yaml").write_text("data: {batch: 6}\n")
    line = ["doctor", "--json", "--data", str(shards), "--config", "run.yaml", "--cluster", "site.yaml"]
    assert cli.main([*line, "--processes", "2"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows.keys() == {"cluster", "set", "batch", "shards", "window", "set memory"}
    assert rows["batch"]["found"].startswith("6 examples over 2 processes: 3 each")
    assert cli.main([*line, "--processes", "4"]) == 1
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (rows["batch"]["state"], rows["cluster"]["state"]) == ("error", "ok")


def test_streams(shards: Path) -> None:
    def streams(count: int, processes: int, shards_there: int = 100) -> Check:
        keys = ("--data.streams", str(count), "--data.window", "8", "--data.batch", "24")
        (found,) = data.streams(config(shards, *keys), shards_there, processes)
        return found

    assert streams(12, 4) == Check("streams", "ok", "12 for 4 processes, of 100 shards")
    assert streams(12, 8).state == "error"
    assert streams(12, 8).meaning == "set data.streams to a multiple of 8"
    assert streams(12, 4, 7).state == "warning"
    assert not list(data.streams(config(shards), 100, 8))
