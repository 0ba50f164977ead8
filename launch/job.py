"""What runs inside a job, on this machine or on a cluster: one `laconvnet` command line as one or several ranks.

Files it leaves in the stage's folder, each written whole or not at all:

    DONE.json     the stage succeeded; its presence is the only thing that counts as success (exit codes of schedulers
                  lie: a process may abort while leaving after its work was done, a wrapper may hide a failure)
    FAILED.json   the first rank that failed, why, and the last lines of its log
    jobs/         submitit's pickles and logs, and for each rank <job>_<rank>.ok where its command succeeded, .stopped
                  where it was told to stop and has done so, .told where the signal has reached it

Every rank that succeeds leaves its `.ok` and then looks for those of all others: the last one to arrive finds all of
them and writes DONE.json, so no rank waits for another and a rank lost after rank 0 has finished is not overlooked.
The tasks of an array, each a job with a folder of its own inside the stage's, do the same with their DONE.json: the
last one writes that of the stage.

On SLURM a job is started again after a preemption, a time limit or the loss of a node, and tasks of an earlier start
may live on where a node was only cut off: `<job>.start` names the newest start; those of an older one publish nothing.
"""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconvnet import terminal
from laconvnet.files import publish_json
from laconvnet.launch.outcomes import INTERRUPTED, TAIL_LINES, record_failure, settle, tail
from laconvnet.launch.ports import master_port
from laconvnet.launch.supervision import rank as supervised
from laconvnet.pipeline.runs import fence, layout
from laconvnet.pipeline.runs.fence import FENCE, starts

if TYPE_CHECKING:
    from submitit import JobEnvironment
    from submitit.helpers import DelayedSubmission

    from laconvnet.launch.graph.stages import Stage

ENTRY = "laconvnet.launch.cli:main"  # the function that jobs call with their arguments


class CommandFailed(RuntimeError):
    """The command ended with an exit code other than 0; it has said why on its standard error."""


class Orphaned(RuntimeError):
    """This process belongs to a start of its job that SLURM has given up."""


