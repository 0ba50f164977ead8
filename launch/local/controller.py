"""Jobs on this machine: submitit's local executor with a controller that leaves nothing behind.

submitit's own controller waits for every task, so a rank that died leaves the others in their collective until the
time limit; it lives in the launcher's process group and outlives a killed launcher. This one runs in a session of its
own and ends the whole job, workers of the ranks included, when a rank is lost, when it is told to (SIGINT, SIGTERM),
when the launcher is gone, or at the time limit.

`python -m laconvnet.launch.local.controller FOLDER` is the controller; only `LocalExecutor` starts it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import submitit
from submitit.local import local as base

from laconvnet import python_path
from laconvnet.launch.job import Command
from laconvnet.launch.outcomes import record_failure
from laconvnet.launch.supervision.ends import by_signal
from laconvnet.launch.supervision.link import make_secret
from laconvnet.launch.supervision.supervisor import LAST_SECONDS, LEAVE_SECONDS
from laconvnet.pipeline.runs.layout import JOBS, array_of, controller_log, link_file, ok_marker

JOB, LAUNCHER, STAGE = "LACONVNET_JOB", "LACONVNET_LAUNCHER", "LACONVNET_STAGE_FOLDER"
SUPERVISED = "LACONVNET_SUPERVISED"  # set where the tasks of the job are supervisors
SIGNAL_SECONDS = 60  # at most this long before the time limit the ranks are told to save
STOP_SECONDS = 10.0  # what an interrupted rank gets to tidy up
LOST_SECONDS = 2.0  # what the others get once a rank is lost: they can only be waiting for it
# Supervisors, once one of them is lost: they end their ranks, save what memory holds and leave.
SAVE_SECONDS = LEAVE_SECONDS + LAST_SECONDS


class LocalExecutor(submitit.LocalExecutor):
    """submitit's local executor; the jobs' ids are times, because process ids come again and logs are appended to."""

    supervised = False  # whether the tasks are supervisors

    def _submit_command(self, command: str) -> base.LocalJob[Any]:
        ranks = self._num_tasks()
        job = time.strftime("%Y%m%d-%H%M%S-") + f"{time.time_ns() // 1_000_000 % 1000:03d}"
        env = {
            **os.environ,
            "PYTHONPATH": python_path(),
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(ranks),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(max(1, round(60 * self.parameters["timeout_min"]))),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(self.parameters["signal_delay_s"]),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            JOB: job,
            LAUNCHER: str(os.getpid()),
            STAGE: str(Path(self.folder).parent),
            SUPERVISED: "1" if self.supervised else "",
        }
        with controller_log(Path(self.folder).parent, job).open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "laconvnet.launch.local.controller", str(self.folder)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return base.LocalJob(folder=self.folder, job_id=job, process=process, tasks=list(range(ranks)))


class Controller(base.Controller):
    """Starts the ranks of one job and watches them; see the module."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pid = os.environ[JOB]  # submitit's name for the job's id
        self.stage = Path(os.environ[STAGE])
        self.launcher = int(os.environ[LAUNCHER])
        self.lost_seconds = SAVE_SECONDS if os.environ.get(SUPERVISED) else LOST_SECONDS
        self.interrupted = False
        signal.signal(signal.SIGINT, self._told)
        signal.signal(signal.SIGTERM, self._told)

    def _told(self, *_: object) -> None:
        self.interrupted = True

    @property
    def stopping(self) -> bool:
        return self.interrupted or os.getppid() != self.launcher

    def run(self, max_retry: int = 6) -> None:
        """Run the job, again each time that rank 0 asks for it (submitit counts how often it may).

        The argument is submitit's and unused: a second limit on the number of restarts.
        """
        again = True
        while again and not self.stopping:
            try:
                make_secret(link_file(self.stage, self.pid))
                self.start_tasks()
                codes = self.wait()
            finally:
                self.kill_tasks()
            again = base.LOCAL_REQUEUE_RETURN_CODE in codes

    def wait(self, freq: int = 24) -> Sequence[int | None]:
        """Until every rank has ended, or one is lost, or the job must stop, or its time is up."""
        start = time.monotonic()
        warned = False
        while not self.stopping:
            codes = [task.poll() for task in self.tasks]
            if None not in codes or base.LOCAL_REQUEUE_RETURN_CODE in codes:
                self._note_lost(codes)
                return codes
            if self._note_lost(codes):
                return codes
            seconds = time.monotonic() - start
            if seconds >= self.timeout_s:
                late = codes.index(None)
                self._failed(
                    late, f"rank {late} was still running at the time limit of {self.timeout_s / 60:g} minutes"
                )
                return codes
            if not warned and seconds >= self.timeout_s - self.signal_delay_s:
                self._forward_signal(signal.SIGUSR2)
                warned = True
            time.sleep(1.0 / freq)
        return [task.poll() for task in self.tasks]

    def _note_lost(self, codes: Sequence[int | None]) -> bool:
        """Whether a rank ended without success; one that was killed could not say so itself."""
        lost = [
            (rank, code)
            for rank, code in enumerate(codes)
            if code and code != base.LOCAL_REQUEUE_RETURN_CODE and not ok_marker(self.stage, self.pid, rank).exists()
        ]
        killed = [(rank, -code) for rank, code in lost if code < 0]
        for rank, number in killed[:1]:
            self._failed(rank, f"rank {rank} {by_signal(number)}")
        return bool(lost)

    def _failed(self, rank: int, reason: str) -> None:
        log = base.utils.JobPaths(self.folder, self.pid, rank).stderr
        array = array_of(self.stage)
        name = (array[0] if array else self.stage).name.rpartition("-")[0]
        # Replaces what another rank may have written: it only lost the connection to this one.
        record_failure(self.stage, log, {"stage": name, "job": self.pid, "rank": rank, "reason": reason})

    def kill_tasks(self) -> None:
        """End what is left of the job: SIGINT as a terminal would send it, and SIGKILL to what does not heed it."""
        if any(task.poll() is None for task in self.tasks):
            _signal(_group(), signal.SIGINT)
            deadline = time.monotonic() + (STOP_SECONDS if self.stopping else self.lost_seconds)
            while time.monotonic() < deadline and any(task.poll() is None for task in self.tasks):
                time.sleep(0.05)
        _signal(_group(), signal.SIGKILL)
        for task in self.tasks:
            task.wait()
        self.tasks = []
        link_file(self.stage, self.pid).unlink(missing_ok=True)
        for stream in (*self.stdouts, *self.stderrs):
            stream.close()
        self.stdouts, self.stderrs = [], []


