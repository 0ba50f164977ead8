"""A shard set against the ranks that would read it: batch, shards, window, files and memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import TYPE_CHECKING

from laconvnet.launch.doctor.check import GIB, Check, PlannedRun
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.errors import InputError

if TYPE_CHECKING:
    from laconvnet.pipeline.config import TrainConfig
    from laconvnet.pipeline.data.examples import Items
    from laconvnet.pipeline.data.plan import Plan

FEW_SHARDS = 4  # that a window should hold the items of, at the least


def planned(planned_run: PlannedRun) -> Iterator[Check]:
    """What a run of this configuration does with its set before step 1, and what of it does not fit the ranks."""
    if planned_run.config is None:
        return
    from laconvnet.pipeline.training.session import Source  # needs torch

    try:
        source = Source.open(planned_run.config)
    except (ConfigError, InputError) as error:
        yield Check("set", "error", str(error), "training would stop at it")
        return
    examples, plan = source.examples, source.items.plan
    shards = len(examples.manifest.shard_paths)
    found = f"{len(examples.rows):,} {examples.kind}s of {examples.split!r} as {plan.epoch_length:,} items"
    yield Check("set", "ok", f"{found} in {shards:,} shards at {examples.manifest.folder}")
    yield batch(planned_run.config, plan, planned_run.processes)
    yield spread(planned_run.config, shards, planned_run.processes)
    yield window(planned_run.config, plan, shards)
    yield from streams(planned_run.config, shards, planned_run.processes)
    yield from memory(source.items, planned_run)


def batch(config: TrainConfig, plan: Plan, processes: int) -> Check:
    """The batch against ranks and micro-batches, and the items against the batch."""
    size, pieces = config.data.batch, processes * config.engine.accumulate
    where = f"{size} examples over {processes} processes"
    where += f" of {config.engine.accumulate} micro-batches" if config.engine.accumulate > 1 else ""
    if size % pieces:
        near = max(pieces, round(size / pieces) * pieces)
        return Check("batch", "error", f"{where} do not divide", f"set data.batch to a multiple of {pieces}: {near}")
    each = size // pieces
    if plan.epoch_length < size:
        meaning = "a step would show items more than once: a smaller data.batch, or a larger set"
        return Check("batch", "warning", f"{where}: more than the {plan.epoch_length:,} items of an epoch", meaning)
    return Check("batch", "ok", f"{where}: {each} each, {plan.epoch_length / size:,.0f} steps an epoch")


def spread(config: TrainConfig, shards: int, processes: int) -> Check:
    """Shards against those that read them at once. Samples are dealt out, not shards: any number gives equal steps."""
    readers = processes * config.data.threads
    found = f"{shards:,} shards for {processes} processes of {config.data.threads} threads"
    if shards < readers:
        meaning = "several read one file at once, which one storage target may serve: build with fewer --shard-bytes"
        return Check("shards", "warning", found, meaning)
    return Check("shards", "ok", found)


def window(config: TrainConfig, plan: Plan, shards: int) -> Check:
    """The local order against batch and shards; without one, the files of a process against its shards."""
    size = config.data.window
    if not size:
        granted, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        kept = granted // 2 if granted != resource.RLIM_INFINITY else shards
        if shards > kept:
            meaning = f"`ulimit -n {2 * shards}`, or a data.window of the items of some shards"
            found = f"none: a process reads all {shards:,} shards and keeps {kept:,} open, so it opens files anew"
            return Check("window", "warning", found, meaning)
        return Check("window", "ok", f"none: a process reads all {shards:,} shards, and keeps them open")
    each = plan.epoch_length / max(1, len(plan.blocks))
    found = f"{size:,} items, those of {size / each:,.1f} shards"
    if size < config.data.batch:
        meaning = f"set data.window to {FEW_SHARDS * max(config.data.batch, round(each)):,} or more, or to 0"
        return Check("window", "warning", f"{found}, fewer than a batch of {config.data.batch}", meaning)
    if size < FEW_SHARDS * each and size < plan.epoch_length:
        meaning = f"what stands together in a shard is seen together: set data.window to {round(FEW_SHARDS * each):,}"
        return Check("window", "warning", found, meaning)
    return Check("window", "ok", found)


def streams(config: TrainConfig, shards: int, processes: int) -> Iterator[Check]:
    """Streams of shards against the processes that share them, and the shards that they are stretches of."""
    count = config.data.streams
    if not count:
        return
    found = f"{count} for {processes} processes, of {shards:,} shards"
    if count % processes:
        yield Check("streams", "error", found, f"set data.streams to a multiple of {processes}")
    elif count > shards:
        yield Check("streams", "warning", found, "several read each shard: fewer streams, or a smaller --shard-bytes")
    else:
        yield Check("streams", "ok", found)


def memory(items: Items, planned_run: PlannedRun) -> Iterator[Check]:
    """What a node holds of the set, against the memory of this machine: its tables once, the order in each process."""
    import psutil

    from laconvnet.launch.doctor.machine import memory_limit

    manifest = items.examples.manifest
    tables = manifest.samples.nbytes + manifest.examples.nbytes
    order = items.nbytes
    room = psutil.virtual_memory().available
    room = min(room, memory_limit() or room)
    found = (
        f"{order / GIB:.2f} GiB of order in each of {planned_run.local} processes of a node, {tables / GIB:.2f} GiB of "
    )
    found += f"mapped tables for all; {room / GIB:.1f} GiB free"
    if order * planned_run.local > room:
        yield Check("set memory", "error", found, "fewer processes a node, nodes of more memory, or a smaller set")
    elif order * planned_run.local + tables > room:
        yield Check("set memory", "warning", found, "tables are read again from disk when the kernel drops them")
    elif order * planned_run.local + tables > room / 2:
        yield Check("set memory", "warning", found, "images, batches and the network come on top")
    else:
        yield Check("set memory", "ok", found)
