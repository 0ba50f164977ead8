"""A few threads that cannot keep a process from ending."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """Threads that share out the calls of `map`.

    Daemons, unlike those of a ThreadPoolExecutor: the interpreter waits for an executor's threads at its end, and one
    that hangs in a read from a file system that does not answer would hold up a run that has already failed.
    """

    def __init__(self, count: int, name: str) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], object] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def map(self, make: Callable[..., T], keys: Iterable[object]) -> list[T]:
        """``make`` of each key, in their order; the first exception among them is raised."""
        futures: list[Future[T]] = []
        for key in keys:
            futures.append(Future())
            self._tasks.put((futures[-1], make, key))
        return [future.result() for future in futures]

    def close(self, patience: float) -> bool:
        """End the threads once all calls are made; whether they ended within so many seconds."""
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, make, key = task
            try:
                future.set_result(make(key))
            except BaseException as error:  # raised in the thread that called map
                future.set_exception(error)
            del future, task  # a result is not held until the next call
