"""Ranks and supervisors are lost on a real SLURM: ranks start again inside their job, and what memory held is kept."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from laconvnet.files import read_object
from laconvnet.launch.graph.stages import Stage
from laconvnet.launch.supervision.rank import SUPERVISOR
from laconvnet.pipeline.runs.records import read_lines
from tests.runs import logged, losses, restarts, weights
from tests.slurm.suite import SITE, Work
from tests.slurm.trained import KEYS, train_stages

FAILURES = 5
NEVER = ["--checkpoint.every", "100000", "--checkpoint.memory", "1"]


def processes(work: Work, stage: Stage, rank: int, supervisor: bool) -> list[psutil.Process]:
    """The process of a rank of the stage's job, or of its supervisor."""
    found = []
    for process in work.cluster.processes():
        try:
            command, own = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        # The script's own line names the module too, and srun; a rank is an interpreter.
        mine = command[1:4] == ["-u", "-m", "submitit.core._submit"] and own.get("SLURM_PROCID") == str(rank)
        if mine and own.get("SLURM_JOB_ID") == work.job(stage) and (SUPERVISOR in own) is not supervisor:
            found.append(process)
    return found


def one(work: Work, stage: Stage, rank: int, supervisor: bool = False) -> psutil.Process:
    work.wait(lambda: processes(work, stage, rank, supervisor), f"rank {rank} did not start")
    (process,) = processes(work, stage, rank, supervisor)
    return process


def starts(run: Path, event: str) -> list[dict[str, Any]]:
    return [entry for entry in read_lines(run / "starts.jsonl") if entry["event"] == event]


def go_on(work: Work, stage: Stage, steps: int) -> None:
    """Wait until the run has taken more than so many steps from here."""
    before = logged(stage.folder)
    work.wait(lambda: logged(stage.folder) > before + steps, f"no step after {before + steps}")


def nth(work: Work, found: Callable[[], list[dict[str, Any]]], number: int, what: str) -> dict[str, Any]:
    """The line of that number, once it is there."""
    work.wait(lambda: len(found()) > number, what)
    return found()[number]


def test_five_lost_ranks_cost_the_job_nothing_but_seconds(work: Work, refcoco: Path, undisturbed: Path) -> None:
    train = train_stages(work, refcoco, [*KEYS[:2], *NEVER])["train"]
    assert work.submit() == 0
    draw = random.Random(1)
    for number in range(FAILURES):
        go_on(work, train, 0)
        rank, how = draw.randrange(2), (signal.SIGKILL, signal.SIGSTOP)[number % 2]
        victim = one(work, train, rank)
        time.sleep(draw.uniform(0, 0.3))
        victim.send_signal(how)
        told = nth(work, lambda: restarts(train.folder), number, f"no restart after failure {number}")
        assert told["rank"] == rank
    assert work.ended(train) == {"train": ("done", None)}
    assert len(restarts(train.folder)) == FAILURES
    assert work.rows()["train"]["starts"] == 1  # it never left the queue
    assert losses(train.folder) == losses(undisturbed)
    assert weights(train.folder) == weights(undisturbed)


def test_what_memory_held_outlives_the_node_of_either_rank(work: Work, refcoco: Path, undisturbed: Path) -> None:
    """A supervisor is lost with its rank, that of rank 1, then that of rank 0: the other one's memory is saved."""
    train = train_stages(work, refcoco, [*KEYS[:2], *NEVER])["train"]
    assert work.submit(SITE.replace("retries: 2", "retries: 3")) == 0
    for number, rank in enumerate((1, 0)):
        go_on(work, train, 1)
        one(work, train, rank, supervisor=True).kill()
        end = nth(work, lambda: starts(train.folder, "end"), number, "the start did not end")
        reached = logged(train.folder)
        assert end["outcome"] == "retry", end
        assert end["rank"] == rank
        assert int(str(end["checkpoint"]).removeprefix("step-")) >= reached - 1
    assert work.ended(train) == {"train": ("done", None)}
    assert work.rows()["train"]["starts"] == 3
    assert losses(train.folder) == losses(undisturbed)
    assert weights(train.folder) == weights(undisturbed)
    assert read_object(train.folder / "DONE.json")["processes"] == 2


def test_a_rank_that_is_always_lost_is_tried_elsewhere_and_then_told(work: Work) -> None:
    stages = work.stages('lose: {run: [lose, "{here}"], processes: 2, nodes: 2, restarts: 1}')
    assert work.submit(SITE.replace("retries: 2", "retries: 1")) == 0
    state, reason = work.ended(*stages.values())["lose"]
    assert state == "failed"
    assert reason is not None
    for word in ("rank 1", "SIGKILL", "without a new step", "after 1 retries"):
        assert word in reason
    run = stages["lose"].folder
    assert [entry["outcome"] for entry in starts(run, "end")] == ["retry", "failed"]
    assert len(restarts(run)) == 2  # once in each start
