"""The nearest of many difference hashes, by the number of bits in which two differ: exact, over all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]  # (N, 4): 256 bits each
# A plain ground with little on it has a hash like any other such ground, and so has a smooth gradient. So many of its
# 256 bits must be set, and so many of 480 pairs of neighbouring bits must differ. docs/datasets.md has the command that
# measures strangers on photographs and drawn scenes.
LEAST_BITS, LEAST_CHANGES = 64, 80
# Pairs that are compared at once: what a step writes stays in a processor's cache, and memory is bounded.
_QUERIES, _OTHERS = 64, 4096
_PLACE_BITS = 40  # of a number that holds distance and place, so that the least is the nearest, the first of equals


def packed(hashes: Sequence[bytes]) -> Hashes:
    """Hashes of 32 bytes as (N, 4) words."""
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 4)


def telling(hashes: Hashes) -> NDArray[np.bool_]:
    """Which of these hashes (N, 4) say enough of an image that another like it is a copy: (N,)."""
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).reshape(-1, 16, 16)
    changes = (bits[:, :, 1:] != bits[:, :, :-1]).sum((1, 2)) + (bits[:, 1:] != bits[:, :-1]).sum((1, 2))
    enough: NDArray[np.bool_] = (bits.sum((1, 2)) >= LEAST_BITS) & (changes >= LEAST_CHANGES)
    return enough


def nearest(queries: Hashes, others: Hashes, within: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each query (N, 4) the place of the nearest of ``others`` (M, 4), the first of equals, and the distance (N,).

    -1 and ``within`` + 1 where none is ``within`` so many bits.
    """
    words = np.ascontiguousarray(others.T)
    blocks = [queries[first : first + _QUERIES] for first in range(0, len(queries), _QUERIES)]
    with ThreadPoolExecutor() as pool:  # numpy computes without the interpreter's lock
        found = list(pool.map(lambda block: _nearest_of_block(block, words, within), blocks))
    best = np.concatenate([np.empty(0, np.int64), *found])
    distance = best >> _PLACE_BITS
    return np.where(distance <= within, best & ((1 << _PLACE_BITS) - 1), -1), distance


def _nearest_of_block(queries: Hashes, words: Hashes, within: int) -> NDArray[np.int64]:
    """Distance and place in one number (N,), over all others, by their words (4, M)."""
    best = np.full(len(queries), (within + 1) << _PLACE_BITS, np.int64)
    for first in range(0, words.shape[1], _OTHERS):
        others = words[:, first : first + _OTHERS]
        half = np.bitwise_count(queries[:, 0, None] ^ others[0])
        half += np.bitwise_count(queries[:, 1, None] ^ others[1])
        row, column = np.nonzero(half <= within)  # few: half of the bits tell most pairs apart
        distance = half[row, column].astype(np.int64)
        for word in (2, 3):
            distance += np.bitwise_count(queries[row, word] ^ others[word, column])
        np.minimum.at(best, row, (distance << _PLACE_BITS) + first + column)
    return best
