"""Signals that ask a run to save and leave, and a way out where nothing moves any more."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from laconvnet.terminal import complain

STOPS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
_GRACE_SECONDS = 5.0
_INTERRUPTED = 130


@contextmanager
def stop_signals(last_words: str) -> Iterator[list[int]]:
    """Within, these signals only leave a note: all ranks hear of it by the end of the next step, save and leave.

    A second Ctrl-C leaves at once, for a person who sees that no step ends any more. Python runs no handler while this
    process waits inside a collective for one that is gone: then a thread says ``last_words`` and ends the process. A
    hangup that the shell has told this process to ignore (nohup) stays ignored.
    """
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT and number in signals:
            raise KeyboardInterrupt
        signals.append(number)

    wanted = [number for number in STOPS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    kept = {number: signal.signal(number, note) for number in wanted}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    moved = threading.Event()
    threading.Thread(target=_watch, args=(reading, before, moved, last_words), name="signals", daemon=True).start()
    try:
        yield signals
    finally:
        moved.set()
        signal.set_wakeup_fd(before)
        os.close(writing)  # and with it the thread ends
        for number, handler in kept.items():
            signal.signal(number, handler)


def _watch(reading: int, before: int, moved: threading.Event, last_words: str) -> None:
    """Read the numbers of signals as they arrive, whatever the main thread does; pass them on to who read them."""
    interrupts = 0
    while arrived := os.read(reading, 64):
        if before >= 0:
            os.write(before, arrived)
        interrupts += arrived.count(signal.SIGINT)
        if interrupts > 1 and not moved.wait(_GRACE_SECONDS):
            complain(f"laconvnet: interrupted twice and nothing moved; {last_words}")
            os._exit(_INTERRUPTED)
    os.close(reading)
