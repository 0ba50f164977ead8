"""Images of one shard looked at by several threads, and taken in their order.

Decoders, checksums and sums over pixels let go of the interpreter's lock, so that threads are enough where there are
fewer shards than workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from laconvnet.images import quiet

S = TypeVar("S")
T = TypeVar("T")

_AHEAD = 2  # results of each thread that are held at most


def in_order(make: Callable[[S], T], items: Iterable[S], threads: int) -> Generator[T]:
    """``make`` of each item, in their order, by so many threads; with one thread, by the one that asks.

    At most two results a thread are made ahead. The first exception in that order is raised, and no further item begun.
    """
    if threads == 1:
        yield from map(make, items)
        return
    pool, ahead = ThreadPoolExecutor(threads, "image"), deque[Future[T]]()
    with quiet():
        try:
            for item in items:
                ahead.append(pool.submit(make, item))
                if len(ahead) == _AHEAD * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
