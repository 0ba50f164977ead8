"""What can be known to go wrong before anything is submitted: one line a problem, all of them at once."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.job import ENTRY
from laconvnet.launch.slurm import queue, sbatch
from laconvnet.launch.slurm.cluster import Cluster
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.errors import InputError

if TYPE_CHECKING:
    from laconvnet.pipeline.config import TrainConfig

FREE_BYTES = 1 << 30
# Options of laconvnet whose values are read: they must be there, unless an earlier stage writes them.
INPUTS = ("--root", "--images", "--data", "--data.folder", "--init_from", "--inputs", "--exclude", "--against")


def shapes(graph: Graph, taken: Sequence[Stage], cluster: Cluster) -> tuple[dict[str, sbatch.Shape], list[str]]:
    """What each stage asks of the cluster, and what is wrong with it."""
    found, problems = {}, []
    for stage in taken:
        try:
            found[stage.name] = sbatch.Shape.of(stage, cluster)
        except ValueError as error:
            problems.append(f"{graph.file}: stage {stage.name!r}: {error}")
    return found, problems


def folders(graph: Graph) -> list[str]:
    """Whether the stages can be written where they should be."""
    if "%" in str(graph.folder) or "\n" in str(graph.folder):
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


def commands(graph: Graph, taken: Iterable[Stage], entry: str) -> list[str]:
    """Whether each stage's command line parses, its configuration loads, its inputs exist, its batch divides."""
    if entry != ENTRY:
        return []
    from laconvnet.launch.cli import parser  # knows the commands, which know the stages

    line, known = parser(), Loaded()
    problems = []
    for stage in taken:
        problems += [f"{graph.file}: stage {stage.name!r}: {told}" for told in _command(line, known, graph, stage)]
    return problems


class Loaded:
    """Training configurations, those that differ in the folders that they read from loaded once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], TrainConfig | ConfigError | InputError] = {}

    def load(self, file: Path | None, keys: Sequence[str]) -> TrainConfig:
        """Raises ConfigError or InputError, as `pipeline.config.load` does."""
        from laconvnet.pipeline import config

        folders = {value for option, value in _inputs(keys)}
        key = (str(file), *(part for part in keys if part not in folders))
        if key not in self._known:
            try:
                self._known[key] = config.load(file, keys)
            except (ConfigError, InputError) as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, Exception):
            raise found
        return found


def resources(graph: Graph, taken: Sequence[Stage], shaped: dict[str, sbatch.Shape], cluster: Cluster) -> list[str]:
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


def scripts(graph: Graph, taken: Iterable[Stage], script: Callable[[Stage], str]) -> list[str]:
    """What sbatch itself would refuse: accounts, limits, flags. Scripts that differ in names only are asked once."""
    problems = []
    asked: dict[tuple[str, ...], str | None] = {}
    for stage in taken:
        text = script(stage)
        own = ("#SBATCH --comment", "#SBATCH --error", "#SBATCH --output", "#SBATCH --job-name")
        key = tuple(line for line in text.splitlines() if line.startswith("#SBATCH") and not line.startswith(own))
        if key not in asked:
            try:
                queue.run(["sbatch", "--test-only"], text)
                asked[key] = None
            except queue.SlurmError as error:
                asked[key] = str(error)
        if asked[key] is not None:
            problems.append(f"{graph.file}: stage {stage.name!r}: {asked[key]}")
    return problems


def _command(line: argparse.ArgumentParser, known: Loaded, graph: Graph, stage: Stage) -> list[str]:
    said = io.StringIO()
    argv = stage.argv if stage.array is None else stage.job(0).argv
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            arguments, rest = line.parse_known_args(argv)
    except SystemExit:
        last = said.getvalue().strip().splitlines()
        return [f"run: {last[-1] if last else 'expected a command that does something'}"]
    if rest and not getattr(arguments, "takes_keys", False):
        return [f"run: unknown argument {rest[0]!r}; see `laconvnet {stage.argv[0]} --help`"]
    problems = [
        f"run: {option} {value}: no such file or folder here, and no stage of this graph writes it"
        for option, value in _inputs(stage.argv)
        if not (Path(value).exists() or Path(value).is_relative_to(graph.folder))
    ]
    if stage.argv[0] == "train":
        problems += _training(known, stage, arguments.config, rest)
    return problems


def _training(known: Loaded, stage: Stage, file: Path | None, keys: Sequence[str]) -> list[str]:
    if file is not None and not file.exists():
        return []  # a stage writes it
    try:
        loaded = known.load(file, keys)
    except (ConfigError, InputError) as error:
        return [str(error)]
    if loaded.data.batch % stage.processes:
        return [
            f"processes: got {stage.processes}, among which data.batch {loaded.data.batch} does not divide; choose one "
            "that does"
        ]
    return []


def _inputs(argv: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Options that name something to read, and what they name."""
    option = None
    for part in argv:
        if part.startswith("--"):
            option, equals, value = part.partition("=")
            option = option if option in INPUTS else None
            if option and equals:
                yield option, value
        elif option is not None:
            name, equals, weight = part.rpartition("=")
            yield option, name if option == "--inputs" and equals and weight else part
            if option not in ("--inputs", "--exclude", "--against"):
                option = None
