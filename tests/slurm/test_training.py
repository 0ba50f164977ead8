"""Two nodes train one model on a real SLURM: as two local processes do, undisturbed and through every interruption."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from laconvnet.launch.control import cancel
from laconvnet.launch.graph.stages import Stage, plan
from laconvnet.launch.status import last_checkpoint
from tests.rounding import SEEDS, assert_rounding, nudge
from tests.runs import Losses, logged, losses, weights
from tests.slurm.suite import Work

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests" / "pipeline" / "training" / "tiny.yaml"
KEYS = ["--schedule.epochs", "5", "--checkpoint.every", "5"]
TRAIN = """
train:
  run: [train, --config, {config}, --run, "{{here}}", --data.folder, {data}, {keys}]
  processes: 2
  nodes: 2
  gpus: 1
after:
  run: [shards, info, {data}, --json]
  needs: [train]
"""


def trained(run: Path, data: Path, keys: Sequence[str] = KEYS, nudge: str = "") -> Path:
    """The run of two processes on this machine, without SLURM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "tests" / "rounding.py"), "train", "--config", str(CONFIG)]
    command += ["--run", str(run), "--data.folder", str(data), *keys]
    common = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "NUDGE": nudge}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    assert [rank.wait() for rank in ranks] == [0, 0]
    return run


@pytest.fixture(scope="session")
def undisturbed(refcoco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("undisturbed") / "run", refcoco)


@pytest.fixture(scope="session")
def nudged(refcoco: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("nudged")
    return [trained(place / f"{seed}", refcoco, nudge=nudge(seed)) for seed in SEEDS]


@pytest.fixture
def graph(work: Work, refcoco: Path) -> dict[str, Stage]:
    work.entry = "laconvnet.launch.cli:main"
    keys = ", ".join(f'"{key}"' for key in KEYS)
    return work.stages(TRAIN.format(config=CONFIG, data=refcoco, keys=keys))


def test_two_nodes_train_one_model(work: Work, graph: dict[str, Stage], undisturbed: Path) -> None:
    assert work.submit() == 0
    assert work.ended(*graph.values()) == {"train": ("done", None), "after": ("done", None)}
    run = graph["train"].folder
    assert losses(run) == losses(undisturbed)
    assert weights(run) == weights(undisturbed)


def test_every_interruption_ends_in_the_same_weights(work: Work, graph: dict[str, Stage], undisturbed: Path) -> None:
    """USR2, a preemption by the higher partition, a requeue by hand, a node set down: one run suffers them all."""
    assert work.submit() == 0
    train, after = graph.values()
    job = work.job(train)

    def reach(step: int) -> None:
        work.wait(lambda: logged(train.folder) >= step, f"step {step} was not reached")
        assert not (train.folder / "DONE.json").exists(), "the run is too short for this test"

    def started(times: int) -> None:
        work.wait(lambda: (work.rows()["train"]["starts"] or 0) > times, f"it was not started {times + 1} times")

    reach(2)
    work.cluster.call("scancel", "--signal=USR2", job)
    started(1)
    reach(logged(train.folder) + 2)
    work.cluster.call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true", "--output=/dev/null")
    started(2)
    reach(logged(train.folder) + 2)
    work.cluster.call("scontrol", "requeue", job)
    started(3)
    reach(logged(train.folder) + 2)
    work.cluster.call("scontrol", "update", "NodeName=127.0.0.2", "State=DOWN", "Reason=test")
    work.wait(lambda: work.rows()["train"]["state"] != "running", "the job ran on without its node")
    work.cluster.resume("127.0.0.2")
    assert work.ended(train, after) == {"train": ("done", None), "after": ("done", None)}
    assert work.rows()["train"]["starts"] == 5
    assert losses(train.folder) == losses(undisturbed)
    assert weights(train.folder) == weights(undisturbed)


def test_another_number_of_ranks_goes_on_from_the_same_checkpoint(
    work: Work, graph: dict[str, Stage], undisturbed: Path, nudged: list[Path]
) -> None:
    assert work.submit() == 0
    train = graph["train"]
    work.wait(lambda: last_checkpoint(train.folder), "no checkpoint was saved")
    assert cancel(work.out) == 0
    work.empty()
    assert not (train.folder / "DONE.json").exists(), "the run is too short for this test"
    done = int(str(last_checkpoint(train.folder)).removeprefix("step-"))
    work.file.write_text(work.file.read_text().replace("processes: 2", "processes: 1").replace("nodes: 2", "nodes: 1"))
    assert plan(work.file)[0].folder == train.folder
    assert work.submit() == 0
    assert work.ended(*graph.values()) == {"train": ("done", None), "after": ("done", None)}
    entries = [json.loads(line) for line in (train.folder / "log.jsonl").read_text().splitlines()]
    alone = entries[[entry["step"] for entry in entries].index(done) + 1 :]
    wanted = losses(undisturbed)
    # One process adds up the same examples in another order: the first steps show that no others were read.
    first = next(entry for entry in alone if entry["step"] > done)
    # From the same weights: one forward pass in float32, of some ten thousand units in the last place at most.
    assert first["loss"] == pytest.approx(wanted[first["step"]][0], rel=1e-3)
    assert first["step"] == done + 1
    assert entries[-1]["step"] == max(wanted)
    controls = [losses(run) for run in nudged]
    steps = [entry["step"] for entry in alone]
    found = [entry["loss"] for entry in alone]
    assert_rounding(found, *_of_steps(steps, wanted, controls))


def _of_steps(steps: list[int], plain: Losses, controls: list[Losses]) -> tuple[list[float], list[list[float]]]:
    losses_of = [[run[step][0] for step in steps] for run in (plain, *controls)]
    return losses_of[0], losses_of[1:]
