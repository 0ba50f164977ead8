"""What interrupts a job on a real SLURM, and what follows: it goes on, it is tried elsewhere, or it says why not."""

from __future__ import annotations

import json
from pathlib import Path

from laconvnet.files import read_object
from laconvnet.launch.graph.stages import Stage
from laconvnet.launch.ports import PORTS
from tests.slurm.suite import SITE, Limited, Work

COUNT = 'run: {{run: [count, "{{here}}", {steps}, {seconds}], processes: 2, nodes: 2{more}}}'


def steps(stage: Stage) -> dict[int, list[int]]:
    """The steps that each rank took, in order."""
    taken: dict[int, list[int]] = {}
    for line in (stage.folder / "notes").read_text().splitlines():
        _, rank, _, _, _, step = line.split()
        taken.setdefault(int(rank), []).append(int(step))
    return taken


def starts(stage: Stage) -> int:
    """How many starts have left a note."""
    file = stage.folder / "notes"
    return len({line.split()[3] for line in file.read_text().splitlines()}) if file.exists() else 0


def history(stage: Stage, event: str) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in (stage.folder / "starts.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == event]


def test_a_stop_is_queued_again_until_it_is_done(work: Work) -> None:
    """USR2 from outside, then a requeue from outside; a preemption and a lost node stand in test_training."""
    (stage,) = work.stages(COUNT.format(steps=80, seconds=0.3, more="")).values()
    assert work.submit() == 0
    work.wait(lambda: starts(stage) == 1, "the stage did not start")
    work.cluster.call("scancel", "--signal=USR2", work.job(stage))
    work.wait(lambda: starts(stage) == 2, "it was not started again")
    work.cluster.call("scontrol", "requeue", work.job(stage))
    work.wait(lambda: starts(stage) == 3, "it was not started a third time")
    assert work.ended(stage) == {"run": ("done", None)}
    assert steps(stage) == {0: list(range(80)), 1: list(range(80))}  # each step once, on each rank
    work.empty()  # the batch script has its last word after the ranks
    first, *_ = history(stage, "end")
    assert (first["outcome"], first["reason"]) == ("stopped", "preempted, or told to stop")
    assert history(stage, "end")[-1]["outcome"] == "done"
    assert work.rows()["run"]["starts"] == 3


def test_a_cancelled_job_does_not_come_back(work: Work) -> None:
    (stage,) = work.stages(COUNT.format(steps=1000, seconds=0.3, more="")).values()
    assert work.submit() == 0
    work.wait(lambda: starts(stage) == 1, "the stage did not start")
    work.cluster.call("scancel", work.job(stage))
    assert work.ended(stage) == {"run": ("stopped", "cancelled; the same command resumes")}
    work.empty()
    assert starts(stage) == 1


def test_a_killed_rank_is_named_with_its_node_and_ends_the_job(work: Work) -> None:
    stages = work.stages(
        'lose: {run: [lose, "{here}"], processes: 2, nodes: 2}\nafter: {run: [write, "{here}/f", x, "{lose}"]}'
    )
    assert work.submit() == 0
    ended = work.ended(*stages.values())
    reason = "rank 1 on 127.0.0.2 was killed by SIGKILL (out of memory?)"
    assert ended == {"lose": ("failed", reason), "after": ("not started", "lose failed")}
    failed = read_object(stages["lose"].folder / "FAILED.json")
    assert (failed["rank"], failed["node"], Path(failed["log"]).name.endswith("_1_log.err")) == (1, "127.0.0.2", True)
    assert len(history(stages["lose"], "start")) == 1  # it is the stage's own fault: not tried again


def test_faults_that_are_not_the_stages_are_tried_again_elsewhere(work: Work) -> None:
    stages = work.stages(
        """
        device: {run: [flaky, "{here}", 1, "CUDA error: uncorrectable ECC error encountered"]}
        port: {run: [flaky, "{here}", 2, "The server socket has failed: EADDRINUSE"], processes: 2}
        always: {run: [flaky, "{here}", 99, "Connection refused"]}
        own: {run: [flaky, "{here}", 1, "no such expression"]}
        """
    )
    assert work.submit() == 0
    ended = work.ended(*stages.values())
    assert ended["device"] == ended["port"] == ("done", None)
    assert ended["always"] == ("failed", "OSError: Connection refused (after 2 retries)")  # as the site's file says
    assert ended["own"] == ("failed", "OSError: no such expression")

    notes = {name: (stage.folder / "notes").read_text().splitlines() for name, stage in stages.items()}
    assert (len(notes["always"]), len(notes["own"])) == (3, 1)
    first, second = (line.split()[1] for line in notes["device"])
    assert first != second  # off the node that was at fault
    ports = {line.split()[2] for line in notes["port"]}
    assert len(ports) == 3
    assert all(int(port) in PORTS for port in ports)
    assert history(stages["device"], "end")[0]["outcome"] == "retry"
    assert not (stages["device"].folder / "FAILED.json").exists()


def test_a_hang_ends_with_a_reason(work: Work) -> None:
    (stage,) = work.stages('hang: {run: [hang, "{here}"], processes: 2, nodes: 2}').values()
    assert work.submit(SITE + "hang_minutes: 0.2\n") == 0
    reason = "no news for 0.2 minutes: log, output and checkpoints stand still"
    assert work.ended(stage) == {"hang": ("failed", reason)}
    work.empty()  # ranks that heed nothing are gone too


def test_setup_lines_that_fail_end_the_job(work: Work) -> None:
    (stage,) = work.stages('a: {run: [write, "{here}/f", x]}').values()
    assert work.submit(SITE + "setup: [echo loading, module load no-such-thing, echo loaded]\n") == 0
    state, reason = work.ended(stage)["a"]
    assert state == "failed"
    assert reason is not None
    assert reason.startswith("SLURM: FAILED: ")
    assert "module: command not found" in reason
    assert not (stage.folder / "f").exists()


def test_time_limits_are_passed_so_and_so_often(limited: Limited) -> None:
    work, long, endless, many = limited
    assert work.ended(long, endless, many) == {
        "many": ("done", None),
        "long": ("done", None),
        "endless": ("failed", "reached its time limit of 1 minutes for the 5. time"),
    }
    work.empty()
    assert steps(long) == {0: list(range(250))}
    outcomes = [entry["outcome"] for entry in history(long, "end")]
    assert outcomes == ["time limit"] * (len(outcomes) - 1) + ["done"]
    assert len(outcomes) > 1
    assert [entry["outcome"] for entry in history(endless, "end")] == ["time limit"] * 4 + ["failed"]
    for task in many.jobs:  # each by itself
        outcomes = [entry["outcome"] for entry in history(task, "end")]
        assert set(outcomes[:-1]) == {"time limit"}
        assert outcomes[-1] == "done"
        assert task.task is not None
        notes = (many.folder / f"{task.task + 1}-2" / "notes").read_text().splitlines()
        assert [int(line.split()[5]) for line in notes] == list(range(150))
    (taken,) = steps(endless).values()
    assert taken == list(range(len(taken)))  # nothing is lost between the starts
