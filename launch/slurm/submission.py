"""Submit a stage graph to SLURM: checked as a whole, then one job a stage; nothing waits for them here.

A stage that is done is found done, and one whose job is in the queue is found there: the same command again submits
what is missing and nothing twice. Of an array that holds for each task.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

from laconvnet.files import publish_json
from laconvnet.launch import precheck
from laconvnet.launch.graph.aside import set_aside
from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.local.screen import Screen
from laconvnet.launch.outcomes import clear_ends, is_done
from laconvnet.launch.slurm import capacity, queue, sbatch, snapshot
from laconvnet.launch.slurm.batch import Submission
from laconvnet.launch.slurm.cluster import Cluster
from laconvnet.launch.slurm.surroundings import dropped, outside_of_jobs
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.layout import JOB, JOBS, array_of, task_folder
from laconvnet.pipeline.runs.version import code_version
from laconvnet.progress import Progress


def dry_run(
    graph: Graph, taken: Sequence[Stage], cluster: Cluster, again: bool, line: argparse.ArgumentParser
) -> dict[str, str]:
    """The batch script of each stage as it would be submitted, but for ids of jobs that do not exist yet: {stage}.

    SLURM's queue is not looked at: what waits there would be found there.
    """
    shaped, problems = capacity.shapes(graph, taken, cluster)
    problems += precheck.commands(graph, taken, line) + capacity.arrays(graph, taken, cluster)
    if problems:
        raise ConfigError("\n".join(problems))
    names = {stage.name for stage in taken}
    code = graph.folder / snapshot.name()
    texts = {}
    for stage in taken:
        after = ["{" + name + "}" for name in stage.needs if name in names]
        tasks = _undone(stage, again) if stage.array is not None else ()
        chosen = sbatch.executor(graph, stage, shaped[stage.name], cluster, code, after, tasks)
        texts[stage.name] = sbatch.script(chosen).rstrip()
    return texts


def check(
    graph: Graph, taken: Sequence[Stage], cluster: Cluster, line: argparse.ArgumentParser
) -> dict[str, sbatch.ResourceRequest]:
    """What each stage asks of the cluster; `line` parses the stages' command lines.

    Raises ConfigError with every problem that can be seen now.
    """
    missing = queue.missing_commands()
    if missing:
        raise ConfigError(f"cluster: {', '.join(missing)}: no such commands here; expected a machine of the cluster")
    shaped, problems = capacity.shapes(graph, taken, cluster)
    whole = [stage for stage in taken if stage.name in shaped]
    problems += capacity.folders(graph)
    problems += precheck.commands(graph, taken, line) + precheck.missing(graph, taken)

    def script(stage: Stage) -> str:
        tasks = range(stage.array or 0)
        return sbatch.script(sbatch.executor(graph, stage, shaped[stage.name], cluster, graph.folder, (), tasks))

    with outside_of_jobs():
        # sbatch would say the same again, less clearly.
        unfit = capacity.arrays(graph, taken, cluster) + capacity.resources(graph, whole, shaped, cluster)
        problems += unfit or precheck.scripts(graph, whole, script)
    if problems:
        raise ConfigError("\n".join(problems))
    return shaped


def remarks(taken: Sequence[Stage], cluster: Cluster) -> list[str]:
    """What a user may not expect of the jobs, a line each."""
    return [line for line in (dropped(), capacity.of_gpu_nodes(taken, cluster)) if line]


def waiting(graph: Graph) -> frozenset[str]:
    """The stages whose jobs are all in SLURM's queue, but for tasks of an array that are done."""
    with outside_of_jobs():
        known = _by_stage(graph, queue.by_folder())
    found = []
    for name, jobs in known.items():
        there = {job.folder for job in jobs}
        if all(str(one.folder) in there or is_done(one.folder, one.fingerprint) for one in graph.stage(name).jobs):
            found.append(name)
    return frozenset(found)


def _by_stage(graph: Graph, queued: Mapping[str, queue.Queued]) -> dict[str, list[queue.Queued]]:
    """Stage -> its jobs in the queue, for those that have some."""
    names = {str(stage.folder): stage.name for stage in graph.stages}
    found: dict[str, list[queue.Queued]] = {}
    for folder, job in queued.items():
        array = array_of(Path(folder))
        name = names.get(str(array[0]) if array else folder)
        if name is not None:
            found.setdefault(name, []).append(job)
    return found


