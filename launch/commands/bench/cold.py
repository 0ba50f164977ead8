"""Batches read from shards that are not in the system's memory: in the order of a plan, beside one after the other."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laconvnet.kernels.bench import Row
from laconvnet.launch.commands.bench.building import compared
from laconvnet.launch.commands.bench.writing import HEIGHT, WIDTH
from laconvnet.pipeline.bench.made import images, made_set
from laconvnet.pipeline.data.plan import Plan
from laconvnet.pipeline.data.reader import Reader
from laconvnet.shards.format.manifest import Manifest

THREADS = 2
_BATCH = 32
_DIFFERENT = 16

Batches = list[NDArray[np.int64]]


class Unannounced(Reader):
    """One that does not tell the system what it is about to read."""

    def _announce(self, *_: Any) -> None:
        pass


def rows(pictures: int, rounds: int, done: Callable[[], object]) -> list[Row]:
    """Rows of reading every image once: in the order of the shard (the baseline), and in that of a plan.

    Before each, the system is asked to drop what it holds of the shard (posix_fadvise, DONTNEED); ``from_disk`` tells
    the bytes that came from the disk, as a share of the images': what is 1 was read cold. What the disk or a host below
    holds itself, nobody here can drop.
    """
    count = -(-pictures // _BATCH) * _BATCH
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        encoded = images(min(count, _DIFFERENT), WIDTH, HEIGHT)
        manifest = Manifest.open(made_set(folder, encoded, count, WIDTH, HEIGHT, tars=1))
        plan = Plan((count,), (1.0,), 0)
        steps = range(count // _BATCH)
        straight: Batches = [np.arange(step * _BATCH, (step + 1) * _BATCH) for step in steps]
        planned: Batches = [plan.step(step, _BATCH, 0, 1)[0] for step in steps]
        from_disk: dict[str, list[int]] = defaultdict(list)

        def reading(name: str, kind: type[Reader], batches: Batches) -> Callable[[Path], object]:
            def way(_: Path) -> None:
                before = _disk_bytes()
                with kind(manifest, THREADS) as reader:
                    for batch in batches:
                        reader.read(batch)
                from_disk[name].append(_disk_bytes() - before)

            return way

        kinds: dict[str, tuple[type[Reader], Batches]] = {
            "sequential": (Reader, straight),
            "plan order": (Reader, planned),
            "plan order, not announced": (Unannounced, planned),
        }
        ways = {name: reading(name, *kind) for name, kind in kinds.items()}
        total = int(np.sum(manifest.sample_columns.numbers("image_length", np.arange(count))))
        shape = {"measure": "reads", "pictures": count, "size": WIDTH, "workers": THREADS, "picture_bytes": total}
        found = compared(ways, "sequential", folder, shape, rounds, done, lambda: _dropped(manifest))
        return [row | {"from_disk": statistics.median(from_disk[row["name"]]) / total} for row in found]


def _disk_bytes() -> int:
    """What this process has had fetched from disks, as Linux counts it."""
    found = re.search(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _dropped(manifest: Manifest) -> None:
    for shard in manifest.shard_paths:
        with shard.open("rb") as file:
            os.fsync(file.fileno())  # what is not on the disk is not dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
