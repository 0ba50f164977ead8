"""A run of many ranks over very many samples, measured and simulated on one machine.

The plan is a function, so a rank of a large run can be asked for its samples without the others being there: what it
costs to ask, whether all ranks together show each sample once, and which files and bytes they read (`reads`). The size
of the state (`state`) and the files opened at a start (`opened`) stand beside it.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laconvnet.kernels.bench import Row, compare
from laconvnet.pipeline.bench import begun, opened, reads, state
from laconvnet.pipeline.bench.made import images, made_set
from laconvnet.pipeline.bench.reads import ORDERS, Layout
from laconvnet.pipeline.bench.rows import counted, surroundings
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.plan import Plan
from laconvnet.shards.format.manifest import EXAMPLES_MAP, SAMPLES_MAP

WORLDS = (1, 8, 64)
LEAST_STEPS = 2 * reads.STEPS  # of an epoch: reads are looked at from its middle on
_CPU = torch.device("cpu")
_SOUGHT = 16  # steps of the large run that all ranks are asked for
_WHOLE = 65_536  # samples of the epoch that is walked through by all ranks
_COUNTED = 20_000  # samples of the set whose tables are weighed
_MOST = 2_000_000  # samples of one rank that an epoch's shards are counted from


@dataclass(frozen=True)
class Scale:
    """What is simulated: ``share`` samples of a rank in each step, ``rate`` GB/s that checkpoints are written with."""

    samples: int = 10**9
    ranks: int = 512
    share: int = 16
    window: int = 10**6
    shard_bytes: int = 256 * 2**20
    rate: float = 1.0

    @property
    def worlds(self) -> list[int]:
        return [*(world for world in WORLDS if world < self.ranks), self.ranks]


PARTS = ("ids", "exact", "reads", "epoch", "tables", "checkpoint", "start", "norm")


def rows(scale: Scale, rounds: int) -> Iterator[list[Row]]:
    """Yields the rows of each of `PARTS`.

    A row has name, baseline, ratio (the baseline's median by the row's), median, spread, unit, device and note as those
    of `kernels.bench.compare`, with ``bench`` (the part), ``measure``, world, what was simulated, and `surroundings`.
    """
    layout = Layout(scale.samples, shard_bytes=scale.shard_bytes)
    made: dict[str, Iterable[Row]] = {
        "ids": ids(scale, layout, rounds),
        "exact": exact(scale, layout),
        "reads": reading(scale, layout),
        "epoch": _of(scale.ranks, reads.in_an_epoch(layout, scale.window, scale.ranks, scale.share, _MOST)),
        "tables": tables(scale),
        "checkpoint": _of(scale.ranks, state.rows(scale.rate, scale.ranks, rounds)),
        "start": _of(scale.ranks, starting(scale, len(layout.starts))),
        "norm": begun.statistics(),
    }
    common: Row = {"samples": scale.samples, "shards": len(layout.starts), "share": scale.share, "window": scale.window}
    common |= surroundings(_CPU)
    for part in PARTS:
        yield _against(list(made[part]), {"bench": part, **common})


def _of(world: int, found: Iterable[Row]) -> Iterator[Row]:
    return ({**row, "world": world} for row in found)


def _against(found: list[Row], common: Row) -> list[Row]:
    """The rows with their baseline, the reading of shard after shard, where that was measured beside them."""
    bases = {(row["measure"], row["world"]): row["median"] for row in found if row["name"] == ORDERS[0]}
    table = []
    for row in found:
        theirs = bases.get((row["measure"], row["world"]))
        ratio = theirs / row["median"] if theirs is not None and row["median"] else None
        told = {"baseline": ORDERS[0] if theirs is not None else None, "ratio": ratio, "note": None}
        table.append({**common, **told, **row})
    return table


def ids(scale: Scale, layout: Layout, rounds: int) -> Iterator[Row]:
    """Time and memory to find the samples of one rank in any step, and to begin an epoch in windows."""
    plans = {ORDERS[1]: layout.plan(), ORDERS[2]: layout.plan(scale.window)}
    sought = np.random.default_rng(2).integers(0, layout.samples // (scale.share * scale.ranks), _SOUGHT).tolist()
    for world in scale.worlds:
        asked = {name: partial(_last_of, plan, cycle(sought), scale.share, world) for name, plan in plans.items()}
        for row in compare({name: {"ids": ask} for name, ask in asked.items()}, ORDERS[1], _CPU, rounds):
            yield _timed(row, "ids of a rank's step", world)
        for name, ask in asked.items():
            yield counted(name, "memory of that", _peak(ask) / 1e3, "kB", world=world)

    def begin(_: Any = None) -> Any:
        return layout.plan(scale.window).step(0, scale.share, 0, 1)

    for row in compare({ORDERS[2]: {"ids": begin}}, ORDERS[2], _CPU, rounds):
        yield _timed(row, "ids at an epoch's begin", scale.ranks)
    yield counted(ORDERS[2], "memory of that begin", _peak(begin) / 1e3, "kB", world=scale.ranks)


def _last_of(plan: Plan, steps: Iterator[int], share: int, world: int, _: Any = None) -> Any:
    """What the last rank of a world is given in the next of these steps."""
    return plan.step(next(steps), share * world, world - 1, world)


def _timed(row: Row, measure: str, world: int) -> Row:
    kept = {key: row[key] for key in ("name", "baseline", "ratio", "median", "spread", "unit")}
    return {**kept, "measure": measure, "world": world}


def exact(scale: Scale, layout: Layout) -> Iterator[Row]:
    """Samples shown twice or not at all by all ranks together: in steps of the large run, and in a whole small epoch.

    Each is looked at as the ranks of every world see it, with one global batch; those of all worlds must agree.
    """
    batch = scale.share * scale.ranks
    worlds = [world for world in scale.worlds if batch % world == 0]
    small = Layout(min(_WHOLE, layout.samples) // batch * batch or batch, shard_bytes=scale.shard_bytes // 64)
    last = layout.samples // batch
    some = np.unique(np.random.default_rng(3).integers(0, last, _SOUGHT)).tolist()
    for name, window in ((ORDERS[1], 0), (ORDERS[2], scale.window)):
        large = layout.plan(window)
        near = small.plan(min(window, max(1, small.samples // 8)))
        alone = np.concatenate([_step(large, step, batch, 1) for step in some])
        for world in worlds:
            shown = np.concatenate([_step(large, step, batch, world) for step in some])
            found = {
                "shown twice": len(shown) - len(np.unique(shown)),
                "no sample": int(((shown < 0) | (shown >= layout.samples)).sum()),
                "other than for one rank": int((shown != alone).sum()),
            }
            for measure, value in found.items():
                yield counted(name, f"{measure}, {len(some)} steps", value, "samples", world=world)
            walked = np.concatenate([_step(near, step, batch, world) for step in range(small.samples // batch)])
            counts = np.bincount(walked[(walked >= 0) & (walked < small.samples)], minlength=small.samples)
            wrong = int((counts != 1).sum())
            yield counted(name, f"not once, epoch of {small.samples:,}", wrong, "samples", world=world)


def _step(plan: Plan, step: int, batch: int, world: int) -> Any:
    return np.concatenate([plan.step(step, batch, rank, world)[0] for rank in range(world)])


def reading(scale: Scale, layout: Layout) -> Iterator[Row]:
    """Files, bytes and hot shards of every world."""
    for world in scale.worlds:
        for part in (reads.read_by, reads.evenness):
            yield from _of(world, part(layout, scale.window, world, scale.share))


def tables(scale: Scale) -> Iterator[Row]:
    """What the processes of a node map together of the manifest, and what each holds for itself.

    Weighed on a small set with one expression an image.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = made_set(Path(place), images(1, 64, 64), _COUNTED, 64, 64)
        examples = Examples.open(folder, "expression", "train")
        items = Items.of(examples, 0)
        mapped = {name: found["bytes"] for name, found in examples.manifest.meta["tables"].items()}
        held = {
            "samples' table, mapped": mapped[SAMPLES_MAP],
            "examples' table, mapped": mapped[EXAMPLES_MAP],
            "order of items, in each process": items.nbytes,
            "files on disk": sum(mapped.values()) + sum(file.stat().st_size for file in folder.glob("*.parquet")),
        }
    note = f"{_COUNTED:,} samples weighed; real texts and keys are longer or shorter"
    for name, size in held.items():
        each = size / _COUNTED
        yield counted(name, "of a sample", each, "bytes", world=1, note=note)
        yield counted(name, "of all", each * scale.samples / 1e9, "GB", world=1, note=note)


def starting(scale: Scale, shards: int) -> Iterator[Row]:
    """What a start takes of the file system and of rank 0."""
    yield from opened.rows(scale.ranks)
    yield from begun.looks(scale.ranks, shards)
    yield from begun.vocabulary(scale.samples)


def _peak(work: Callable[[], Any]) -> int:
    """Bytes that this took at most."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak
