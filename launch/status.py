"""How far a stage graph or a training run is, from the files in its folder; SLURM is asked for what these do not say.

A launch leaves `graph.json` in its folder (the stages, resolved) and `job.json` in each stage's folder; jobs leave
DONE.json or FAILED.json (`launch.job`); a training run leaves `log.jsonl` and `checkpoints/step-XXXXXXXX/COMMIT`. Files
win over SLURM's states: these say how a batch script ended, not whether its work is there.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.files import find_object
from laconvnet.launch import advice
from laconvnet.launch.outcomes import tail
from laconvnet.launch.slurm import queue
from laconvnet.launch.slurm.queue import Queued
from laconvnet.launch.table import clock, console, drawn, write
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs import checkpoints, history, layout
from laconvnet.pipeline.runs.records import read_lines
from laconvnet.pipeline.runs.scores import in_short, validations
from laconvnet.terminal import say

COLUMNS = (
    "stage", "state", "job", "starts", "restarts", "tasks", "failed", "step", "steps", "loss", "samples_per_s",
    "kernels", "eta", "checkpoint", "validation", "seconds", "reason", "lost", "score",
)  # fmt: skip
STATES = ("running", "waiting", "failed", "stopped", "not started")  # of an array: the first that a task of it is in
STALE_SECONDS = 120.0  # a run without a launcher that has not logged for this long is not running
WATCH_SECONDS = 2.0


def status(folder: str | Path) -> list[dict[str, Any]]:
    """One row for each stage, or one for a run: the keys of COLUMNS and `folder`, None where a thing is not known.

    `validation` is the newest line of validations.jsonl; where it says `ends`, the run has ended early. `state` is
    done, running, failed, waiting (its launch goes on, or its job is in SLURM's queue), stopped (interrupted or
    cancelled; the same command resumes) or not started. `starts` is how often SLURM started the job, `restarts` how
    often its ranks started again inside it. `eta` and `seconds` are in seconds, `checkpoint` is a folder's name. Of an
    array `tasks` counts its tasks by state, `of` all, `failed` lists those that failed, with task, rank, node and
    reason, and `starts` adds up. `lost` is a line on each set that the stage has built and that lost entries by faults.
    `score` is the newest result of an evaluation there: metric, split, score.
    Raises ConfigError where the folder is neither.
    """
    folder = Path(folder).absolute()
    for root in (folder, folder.parent):
        graph = find_object(root / layout.GRAPH)
        if graph is not None:
            rows = _graph_rows(root, graph)
            rows = rows if root == folder else [row for row in rows if row["folder"] == str(folder)]
            if rows:
                return rows
    if (folder / layout.LOG).exists() or (folder / layout.CHECKPOINTS).is_dir():
        return [_run_row(folder) | {"score": _score(folder)}]
    either = f"{layout.GRAPH} (a launched stage graph) nor {layout.LOG} or {layout.CHECKPOINTS}/ (a run)"
    raise ConfigError(f"{folder}: neither {either} is there; expected the folder of one of them")


def show(folder: str | Path, watch: bool = False, as_json: bool = False) -> int:
    """Print the status to standard output, again and again with `watch` until nothing runs or waits any more."""
    while True:
        rows = status(folder)
        if as_json:
            say("\n".join(json.dumps(row) for row in rows))
        else:
            if watch:
                console().clear()  # does nothing in a pipe
            print_rows(rows)
            say("\n".join(["", *advice.of_stages(rows, Path(folder))]))
        if not watch or not any(row["state"] in ("running", "waiting") for row in rows):
            return 0
        time.sleep(WATCH_SECONDS)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print the rows for people."""
    shown = []
    for row in rows:
        steps = "" if row["steps"] is None else f"/{row['steps']}"
        tasks = row["tasks"]
        shown.append(
            {
                **row,
                "tasks": None if tasks is None else f"{tasks['done']}/{tasks['of']}",
                "step": None if row["step"] is None else f"{row['step']}{steps}",
                "samples_per_s": None if row["samples_per_s"] is None else f"{row['samples_per_s']:.1f}",
                "eta": clock(row["eta"]),
                "validation": row["validation"] and in_short(row["validation"]),
                "seconds": clock(row["seconds"]),
                "score": row["score"]
                and f"{row['score']['score']:.1%} {row['score']['metric']} {row['score']['split']}",
            }
        )
    headings = {"stage": "stage", "state": "state"}
    if any(row["starts"] for row in rows):
        headings |= {"job": "job", "starts": "starts"}
    if any(row["tasks"] for row in rows):
        headings |= {"tasks": "tasks"}
    if any(row["restarts"] for row in rows):
        headings |= {"restarts": "restarts"}
    headings |= {"step": "step", "loss": "loss", "samples_per_s": "samples/s"}
    if any(row["score"] for row in rows):
        headings |= {"score": "score"}
    if any(row["kernels"] for row in rows):
        headings |= {"kernels": "LaConv"}
    headings |= {"eta": "left"}
    headings |= {"checkpoint": "checkpoint"}
    if any(row["validation"] for row in rows):
        headings |= {"validation": "validated"}
    write(drawn(shown, headings | {"seconds": "time", "reason": "reason"}))
    for row in rows:
        for one in row["failed"] or ():
            say(f"{row['stage']} {_told(one)}")
        for line in row["lost"] or ():
            say(f"{row['stage']} {line}")


