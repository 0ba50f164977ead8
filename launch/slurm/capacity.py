"""What a launch asks for against what there is: room in the file system, nodes, cores, GPUs and hours of partitions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.slurm import queue, sbatch
from laconvnet.launch.slurm.cluster import OF_GPU_NODES, OPTIONS_OF_GPU_NODES, Cluster
from laconvnet.pipeline.errors import ConfigError

FREE_BYTES = 1 << 30


def shapes(
    graph: Graph, taken: Sequence[Stage], cluster: Cluster
) -> tuple[dict[str, sbatch.ResourceRequest], list[str]]:
    """What each stage asks of the cluster, and what is wrong with it."""
    found, problems = {}, []
    for stage in taken:
        try:
            found[stage.name] = sbatch.ResourceRequest.of(stage, cluster)
        except ValueError as error:
            problems.append(f"{graph.file}: stage {stage.name!r}: {error}")
    return found, problems


def folders(graph: Graph) -> list[str]:
    """Whether the stages can be written where they should be."""
    if "%" in str(graph.folder):
        return [f"{graph.folder}: sbatch reads % in a file name as a pattern; give another --out"]
    place = graph.folder
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
        return [f"{graph.folder}: {place} is not a folder that this user may write to; give another --out"]
    free = shutil.disk_usage(place).free
    if free < FREE_BYTES:
        return [f"{graph.folder}: {free / 2**20:,.0f} MiB are free there, expected at least {FREE_BYTES >> 20:,} MiB"]
    return []


def arrays(graph: Graph, taken: Sequence[Stage], cluster: Cluster) -> list[str]:
    """Whether the site takes arrays of so many tasks; SLURM is asked where it answers."""
    limits = {"MaxArraySize": queue.most_tasks(), "max_array": cluster.max_array}
    told = {name: limit for name, limit in limits.items() if limit is not None}
    name = min(told, key=told.__getitem__, default="")
    problems = []
    for stage in taken:
        if stage.array is not None and told and stage.array > told[name]:
            where = f"{graph.file}: stage {stage.name!r}: array: got {stage.array}"
            remedy = f"write array: {told[name]} or less, so that each task does a larger share"
            problems.append(f"{where}, but the site takes {told[name]} ({name}); {remedy}")
    return problems


def room_in_queue(graph: Graph, new: Mapping[str, Sequence[Stage]], waiting: int, cluster: Cluster) -> None:
    """Raises ConfigError where a user may not have so many jobs in the queue; `waiting` are those there are."""
    count = sum(map(len, new.values()))
    limits = {queue.most_jobs(site.account, site.qos) for site in (cluster.fitted(graph.stage(name)) for name in new)}
    limit = min((one for one in limits if one is not None), default=None)
    if limit is not None and count + waiting > limit:
        asked = f"{count} jobs would be submitted and {waiting} of yours are in the queue"
        remedy = "write fewer tasks (array: N), or launch one stage after the other (--only S)"
        raise ConfigError(f"{graph.file}: {asked}, but the site takes {limit} (MaxSubmitJobs); {remedy}")


def of_gpu_nodes(taken: Sequence[Stage], cluster: Cluster) -> str | None:
    """What to write in the cluster's file where stages without GPUs ask for what it says of nodes with GPUs."""
    asked = [f"{key} {value}" for key in OF_GPU_NODES if (value := getattr(cluster, key)) is not None]
    asked += [key for key in OPTIONS_OF_GPU_NODES if cluster.sbatch.get(key)]
    count = sum(not stage.gpus and stage.profile is None for stage in taken)
    if not (count and asked and cluster.gpus_per_node) or "cpu" in cluster.profiles:
        return None
    return (
        f"{count} stages without GPUs ask for {', '.join(asked)}; where nodes without GPUs would do, write "
        "profiles: {cpu: {partition: NAME}} in the cluster's file"
    )


def resources(
    graph: Graph, taken: Sequence[Stage], shaped: dict[str, sbatch.ResourceRequest], cluster: Cluster
) -> list[str]:
    """Whether the partitions exist and have such nodes."""
    offered = queue.partitions()
    names = ", ".join(sorted(filter(None, offered)))
    problems = []
    for stage in taken:
        shape = shaped[stage.name]
        where = f"{graph.file}: stage {stage.name!r}"
        partition = offered.get(shape.partition or "")
        if partition is None:
            got = f"partition: got {shape.partition!r}" if shape.partition else "partition: the site has no default one"
            problems.append(f"{where}: {got}, expected one of {names}")
            continue
        at = f"partition {shape.partition}" if shape.partition else "the default partition"
        if shape.nodes > partition.nodes:
            problems.append(f"{where}: nodes: {shape.nodes}, but {at} has {partition.nodes}")
        if shape.tasks * shape.cpus > partition.cores:
            problems.append(
                f"{where}: {shape.tasks} processes a node of {shape.cpus} cores each, but the nodes of "
                f"{at} have {partition.cores} cores; ask for more nodes, or fewer threads or cpus_per_task"
            )
        if shape.minutes > partition.minutes:
            problems.append(
                f"{where}: minutes: {shape.minutes}, but {at} allows {partition.minutes:g}; "
                "a stage that reaches its limit goes on by itself, so ask for less"
            )
        gpu_type = cluster.fitted(stage).gpu_type
        kinds = {gpu_type: partition.gpus.get(gpu_type, 0)} if gpu_type else partition.gpus
        if shape.gpus > max(kinds.values(), default=0):
            shown = ", ".join(f"{kind + ' ' if kind else ''}x {count}" for kind, count in partition.gpus.items())
            wanted = f"{gpu_type + ' ' if gpu_type else ''}x {shape.gpus}"
            problems.append(f"{where}: GPUs a node: {wanted}, but {at} has {shown or 'none'}")
    return problems
