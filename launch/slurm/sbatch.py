"""Stages as SLURM jobs: one batch job a stage, its processes as tasks of one srun, `afterok` between them.

submitit writes the batch script, pickles `launch.job.Command` and starts it in every task. Around its srun stand lines
of ours: before it the site's setup, `batch begin` and the watchdog; after it `batch end`, whose exit code is the job's.
So a job that failed ends non-zero whatever its ranks' exit codes were, and `afterok` means what it says.

A stage's job is known again by its comment, which is the stage's folder; for an array, whose tasks are elements of one
job array of SLURM's, it is the folder that those of the tasks lie in.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import JobPaths
from submitit.helpers import DelayedSubmission

from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.job import Command
from laconvnet.launch.profile import Profile
from laconvnet.launch.slurm import queue
from laconvnet.launch.slurm.cluster import Cluster
from laconvnet.pipeline.runs.layout import JOBS, batch_log, exclude_file


class SlurmExecutor(submitit.SlurmExecutor):
    """submitit's; its scripts can be written where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2


@dataclass(frozen=True)
class ResourceRequest:
    """What a stage asks of a cluster."""

    partition: str | None
    nodes: int
    tasks: int  # on each node
    cpus: int  # of each task
    gpus: int  # of each node
    minutes: int

    @staticmethod
    def of(stage: Stage, cluster: Cluster) -> ResourceRequest:
        """Raises ValueError, saying what to change, for processes that do not fit on whole nodes."""
        cluster = cluster.fitted(stage)
        nodes = stage.nodes
        if stage.gpus and not cluster.gpus_per_node:
            raise ValueError(f"gpus: got {stage.gpus}, but the cluster's gpus_per_node is 0")
        if nodes is None:
            nodes = math.ceil(stage.processes * stage.gpus / cluster.gpus_per_node) if stage.gpus else 1
        if stage.processes % nodes:
            raise ValueError(f"processes: got {stage.processes}, expected a multiple of its {nodes} nodes")
        tasks = stage.processes // nodes
        if tasks * stage.gpus > max(cluster.gpus_per_node, 0) and stage.gpus:
            raise ValueError(
                f"nodes: got {nodes}, but {tasks * stage.gpus} GPUs a node are more than the cluster's "
                f"gpus_per_node {cluster.gpus_per_node}"
            )
        minutes = stage.minutes if "minutes" in stage.given else cluster.minutes
        cpus = stage.threads if "threads" in stage.given else cluster.cpus_per_task
        partition = stage.partition or cluster.partition
        return ResourceRequest(partition, nodes, tasks, cpus, tasks * stage.gpus, math.ceil(minutes))


def command(stage: Stage, shape: ResourceRequest, argv: tuple[str, ...], version: str | None = None) -> Command:
    """What each task of the stage calls."""
    return replace(Command.of(stage), argv=argv, threads=shape.cpus, version=version)


@dataclass(frozen=True)
class ScriptPaths:
    """How the batch script of a job writes the folder that the job works in, and its own id."""

    comment: str
    jobs: Path  # with the patterns that sbatch, srun and submitit fill in
    log: str
    folder: str  # in bash
    job: str  # in bash

    @staticmethod
    def of(stage: Stage) -> ScriptPaths:
        if stage.array is None:
            where = shlex.quote(str(stage.folder))
            return ScriptPaths(
                str(stage.folder), stage.folder / JOBS, batch_log(stage.folder, "%j").name, where, '"$SLURM_JOB_ID"'
            )
        # Not SLURM_JOB_ID: for one task of an array that is the id of the whole array.
        tasks = stage.job(0).folder.parent
        where = f'{shlex.quote(str(tasks))}/"$SLURM_ARRAY_TASK_ID"'
        job = '"$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"'
        return ScriptPaths(str(tasks), tasks / "%a" / JOBS, batch_log(tasks, "%A_%a").name, where, job)


def executor(
    graph: Graph,
    stage: Stage,
    shape: ResourceRequest,
    cluster: Cluster,
    code: Path,
    after: Sequence[str],
    tasks: Sequence[int] = (),
) -> SlurmExecutor:
    """submitit's executor for the stage's job, which starts when those of `after` (job ids) have ended well.

    Of an array only the `tasks` named.
    """
    cluster = cluster.fitted(stage)
    python = " ".join(filter(None, (cluster.container, shlex.quote(cluster.python or sys.executable))))
    place = ScriptPaths.of(stage)
    result = SlurmExecutor(folder=place.jobs, max_num_timeout=cluster.max_timeouts, python=python)
    log = place.jobs / place.log
    extra: dict[str, Any] = {"output": log, "error": log, "requeue": True, "kill-on-invalid-dep": "yes"}
    if stage.array is not None:
        extra["array"] = array(tasks, stage.at_once or cluster.at_once)
    if after:
        extra["dependency"] = "afterok:" + ":".join(after)
    optional = {
        "partition": shape.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mail_user": cluster.mail_user,
        "mail_type": cluster.mail_type,
    }
    # Not by update_parameters, which writes the whole script once for nothing: a second for a thousand stages.
    result.parameters |= dict(
        job_name=re.sub(r"[^\w.-]", "_", graph.name) + "/" + stage.name,
        comment=place.comment,
        wckey=None,
        nodes=shape.nodes,
        ntasks_per_node=shape.tasks,
        cpus_per_task=shape.cpus,
        time=shape.minutes,
        signal_delay_s=cluster.signal_seconds,
        setup=_before(place, cluster, code, python),
        teardown=_after(place, python),
        # srun no longer takes -c from the job; without the second a lost rank leaves the others waiting for it.
        srun_args=[f"--cpus-per-task={shape.cpus}", "--kill-on-bad-exit=1", "--open-mode=append", *cluster.srun],
        additional_parameters=extra | _of_nodes(stage, shape, cluster),
        **{key: value for key, value in optional.items() if value is not None},
    )
    if stage.array is not None:
        result.parameters["map_count"] = len(tasks)  # submitit's logs then bear an array's ids
    return result


