"""Rows of one table that have one id: of those that are alike the first stays, of others none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from laconvnet.shards.sources.faults import EntryFault

_DIGESTS = np.dtype([("first", "<u8"), ("second", "<u8"), ("content", "<u8")])


class Ids:
    """The ids of a table as they are read: 32 bytes a row, by their 128-bit digests as in `shards.build.keys`."""

    def __init__(self) -> None:
        self._digests: list[np.ndarray[tuple[int], np.dtype[np.void]]] = []
        self._numbers: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []

    def add(self, batch: pa.RecordBatch, numbers: Sequence[int], id: str) -> None:
        """Take in rows, whose numbers these are; rows without an id in that column have one of their own."""
        columns = [column.to_pylist() for column in batch.columns]
        ids = batch.column(id).to_pylist()
        digests = b"".join(
            xxhash.xxh3_128_digest(own.encode()) + xxhash.xxh3_64_digest(repr(cells).encode())
            for own, cells in zip(ids, zip(*columns, strict=True), strict=True)
            if own
        )
        self._digests.append(np.frombuffer(digests, _DIGESTS))
        self._numbers.append(np.array([number for own, number in zip(ids, numbers, strict=True) if own], np.int64))

    def twins(self, table: Path, unit: str) -> dict[int, EntryFault]:
        """The numbers of the rows that are lost by their id, and why; ``unit`` is what they count in ``table``."""
        if not self._digests:
            return {}
        digests, numbers = np.concatenate(self._digests), np.concatenate(self._numbers)
        order = np.lexsort((digests["second"], digests["first"]))
        digests, numbers = digests[order], numbers[order]
        same = (digests["first"][1:] == digests["first"][:-1]) & (digests["second"][1:] == digests["second"][:-1])
        found: dict[int, EntryFault] = {}
        begins = np.flatnonzero(np.concatenate(([True], ~same)))
        ends = np.append(begins[1:], len(numbers))
        several = ends - begins > 1
        for begin, end in zip(begins[several].tolist(), ends[several].tolist(), strict=True):
            alike = len(np.unique(digests["content"][begin:end])) == 1
            first, *rest = numbers[begin:end].tolist()
            for number in rest if alike else (first, *rest):
                other = rest[0] if number == first else first
                how = "alike" if alike else "with other contents"
                told = f"its id is that of {unit} {other} too, {how}"
                found[number] = EntryFault("duplicate id", f"{table}: {unit} {number}: {told}")
        return found
