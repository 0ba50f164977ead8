"""The stage graph: one YAML file in, stages in the order they can run out, each named by what it will compute.

    name: demo
    folder: runs/demo            # where the stage folders go unless --out says otherwise; from the current folder
    values: {pictures: 8000}     # what `launch --set pictures=100` may change, see `launch.graph.expansion`
    stages:
      raw:
        run: [shards, generate, --out, "{here}/raw", --pictures, "{pictures}"]
      pretrain:
        run: [train, --config, configs/demo/pretrain.yaml, --run, "{here}", --data.folder, "{raw}/shards"]
        processes: 2             # tasks of the stage = ranks
        threads: 1               # OpenMP threads of each process; default: cores / processes
        minutes: 30              # time limit; default: 24 hours, or what the cluster's file says
        nodes: 2                 # on a cluster: over so many nodes; default: as few as its GPUs allow
        gpus: 1                  # on a cluster: GPUs of each process; default: none
        partition: long          # on a cluster: another partition than that of the cluster's file
        profile: long            # on a cluster: which of the file's profiles; default: gpu with GPUs, else cpu
        site: {mem: 100G}        # on a cluster: further keys of a profile, as they are for this stage
        restarts: 3              # lost processes start again inside the job, so often in a row without a new step;
                                 # default: 3 for `train`, 0 (the job ends) for other commands
        title: "Pretraining"     # for what is printed
        needs: [raw]             # dependencies that no argument names; "eval-*" is every stage whose name fits
        show: "{here}/end.txt"   # a text that the stage writes, printed when the graph has ended well
      shares:
        run: [shards, build, refcoco, --root, "{raw}/raw/refer", --out, "{here}/refcoco", --task, "{task}"]
        array: 64                # so many jobs of their own, each told "{task}": 1/64, 2/64, ... 64/64
        at_once: 8               # at most so many of them at the same time; default: what the cluster's file says

`{here}` is the stage's own folder, `{other}` the folder of another stage, which is thereby a dependency.

An array has done its work when all its tasks have. Each has its own place `array-64/I` in the stage's folder, with
DONE.json, logs and history as a stage has them; I counts from 0 as SLURM does.

The identity of a stage says what is computed, not where or how fast: it covers the arguments (references replaced by
the identities of the stages they name), the content of every `--config` file and the identities of `needs`. The number
of processes is NOT part of it: the order of samples and every schedule are functions of the step whatever the world
size, so a run may go on with another number of ranks in the same folder. Nor is the number of an array's tasks:
`{task}` stays as it is written, for shards have the same bytes in any number of shares. (Where a result does depend on
it, let an argument say the number.) Threads, time limit, title and what is asked of a cluster are not part of it
either, nor is the version of the code (`DONE.json` records that).
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from laconvnet.launch.graph.references import filled
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.layout import task_folder
from laconvnet.terminal import one_line

if TYPE_CHECKING:
    from laconvnet.launch.graph.entries import Spec
    from laconvnet.launch.graph.faults import Faults
    from laconvnet.launch.profile import Profile

_RESTARTS = {"train": 3}  # a command that goes on from its newest step


@dataclass(frozen=True)
class Stage:
    """One `laconvnet` command line of the graph, resolved."""

    name: str
    title: str
    fingerprint: str  # the first ten hexadecimal digits of the SHA-256 described above
    folder: Path  # <out>/<name>-<identity>, absolute
    argv: tuple[str, ...]  # arguments after the program's name, folders filled in
    needs: tuple[str, ...]  # names of the stages whose results it reads, in file order
    processes: int
    threads: int
    minutes: float
    show: Path | None = None  # what it wrote for people to read
    nodes: int | None = None  # None: as few as the processes' GPUs allow
    gpus: int = 0  # of each process
    partition: str | None = None
    profile: str | None = None
    site: Profile | None = None  # what it asks of a cluster in place of what the cluster's file says
    given: frozenset[str] = frozenset()  # the keys that the file has; the others hold this machine's defaults
    array: int | None = None  # the number of its tasks; None: it is one job
    at_once: int | None = None  # at most so many of them at the same time
    task: int | None = None  # which task of an array this is, from 0; None: the whole stage
    restarts: int = 0  # so often in a row its processes are started again inside the job; 0: nobody watches them

    @property
    def cores(self) -> int:
        return self.processes * self.threads

    @property
    def label(self) -> str:
        """The name; that of a task says which one it is."""
        return self.name if self.task is None else f"{self.name} task {self.task}"

    @cached_property
    def jobs(self) -> tuple[Stage, ...]:
        """What is started as one job: the stage itself, or each task of an array in a folder of its own."""
        return (self,) if self.array is None else tuple(map(self.job, range(self.array)))

    def job(self, task: int) -> Stage:
        """One task of an array."""
        assert self.array is not None
        argv = tuple(filled(part, {"task": f"{task + 1}/{self.array}"}) for part in self.argv)
        return replace(self, task=task, folder=task_folder(self.folder, self.array, task), argv=argv)


@dataclass(frozen=True)
class Graph:
    """The stages of one file in an order in which they can run (file order among equals)."""

    name: str
    file: Path
    folder: Path
    stages: tuple[Stage, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Stage]:
        return {stage.name: stage for stage in self.stages}

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises ConfigError naming those there are."""
        if name not in self.by_name:
            raise ConfigError(f"{self.file}: stage {name!r} is unknown; expected one of {', '.join(self.by_name)}")
        return self.by_name[name]

    def after(self, name: str) -> tuple[Stage, ...]:
        """The stage and everything that needs it, directly or not, in order."""
        found = {self.stage(name).name}
        for stage in self.stages:  # one pass is enough: the order is topological
            if found.intersection(stage.needs):
                found.add(stage.name)
        return tuple(stage for stage in self.stages if stage.name in found)

    def before(self, name: str) -> tuple[Stage, ...]:
        """The stage and everything that it needs, directly or not, in order."""
        found = {self.stage(name).name}
        for stage in reversed(self.stages):
            if stage.name in found:
                found.update(stage.needs)
        return tuple(stage for stage in self.stages if stage.name in found)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(file: str | Path, out: str | Path | None = None) -> list[Stage]:
    """The stages of `file` in the order they can run, their folders under `out` (default: the file's `folder`).

    Raises ConfigError with one line for each thing wrong with the file.
    """
    return list(read(file, out).stages)