def _told(failed: Mapping[str, Any]) -> str:
    """One failed task of an array: which, where and why."""
    where = "" if failed["rank"] is None else f" rank {failed['rank']}"
    where += f" on {failed['node']}" if failed["node"] else ""
    return f"task {failed['task']}{where} failed: {failed['reason']}"


def last_log(folder: Path) -> dict[str, Any]:
    """The newest whole line of a run's log.jsonl, {} where there is none; a torn last line is passed over."""
    return _newest(folder / layout.LOG) or {}


def _newest(file: Path) -> dict[str, Any] | None:
    """The last whole object of a JSON lines file, None where there is none."""
    for line in reversed(tail(file, lines=2)):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, nested without end
            continue
        if isinstance(value, dict):
            return value
    return None


def progress(folder: Path, log: Path | None = None) -> str:
    """One line on how far a stage is: its training log's newest entry, else the last line of its standard error."""
    entry = last_log(folder)
    if not entry:
        last = tail(log, lines=1) if log is not None else []
        return last[-1].strip() if last else ""
    parts = [f"step {entry.get('step')}/{entry.get('steps')}"]
    if isinstance(entry.get("loss"), int | float):
        parts.append(f"loss {entry['loss']:.4g}")
    if isinstance(entry.get("samples_per_s"), int | float):
        parts.append(f"{entry['samples_per_s']:.1f} samples/s")
    if isinstance(entry.get("eta_s"), int | float):
        parts.append(f"{clock(entry['eta_s'])} left")
    if newest := _validation(folder):
        parts.append(f"validated {in_short(newest)}")
    return ", ".join(parts)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a run by its marker, None where there is none; its files are not looked at."""
    found = (place for place in reversed(checkpoints.published(folder)) if (place / layout.COMMIT).is_file())
    return next((place.name for place in found), None)


def _validation(folder: Path) -> dict[str, Any] | None:
    """The newest validation of a run by its step, None where there is none."""
    return next(reversed(validations(folder)), None)


def log_file(folder: Path, rank: int = 0) -> Path | None:
    """Standard error of a rank of the stage's newest job, None where none was started."""
    job = find_object(folder / layout.JOB)
    return None if job is None else layout.rank_log(folder, job["id"], rank)


def holder(root: Path) -> dict[str, Any] | None:
    """Who is launching the graph of this folder now (pid, host, started), None where nobody is."""
    try:
        with (root / layout.LOCK).open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return find_object(root / layout.LOCK) or {}
    return None


