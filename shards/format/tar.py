"""Plain USTAR archives with known offsets, the same bytes for the same members, and their DALI index.

The index is DALI's version 1.2 (what its tool ``wds2idx`` writes): a line ``v1.2 SAMPLES``, then a line a sample
with ``EXT OFFSET SIZE NAME`` for each member, the offset that of the member's content.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import BinaryIO, NamedTuple

import xxhash

BLOCK = 512
INDEX_VERSION = "v1.2"


class Member(NamedTuple):
    """Offset and length of a member's content, in bytes, and its xxh3-64 checksum."""

    offset: int
    length: int
    xxh3: int


class IndexEntry(NamedTuple):
    """One member as a line of the index has it."""

    ext: str
    offset: int
    length: int
    name: str


def padded(length: int) -> int:
    """The bytes that a content of this length takes in a tar: the next multiple of 512."""
    return -(-length // BLOCK) * BLOCK


class TarWriter:
    """Append members to an open file; the time, owner and mode are fixed, so equal members give equal archives."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._at = 0

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            end = self._at + 2 * BLOCK
            size = -(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE  # tar reads in records of 20 blocks
            self._stream.write(bytes(size - self._at))

    def add(self, name: str, data: bytes) -> Member:
        """Write one member; raises ValueError where USTAR cannot hold the name or size."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mode = 0o644
        self._stream.write(header.tobuf(tarfile.USTAR_FORMAT))
        self._stream.write(data)
        self._stream.write(bytes(padded(len(data)) - len(data)))
        member = Member(self._at + BLOCK, len(data), xxhash.xxh3_64_intdigest(data))
        self._at += BLOCK + padded(len(data))
        return member


def index_bytes(samples: Iterable[Sequence[IndexEntry]]) -> bytes:
    """The text of a DALI index over the samples of one archive."""
    lines = [" ".join(f"{e.ext} {e.offset} {e.length} {e.name}" for e in entries) for entries in samples]
    return "\n".join([f"{INDEX_VERSION} {len(lines)}", *lines, ""]).encode()
