"""Submit a stage graph to SLURM: checked as a whole, then one job a stage; nothing waits for them here.

A stage that is done is found done, and one whose job is in the queue is found there: the same command again submits
what is missing and nothing twice.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env
from tqdm import tqdm

from launch import precheck, queue, slurm, snapshot
from launch.batch import Submission
from launch.cluster import Cluster
from launch.job import is_done, write_json
from launch.screen import Screen, table
from launch.stages import Graph, Stage
from launch.status import JOB
from pipeline.errors import ConfigError
from pipeline.version import code_version


def dry_run(graph: Graph, taken: Sequence[Stage], cluster: Cluster) -> str:
    """The batch scripts, as they would be submitted but for the ids of jobs that do not exist yet: {stage}."""
    shaped, problems = precheck.shapes(graph, taken, cluster)
    if problems:
        raise ConfigError("\n".join(problems))
    names = {stage.name for stage in taken}
    code = graph.folder / snapshot.name()
    texts = []
    for stage in taken:
        after = tuple("{" + name + "}" for name in stage.needs if name in names)
        chosen = slurm.executor(graph, stage, shaped[stage.name], cluster, code, after)
        texts.append(f"### {stage.name}\n{slurm.script(chosen).rstrip()}\n")
    return "\n".join(texts)


def check(graph: Graph, taken: Sequence[Stage], cluster: Cluster, entry: str) -> dict[str, slurm.Shape]:
    """What each stage asks of the cluster. Raises ConfigError with every problem that can be seen now."""
    missing = queue.missing_commands()
    if missing:
        raise ConfigError(f"cluster: {', '.join(missing)}: no such commands here; expected a machine of the cluster")
    shaped, problems = precheck.shapes(graph, taken, cluster)
    whole = [stage for stage in taken if stage.name in shaped]
    problems += precheck.folders(graph)
    problems += precheck.commands(graph, taken, entry)

    def script(stage: Stage) -> str:
        return slurm.script(slurm.executor(graph, stage, shaped[stage.name], cluster, graph.folder, ()))

    with _outside_of_jobs():
        # sbatch would say the same again, less clearly.
        problems += precheck.resources(graph, whole, shaped, cluster) or precheck.scripts(graph, whole, script)
    if problems:
        raise ConfigError("\n".join(problems))
    return shaped


def submit(
    graph: Graph,
    taken: Sequence[Stage],
    shaped: Mapping[str, slurm.Shape],
    cluster: Cluster,
    screen: Screen,
    force: bool,
    entry: str,
) -> None:
    """Submit those of the stages taken that are not in the queue; `shaped` is what `check` found.

    Raises ConfigError, and leaves none of them in the queue, where SLURM refuses one.
    """
    with _outside_of_jobs():
        waiting = queue.by_folder()
        known = {stage.name: waiting[str(stage.folder)] for stage in graph.stages if str(stage.folder) in waiting}
        again = [stage for stage in taken if stage.name in known and (force or is_done(stage.folder, stage.identity))]
        if again:
            told = ", ".join(f"{stage.name} (job {known[stage.name].id})" for stage in again)
            raise ConfigError(f"{graph.folder}: still in the queue: {told}; `laconvnet cancel` them first")
        new = [stage for stage in taken if stage.name not in known]
        ids = {name: job.id for name, job in known.items()}
        if new:
            _submit_all(graph, new, shaped, cluster, ids, force, entry)
    names = {stage.name for stage in new}
    rows = []
    for stage in graph.stages:
        if stage.name in known:
            state = f"found in the queue, {known[stage.name].state.lower()}"
        elif stage.name in names:
            state = "submitted"
        else:
            state = "found done" if is_done(stage.folder, stage.identity) else "not taken"
        rows.append({"stage": stage.name, "job": ids.get(stage.name), "state": state})
    screen.line(table(rows, {"stage": "stage", "job": "job", "state": "state"}))
    screen.line(f"{len(new)} submitted; `laconvnet status {graph.folder}` tells how far they are")


def _submit_all(
    graph: Graph,
    new: Sequence[Stage],
    shaped: Mapping[str, slurm.Shape],
    cluster: Cluster,
    ids: dict[str, str],
    force: bool,
    entry: str,
) -> None:
    """Submit the stages one after the other, each behind those it needs; their jobs' ids are added to `ids`."""
    code = snapshot.code(graph.folder)
    version, offered = code_version(), queue.partitions()
    submitted: list[Stage] = []
    try:
        for stage in tqdm(new, "submitting", unit="job", disable=len(new) < 20):
            if force and stage.folder.exists():
                _set_aside(graph, stage)
            shape = shaped[stage.name]
            plan = Submission(
                stage=stage.name,
                identity=stage.identity,
                processes=stage.processes,
                minutes=shape.minutes,
                signal_seconds=cluster.signal_seconds,
                hang_minutes=cluster.hang_minutes,
                max_timeouts=cluster.max_timeouts,
                retries=cluster.retries,
                spare_nodes=offered[shape.partition or ""].nodes - shape.nodes if cluster.exclude else 0,
                code=code.name,
                version=version,
            )
            after = tuple(ids[name] for name in stage.needs if name in ids)
            chosen = slurm.executor(graph, stage, shape, cluster, code, after)
            ids[stage.name] = _submit(stage, shape, plan, chosen, entry)
            submitted.append(stage)
    except BaseException as error:
        # Half a graph in the queue would be taken for the whole.
        if submitted:
            queue.run(["scancel", *(ids[stage.name] for stage in reversed(submitted))])
        for stage in submitted:
            (stage.folder / JOB).unlink(missing_ok=True)
        if isinstance(error, FailedJobError | FailedSubmissionError | subprocess.CalledProcessError):
            where = f"{graph.file}: stage {new[len(submitted)].name!r}"
            raise ConfigError(f"{where}: {' '.join(str(error).split())}; nothing was submitted") from error
        raise


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of a job that this may run in: sbatch would take its options from them."""
    conf = os.environ.get("SLURM_CONF")
    with clean_env():
        if conf is not None:  # says which cluster is asked
            os.environ["SLURM_CONF"] = conf
        yield


def _set_aside(graph: Graph, stage: Stage) -> None:
    """Keep what a stage has made, under another name, so that it starts from nothing."""
    aside = graph.folder / "replaced"
    aside.mkdir(exist_ok=True)
    number = 1 + sum(1 for _ in aside.glob(f"{stage.folder.name}.*"))
    stage.folder.rename(aside / f"{stage.folder.name}.{number}")


def _submit(stage: Stage, shape: slurm.Shape, plan: Submission, chosen: slurm.SlurmExecutor, entry: str) -> str:
    """Submit one stage and note its job; returns the job's id."""
    (stage.folder / "jobs").mkdir(parents=True, exist_ok=True)
    for name in ("DONE.json", "FAILED.json"):
        (stage.folder / name).unlink(missing_ok=True)
    plan.write(stage.folder)
    job = slurm.submit(chosen, slurm.command(stage, shape, snapshot.arguments(stage), plan.version, entry))
    record = {"id": job, "cluster": "slurm", "started": time.time(), "processes": stage.processes}
    write_json(stage.folder / JOB, record | {"nodes": shape.nodes, "code": plan.code, "version": plan.version})
    return job
