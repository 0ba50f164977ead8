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

import fnmatch
import hashlib
import heapq
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from laconvnet.launch.graph.expansion import REFERENCE, RESERVED, expand, filled, kind, values
from laconvnet.launch.graph.identity import Contents
from laconvnet.launch.job import task_folder
from laconvnet.pipeline.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
GRAPH_KEYS = ("name", "folder", "values", "stages")
STAGE_KEYS = (
    "run", "each", "array", "at_once", "processes", "threads", "minutes", "nodes", "gpus", "partition", "title",
    "needs", "show",
)  # fmt: skip
DAY_MINUTES = 24 * 60.0


@dataclass(frozen=True)
class Stage:
    """One `laconvnet` command line of the graph, resolved."""

    name: str
    title: str
    identity: str  # the first ten hexadecimal digits of the SHA-256 described above
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
    given: frozenset[str] = frozenset()  # the keys that the file has; the others hold this machine's defaults
    array: int | None = None  # the number of its tasks; None: it is one job
    at_once: int | None = None  # at most so many of them at the same time
    task: int | None = None  # which task of an array this is, from 0; None: the whole stage

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
    file = Path(file)
    raw = _load(file)
    problems: list[str] = []
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: got {kind(raw)}, expected a mapping with the keys {', '.join(GRAPH_KEYS)}")
    problems += [
        f"{file}: key {key!r} is unknown; expected one of {', '.join(GRAPH_KEYS)}"
        for key in raw
        if key not in GRAPH_KEYS
    ]
    for key in ("name", "folder"):
        if key in raw and not (isinstance(raw[key], str) and raw[key].strip()):
            problems.append(f"{file}: {key}: got {kind(raw[key])}, expected a text that is not empty")
    known = values(file, raw.get("values"), given or {}, problems)
    written = raw.get("folder")
    folder = out if out is not None else filled(written, known) if isinstance(written, str) else written
    if folder is None:
        problems.append(f"{file}: key 'folder' is missing; write it or give --out DIR")
    entries = raw.get("stages")
    if not isinstance(entries, dict) or not entries:
        problems.append(f"{file}: stages: got {kind(entries)}, expected a mapping of stage names to stages")
        entries = {}
    entries = expand(file, entries, known, problems)
    contents = Contents()
    specs = {name: _spec(file, name, entry, entries, contents, problems) for name, entry in entries.items()}
    order = _order(file, {name: spec["needs"] for name, spec in specs.items()}, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    root = Path(os.path.abspath(str(folder)))
    return Graph(str(raw.get("name", file.stem)), file, root, tuple(_resolve(order, specs, root)))


def _load(file: Path) -> Any:
    """The file with every scalar as the text that was written.

    YAML 1.1 would make `no` False, `010` eight, `1:30` ninety and `1e-4` a text: arguments of a command line must
    arrive as they stand. A key given twice is an error, not the last one.
    """
    import yaml

    base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml is ten times as fast

    class Text(base):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise ConfigError(f"{file}: line {key.start_mark.line + 1}: key {key.value!r} is given twice")
                if isinstance(key.value, str):
                    seen.add(key.value)
            return dict(super().construct_mapping(node, deep=True))

    return _parse(file, lambda text: yaml.load(text, Loader=Text))


def _parse(file: Path, load: Callable[[str], Any]) -> Any:
    import yaml

    try:
        return load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None


def _spec(
    file: Path, name: str, entry: Any, names: Mapping[str, Any], contents: Contents, problems: list[str]
) -> dict[str, Any]:
    """One entry of the file checked; what is wrong goes to `problems`, what is right is usable by the checks after."""
    where = f"{file}: stage {name!r}"
    spec: dict[str, Any] = {"run": (), "needs": (), "configs": {}, "title": "", "show": "", "processes": 1}
    spec |= {"threads": None, "minutes": DAY_MINUTES, "nodes": None, "gpus": 0, "partition": None, "given": entry}
    spec |= {"array": None, "at_once": None}
    if not NAME.fullmatch(name) or name in RESERVED:
        told = " and ".join(map(repr, RESERVED))
        problems.append(f"{where}: expected a name of letters, digits, '_', '.', '+', '-' other than {told}")
    if not isinstance(entry, dict):
        problems.append(f"{where}: got {kind(entry)}, expected a mapping with the key 'run'")
        return spec
    problems += [
        f"{where}: key {key!r} is unknown; expected one of {', '.join(STAGE_KEYS)}"
        for key in entry
        if key not in STAGE_KEYS
    ]
    run, needs = entry.get("run"), entry.get("needs", [])
    if "run" not in entry:
        problems.append(f"{where}: key 'run' is missing; expected the list of arguments after `laconvnet`")
    elif not isinstance(run, list) or not run:
        problems.append(f"{where}: run: got {kind(run)}, expected the list of arguments after `laconvnet`")
    elif not all(isinstance(part, str) for part in run):
        wrong = next(position for position, part in enumerate(run) if not isinstance(part, str))
        problems.append(f"{where}: run: argument {wrong + 1} is {kind(run[wrong])}, expected a text or a number")
    else:
        spec["run"] = tuple(run)
    if not isinstance(needs, list) or not all(isinstance(part, str) for part in needs):
        problems.append(f"{where}: needs: got {kind(needs)}, expected a list of stage names")
        needs = []
    needs = [ref for pattern in needs for ref in _fitting(pattern, name, names)]
    wanted = {ref: "run" for part in spec["run"] for ref in REFERENCE.findall(part) if ref not in RESERVED}
    wanted |= {ref: "needs" for ref in needs}
    for ref, key in wanted.items():
        if ref not in names:
            problems.append(f"{where}: {key}: {ref!r} is no stage; expected one of {', '.join(names)}, or here")
        elif ref == name:
            problems.append(f"{where}: {key}: the stage names itself; write {{here}} for its own folder")
    place = {other: position for position, other in enumerate(names)} if len(wanted) > 1 else {}
    spec["needs"] = tuple(sorted((o for o in wanted if o in names and o != name), key=lambda o: place.get(o, 0)))
    spec["order_only"] = tuple(dict.fromkeys(needs))
    for key in ("title", "show", "partition"):
        if key in entry and not isinstance(entry[key], str):
            problems.append(f"{where}: {key}: got {kind(entry[key])}, expected a text")
        else:
            spec[key] = entry.get(key, spec[key])
    wrong_show = [ref for ref in REFERENCE.findall(spec["show"]) if ref != "here"]
    if wrong_show:
        problems.append(
            f"{where}: show: {{{wrong_show[0]}}}: expected a file of the stage's own, as in {{here}}/end.txt"
        )
        spec["show"] = ""
    for key in ("array", "at_once", "processes", "threads", "nodes", "gpus"):
        if key in entry:
            spec[key] = _number(where, key, entry[key], int, problems)
    shared = any("task" in REFERENCE.findall(part) for part in spec["run"])
    if shared and not spec["array"]:
        problems.append(f"{where}: run: {{task}}: only a stage with array has tasks; give it one")
    if spec["run"] and spec["array"] and not shared:
        problems.append(f"{where}: array: each task would do the same; let run name its share by {{task}}")
    if spec["at_once"] and not spec["array"]:
        problems.append(f"{where}: at_once: limits the tasks of an array; give array, or leave it out")
    if "minutes" in entry:
        spec["minutes"] = _number(where, "minutes", entry["minutes"], float, problems)
    spec["configs"] = contents.of(where, spec["run"], problems)
    return spec


def _fitting(pattern: str, name: str, names: Iterable[str]) -> list[str]:
    """The stages, other than that of the name, whose names fit a pattern with *; else the name itself."""
    if "*" not in pattern:
        return [pattern]
    return [other for other in names if other != name and fnmatch.fnmatchcase(other, pattern)] or [pattern]


def _number(where: str, key: str, value: Any, number_type: type, problems: list[str]) -> Any:
    try:
        number = number_type(value)
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < float("inf"):
        what = "a whole number of at least 1" if number_type is int else "a number above 0"
        problems.append(f"{where}: {key}: got {kind(value)}, expected {what}")
        return 1
    return number


def _order(file: Path, needs: dict[str, tuple[str, ...]], problems: list[str]) -> list[str]:
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
        problems.append(f"{file}: stages need each other in a circle: {' -> '.join(cycle)}; expected none to do so")
    return order


def _resolve(order: Sequence[str], specs: dict[str, dict[str, Any]], root: Path) -> Iterable[Stage]:
    identities: dict[str, str] = {}
    shown: dict[str, str] = {}  # what stands for a reference in the identity of another stage
    folders: dict[str, str] = {}
    for name in order:
        spec = specs[name]
        content = [filled(part, shown) for part in spec["run"]]
        for position, config in spec["configs"].items():
            content[position] = f"--config={config}" if spec["run"][position].startswith("--config=") else config
        key = json.dumps([content, sorted(identities[need] for need in spec["order_only"])], ensure_ascii=False)
        identities[name] = hashlib.sha256(key.encode()).hexdigest()[:10]
        shown[name] = "{" + identities[name] + "}"
        folder = folders[name] = str(root / f"{name}-{identities[name]}")
        places = {**{need: folders[need] for need in spec["needs"]}, "here": folder}
        side_by_side = min(spec["array"] or 1, spec["at_once"] or cores(), cores())
        yield Stage(
            name=name,
            title=spec["title"],
            identity=identities[name],
            folder=Path(folder),
            argv=tuple(filled(part, places) for part in spec["run"]),
            needs=spec["needs"],
            processes=spec["processes"],
            threads=spec["threads"] or max(1, cores() // (spec["processes"] * side_by_side)),
            minutes=spec["minutes"],
            show=Path(filled(spec["show"], places)) if spec["show"] else None,
            nodes=spec["nodes"],
            gpus=spec["gpus"],
            partition=spec["partition"],
            given=frozenset(spec["given"]),
            array=spec["array"],
            at_once=spec["at_once"],
        )
