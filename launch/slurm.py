"""Stages as SLURM jobs: one batch job a stage, its processes as tasks of one srun, `afterok` between them.

submitit writes the batch script, pickles `launch.job.Command` and starts it in every task. Around its srun stand lines
of ours: before it the site's setup, `launch.batch begin` and the watchdog; after it `launch.batch end`, whose exit code
is the job's. So a job that failed ends non-zero whatever its ranks' exit codes were, and `afterok` means what it says.

A stage's job is known again by its comment, which is the stage's folder.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from launch.cluster import Cluster
from launch.job import ENTRY, Command
from launch.stages import Graph, Stage

_LOG = "%j_batch.log"


class SlurmExecutor(submitit.SlurmExecutor):
    """submitit's; its scripts can be written where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2


@dataclass(frozen=True)
class Shape:
    """What a stage asks of a cluster."""

    partition: str | None
    nodes: int
    tasks: int  # on each node
    cpus: int  # of each task
    gpus: int  # of each node
    minutes: int

    @staticmethod
    def of(stage: Stage, cluster: Cluster) -> Shape:
        """Raises ValueError, saying what to change, for processes that do not fit on whole nodes."""
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
        return Shape(partition, nodes, tasks, cpus, tasks * stage.gpus, math.ceil(minutes))


def command(
    stage: Stage, shape: Shape, argv: tuple[str, ...], version: str | None = None, entry: str = ENTRY
) -> Command:
    """What each task of the stage calls."""
    return Command(
        stage=stage.name,
        identity=stage.identity,
        folder=stage.folder,
        argv=argv,
        processes=stage.processes,
        threads=shape.cpus,
        version=version,
        entry=entry,
    )


def executor(
    graph: Graph, stage: Stage, shape: Shape, cluster: Cluster, code: Path, after: tuple[str, ...]
) -> SlurmExecutor:
    """submitit's executor for the stage's job, which starts when those of `after` (job ids) have ended well."""
    python = " ".join(filter(None, (cluster.container, shlex.quote(cluster.python or sys.executable))))
    result = SlurmExecutor(folder=stage.folder / "jobs", max_num_timeout=cluster.max_timeouts, python=python)
    log = stage.folder / "jobs" / _LOG
    extra: dict[str, Any] = {"output": log, "error": log, "requeue": True, "kill-on-invalid-dep": "yes"}
    if after:
        extra["dependency"] = "afterok:" + ":".join(after)
    if shape.gpus:
        extra["gpus-per-node"] = f"{cluster.gpu_type}:{shape.gpus}" if cluster.gpu_type else shape.gpus
    if cluster.mem is not None:
        extra["mem"] = cluster.mem
    optional = {
        "partition": shape.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mail_user": cluster.mail_user,
        "mail_type": cluster.mail_type,
    }
    result.update_parameters(
        job_name=re.sub(r"[^\w.-]", "_", graph.name) + "/" + stage.name,
        comment=str(stage.folder),
        wckey=None,
        nodes=shape.nodes,
        ntasks_per_node=shape.tasks,
        cpus_per_task=shape.cpus,
        time=shape.minutes,
        signal_delay_s=cluster.signal_seconds,
        setup=_before(stage.folder, cluster, code, python),
        teardown=_after(stage.folder, python),
        # srun no longer takes -c from the job; without the second a lost rank leaves the others waiting for it.
        srun_args=[f"--cpus-per-task={shape.cpus}", "--kill-on-bad-exit=1", "--open-mode=append", *cluster.srun],
        additional_parameters=extra | dict(cluster.sbatch),
        **{key: value for key, value in optional.items() if value is not None},
    )
    return result


def script(chosen: SlurmExecutor) -> str:
    """The batch script that would be submitted."""
    return chosen._make_submission_file_text(chosen._submitit_command_str, "")


def submit(chosen: SlurmExecutor, work: Command) -> str:
    """Submit the job; returns its id. Raises submitit's FailedJobError where sbatch refuses."""
    return str(chosen.submit(work).job_id)


def _before(folder: Path, cluster: Cluster, code: Path, python: str) -> list[str]:
    where = shlex.quote(str(folder))
    return [
        "set -e",
        *cluster.setup,
        # The copy of the code comes first, and the folder of the launch, where the code may be another by then, not
        # at all.
        f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}" PYTHONSAFEPATH=1',
        f"{python} -m launch.batch begin {where}",
        "set +e",
        f'{{ {python} -m launch.watchdog {where}; [ $? = 4 ] && scancel "$SLURM_JOB_ID.0"; }} &',
        "watchdog=$!",
    ]


def _after(folder: Path, python: str) -> list[str]:
    where = shlex.quote(str(folder))
    exclude = f'{where}/jobs/"$SLURM_JOB_ID".exclude'
    return [
        "code=$?",
        "trap '' TERM  # comes when the job is queued again, before its new nodes are chosen",
        'kill "$watchdog"',
        f'{python} -m launch.batch end {where} "$code" "$SECONDS"',
        "verdict=$?",
        '[ "$verdict" = 3 ] || exit "$verdict"',
        '[ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ] || exit 130  # cancelled meanwhile',
        f'scontrol requeue "$SLURM_JOB_ID" || {{ {python} -m launch.batch refused {where}; exit 1; }}',
        f'[ ! -s {exclude} ] || scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$(cat {exclude})"',
    ]