@dataclass(frozen=True)
class Command:
    """A picklable `laconvnet` command line; every task of the job calls it with no arguments."""

    stage: str
    fingerprint: str
    folder: Path  # of the stage; must exist on every node
    argv: tuple[str, ...]
    processes: int = 1
    threads: int = 1
    port: int | None = None  # of rank 0's store; None: derived from the job's id
    devices: str | None = None  # CUDA_VISIBLE_DEVICES; None: as the scheduler set it
    version: str | None = None  # of the code, for DONE.json
    entry: str = field(default_factory=lambda: ENTRY)
    restarts: int = 0  # so often in a row, without a new step, lost ranks are started again; 0: without supervisors

    @classmethod
    def of(cls, stage: Stage) -> Command:
        """What each rank of the stage, or of a task of its array, calls."""
        command = cls(stage.name, stage.fingerprint, stage.folder, stage.argv, stage.processes, stage.threads)
        return replace(command, restarts=stage.restarts)

    def __call__(self) -> None:
        """Run the command in this task. Raises what it raises, CommandFailed where it returns an exit code."""
        import submitit

        terminal.install()
        env = submitit.JobEnvironment()
        if self.restarts and not supervised.is_rank():
            self._supervise(env)
            return
        started = supervised.started()
        os.environ.update(self.variables(env))
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # inherited from a shell's background job
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if env.cluster == "slurm":
            _stop_when_told(layout.signal_marker(self.folder, env.job_id, env.global_rank))
        if supervised.is_rank():
            supervised.follow()
        module, _, name = self.entry.partition(":")
        try:
            main: Callable[[list[str]], int | None] = getattr(importlib.import_module(module), name)
            code = _exit_code(main, list(self.argv))
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:
            text = [line for line in traceback.format_exc().splitlines() if line.strip()]
            self._failed(env, started, f"{type(error).__name__}: {error}", text)
            raise
        if code == INTERRUPTED:  # is not failed
            layout.stopped_marker(self.folder, env.job_id, env.global_rank).touch()
            raise SystemExit(INTERRUPTED)
        if code != 0:
            lines = tail(env.paths.stderr)
            self._failed(env, started, lines[-1] if lines else f"exit code {code} and nothing on standard error", [])
            raise CommandFailed(f"`{command_line(self.argv)}` ended with exit code {code}")
        self.succeeded(env, started)

    def _supervise(self, env: JobEnvironment) -> None:
        """Be the supervisor of this task: the command runs in a child, which calls this object again."""
        from laconvnet.launch.supervision.supervisor import supervise

        os.environ[FENCE] = str(layout.fence_file(self.folder, env.job_id))
        code = supervise(self, env)
        if code:
            raise SystemExit(code)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit requeues at a time limit or a preemption: the same command, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def variables(self, env: JobEnvironment) -> dict[str, str]:
        """The environment of this task; must be set before torch is imported (OpenMP reads its count once)."""
        values = {"OMP_NUM_THREADS": str(self.threads), FENCE: str(layout.fence_file(self.folder, env.job_id))}
        if self.devices is not None:
            values["CUDA_VISIBLE_DEVICES"] = self.devices
        if self.processes > 1:
            values |= {
                "RANK": str(env.global_rank),
                "WORLD_SIZE": str(env.num_tasks),
                "LOCAL_RANK": str(env.local_rank),
                "LOCAL_WORLD_SIZE": str(env.num_tasks // env.num_nodes),
                "MASTER_ADDR": "127.0.0.1" if env.num_nodes == 1 else env.hostnames[0],
                # Another one at each start: what has taken the last one may still be there.
                "MASTER_PORT": os.environ.get(supervised.PORT) or str(self.port or master_port(env.job_id, starts())),
            }
        return values

    def succeeded(self, env: JobEnvironment, started: float) -> None:
        """Leave the marker of this rank, and DONE.json where it was the last one; to call it again does no harm."""
        check_fence(self.folder, env.job_id)
        for rank in (env.global_rank, *range(self.processes)):
            marker = layout.ok_marker(self.folder, env.job_id, rank)
            if rank == env.global_rank:
                marker.touch()
            elif not marker.exists():
                return
        ended = time.time()
        done = self.record(env) | _times(started, ended) | {"processes": self.processes, "version": self.version}
        publish_json(self.folder / layout.DONE, done)
        array = layout.array_of(self.folder)
        if array is not None:
            settle(*array, self.fingerprint)

    def _failed(self, env: JobEnvironment, started: float, reason: str, last: list[str]) -> None:
        check_fence(self.folder, env.job_id)
        log, signalled = env.paths.stderr, layout.signal_marker(self.folder, env.job_id, env.global_rank).exists()
        record = self.record(env) | _times(started, time.time())
        record |= {"rank": env.global_rank, "reason": reason, "told": signalled}
        # The first rank to fail is the cause; the others only lost their peer.
        record_failure(self.folder, log, record | {"tail": (tail(log) + last)[-TAIL_LINES:]}, first=True)

    def record(self, env: JobEnvironment) -> dict[str, Any]:
        """What every word on the end of this command says of it."""
        return {
            "stage": self.stage,
            "identity": self.fingerprint,
            "job": env.job_id,
            "host": socket.gethostname(),
            "node": os.environ.get("SLURMD_NODENAME"),
            "command": command_line(self.argv),
        }


def _times(started: float, ended: float) -> dict[str, float]:
    return {"started": started, "ended": ended, "seconds": round(ended - started, 3)}


def _stop_when_told(marker: Path) -> None:
    """SLURM's SIGUSR2 (time limit, preemption) and SIGTERM as one Ctrl-C, until a command has a better answer.

    `marker` is made at once, by a thread: a rank in a collective runs no handler, and the one that srun kills for that
    must be told apart from the one whose death it was that made srun kill the others.

    Not submitit's handler, which has rank 0 alone queue the job again from inside the signal: rank 0 may be the one
    that is lost, and the others would not know. The batch script does it when all have left (`launch.slurm.batch`).
    """
    signalled = False

    def stop(number: int, frame: object) -> None:
        nonlocal signalled
        if not signalled:  # SIGTERM follows SIGUSR2, and must not break into the tidying up
            signalled = True
            raise KeyboardInterrupt

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, stop)

    def note() -> None:
        while not {signal.SIGUSR2, signal.SIGTERM} & {*os.read(reading, 64)}:
            continue
        marker.touch()

    threading.Thread(target=note, daemon=True).start()


def check_fence(folder: Path, job: str) -> None:
    """Raises Orphaned where this process belongs to an earlier start of its job than the newest."""
    newest = fence.newest(layout.fence_file(folder, job))
    if newest is not None and newest > starts():
        raise Orphaned(f"job {job} has been started again ({newest}); what start {starts()} did is not kept")


def _exit_code(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    try:
        return main(argv) or 0
    except SystemExit as stop:
        if stop.code in (1, 2):  # a parser's way to refuse its arguments
            return int(stop.code)
        raise  # a requeue of submitit's or a rank that leaves for one: neither success nor failure


def command_line(argv: tuple[str, ...]) -> str:
    """What a user would type to run the same command."""
    return shlex.join(("laconvnet", *argv))
