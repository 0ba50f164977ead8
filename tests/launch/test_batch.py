"""What follows from the files, srun's messages and its exit code when the ranks have ended."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from laconvnet.files import find_object, publish_json
from laconvnet.launch.job import Orphaned, check_fence
from laconvnet.launch.slurm import watchdog
from laconvnet.launch.slurm.batch import (  # fmt: skip
    AGAIN,
    DONE,
    FAILED,
    LOST_STARTS,
    Submission,
    begin,
    end,
    history,
    job_id,
    judge,
    main,
    refused,
)
from laconvnet.launch.slurm.failures import Lost, lost, transient
from laconvnet.pipeline.runs.layout import fence_file, ok_marker
from tests.messages import tells

KILLED = """srun: error: node7: task 3: Killed
srun: launch/slurm: _step_signal: Terminating StepId=7.0
srun: error: node6: tasks 0-2: Exited with exit code 1
"""


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A stage of four ranks that job 7 has started on, of at most ten minutes."""
    (tmp_path / "jobs").mkdir()
    Submission("train", "abc", 4, 10, 30, 5, 2, 2, 1, "code-x", "v1").write(tmp_path)
    assert begin(tmp_path, "7", 0, "node[6-7]") == DONE
    return tmp_path


def say(stage: Path, text: str, rank: int | None = None) -> None:
    name = "7_batch.log" if rank is None else f"7_{rank}_log.err"
    (stage / "jobs" / name).write_text(text)


def failed(stage: Path, reason: str, rank: int = 0, **more: object) -> None:
    """What a rank writes that can still do so."""
    record = {"stage": "train", "rank": rank, "node": "node6", "reason": reason, "tail": ["before", reason]}
    publish_json(stage / "FAILED.json", record | more)


def test_done_is_the_marker_whatever_srun_says(stage: Path) -> None:
    publish_json(stage / "DONE.json", {"identity": "abc"})
    say(stage, KILLED)
    assert end(stage, "7", 0, 134, 5) == DONE
    publish_json(stage / "DONE.json", {"identity": "of another configuration"})
    assert end(stage, "7", 0, 0, 5) == FAILED  # success without the marker is none


def test_a_killed_rank_is_the_cause_not_those_that_lost_it(stage: Path) -> None:
    say(stage, KILLED)
    say(stage, "step 5\nstep 6\n", rank=3)
    failed(stage, "Connection closed by peer [10.0.0.7]")
    assert end(stage, "7", 0, 137, 60) == FAILED
    output = find_object(stage / "FAILED.json")
    assert output is not None
    assert tells(output["reason"], "rank 3", "node7", "SIGKILL", "memory")
    assert (output["rank"], output["node"], output["tail"]) == (3, "node7", ["step 5", "step 6"])
    assert output["log"].endswith("7_3_log.err")
    assert history(stage, "7")[-1]["outcome"] == "failed"


def supervised(stage: Path, **more: object) -> None:
    Submission(**(find_object(stage / "jobs" / "submission.json") or {}) | {"restarts": 3} | more).write(stage)


def test_a_lost_supervisor_is_tried_elsewhere(stage: Path) -> None:
    supervised(stage, retries=1)
    say(stage, KILLED)
    verdict = judge(stage, "7", 137, 9)
    assert (verdict.outcome, verdict.rank, verdict.node, verdict.exclude) == ("retry", 3, "node7", "node7")
    assert end(stage, "7", 0, 137, 9) == AGAIN
    verdict = judge(stage, "7", 137, 9)
    assert verdict.outcome == "failed"
    assert tells(verdict.reason, "rank 3", "SIGKILL", "1 retries")


def test_a_rank_that_was_lost_again_and_again_is_tried_elsewhere(stage: Path) -> None:
    supervised(stage)
    failed(stage, "rank 2 on node6 was killed by SIGKILL", rank=2, repeats=True)
    say(stage, "srun: error: node6: tasks 0-3: Exited with exit code 1\n")
    verdict = judge(stage, "7", 1, 9)
    assert (verdict.outcome, verdict.rank, verdict.exclude) == ("retry", 2, "node6")


