"""`laconvnet logs` and `laconvnet cancel`: what a stage says, and how to end it, here and on SLURM."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laconvnet.files import find_object
from laconvnet.launch.outcomes import CANCELLED, is_done, record_failure
from laconvnet.launch.slurm import queue
from laconvnet.launch.status import holder, on_slurm, places
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.layout import ENDS, FAILED, GRAPH, JOB, batch_log, rank_log, task_folder
from laconvnet.terminal import complain, say

FOLLOW_SECONDS = 1.0


def logs(
    root: Path,
    stage: str,
    rank: int | None = None,
    follow: bool = False,
    task: int | None = None,
    as_json: bool = False,
) -> int:
    """Print what a stage's newest job has written: every rank's standard error and output, or that of one rank.

    Of an array that of all tasks, or of one. With `follow`, what is written from then on too, until the stage has
    ended. `as_json` prints an object a line. Raises ConfigError where there is none.
    """
    jobs = {place: job for place in _places(root, stage, task) if (job := find_object(place / JOB)) is not None}
    if not jobs:
        raise ConfigError(
            f"{root}: stage {stage!r} was not started yet; `laconvnet status {root}` tells what it waits for"
        )
    shown: dict[Path, int] = {}
    while True:
        ended = not follow or all(any((place / name).exists() for name in ENDS) for place in jobs)
        files = [file for place, job in jobs.items() for file in _files(place, job, rank)]
        if not files and ended:
            processes = next(iter(jobs.values()))["processes"]
            what = "its job" if rank is None else f"rank {rank} (of {processes})"
            raise ConfigError(f"{root}: stage {stage!r}: {what} has written nothing yet; --follow waits for it")
        for file in files:
            _copy_new(file, shown, len(files) > 1, as_json)
        if ended:
            return 0
        time.sleep(FOLLOW_SECONDS)


def cancel(root: Path, name: str | None = None, as_json: bool = False) -> int:
    """End the jobs of a launched graph, or of one stage. What they have saved stays: the same launch goes on.

    `as_json` prints an object with what was ended: stage and job, or None and the process of the launch.
    """
    graph = _graph(root)
    chosen = graph["stages"] if name is None else [_stage(root, name)[1]]
    launcher = holder(root)
    if name is None and launcher is not None:
        _end_process(launcher.get("pid"), launcher.get("host"), f"the launch of {root}")
        complain(f"{graph['name']}: told the launch to stop")
        if as_json:
            say(json.dumps({"cancelled": [{"stage": None, "job": launcher.get("pid")}]}))
        return 0
    ended: list[tuple[str, str, str]] = []  # stage, what its job is, which
    on_cluster = []
    for one, folder in ((stage, place) for stage in chosen for place in places(root, stage)):
        job = find_object(folder / JOB)
        if job is None or is_done(folder, one["identity"]) or (folder / FAILED).exists():
            continue
        if on_slurm(job):
            on_cluster.append((one["name"], job["id"]))
        elif launcher is not None:
            facts = {"stage": one["name"], "identity": one["identity"], "job": job["id"], "host": job["host"]}
            log = rank_log(folder, job["id"], 0)
            record_failure(folder, log, facts | {"reason": CANCELLED, "tail": []}, first=True)
            _end_process(job["pid"], job["host"], f"the job of stage {one['name']!r}")
            ended.append((one["name"], "process", str(job["pid"])))
    if on_cluster:
        waiting = {job.id: job.array for job in queue.queued()}
        found = dict.fromkeys((name, waiting[job]) for name, job in on_cluster if job in waiting)
        if found:
            # The last stages first: SLURM would else note them as impossible one by one.
            queue.run(["scancel", *(job for _, job in reversed(found))])
        ended += [(name, "job", job) for name, job in found]
    told = ", ".join(f"{name} ({what} {job})" for name, what, job in ended)
    complain(f"{graph['name']}: cancelled {told or 'nothing: nothing was running'}")
    if as_json:
        say(json.dumps({"cancelled": [{"stage": name, "job": job} for name, _, job in ended]}))
    return 0


def _graph(root: Path) -> dict[str, Any]:
    graph = find_object(root / GRAPH)
    if graph is None:
        raise ConfigError(f"{root}: no {GRAPH} is there; expected the folder of a launched stage graph")
    return graph


def _stage(root: Path, name: str) -> tuple[Path, dict[str, Any]]:
    stages = _graph(root)["stages"]
    for one in stages:
        if one["name"] == name:
            return root / one["folder"], one
    names = ", ".join(one["name"] for one in stages)
    raise ConfigError(f"{root}: stage {name!r} is unknown; expected one of {names}")


def _places(root: Path, name: str, task: int | None) -> list[Path]:
    """Where the stage's job works, or the tasks of its array, or that one of them."""
    folder, stage = _stage(root, name)
    tasks = stage.get("array")
    if task is None:
        return places(root, stage)
    if not tasks or not 0 <= task < tasks:
        message = f"expected 0 to {tasks - 1}" if tasks else "the stage is not an array; leave it out"
        raise ConfigError(f"{root}: stage {name!r}: --task: got {task}, {message}")
    return [task_folder(folder, tasks, task)]


def _files(folder: Path, job: dict[str, Any], rank: int | None) -> list[Path]:
    """The job's logs that hold something: its batch script's first, then rank by rank."""
    ranks = range(job["processes"]) if rank is None else [rank]
    files = [batch_log(folder, job["id"])] if rank is None else []
    files += [rank_log(folder, job["id"], one, kind) for one in ranks for kind in ("err", "out")]
    return [file for file in files if file.exists() and file.stat().st_size]


def _copy_new(file: Path, shown: dict[Path, int], named: bool, as_json: bool) -> None:
    with file.open("rb") as stream:
        stream.seek(shown.get(file, 0))
        text = stream.read()
    shown[file] = shown.get(file, 0) + len(text)
    lines = list(_lines(text.decode("utf-8", "replace"))) if text else []
    if as_json:
        for line in lines:
            say(json.dumps({"file": str(file), "line": line}))
    elif lines:
        heading = f"==> {file.name} <==\n" if named else ""
        say(heading + "\n".join(lines))


def _lines(text: str) -> Iterator[str]:
    """A redrawn bar counts as one line, as it stood last."""
    for line in text.rstrip("\n").split("\n"):
        yield line.rstrip("\r").rpartition("\r")[2]


def _end_process(pid: Any, host: Any, what: str) -> None:
    if host != socket.gethostname():
        raise ConfigError(f"{what} runs on {host}, not here; cancel it there")
    try:
        os.kill(int(pid), signal.SIGTERM)  # SIGINT is ignored by what a script has put in the background
    except ProcessLookupError:
        raise ConfigError(f"{what} (process {pid}) has just ended") from None
