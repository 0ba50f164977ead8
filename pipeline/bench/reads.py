"""What the order of samples asks of storage: files, bytes and hot files, simulated from the plan without any data.

Three orders are compared: whole shards one after the other, which a stream of tar files would read (the baseline); the
plan's order over the whole epoch; and its order in windows. Ranks read what `Plan.step` gives them, files stay open as
in `Reader`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from laconvnet.kernels.bench import Row
from laconvnet.pipeline.bench.rows import counted
from laconvnet.pipeline.data.plan import Plan, Positions

NODE = 8  # ranks of a node
BLOCK = 1 << 20  # what a file system fetches at once
STEPS = 1000
KEPT = 512  # files that a rank keeps open: half of the usual limit of 1,024
EVEN = 32  # steps whose reads are counted over all ranks
ORDERS = ("shard after shard", "whole epoch", "in windows")


@dataclass(frozen=True)
class Layout:
    """Samples in shards: every shard holds about ``shard_bytes`` of images of ``picture_bytes`` on average.

    The average image differs from shard to shard, and with it how many fit; nothing is held by sample.
    """

    samples: int
    image_bytes: int = 110_000
    shard_bytes: int = 256 * 2**20

    @cached_property
    def starts(self) -> Positions:
        """The first sample of each shard, (shards,)."""
        mean = max(1, self.shard_bytes // self.image_bytes)
        drawn = np.random.default_rng(0).normal(1, 0.1, -(-self.samples // mean) * 2 + 1).clip(0.7, 1.3)
        starts = np.concatenate(([0], np.cumsum(np.maximum(1, (drawn * mean).astype(np.int64)))))
        return starts[starts < self.samples]

    def shard(self, items: Positions) -> Positions:
        """The shard of each of these samples; both of any shape."""
        return np.searchsorted(self.starts, items, side="right") - 1

    def blocks(self, items: Positions) -> Positions:
        """Every block of a file that holds a byte of these samples, each once: (N,) -> (blocks,), sorted.

        Shards are files of their own: their blocks have numbers apart.
        """
        shard = self.shard(items)
        first = (items - self.starts[shard]) * self.image_bytes
        last = first + self.image_bytes - 1
        each = 4 * (self.shard_bytes // BLOCK + 1)  # more than any shard has
        spans = [first // BLOCK + number for number in range(self.image_bytes // BLOCK + 2)]
        held = [(shard * each + block)[block <= last // BLOCK] for block in spans]
        return np.unique(np.concatenate(held))

    def plan(self, window: int = 0) -> Plan:
        return Plan((self.samples,), (1.0,), 0, window, self.starts)


Order = Callable[[Positions], Positions]


def orders(layout: Layout, window: int) -> dict[str, Order]:
    """Items at positions of the stream, for each of `ORDERS`."""
    whole, local = layout.plan(), layout.plan(window)
    return {
        ORDERS[0]: lambda stream: stream % layout.samples,
        ORDERS[1]: lambda stream: whole.items(stream)[0],
        ORDERS[2]: lambda stream: local.items(stream)[0],
    }


def positions(rank: int, world: int, share: int, steps: Positions) -> Positions:
    """Positions (steps, share) of a rank in the stream: its slice of each step."""
    return (steps * share * world + rank * share)[:, None] + np.arange(share, dtype=np.int64)


def read_by(layout: Layout, window: int, world: int, share: int) -> Iterator[Row]:
    """What one rank and the first node read in `STEPS` steps in the midst of an epoch, in each order."""
    ranks = min(NODE, world)
    middle = layout.samples // (2 * share * world)
    steps = np.arange(middle, middle + STEPS, dtype=np.int64)
    for name, order in orders(layout, window).items():
        if name == ORDERS[0]:  # each rank from a place of its own, on and on
            begins = np.arange(ranks) * (layout.samples // world)
            items = np.stack([order(begin + np.arange(STEPS * share)).reshape(STEPS, share) for begin in begins])
        else:
            places = np.stack([positions(rank, world, share, steps) for rank in range(ranks)])
            items = order(places.ravel()).reshape(places.shape)
        own = layout.shard(items[0])
        asked = items[0].size * layout.image_bytes
        told = {
            "shards of a rank": (len(np.unique(own)), "shards"),
            "files a rank opens": (opened(own), "files"),
            "bytes of a rank": (asked / 1e9, "GB"),
            "fetched for a rank": (len(layout.blocks(items[0].ravel())) * BLOCK / 1e9, "GB"),
            "bytes of a node": (ranks * asked / 1e9, "GB"),
            "fetched for a node": (len(layout.blocks(items.ravel())) * BLOCK / 1e9, "GB"),
        }
        for measure, (value, unit) in told.items():
            yield counted(name, measure, value, unit)


def opened(shards: NDArray[np.int64]) -> int:
    """How often a rank opens a file in these steps (steps, share), when it keeps the `KEPT` that it used last."""
    kept: dict[int, None] = {}
    count = 0
    for step in shards:
        wanted = np.unique(step).tolist()
        for shard in wanted:
            if shard in kept:
                del kept[shard]
            else:
                count += 1
            kept[shard] = None
        for shard in list(kept)[: max(0, len(kept) - max(KEPT, len(wanted)))]:
            del kept[shard]
    return count


def in_an_epoch(layout: Layout, window: int, world: int, share: int, most: int) -> Iterator[Row]:
    """Shards that one rank reads in an epoch, from ``most`` of its samples at most, taken at even distances."""
    total = layout.samples // (share * world)
    steps = np.unique(np.linspace(0, total - 1, min(total, max(1, most // share))).astype(np.int64))
    note = None if len(steps) == total else f"at least: {len(steps):,} of {total:,} steps were looked at"
    for name, order in orders(layout, window).items():
        if name == ORDERS[0]:
            count = -(-len(layout.starts) // world)
        else:
            count = len(np.unique(layout.shard(order(positions(0, world, share, steps).ravel()))))
        told = None if name == ORDERS[0] else note
        yield counted(name, "shards of a rank in an epoch", count, "shards", note=told)


def evenness(layout: Layout, window: int, world: int, share: int) -> Iterator[Row]:
    """How a step's reads of all ranks fall on shards: how many there are, and how often the hottest is read."""
    draw = np.random.default_rng(1)
    steps = np.sort(draw.integers(0, layout.samples // (share * world), EVEN))
    for name, order in orders(layout, window).items():
        found = []
        for step in steps.tolist():
            if name == ORDERS[0]:
                items = (np.arange(world) * (layout.samples // world) + step * share)[:, None] + np.arange(share)
                items = items.ravel() % layout.samples
            else:
                items = order(np.arange(step * share * world, (step + 1) * share * world, dtype=np.int64))
            _, reads = np.unique(layout.shard(items), return_counts=True)
            found.append((len(reads), reads.max()))
        for measure, values, unit in zip(
            ("shards of a step", "hottest shard of a step"), zip(*found, strict=True), ("shards", "reads"), strict=True
        ):
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
            yield counted(name, measure, middle, unit, spread=high - low)
