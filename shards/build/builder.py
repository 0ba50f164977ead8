"""Build a set: plan -> write -> publish, resumable, parallel, the same bytes at any number of workers.

While it is built, a set has a folder ``parts``: each finished shard leaves its share of the tables there. The last
step joins them into quarantine.parquet, the mapped tables, examples.parquet and, last, manifest.parquet; then
``parts`` goes. A run that was killed is continued by running the same command again.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import wait as wait_for_exit
from operator import length_hint
from pathlib import Path
from typing import Any

from laconvnet.progress import Progress
from laconvnet.shards.build.brake import NO_BRAKE, Brake
from laconvnet.shards.build.construction import is_finished, settings_of, under_construction
from laconvnet.shards.build.deadline import deadline
from laconvnet.shards.build.images import content_of
from laconvnet.shards.build.join import Lost, join_parts
from laconvnet.shards.build.plan import SHARD_BYTES, Planner
from laconvnet.shards.build.writer import Chunk, write_shard
from laconvnet.shards.errors import BuildError, InputError
from laconvnet.shards.format.manifest import PARTS, VERSION, Manifest
from laconvnet.shards.format.pictures import sample_row
from laconvnet.shards.format.raw import RawSample

# A shard takes a minute; a file system that hangs for ever must not hang the build with it.
_DEADLINE_SECONDS = 3600


def build(
    samples: Iterable[RawSample],
    out: Path,
    *,
    source: str,
    licence: str,
    options: dict[str, Any],
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: bool = True,
    brake: Brake = NO_BRAKE,
) -> Manifest:
    """Write the set of ``samples`` into ``out``, or finish it, or return it where it is finished already.

    ``options`` are what the user chose (splits, partition, ...): they are stored, and a folder of other options is
    refused. Entries and images that cannot be used go to quarantine.parquet with a reason. Raises InputError for what
    the user can mend, and where ``brake`` finds too much of that, before the manifest is published; BuildError where
    workers hang or die, or entries are unaccounted for (`shards.format.ledger`). A shard that is not finished in an
    hour ends the build; with one worker or one shard, which are work of this process, the process.
    """
    settings = settings_of(source, licence, options, shard_bytes)
    if is_finished(out, settings):
        manifest = Manifest.open(out)
        brake.judge_finished(manifest)
        return manifest
    with under_construction(out, settings, fcntl.LOCK_EX):
        planner = Planner(samples, shard_bytes)
        shards = _write(planner.chunks(), out, workers, length_hint(samples) or None, progress)
        # Nothing of these is stored, but a test image must be known by its content in other sets.
        unread = [sample_row(sample, content_of(sample.image)) for sample in planner.unread]
        lost = Lost(planner.quarantined, [*planner.pictures, *unread], planner.faults)
        meta = {"version": VERSION, **settings, "sets": [_set(source)]}
        join_parts(out, shards, lost, planner.read, meta, brake)
    return Manifest.open(out)


def build_task(
    samples: Iterable[RawSample],
    out: Path,
    *,
    source: str,
    licence: str,
    options: dict[str, Any],
    task: tuple[int, int],
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Write only the shards of task (I, N), 1 <= I <= N, several of which may run at once on several machines.

    `build` with the same arguments then finds all shards written and publishes the set. Where an image has changed
    since the first of the tasks looked at its size, it writes the shards again that have become others by that.
    """
    number, count = task
    if not 1 <= number <= count:
        raise InputError(f"task {number}/{count}: expected I/N with 1 <= I <= N")
    settings = settings_of(source, licence, options, shard_bytes)
    if is_finished(out, settings):
        return
    with under_construction(out, settings, fcntl.LOCK_SH):
        chunks = Planner(samples, shard_bytes, notes=out / PARTS).chunks()
        mine = (chunk for chunk in chunks if chunk.number % count == number - 1)
        _write(mine, out, workers, None, progress)


def _set(source: str) -> dict[str, Any]:
    return {"name": source, "weight": 1.0}


def _write(chunks: Iterator[Chunk], out: Path, workers: int, total: int | None, progress: bool) -> int:
    """Write all chunks; returns how many there are."""
    if workers < 1:
        raise InputError(f"workers {workers}, expected at least 1")
    with Progress(total=total, unit="image", desc="shards", disable=not progress) as bar:
        shards, chunks = _first_of(chunks, workers)
        # Where there are fewer shards than workers, several look at the images of one.
        threads = -(-workers // max(shards, 1))
        if shards <= 1:
            return _write_here(chunks, out, threads, bar)
        return _write_in_pool(chunks, out, shards, threads, bar)


def _first_of(chunks: Iterator[Chunk], most: int) -> tuple[int, Iterator[Chunk]]:
    """How many there are, counted up to ``most``, and all of them."""
    first = tuple(islice(chunks, most))
    return len(first), chain(first, chunks)


def _write_here(chunks: Iterator[Chunk], out: Path, threads: int, bar: Progress) -> int:
    count = 0
    for chunk in chunks:
        with deadline(_DEADLINE_SECONDS, _overdue(out, chunk)):
            bar.update(write_shard(out, chunk, threads))
        count += 1
    return count


def _write_in_pool(chunks: Iterator[Chunk], out: Path, processes: int, threads: int, bar: Progress) -> int:
    count = 0
    with _pool(processes, out) as pool:
        pending: set[Future[int]] = set()
        for chunk in chunks:
            # One chunk more than there are processes, so that none waits, and no further: the source is a stream.
            if len(pending) > processes:
                pending = _finish_some(pending, out, bar)
            pending.add(pool.submit(write_shard, out, chunk, threads))
            count += 1
        while pending:
            pending = _finish_some(pending, out, bar)
    return count


def _overdue(out: Path, chunk: Chunk) -> str:
    first, last = chunk.samples[0].image, chunk.samples[-1].image
    return (
        f"{out}: shard {chunk.number} was not finished in {_DEADLINE_SECONDS} s: the file system hangs, or an image of"
        f" those from {first} to {last}; the same command goes on from there"
    )


def _finish_some(pending: set[Future[int]], out: Path, bar: Progress) -> set[Future[int]]:
    done, rest = wait(pending, timeout=_DEADLINE_SECONDS, return_when=FIRST_COMPLETED)
    if not done:
        raise BuildError(f"{out}: no shard was finished in {_DEADLINE_SECONDS} s; run the same command again")
    for future in done:
        bar.update(future.result())
    return rest


@contextmanager
def _pool(workers: int, out: Path) -> Iterator[ProcessPoolExecutor]:
    """A process pool that goes at once when the block raises, and when this process is killed."""
    before = set(multiprocessing.active_children())
    # spawn: the caller may have threads (tqdm's monitor, a test runner's), which fork would copy in any state.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield pool
    except BaseException as error:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()  # what it was writing has a temporary name, which the caller removes
        if isinstance(error, BrokenProcessPool):
            raise BuildError(
                f"{out}: a worker was killed, perhaps for memory; run the same command again, with fewer --workers"
            ) from error
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # A terminal and a scheduler signal every process; the parent decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_exit([parent.sentinel])
    os._exit(1)
