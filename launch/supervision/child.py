"""The rank of a supervisor: its own command line, started once more as a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping

import psutil

from laconvnet.launch.supervision.rank import SUPERVISOR
from laconvnet.pipeline.runs.memory import Memory

# Counted in looks of the supervisor, not by a clock: where SLURM suspends a job, both stand still together.
STOPPED_SECONDS = 3.0  # stopped by a signal, as the kernel says it
STILL_SECONDS = 30.0  # without a beat once it trains: long enough for what holds Python's lock
STARTING_SECONDS = 600.0  # before that: the libraries are loaded, from a slow file server too


class Child:
    """A rank that was started; use `look` every so often and `end` at last."""

    def __init__(self, memory: Memory, variables: Mapping[str, str]) -> None:
        self._memory = memory
        memory.reach(0)
        self._first = self._beats = memory.beats
        self._process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, **variables, **memory.variables(), SUPERVISOR: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            pass_fds=memory.descriptors,
        )
        self._still = self._stopped = 0.0

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None as long as it lives."""
        return self._process.poll()

    def look(self, seconds: float) -> str | None:
        """Why it must be ended, None where it lives; ``seconds`` have gone by since the last look."""
        beats = self._memory.beats
        self._still = 0.0 if beats != self._beats else self._still + seconds
        self._beats = beats
        self._stopped = self._stopped + seconds if self._is_stopped() else 0.0
        if self._stopped >= STOPPED_SECONDS:
            return "was stopped by a signal"
        if self._still >= (STILL_SECONDS if self._memory.steps else STARTING_SECONDS):
            return f"stood still: no sign of life for {self._still:.0f} seconds"
        return None

    @property
    def listens(self) -> bool:
        """Whether it has come so far that a signal to stop does not end it as it would end any process."""
        return self._memory.beats != self._first

    def tell(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def end(self) -> None:
        """Kill it, with all that it has started."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(found, timeout=STILL_SECONDS)

    def _is_stopped(self) -> bool:
        try:
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False
