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
        self._stream.write(header(name, len(data)))
        self._stream.write(data)
        self._stream.write(bytes(padded(len(data)) - len(data)))
        member = Member(self._at + BLOCK, len(data), xxhash.xxh3_64_intdigest(data))
        self._at += BLOCK + padded(len(data))
        return member


def header(name: str, length: int) -> bytes:
    """The block before a member's content, as `tarfile` makes it; raises ValueError as `TarWriter.add`.

    Of most members name, size and checksum alone are put into a block that is made once: there are millions.
    """
    encoded, size = name.encode(), b"%011o" % length
    if len(encoded) > _NAME or len(size) > _SIZE.stop - _SIZE.start - 1:
        return _block(name, length)
    total = _BLANK_SUM + sum(encoded) + sum(size) - sum(_BLANK[_SIZE])
    before = encoded.ljust(_NAME, b"\0") + _BLANK[_NAME : _SIZE.start]
    return before + size + _BLANK[_SIZE.stop - 1 : _SUM.start] + b"%06o" % total + _BLANK[_SUM.stop :]


def _block(name: str, length: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = length
    member.mode = 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


# Where USTAR keeps them: the name from the first byte, the size as octal digits and a zero, the checksum's digits.
_NAME = tarfile.LENGTH_NAME
_SIZE, _SUM = slice(124, 136), slice(148, 154)
_BLANK = _block("", 0)
_BLANK_SUM = int(_BLANK[_SUM], 8)


def index_bytes(samples: Iterable[Sequence[IndexEntry]]) -> bytes:
    """The text of a DALI index over the samples of one archive."""
    lines = [" ".join(f"{e.ext} {e.offset} {e.length} {e.name}" for e in entries) for entries in samples]
    return "\n".join([f"{INDEX_VERSION} {len(lines)}", *lines, ""]).encode()
