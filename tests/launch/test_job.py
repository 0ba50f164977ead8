from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from submitit.helpers import DelayedSubmission
from submitit.local.local import LocalJob

from laconvnet.files import find_object, publish_json
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import plan
from laconvnet.launch.job import Command
from laconvnet.launch.local import controller
from laconvnet.launch.outcomes import is_done, tail
from laconvnet.launch.ports import PORTS, master_port
from tests.launch.any_line import LINE
from tests.messages import tells

ROOT = Path(__file__).resolve().parents[2]
Events = Callable[[], list[str]]
Until = Callable[[Callable[[], object], str], None]
Write = Callable[[str], Path]


def test_ranks_find_each_other(stages: Write) -> None:
    file = stages('train: {run: [reduce, "{here}"], processes: 2, threads: 1}')
    assert launch(file, line=LINE) == 0
    folder = plan(file)[0].folder
    assert [(folder / f"sum-{rank}").read_text() for rank in (0, 1)] == ["3.0", "3.0"]


def test_environment_of_the_ranks(stages: Write) -> None:
    file = stages(
        'two: {run: [environment, "{here}"], processes: 2, threads: 3}\none: {run: [environment, "{here}"], threads: 1}'
    )
    assert launch(file, line=LINE) == 0
    two, one = plan(file)
    ranks = [json.loads((two.folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, values in enumerate(ranks):
        assert values["RANK"] == values["LOCAL_RANK"] == str(rank)
        assert values["WORLD_SIZE"] == values["LOCAL_WORLD_SIZE"] == "2"
        assert values["OMP_NUM_THREADS"] == "3"
        assert values["torch"] is False  # the number of threads is read once, when torch is imported
    assert ranks[0]["MASTER_PORT"] == ranks[1]["MASTER_PORT"]
    assert int(ranks[0]["MASTER_PORT"]) in PORTS
    alone = json.loads((one.folder / "0.json").read_text())
    assert alone == dict.fromkeys(alone) | {"OMP_NUM_THREADS": "1", "torch": False}


def test_ports_are_a_function_of_the_job() -> None:
    assert master_port("4242") == master_port("4242")
    assert {master_port("4242", attempt) in PORTS for attempt in range(50)} == {True}
    assert len({master_port("4242", attempt) for attempt in range(50)}) > 40
    assert PORTS.stop <= 32768  # where Linux begins to hand out ports by itself


def test_a_port_that_was_taken_meanwhile(stages: Write, work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = stages(f"train: {{run: [port, {work}/taken], processes: 2, threads: 1}}")
    assert launch(file, line=LINE) == 0
    assert "its port was taken meanwhile; once more with another" in capfd.readouterr().err
    assert not (plan(file)[0].folder / "FAILED.json").exists()


def test_a_lost_rank_ends_the_others(stages: Write, work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = stages("train: {run: [lose], processes: 2, threads: 1}")
    assert launch(file, line=LINE) == 1
    assert "train: FAILED (rank 1): rank 1 was killed by SIGKILL" in capfd.readouterr().err
    noted = [line.split() for line in (work / "events").read_text().splitlines()]
    assert sorted(name for _, name, _ in noted) == ["lose", "lose", "worker"]
    for _, _, pid in noted:  # the hanging rank and what it had started are gone too
        assert not os.path.exists(f"/proc/{pid}") or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


def test_success_is_that_of_every_rank(stages: Write, capfd: pytest.CaptureFixture[str]) -> None:
    file = stages("train: {run: [uneven], processes: 2, threads: 1}\nleave: {run: [abort], threads: 1}")
    assert launch(file, line=LINE) == 1
    train, leave = plan(file)
    assert not is_done(train.folder, train.fingerprint)
    assert "FAILED (rank 1): ValueError: lost at the end" in capfd.readouterr().err
    assert is_done(leave.folder, leave.fingerprint)  # a process that aborts after its work was done has done it


def test_refused_arguments_are_a_failure(stages: Write) -> None:
    file = stages("train: {run: [usage]}")
    assert launch(file, line=LINE) == 1
    failed = find_object(plan(file)[0].folder / "FAILED.json")
    assert failed is not None
    assert tells(failed["reason"], "exit code 2", "standard error")


def start(work: Path, minutes: float) -> tuple[Path, LocalJob[object]]:
    """A job that ends only when it is told to."""
    folder = work / "train-0"
    (folder / "jobs").mkdir(parents=True)
    executor = controller.LocalExecutor(folder=folder / "jobs", max_num_timeout=1)
    executor.update_parameters(timeout_min=minutes, signal_delay_s=0)
    job = executor.submit(Command("train", "0", folder, ("sit",)))
    assert isinstance(job, LocalJob)
    return folder, job


def test_a_requeue_runs_the_same_command_again(work: Path, events: Events, until: Until) -> None:
    """What submitit does at a time limit or a preemption: ask for `checkpoint`, start that, so and so often."""
    folder, job = start(work, minutes=5)
    for times in (1, 2):
        until(partial(lambda times: events().count("start sit") == times, times), "the command did not start")
        rank = (work / "events").read_text().split()[-1]
        os.kill(int(rank), signal.SIGUSR2)
    assert job._process is not None
    assert job._process.wait() == 0
    assert controller.left_over(folder) == []
    assert events().count("start sit") == 2
    assert not (folder / "DONE.json").exists()
    failed = find_object(folder / "FAILED.json")
    assert failed is not None
    assert "timed-out too many times" in failed["reason"]


def test_the_time_limit_ends_a_job(work: Path) -> None:
    folder, job = start(work, minutes=1 / 60)
    assert job._process is not None
    assert job._process.wait() == 0
    assert controller.left_over(folder) == []
    failed = find_object(folder / "FAILED.json")
    assert failed is not None
    assert tells(failed["reason"], "rank 0", "time limit")


def test_checkpoint_is_the_same_command(tmp_path: Path) -> None:
    command = Command("train", "0", tmp_path, ("train",), processes=2, port=12345)
    again = command.checkpoint()
    assert isinstance(again, DelayedSubmission)
    assert again.function == command
    assert (again.args, again.kwargs) == ((), {})


def test_a_signal_of_slurms_stops_once_and_leaves_its_mark(tmp_path: Path, until: Until) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys, time
        from pathlib import Path
        from laconvnet.launch.job import _stop_when_told
        _stop_when_told(Path(sys.argv[1]))
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)  # the second one must not break into the tidying up
            time.sleep(0.2)
            print("tidied", flush=True)
        # A rank in a collective runs no handler: nothing of Python's main thread is needed for the mark.
        """
    )
    marker = tmp_path / "mark"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(marker)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert not marker.exists()
    process.send_signal(signal.SIGUSR2)
    assert process.communicate(timeout=60)[0] == "tidied\n"
    assert process.returncode == 0
    assert marker.exists()


def test_the_port_is_another_at_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Environment:
        job_id, global_rank, num_tasks, local_rank, num_nodes, hostnames = "7", 3, 4, 1, 2, ["node6", "node7"]

    command = Command("train", "0", tmp_path, ("train",), processes=4, threads=2)
    first = command.variables(Environment())  # type: ignore[arg-type]
    assert (first["RANK"], first["LOCAL_RANK"], first["LOCAL_WORLD_SIZE"]) == ("3", "1", "2")
    assert first["MASTER_ADDR"] == "node6"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = command.variables(Environment())  # type: ignore[arg-type]
    assert again["MASTER_PORT"] != first["MASTER_PORT"]
    assert again | {"MASTER_PORT": ""} == first | {"MASTER_PORT": ""}


def test_json_files_are_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    publish_json(file, {"a": 1}, first=True)
    publish_json(file, {"a": 2}, first=True)
    assert find_object(file) == {"a": 1}
    publish_json(file, {"a": 3})
    assert find_object(file) == {"a": 3}
    with pytest.raises(TypeError):
        publish_json(file, {"a": object()})
    assert find_object(file) == {"a": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    file.write_text('{"a": ')
    assert find_object(file) is None


def test_tail_reads_bars_as_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n10%\r50%\r90% \n\nlast\r\n")
    assert tail(log) == ["one", "90%", "last"]
    assert tail(log, lines=1) == ["last"]
    log.write_bytes(b"1%|x\r2%|xx\r")
    assert tail(log) == ["2%|xx"]
    assert tail(tmp_path / "absent") == []
