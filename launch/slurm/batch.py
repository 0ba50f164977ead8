"""What a SLURM batch script asks before and after its ranks.

Its lines are `python -m laconvnet.launch.slurm.batch begin|end|refused FOLDER ...`.

The ranks only leave files (`launch.job`); this decides, on the first node, after srun has ended. Rank 0 could not: it
may be the one that was killed. The exit code is the verdict: 0 the stage is done, 1 it failed, AGAIN it is to be queued
again. The script asks SLURM for that itself, because SLURM's commands are seldom found inside a container.

Files in the stage's folder, beside those of `launch.job`:

    starts.jsonl            a line when a job starts and one when it ends: outcome, reason, nodes
    jobs/submission.json    what was submitted: limits, retries, code
    jobs/JOB.start          SLURM_RESTART_COUNT of the newest start; tasks of an older one publish nothing
    jobs/JOB.exclude        nodes to keep off from now on
    jobs/JOB_batch.log      the script's own output and srun's messages
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from laconvnet.files import find_object, publish_json
from laconvnet.launch.outcomes import is_done, record_failure, tail
from laconvnet.launch.slurm.failures import Lost, lost, transient
from laconvnet.launch.status import last_checkpoint
from laconvnet.launch.supervision.link import make_secret
from laconvnet.pipeline.runs import layout
from laconvnet.pipeline.runs.records import add_line, read_lines
from laconvnet.terminal import one_line, say

DONE, FAILED, AGAIN = 0, 1, 3
LOST_STARTS = 10  # starts in a row that ended without a word and without a new checkpoint
EARLY_SECONDS = 60  # SLURM may send the signal before the time limit so much too early
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MARK = "laconvnet: start"


@dataclass(frozen=True)
class Submission:
    """What the batch script of a stage must know; written when it is submitted."""

    stage: str
    fingerprint: str
    processes: int
    minutes: float
    signal_seconds: int
    hang_minutes: float
    max_timeouts: int
    retries: int
    spare_nodes: int  # so many nodes may be excluded before too few are left
    code: str  # folder of the code
    version: str | None
    restarts: int = 0  # of its ranks inside the job

    @staticmethod
    def of(folder: Path) -> Submission:
        found = find_object(folder / layout.JOBS / layout.SUBMISSION)
        assert found is not None, f"{folder}: no {layout.SUBMISSION}"
        return Submission(**found)

    def write(self, folder: Path) -> None:
        publish_json(folder / layout.JOBS / layout.SUBMISSION, asdict(self))


@dataclass(frozen=True)
class Verdict:
    """How a start ended: `outcome` is done, time limit, stopped, retry or failed."""

    outcome: str
    reason: str = ""
    rank: int | None = None
    node: str | None = None
    exclude: str | None = None

    @property
    def code(self) -> int:
        return {"done": DONE, "failed": FAILED}.get(self.outcome, AGAIN)


def begin(folder: Path, job: str, start: int, nodes: str) -> int:
    """Make the folder ready for the ranks of this start; FAILED where the job only ever starts."""
    say(f"{_MARK} {start} on {nodes}, {time.strftime('%Y-%m-%d %H:%M:%S')}")
    publish_json(layout.fence_file(folder, job), {"start": start})
    for marker in (layout.ok_marker, layout.stopped_marker, layout.signal_marker):
        for file in (folder / layout.JOBS).glob(marker(folder, job, "*").name):
            file.unlink()
    (folder / layout.FAILED).unlink(missing_ok=True)
    make_secret(layout.link_file(folder, job))
    checkpoint = last_checkpoint(folder)
    idle = _idle_starts(history(folder, job), checkpoint)
    note(folder, {"job": job, "start": start, "event": "start", "nodes": nodes, "checkpoint": checkpoint})
    if idle < LOST_STARTS:
        return DONE
    reason = f"{idle} starts in a row ended without a word and without a new checkpoint"
    return _conclude(folder, job, start, Verdict("failed", reason))


def end(folder: Path, job: str, start: int, code: int, seconds: float) -> int:
    """Judge the start that has just ended, write down why, and return the exit code that stands for the verdict."""
    return _conclude(folder, job, start, judge(folder, job, code, seconds))


def refused(folder: Path, job: str, start: int) -> int:
    """SLURM did not queue the job again: without that it has failed."""
    return _conclude(folder, job, start, Verdict("failed", "SLURM refused to queue the job again (scontrol requeue)"))


def judge(folder: Path, job: str, code: int, seconds: float) -> Verdict:
    """What the files, srun's messages and its exit code say about a start of so many seconds."""
    plan = Submission.of(folder)
    if is_done(folder, plan.fingerprint):
        return Verdict("done")
    messages = _messages(folder, job)
    gone = lost(messages)
    failed = find_object(folder / layout.FAILED) or {}
    if failed.get("hang"):
        return Verdict("failed", failed["reason"], failed.get("rank"), failed.get("node"))
    # When one rank is lost, srun asks the others to stop and then kills them: only what happened to a rank before any
    # signal reached it is a cause.
    unasked = [one for one in gone if not layout.signal_marker(folder, job, one.rank).exists()]
    killed = next((one for one in unasked if one.killed), None)
    left = next((one for one in unasked if one.failed), None)
    reasons = [str(failed["reason"]), *failed.get("tail", [])] if failed else []
    rank, node = failed.get("rank"), failed.get("node")
    if killed and (not failed or failed.get("told") or transient(reasons)):
        end = Verdict("failed", f"rank {killed.rank} on {killed.node} {killed.killed}", killed.rank, killed.node)
        # Of a supervised rank it was the supervisor: what points at its node.
        return _tried(folder, job, plan, end, "rank", True) if plan.restarts else end
    marked = any((folder / layout.JOBS).glob(layout.stopped_marker(folder, job, "*").name))
    stopped = marked or bool(gone and gone[0].told_to_stop)
    if stopped and (failed.get("told") if failed else not left):
        return _stopped(folder, job, plan, seconds)
    if not failed:
        first = left or next((one for one in gone if one.failed), gone[0] if gone else None)
        reasons, rank, node = _last_words(folder, job, code, first, messages)
    fault = transient([*reasons, *(line for line in messages if "srun: error" in line and "task" not in line)])
    if failed.get("repeats"):  # and so perhaps because of the node
        fault = "rank", True
    elif failed.get("fault"):  # as the supervisors say: one of them did not come, or its rank was not to be ended
        fault = str(failed["fault"]), True
    if failed.get("told"):
        fault = "stop", False  # not its own fault that it was asked, its own that it could not: so and so often
    end = Verdict("failed", reasons[0], rank, node)
    return end if fault is None else _tried(folder, job, plan, end, *fault)


