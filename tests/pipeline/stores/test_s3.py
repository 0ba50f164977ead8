"""A set in an S3 store: copied there and back, trained on and evaluated there as here, through kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from laconvnet.launch.cli import main
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.remote import Folder
from laconvnet.shards.sets.copy import copy
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.pipeline.training.ranks import ROOT, comes_to, finish, start, train
from tests.shards.test_build import hashes

TINY = ROOT / "tests" / "pipeline" / "training" / "tiny.yaml"


def test_it_is_the_same_set_there_and_copied_back(bucket: str, sets: dict[str, Path], tmp_path: Path) -> None:
    folder, url = sets["refcoco"], f"{bucket}/some/refcoco"
    done = copy(folder, url, progress=False)
    here, there = Manifest.open(folder), Manifest.open(url)
    assert done["shards"] == len(here.shard_paths) > 3
    assert there.fingerprint == here.fingerprint
    rows = range(len(here.samples))
    assert [there.read_image(row) for row in rows] == [here.read_image(row) for row in rows]
    assert [there.read_record(row) for row in rows] == [here.read_record(row) for row in rows]
    assert info(Path(url)) == info(folder)  # a path folds the slashes of a URL
    assert verify(Path(url), full=True, progress=False)["samples"] == len(here.samples)
    assert copy(folder, url, progress=False)["there_before"] == done["shards"]
    copy(url, tmp_path / "back", progress=False)
    assert hashes(tmp_path / "back") == hashes(folder)


def test_a_set_that_was_put_together_lies_beside_its_parts(bucket: str, sets: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="copy the parts of this set first"):
        copy(sets["merged"], f"{bucket}/merged", progress=False)
    for name in ("refcoco", "visual_genome", "merged"):
        copy(sets[name], f"{bucket}/{name}", progress=False)
    here, there = Manifest.open(sets["merged"]), Manifest.open(f"{bucket}/merged")
    rows = range(len(here.samples))
    assert [there.read_image(row) for row in rows] == [here.read_image(row) for row in rows]


def test_another_set_is_not_written_over(bucket: str, sets: dict[str, Path], capfd: Any) -> None:
    url = f"{bucket}/a"
    copy(sets["refcoco"], url, progress=False)
    assert main(["shards", "copy", str(sets["clevr"]), "--out", url]) == 2
    assert tells(capfd.readouterr().err, "holds another set")
    assert Manifest.open(url).fingerprint == Manifest.open(sets["refcoco"]).fingerprint
    with pytest.raises(InputError, match="expected a URL where the set is on this machine"):
        copy(sets["refcoco"], sets["refcoco"].parent / "elsewhere")


def test_what_is_not_there_or_cannot_be_reached_is_told(bucket: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "info", f"{bucket}/nothing"]) == 2
    assert tells(capfd.readouterr().err, f"{bucket}/nothing", "no manifest.parquet there", "shards copy")
    assert main(["shards", "info", "nosuch://place/set"]) == 2
    assert tells(capfd.readouterr().err, "nosuch://place/set", "Protocol not known: nosuch")


SLOW = """
import sys, time
from laconvnet.launch.cli import main
from laconvnet.shards.format import remote
put = remote.Folder.put
remote.Folder.put = lambda *given: (put(*given), time.sleep(0.3))
main(["shards", "copy", sys.argv[1], "--out", sys.argv[2]])
"""


def test_a_copy_that_is_killed_is_no_set_and_goes_on(bucket: str, sets: dict[str, Path]) -> None:
    folder, url = sets["refcoco"], f"{bucket}/a"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(folder), url], cwd=ROOT, stderr=subprocess.DEVNULL)
    shard = Manifest.open(folder).shard_paths[2].name
    while not Folder(url).exists(shard):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    with pytest.raises(InputError, match="no finished set"):
        Manifest.open(url)
    with pytest.raises(InputError, match="part of another set, whose copy was broken off"):
        copy(sets["clevr"], url, progress=False)
    assert 3 <= copy(folder, url, progress=False)["there_before"] < len(Manifest.open(folder).shard_paths)
    assert verify(Path(url), full=True, progress=False)
    assert not Folder(url).exists("copying.json")


@pytest.fixture
def keys() -> list[str]:
    return ["--config", str(TINY), "--checkpoint.every", "2", "--schedule.epochs", "0.6"]


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def test_training_and_evaluation_there_are_those_here_with_a_rank_killed(
    bucket: str, sets: dict[str, Path], tmp_path: Path, keys: list[str]
) -> None:
    folder, url = sets["refcoco"], f"{bucket}/refcoco"
    copy(folder, url, progress=False)
    here, there = tmp_path / "here", tmp_path / "there"
    assert_the_same_through_a_kill(here, there, keys, str(folder), url)
    results = []
    for run, data in ((here, str(folder)), (there, url)):
        out = tmp_path / f"{run.name}.json"
        assert main(["eval", str(run), "--data", data, "--split", "val", "--out", str(out)]) == 0
        found = json.loads(out.read_text())
        assert found.pop("data") == data
        assert found.pop("run") == str(run)
        results.append((found, out.with_suffix(".answers.jsonl").read_bytes()))
    assert results[0] == results[1]


def assert_the_same_through_a_kill(here: Path, there: Path, keys: list[str], folder: str, url: str) -> None:
    """Two processes train on the folder and, one of them killed on the way, on the URL."""
    train(2, here, [*keys, "--data.folder", folder])
    command = ["-m", "laconvnet.launch.cli", "train", "--run", str(there), *keys, "--data.folder", url]
    ranks = start(2, command)
    try:
        assert comes_to(ranks, lambda: bool(list((there / "checkpoints").glob("step-*/COMMIT"))))
        os.kill(ranks[1].pid, signal.SIGKILL)
        for rank in ranks:
            rank.wait(120)
    finally:
        for rank in ranks:
            rank.kill()
    assert max(losses(there)) < max(losses(here))
    finish(start(2, command))
    assert losses(there) == losses(here)
    assert last(there) == last(here)


def last(run: Path) -> dict[str, bytes]:
    """The weights and optimizer of the last checkpoint."""
    newest = max((run / "checkpoints").glob("step-*"))
    found = {file.name: file.read_bytes() for file in newest.iterdir() if file.suffix in (".safetensors", ".pt")}
    assert found
    return found
