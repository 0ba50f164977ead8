"""What the supervisor of rank 0 writes down of the rounds of a job: why each ended, what it came to, why it is over."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from laconvnet.files import find_object
from laconvnet.launch.outcomes import record_failure
from laconvnet.launch.supervision.council import Council, Leave
from laconvnet.launch.supervision.ends import End
from laconvnet.launch.supervision.goodput import Goodput
from laconvnet.pipeline.runs import layout
from laconvnet.pipeline.runs.memory import Kept
from laconvnet.pipeline.runs.records import add_line
from laconvnet.terminal import complain

if TYPE_CHECKING:
    from submitit import JobEnvironment

    from laconvnet.launch.job import Command


class Account:
    """`restarts.jsonl`, FAILED.json and the log of rank 0, for one start of a job."""

    def __init__(self, command: Command, env: JobEnvironment) -> None:
        self._command, self._env = command, env
        self.goodput = Goodput(time.monotonic())

    def restart(self, council: Council, kept: Kept | None) -> None:
        """A round is over, and another one begins."""
        why = council.last
        assert why is not None, "a round ends because of something"
        complain(f"{why.told}: all ranks start again")
        entry = {"round": council.round, "rank": why.rank, "node": why.node, "reason": why.reason}
        self._note(entry | {"steps": council.best, "kept": kept.record.step if kept else None})

    def conclude(self, council: Council, order: Leave) -> None:
        """It is over; where a rank could not say why, this does."""
        if council.round > 0:
            times, share, seconds = council.round, self.goodput.share, self.goodput.seconds
            complain(f"started again {times} times; goodput {share:.1%} of {seconds:.0f} seconds")
            self._note({"rounds": times + 1, "goodput": round(share, 4)})
        why = order.because
        if why is None or why.fault == "supervisor":  # who started the supervisor that is lost tells of it
            return
        if order.repeats or not self._has_told(why):
            often = f", {council.idle + 1} times without a new step" if council.idle else ""
            folder, job = self._command.folder, self._env.job_id
            facts = {"rank": why.rank, "node": why.node, "reason": f"{why.told}{often}", "repeats": order.repeats}
            facts |= {"fault": why.fault, "told": layout.signal_marker(folder, job, why.rank).exists()}
            record_failure(folder, layout.rank_log(folder, job, why.rank), self._command.record(self._env) | facts)

    def _has_told(self, why: End) -> bool:
        """Whether the rank has left its own FAILED.json: that of a peer says only that this rank is gone."""
        if why.code is None:
            return False
        if why.code == LOCAL_REQUEUE_RETURN_CODE:  # submitit's: it is to be started again, and has not failed
            return True
        failed = find_object(self._command.folder / layout.FAILED) or {}
        return failed.get("rank") == why.rank

    def _note(self, entry: dict[str, Any]) -> None:
        entry = {"job": self._env.job_id, **entry, "seconds": round(self.goodput.seconds, 1)}
        with suppress(OSError):  # to go on matters more than to tell of it
            add_line(self._command.folder / layout.RESTARTS, entry)
