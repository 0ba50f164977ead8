"""Ends a SLURM job that hangs: `python -m laconvnet.launch.slurm.watchdog FOLDER`, beside srun on the job's first node.

A rank in a collective that never returns heeds no signal and raises nothing: only that nothing happens any more tells.
The exit code HANGS asks the batch script to end the job's step; FAILED.json says why.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from laconvnet.launch.outcomes import record_failure
from laconvnet.launch.slurm.batch import Submission, job_id
from laconvnet.launch.status import last_checkpoint
from laconvnet.pipeline.runs.layout import JOBS, LOG, batch_log, rank_log

HANGS = 4
POLL_SECONDS = 5.0


def traces(folder: Path, job: str) -> tuple[object, ...]:
    """What changes while a stage gets on: the size of its log and of its ranks' output, its newest checkpoint."""
    files = [folder / LOG, *sorted((folder / JOBS).glob(rank_log(folder, job, "*", "*").name))]
    return (last_checkpoint(folder), *(file.stat().st_size if file.exists() else -1 for file in files))


def watch(folder: Path, job: str, alive: Callable[[], bool], sleep: Callable[[float], None] = time.sleep) -> int:
    """Until the batch script has ended (0) or the job has stood still for too long (HANGS)."""
    plan = Submission.of(folder)
    seen, since = traces(folder, job), time.monotonic()
    while alive():
        sleep(POLL_SECONDS)
        now = traces(folder, job)
        if now != seen:
            seen, since = now, time.monotonic()
        elif plan.hang_minutes and time.monotonic() - since >= 60 * plan.hang_minutes:
            _say(folder, job, plan)
            return HANGS
    return 0


def _say(folder: Path, job: str, plan: Submission) -> None:
    quiet = f"no news for {plan.hang_minutes:g} minutes: log, output and checkpoints stand still"
    logs = sorted((folder / JOBS).glob(rank_log(folder, job, "*").name), key=lambda log: log.stat().st_mtime)
    facts = {"stage": plan.stage, "identity": plan.fingerprint, "job": job, "hang": True, "reason": quiet}
    facts |= {"rank": None, "node": None} | ({} if logs else {"tail": []})
    record_failure(folder, logs[0] if logs else batch_log(folder, job), facts)


if __name__ == "__main__":
    parent = os.getppid()
    raise SystemExit(watch(Path(sys.argv[1]), job_id(), lambda: os.getppid() == parent))
