"""The parts of a build beside what they could cost at least, on images as large as photographs.

* pass-through: tars, index and tables of shards, with checksums, without decoding; beside webdataset's writer, which is
  given JSON texts made before and computes no checksum; both sync what they write to the disk;
* decode: a whole build, whose every image is decoded and checked, beside the build's decoder alone on the same files;
* small: a set of one shard by one worker, and by several.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import webdataset

from laconvnet.files import sync
from laconvnet.images import read_bytes
from laconvnet.kernels.bench import Row
from laconvnet.launch.commands.bench.building import BASELINE, compared
from laconvnet.pipeline.bench.made import images
from laconvnet.shards.build import jpeg
from laconvnet.shards.build.builder import build
from laconvnet.shards.build.content import file_content
from laconvnet.shards.build.examine import Examined
from laconvnet.shards.build.images import StoredImage
from laconvnet.shards.build.plan import SHARD_BYTES, Planner
from laconvnet.shards.build.writer import write_shard
from laconvnet.shards.format.manifest import PARTS
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Record, Region

WIDTH, HEIGHT = 640, 480
SMALL = 60  # images of the small set: fewer than a shard
_DIFFERENT = 16
_EXPRESSIONS = 3


def pass_through(pictures: int, rounds: int, done: Callable[[], object]) -> list[Row]:
    """Two rows: webdataset's writer, and that of a shard."""
    with photographs(pictures) as (samples, place):
        chunks = list(Planner(samples, SHARD_BYTES).chunks())
        members = [(sample.record.key, sample.image, sample.record.to_json()) for sample in samples]

        def ours(out: Path) -> None:
            (out / PARTS).mkdir(parents=True)
            for chunk in chunks:
                write_shard(out, chunk, look=undecoded)

        def theirs(out: Path) -> None:
            out.mkdir()
            options = {"maxsize": SHARD_BYTES, "verbose": 0, "post": lambda name: sync(Path(name))}
            with webdataset.ShardWriter(f"{out}/shard-%06d.tar", **options) as writer:
                for key, file, text in members:
                    writer.write({"__key__": key, "jpg": file.read_bytes(), "json": text})
            sync(out)

        ways = {BASELINE: theirs, "shard writer": ours}
        shape = _shape(samples, "pass-through", 1)
        return compared(ways, BASELINE, place, shape, rounds, done)


def undecoded(sample: RawSample) -> Examined:
    """What a build finds of a sound image, but for what only its pixels tell."""
    data, record = read_bytes(sample.image), sample.record
    content = file_content(data)
    return Examined([], content, record, StoredImage(data, "jpg", record.width, record.height, content))


def decode(pictures: int, rounds: int, done: Callable[[], object]) -> list[Row]:
    """Two rows, both of one process: the decoder, and the build."""
    with photographs(pictures) as (samples, place):

        def bare(_: Path) -> None:
            for sample in samples:
                jpeg.decoded(read_bytes(sample.image))

        ways = {"bare decoder": bare, "shards build": building(samples, 1)}
        return compared(ways, "bare decoder", place, _shape(samples, "decode", 1), rounds, done)


def small(workers: int, rounds: int, done: Callable[[], object]) -> list[Row]:
    """A row for one worker, and one for several."""
    with photographs(SMALL) as (samples, place):
        ways = {"1 worker": building(samples, 1), f"{workers} workers": building(samples, workers)}
        return compared(ways, "1 worker", place, _shape(samples, "small", workers), rounds, done)


def building(samples: list[RawSample], workers: int) -> Callable[[Path], object]:
    """A build of these samples by so many workers."""

    def way(out: Path) -> None:
        build(samples, out, source="made", licence="CC0", options={}, workers=workers, progress=False)

    return way


@contextmanager
def photographs(count: int) -> Iterator[tuple[list[RawSample], Path]]:
    """So many samples with their image files, of which some are alike, and the folder that holds these."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        encoded = images(min(count, _DIFFERENT), WIDTH, HEIGHT)
        samples = []
        for number in range(count):
            file = place / f"{number}.jpg"
            file.write_bytes(encoded[number % len(encoded)])
            said = tuple(Expression(f"{number}-{n}", f"the box number {n}") for n in range(_EXPRESSIONS))
            region = Region(str(number), "train", ((10.0, 20.0, 30.5, 40.0),), said)
            record = Record("made", str(number), file.name, WIDTH, HEIGHT, "CC0", (region,))
            samples.append(RawSample(record, file))
        yield samples, place


def _shape(samples: list[RawSample], measure: str, workers: int) -> dict[str, Any]:
    total = sum(sample.image.stat().st_size for sample in samples)
    return {"measure": measure, "pictures": len(samples), "size": WIDTH, "workers": workers, "picture_bytes": total}
