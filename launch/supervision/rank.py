"""A rank that a supervisor has started: it says that it lives, and ends with its supervisor."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

from laconvnet.pipeline.runs.memory import Memory

SUPERVISOR = "LACONVNET_SUPERVISOR"  # the process id of the supervisor, in the environment of the rank
PORT = "LACONVNET_PORT"  # at which all ranks of its round meet, there too
STARTED = "LACONVNET_STARTED"  # when the supervisor began, in seconds since 1970, there too
BEAT_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


def is_rank() -> bool:
    """Whether this process is a supervisor's rank."""
    return SUPERVISOR in os.environ


def started() -> float:
    """When this task of the job began: with its supervisor, where it has one."""
    return float(os.environ.get(STARTED) or time.time())


def follow() -> None:
    """In a rank: end with the supervisor, and tell it every so often that this process lives.

    What the rank starts, another launch perhaps, is not the supervisor's: it does not inherit the variables.
    """
    supervisor = int(os.environ.pop(SUPERVISOR))
    for name in (PORT, STARTED):
        os.environ.pop(name, None)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it was gone before
        os._exit(1)
    memory = Memory.inherited()
    assert memory is not None, "a supervisor hands its rank memory"

    def beat() -> None:
        while True:
            memory.beat()
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, name="beats", daemon=True).start()