def submit(
    graph: Graph,
    taken: Sequence[Stage],
    shaped: Mapping[str, sbatch.ResourceRequest],
    cluster: Cluster,
    screen: Screen,
    force: bool,
    again: bool,
) -> None:
    """Submit what is not in the queue of the stages taken; `shaped` is what `check` found.

    Of an array the tasks that are not done; with `again` those too. With `force` the stages start from nothing.
    Raises ConfigError, and leaves none of them in the queue, where SLURM refuses one.
    """
    with outside_of_jobs():
        jobs_there = queue.queued()
        queued = {job.folder: job for job in jobs_there}
        known = _by_stage(graph, queued)
        _refuse_unfit(graph, taken, known, force)
        new = {stage.name: missing for stage in taken if (missing := _missing(stage, queued, again))}
        ids = {name: _after(graph.stage(name), jobs) for name, jobs in known.items()}
        _refuse_unmet(graph, new, ids)
        if new:
            capacity.room_in_queue(graph, new, len(jobs_there), cluster)
            _submit_all(graph, new, shaped, cluster, ids, force)
    rows = []
    for stage in graph.stages:
        job = " ".join(dict.fromkeys(id.partition("_")[0] for id in ids.get(stage.name, ())))
        state = _told(stage, known.get(stage.name, ()), len(new.get(stage.name, ())))
        rows.append({"stage": stage.name, "job": job or None, "state": state})
    screen.table(rows, {"stage": "stage", "job": "job", "state": "state"})
    screen.line(f"{len(new)} submitted; `laconvnet status {graph.folder}` tells how far they are")


def _missing(stage: Stage, queued: Mapping[str, queue.Queued], again: bool) -> list[Stage]:
    """What of a stage is to be submitted: of an array the tasks that are neither in the queue nor, else, done."""
    if stage.array is None:
        return [] if str(stage.folder) in queued else [stage]
    return [job for job in map(stage.jobs.__getitem__, _undone(stage, again)) if str(job.folder) not in queued]


def _undone(stage: Stage, again: bool) -> list[int]:
    """The tasks of an array that are not done; with `again` all of them."""
    assert stage.array is not None
    tasks = list(range(stage.array))
    if again or not stage.folder.is_dir():
        return tasks
    return [task for task in tasks if not is_done(task_folder(stage.folder, stage.array, task), stage.fingerprint)]


def _after(stage: Stage, queued: Sequence[queue.Queued]) -> list[str]:
    """The jobs that have to end well; the whole array by one id only where it holds nothing that has ended."""
    arrays = {job.array for job in queued}
    return [*arrays] if len(queued) == len(stage.jobs) and len(arrays) == 1 else [job.id for job in queued]


def _refuse_unfit(
    graph: Graph, taken: Sequence[Stage], known: Mapping[str, Sequence[queue.Queued]], force: bool
) -> None:
    """Raises ConfigError for jobs in the queue that stand in the way of the stages taken."""
    changed = []
    for stage in taken:
        for job in known.get(stage.name, ()):
            array = array_of(Path(job.folder))
            if stage.array is not None and array is not None and array[1] != stage.array:
                changed.append(f"{stage.name} (job {job.array}, an array of {array[1]}, not {stage.array})")
            elif force or is_done(stage.folder, stage.fingerprint):
                changed.append(f"{stage.name} (job {job.array})")
    if changed:
        shown = ", ".join(dict.fromkeys(changed))
        raise ConfigError(f"{graph.folder}: still in the queue: {shown}; `laconvnet cancel` them first")


def _refuse_unmet(graph: Graph, new: Mapping[str, object], ids: Mapping[str, object]) -> None:
    """Raises ConfigError where an input has left the queue since the stages were chosen, and is not done."""
    for name in new:
        for need in map(graph.stage, graph.stage(name).needs):
            if need.name not in new and need.name not in ids and not is_done(need.folder, need.fingerprint):
                raise ConfigError(
                    f"{graph.file}: stage {name!r}: {need.name!r} has just left the queue and is not done; "
                    "nothing was submitted"
                )