def _of_nodes(stage: Stage, shape: ResourceRequest, site: Cluster) -> dict[str, Any]:
    """GPUs, memory and the site's own options, as sbatch names them.

    A stage that takes some of the GPUs of its nodes leaves the others, and their memory, to other jobs, unless its own
    `site` says what it takes.
    """
    own = stage.site or Profile()
    shares = 0 < shape.gpus < site.gpus_per_node
    asked: dict[str, Any] = {key: value for key, value in site.sbatch.items() if value is not False}
    if shares and "exclusive" not in (own.sbatch or {}):
        asked.pop("exclusive", None)
    if shape.gpus:
        gpus = f"{site.gpu_type}:{shape.gpus}" if site.gpu_type else shape.gpus
        if site.gpus_by == "gres":
            asked["gres"] = ",".join(filter(None, (f"gpu:{gpus}", str(asked.get("gres", "")))))
        else:
            asked["gpus-per-node"] = gpus
    mem = site.mem
    if shares and mem is not None and own.mem is None:
        mem = _part(mem, shape.gpus, site.gpus_per_node)
    memory = {"mem": mem, "mem-per-cpu": site.mem_per_cpu, "mem-per-gpu": site.mem_per_gpu if shape.gpus else None}
    return {key: value for key, value in memory.items() if value is not None} | asked


def _part(size: str, part: int, whole: int) -> str | None:
    """So much of a size such as 400G, in the largest unit that tells it; None of 0, all of a memory not known."""
    units = "KMGT"
    unit = size[-1] if size[-1] in units else "M"
    kib = int(size.rstrip(units)) * 1024 ** units.index(unit) * part // whole
    power = next(power for power in (3, 2, 1, 0) if kib % 1024**power == 0)
    return f"{kib // 1024**power}{units[power]}" if kib else None


def array(tasks: Sequence[int], at_once: int = 0) -> str:
    """The tasks as sbatch takes them: 0-63%8, 3,5-7."""
    present = set(tasks)
    first = sorted(task for task in present if task - 1 not in present)
    last = sorted(task for task in present if task + 1 not in present)
    parts = [str(one) if one == other else f"{one}-{other}" for one, other in zip(first, last, strict=True)]
    return ",".join(parts) + (f"%{at_once}" if at_once else "")


def script(chosen: SlurmExecutor) -> str:
    """The batch script that would be submitted."""
    return chosen._make_submission_file_text(chosen._submitit_command_str, "")


def submit(chosen: SlurmExecutor, work: Command) -> str:
    """Submit the job; returns its id. Raises submitit's FailedJobError where sbatch refuses."""
    return str(chosen.submit(work).job_id)


def submit_array(chosen: SlurmExecutor, works: Mapping[int | None, Command]) -> str:
    """Submit the tasks of an array as one job; returns its id. Raises SlurmError where sbatch refuses.

    submitit's own way numbers the tasks anew, and so cannot submit those that are missing.
    """
    folder = JobPaths.get_first_id_independent_folder(chosen.folder)
    script_file = folder / ".submission.sh"
    script_file.write_text(script(chosen), encoding="utf-8")
    pickles: dict[int | None, Path] = {}
    try:
        for task, work in works.items():
            delayed = DelayedSubmission(work)
            delayed.set_timeout(chosen.parameters["time"], chosen.max_num_timeout)
            pickles[task] = work.folder / JOBS / ".submitted.pkl"
            delayed.dump(pickles[task])
        job = chosen._get_job_id_from_submission_command(queue.run(["sbatch", str(script_file)]))
    except BaseException:
        for file in (script_file, *pickles.values()):
            file.unlink(missing_ok=True)
        raise
    for task, file in pickles.items():  # a task that is quicker waits for it
        file.rename(file.with_name(f"{job}_{task}_submitted.pkl"))
    script_file.rename(folder / f"{job}_submission.sh")
    return job


def _before(place: ScriptPaths, cluster: Cluster, code: Path, python: str) -> list[str]:
    where = place.folder
    return [
        "set -e",
        *cluster.setup,
        # The copy of the code comes first, and the folder of the launch, where the code may be another by then, not
        # at all.
        f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}" PYTHONSAFEPATH=1',
        f"{python} -m laconvnet.launch.slurm.batch begin {where}",
        "set +e",
        f"{{ {python} -m laconvnet.launch.slurm.watchdog {where}; [ $? = 4 ] && scancel {_step(place)}; }} &",
        "watchdog=$!",
    ]


def _step(place: ScriptPaths) -> str:
    """The job's only step, in bash."""
    return f'{place.job[:-1]}.0"'


def _after(place: ScriptPaths, python: str) -> list[str]:
    where, job = place.folder, place.job
    exclude = f"{where}/{exclude_file(Path(), job)}"
    return [
        "code=$?",
        "trap '' TERM  # comes when the job is queued again, before its new nodes are chosen",
        'kill "$watchdog"',
        f'{python} -m laconvnet.launch.slurm.batch end {where} "$code" "$SECONDS"',
        "verdict=$?",
        '[ "$verdict" = 3 ] || exit "$verdict"',
        f'[ "$(squeue --noheader --jobs={job} --format=%T)" = RUNNING ] || exit 130  # cancelled meanwhile',
        f"scontrol requeue {job} || {{ {python} -m laconvnet.launch.slurm.batch refused {where}; exit 1; }}",
        f'[ ! -s {exclude} ] || scontrol update JobId={job} ExcNodeList="$(cat {exclude})"',
    ]
