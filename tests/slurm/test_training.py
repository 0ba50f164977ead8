"""Two nodes train one model on a real SLURM: as two local processes do, undisturbed and through every interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconvnet.launch.control import cancel
from laconvnet.launch.graph.stages import Stage, plan
from laconvnet.launch.status import last_checkpoint
from tests.rounding import SEEDS, assert_rounding, nudge
from tests.runs import Losses, logged, losses, weights
from tests.slurm.suite import Work
from tests.slurm.trained import trained


@pytest.fixture(scope="session")
def nudged(refcoco: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("nudged")
    return [trained(place / f"{seed}", refcoco, nudge=nudge(seed)) for seed in SEEDS]


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
