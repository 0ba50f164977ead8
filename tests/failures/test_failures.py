"""Ranks are killed and stopped in the middle of a run, again and again: it ends in the weights of an undisturbed one.

`make failures` does it to 100 ranks of one run (FAILURES, SEED, ZERO); an ordinary run of the tests to a few. The job
never ends meanwhile: one start of it, as the history of the stage says.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from laconvnet.files import read_object
from laconvnet.launch import cli
from laconvnet.launch.supervision.rank import SUPERVISOR
from laconvnet.pipeline.runs.records import read_lines
from laconvnet.pipeline.runs.scores import validations
from tests.runs import logged, losses, restarts, weights

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "pipeline" / "training" / "tiny.yaml"
FAILURES, SEED = int(os.environ.get("FAILURES", "2")), int(os.environ.get("SEED", "0"))
ZERO = os.environ.get("ZERO", "1")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)
PATIENCE_SECONDS = 300
STAGES = """
name: failures
folder: {out}
stages:
  train:
    run: [train, --config, {tiny}, --run, "{{here}}", --data.folder, {data}, --schedule.epochs, {epochs},
          --engine.zero, {zero}, --model.affinity_dropout, 0.1, --checkpoint.every, 100000, --checkpoint.memory, 1,
          --validate.every, 0.3, --validate.split, train, --validate.examples, 0]
    processes: 2
    threads: 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    assert cli.main(["shards", "generate", "--out", f"{place}/raw", "--pictures", "40", "--json"]) == 0
    raw, out = f"{place}/raw/refer", place / "set"
    assert cli.main(["shards", "build", "refcoco", "--root", raw, "--out", str(out), "--json"]) == 0
    return out


class Launch:
    """A launch of one training stage of two ranks, in a process of its own."""

    def __init__(self, place: Path, data: Path) -> None:
        place.mkdir()
        file, epochs = place / "stages.yaml", 1 + FAILURES * 0.3
        file.write_text(STAGES.format(out=place / "out", tiny=TINY, data=data, epochs=epochs, zero=ZERO))
        self._out, self._log = place / "out", place / "launch.log"
        command = [sys.executable, "-m", "laconvnet", "launch", str(file)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    @property
    def run(self) -> Path:
        return next(self._out.glob("train-*"), self._out / "none")

    def until(self, condition: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self._process.poll() is None, f"the launch has ended before {what}:\n{self._log.read_text()}"
            assert time.monotonic() < until, f"{what} did not come:\n{self._log.read_text()}"
            time.sleep(0.1)

    def rank(self, number: int) -> psutil.Process | None:
        """The process of a rank, not that of its supervisor."""
        for process in psutil.process_iter():
            try:
                own = process.environ()
            except (psutil.Error, OSError):
                continue
            mine = own.get("LACONVNET_STAGE_FOLDER") == str(self.run) and SUPERVISOR in own
            if mine and own.get("SUBMITIT_LOCAL_GLOBALID") == str(number):
                return process
        return None

    def end(self) -> None:
        assert self._process.wait(PATIENCE_SECONDS) == 0, self._log.read_text()


def scored(run: Path) -> list[dict[str, Any]]:
    """What each validation found; not how long it took."""
    return [{key: row[key] for key in ("step", "metrics", "best_step", "best", "waited")} for row in validations(run)]


def lose(launch: Launch, number: int, draw: random.Random) -> None:
    """Lose a rank, and wait until that is told."""
    step = logged(launch.run)
    step += 0 if number % 10 == 9 else draw.choice([1, 1, 2, 3])  # now and then before it has done anything
    launch.until(lambda: logged(launch.run) >= step, f"step {step}")
    which, how = draw.randrange(2), SIGNALS[number % 2]
    launch.until(lambda: launch.rank(which), f"rank {which}")
    time.sleep(draw.uniform(0, 0.5))
    victim = launch.rank(which)
    assert victim is not None
    victim.send_signal(how)
    launch.until(lambda: len(restarts(launch.run)) > number, f"restart {number + 1}")
    told = restarts(launch.run)[number]
    print(f"{number + 1:4d} rank {which} {how.name} at step {logged(launch.run)}: {json.dumps(told)}", flush=True)
    assert told["rank"] == which


def test_a_run_through_failures_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path, data: Path) -> None:
    plain = Launch(tmp_path / "plain", data)
    plain.end()
    disturbed = Launch(tmp_path / "disturbed", data)
    draw = random.Random(SEED)
    for number in range(FAILURES):
        lose(disturbed, number, draw)
    disturbed.end()
    assert losses(disturbed.run) == losses(plain.run)
    assert weights(disturbed.run) == weights(plain.run)
    assert scored(disturbed.run) == scored(plain.run) != []  # some ranks are lost while the run is validated
    found = restarts(disturbed.run)
    assert len(found) == FAILURES
    assert not (disturbed.run / "FAILED.json").exists()
    starts = [entry["event"] for entry in read_lines(disturbed.run / "starts.jsonl")]
    assert starts == ["start", "end"]  # one job from its beginning to its end
    for entry in found:  # the step under way is all that is lost
        assert entry["kept"] is None or entry["steps"] - entry["kept"] <= 1, entry
    assert restarts(plain.run) == []
    *_, last = read_lines(disturbed.run / "restarts.jsonl")
    assert last["rounds"] == FAILURES + 1
    assert 0 < last["goodput"] < 1
    seconds = float(read_object(plain.run / "DONE.json")["seconds"])
    print(
        f"goodput {last['goodput']:.1%}: {FAILURES} failures in {last['seconds']:.0f} s, {seconds:.0f} s without them"
    )
