"""The images of a run's steps out of shards that are read from their begin to their end, each stream on a thread.

What an epoch shows, and in which order, is the plan's: a stream is a stretch of the epoch's shards. Of each stream a
window of encoded images is held, and up to as many are read ahead.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laconvnet.pipeline.data.examples import Items, Rows
from laconvnet.pipeline.data.masks import Mask, of_region
from laconvnet.pipeline.data.prefetch import Ahead
from laconvnet.pipeline.data.reader import PATIENCE, Location, Reader
from laconvnet.pipeline.data.tars import samples as read_shard
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import padded
from laconvnet.shards.format.record import Record


class Held(NamedTuple):
    """One sample of a stream: its row in the sample table, its checked image, and its record where masks are wanted."""

    sample: int
    image: bytes
    record: bytes | None


class Streams:
    """Reads what one rank shows from a step on, in that order alone; like a `Reader` it is closed in the end."""

    def __init__(
        self, items: Items, batch: int, steps: range, rank: int, world: int, masks: bool, patience: float
    ) -> None:
        """``batch`` is the global batch; ``patience`` are the seconds that an image is waited for."""
        count = items.plan.streams
        assert not count % world, "see `check`"
        own, self._turn = count // world, batch // count
        self._places = Reader(items.examples.manifest)
        span = steps.start * self._turn, steps.stop * self._turn
        self._streams = [
            _Stream(items, number, *span, self._places, masks, patience)
            for number in range(rank * own, (rank + 1) * own)
        ]
        self._taken = 0
        self._last: list[Held] = []

    def read(self, samples: Rows) -> list[NDArray[np.uint8]]:
        """The encoded bytes, each (bytes,), of the next images, which have to be those at rows (B,) of the table."""
        numbers = (self._taken + np.arange(len(samples))) // self._turn % len(self._streams)
        self._last = [self._streams[number].next() for number in numbers.tolist()]
        self._taken += len(samples)
        assert [held.sample for held in self._last] == samples.tolist(), "another order than the plan's"
        return [np.frombuffer(held.image, np.uint8) for held in self._last]

    def masks(self, samples: Rows, regions: Rows) -> list[Mask]:
        """The mask (height, width) of one region (B,) of each image that was read last."""
        assert [held.sample for held in self._last] == samples.tolist(), "masks are of the images that were read last"
        records = [Record.from_json(held.record) for held in self._last if held.record is not None]
        return [of_region(record, region) for record, region in zip(records, regions.tolist(), strict=True)]

    def location(self, sample: int) -> str:
        """Shard, key and offset of a row of the sample table, for people."""
        return self._places.location(sample)

    @property
    def under_way(self) -> list[str]:
        """The locations of the images that are waited for at this moment."""
        return [self.location(stream.awaited) for stream in self._streams if stream.awaited is not None]

    def close(self, patience: float = PATIENCE) -> None:
        """End the threads, and wait for the reads under way, at most so many seconds for all of them."""
        end = time.monotonic() + patience
        for stream in self._streams:
            stream.close(0)
        for stream in self._streams:
            stream.close(max(0, end - time.monotonic()))


def check(streams: int, world: int) -> None:
    """Raises ConfigError where so many streams cannot be dealt to so many processes."""
    if streams % world:
        raise ConfigError(f"data.streams: {streams}: expected a multiple of the {world} processes, which share them")


class _Stream:
    """The samples of one stream in the order of its examples, one for each; its thread begins at once."""

    def __init__(
        self, items: Items, number: int, first: int, stop: int, places: Reader, masks: bool, patience: float
    ) -> None:
        self._items, self._places, self._masks = items, places, masks
        self._number, self._span = number, (first, stop)
        self.awaited: int | None = None
        self._ahead = Ahead(self._stored(), patience, self._doing, items.plan.window)
        self._shown = self._in_order()

    def next(self) -> Held:
        return next(self._shown)

    def close(self, patience: float) -> None:
        self._ahead.close(patience)

    def _in_order(self) -> Generator[Held]:
        held: dict[int, Held] = {}
        for positions in self._windows():
            wanted = self._samples(positions).tolist()
            kept = set(wanted)
            held = {sample: found for sample, found in held.items() if sample in kept}
            for sample in wanted:
                self.awaited = sample
                while sample not in held:
                    found = next(self._ahead)
                    held[found.sample] = found
                self.awaited = None
                yield held[sample]

    def _windows(self) -> Iterator[NDArray[np.int64]]:
        return self._items.plan.windows(self._number, *self._span)

    def _samples(self, positions: NDArray[np.int64]) -> Rows:
        items, _ = self._items.plan.items(positions)
        return self._items.examples.samples(self._items.first[items])

    def _stored(self) -> Iterator[Held]:
        """What the windows need, in the order of the shards: each sample once for each time that its shard comes."""
        for _, visit in groupby(self._visits(), lambda found: found[:2]):
            rows = list(dict.fromkeys(sample for *_, sample in visit))
            yield from self._of_shard(np.array(rows))

    def _visits(self) -> Iterator[tuple[int, int, int]]:
        """Epoch, block and sample of each example, in the order of the shards."""
        for positions in self._windows():
            epochs, places = self._items.plan.places(positions)
            epoch = int(epochs[0])  # a window lies within one
            order = np.argsort(places)
            blocks = self._items.plan.blocks_at(epoch, places[order])
            for block, sample in zip(blocks.tolist(), self._samples(positions[order]).tolist(), strict=True):
                yield epoch, block, sample

    def _of_shard(self, rows: Rows) -> Iterator[Held]:
        """The samples at these rows, ascending, which lie in one shard."""
        manifest = self._items.examples.manifest
        images = self._places.locations("image", rows)
        records = self._places.locations("json", rows)
        keys, endings = (manifest.sample_columns.values(name, rows) for name in ("key", "image_ext"))
        names = {key: [f"{key}.{end}"] for key, end in zip(keys, endings, strict=True)}
        if self._masks:
            names = {key: [*members, f"{key}.json"] for key, members in names.items()}
        stop = max(location.offset + padded(location.length) for location in (*images, *records))
        place = {key: at for at, key in enumerate(keys)}
        for sample in read_shard(manifest.shard(images[0].shard), names, stop):
            at = place[sample["__key__"]]
            yield self._held(images[at], records[at], sample, endings[at])

    def _held(self, image: Location, record: Location, sample: dict[str, bytes], ending: str) -> Held:
        data = self._places.checked("image", image, sample[ending])
        text = self._places.checked("json", record, sample["json"]) if self._masks else None
        return Held(image.sample, data, text)

    def _doing(self) -> str:
        return "nothing" if self.awaited is None else f"reading {self._places.location(self.awaited)}"
