"""Supervisors and their ranks as real processes of this machine: what starts again, what ends, and what is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import psutil
import pytest

from laconvnet.files import publish_json, read_object
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import plan
from laconvnet.launch.job import Command
from laconvnet.launch.status import status
from laconvnet.launch.supervision.council import Clear, Leave
from laconvnet.launch.supervision.ends import End
from laconvnet.launch.supervision.parts import Order
from laconvnet.launch.supervision.rank import PORT, STARTED, SUPERVISOR
from laconvnet.launch.supervision.supervisor import Supervisor
from laconvnet.pipeline.runs import checkpoints
from tests.launch.any_line import LINE
from tests.runs import restarts

if TYPE_CHECKING:
    from submitit import JobEnvironment

Write = Callable[[str], Path]
Until = Callable[[Callable[[], object], str], None]
Launcher = Callable[[Path], subprocess.Popen[str]]
PROGRAM = """
import atexit, os, signal, subprocess, sys, time
from pathlib import Path
from laconvnet.pipeline.runs.memory import Memory, Record

def main(argv):
    command, folder, *rest = argv
    rank = os.environ.get("RANK", "0")
    memory = Memory.inherited()
    place = Path(folder, f"rounds-{rank}")
    round = int(place.read_text()) + 1 if place.exists() else 0
    place.write_text(str(round))
    Path(folder, f"port-{rank}-{round}").write_text(os.environ.get("MASTER_PORT", ""))
    Path(folder, f"inherited-{rank}").write_text(" ".join(os.environ))
    if command == "lose":                       # lose FOLDER RANK TIMES HOW: one rank is lost so often
        which, times, how = rest
        if round < int(times):
            memory.reach(round + 1)
            time.sleep(0.5)                     # the supervisor looks now and then
            if rank == which:
                if how == "worker":             # what it has started must go with it
                    worker = subprocess.Popen(["sleep", "600"])
                    Path(folder, f"worker-{round}").write_text(str(worker.pid))
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "say":
                    print(f"round {round}", file=sys.stderr)
                    raise OSError("Connection reset by peer")
                os.kill(os.getpid(), getattr(signal, how))
            time.sleep(600)                     # waits for the one that is lost
    elif command == "idle":                     # idle FOLDER: one rank is lost for ever, and never a new step
        if rank == "0" and round == 0:
            with memory.writing(Record(5, None, None, None, None, folder, "token"), "words") as file:
                file.write(b"state 5")
        if rank == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    elif command == "own":                      # own FOLDER: by its own fault
        if rank == "1":
            raise ValueError("no such expression")
        time.sleep(600)
    elif command == "last":                     # last FOLDER: a network error, then a fault of its own
        if rank == "1":
            if round == 0:
                raise OSError("Connection reset by peer")
            raise ValueError("no such expression")
        time.sleep(600)
    elif command == "sit":                      # sit FOLDER: until it is told to stop
        told = []
        signal.signal(signal.SIGINT, lambda *_: told.append(True))
        memory.reach(1)
        Path(folder, f"sits-{rank}").touch()
        while not told:
            time.sleep(0.05)
        return 130
    elif command == "after":                    # after FOLDER: its work is done, and then it aborts
        if rank == "1":
            atexit.register(os.abort)
    elif command == "silent":                   # silent FOLDER: rank 1 leaves without a word, rank 0 tells of it
        if rank == "0":
            raise OSError("Connection reset by peer")
        while not Path(folder, "FAILED.json").exists():
            time.sleep(0.05)
        os._exit(3)
    elif command == "held":                     # held FOLDER: heeds nothing, as in a collective
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if rank == "0":
            with memory.writing(Record(5, None, None, None, None, folder, "token"), "words") as file:
                file.write(b"state 5")
        Path(folder, f"sits-{rank}").touch()
        time.sleep(600)
    return 0
