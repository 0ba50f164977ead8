"""Arrays on SLURM, its commands played by scripts: each task a job, of which only what is missing is submitted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from submitit.helpers import DelayedSubmission

from laconvnet.files import find_object, publish_json
from laconvnet.launch.control import cancel, logs
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import Stage, plan
from laconvnet.launch.job import Command
from laconvnet.launch.slurm.batch import Submission
from laconvnet.launch.status import show, status
from laconvnet.pipeline.errors import ConfigError
from tests.launch.any_line import LINE

Write = Callable[[str], Path]
Submitted = tuple[Callable[..., int], dict[str, Stage]]
ARRAY = """
raw: {run: [write, "{here}/f", x]}
shares: {run: [share, "{here}", "{task}", "{raw}"], array: 4, at_once: 2}
joined: {run: [write, "{here}/f", x, "{shares}"]}
"""


@pytest.fixture
def array(stages: Write, slurm: Path) -> Submitted:
    """How a graph with an array is submitted, and its stages; nothing of it was."""
    file = stages(ARRAY)
    found = {stage.name: stage for stage in plan(file)}
    return (lambda **options: launch(file, cluster="site.yaml", line=LINE, **options)), found


def calls(slurm: Path) -> list[str]:
    return [line.strip() for line in (slurm / "calls").read_text().splitlines()]


def finish(stage: Stage) -> None:
    publish_json(
        stage.folder / "DONE.json", {"identity": stage.fingerprint, "started": 1.0, "ended": 2.0, "seconds": 1.0}
    )


def test_of_an_array_only_what_is_missing_is_submitted(
    array: Submitted, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit, stages = array
    shares = stages["shares"]
    assert submit() == 0
    assert calls(slurm) == [
        "sbatch 101",
        "sbatch 102 array=0-3%2 dependency=afterok:101",
        "sbatch 103 dependency=afterok:102",
    ]
    for task, job in enumerate(shares.jobs):
        record = find_object(job.folder / "job.json")
        assert record is not None
        assert record["id"] == f"102_{task}"
        pickle = DelayedSubmission.load(job.folder / "jobs" / f"102_{task}_submitted.pkl")
        assert isinstance(pickle.function, Command)
        assert pickle.function.argv[-2] == f"{task + 1}/4"
        assert (pickle.function.folder, pickle.function.stage) == (job.folder, "shares")
        assert Submission.of(job.folder).stage == "shares"
    assert sorted(path.name for path in (shares.folder / "array-4").glob("*sub*")) == ["102_submission.sh"]

    # The first is done, the second failed, the third runs, the last waits.
    finish(stages["raw"])
    finish(shares.jobs[0])
    publish_json(shares.jobs[1].folder / "FAILED.json", {"reason": "no", "ended": 1.0})
    place = shares.folder / "array-4"
    (slurm / "queue").write_text(f"102_2|RUNNING|None|{place}\n102_3|PENDING|Resources|{place}\n")
    capsys.readouterr()
    assert submit() == 0
    # 102 as a whole can no longer end well: each task that is left is waited for by itself.
    assert calls(slurm)[3:] == ["sbatch 104 array=1%2", "sbatch 105 dependency=afterok:102_2:102_3:104"]
    shown = capsys.readouterr().err
    assert re.search(r"1 of 4 tasks submitted; 1 .* running; 1 .* pending", shown)
    assert not (shares.jobs[1].folder / "FAILED.json").exists()
    assert [(find_object(job.folder / "job.json") or {})["id"] for job in shares.jobs] == [
        *("102_0", "104_1", "102_2", "102_3")
    ]
    with pytest.raises(ConfigError, match=r"queue: shares \(job 102\).*`laconvnet cancel`"):
        submit(force=True)
    assert cancel(Path("runs"), "shares") == 0
    assert calls(slurm)[-1] == "scancel 102"


def test_an_array_whose_tasks_are_all_done_is_done(array: Submitted, slurm: Path) -> None:
    """Two tasks that end at once on two nodes may each not see the other's marker."""
    submit, stages = array
    assert submit() == 0
    finish(stages["raw"])
    for job in stages["shares"].jobs:
        finish(job)
    assert submit() == 0
    assert calls(slurm)[3:] == ["sbatch 104"]
    done = find_object(stages["shares"].folder / "DONE.json")
    assert done is not None
    assert (done["tasks"], done["seconds"]) == (4, 1.0)
    assert submit(from_="shares") == 0  # then all of them again
    assert calls(slurm)[4:] == ["sbatch 105 array=0-3%2", "sbatch 106 dependency=afterok:105"]
    assert not (stages["shares"].folder / "DONE.json").exists()
    assert not (stages["shares"].jobs[3].folder / "DONE.json").exists()


def test_an_array_of_another_number_in_the_queue(array: Submitted, stages: Write, slurm: Path) -> None:
    submit, found = array
    assert submit() == 0
    (slurm / "queue").write_text(f"102_2|RUNNING|None|{found['shares'].folder}/array-4\n")
    file = stages(ARRAY.replace("array: 4", "array: 8"))
    with pytest.raises(ConfigError, match=r"shares \(job 102.* 4, not 8\).*`laconvnet cancel`"):
        launch(file, cluster="site.yaml", line=LINE)
    assert len(calls(slurm)) == 3