def _told(stage: Stage, queued: Sequence[queue.Queued], new: int) -> str:
    """What was found, and done, of a stage."""
    if stage.array is None:
        if queued:
            return f"found in the queue, {queued[0].state.lower()}"
        return "submitted" if new else "found done" if is_done(stage.folder, stage.fingerprint) else "not taken"
    parts = [f"{new} of {stage.array} tasks submitted"] if new else []
    states = Counter(job.state.lower() for job in queued)
    parts += [f"{count} found in the queue, {state}" for state, count in states.items()]
    if not parts:
        return "found done" if is_done(stage.folder, stage.fingerprint) else "not taken"
    return "; ".join(parts)


def _submit_all(
    graph: Graph,
    new: Mapping[str, Sequence[Stage]],
    shaped: Mapping[str, sbatch.ResourceRequest],
    cluster: Cluster,
    ids: dict[str, list[str]],
    force: bool,
) -> None:
    """Submit what is new of each stage, one after the other behind those it needs; jobs' ids are added to `ids`."""
    code = snapshot.code(graph.folder)
    version, offered = code_version(), queue.partitions()
    submitted: list[tuple[str, Stage]] = []
    name = ""
    try:
        for name, jobs in Progress(new.items(), "submitting", unit="job", disable=len(new) < 20):
            stage = graph.stage(name)
            if force:
                set_aside(graph, stage)
            shape = shaped[name]
            plan = Submission(
                stage=name,
                fingerprint=stage.fingerprint,
                processes=stage.processes,
                minutes=shape.minutes,
                signal_seconds=cluster.signal_seconds,
                hang_minutes=cluster.hang_minutes,
                max_timeouts=cluster.max_timeouts,
                retries=cluster.retries,
                spare_nodes=offered[shape.partition or ""].nodes - shape.nodes if cluster.exclude else 0,
                code=code.name,
                version=version,
                restarts=stage.restarts,
            )
            after = [job for need in stage.needs for job in ids.get(need, ())]
            tasks = [job.task for job in jobs if job.task is not None]
            chosen = sbatch.executor(graph, stage, shape, cluster, code, after, tasks)
            job = _submit(stage, jobs, shape, plan, chosen)
            ids.setdefault(name, []).append(job)
            submitted.append((job, stage))
    except BaseException as error:
        # Half a graph in the queue would be taken for the whole.
        if submitted:
            queue.run(["scancel", *(job for job, _ in reversed(submitted))])
        for _, stage in submitted:
            for one in (stage, *new[stage.name]):
                (one.folder / JOB).unlink(missing_ok=True)
        if isinstance(error, FailedJobError | FailedSubmissionError | subprocess.CalledProcessError | queue.SlurmError):
            where = f"{graph.file}: stage {name!r}"
            raise ConfigError(f"{where}: {' '.join(str(error).split())}; nothing was submitted") from error
        raise


def _submit(
    stage: Stage,
    jobs: Sequence[Stage],
    shape: sbatch.ResourceRequest,
    plan: Submission,
    chosen: sbatch.SlurmExecutor,
) -> str:
    """Submit one stage, or tasks of its array, and note it where it works; returns the job's id."""
    for folder in {stage.folder, *(job.folder for job in jobs)}:
        clear_ends(folder)
    works = {}
    for job in jobs:
        (job.folder / JOBS).mkdir(parents=True, exist_ok=True)
        plan.write(job.folder)
        works[job.task] = sbatch.command(job, shape, snapshot.arguments(job), plan.version)
    id = sbatch.submit(chosen, works[None]) if None in works else sbatch.submit_array(chosen, works)
    record = {"cluster": "slurm", "started": time.time(), "processes": stage.processes, "nodes": shape.nodes}
    record |= {"code": plan.code, "version": plan.version}
    if stage.array is not None:
        publish_json(stage.folder / JOB, {"id": id} | record)
    for job in jobs:
        publish_json(job.folder / JOB, {"id": id if job.task is None else f"{id}_{job.task}"} | record)
    return id