def _graph_rows(root: Path, graph: dict[str, Any]) -> list[dict[str, Any]]:
    launching = holder(root)
    slurm = Slurm.of(place for stage in graph["stages"] for place in places(root, stage))
    rows: list[dict[str, Any]] = []
    lost: dict[str, str] = {}  # stages that will not run in this launch -> the failed one behind it
    for stage in graph["stages"]:
        row = _stage_row(stage["name"], root / stage["folder"], launching, slurm)
        if stage.get("array"):
            tasks = [_stage_row(stage["name"], place, launching, slurm) for place in places(root, stage)]
            row = _array_row(row, tasks)
        row |= {"lost": _losses(root / stage["folder"]), "score": _score(root / stage["folder"])}
        cause = next((lost[need] for need in stage["needs"] if need in lost), None)
        if row["state"] == "failed" or row["failed"]:
            lost[stage["name"]] = stage["name"]
        elif cause is not None and row["state"] in ("not started", "stopped"):
            lost[stage["name"]] = cause
            row |= {"reason": f"{cause} failed"}
        elif launching and stage["name"] in graph["selected"] and row["state"] in ("not started", "stopped"):
            row |= {"state": "waiting", "reason": None}
        rows.append(row)
    return rows


def places(root: Path, stage: Mapping[str, Any]) -> list[Path]:
    """Where the job of a stage of graph.json works, or each task of its array."""
    return history.places(root / stage["folder"], stage.get("array"))


def _array_row(row: dict[str, Any], tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of an array, from that of its folder and those of its tasks."""
    states = Counter(task["state"] for task in tasks)
    failed = []
    for number, task in enumerate(tasks):
        if task["state"] == "failed":
            cause = find_object(Path(task["folder"]) / layout.FAILED) or {}
            where = {key: cause.get(key) for key in ("rank", "node")}
            failed.append({"task": number, **where, "reason": task["reason"]})
    starts = sum(task["starts"] or 0 for task in tasks)
    row |= {"tasks": {"of": len(tasks), "done": 0, **states}, "failed": failed, "starts": starts or None, "eta": None}
    if row["state"] == "done":  # says nothing of the tasks when their number was another
        return row | {"tasks": {"of": len(tasks), "done": len(tasks)}}
    state = next(name for name in (*STATES, "done") if states[name])
    if state == "not started" and states["done"]:
        state = "stopped"
    first = next((task for task in tasks if task["state"] == state), tasks[0])
    reason = f"{len(failed)} of {len(tasks)} tasks failed" if failed else first["reason"]
    seconds = max((task["seconds"] or 0 for task in tasks), default=0) if state == "running" else None
    return row | {"state": state, "reason": reason, "seconds": seconds}


@dataclass(frozen=True)
class Slurm:
    """What SLURM says of a graph's jobs: those in its queue by id, and how the others ended."""

    queued: Mapping[str, Queued]
    ended: Mapping[str, str]

    @staticmethod
    def of(folders: Iterable[Path]) -> Slurm | None:
        """Asks once for all; None where there is no job of SLURM's to ask for, or no SLURM that answers."""
        jobs = [job["id"] for job in (find_object(folder / layout.JOB) for folder in folders) if job and on_slurm(job)]
        if not jobs or queue.missing_commands():
            return None
        try:
            queued = {job.id: job for job in queue.queued()}
        except queue.SlurmError:
            return None
        return Slurm(queued, queue.ended(job for job in jobs if job not in queued))


def on_slurm(job: Mapping[str, Any]) -> bool:
    """Whether a job.json speaks of a job of SLURM's."""
    return job.get("cluster") == "slurm"


def _slurm_row(row: dict[str, Any], folder: Path, job: dict[str, Any], slurm: Slurm | None) -> dict[str, Any]:
    """The row of a stage that is neither done nor has failed by its files."""
    last = last_start(folder)
    if slurm is None:
        return row | {"state": "running" if last else "waiting", "reason": "SLURM cannot be asked here"}
    found = slurm.queued.get(job["id"])
    if found is None:
        state = slurm.ended.get(job["id"], "")
        if state in ("", "CANCELLED", "COMPLETED", "PREEMPTED"):
            told = "cancelled" if state == "CANCELLED" else "its job is gone"
            how = "stopped" if last else "not started"
            return row | {"state": how, "eta": None, "reason": f"{told}; the same command resumes"}
        said = tail(layout.batch_log(folder, job["id"]), lines=1)
        reason = f"SLURM: {state}{f': {said[-1]}' if said else ''}"
        return row | {"state": "failed", "eta": None, "reason": reason}
    if found.state == "PENDING":
        why = f"{found.reason}; {last['reason']}" if last and last.get("reason") else found.reason
        return row | {"state": "waiting", "eta": None, "reason": why}
    since = last["time"] if last else job["started"]
    return row | {"state": "running", "seconds": time.time() - since}


def last_start(folder: Path) -> dict[str, Any] | None:
    """The newest line of a stage's starts.jsonl, None where there is none."""
    return _newest(folder / layout.STARTS)


def _stage_row(name: str, folder: Path, launching: dict[str, Any] | None, slurm: Slurm | None) -> dict[str, Any]:
    row = _row(name, folder)
    done, failed, job = (find_object(folder / file) for file in (*layout.ENDS, layout.JOB))
    if job is not None:
        row |= {"job": job["id"]}
        last = last_start(folder) if on_slurm(job) else None
        row |= {"starts": last["start"] + 1 if last and last["job"] == job["id"] else None}
        row |= {"restarts": _restarts(folder, job["id"])}
    if done is not None:
        return row | {"state": "done", "eta": None, "seconds": done.get("seconds")}
    if failed is not None and not (job and slurm and on_slurm(job) and job["id"] in slurm.queued):
        started = job["started"] if job else failed["ended"]
        return row | {"state": "failed", "eta": None, "seconds": failed["ended"] - started, "reason": failed["reason"]}
    if job is None:
        return row
    if on_slurm(job):
        return _slurm_row(row, folder, job, slurm)
    if _alive(job, launching):
        return row | {"state": "running", "seconds": time.time() - job["started"]}
    return row | {"state": "stopped", "eta": None, "reason": "interrupted; the same command resumes"}


def _restarts(folder: Path, job: str) -> int | None:
    """How often the ranks of a job were started again inside it; None for never."""
    told = read_lines(folder / layout.RESTARTS)
    return sum(entry.get("job") == job and "round" in entry for entry in told) or None


def _alive(job: dict[str, Any], launching: dict[str, Any] | None) -> bool:
    """Whether the job still runs; on another host the launcher's lock is what tells."""
    if job["host"] != socket.gethostname():
        return launching is not None
    import psutil

    try:
        process = psutil.Process(job["pid"])
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= job["started"] + 1)
    except psutil.Error:
        return False


