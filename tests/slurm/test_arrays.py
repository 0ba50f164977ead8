"""Arrays on a real SLURM: each task is a job of its own, and only what is missing is submitted again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconvnet.files import read_object
from laconvnet.launch.control import cancel, logs
from laconvnet.launch.graph.stages import Stage
from laconvnet.pipeline.errors import ConfigError
from tests.slurm.suite import Work

ARRAY = """
shares: {run: [share, "{here}", "{task}", HOW], array: 4, at_once: 2}
after: {run: [write, "{here}/f", x, "{shares}"]}
"""


def notes(stage: Stage) -> list[str]:
    return (stage.folder / "notes").read_text().splitlines()


def starts(stage: Stage, event: str = "start") -> list[int]:
    """How often each task was started."""
    files = [job.folder / "starts.jsonl" for job in stage.jobs]
    return [sum(json.loads(line)["event"] == event for line in file.read_text().splitlines()) for file in files]


def test_a_failed_task_stops_dependants_and_only_it_is_submitted_again(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    shares, after = (stages := work.stages(ARRAY.replace("HOW", "fail"))).values()
    assert work.submit() == 0
    assert work.ended(*stages.values()) == {
        "shares": ("failed", "1 of 4 tasks failed"),
        "after": ("not started", "shares failed"),
    }
    row = work.rows()["shares"]
    assert row["tasks"] == {"of": 4, "done": 3, "failed": 1}
    node = read_object(shares.jobs[0].folder / "FAILED.json")["node"]
    assert node in ("127.0.0.1", "127.0.0.2")
    assert row["failed"] == [{"task": 0, "rank": 0, "node": node, "reason": "ValueError: no such share"}]
    assert not after.folder.joinpath("f").exists()
    assert work.queue() == []
    assert not (shares.folder / "DONE.json").exists()
    capsys.readouterr()
    assert logs(work.out, "shares", task=0) == 0
    output = capsys.readouterr().out
    assert "no such share" in output
    assert "2/4" not in output
    running = 0  # never more than at_once
    for line in notes(shares):
        running += 0 if line.startswith("1/4") else -1 if line.endswith("ends") else 1
        assert running <= 2

    (shares.folder / "mended").touch()
    first = work.job(shares)
    assert work.submit() == 0
    output = capsys.readouterr().err
    assert "1 of 4 tasks submitted" in output
    assert work.ended(*stages.values()) == {"shares": ("done", None), "after": ("done", None)}
    assert starts(shares) == [1 + 1, 1, 1, 1]
    assert work.job(shares) != first
    done = read_object(shares.folder / "DONE.json")
    assert (done["tasks"], done["identity"]) == (4, shares.fingerprint)
    assert work.submit() == 0
    assert "0 submitted" in capsys.readouterr().err


def test_tasks_are_tried_elsewhere_while_the_others_go_on(work: Work) -> None:
    """The first one and the last, whose job has the number of the whole array."""
    stages = work.stages(ARRAY.replace("HOW", "retry"))
    shares = stages["shares"]
    assert work.submit() == 0
    assert work.ended(*stages.values()) == {"shares": ("done", None), "after": ("done", None)}
    work.empty()
    assert starts(shares) == starts(shares, "end") == [2, 1, 1, 2]
    for share in ("1/4", "4/4"):
        first, second = (line.split()[2] for line in notes(shares) if line.startswith(share) and "ends" not in line)
        assert first != second  # off the node that was at fault
    assert work.accounted(*(f"{work.job(shares)}_{task}" for task in range(4))) == ["COMPLETED"] * 4


def test_what_is_left_of_an_array_in_the_queue_is_waited_for(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    """A task stops and is queued again by itself; the others are done; --only takes what waits in the queue."""
    shares, after = work.stages(ARRAY.replace("HOW", "wait")).values()
    with pytest.raises(ConfigError, match=r"'after' .* neither done nor in the queue: shares"):
        work.submit(only="after")
    assert work.submit(only="shares") == 0
    work.wait(lambda: work.rows()["shares"]["tasks"]["done"] == 3, "the other tasks did not end")
    job = f"{work.job(shares)}_0"
    work.cluster.call("scancel", "--signal=USR2", job)
    work.wait(lambda: starts(shares)[0] == 2, "the task was not started again")
    assert starts(shares) == [2, 1, 1, 1]  # nothing else was
    assert work.rows()["shares"]["state"] == "running"
    assert work.submit(only="after") == 0
    assert "3 submitted" not in (output := capsys.readouterr().err)
    assert "1 found in the queue, running" in output
    depends = work.cluster.call("squeue", "--noheader", f"--jobs={work.job(after)}", "--format=%E")
    assert f"afterok:{job}" in depends
    assert cancel(work.out, "shares") == 0
    ended = work.ended(shares, after)
    assert ended["shares"] == ("stopped", "cancelled; the same command resumes")
    assert ended["after"][0] == "not started"
    work.empty()
    assert starts(shares) == [2, 1, 1, 1]
    assert not Path(after.folder, "f").exists()