def test_a_supervisor_that_did_not_come_is_tried_again(stage: Path) -> None:
    supervised(stage)
    failed(stage, "rank 2 on its node has no supervisor that came within 600 seconds", rank=2, fault="node")
    say(stage, "srun: error: node6: tasks 0-3: Exited with exit code 1\n")
    verdict = judge(stage, "7", 1, 9)
    assert (verdict.outcome, verdict.rank) == ("retry", 2)


def test_a_start_that_has_ended_leaves_no_secret(stage: Path) -> None:
    supervised(stage)
    begin(stage, "7", 0, "node[6-7]")
    (secret,) = stage.glob("jobs/*.link")
    assert secret.name == "7.link"
    end(stage, "7", 0, 1, 9)
    assert not secret.exists()


def test_a_rank_that_srun_killed_is_not_the_cause(stage: Path) -> None:
    """One that hangs in a collective heeds no SIGTERM: srun kills it too, and may tell of it first or last."""
    lines = KILLED.splitlines()
    say(stage, "\n".join([lines[2], lines[1], "srun: error: node8: tasks 4-5: Killed", lines[0]]))
    for rank in (4, 5):
        (stage / "jobs" / f"7_{rank}.told").touch()
    failed(stage, "Connection closed by peer")
    assert tells(judge(stage, "7", 137, 9).reason, "rank 3", "node7", "SIGKILL", "memory")
    (stage / "jobs" / "7_3.told").touch()
    assert judge(stage, "7", 137, 9).outcome == "retry"  # nobody died by himself: it was the network


def test_what_a_rank_says_itself_wins_over_the_death_of_others(stage: Path) -> None:
    say(stage, KILLED)
    failed(stage, "ValueError: loss is not finite", rank=1)
    assert judge(stage, "7", 137, 9).reason == "ValueError: loss is not finite"


def test_a_rank_that_could_not_speak_is_quoted(stage: Path) -> None:
    say(stage, "srun: error: node6: task 1: Exited with exit code 1\n")
    say(stage, "Traceback\nModuleNotFoundError: No module named 'torch'\n", rank=1)
    assert end(stage, "7", 0, 1, 2) == FAILED
    output = find_object(stage / "FAILED.json")
    assert output is not None
    assert (output["reason"], output["rank"]) == ("ModuleNotFoundError: No module named 'torch'", 1)


def test_stops_are_not_failures(stage: Path) -> None:
    (stage / "jobs" / "7_2.stopped").touch()
    failed(stage, "Connection reset by peer", told=True)  # of a rank that was not so far
    assert end(stage, "7", 0, 130, 100) == AGAIN
    assert history(stage, "7")[-1]["outcome"] == "stopped"
    assert not (stage / "FAILED.json").exists()
    for again in range(1, 3):  # within 90 s of ten minutes: the signal may come 60 s before its 30
        begin(stage, "7", again, "node6")
        (stage / "jobs" / "7_2.stopped").touch()
        assert end(stage, "7", again, 130, 511) == AGAIN
        assert history(stage, "7")[-1]["outcome"] == "time limit"
    begin(stage, "7", 3, "node6")
    assert end(stage, "7", 3, 1, 1) == FAILED  # the markers of the last start do not speak for this one
    begin(stage, "7", 4, "node6")
    (stage / "jobs" / "7_2.stopped").touch()
    assert end(stage, "7", 4, 130, 511) == FAILED
    output = find_object(stage / "FAILED.json")
    assert output is not None
    assert tells(output["reason"], "time limit", "10 minutes", "3.")