def _run_row(folder: Path) -> dict[str, Any]:
    row = _row(folder.name, folder)
    entry = last_log(folder)
    all_taken = row["step"] is not None and row["step"] == row["steps"]
    if (folder / layout.DONE).exists() or all_taken or _ended_early(row):
        return row | {"state": "done", "eta": None}
    written = folder / layout.LOG
    if entry and time.time() - os.stat(written).st_mtime < STALE_SECONDS:
        return row | {"state": "running"}
    return row | {"state": "stopped", "eta": None, "reason": f"no news in {layout.LOG}; the same command resumes"}


def _ended_early(row: Mapping[str, Any]) -> bool:
    """Whether the newest validation has ended the run, and nothing was done since."""
    newest = row["validation"]
    if not newest or not newest["ends"]:
        return False
    is_newest: bool = row["checkpoint"] == layout.step_folder(newest["step"])
    return is_newest and (row["step"] or 0) <= newest["step"]


def _row(name: str, folder: Path) -> dict[str, Any]:
    entry = last_log(folder)
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"stage": name, "state": "not started", "checkpoint": last_checkpoint(folder), "folder": str(folder)}
    row |= {key: entry.get(key) for key in ("step", "steps", "loss", "samples_per_s", "kernels")}
    row |= {"validation": _validation(folder)}
    return row | {"eta": entry.get("eta_s")}


def _score(folder: Path) -> dict[str, Any] | None:
    """The newest result of an evaluation in a stage's folder, or of a run: its headline."""
    from laconvnet.pipeline.report import gather, scores

    result = gather.newest_result(folder)
    if result is None:
        return None
    metric = scores.headline(gather.metrics_of(result))
    return {"metric": metric, "split": result["split"], "score": result[metric]}


def _losses(folder: Path) -> list[str] | None:
    from laconvnet.pipeline.report.ledgers import built_losses  # with Arrow, which the rest of a launcher does not need

    return list(built_losses(folder)) or None
