"""Results made ahead in a thread, and the watch over it."""

from __future__ import annotations

import queue
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TypeVar

from laconvnet.pipeline.errors import TrainingError

T = TypeVar("T")
Q = TypeVar("Q")

_AHEAD = 2


class Stalled(TrainingError):
    """No batch came in time. This process alone knows: the others wait for it in a collective."""


def prefetch(make: Callable[[Q], T], requests: Iterable[Q], patience: float, doing: Callable[[], str]) -> Generator[T]:
    """Run ``make`` over the requests in a thread, a few results ahead; its exception is raised here.

    Raises Stalled where a result that is waited for takes more than ``patience`` seconds, with what ``doing`` tells of
    the work under way and where in the code the thread stands; the thread is then left to itself.
    """
    ready: queue.Queue[T | BaseException | None] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(value: T | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for request in requests:
                if not put(make(request)):
                    return
            put(None)
        except BaseException as error:  # handed to the thread that consumes
            put(error)

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    wait = patience
    try:
        while True:
            try:
                value = ready.get(timeout=patience)
            except queue.Empty:
                wait = 0.0
                raise Stalled(
                    f"no batch for {patience:g} s, {doing()}; is the storage there? data.patience sets how long to "
                    f"wait; the loader stands at {stack(thread)}"
                ) from None
            if value is None:
                return
            if isinstance(value, BaseException):
                raise value
            yield value
    finally:
        stop.set()
        thread.join(wait)


def stack(thread: threading.Thread) -> str:
    """Where a thread stands, the innermost call first, in one line."""
    frame = sys._current_frames().get(thread.ident or -1)
    calls = traceback.extract_stack(frame)[::-1] if frame else []
    return " < ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls) or "its end"
