"""The supervisor of a rank: what srun, or the controller of this machine, starts as a task of the job.

It starts the rank as its child, from the very command line that started it, and holds what outlives the rank: its
newest state, in memory. When a rank of the job is killed, stands still or loses its peers, the supervisors end all
ranks and start them again inside the allocation, at another port; the run goes on from the state in memory. A rank that
fails by its own fault or its node's, or again and again without a new step, ends the job as it does without
supervisors: that is told, and where it helps the job is queued again elsewhere (`launch.slurm.batch`).
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from laconvnet.files import find_object
from laconvnet.launch.outcomes import INTERRUPTED, tail
from laconvnet.launch.ports import free_port, master_port
from laconvnet.launch.slurm.failures import transient
from laconvnet.launch.supervision import link
from laconvnet.launch.supervision.account import Account
from laconvnet.launch.supervision.child import Child
from laconvnet.launch.supervision.council import Clear, Council, Leave
from laconvnet.launch.supervision.ends import End, by_signal
from laconvnet.launch.supervision.parts import Leader, Member, Part, Start
from laconvnet.launch.supervision.rank import PORT, STARTED
from laconvnet.pipeline.runs import fence, layout
from laconvnet.pipeline.runs.memory import Memory
from laconvnet.pipeline.runs.publish import publish_kept
from laconvnet.terminal import complain

if TYPE_CHECKING:
    from submitit import JobEnvironment

    from laconvnet.launch.job import Command

LOOK_SECONDS = 0.2
LEAVE_SECONDS = 5.0  # for a rank to end by itself once another one has ended the job
LAST_SECONDS = 60.0  # for rank 0 to save what memory holds
LINK_PORTS = 16
_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def supervise(command: Command, env: JobEnvironment) -> int:
    """Have the command run as a child of this process, as often as it takes; its exit code, 1 where it was lost."""
    with ExitStack() as held:
        signals: list[int] = []
        held.enter_context(_noting(signals))
        part = _part(command, env)
        held.callback(part.close)
        return Supervisor(command, env, part, signals).run()


def keeps(env: JobEnvironment) -> bool:
    """Whether states are kept by this rank's supervisor: by that of rank 0, and of the first rank of the next node."""
    second = env.num_tasks // env.num_nodes
    return bool(env.global_rank == 0 or (env.num_nodes > 1 and env.global_rank == second))