def read(file: str | Path, out: str | Path | None = None, given: Mapping[str, str] | None = None) -> Graph:
    """Read and resolve a stages file, with those of its `values` that are given in place of the written ones.

    Raises ConfigError with one line for each thing wrong with it.
    """
    # What knows a stage need not know how one is written: and the libraries that check it take their time to import.
    from laconvnet.launch.graph.entries import File, check
    from laconvnet.launch.graph.expansion import expand, values
    from laconvnet.launch.graph.faults import Faults
    from laconvnet.launch.graph.fingerprint import Contents
    from laconvnet.pipeline import yaml_files

    document = yaml_files.read(Path(file), as_text=True)
    faults = Faults(document)
    top = faults.check(File, document.value, required=("stages",))
    if not isinstance(document.value, dict):
        faults.end()
    known = values(document.value.get("values"), given or {}, faults)
    folder = out if out is not None else top.folder and filled(top.folder, known)
    if folder is None and "folder" not in document.value:
        faults.add("key 'folder' is missing; write it or give --out DIR")
    entries = expand(top.stages, known, faults)
    contents = Contents()
    specs = {name: check(name, entries, contents, faults) for name in entries}
    order = _order({name: spec.needs for name, spec in specs.items()}, faults)
    root = Path(os.path.abspath(os.path.expanduser(str(folder))))
    if one_line(str(root)) != str(root):
        # Batch scripts name it in bash and in #SBATCH lines, squeue gives it back as a field of a line.
        key = "--out" if out is not None else "folder"
        faults.add(f"{key}: got {str(root)!r}, expected a path without line breaks and control characters", ("folder",))
    faults.end()
    name = document.file.stem if top.name is None else top.name
    return Graph(name, document.file, root, tuple(_resolve(order, specs, root)))


def _order(needs: Mapping[str, tuple[str, ...]], faults: Faults) -> list[str]:
    """Names so that each comes after those it needs, file order among equals; a cycle is a problem that names it."""
    place = {name: position for position, name in enumerate(needs)}
    after: dict[str, list[str]] = {name: [] for name in needs}
    missing = {name: len(inputs) for name, inputs in needs.items()}
    for name, inputs in needs.items():
        for other in inputs:
            after[other].append(name)
    ready = [place[name] for name, count in missing.items() if not count]
    names = list(needs)
    order: list[str] = []
    while ready:  # a heap: the first in the file comes first
        name = names[heapq.heappop(ready)]
        order.append(name)
        for other in after[name]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, place[other])
    waiting = {name: needs[name] for name, count in missing.items() if count}
    if waiting:
        walk = [next(iter(waiting))]  # every stage left waits for one left: following that leads into the cycle
        while walk.count(walk[-1]) == 1:
            walk.append(next(i for i in waiting[walk[-1]] if i in waiting))
        cycle = walk[walk.index(walk[-1]) :]
        faults.add(f"stages need each other in a circle: {' -> '.join(cycle)}; expected none to do so")
    return order


def _resolve(order: Sequence[str], specs: Mapping[str, Spec], root: Path) -> Iterable[Stage]:
    fingerprints: dict[str, str] = {}
    shown: dict[str, str] = {}  # what stands for a reference in the identity of another stage
    folders: dict[str, str] = {}
    for name in order:
        spec, entry = specs[name], specs[name].entry
        content = [filled(part, shown) for part in entry.run]
        for position, config in spec.configs.items():
            content[position] = f"--config={config}" if entry.run[position].startswith("--config=") else config
        key = json.dumps([content, sorted(fingerprints[need] for need in spec.order_only)], ensure_ascii=False)
        fingerprints[name] = hashlib.sha256(key.encode()).hexdigest()[:10]
        shown[name] = "{" + fingerprints[name] + "}"
        folder = folders[name] = str(root / f"{name}-{fingerprints[name]}")
        places = {**{need: folders[need] for need in spec.needs}, "here": folder}
        side_by_side = min(entry.array or 1, entry.at_once or cores(), cores())
        yield Stage(
            name=name,
            title=entry.title,
            fingerprint=fingerprints[name],
            folder=Path(folder),
            argv=tuple(filled(part, places) for part in entry.run),
            needs=spec.needs,
            processes=entry.processes,
            threads=entry.threads or max(1, cores() // (entry.processes * side_by_side)),
            minutes=entry.minutes,
            show=Path(filled(entry.show, places)) if entry.show else None,
            nodes=entry.nodes,
            gpus=entry.gpus,
            partition=entry.partition,
            profile=entry.profile,
            site=spec.site,
            given=spec.given,
            array=entry.array,
            at_once=entry.at_once,
            restarts=entry.restarts if entry.restarts is not None else _RESTARTS.get(entry.run[0], 0),
        )