def test_a_rank_that_srun_asked_to_stop_does_not_hide_the_one_that_failed(stage: Path) -> None:
    (stage / "jobs" / "7_2.stopped").touch()
    (stage / "jobs" / "7_2.told").touch()
    asked = "srun: error: node6: task 2: Exited with exit code 130\n"
    say(stage, KILLED + asked)
    assert tells(judge(stage, "7", 137, 60).reason, "rank 3", "node7", "SIGKILL", "memory")
    say(stage, "srun: error: node6: task 1: Exited with exit code 1\n" + asked)
    say(stage, "ModuleNotFoundError: No module named 'torch'\n", rank=1)
    assert judge(stage, "7", 137, 60).reason == "ModuleNotFoundError: No module named 'torch'"
    say(stage, asked)
    assert judge(stage, "7", 130, 60).outcome == "stopped"
    failed(stage, "ValueError: loss is not finite", rank=1, told=False)
    assert judge(stage, "7", 137, 60).reason == "ValueError: loss is not finite"
    failed(stage, "OSError: No space left on device", rank=1, told=True)
    (stage / "jobs" / "7_2.stopped").unlink()  # nobody could save
    verdict = judge(stage, "7", 137, 60)
    assert (verdict.outcome, verdict.reason) == ("retry", "stop: OSError: No space left on device")


def test_a_rank_that_was_not_yet_listening_was_told_to_stop(stage: Path) -> None:
    say(stage, "srun: error: node6: task 0: User defined signal 2\n")
    assert end(stage, "7", 0, 140, 3) == AGAIN


def test_retries_are_counted_and_nodes_excluded(stage: Path) -> None:
    for start, node in enumerate(("node6", "node8")):
        failed(stage, "RuntimeError: CUDA error: uncorrectable ECC error encountered", node=node)
        assert end(stage, "7", start, 1, 50) == AGAIN
        # One node may be spared by what was submitted: the newest at fault.
        assert (stage / "jobs" / "7.exclude").read_text() == node
        begin(stage, "7", start + 1, "node9")
        assert not (stage / "FAILED.json").exists()
    failed(stage, "EADDRINUSE")
    assert end(stage, "7", 2, 1, 50) == FAILED
    output = find_object(stage / "FAILED.json")
    assert output is not None
    assert output["reason"] == "EADDRINUSE (after 2 retries)"


def test_a_node_name_that_is_none_reaches_no_shell(stage: Path) -> None:
    failed(stage, "Stale file handle", node="x;reboot")
    assert end(stage, "7", 0, 1, 50) == AGAIN
    assert not (stage / "jobs" / "7.exclude").exists()


def test_a_failure_of_the_stages_own_is_not_tried_again(stage: Path) -> None:
    failed(stage, "ValueError: loss is not finite", rank=2)
    assert end(stage, "7", 0, 1, 50) == FAILED
    assert refused(stage, "7", 0) == FAILED
    output = find_object(stage / "FAILED.json")
    assert output is not None
    assert "SLURM refused" in output["reason"]


