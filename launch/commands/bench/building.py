"""The building of shards, beside the least that writes the same members: webdataset's own writer."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import webdataset

from laconvnet.kernels.bench import Row
from laconvnet.kernels.bench.timing import processor
from laconvnet.pipeline.bench.rows import rows_of, surroundings
from laconvnet.shards.build.builder import build
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.sources import get
from laconvnet.shards.synthetic.layouts import refer

BASELINE, OURS = "webdataset.ShardWriter", "shards build"
SOURCE = "refcoco"
_SHARD_BYTES = 64 << 20


class Building:
    """A generated data set in RefCOCO's layout under ``place``, of so many images of ``size`` pixels a side."""

    def __init__(self, place: Path, pictures: int, size: int, workers: int) -> None:
        raw = place / "raw"
        self.root, self.workers = raw / "refer", workers
        refer.write(raw, {"train": pictures}, size, 0, lambda: None)
        built = place / "built"
        self.ours(built)
        self.members = list(_members(Manifest.open(built), raw / refer.PICTURES))

    def ours(self, out: Path) -> None:
        """Annotations are read, every image is decoded and checked; tars, index and manifest are written, synced."""
        source = get(SOURCE)
        samples = source.samples(self.root, images=None, splits=None, partition=None)
        build(
            samples,
            out,
            source=source.name,
            licence=source.licence,
            options={},
            shard_bytes=_SHARD_BYTES,
            workers=self.workers,
            progress=False,
        )

    def theirs(self, out: Path) -> None:
        """Every image file is read and written with the JSON text that was made before; nothing is checked."""
        out.mkdir()
        with webdataset.ShardWriter(f"{out}/shard-%06d.tar", maxsize=_SHARD_BYTES, verbose=0) as writer:
            for key, extension, file, text in self.members:
                writer.write({"__key__": key, extension: file.read_bytes(), "json": text})


def _members(manifest: Manifest, pictures: Path) -> Iterator[tuple[str, str, Path, bytes]]:
    """Key, extension, image file and JSON text of every sample."""
    columns = (manifest.samples[name].to_pylist() for name in ("key", "image_ext", "file_name"))
    for row, (key, extension, file) in enumerate(zip(*columns, strict=True)):
        yield key, extension, pictures / file, manifest.read_member(row, "json")


def rows(pictures: int, size: int, workers: int, rounds: int, done: Callable[[], object]) -> list[Row]:
    """A row a way: ms an image, and pictures_per_s; the ways take turns, after one round to warm up.

    ``done`` is called after every set that is written, 2 * (rounds + 1) times.
    """
    with tempfile.TemporaryDirectory() as place:
        building = Building(Path(place), pictures, size, workers)
        ways = {BASELINE: building.theirs, OURS: building.ours}
        shape: dict[str, Any] = {
            "source": SOURCE,
            "pictures": len(building.members),
            "size": size,
            "workers": workers,
            "picture_bytes": sum(file.stat().st_size for _, _, file, _ in building.members),
        }
        return compared(ways, BASELINE, Path(place), shape, rounds, done)


def compared(
    ways: Mapping[str, Callable[[Path], object]],
    baseline: str,
    place: Path,
    shape: Mapping[str, Any],
    rounds: int,
    done: Callable[[], object],
    before: Callable[[], object] = lambda: None,
) -> list[Row]:
    """A row a way, each of which is given a path under ``place`` where nothing is: ms an image and pictures_per_s.

    The ways take turns, after one round to warm up; ``before`` each is called what is not timed, and ``done`` behind.
    cpu_ms is what this process computes, in all its threads: it hardly depends on who else does. ``shape`` is put into
    the rows.
    """
    values: dict[str, list[float]] = {name: [] for name in ways}
    computed: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(dir=place) as out:
                before()
                start, used = time.perf_counter(), time.process_time()
                way(Path(out) / "set")
                taken, used = time.perf_counter() - start, time.process_time() - used
            if turn:
                values[name].append(1e3 * taken / shape["pictures"])
                computed[name].append(1e3 * used / shape["pictures"])
            done()
    where = {"device": processor(), **surroundings()}
    return [
        {
            "bench": "shards",
            **row,
            "pictures_per_s": 1e3 / row["median"],
            "cpu_ms": statistics.median(computed[row["name"]]),
            **shape,
            **where,
        }
        for row in rows_of(values, baseline, "ms an image")
    ]
