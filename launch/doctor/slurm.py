"""SLURM's commands, whether its controller answers, and what a cluster's file asks of its partitions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace

from laconvnet.launch.doctor.check import Check, PlannedRun, State
from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.slurm import queue

SECONDS = 10


def commands(planned_run: PlannedRun) -> Iterator[Check]:
    """What there is of SLURM, its version, and its controller's answer."""
    missing = queue.missing_commands()
    lacking: State = "error" if planned_run.cluster else "not there"
    if len(missing) == len(queue.COMMANDS):
        yield Check("slurm", lacking, "no command of SLURM's", "only --cluster local works here")
        return
    if missing:
        meaning = "launch and cancel need all of them: put SLURM's bin folder on PATH"
        yield Check("slurm", "error" if planned_run.cluster else "warning", f"{', '.join(missing)} not found", meaning)
        return
    version, answer = _ask("sinfo", "--version"), _ask("sinfo", "--noheader", "--format=%D")
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        meaning = "its controller does not answer: start it, or set SLURM_CONF"
        yield Check("slurm", "error" if planned_run.cluster else "warning", lines[-1].strip(), meaning)
        return
    nodes = sum(int(line) for line in answer.stdout.split() if line.isdigit())
    found = f"{' '.join(version.stdout.split())}; {nodes} nodes in its partitions"
    books = "" if shutil.which("sacct") else "no sacct: how an ended job ended is then not known from SLURM"
    yield Check("slurm", "ok", found, books)


def cluster(planned_run: PlannedRun) -> Iterator[Check]:
    """Whether the partitions have what the cluster's file and so many processes ask for."""
    if planned_run.cluster is None or planned_run.site is None or queue.missing_commands():
        return
    from laconvnet.launch.slurm import capacity  # needs submitit

    site = planned_run.cluster.with_gpus
    threads = site.cpus_per_task
    stage = Stage(
        name="run",
        title="",
        fingerprint="",
        folder=planned_run.folder,
        argv=(),
        needs=(),
        processes=planned_run.processes,
        threads=threads,
        minutes=site.minutes,
        gpus=1 if site.gpus_per_node else 0,
    )
    graph = Graph("", planned_run.site, planned_run.folder, (stage,))
    shaped, problems = capacity.shapes(graph, [stage], site)
    if shaped:
        # All GPUs that the file says a node has, whatever these processes take of them.
        whole = {name: replace(shape, gpus=site.gpus_per_node) for name, shape in shaped.items()}
        problems += capacity.resources(graph, [stage], whole, site)
    before = f"{graph.file}: stage 'run': "
    for problem in problems:
        meaning = f"change it in {planned_run.site}, or ask for other --processes"
        yield Check("cluster", "error", problem.removeprefix(before), meaning)
    if not problems:
        shape = shaped["run"]
        found = f"{planned_run.processes} processes fit: {shape.nodes} nodes of {shape.tasks}, {shape.cpus} cores each"
        yield Check("cluster", "ok", f"{found}, partition {shape.partition or '(default)'}, {shape.gpus} GPUs a node")


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: no answer in {SECONDS} s")
