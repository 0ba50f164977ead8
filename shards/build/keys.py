"""The keys of a build, in 16 bytes each and at most 40 for a moment; a Python set of them takes 110 to 150.

A key is known by its 128-bit XXH3 digest. That two different keys of 10^9 share one, so that the second is refused as
if it were the first, has odds of 1 to 7 * 10^20 (n^2 / 2^129). No key that occurs twice is missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

_LATEST = 1 << 16  # digests of the smallest run: as many are kept in a Python set before
_RATIO = 4  # each run is that much longer than the next

Digests = NDArray[np.uint64]
_Run = tuple[Digests, Digests]  # the halves of digests, (N,) each, ascending by the first


class KeySet:
    """The keys that were added, to be asked for in groups.

    Digests lie in sorted runs of falling length, a few for any number. To join two takes their memory again.
    """

    def __init__(self) -> None:
        self._latest: set[bytes] = set()
        self._runs: list[_Run] = []

    def add(self, keys: Sequence[str]) -> int | None:
        """Add keys; the place of the first that was there already, in this group or before, None where none was."""
        digests = [xxhash.xxh3_128_digest(key.encode()) for key in keys]
        again = _first_in_runs(digests, self._runs)
        for place, digest in enumerate(digests[:again]):
            if digest in self._latest:
                return place
            self._latest.add(digest)
        if len(self._latest) >= _LATEST:
            self._settle()
        return again

    @property
    def nbytes(self) -> int:
        """Bytes that the runs hold."""
        return sum(half.nbytes for run in self._runs for half in run)

    def _settle(self) -> None:
        self._runs.append(_sorted(_halves(list(self._latest))))
        self._latest.clear()
        while len(self._runs) > 1 and len(self._runs[-2][0]) < _RATIO * len(self._runs[-1][0]):
            self._join_last()

    def _join_last(self) -> None:
        short, long = self._runs.pop(), self._runs.pop()
        places = np.searchsorted(long[0], short[0])
        # Half after half, each gone before the next is made.
        (short_first, short_second), (long_first, long_second) = short, long
        del short, long
        first = np.insert(long_first, places, short_first)
        del long_first, short_first
        self._runs.append((first, np.insert(long_second, places, short_second)))


def _halves(digests: Sequence[bytes]) -> _Run:
    both = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _sorted(run: _Run) -> _Run:
    order = np.argsort(run[0])
    return run[0][order], run[1][order]


def _first_in_runs(digests: Sequence[bytes], runs: Sequence[_Run]) -> int | None:
    """The place of the first of these digests that is in one of the runs."""
    if not runs:
        return None
    first, second = _halves(digests)
    order = np.argsort(first)  # neighbours are looked up in the same lines of memory
    found: list[int] = []
    for run in runs:
        begins = np.searchsorted(run[0], first[order])
        alike = run[0][np.minimum(begins, len(run[0]) - 1)] == first[order]
        for place, begin in zip(order[alike].tolist(), begins[alike].tolist(), strict=True):
            end = np.searchsorted(run[0], first[place], side="right")
            if (run[1][begin:end] == second[place]).any():
                found.append(place)
    return min(found, default=None)
