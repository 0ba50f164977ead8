"""Run the stages of a launch on this machine: as many jobs at once as the cores allow, told line by line."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from submitit.local.local import LocalJob

from laconvnet.files import find_object, publish_json
from laconvnet.launch.graph import stages as graphs
from laconvnet.launch.graph.aside import set_aside
from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.job import Command
from laconvnet.launch.local import controller
from laconvnet.launch.local.screen import Screen
from laconvnet.launch.outcomes import CANCELLED, clear_ends, is_done, record_failure, tail
from laconvnet.launch.ports import PORTS, free_port
from laconvnet.launch.slurm.batch import note
from laconvnet.launch.status import log_file, progress
from laconvnet.launch.table import clock
from laconvnet.pipeline.runs.layout import FAILED, JOB, controller_log, link_file, rank_log
from laconvnet.pipeline.runs.version import code_version

POLL_SECONDS = 0.1
PORT_ATTEMPTS = 3
STATES = ("done", "found done", "failed", "stopped", "not started")


def run(graph: Graph, taken: list[Stage], screen: Screen, force: bool, again: bool) -> int:
    """Run the stages of `graph` that are `taken`, from nothing with `force`; returns the exit code.

    Of an array the tasks that are not done; with `again` those too.
    """
    with Interrupts() as interrupts, closing(screen):
        jobs = _prepare(graph, taken, force, again, screen)
        return Run(graph, jobs, screen, interrupts).run()


class Interrupts:
    """Counts SIGINT, SIGTERM and SIGHUP while it is entered, so that no job is lost between two lines of code."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python handles signals there only
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, *_: object) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclass
class Running:
    """The job of a stage, or of a task of its array, at work."""

    stage: Stage
    job: LocalJob[Any]
    started: float
    devices: list[str]
    attempt: int


