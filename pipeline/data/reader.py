"""Encoded pictures by their place in the shards: one ``pread`` each, checked."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from shards.manifest import Manifest


class Reader:
    """Reads the bytes of pictures by rows of the sample table, on a few threads; close it or use it in a ``with``."""

    def __init__(self, manifest: Manifest, threads: int = 1) -> None:
        self._manifest = manifest
        samples = manifest.samples
        self._shard = samples["shard"].to_numpy()
        self._offset = samples["image_offset"].to_numpy()
        self._length = samples["image_length"].to_numpy()
        self._checksum = samples["image_xxh3"].to_numpy()
        self._files: dict[int, int] = {}
        self._pool = ThreadPoolExecutor(threads, "reader") if threads > 1 else None

    def read(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The encoded bytes of each picture, in the order asked for.

        Raises ConfigError, naming shard, key and offset, for bytes that are not those the manifest recorded.
        """
        for shard in np.unique(self._shard[samples]):
            if int(shard) not in self._files:
                self._files[int(shard)] = os.open(self._manifest.shard_paths[shard], os.O_RDONLY | os.O_CLOEXEC)
        return list((self._pool.map if self._pool else map)(self._one, samples.tolist()))

    def _one(self, sample: int) -> NDArray[np.uint8]:
        shard, offset, length = int(self._shard[sample]), int(self._offset[sample]), int(self._length[sample])
        data = os.pread(self._files[shard], length, offset)
        if len(data) != length or xxhash.xxh3_64_intdigest(data) != int(self._checksum[sample]):
            key = self._manifest.samples["key"][sample].as_py()
            raise ConfigError(
                f"{self._manifest.shard_paths[shard]}: sample {key!r} at offset {offset}: the bytes are not those that "
                f"were written; run `laconvnet shards verify {self._manifest.folder} --full` and build the set again"
            )
        return np.frombuffer(data, np.uint8)

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
