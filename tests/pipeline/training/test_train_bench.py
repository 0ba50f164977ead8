"""What `laconvnet bench train` sees of real runs, by a clock that the test moves; never how fast."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from laconvnet.pipeline.bench import training
from tests.pipeline.training.ranks import run

CPU = torch.device("cpu")
KEYS = ["--data.size", "32", "--data.batch", "2", "--data.threads", "1", "--log.every", "2"]
# Looking at the clock twice takes 10 ms of it; what is disturbed takes more.
WATCH = """
import os, sys, types
from pathlib import Path
from laconvnet.pipeline.bench import loop
clock = [0.0]
def look():
    clock[0] += 0.01
    return clock[0]
def slowed(kind, name, seconds):
    usual = getattr(kind, name)
    def slow(*arguments):
        clock[0] += seconds
        return usual(*arguments)
    setattr(kind, name, slow)
loop.time = types.SimpleNamespace(perf_counter=look)
{disturbance}
part, folder, out = sys.argv[1:]
sys.exit(loop.main(part, Path(folder), os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)))
"""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The rows of a part by name, measured on a run in a forked process that a piece of code has disturbed."""

    def measure(part: str, disturbance: str = "", *keys: str, epoch: int = 8) -> dict[str, Any]:
        out = tmp_path / "lines"

        @contextmanager
        def forked(name: str, place: Path, device: torch.device) -> Iterator[Iterator[Any]]:
            run(1, ["-c", WATCH.format(disturbance=disturbance), name, str(place), str(out)])
            yield map(json.loads, out.read_text().splitlines())

        monkeypatch.setattr(training, "_watching", forked)
        output: list[None] = []
        (one,) = training.parts(training.settings(None, [*KEYS, *keys], CPU), CPU, 2, epoch, [part])
        rows = one.measure(lambda: output.append(None))
        assert {row["note"] for row in rows} == {None}, rows
        assert abs(len(output) - one.lines) <= 1
        return {row["name"]: row for row in rows}

    return measure


def test_a_recipe_is_measured_without_its_word_vectors(tmp_path: Path) -> None:
    """The words are made for the bench: no vector file knows them."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data:\n  vectors: data/glove.840B.300d.txt\n")
    config = training.settings(recipe, KEYS, CPU)
    assert config.data.vectors is not None
    assert {part.config.data.vectors for part in training.parts(config, CPU, 2, 8, ["loop", "memory"])} == {None}


def test_a_loop_that_is_slowed_down_is_seen_as_slower(measured: Any) -> None:
    rows = measured("loop", "from laconvnet.pipeline.training.log import Log; slowed(Log, 'step', 0.04)")
    assert {name: round(row["median"], 6) for name, row in rows.items()} == {
        "bare": 10,
        "bare, with averages": 10,
        "loop": 50,
    }
    loop = rows["loop"]
    assert loop["baseline"] == "bare, with averages"
    assert loop["ratio"] == pytest.approx(0.2)
    assert loop["over_percent"] == pytest.approx(400)
    assert loop["rounds"] == 4
    assert loop["over_low"] == pytest.approx(400) == loop["over_high"]
    assert (loop["bench"], loop["unit"], loop["steps"], loop["zero"]) == ("loop", "ms", 7, 1)
    assert (loop["preset"], loop["size"], loop["batch"], loop["precision"]) == ("tiny", 32, 2, "fp32")
    assert loop["versions"]["torch"] == torch.__version__


def test_averages_are_named_apart(measured: Any) -> None:
    rows = measured("loop", "from laconvnet.pipeline.training.ema import Ema; slowed(Ema, 'update', 0.01)")
    assert [round(rows[name]["median"]) for name in ("bare", "bare, with averages", "loop")] == [10, 20, 20]
    assert rows["loop"]["over_percent"] == pytest.approx(0, abs=1e-6)


def test_a_report_counts_at_its_interval(measured: Any) -> None:
    rows = measured("loop", "from laconvnet.pipeline.training.log import Log; slowed(Log, '_report', 0.03)")
    assert rows["loop"]["over_percent"] == pytest.approx(150)  # 30 ms in every second step


def test_micro_batches_are_one_step(measured: Any) -> None:
    disturbance = "from laconvnet.pipeline.training.log import Log; slowed(Log, 'step', 0.04)"
    rows = measured("loop", disturbance, "--engine.accumulate", "2", "--data.batch", "4")
    assert rows["loop"]["over_percent"] == pytest.approx(400)


def test_a_checkpoint_that_stalls_is_seen(measured: Any) -> None:
    rows = measured(
        "checkpoint", "from laconvnet.pipeline.training.checkpoint import Writer; slowed(Writer, 'submit', 0.025)"
    )
    assert {name: round(row["median"], 6) for name, row in rows.items()} == {
        "step": 10,
        "step that saves": 35,
        "step with all that saving adds": 35,
    }
    assert rows["step that saves"]["over_percent"] == pytest.approx(250)
    assert rows["step that saves"]["checkpoint_mb"] > 1
    assert rows["step"]["rounds"] == 2


def test_memory_is_looked_at_on_the_loaders_batches(measured: Any) -> None:
    leak = """
from laconvnet.pipeline.data.loader import Loader
usual, kept = Loader.batch, []
def leaking(*arguments):
    kept.append(b"x" * 20_000_000)
    return usual(*arguments)
Loader.batch = leaking
"""
    rows = measured("memory", leak)
    first, second = rows["end of the first epoch"], rows["end of the second"]
    assert second["baseline"] == "end of the first epoch"
    assert second["unit"] == "MB"
    assert 100 < second["median"] - first["median"] < 250  # eight steps of 20 MB
    assert second["over_percent"] > 5
    assert (second["batch"], second["steps"]) == (4, 16)


def test_what_a_run_that_fails_says_last(measured: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By an interpreter that only pretends: it tells a line, speaks and fails."""
    pretender = tmp_path / "python"
    script = """#!/bin/sh
printf '%s\\n' '{"resident_mb": 100}' >/dev/fd/$5
echo "$2 $3" >&2
echo "the disk is full" >&2
exit 3
"""
    pretender.write_text(script)
    pretender.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(pretender))
    (one,) = training.parts(training.settings(None, KEYS, CPU), CPU, 2, 8, ["memory"])
    output: list[None] = []
    (row,) = one.measure(lambda: output.append(None))
    assert len(output) == 1
    assert row["note"] == "failed: the disk is full"
    assert (row["bench"], row["median"], row["ratio"]) == ("memory", None, None)


def test_a_run_ends_with_the_bench_that_watches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretender = tmp_path / "python"
    script = """#!/bin/sh
echo $$ >PLACE/pid
echo "$4" >PLACE/folder
printf '%s\\n' '{"resident_mb": 100}' >/dev/fd/$5
exec sleep 60
"""
    pretender.write_text(script.replace("PLACE", str(tmp_path)))
    pretender.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(pretender))
    (one,) = training.parts(training.settings(None, KEYS, CPU), CPU, 2, 8, ["memory"])

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.measure(interrupted)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not Path((tmp_path / "folder").read_text().strip()).exists()