class Supervisor:
    """One rank of one job; ``signals`` are those that have come so far."""

    def __init__(self, command: Command, env: JobEnvironment, part: Part, signals: list[int]) -> None:
        self._command, self._env, self._part, self._signals = command, env, part, signals
        self._rank = env.global_rank
        self._node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        self._memory = Memory.make(keeps(env))
        self._began = time.time()
        self._account = Account(command, env)
        self._child: Child | None = None
        self._end: End | None = None  # of the child of this round
        self._round = 0
        self._heard = 0  # signals that the child was told of
        self._log_bytes = 0  # of the log, before this round
        self._looked = time.monotonic()

    def run(self) -> int:
        """Until all ranks have done their work, or the job cannot go on; the exit code."""
        self._part.ready()
        while True:
            for order in self._part.orders(LOOK_SECONDS):
                if isinstance(order, Leave):
                    return self._leave(order)
                if isinstance(order, Clear):
                    self._clear()
                else:
                    self._start(order)
            self._look()

    def _start(self, order: Start) -> None:
        log = self._env.paths.stderr
        self._round, self._end, self._heard = order.round, None, 0
        self._log_bytes = log.stat().st_size if log.exists() else 0
        self._account.goodput.begin(time.monotonic())
        if signal.SIGINT in self._signals:  # came while nothing was at work: there is nobody who could heed it
            self._end = self._stopped()
            self._part.ended(self._round, self._end)
            return
        self._child = Child(self._memory, {PORT: str(order.port), STARTED: str(self._began)})

    def _clear(self) -> None:
        if self._child:
            self._child.end()
            self._child = None
        self._forget()
        if isinstance(self._part, Leader):
            self._account.restart(self._part.council, self._memory.newest())
        self._part.ready()

    def _forget(self) -> None:
        """What the rank has said of its end counts no more. By the rank's own supervisor, which knows that it is gone:
        another one would be too early for who fails late, or too late for who has begun again."""
        layout.ok_marker(self._command.folder, self._env.job_id, self._rank).unlink(missing_ok=True)
        failed = self._command.folder / layout.FAILED
        if (find_object(failed) or {}).get("rank") == self._rank:
            failed.unlink(missing_ok=True)

    def _look(self) -> None:
        now = time.monotonic()
        seconds, self._looked = min(now - self._looked, 2 * LOOK_SECONDS), now
        self._account.goodput.reached(self._memory.steps, now)
        if isinstance(self._part, Leader):
            self._part.council.reached(self._memory.steps)
            self._part.council.stopping = bool(self._signals)
        if self._child and not self._end:
            self._tell_signals(self._child)
            self._end = self._ended(self._child, seconds)
            if self._end:
                self._part.ended(self._round, self._end)

    def _tell_signals(self, child: Child) -> None:
        """Pass on what has come, once the rank listens. Ctrl-C reaches all of a process group by itself."""
        if child.listens:
            for number in self._signals[self._heard :]:
                if number != signal.SIGINT:
                    child.tell(number)
            self._heard = len(self._signals)

    def _ended(self, child: Child, seconds: float) -> End | None:
        code, why = child.code, None
        if code is None:
            why = child.look(seconds)
            if why is None:
                return None
            child.end()
        if code != 0 and layout.ok_marker(self._command.folder, self._env.job_id, self._rank).exists():
            # Its work was done, and it was lost while it left, perhaps before it could look for the others' markers.
            self._command.succeeded(self._env, self._began)
            code = 0
        if code is None:
            return End(self._rank, self._node, why or "")
        if code >= 0:
            return self._judged(code)
        if self._signals and -code in _SIGNALS:  # it had not come so far as to listen
            return self._stopped()
        return End(self._rank, self._node, by_signal(-code))

    def _stopped(self) -> End:
        """The end of a rank that a signal has stopped before it could say so itself."""
        layout.stopped_marker(self._command.folder, self._env.job_id, self._rank).touch()
        return End(self._rank, self._node, "", INTERRUPTED)

    def _judged(self, code: int) -> End:
        """The end of a rank that left by itself: by its words."""
        end = End(self._rank, self._node, "", code)
        if end.is_good:
            return end
        failed = find_object(self._command.folder / layout.FAILED) or {}
        words = tail(self._env.paths.stderr, since=self._log_bytes)
        if failed.get("rank") == self._rank:
            words = [str(failed["reason"]), *words]
        fault = transient(words)
        end = replace(end, reason=words[0] if words else f"exit code {code} and not a word")
        return replace(end, fault=fault[0], of_node=fault[1]) if fault else end

    def _leave(self, order: Leave) -> int:
        why = order.because
        code = self._last_code(why)
        if isinstance(self._part, Leader):
            self._account.conclude(self._part.council, order)
        if why and (why.may_pass or why.fault == "supervisor") and self._publishes(why):
            self._publish()
        if why:
            self._part.linger(LAST_SECONDS)
        return code

    def _last_code(self, why: End | None) -> int:
        """The exit code of the rank, which gets some time to end by itself; 1 where it is lost."""
        if self._child is None:
            return INTERRUPTED if self._signals and why is None else 1
        until = time.monotonic() + LEAVE_SECONDS
        while self._child.code is None and time.monotonic() < until:
            self._tell_signals(self._child)
            time.sleep(LOOK_SECONDS)
        self._child.end()
        code = self._end.code if self._end else self._child.code
        return code if code is not None and code >= 0 and (code or not why) else 1

    def _publishes(self, why: End) -> bool:
        """Whether this supervisor publishes its state: that of rank 0, or the next that keeps one where it is gone."""
        return self._rank == 0 or (self._memory.keeps and why.rank == 0 and why.fault == "supervisor")

    def _publish(self) -> None:
        """Save what the rank has left in memory: the next start of the job goes on from there."""
        kept = self._memory.newest()
        try:
            place = publish_kept(kept) if kept else None
        except Exception as error:  # the checkpoints that are there stay as they are
            complain(f"what rank {self._rank} left in memory could not be saved: {error}")
        else:
            if place:
                complain(f"{place}: saved from memory, for the next start")


def _part(command: Command, env: JobEnvironment) -> Part:
    """This supervisor among the others of its job. Raises LinkError where they do not meet."""
    world, job, start = env.num_tasks, env.job_id, fence.starts()
    host = "127.0.0.1" if env.num_nodes == 1 else env.hostnames[0]
    ports = [master_port(f"{job} supervisors", LINK_PORTS * start + number) for number in range(LINK_PORTS)]
    secret = layout.link_file(command.folder, job)
    if env.global_rank:
        return Member(link.join(host, ports, secret.read_text(), env.global_rank))

    def port(round: int) -> int:
        if round == 0 and command.port is not None:
            return command.port
        return free_port(f"{job} {start}", round)

    everywhere = host if env.num_nodes == 1 else ""
    hub = link.Hub(everywhere, ports, secret.read_text(), world) if world > 1 else None
    return Leader(Council(world, command.restarts, time.monotonic()), hub, port)


@contextmanager
def _noting(signals: list[int]) -> Iterator[None]:
    """Within, signals end nothing: they are noted. A hangup that is ignored (nohup) stays so, for the rank as well."""
    wanted = [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: signals.append(number)) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
