"""The order of samples, as a pure function of (seed, epoch, position).

An epoch is a keyed bijection on [0, N): nothing is shuffled, no list is held, and any position of any epoch is
found in constant time. The whole data state of a run is therefore its step.

With a window the order is local, for storage that seeks slowly: an epoch permutes blocks of neighbouring items (those
of one shard) and then the positions inside windows of so many items. What is held is a table with a row a block.

For storage that is only read from the begin of a shard to its end, the order of blocks is cut into streams: each is a
stretch of it, with windows of its own, and a step takes as many examples of each stream. Whoever reads some of the
streams reads their shards alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from laconvnet.pipeline.errors import ConfigError

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
    """The image of each position (N,) under the bijection on [0, size) that ``key`` names.

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
    """For each item (N,) one of its ``counts`` (N,) alternatives, from 0, as a function of key and item alone."""
    return (_mix_array(items.astype(np.uint64), key) % counts.astype(np.uint64)).astype(np.int64)


@dataclass(frozen=True)
class Plan:
    """The endless stream of items of several sets, mixed by weight.

    ``sizes`` are the items of each set, ``weights`` how often an epoch passes over each: 1 shows every item once,
    2 twice, 0.5 each item every second epoch. Items are numbered set after set. ``window`` is 0 for an order over the
    whole epoch; else ``blocks`` are the first items of the blocks that the local order keeps together, ascending, each
    within one set. A window should hold the items of many blocks: it is all that their order is mixed by.

    ``streams`` is 0, or a number of streams that a batch is dealt from in equal parts; each has windows of its own.
    The order is the same on any number of processes that divides theirs.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int
    window: int = 0
    blocks: Positions = field(default_factory=lambda: np.empty(0, np.int64), repr=False, compare=False)
    streams: int = 0

    def __post_init__(self) -> None:
        if self.epoch_length == 0:
            raise ConfigError("data: nothing to train on: no item of this task in the chosen split; see `shards info`")
        if self.window:
            starts = np.cumsum((0, *self.sizes[:-1]))[np.array(self.sizes) > 0]
            assert np.isin(starts, self.blocks).all(), "a block lies within one set"

    @property
    def shares(self) -> tuple[int, ...]:
        """Items of each set in one epoch: size times weight, rounded, but at least one where the set has any."""
        pairs = zip(self.sizes, self.weights, strict=True)
        return tuple(max(1, round(size * weight)) if size else 0 for size, weight in pairs)

    @property
    def epoch_length(self) -> int:
        return sum(self.shares)

    def items(self, stream: Positions) -> tuple[Positions, Positions]:
        """Items and epoch passes, both (N,), at these positions (N,) of the stream.

        The epoch pass counts how often the item's set has been passed over before: with the item's number it seeds
        whatever is drawn anew in each pass.
        """
        if self.window:
            return self._local(stream)
        length = self.epoch_length
        epochs = stream // length
        within = np.empty_like(stream)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            within[here] = permute(stream[here] % length, length, mix(self.seed, 1, int(epoch)))
        items, epoch_passes = np.empty_like(stream), np.empty_like(stream)
        ends = np.cumsum(self.shares)
        which = np.searchsorted(ends, within, side="right")
        starts = np.cumsum((0, *self.sizes[:-1]))
        for number in np.unique(which):
            here = which == number
            size, share = self.sizes[number], self.shares[number]
            turn = epochs[here] * share + within[here] - (ends[number] - share)
            passes = turn // size
            chosen = np.empty_like(turn)
            for epoch_pass in np.unique(passes):
                now = passes == epoch_pass
                chosen[now] = permute(turn[now] % size, size, mix(self.seed, 2, int(number), int(epoch_pass)))
            items[here], epoch_passes[here] = starts[number] + chosen, passes
        return items, epoch_passes

    def _local(self, stream: Positions) -> tuple[Positions, Positions]:
        """As `items`, in the order of permuted blocks and windows."""
        items, epoch_passes = np.empty_like(stream), np.empty_like(stream)
        epochs, places = self.places(stream)
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            ends, firsts, passes = self._layout(epoch)
            piece = np.searchsorted(ends, places[here], side="right")
            items[here] = firsts[piece] + places[here] - np.where(piece > 0, ends[piece - 1], 0)
            epoch_passes[here] = passes[piece]
        return items, epoch_passes

    def places(self, stream: Positions) -> tuple[Positions, Positions]:
        """Epochs and places in the order of their blocks, both (N,), of these positions (N,) of a local order."""
        epochs, within = np.divmod(stream, self.epoch_length)
        indices, parts = np.divmod(within, self._parts)
        windows, inside = np.divmod(indices, self.window)
        places = np.empty_like(stream)
        numbered = (epochs * self._parts + parts) * (self.epoch_length // self.window + 1) + windows
        for at, number in zip(*np.unique(numbered, return_index=True)[::-1], strict=True):
            epoch, part, window = int(epochs[at]), int(parts[at]), int(windows[at])
            now = numbered == number
            first = window * self.window
            size = min(self.window, self._length(part) - first)
            key = mix(self.seed, 7, epoch, window, *((part,) if self.streams else ()))
            places[now] = self._begin(part) + first + permute(inside[now], size, key)
        return epochs, places

    def blocks_at(self, epoch: int, places: Positions) -> Positions:
        """The numbers (N,), in their order in this epoch, of the blocks at these places (N,) of it."""
        return np.searchsorted(self._layout(epoch)[0], places, side="right")

    def windows(self, stream: int, first: int, stop: int) -> Iterator[Positions]:
        """Positions (N,) of the examples from ``first`` to ``stop`` of a stream, over all epochs, window by window.

        Of a window that begins before ``first`` those that are left.
        """
        while first < stop:
            within = (first * self.streams + stream) % self.epoch_length
            index, part = divmod(within, self.streams)
            left = min(self.window - index % self.window, self._length(part) - index, stop - first)
            yield np.arange(first, first + left, dtype=np.int64) * self.streams + stream
            first += left

    # An epoch in a local order is cut into parts, one a stream. Where its length is no multiple of theirs some have an
    # item more, and in the next epoch a stream goes on with another part: the positions of a stream stay its own.

    @property
    def _parts(self) -> int:
        return max(1, self.streams)

    def _length(self, part: int) -> int:
        return -(-(self.epoch_length - part) // self._parts)

    def _begin(self, part: int) -> int:
        each, more = divmod(self.epoch_length, self._parts)
        return part * each + min(part, more)

    @cached_property
    def _layout(self) -> Callable[[int], tuple[Positions, Positions, Positions]]:
        # Kept per plan; two epochs, for a step that reaches over their border.
        return lru_cache(maxsize=2)(self._lay_out)

    def _lay_out(self, epoch: int) -> tuple[Positions, Positions, Positions]:
        """The blocks of one epoch in their order: where each ends in the epoch, its first item, and its epoch pass.

        A set's passes follow each other, each with its blocks in an order of its own, and an epoch takes the next
        ``shares`` of their items: a block at either end may be cut.
        """
        lengths, firsts, passes = [], [], []
        starts = np.cumsum((0, *self.sizes))
        bounds = np.searchsorted(self.blocks, starts)
        for number, (size, share) in enumerate(zip(self.sizes, self.shares, strict=True)):
            if not share:
                continue
            begins = self.blocks[bounds[number] : bounds[number + 1]]
            long = np.diff(np.append(begins, starts[number + 1]))
            for epoch_pass in range(epoch * share // size, -(-(epoch + 1) * share // size)):
                key = mix(self.seed, 2, number, epoch_pass)
                order = permute(np.arange(len(begins), dtype=np.int64), len(begins), key)
                stop = epoch_pass * size + np.cumsum(long[order])
                start = stop - long[order]
                low, high = np.maximum(start, epoch * share), np.minimum(stop, (epoch + 1) * share)
                kept = low < high
                lengths.append((high - low)[kept])
                firsts.append((begins[order] + low - start)[kept])
                passes.append(np.full(kept.sum(), epoch_pass, np.int64))
        length, first, epoch_passes = (np.concatenate(parts) for parts in (lengths, firsts, passes))
        order = permute(np.arange(len(length), dtype=np.int64), len(length), mix(self.seed, 6, epoch))
        return np.cumsum(length[order]), first[order], epoch_passes[order]

    def step(self, step: int, batch: int, rank: int, world: int) -> tuple[Positions, Positions]:
        """Items and epoch passes, both (batch / world,), of one rank in one step.

        They are its slice of the positions [step * batch, (step + 1) * batch); with streams, of these positions stream
        by stream.
        """
        share = batch // world
        places = np.arange(rank * share, (rank + 1) * share, dtype=np.int64)
        if self.streams:
            stream, turn = np.divmod(places, batch // self.streams)
            places = turn * self.streams + stream
        return self.items(step * batch + places)


def steps(plan: Plan, batch: int, epochs: float) -> int:
    """Steps of a run of so many epochs: the last step is the one that completes the last epoch."""
    return -int(-epochs * plan.epoch_length // batch)
