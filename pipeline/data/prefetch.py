"""Results made ahead in a thread, and the watch over it."""

from __future__ import annotations

import queue
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from laconvnet.pipeline.errors import TrainingError

T = TypeVar("T")
Q = TypeVar("Q")

_AHEAD = 2


class Stalled(TrainingError):
    """No batch came in time. This process alone knows: the others wait for it in a collective."""


class Ahead(Generic[T]):
    """Results made in a thread, which begins at once and keeps up to ``ahead`` of them; close it in the end."""

    def __init__(self, results: Iterable[T], patience: float, doing: Callable[[], str], ahead: int = _AHEAD) -> None:
        self._results, self._patience, self._doing = iter(results), patience, doing
        self._ready: queue.Queue[T | BaseException | None] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Ahead[T]:
        return self

    def __next__(self) -> T:
        """The next result; raises what was raised in the thread, and Stalled as `prefetch` says."""
        try:
            value = self._ready.get(timeout=self._patience)
        except queue.Empty:
            patience, self._patience = self._patience, 0.0
            raise Stalled(
                f"no batch for {patience:g} s, {self._doing()}; is the storage there? data.patience sets how long to "
                f"wait; the loader stands at {stack(self._thread)}"
            ) from None
        if value is None:
            raise StopIteration
        if isinstance(value, BaseException):
            raise value
        return value

    def close(self, patience: float | None = None) -> None:
        """End the thread and wait for it: so many seconds, by default as long as for a result; not where it stalled."""
        self._stop.set()
        self._thread.join(self._patience if patience is None else patience)

    def _put(self, value: T | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _work(self) -> None:
        try:
            while self._put(next(self._results)):
                pass
        except StopIteration:
            self._put(None)
        except BaseException as error:  # handed to the thread that consumes
            self._put(error)


def prefetch(make: Callable[[Q], T], requests: Iterable[Q], patience: float, doing: Callable[[], str]) -> Generator[T]:
    """Run ``make`` over the requests in a thread, a few results ahead; its exception is raised here.

    Raises Stalled where a result that is waited for takes more than ``patience`` seconds, with what ``doing`` tells of
    the work under way and where in the code the thread stands; the thread is then left to itself.
    """
    ahead = Ahead(map(make, requests), patience, doing)
    try:
        yield from ahead
    finally:
        ahead.close()


def stack(thread: threading.Thread) -> str:
    """Where a thread stands, the innermost call first, in one line."""
    frame = sys._current_frames().get(thread.ident or -1)
    calls = traceback.extract_stack(frame)[::-1] if frame else []
    return " < ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls) or "its end"