class Run:
    """One pass over the jobs of the stages taken."""

    def __init__(self, graph: Graph, jobs: list[Stage], screen: Screen, interrupts: Interrupts) -> None:
        self.graph, self.screen, self.interrupts = graph, screen, interrupts
        self.began = time.time()
        self.version = code_version()
        self.devices = controller.devices()
        self.waiting = jobs
        self.announced: set[str] = set()
        self.running: dict[str, Running] = {}
        self.states = {
            stage.name: "found done" if is_done(stage.folder, stage.fingerprint) else "not started"
            for stage in graph.stages
        }
        self.seconds: dict[str, float] = {}
        self.reasons: dict[str, str] = {}
        self.first: dict[str, float] = {}  # when the first job of a stage that has ended was started

    def run(self) -> int:
        """Run the stages; returns the exit code."""
        found = [name for name, state in self.states.items() if state == "found done"]
        if found:
            self.screen.line(f"{self.graph.name}: found done: {', '.join(found)}")
        while self.waiting or self.running:
            if self.interrupts.count:
                return self._interrupted()
            self._start_what_can()
            time.sleep(POLL_SECONDS)
            for name in list(self.running):
                if self.running[name].job.done():
                    self._ended(self.running.pop(name))
            self.screen.progress(self._progress)
        self._summary()
        if "failed" in self.states.values():
            return 1
        for stage in self.graph.stages:
            if stage.show and stage.show.is_file():
                self.screen.line(f"\n{stage.show.read_text(encoding='utf-8').rstrip()}")
        return 0

    def _progress(self) -> dict[str, str]:
        return {label: progress(run.stage.folder, log_file(run.stage.folder)) for label, run in self.running.items()}

    def _start_what_can(self) -> None:
        at_work = Counter(run.stage.name for run in self.running.values())
        used = sum(run.stage.cores for run in self.running.values())
        blocked = {stage.name for stage in self.waiting} | at_work.keys()
        still: list[Stage] = []
        for stage in self.waiting:
            # A stage that wants more cores than there are runs alone.
            room = not used or used + stage.cores <= graphs.cores()
            throttled = stage.at_once is not None and at_work[stage.name] >= stage.at_once
            if room and not throttled and blocked.isdisjoint(stage.needs):
                used += stage.cores
                at_work[stage.name] += 1
                self._start(stage)
            else:
                still.append(stage)
        self.waiting = still

    def _start(self, stage: Stage, attempt: int = 0) -> None:
        stage.folder.mkdir(parents=True, exist_ok=True)
        clear_ends(stage.folder)
        devices = self._least_used(stage.processes)
        several = stage.processes > 1
        port = free_port(f"{stage.folder} {os.getpid()}", attempt * len(PORTS)) if several else None
        command = replace(Command.of(stage), port=port, devices=",".join(devices) or None, version=self.version)
        if stage.name not in self.announced:
            self.announced.add(stage.name)
            self._announce(stage)
        started = time.time()
        job = controller.submit(command, stage.minutes)
        assert job._process is not None
        record = {"id": job.job_id, "pid": job._process.pid, "host": socket.gethostname(), "cluster": "local"}
        publish_json(stage.folder / JOB, record | {"started": started, "processes": stage.processes})
        note(stage.folder, {"job": job.job_id, "start": attempt, "event": "start", "nodes": socket.gethostname()})
        self.running[stage.label] = Running(stage, job, started, devices, attempt)

    def _announce(self, stage: Stage) -> None:
        number = [other.name for other in self.graph.stages].index(stage.name) + 1
        left = sum(other.name == stage.name for other in self.waiting)
        many = f"({left} of {stage.array} tasks)" if stage.array is not None else ""
        ranks = f"({stage.processes} processes)" if stage.processes > 1 else ""
        later = dict.fromkeys(other.name for other in self.waiting if other.name not in self.announced)
        following = ", ".join([*later][:3]) or "the end"
        parts = [f"[{number}/{len(self.graph.stages)}] {stage.name}", stage.title, many, ranks]
        self.screen.line("  ".join(part for part in (*parts, f"... next: {following}") if part))

    def _ended(self, run: Running) -> None:
        stage = run.stage
        assert run.job._process is not None
        if run.job._process.returncode < 0:  # a controller that was killed could not end its ranks
            controller.kill_group(run.job._process.pid)
        self._count(run)
        if is_done(stage.folder, stage.fingerprint):
            _note_end(run, "done")
            whole = self.graph.stage(stage.name)
            if is_done(whole.folder, whole.fingerprint):
                self.states[stage.name] = "done"
                self.screen.line(f"    {stage.name}: done in {clock(self.seconds[stage.name])}")
            return
        failed = find_object(stage.folder / FAILED)
        if failed is None:
            # Whoever ended before the command began has said why on its own standard error.
            logs = [controller_log(stage.folder, run.job.job_id), rank_log(stage.folder, run.job.job_id, 0)]
            log = next((log for log in logs if tail(log, lines=1)), logs[0])
            reason = ": ".join(["its job ended without a result", *tail(log, lines=1)])
            failed = record_failure(stage.folder, log, {"stage": stage.name, "job": run.job.job_id, "reason": reason})
        if _port_was_taken(failed["reason"]) and run.attempt + 1 < PORT_ATTEMPTS:
            self.screen.line(f"    {stage.label}: its port was taken meanwhile; once more with another")
            _note_end(run, "retry", failed["reason"])
            self._start(stage, run.attempt + 1)
            return
        _note_end(run, "failed", failed["reason"])
        self.states[stage.name] = "failed"
        task = "" if stage.task is None else f"task {stage.task}: "
        self.reasons.setdefault(stage.name, task + failed["reason"])
        self.screen.line(f"    {stage.label}: FAILED (rank {failed['rank']}): {failed['reason']}")
        for text in failed["tail"]:
            self.screen.line(f"    | {text}")
        self.screen.line(f"    the whole log: {failed['log']}")
        if failed["reason"] == CANCELLED:  # the tasks that wait too
            self.waiting = [other for other in self.waiting if other.name != stage.name]
        lost = {other.name for other in self.graph.after(stage.name)} - {stage.name}
        for name in dict.fromkeys(other.name for other in self.waiting if other.name in lost):
            self.reasons[name] = f"{stage.name} failed"
            self.screen.line(f"    {name}: not started: {stage.name} failed")
        self.waiting = [other for other in self.waiting if other.name not in lost]

    def _count(self, run: Running) -> None:
        """How long the stage has been at work in this launch: an array from the start of its first task."""
        first = self.first.setdefault(run.stage.name, run.started)
        self.seconds[run.stage.name] = time.time() - first

    def _interrupted(self) -> int:
        asked = self.interrupts.count
        if self.running:
            self.screen.line(f"stopping {', '.join(self.running)} (once more to kill at once)")
        controller.stop([run.job for run in self.running.values()], lambda: self.interrupts.count > asked)
        for run in self.running.values():
            whole = self.graph.stage(run.stage.name)
            self._count(run)
            _note_end(run, "done" if is_done(run.stage.folder, run.stage.fingerprint) else "stopped")
            self.states[whole.name] = "done" if is_done(whole.folder, whole.fingerprint) else "stopped"
        self._summary()
        self.screen.line("interrupted; the same command goes on from here")
        return 130

    def _summary(self) -> None:
        rows = [
            {
                "stage": stage.name,
                "state": self.states[stage.name],
                "seconds": f"{self.seconds[stage.name]:.1f}" if stage.name in self.seconds else None,
                "reason": self.reasons.get(stage.name, ""),
            }
            for stage in self.graph.stages
        ]
        self.screen.table(rows, {"stage": "stage", "state": "state", "seconds": "seconds", "reason": ""})
        counts = Counter(self.states.values())
        shown = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        self.screen.line(f"total {time.time() - self.began:.1f} s: {shown}; {self.graph.folder}")

    def _least_used(self, count: int) -> list[str]:
        """GPUs for a stage: as many as it has ranks, or all of them, those with the fewest running stages first."""
        uses = Counter(device for run in self.running.values() for device in run.devices)
        return sorted(sorted(self.devices, key=lambda device: uses[device])[:count], key=self.devices.index)


def _prepare(graph: Graph, taken: list[Stage], force: bool, again: bool, screen: Screen) -> list[Stage]:
    """The jobs to run. Nothing works on the stages and none counts as done; with `force`, none is there."""
    found = []
    for stage in taken:
        left = controller.sweep(stage.folder)
        if left:
            screen.line(f"{stage.name}: ended {left} processes that a killed launch had left running")
        if force:
            set_aside(graph, stage)
        clear_ends(stage.folder)
        jobs = [job for job in stage.jobs if again or not is_done(job.folder, job.fingerprint)]
        for job in jobs:
            clear_ends(job.folder)
        found += jobs
    return found


def _note_end(run: Running, outcome: str, reason: str = "") -> None:
    link_file(run.stage.folder, run.job.job_id).unlink(missing_ok=True)  # a controller that was killed could not
    entry = {"job": run.job.job_id, "start": run.attempt, "event": "end", "outcome": outcome, "reason": reason}
    note(run.stage.folder, entry)


def _port_was_taken(reason: str) -> bool:
    return "EADDRINUSE" in reason or "address already in use" in reason.lower()
