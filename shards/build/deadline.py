"""An end for work that may never end by itself: a file system that hangs, a decoder that a hostile image has caught."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from laconvnet.terminal import complain

FAILED = 1  # exit code
# So much later a thread of C ends the process, where the one below does not get the interpreter's lock.
_GRACE_SECONDS = 10
_STDERR = 2


@contextmanager
def deadline(seconds: float, message: str) -> Iterator[None]:
    """End this process with the message and exit code 1 where the block takes longer than ``seconds``.

    Neither an exception nor a signal's handler would do: the thread that works may be inside a system call or a
    decoder, and comes back to Python never. Nothing is tidied up, for the file system may be what hangs. A decoder that
    keeps the interpreter's lock keeps the message, too: then Python tells where every thread stands (`faulthandler`).
    """
    done = threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            complain(f"laconvnet: {message}")
            os._exit(FAILED)

    watcher = threading.Thread(target=watch, name="deadline", daemon=True)
    watcher.start()
    faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        done.set()
        watcher.join()
