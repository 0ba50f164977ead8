"""What a launch asks for against what there is: room in the file system, nodes, cores, GPUs and hours of partitions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.slurm import queue, sbatch
from laconvnet.launch.slurm.cluster import Cluster

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
        kinds = {cluster.gpu_type: partition.gpus.get(cluster.gpu_type, 0)} if cluster.gpu_type else partition.gpus
        if shape.gpus > max(kinds.values(), default=0):
            shown = ", ".join(f"{kind + ' ' if kind else ''}x {count}" for kind, count in partition.gpus.items())
            wanted = f"{cluster.gpu_type + ' ' if cluster.gpu_type else ''}x {shape.gpus}"
            problems.append(f"{where}: GPUs a node: {wanted}, but {at} has {shown or 'none'}")
    return problems
