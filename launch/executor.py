"""Run a stage graph: what is done is found done, the rest runs as jobs: here, as many at once as the cores allow, or on
SLURM, all of them submitted at once behind those they need.

Which stages a launch takes, and how:

    (nothing)   every stage that is not done
    only S      just S; its inputs must be done, or on SLURM in the queue
    needs       with only: also what S needs, directly or not, and is not done
    from_ S     S and everything that needs it, done or not; inputs from outside as above. They run again in their
                folders: what finds its work there goes on from it
    force       the stages taken (all of them, or those of only / from_) start from nothing, done or not: their folders
                are set aside as <out>/replaced/<stage>-<hash>.<n>, nothing is deleted

Of an array the tasks that are not done are run, with from_ and force all of them.

A stage that fails keeps those that need it from starting; everything else goes on, and the exit code is 1. The same
command again runs what is not done. Exit codes: 0 all is done, 1 a stage failed, 130 interrupted; what the user has to
mend is a ConfigError (exit code 2 of the command line).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from laconvnet.files import find_object, publish_json
from laconvnet.launch.graph import stages as graphs
from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.job import command_line
from laconvnet.launch.local.screen import Screen
from laconvnet.launch.outcomes import is_done, settle
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.layout import GRAPH, LOCK
from laconvnet.terminal import complain, say

if TYPE_CHECKING:
    from laconvnet.launch.slurm.cluster import Cluster


def launch(
    file: str | Path,
    line: argparse.ArgumentParser,
    cluster: str = "local",
    out: str | Path | None = None,
    dry_run: bool = False,
    only: str | None = None,
    from_: str | None = None,
    force: bool = False,
    given: Mapping[str, str] | None = None,
    needs: bool = False,
    as_json: bool = False,
) -> int:
    """Run the stages of `file` under `out` (default: the file's `folder`) and return the exit code.

    `cluster` is local, for this machine, or a site's file (`launch.slurm.cluster`): then all stages are submitted to
    SLURM and this returns. `given` are texts to put in place of the file's `values` of these names. `line`, the
    parser of `laconvnet`, checks the stages' command lines. What is going on is told on standard error; `dry_run`
    prints to standard output what would run (on SLURM, the batch scripts) and touches nothing; what the stages would
    read and is not there is told at the end, as an error. `as_json` prints an object a stage: what would run, or the
    rows of `launch.status` of what has run or was submitted.
    Raises ConfigError for a wrong file or selection, and where another launch works in the same folder.
    """
    if cluster != "local":
        graph, site = _read_both(file, out, given, cluster)
    else:
        graph, site = graphs.read(file, out, given), None
    if not dry_run:
        for stage in graph.stages:
            if stage.array is not None:
                settle(stage.folder, stage.array, stage.fingerprint)
    again = force or from_ is not None
    if site is not None:
        return _launch_on_slurm(graph, site, cluster, only, from_, dry_run, force, again, line, needs, as_json)
    taken = select(graph, only, from_, force, needs=needs)
    from laconvnet.launch import precheck  # brings submitit, which nothing above needs

    problems, missing = precheck.commands(graph, taken, line), precheck.missing(graph, taken)
    if problems or (missing and not dry_run):
        raise ConfigError("\n".join(problems + missing))
    if dry_run:
        say("\n".join(map(json.dumps, described(graph, taken))) if as_json else describe(graph, taken))
        return _told(missing)
    from laconvnet.launch.local.scheduler import run

    graph.folder.mkdir(parents=True, exist_ok=True)
    with lock(graph.folder):
        _write_graph(graph, taken, cluster)
        code = run(graph, taken, Screen(sys.stderr), force, again)
    return _ended(graph, code, as_json)


def _ended(graph: Graph, code: int, as_json: bool) -> int:
    """The exit code; the graph's rows are printed for programs."""
    if as_json:
        from laconvnet.launch.status import show

        show(graph.folder, as_json=True)
    return code


def _read_both(
    file: str | Path, out: str | Path | None, given: Mapping[str, str] | None, cluster: str
) -> tuple[Graph, Cluster]:
    """The stages and the site. Raises ConfigError with what is wrong with either."""
    from laconvnet.launch.slurm.cluster import read

    problems = []
    try:
        graph = graphs.read(file, out, given)
    except ConfigError as error:
        problems.append(str(error))
    try:
        site = read(cluster)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return graph, site


def _launch_on_slurm(
    graph: Graph,
    site: Cluster,
    name: str,
    only: str | None,
    from_: str | None,
    dry_run: bool,
    force: bool,
    again: bool,
    line: argparse.ArgumentParser,
    needs: bool,
    as_json: bool,
) -> int:
    from laconvnet.launch import precheck
    from laconvnet.launch.slurm import queue, submission  # brings submitit

    def waiting() -> Collection[str]:
        try:
            return submission.waiting(graph)
        except queue.SlurmError:
            if dry_run:  # needs no SLURM
                return ()
            raise

    taken = select(graph, only, from_, force, waiting, needs)
    for remark in submission.remarks(taken, site):
        complain(f"laconvnet: {remark}")
    if dry_run:
        scripts = submission.dry_run(graph, taken, site, again, line)
        if as_json:
            rows = (row | {"script": scripts.get(str(row["stage"]))} for row in described(graph, taken))
            say("\n".join(map(json.dumps, rows)))
        else:
            say("\n".join(f"### {name}\n{script}\n" for name, script in scripts.items()), end="")
        return _told(precheck.missing(graph, taken))
    shaped = submission.check(graph, taken, site, line)
    graph.folder.mkdir(parents=True, exist_ok=True)
    with lock(graph.folder):
        submission.submit(graph, taken, shaped, site, Screen(sys.stderr), force, again)
        _write_graph(graph, taken, name)
    return _ended(graph, 0, as_json)


def _told(missing: list[str]) -> int:
    """The exit code of a dry run. Raises ConfigError where a launch would not find what it reads."""
    if missing:
        raise ConfigError("\n".join(missing))
    return 0


def select(
    graph: Graph,
    only: str | None = None,
    from_: str | None = None,
    force: bool = False,
    waiting: Callable[[], Collection[str]] | None = None,
    needs: bool = False,
) -> list[Stage]:
    """The stages to run, in order; `waiting` tells those in a queue, which may be needed as if they were done.

    With `needs` also those that `only` needs. Raises ConfigError for an unknown name, or inputs that are neither done
    nor in the queue.
    """
    if only is not None and from_ is not None:
        raise ConfigError(f"only {only!r} and from {from_!r} were both given; expected one of them")
    if needs and only is None:
        raise ConfigError("--with-needs: expected --only S too, the stage whose needs are meant")
    if only is not None and needs:
        return [one for one in graph.before(only) if force or not is_done(one.folder, one.fingerprint)]
    if only is not None:
        chosen = graph.stage(only)
        taken = [chosen] if force or not is_done(chosen.folder, chosen.fingerprint) else []
    elif from_ is not None:
        taken = list(graph.after(from_))
    else:
        return [stage for stage in graph.stages if force or not is_done(stage.folder, stage.fingerprint)]
    names = {stage.name for stage in taken}
    inputs = dict.fromkeys(name for stage in taken for name in stage.needs if name not in names)
    queued: Collection[str] = ()
    if waiting is not None and any(not is_done(stage.folder, stage.fingerprint) for stage in map(graph.stage, inputs)):
        queued = waiting()  # before the files are read: a job leaves the queue after its marker is there
    missing = [
        stage.name
        for stage in map(graph.stage, inputs)
        if stage.name not in queued and not is_done(stage.folder, stage.fingerprint)
    ]
    if missing:
        what = "not done" if waiting is None else "neither done nor in the queue"
        raise ConfigError(
            f"{graph.file}: stage {only or from_!r} reads from stages that are {what}: "
            f"{', '.join(missing)}; run them first, {'with --with-needs' if only else 'or the whole graph'}"
        )
    return taken


def describe(graph: Graph, taken: list[Stage]) -> str:
    """What a launch would do: a paragraph a stage, its command as one would type it."""
    names = {stage.name for stage in taken}
    lines = [f"{graph.name}: {len(taken)} of {len(graph.stages)} stages would run under {graph.folder}"]
    for number, stage in enumerate(graph.stages, 1):
        state = (
            "would run" if stage.name in names else "done" if is_done(stage.folder, stage.fingerprint) else "not taken"
        )
        lines.append(
            f"\n[{number}/{len(graph.stages)}] {stage.name}: {state}" + (f"  {stage.title}" if stage.title else "")
        )
        lines.append(f"    folder     {stage.folder}")
        lines.append(f"    needs      {', '.join(stage.needs) or '-'}")
        lines.append(
            f"    processes  {stage.processes}, {stage.threads} threads each, at most {stage.minutes:g} minutes"
        )
        if stage.array is not None:
            limit = f", at most {stage.at_once} at once" if stage.at_once else ""
            lines.append(f"    array      {stage.array} tasks{limit}")
        lines.append(f"    command    {command_line(stage.argv)}")
    return "\n".join(lines)


def described(graph: Graph, taken: list[Stage]) -> list[dict[str, object]]:
    """The same for programs, an object a stage."""
    names = {stage.name for stage in taken}
    return [
        {
            "stage": stage.name,
            "would_run": stage.name in names,
            "done": is_done(stage.folder, stage.fingerprint),
            "folder": str(stage.folder),
            "needs": list(stage.needs),
            "processes": stage.processes,
            "array": stage.array,
            "command": command_line(stage.argv),
        }
        for stage in graph.stages
    ]


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Be the only launch of this folder. Raises ConfigError naming who is; a killed launch holds nothing."""
    with (folder / LOCK).open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = find_object(folder / LOCK) or {}
            raise ConfigError(
                f"{folder}: process {who.get('pid', '?')} on {who.get('host', '?')} is launching in this folder; "
                "wait for it, interrupt it, or give another --out"
            ) from None
        stream.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}, stream)
        stream.flush()
        yield


def _write_graph(graph: Graph, taken: list[Stage], cluster: str) -> None:
    stages = [
        {
            "name": stage.name,
            "title": stage.title,
            "identity": stage.fingerprint,
            "folder": stage.folder.name,
            "needs": list(stage.needs),
            "processes": stage.processes,
            "threads": stage.threads,
            "minutes": stage.minutes,
            "array": stage.array,
            "command": command_line(stage.argv),
        }
        for stage in graph.stages
    ]
    record = {"version": 1, "name": graph.name, "file": str(graph.file.absolute()), "cluster": cluster}
    publish_json(graph.folder / GRAPH, record | {"selected": [stage.name for stage in taken], "stages": stages})