"""


@pytest.fixture(autouse=True)
def _program(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "lib" / "lost_entry.py").write_text(PROGRAM)
    monkeypatch.setattr("laconvnet.launch.job.ENTRY", "lost_entry:main")


# SIGINT as from a terminal: what starts the tests in the background has it ignored, and processes inherit that.
_LAUNCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from laconvnet.launch import job
from laconvnet.launch.executor import launch
from tests.launch.any_line import LINE
job.ENTRY = "lost_entry:main"
sys.exit(launch(sys.argv[1], line=LINE))
"""


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """Launches a stages file in a process of its own, which is gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(file: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _LAUNCH, str(file)]
        started.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()  # and its controller ends all the rest
        process.communicate()


@pytest.mark.parametrize(
    ("how", "reason"), [("SIGKILL", "SIGKILL"), ("SIGSTOP", "stopped"), ("SIGBUS", "mapped"), ("say", "reset by peer")]
)
def test_a_lost_rank_starts_again_with_all_others(
    stages: Write, how: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = stages(f'run: {{run: [lose, "{{here}}", 1, 2, {how}], processes: 2, threads: 1, restarts: 1}}')
    assert launch(file, line=LINE) == 0
    folder = plan(file)[0].folder
    told = restarts(folder)
    assert [(entry["round"], entry["rank"], entry["steps"]) for entry in told] == [(0, 1, 1), (1, 1, 2)]
    assert all(reason in entry["reason"] for entry in told)
    assert [(folder / f"rounds-{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    ports = [[(folder / f"port-{rank}-{round}").read_text() for rank in (0, 1)] for round in range(3)]
    assert all(one == other for one, other in ports)
    assert len({one for one, _ in ports}) == 3  # what holds the last one may still be there
    assert not (folder / "FAILED.json").exists()
    done = read_object(folder / "DONE.json")
    assert done["seconds"] > 2 * 0.5  # from the start of the job, not of the last round
    (log,) = folder.glob("jobs/*_0_log.err")
    assert "rank 1" in log.read_text()
    assert "goodput" in log.read_text()
    assert not [*folder.glob("jobs/*.link")]
    (row,) = status(folder)
    assert (row["state"], row["restarts"]) == ("done", 2)
    capfd.readouterr()


def test_one_process_is_watched_too_and_its_workers_go_with_it(stages: Write) -> None:
    file = stages('run: {run: [lose, "{here}", 0, 1, worker], threads: 1, restarts: 1}')
    assert launch(file, line=LINE) == 0
    folder = plan(file)[0].folder
    assert len(restarts(folder)) == 1
    assert not lives(int((folder / "worker-0").read_text()))
    inherited = (folder / "inherited-0").read_text().split()
    assert "SUBMITIT_LOCAL_GLOBALID" in inherited
    assert not {SUPERVISOR, PORT, STARTED} & {*inherited}  # by what it starts, which is no rank of this supervisor


def test_who_is_lost_again_and_again_without_a_new_step_ends_the_job(stages: Write) -> None:
    file = stages('run: {run: [idle, "{here}"], processes: 2, threads: 1, restarts: 2}')
    assert launch(file, line=LINE) == 1
    folder = plan(file)[0].folder
    failed = read_object(folder / "FAILED.json")
    assert (failed["rank"], failed["repeats"]) == (1, True)
    for word in ("rank 1", "SIGKILL", "3 times", "new step"):
        assert word in failed["reason"]
    assert len(restarts(folder)) == 2
    saved = folder / "checkpoints" / "step-00000005"  # what memory held is there for the next start
    assert checkpoints.is_whole(saved)
    assert (saved / "state.pt").read_bytes() == b"state 5"


@pytest.mark.parametrize(("command", "rounds"), [("own", 0), ("last", 1)])
def test_a_fault_of_its_own_ends_the_job_as_the_rank_tells_it(stages: Write, command: str, rounds: int) -> None:
    """Whatever stood in its log in the rounds before."""
    file = stages(f'run: {{run: [{command}, "{{here}}"], processes: 2, threads: 1, restarts: 3}}')
    assert launch(file, line=LINE) == 1
    folder = plan(file)[0].folder
    failed = read_object(folder / "FAILED.json")
    assert (failed["rank"], failed["reason"]) == (1, "ValueError: no such expression")
    assert len(restarts(folder)) == rounds


def test_who_leaves_without_a_word_is_named_and_not_the_peer_that_tells_of_it(stages: Write) -> None:
    file = stages('run: {run: [silent, "{here}"], processes: 2, threads: 1, restarts: 3}')
    assert launch(file, line=LINE) == 1
    folder = plan(file)[0].folder
    failed = read_object(folder / "FAILED.json")
    assert failed["rank"] == 1
    assert "code 3" in failed["reason"]
    assert restarts(folder) == []


def test_without_restarts_nobody_watches(stages: Write) -> None:
    file = stages('run: {run: [environment, "{here}"], threads: 1}\nfew: {run: [train, x], restarts: 0}')
    stage, none = plan(file)
    assert (stage.restarts, none.restarts) == (0, 0)
    assert plan(stages("run: {run: [train, x]}"))[0].restarts > 0


def test_ctrl_c_reaches_each_rank_once_and_nothing_starts_again(
    stages: Write, launcher: Launcher, until: Until
) -> None:
    file = stages('run: {run: [sit, "{here}"], processes: 2, threads: 1, restarts: 3}')
    folder = plan(file)[0].folder
    process = launcher(file)
    until(lambda: all((folder / f"sits-{rank}").exists() for rank in (0, 1)), "the ranks did not start")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert restarts(folder) == []
    assert len([*folder.glob("jobs/*.stopped")]) == 2
    assert not [found for found in psutil.process_iter() if _is_of(found, folder)]


def test_a_second_ctrl_c_leaves_no_process_and_no_secret(stages: Write, launcher: Launcher, until: Until) -> None:
    file = stages('run: {run: [held, "{here}"], processes: 2, threads: 1, restarts: 3}')
    folder = plan(file)[0].folder
    process = launcher(file)
    assert process.stderr
    until(lambda: all((folder / f"sits-{rank}").exists() for rank in (0, 1)), "the ranks did not start")
    assert [*folder.glob("jobs/*.link")]
    process.send_signal(signal.SIGINT)
    assert next((line for line in process.stderr if "stopping" in line), None), "it did not heed the signal"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert restarts(folder) == []
    assert not [found for found in psutil.process_iter() if _is_of(found, folder) and lives(found.pid)]
    assert not [*folder.glob("jobs/*.link")]


def test_a_rank_ends_with_its_supervisor(stages: Write, work: Path, until: Until) -> None:
    file = stages('run: {run: [sit, "{here}"], processes: 2, threads: 1, restarts: 3}')
    folder = plan(file)[0].folder
    ranks: list[psutil.Process] = []

    def kill() -> None:
        until(lambda: all((folder / f"sits-{rank}").exists() for rank in (0, 1)), "the ranks did not start")
        ranks.extend(found for found in psutil.process_iter() if _is_of(found, folder))
        os.kill(int(ranks[1].environ()[SUPERVISOR]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert launch(file, line=LINE) == 1
    thread.join()
    assert len(ranks) == 2
    assert not any(lives(found.pid) for found in ranks)
    assert "SIGKILL" in read_object(folder / "FAILED.json")["reason"]
    assert json.loads((folder / "starts.jsonl").read_text().splitlines()[-1])["outcome"] == "failed"


def test_who_aborts_after_its_work_was_done_has_done_it(stages: Write) -> None:
    file = stages('run: {run: [after, "{here}"], processes: 2, threads: 1, restarts: 1}')
    assert launch(file, line=LINE) == 0
    folder = plan(file)[0].folder
    assert restarts(folder) == []
    assert (folder / "DONE.json").exists()
    assert not (folder / "FAILED.json").exists()


def test_where_a_supervisor_is_lost_the_other_has_time_to_save(stages: Write, until: Until) -> None:
    file = stages('run: {run: [held, "{here}"], processes: 2, threads: 1, restarts: 1}')
    folder = plan(file)[0].folder

    def kill() -> None:
        until(lambda: all((folder / f"sits-{rank}").exists() for rank in (0, 1)), "the ranks did not start")
        ranks = [found for found in psutil.process_iter() if _is_of(found, folder)]
        (one,) = [found for found in ranks if found.environ()["SUBMITIT_LOCAL_GLOBALID"] == "1"]
        os.kill(int(one.environ()[SUPERVISOR]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert launch(file, line=LINE) == 1
    thread.join()
    assert checkpoints.is_whole(folder / "checkpoints" / "step-00000005")
    failed = read_object(folder / "FAILED.json")
    assert failed["rank"] == 1
    assert "SIGKILL" in failed["reason"]
    assert not [*folder.glob("jobs/*.link")]


class Script:
    """A part that gives orders one after the other, and looks at the folder each time its supervisor is ready."""

    def __init__(self, folder: Path, orders: list[Order]) -> None:
        self._folder, self._orders = folder, orders
        self.seen: list[list[str]] = []

    def ready(self) -> None:
        self.seen.append(sorted(f"{place.relative_to(self._folder)}" for place in self._folder.rglob("*.*")))

    def orders(self, seconds: float) -> list[Order]:
        return [self._orders.pop(0)]

    def ended(self, round: int, end: End) -> None:
        return

    def linger(self, seconds: float) -> None:
        return

    def close(self) -> None:
        return


@pytest.mark.parametrize("failed", [1, 2])
def test_what_a_rank_said_is_forgotten_by_its_own_supervisor_before_the_next_round(tmp_path: Path, failed: int) -> None:
    """And not what another one says, whose rank may still live."""
    folder = tmp_path / "run-abc"
    (folder / "jobs").mkdir(parents=True)
    for rank in (1, 2):
        (folder / "jobs" / f"7_{rank}.ok").touch()
    publish_json(folder / "FAILED.json", {"rank": failed, "reason": "Connection reset by peer"})
    env = SimpleNamespace(global_rank=1, num_tasks=4, num_nodes=1, job_id="7")
    script = Script(folder, [Clear(0), Leave()])
    command = Command("run", "abc", folder, (), processes=4, restarts=1)
    Supervisor(command, cast("JobEnvironment", env), script, []).run()
    assert script.seen[1] == (["FAILED.json"] if failed == 2 else []) + ["jobs/7_2.ok"]


def lives(pid: int) -> bool:
    """Whether a process does; one that nobody has asked after yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        own = process.environ()
    except (psutil.Error, OSError):
        return False
    return SUPERVISOR in own and own.get("LACONVNET_STAGE_FOLDER") == str(folder)
