"""The simulation of a large run: what it finds of orders that are known, and what a row says; never how fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laconvnet.pipeline.bench import opened, reads, scale, state
from laconvnet.pipeline.bench.ids import row_id
from laconvnet.pipeline.bench.reads import ORDERS, Layout
from laconvnet.pipeline.bench.scale import Scale
from laconvnet.pipeline.data.plan import Plan, Positions
from laconvnet.pipeline.model import ModelConfig, build_model
from laconvnet.pipeline.training import checkpoint

SMALL = Scale(samples=640_000, ranks=16, share=4, window=20_000, shard_bytes=110_000 * 100)
LAYOUT = Layout(SMALL.samples, shard_bytes=SMALL.shard_bytes)


@pytest.fixture(autouse=True)
def a_short_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "_WHOLE", 1024)


def by_measure(rows: Any) -> dict[tuple[str, str], float]:
    """(name, measure) -> value."""
    return {(row["name"], row["measure"]): row["median"] for row in rows}


def test_shards_hold_all_samples_and_what_fits() -> None:
    long = np.diff(np.append(LAYOUT.starts, LAYOUT.samples))
    assert LAYOUT.starts[0] == 0
    assert (long > 0).all()
    assert 70 <= long[:-1].min() < long[:-1].max() <= 130
    assert long.mean() == pytest.approx(100, rel=0.02)
    items = np.array([0, LAYOUT.starts[1] - 1, LAYOUT.starts[1], LAYOUT.samples - 1])
    assert LAYOUT.shard(items).tolist() == [0, 0, 1, len(LAYOUT.starts) - 1]


def test_a_block_is_counted_once_and_a_sample_over_its_border_twice() -> None:
    layout = Layout(100, image_bytes=600_000, shard_bytes=6_000_000)
    first = np.arange(layout.starts[1])
    whole = -(-int(layout.starts[1]) * 600_000 // reads.BLOCK)
    assert len(layout.blocks(first)) == whole
    assert len(layout.blocks(np.concatenate([first, first]))) == whole
    assert len(layout.blocks(np.array([1]))) == 2  # bytes 600,000 to 1,199,999 of its shard
    assert len(layout.blocks(np.array([0, layout.starts[1]]))) == 2  # of two files
    large = Layout(10, image_bytes=3 * reads.BLOCK, shard_bytes=30 * reads.BLOCK)
    assert len(large.blocks(np.array([0]))) == 3


def test_files_that_are_kept_are_not_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = np.array([[0, 0], [1, 0], [2, 2], [0, 1], [3, 3], [2, 2]])
    assert reads.opened(steps) == 4
    monkeypatch.setattr(reads, "KEPT", 2)
    # 0 | 0 1 | 1 2, without 0 | 0 1, without 2 | 1 3, without 0 | 2 3
    assert reads.opened(np.array([[0], [1], [2], [0], [3], [2]])) == 6
    assert reads.opened(np.array([[0], [1], [0], [2], [0]])) == 3, "what was used last stays"
    monkeypatch.setattr(reads, "KEPT", 1)
    assert reads.opened(np.array([[0, 1, 2], [0, 1, 2]])) == 3, "a step's own files are open together"


def test_positions_are_the_slices_that_the_plan_gives() -> None:
    plan = LAYOUT.plan()
    steps = np.array([3, 7])
    for world in (1, 4):
        for rank in range(world):
            places = reads.positions(rank, world, 5, steps)
            wanted = [plan.step(step, 5 * world, rank, world)[0].tolist() for step in (3, 7)]
            assert np.array_equal(plan.items(places.ravel())[0].reshape(places.shape), wanted)


def test_a_window_is_what_a_rank_reads_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "STEPS", 100)
    found = by_measure(reads.read_by(LAYOUT, SMALL.window, 8, 4))
    straight, whole, local = ORDERS
    assert found[straight, "shards of a rank"] <= 6
    # 3,200 of the stream's positions lie in one window of about 200 shards, or in two.
    assert found[local, "shards of a rank"] <= 2 * 210
    assert found[local, "shards of a rank"] < found[whole, "shards of a rank"] <= 400
    assert {found[name, "bytes of a rank"] for name in ORDERS} == {400 * 110_000 / 1e9}
    assert found[whole, "bytes of a node"] == pytest.approx(8 * found[whole, "bytes of a rank"])
    assert found[straight, "fetched for a rank"] < 1.2 * found[straight, "bytes of a rank"]
    assert found[whole, "fetched for a rank"] > 7 * found[whole, "bytes of a rank"]
    assert found[local, "fetched for a node"] < 0.8 * found[whole, "fetched for a node"]


def test_hot_shards_of_a_step() -> None:
    found = by_measure(reads.evenness(LAYOUT, SMALL.window, 512, 4))
    straight, whole, local = ORDERS
    assert found[straight, "shards of a step"] == pytest.approx(512, abs=30)
    assert 4 <= found[straight, "hottest shard of a step"] <= 8
    assert found[local, "shards of a step"] < 420, "2,048 reads in a window or two of 200 shards"
    assert found[whole, "shards of a step"] > 1500
    assert found[local, "hottest shard of a step"] > found[whole, "hottest shard of a step"]


def test_an_epoch_is_counted_whole_or_said_to_be_less() -> None:
    total = LAYOUT.samples // 64
    rows = {row["name"]: row for row in reads.in_an_epoch(LAYOUT, SMALL.window, 16, 4, 10**6)}
    own = {name: row["median"] for name, row in rows.items()}
    wanted = LAYOUT.plan().items(reads.positions(0, 16, 4, np.arange(total)).ravel())[0]
    assert own[ORDERS[1]] == len(np.unique(LAYOUT.shard(wanted)))
    assert own[ORDERS[0]] == -(-len(LAYOUT.starts) // 16)
    assert {row["note"] for row in rows.values()} == {None}
    fewer = {row["name"]: row for row in reads.in_an_epoch(LAYOUT, SMALL.window, 16, 4, 4000)}
    assert fewer[ORDERS[2]]["note"] == f"at least: 1,000 of {total:,} steps were looked at"
    assert fewer[ORDERS[2]]["median"] <= own[ORDERS[2]]


def test_all_ranks_together_show_each_sample_once() -> None:
    rows = list(scale.exact(SMALL, LAYOUT))
    assert {row["world"] for row in rows} == {1, 8, 16}
    assert {row["measure"].partition(",")[0] for row in rows} == {
        "shown twice",
        "no sample",
        "other than for one rank",
        "not once",
    }
    assert {row["median"] for row in rows} == {0}


@pytest.mark.parametrize(
    ("broken", "output"),
    [
        (lambda items, rank: items % 1000, "shown twice"),
        (lambda items, rank: items + 10**9, "no sample"),
        (lambda items, rank: np.roll(items, rank), "other than for one rank"),
        (lambda items, rank: np.maximum(items, 1), "not once"),
    ],
)
def test_a_broken_order_is_found(broken: Any, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Plan.step

    def step(self: Plan, number: int, batch: int, rank: int, world: int) -> tuple[Positions, Positions]:
        items, epoch_passes = right(self, number, batch, rank, world)
        return broken(items, rank), epoch_passes

    monkeypatch.setattr(Plan, "step", step)
    found = [row for row in scale.exact(SMALL, LAYOUT) if row["median"]]
    assert output in {row["measure"].partition(",")[0] for row in found}


def test_rows_of_the_order_and_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "STEPS", 50)
    monkeypatch.setattr(scale, "_COUNTED", 500)
    monkeypatch.setattr(opened, "rows", lambda world: iter(()))
    monkeypatch.setattr(state, "PRESETS", ())
    parts = dict(zip(scale.PARTS, scale.rows(SMALL, 2), strict=True))
    for name, part in parts.items():
        for row in part:
            assert row["bench"] == name
            assert {"name", "baseline", "ratio", "median", "spread", "unit", "device", "versions", "note"} <= row.keys()
            assert (row["samples"], row["share"], row["window"]) == (640_000, 4, 20_000)
            json.dumps(row)
    names = [row_id(row) for part in parts.values() for row in part]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} == {"scale"}
    found = {(row["world"], row["name"], row["measure"]): row for row in parts["ids"]}
    assert {world for world, _, _ in found} == {1, 8, 16}
    assert found[16, ORDERS[2], "ids of a rank's step"]["median"] > 0
    assert 0 < found[16, ORDERS[1], "memory of that"]["median"] < 100, "kB: nothing is held by sample"
    reading = {(row["world"], row["name"], row["measure"]): row for row in parts["reads"]}
    row = reading[8, ORDERS[1], "shards of a rank"]
    assert row["ratio"] == reading[8, ORDERS[0], "shards of a rank"]["median"] / row["median"]
    assert row["baseline"] == ORDERS[0]
    tables = by_measure(parts["tables"])
    assert tables["order of items, in each process", "of a sample"] == 5
    samples = tables["samples' table, mapped", "of a sample"]
    assert 100 < samples < 300
    assert tables["samples' table, mapped", "of all"] == pytest.approx(samples * 640_000 / 1e9)
    mapped = samples + tables["examples' table, mapped", "of a sample"]
    assert mapped < tables["files on disk", "of a sample"] < 1.6 * mapped


def test_the_size_of_a_checkpoint_is_that_of_its_file(tmp_path: Path) -> None:
    model = build_model(ModelConfig(preset="tiny", task="rec"), state.WORDS, 0)
    weights = model.state_dict()
    moments = {name: {"exp_avg": one.clone(), "exp_avg_sq": one.clone()} for name, one in model.named_parameters()}
    ema_weights = {name: tensor.clone() for name, tensor in weights.items()}
    checkpoint.save(tmp_path / "one", {"step": 1, "model": weights, "moments": moments, "ema": ema_weights}, "{}")
    output = state.sizes("tiny")
    assert output["weights"] == output["averages"]
    written = (tmp_path / "one" / "state.pt").stat().st_size
    assert sum(output.values()) == pytest.approx(written, rel=0.02)


def test_rows_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PRESETS", ("tiny",))
    rows = {row["measure"]: row for row in state.rows(2.0, 512, 1)}
    whole = rows["checkpoint"]["median"]
    assert whole == pytest.approx(sum(rows[part]["median"] for part in ("weights", "moments", "averages")))
    assert rows["to write at 2 GB/s"]["median"] == pytest.approx(whole / 1e3 / 2)
    assert rows["read when 512 resume"]["median"] == pytest.approx(64 * whole / 1e3)  # a node of eight reads it once
    assert all(rows[name]["median"] > 0 for name in ("copied, here", "written, here", "checked and read, here"))


def test_kinds_of_files(tmp_path: Path) -> None:
    for path, kind in {
        tmp_path / "run" / "config.yaml": "run folder",
        tmp_path / "set" / "manifest.parquet": "manifest",
        tmp_path / "set" / "examples.arrow": "manifest",
        tmp_path / "set" / "shard-000000.tar": "shards",
        Path("/usr/lib/libcuda.so.1"): "libraries",
        Path("/usr/lib/python3/os.py"): "modules",
        Path("/etc/hosts"): "other files",
    }.items():
        assert opened.kind_of(str(path), tmp_path) == kind
    assert any("libc.so" in path or "libc-" in path for path in opened.libraries())
    assert torch.__file__.endswith(".py")


def test_rows_of_a_start_are_of_the_rank_that_opens_most(monkeypatch: pytest.MonkeyPatch) -> None:
    def rank(opens: int) -> dict[str, dict[str, int]]:
        return {kind: {"opens": opens, "files": 3, "bytes": 5_000_000} for kind in opened.KINDS}

    monkeypatch.setattr(opened, "watched", lambda: [rank(4), rank(7)])
    rows = [row for row in opened.rows(512) if row["name"] == "manifest"]
    assert [(row["measure"], row["median"], row["unit"]) for row in rows] == [
        ("opened by a rank", 7, "opens"),
        ("different files of a rank", 3, "files"),
        ("bytes of those files", 5.0, "MB"),
    ]
    assert {row["note"] for row in rows} == {"512 ranks: 3,584 opens, 2.6 GB"}


@pytest.mark.slow
def test_what_two_ranks_open() -> None:
    ranks = opened.watched()
    assert len(ranks) == 2
    for found in ranks:
        assert found["shards"] == {"opens": 1, "files": 1, "bytes": found["shards"]["bytes"]}
        assert found["modules"]["files"] > 1000
        assert found["libraries"]["bytes"] > 50_000_000
        assert found["manifest"]["files"] == 2


def test_a_rank_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: Any, **options: Any) -> Iterator[Any]:
        raise AssertionError

    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="rank 0 of the small run ended with 1: nothing"):
        opened.watched()