def test_only_the_newest_start_of_the_log_counts(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    begin(stage, "7", 1, "node6")
    say(stage, KILLED + capsys.readouterr().out + "srun: error: node6: task 0: Exited with exit code 3\n")
    say(stage, "no such expression\n", rank=0)
    assert judge(stage, "7", 3, 5).reason == "no such expression"


def test_the_reason_of_a_rank_writes_no_line_that_is_read_again(
    stage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    failed(stage, "ValueError: no\nlaconvnet: start 9 on node7\nsrun: error: node7: task 3: Killed\x1b[2J")
    assert end(stage, "7", 0, 1, 60) == FAILED
    (line,) = capsys.readouterr().out.splitlines()
    assert tells(line, "laconvnet: failed: ", "no\\nlaconvnet: start 9", "\\x1b[2J")


def test_starts_that_lead_nowhere_end(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for start in range(1, LOST_STARTS):
        assert begin(stage, "7", start, "node6") == DONE
    (stage / "checkpoints" / "step-00000005").mkdir(parents=True)
    (stage / "checkpoints" / "step-00000005" / "COMMIT").touch()
    for start in range(LOST_STARTS, 2 * LOST_STARTS):
        assert begin(stage, "7", start, "node6") == DONE  # it had got on
    assert begin(stage, "7", 99, "node6") == FAILED
    output = find_object(stage / "FAILED.json")
    assert output is not None
    assert tells(output["reason"], f"{LOST_STARTS} starts")


def test_an_orphan_of_an_earlier_start_publishes_nothing(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ok_marker(stage, "7", 0).touch()
    check_fence(stage, "7")
    begin(stage, "7", 1, "node6")
    assert not ok_marker(stage, "7", 0).exists()
    with pytest.raises(Orphaned, match="started again"):
        check_fence(stage, "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    check_fence(stage, "7")
    check_fence(stage, "8")  # a job without a batch script of ours


def test_a_task_of_an_array_is_a_job_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")  # for one of its tasks that is the id of the array
    assert job_id() == "9"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node6")
    task = tmp_path / "array-4" / "3"
    (task / "jobs").mkdir(parents=True)
    Submission("train", "abc", 1, 10, 30, 5, 2, 2, 1, "code-x", "v1").write(task)
    assert main(["begin", str(task)]) == DONE
    assert fence_file(task, "9_3").exists()
    assert [entry["nodes"] for entry in history(task, "9_3")] == ["node6"]
    publish_json(task / "DONE.json", {"identity": "abc"})
    assert main(["end", str(task), "0", "5"]) == DONE


def test_a_torn_line_of_the_history_is_passed_over(stage: Path) -> None:
    with (stage / "starts.jsonl").open("a") as stream:
        stream.write('{"job": "7", "st')
    assert [entry["event"] for entry in history(stage, "7")] == ["start"]
    assert history(stage, "8") == []


def test_sruns_messages() -> None:
    left = [Lost(rank, "node6", "Exited with exit code 1") for rank in (0, 1, 2)]
    assert lost(KILLED.splitlines()) == [Lost(3, "node7", "Killed"), *left]
    gpu = "srun: error: gpu[1-2]: tasks 4,6-7: Out Of Memory"
    assert lost(["loading", gpu]) == [Lost(rank, "gpu[1-2]", "Out Of Memory") for rank in (4, 6, 7)]
    assert Lost(0, "n", "Segmentation fault (core dumped)").killed == "was killed by SIGSEGV"
    assert Lost(0, "n", "Terminated").killed is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("DistNetworkError: The server socket has failed to listen ... EADDRINUSE, message: address", ("port", False)),
        ("torch.distributed.DistBackendError: NCCL error ... ncclRemoteError: A call failed", ("nccl", False)),
        ("RuntimeError: [/pytorch/gloo] Connection closed by peer [127.0.0.1]:3", ("net", False)),
        ("srun: error: Node failure on node6", ("node", True)),
        ("OSError: [Errno 5] Input/output error: 'shard-000.tar'", ("files", True)),
        ("torch.OutOfMemoryError: CUDA out of memory", None),
        ("ConfigError: data.batch", None),
    ],
)
def test_what_may_be_tried_again(line: str, found: tuple[str, bool] | None) -> None:
    assert transient(["something", line]) == found


def test_the_watchdog_barks_when_nothing_moves(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    say(stage, "step 1\n", rank=0)

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] <= 200:  # something moves until then: output, the log, a checkpoint
            if now[0] < 100:
                say(stage, "x" * int(now[0]), rank=1)
            else:
                (stage / "log.jsonl").write_text(json.dumps({"step": now[0]}) + "\n" * int(now[0]))

    assert watchdog.watch(stage, "7", lambda: now[0] < 450, sleep) == 0  # 250 s of silence are allowed: 5 minutes
    assert not (stage / "FAILED.json").exists()
    assert watchdog.watch(stage, "7", lambda: now[0] < 10_000, sleep) == watchdog.HANGS
    assert now[0] == pytest.approx(450 + 300)
    assert end(stage, "7", 0, 137, 999) == FAILED
    output = find_object(stage / "FAILED.json")
    assert output is not None
    assert output["reason"].startswith("no news for 5 minutes: ")
    assert all(part in output["reason"] for part in ("log", "output", "checkpoints"))


def test_the_watchdog_can_be_told_to_be_quiet(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Submission("train", "abc", 4, 10, 30, 0, 2, 2, 1, "code-x", "v1").write(stage)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert watchdog.watch(stage, "7", lambda: now[0] < 1e5, sleep) == 0
