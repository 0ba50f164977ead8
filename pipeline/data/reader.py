"""Encoded images and masks by their offsets in the shards, checked: one ``pread`` each, or a range at a URL."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from laconvnet.files import pread
from laconvnet.pipeline.data.cache import Cache, Known
from laconvnet.pipeline.data.masks import Mask, of_region
from laconvnet.pipeline.data.workers import Workers
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import Folder, Manifest
from laconvnet.shards.format.record import Record

T = TypeVar("T")
Member = Literal["image", "json"]

PATIENCE = 60.0  # seconds that closing waits for reads under way


class Location(NamedTuple):
    """The location of one member of a row of the sample table."""

    sample: int
    shard: int
    offset: int
    length: int
    xxh3: int


class Reader:
    """Reads members of samples by rows of the sample table, on a few threads; close it or use it in a ``with``.

    Bytes that are not those the manifest recorded are a ConfigError that names shard, key and offset. Of many shards
    only those used last stay open: half of the files that the system grants the process.
    """

    def __init__(self, manifest: Manifest, threads: int = 1, cache: Cache | None = None) -> None:
        """``cache`` is where members that came from a store are kept."""
        self._manifest, self._cache = manifest, cache
        self._columns = manifest.sample_columns
        self._files: dict[int, int] = {}
        granted, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = granted // 2 if granted != resource.RLIM_INFINITY else len(manifest.shard_paths)
        self._workers = Workers(threads, "reader") if threads > 1 else None
        self._under_way: dict[int, tuple[Member, int]] = {}

    def read(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The encoded bytes, each (bytes,), of the images at rows (B,) of the sample table, in that order.

        Raises ConfigError for bytes that are not those that were written.
        """
        locations = self.locations("image", samples)
        return [np.frombuffer(data, np.uint8) for data in self._members("image", locations)]

    def masks(self, samples: NDArray[np.int64], regions: NDArray[np.int64]) -> list[Mask]:
        """The mask (height, width) of one region of each image, out of the record beside it; both given as (B,).

        Raises ConfigError for a region that has none, and for bytes that are not those that were written.
        """
        records = self._members("json", self.locations("json", samples))
        return self._map(_mask, zip(records, regions.tolist(), strict=True))

    def location(self, sample: int, member: Member = "image") -> str:
        """Shard, key and offset of a row of the sample table, for people."""
        (location,) = self.locations(member, np.array([sample]))
        (key,) = self._columns.values("key", np.array([sample]))
        return f"{self._manifest.shard(location.shard)}: sample {key!r} at offset {location.offset}"

    @property
    def under_way(self) -> list[str]:
        """The locations (see `location`) that are being read at this moment, by any thread."""
        return [self.location(sample, member) for member, sample in list(self._under_way.values())]

    def locations(self, member: Member, samples: NDArray[np.int64]) -> list[Location]:
        """Where one member of each sample at rows (B,) of the sample table lies."""
        names = ("shard", *(f"{member}_{part}" for part in ("offset", "length", "xxh3")))
        columns = (self._columns.numbers(name, samples).tolist() for name in names)
        return [Location(*row) for row in zip(samples.tolist(), *columns, strict=True)]

    def _members(self, member: Member, locations: list[Location]) -> list[bytes]:
        if self._manifest.store:
            return self._ranges(self._manifest.store, member, locations)
        self._open(member, locations)
        self._announce(member, locations)
        return self._map(lambda location: self._bytes(member, location), locations)

    def _ranges(self, store: Folder, member: Member, locations: list[Location]) -> list[bytes]:
        if self._cache is None:
            return self._fetched(store, member, locations)
        cache, known = self._cache, [Known(location.xxh3, location.length) for location in locations]
        found = dict(zip(known, self._map(cache.get, known), strict=True))
        absent = {which: location for which, location in zip(known, locations, strict=True) if found[which] is None}
        if absent:
            fetched = dict(zip(absent, self._fetched(store, member, list(absent.values())), strict=True))
            cache.put(fetched)
            found |= fetched
        return [data for which in known if (data := found[which]) is not None]

    def _fetched(self, store: Folder, member: Member, locations: list[Location]) -> list[bytes]:
        """All of them at once: a store takes its time for each, but takes many at a time."""
        ranges = [(location.shard, location.offset, location.length) for location in locations]
        with self._reading(member, locations[0].sample):
            found = store.read(self._manifest.meta["shards"], ranges)
        return self._map(lambda both: self.checked(member, *both), zip(locations, found, strict=True))

    def _open(self, member: Member, locations: list[Location]) -> None:
        shards = {location.shard: location.sample for location in reversed(locations)}
        for shard, sample in sorted(shards.items()):
            file = self._files.pop(shard, None)
            if file is None:
                with self._reading(member, sample):
                    file = os.open(self._manifest.shard_paths[shard], os.O_RDONLY | os.O_CLOEXEC)
            self._files[shard] = file  # the last of the dictionary: used last
        for shard in list(self._files)[: max(0, len(self._files) - max(self._most, len(shards)))]:
            os.close(self._files.pop(shard))

    def _announce(self, member: Member, locations: list[Location]) -> None:
        """The system begins to fetch all of them: a disk takes many reads at a time, these threads ask for few."""
        for location in locations:
            with self._reading(member, location.sample):
                file = self._files[location.shard]
                os.posix_fadvise(file, location.offset, location.length, os.POSIX_FADV_WILLNEED)

    @contextmanager
    def _reading(self, member: Member, sample: int) -> Iterator[None]:
        thread = threading.get_ident()
        self._under_way[thread] = member, sample
        try:
            yield
        finally:
            del self._under_way[thread]

    def _map(self, make: Callable[..., T], keys: Iterable[object]) -> list[T]:
        return self._workers.map(make, keys) if self._workers else [make(key) for key in keys]

    def _bytes(self, member: Member, location: Location) -> bytes:
        with self._reading(member, location.sample):
            shard = self._manifest.shard_paths[location.shard]
            data = pread(self._files[location.shard], shard, location.length, location.offset)
        return self.checked(member, location, data)

    def checked(self, member: Member, location: Location, data: bytes) -> bytes:
        """The bytes, as they came from there; raises ConfigError for others than were written."""
        if len(data) != location.length or xxhash.xxh3_64_intdigest(data) != location.xxh3:
            raise ConfigError(
                f"{self.location(location.sample, member)}: the bytes are not those that were written; "
                f"run `laconvnet shards verify {self._manifest.folder} --full` and build the set again"
            )
        return data

    def close(self, patience: float = PATIENCE) -> None:
        """Wait for the reads under way, at most so many seconds; a file that is still read then stays open."""
        if (self._workers and not self._workers.close(patience)) or self._under_way:
            return
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _mask(which: tuple[bytes, int]) -> Mask:
    record, region = which
    return of_region(Record.from_json(record), region)