def test_a_refused_array_leaves_nothing(array: Submitted, slurm: Path) -> None:
    submit, stages = array
    (slurm / "refuse").write_text("102")
    with pytest.raises(ConfigError, match=r"stage 'shares': sbatch: QOSMaxSubmit; nothing was submitted"):
        submit()
    assert calls(slurm)[-1] == "scancel 101"
    assert not [*stages["shares"].folder.rglob("*.pkl"), *stages["shares"].folder.rglob("job.json")]
    assert not [*stages["shares"].folder.rglob("*submission.sh")]


def test_an_array_in_the_queue_may_be_an_input_unless_a_task_has_failed(array: Submitted, slurm: Path) -> None:
    submit, stages = array
    shares = stages["shares"]
    assert submit() == 0
    place = shares.folder / "array-4"
    lines = [f"102_{task}|PENDING|Resources|{place}\n" for task in range(4)]
    (slurm / "queue").write_text("".join(lines))
    assert submit(only="joined") == 0
    assert calls(slurm)[-1] == "sbatch 104 dependency=afterok:102"
    (slurm / "queue").write_text("".join(lines[1:]))
    with pytest.raises(ConfigError, match="neither done nor in the queue: shares"):
        submit(only="joined")
    finish(shares.jobs[0])
    assert submit(only="joined") == 0
    assert calls(slurm)[-1] == "sbatch 105 dependency=afterok:102_1:102_2:102_3"


def test_rows_of_an_array(array: Submitted, slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit, stages = array
    shares = stages["shares"]
    assert submit() == 0
    finish(stages["raw"])

    def row() -> dict[str, Any]:
        return {one["stage"]: one for one in status("runs")}["shares"]

    place = shares.folder / "array-4"
    (slurm / "queue").write_text("".join(f"102_{task}|PENDING|Priority|{place}\n" for task in range(4)))
    found = row()
    assert (found["state"], found["reason"], found["job"]) == ("waiting", "Priority", "102")
    assert found["tasks"] == {"of": 4, "done": 0, "waiting": 4}
    finish(shares.jobs[0])
    record = {"rank": 0, "node": "node7", "reason": "no such share", "ended": 50.0}
    publish_json(shares.jobs[1].folder / "FAILED.json", record)
    start = '{"job": "102_2", "start": 1, "event": "start", "time": 5.0}\n'
    (shares.jobs[2].folder / "starts.jsonl").write_text(start)
    (slurm / "queue").write_text(f"102_2|RUNNING|None|{place}\n102_3|PENDING|JobArrayTaskLimit|{place}\n")
    found = row()
    assert found["tasks"] == {"of": 4, "done": 1, "failed": 1, "running": 1, "waiting": 1}
    assert (found["state"], found["starts"]) == ("running", 2)
    assert found["failed"] == [{"task": 1, "rank": 0, "node": "node7", "reason": "no such share"}]
    rows = {one["stage"]: one for one in status("runs")}
    assert (rows["joined"]["state"], rows["joined"]["reason"]) == ("not started", "shares failed")
    assert show("runs") == 0
    text = capsys.readouterr().out.splitlines()
    assert text[0].split()[:5] == ["stage", "state", "job", "starts", "tasks"]
    assert text[2].split()[:5] == ["shares", "running", "102", "2", "1/4"]
    assert "shares task 1 rank 0 on node7 failed: no such share" in text
    (slurm / "queue").write_text("")
    (slurm / "books").write_text("102_2|COMPLETED\n102_[3]|CANCELLED by 0\n")
    found = row()
    assert (found["state"], found["reason"]) == ("failed", "1 of 4 tasks failed")
    (shares.jobs[1].folder / "FAILED.json").unlink()
    assert row()["state"] == "stopped"
    for job in shares.jobs:
        finish(job)
    assert (row()["state"], row()["tasks"]["done"]) == ("done", 4)


def test_logs_of_one_task(array: Submitted, capsys: pytest.CaptureFixture[str]) -> None:
    submit, stages = array
    assert submit() == 0
    for task, job in enumerate(stages["shares"].jobs[:2]):
        (job.folder / "jobs" / f"102_{task}_0_log.err").write_text(f"share {task}\n")
    capsys.readouterr()
    assert logs(Path("runs"), "shares", task=1) == 0
    assert capsys.readouterr().out == "share 1\n"
    assert logs(Path("runs"), "shares") == 0
    assert capsys.readouterr().out == "==> 102_0_0_log.err <==\nshare 0\n==> 102_1_0_log.err <==\nshare 1\n"
    with pytest.raises(ConfigError, match="'shares': --task: got 4, expected 0 to 3"):
        logs(Path("runs"), "shares", task=4)
    with pytest.raises(ConfigError, match="'raw': --task: got 0, the stage is not an array"):
        logs(Path("runs"), "raw", task=0)
