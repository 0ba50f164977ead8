"""Checksums of a set's files, and of its mapped tables block by block.

A mapped table is a frame and its blocks. A block is one column of one batch, whose buffers lie side by side: what a
process reads of a table is whole columns, or rows scattered over all batches, so that nothing is digested that is not
read. The frame is everything else: the schema, the head of each batch (lengths, counts of nulls, places of buffers)
and the footer. Each byte of the file is in the frame or in exactly one block.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from laconvnet.shards.errors import InputError

REMEDY = "copy it again from where it is whole, or build the set again"
_READ_BYTES = 4 * 2**20  # that are digested at once
_MAGIC_BYTES = 8  # "ARROW1", padded
_DIGITS = 16  # hexadecimal, of a checksum of 64 bits


def file_facts(path: Path) -> dict[str, Any]:
    """The size and checksum (XXH3, 128 bits) of a file, as a manifest records them."""
    digest = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as stream:
        while data := stream.read(_READ_BYTES):
            digest.update(data)
            size += len(data)
    return {"bytes": size, "xxh3": digest.hexdigest()}


def table_facts(path: Path) -> dict[str, Any]:
    """What a manifest records of a mapped table: `file_facts`, and the checksums (XXH3, 64 bits) of frame and blocks.

    ``bodies`` holds offset and length of each batch's columns in the file, ``columns`` by name the checksums of the
    batches, one behind the other, and ``frame`` that of all that is in no batch.
    """
    with path.open("rb") as stream:
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    bodies = list(_bodies(pages))
    with pa.ipc.open_file(pa.py_buffer(pages)) as reader:
        blocks = _Blocks(pages, reader.read_all(), bodies)
    columns = {
        name: "".join(blocks.checksum(batch, column) for batch in range(len(bodies)))
        for column, name in enumerate(blocks.names)
    }
    frame = _frame_checksum(pages, bodies)
    return file_facts(path) | {"frame": frame, "bodies": bodies, "columns": columns}


def _bodies(pages: mmap.mmap) -> Iterator[list[int]]:
    """Offset and length of each batch's body in a file."""
    whole = pa.py_buffer(pages)
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(whole.slice(_MAGIC_BYTES))):
        if message.type == "record batch":
            yield [message.body.address - whole.address, message.body.size]


def _frame_checksum(pages: mmap.mmap, bodies: Sequence[Sequence[int]]) -> str:
    digest = xxhash.xxh3_64()
    view = memoryview(pages)
    ends = [0, *(border for offset, length in bodies for border in (offset, offset + length)), len(pages)]
    for begin, end in zip(ends[::2], ends[1::2], strict=True):
        digest.update(view[begin:end])
    return digest.hexdigest()


class _Blocks:
    """Where the blocks of a mapped table are, and their checksums as they stand in the file."""

    def __init__(self, pages: mmap.mmap, table: pa.Table, bodies: Sequence[Sequence[int]]) -> None:
        self.names: list[str] = table.column_names
        self._table = table
        self._view = memoryview(pages)
        self._base: int = pa.py_buffer(pages).address
        self._ends = [offset + length for offset, length in bodies]

    def span(self, batch: int, column: int) -> tuple[int, int]:
        """First byte of a block, and the first behind it: padding belongs to the buffer before."""
        last = column + 1 == len(self.names)
        return self._begin(batch, column), self._ends[batch] if last else self._begin(batch, column + 1)

    def checksum(self, batch: int, column: int) -> str:
        begin, end = self.span(batch, column)
        return xxhash.xxh3_64_hexdigest(self._view[begin:end])

    def _begin(self, batch: int, column: int) -> int:
        buffers = self._table.column(column).chunk(batch).buffers()
        # Those that are not there (no nulls) or empty (no letter in any text) have no place.
        places: list[int] = [buffer.address for buffer in buffers if buffer is not None and buffer.size]
        return min(places) - self._base


def is_by_block(found: Mapping[str, Any]) -> bool:
    """Whether a manifest recorded the checksums of blocks; version 2 recorded that of the whole file only."""
    return "columns" in found


def compare_frame(path: Path, pages: mmap.mmap, found: Mapping[str, Any]) -> None:
    """Raises InputError where the frame is another one than was recorded. Needs nothing of the file to be parsed."""
    if is_by_block(found) and _frame_checksum(pages, found["bodies"]) != found["frame"]:
        raise _damage(path, "its schema, the heads of its batches and its footer")


class TableChecksums:
    """What the manifest recorded of a mapped table, against the file; each block is compared once in a process.

    Where the manifest recorded no blocks, `compare` compares nothing, and `compare_all` reads the whole file. The
    methods may be called by several threads.
    """

    def __init__(self, path: Path, pages: mmap.mmap, table: pa.Table, found: Mapping[str, Any]) -> None:
        self._path, self._found = path, found
        self._whole = False
        self._blocks = _Blocks(pages, table, found["bodies"]) if is_by_block(found) else None
        self._numbers = {name: number for number, name in enumerate(table.column_names)}
        self._compared = {name: bytearray(table.column(name).num_chunks) for name in table.column_names}

    def compare(self, name: str, batch: int) -> None:
        """Compare one column in one batch unless that was done; raises InputError naming both and the place."""
        if self._blocks is None or self._compared[name][batch]:
            return
        column = self._numbers[name]
        recorded = self._found["columns"][name][_DIGITS * batch : _DIGITS * (batch + 1)]
        if self._blocks.checksum(batch, column) != recorded:
            begin, end = self._blocks.span(batch, column)
            raise _damage(self._path, f"column {name!r} in batch {batch}, bytes {begin} to {end - 1},")
        self._compared[name][batch] = 1  # not before: another thread must not take it for compared

    def compare_all(self, names: Sequence[str]) -> None:
        """Compare all batches of these columns; raises InputError as `compare`."""
        for name in names:
            for batch in range(len(self._compared[name])):
                self.compare(name, batch)

    def compare_file(self) -> None:
        """Compare every byte that was not compared yet; raises InputError as `compare`."""
        if self._blocks is not None:
            self.compare_all(list(self._numbers))
        elif not self._whole:
            if file_facts(self._path)["xxh3"] != self._found["xxh3"]:
                raise _damage(self._path, "the file")
            self._whole = True


def _damage(path: Path, what: str) -> InputError:
    return InputError(f"{path}: the checksum of {what} differs from the manifest's; the file is damaged: {REMEDY}")