def submit(command: Command, minutes: float) -> base.LocalJob[Any]:
    """Start the command as a job of this machine; its logs go to `<stage folder>/jobs/<job>_<rank>_log.err`."""
    folder = command.folder / JOBS
    folder.mkdir(parents=True, exist_ok=True)
    executor = LocalExecutor(folder=folder)
    executor.supervised = command.restarts > 0
    delay = min(SIGNAL_SECONDS, round(15 * minutes))  # a quarter of a short limit
    executor.update_parameters(tasks_per_node=command.processes, timeout_min=minutes, signal_delay_s=delay)
    job = executor.submit(command)
    assert isinstance(job, base.LocalJob)
    return job


def stop(jobs: Iterable[base.LocalJob[Any]], hurry: Callable[[], bool]) -> None:
    """End jobs and return when none of their processes is left; at once where `hurry()` says so."""
    controllers = [job._process for job in jobs if job._process is not None]
    for process in controllers:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS + 5
    while any(process.poll() is None for process in controllers):
        if hurry() or time.monotonic() > deadline:
            for process in controllers:
                kill_group(process.pid)
        time.sleep(0.05)


def kill_group(leader: int) -> None:
    """Kill what is left of a job whose controller had this process id."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def left_over(folder: Path) -> list[psutil.Process]:
    """Processes on this machine that still work for this stage folder, or for a task of an array in it."""
    found = [(process, _environ(process).get(STAGE)) for process in psutil.process_iter()]
    return [process for process, place in found if place and Path(place).is_relative_to(folder)]


def sweep(folder: Path) -> int:
    """End what a killed launcher left running for a stage; returns how many processes there were."""
    found = left_over(folder)
    _signal(found, signal.SIGINT)
    _, alive = psutil.wait_procs(found, timeout=STOP_SECONDS)
    _signal(alive + left_over(folder), signal.SIGKILL)
    psutil.wait_procs(alive, timeout=STOP_SECONDS)
    return len(found)


def devices() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them; no torch, no driver needed."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    found = subprocess.run(
        [program, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=60, check=False
    )
    return found.stdout.split() if found.returncode == 0 else []


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        found: dict[str, str] = process.environ()
        return found
    except (psutil.Error, OSError):
        return {}


def _group() -> Iterator[psutil.Process]:
    """Every other process of this process group: the ranks and whatever they have started."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == os.getpgrp() and process.pid != os.getpid():
                yield process
        except ProcessLookupError:
            continue


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    assert len(sys.argv) == 2, (
        f"usage: python -m laconvnet.launch.local.controller FOLDER, got {shlex.join(sys.argv[1:])}"
    )
    Controller(Path(sys.argv[1])).run()