def _tried(folder: Path, job: str, plan: Submission, end: Verdict, kind: str, of_node: bool) -> Verdict:
    """Another try, where there are any left, off the node that is at fault."""
    tried = sum(entry.get("outcome") == "retry" for entry in history(folder, job))
    if tried >= plan.retries:
        return replace(end, reason=f"{end.reason} (after {tried} retries)")
    excluded = end.node if of_node and end.node and _NODE.fullmatch(end.node) else None
    return replace(end, outcome="retry", reason=f"{kind}: {end.reason}", exclude=excluded)


def history(folder: Path, job: str) -> list[dict[str, Any]]:
    """What `starts.jsonl` tells of a job, oldest first."""
    return [entry for entry in read_lines(folder / layout.STARTS) if entry.get("job") == job]


def _stopped(folder: Path, job: str, plan: Submission, seconds: float) -> Verdict:
    """The ranks were told to stop, and did: at the time limit, or at any other time."""
    if seconds < 60 * plan.minutes - plan.signal_seconds - EARLY_SECONDS:
        return Verdict("stopped", "preempted, or told to stop")
    reached = 1 + sum(entry.get("outcome") == "time limit" for entry in history(folder, job))
    if reached > plan.max_timeouts:
        return Verdict("failed", f"reached its time limit of {plan.minutes:g} minutes for the {reached}. time")
    return Verdict("time limit", f"time limit {reached} of at most {plan.max_timeouts}")


