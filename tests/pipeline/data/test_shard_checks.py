"""Who looks at every shard of a set before a run: one process a node; and what keeps the others from a damaged one."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.reader import Reader
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.verify import verify

NODES, RANKS_A_NODE = 4, 8


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each shard was asked for its size, by name."""
    found: Counter[str] = Counter()
    stat: Callable[..., os.stat_result] = os.stat

    def counted(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(".tar"):
            found[Path(path).name] += 1
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", counted)
    return found


def be(monkeypatch: pytest.MonkeyPatch, local_rank: int, world: int = NODES * RANKS_A_NODE) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))


def opened(folder: Path) -> Examples:
    return Examples.open(folder, "expression", "train")


def test_one_process_of_a_node_looks_at_every_shard(
    sets: dict[str, Path], looked_at: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = len(opened(sets["refcoco"]).manifest.shard_paths)  # of one process
    assert len(looked_at) == shards > 1
    assert set(looked_at.values()) == {1}
    looked_at.clear()
    walked: list[Any] = []
    check = Manifest._check_shards

    def counted(manifest: Manifest) -> None:
        walked.append(manifest)
        check(manifest)

    monkeypatch.setattr(Manifest, "_check_shards", counted)
    wanted = opened(sets["refcoco"]).rows
    walked.clear()
    looked_at.clear()
    for rank in range(NODES * RANKS_A_NODE):
        be(monkeypatch, rank % RANKS_A_NODE)
        assert np.array_equal(opened(sets["refcoco"]).rows, wanted)
    assert looked_at.total() == NODES * shards
    assert len(walked) == NODES, "nor is the samples' table walked over by the others"


@pytest.mark.parametrize("look", [verify, info], ids=["verify", "info"])
def test_commands_on_a_set_look_at_every_shard_whoever_runs_them(
    sets: dict[str, Path], look: Any, looked_at: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, 1)
    look(sets["refcoco"])
    assert len(looked_at) == len(Manifest.open(sets["refcoco"], shards_too=False).shard_paths)


def test_a_process_by_itself_looks_whatever_a_launcher_left(
    sets: dict[str, Path], looked_at: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, 3, world=1)
    assert len(opened(sets["refcoco"]).manifest.shard_paths) == len(looked_at)


@pytest.mark.parametrize("threads", [1, 2])
def test_who_did_not_look_reads_nothing_of_a_truncated_or_missing_shard(
    sets: dict[str, Path], tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(sets["refcoco"], folder)
    manifest = Manifest.open(folder)
    last = manifest.samples.slice(len(manifest.samples) - 1, 1).to_pylist()[0]
    shard = manifest.shard_paths[last["shard"]]
    os.truncate(shard, last["image_offset"] + last["image_length"] - 1)
    be(monkeypatch, 0)
    with pytest.raises(InputError, match=f"{shard.name}: .* truncated"):
        opened(folder)
    be(monkeypatch, 1)
    others = opened(folder).manifest
    wanted = np.array([len(others.samples) - 1])
    with Reader(others, threads) as reader, pytest.raises(ConfigError, match=f"{shard.name}: sample '{last['key']}'"):
        reader.read(wanted)
    shard.unlink()
    with Reader(opened(folder).manifest, threads) as reader, pytest.raises(FileNotFoundError, match=shard.name):
        reader.read(wanted)
