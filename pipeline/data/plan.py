"""The order of samples, as a pure function of (seed, epoch, position).

An epoch is a keyed bijection on [0, N): nothing is shuffled, no list is held, and any position of any epoch is
found in constant time. The whole data state of a run is therefore its step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Positions = NDArray[np.int64]

_ROUNDS = 6
_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """One 64-bit key out of several integers (splitmix64's finaliser, chained)."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = ((state ^ (value & _MASK)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def _mix_array(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    state = (values ^ np.uint64(key)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def permute(positions: Positions, size: int, key: int) -> Positions:
    """The image of each position under the bijection on [0, size) that ``key`` names.

    A balanced Feistel network on the next even number of bits, walked until it falls back into the range
    (Black and Rogaway's cycle walking): fewer than four rounds on average.
    """
    if size <= 1:
        return np.zeros_like(positions)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    keys = [mix(key, number) for number in range(_ROUNDS)]
    result = positions.astype(np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        walking = result[outside]
        left, right = walking >> np.uint64(half), walking & low
        for number in keys:
            left, right = right, left ^ (_mix_array(right, number) & low)
        result[outside] = (left << np.uint64(half)) | right
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


def draw(items: Positions, counts: Positions, key: int) -> Positions:
    """For each item one of its ``counts`` alternatives, as a function of (key, item) alone."""
    return (_mix_array(items.astype(np.uint64), key) % counts.astype(np.uint64)).astype(np.int64)


@dataclass(frozen=True)
class Plan:
    """The endless stream of items of several sets, mixed by weight.

    ``sizes`` are the items of each set, ``weights`` how often an epoch passes over each: 1 shows every item once,
    2 twice, 0.5 each item every second epoch. Items are numbered set after set.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        if self.epoch_length == 0:
            raise ConfigError("data: nothing to train on: no item of this task in the chosen split; see `shards info`")

    @property
    def shares(self) -> tuple[int, ...]:
        """How many items of each set one epoch shows: size times weight, rounded, but never none of those there are."""
        pairs = zip(self.sizes, self.weights, strict=True)
        return tuple(max(1, round(size * weight)) if size else 0 for size, weight in pairs)

    @property
    def epoch_length(self) -> int:
        return sum(self.shares)

    def items(self, stream: Positions) -> tuple[Positions, Positions]:
        """Items and visits at these positions of the stream.

        The visit counts how often the item's set has been passed over before: with the item's number it seeds
        whatever is drawn anew at each visit.
        """
        length = self.epoch_length
        epochs = stream // length
        within = np.empty_like(stream)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            within[here] = permute(stream[here] % length, length, mix(self.seed, 1, int(epoch)))
        items, visits = np.empty_like(stream), np.empty_like(stream)
        ends = np.cumsum(self.shares)
        which = np.searchsorted(ends, within, side="right")
        starts = np.cumsum((0, *self.sizes[:-1]))
        for number in np.unique(which):
            here = which == number
            size, share = self.sizes[number], self.shares[number]
            turn = epochs[here] * share + within[here] - (ends[number] - share)
            passes = turn // size
            chosen = np.empty_like(turn)
            for visit in np.unique(passes):
                now = passes == visit
                chosen[now] = permute(turn[now] % size, size, mix(self.seed, 2, int(number), int(visit)))
            items[here], visits[here] = starts[number] + chosen, passes
        return items, visits

    def step(self, step: int, batch: int, rank: int, world: int) -> tuple[Positions, Positions]:
        """Items and visits of one rank in one step: its slice of positions [step * batch, (step + 1) * batch)."""
        share = batch // world
        first = step * batch + rank * share
        return self.items(np.arange(first, first + share, dtype=np.int64))


def steps(plan: Plan, batch: int, epochs: float) -> int:
    """Steps of a run of so many epochs: the last step is the one that completes the last epoch."""
    return -int(-epochs * plan.epoch_length // batch)