def _last_words(
    folder: Path, job: str, code: int, first: Lost | None, messages: list[str]
) -> tuple[list[str], int | None, str | None]:
    """Reason and last lines where no rank could write FAILED.json itself."""
    if first is None:
        reasons = [line for line in messages if not line.startswith(_MARK)]
        return [reasons[-1] if reasons else f"srun ended with exit code {code} and said nothing", *reasons], None, None
    lines = tail(layout.rank_log(folder, job, first.rank))
    return [lines[-1] if lines else first.how, *lines], first.rank, first.node


def _conclude(folder: Path, job: str, start: int, verdict: Verdict) -> int:
    layout.link_file(folder, job).unlink(missing_ok=True)
    plan = Submission.of(folder)
    if verdict.exclude:
        _exclude(layout.exclude_file(folder, job), verdict.exclude, plan.spare_nodes)
    if verdict.outcome == "failed":
        log = layout.batch_log(folder, job) if verdict.rank is None else layout.rank_log(folder, job, verdict.rank)
        record: dict[str, Any] = {"stage": plan.stage, "identity": plan.fingerprint, "job": job}
        # A rank that only lost its peer may have written first; the verdict knows better.
        written = find_object(folder / layout.FAILED) or {}
        if written.get("rank") == verdict.rank:
            record |= written
        facts = {"reason": verdict.reason, "rank": verdict.rank, "node": verdict.node, "log": str(log)}
        record_failure(folder, log, record | facts)
    else:
        (folder / layout.FAILED).unlink(missing_ok=True)
    noted = {"outcome": verdict.outcome, "reason": verdict.reason, "rank": verdict.rank, "node": verdict.node}
    note(folder, {"job": job, "start": start, "event": "end", "checkpoint": last_checkpoint(folder)} | noted)
    # On one line: what stands at the start of a line here is read again (`_messages`, `failures.lost`).
    say(one_line(f"laconvnet: {verdict.outcome}{f': {verdict.reason}' if verdict.reason else ''}"))
    return verdict.code


def _exclude(file: Path, node: str, spare: int) -> None:
    nodes = file.read_text(encoding="utf-8").strip().split(",") if file.exists() else []
    kept = [*dict.fromkeys([name for name in nodes if name and name != node]), node]
    file.write_text(",".join(kept[-spare:] if spare else []), encoding="utf-8")


def _idle_starts(entries: list[dict[str, Any]], checkpoint: str | None) -> int:
    """Starts at the end of the history after which nobody came back to tell, nor any checkpoint."""
    count = 0
    for entry in reversed(entries):
        if entry["event"] == "end" or entry["checkpoint"] != checkpoint:
            break
        count += 1
    return count


def _messages(folder: Path, job: str) -> list[str]:
    """The batch log of the newest start."""
    lines = tail(layout.batch_log(folder, job), lines=2000)
    marks = [number for number, line in enumerate(lines) if line.startswith(_MARK)]
    return lines[marks[-1] :] if marks else lines


def note(folder: Path, entry: dict[str, Any]) -> None:
    """Add a line to the history of the stage's starts."""
    add_line(folder / layout.STARTS, entry)


def job_id() -> str:
    """The job of this batch script, as submitit names it too: that of an array's task says which one it is."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def main(argv: list[str]) -> int:
    command, folder, *rest = argv
    job, start = job_id(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if command == "begin":
        return begin(Path(folder), job, start, os.environ["SLURM_JOB_NODELIST"])
    if command == "refused":
        return refused(Path(folder), job, start)
    assert command == "end", f"expected begin, end or refused, got {command}"
    return end(Path(folder), job, start, int(rest[0]), float(rest[1]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
