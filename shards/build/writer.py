"""One shard: a chunk of raw samples in; a tar, its index and a part of the manifest out.

This is the work of one process. It depends on nothing but its chunk, so that a shard's bytes are the same whoever
writes it. The part's samples table is written last and carries the chunk's fingerprint: a later run with the same
chunk finds the shard finished and does not write it again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from laconvnet.files import publish_bytes, publishing
from laconvnet.shards.build.examine import Examined, examine
from laconvnet.shards.build.threads import in_order
from laconvnet.shards.format.counts import COUNT_SCHEMA, counted
from laconvnet.shards.format.ledger import QUARANTINE_SCHEMA, record_counts
from laconvnet.shards.format.manifest import EXAMPLE_SCHEMA, PARTS, SAMPLE_SCHEMA, open_writer
from laconvnet.shards.format.pictures import PICTURE_SCHEMA, sample_row
from laconvnet.shards.format.raw import Counts, RawSample
from laconvnet.shards.format.record import SCHEMA_VERSION
from laconvnet.shards.format.rows import example_rows
from laconvnet.shards.format.tar import IndexEntry, TarWriter, index_bytes

_FINGERPRINT = b"fingerprint"
_TAR_BYTES = b"tar_bytes"
_KEPT = b"kept"
_BUFFER_BYTES = 2**20  # of the tar: some images a call of the file system
# Images that are written together, and bytes of them from which on fewer are. A decoder goes through the processor's
# caches; what comes behind it runs from memory, but for the first image only.
_TOGETHER, _TOGETHER_BYTES = 32, 2**24
_ROWS_TOGETHER = 1024  # that are made columns of at once


@dataclass(frozen=True, slots=True)
class Chunk:
    """The raw samples of one shard and the size of each image file in bytes."""

    number: int
    samples: tuple[RawSample, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The files of shard ``number`` in a folder under construction."""

    out: Path
    number: int

    @property
    def tar(self) -> Path:
        return self.out / f"shard-{self.number:06d}.tar"

    @property
    def index(self) -> Path:
        return self.tar.with_suffix(".idx")

    def table(self, name: str) -> Path:
        """The part's share of a table: "samples", "examples", "quarantine", "counts" or "pictures".

        Rows of samples and examples that it speaks of are counted from the part's first.
        """
        return self.out / PARTS / f"shard-{self.number:06d}.{name}.parquet"

    def kept(self) -> Counts:
        """The entries of the records in a finished part."""
        found = json.loads(pq.read_schema(self.table("samples")).metadata[_KEPT])
        return Counter({(split, kind): number for split, kind, number in found})

    def tar_bytes(self, fingerprint: str | None = None) -> int | None:
        """The finished tar's size, 0 without a usable sample; None where it is not finished or of another chunk."""
        try:
            found = pq.read_schema(self.table("samples")).metadata
            size = int(found[_TAR_BYTES])
            if fingerprint is not None and found[_FINGERPRINT].decode() != fingerprint:
                return None
            if size and (self.tar.stat().st_size != size or not self.index.is_file()):
                return None
        except (OSError, pa.ArrowException, KeyError, TypeError):
            return None
        return size


def write_shard(out: Path, chunk: Chunk, threads: int = 1, look: Callable[[RawSample], Examined] = examine) -> int:
    """Write shard ``chunk.number`` into ``out`` unless it is there already; returns the number of raw samples done.

    So many ``threads`` look at its images; the bytes are the same. A bench gives another ``look`` than the build's.
    """
    part = Part(out, chunk.number)
    fingerprint = _fingerprint(chunk)
    if part.tar_bytes(fingerprint) is not None:
        return len(chunk.samples)
    part.table("samples").unlink(missing_ok=True)  # the old commit, before the files it speaks for change
    tables = _Tables()
    size = _write_tar(part, chunk, tables, in_order(look, chunk.samples, threads))
    examples = tables.examples.table()
    kept = json.dumps([[*entry, number] for entry, number in sorted(tables.kept.items())])
    commit = {_FINGERPRINT: fingerprint, _TAR_BYTES: str(size), _KEPT: kept}
    for name, table in (
        ("examples", examples),
        ("quarantine", tables.quarantine.table()),
        ("counts", pa.concat_tables([COUNT_SCHEMA.empty_table(), *counted(examples.to_batches())])),
        ("pictures", tables.pictures.table()),
        ("samples", tables.samples.table().replace_schema_metadata(commit)),
    ):
        with publishing(part.table(name)) as temporary, open_writer(temporary, table.schema) as writer:
            writer.write_table(table)
    return len(chunk.samples)


class _Rows:
    """The rows of a table. Most are kept as columns, which take a tenth of the memory of as many dictionaries."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns: list[pa.Table] = []
        self._last: list[dict[str, Any]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, *rows: dict[str, Any]) -> None:
        self._last += rows
        self._count += len(rows)
        if len(self._last) >= _ROWS_TOGETHER:
            self._settle()

    def _settle(self) -> None:
        self._columns.append(pa.Table.from_pylist(self._last, schema=self._schema))
        self._last = []

    def table(self) -> pa.Table:
        """All of them, in one piece as if they had never been in several: so are the bytes of its file."""
        self._settle()
        return pa.concat_tables(self._columns).combine_chunks()


class _Tables:
    def __init__(self) -> None:
        self.samples, self.examples = _Rows(SAMPLE_SCHEMA), _Rows(EXAMPLE_SCHEMA)
        self.quarantine, self.pictures = _Rows(QUARANTINE_SCHEMA), _Rows(PICTURE_SCHEMA)
        self.kept: Counts = Counter()


def _fingerprint(chunk: Chunk) -> str:
    digest = xxhash.xxh3_128(str(SCHEMA_VERSION).encode())
    for sample, size in zip(chunk.samples, chunk.sizes, strict=True):
        digest.update(f"{size} {sample.record!r} {sample.faults!r} {sample.ids!r}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _write_tar(part: Part, chunk: Chunk, tables: _Tables, examined: Generator[Examined]) -> int:
    """Write tar and index and fill the tables; returns the tar's size, 0 (and no files) without a usable sample."""
    entries, synced = list[tuple[IndexEntry, IndexEntry]](), 0
    with publishing(part.tar) as temporary:
        with (
            temporary.open("wb", _BUFFER_BYTES) as stream,
            TarWriter(stream) as tar,
            closing(examined),
        ):
            for together in _blocks(zip(chunk.samples, examined, strict=True)):
                added = [_add_sample(sample, found, part.number, tar, tables) for sample, found in together]
                entries += [entry for entry in added if entry is not None]
                synced = _begin_sync(stream, synced)
        size = temporary.stat().st_size
    if not entries:  # readers refuse an archive without members
        part.tar.unlink()
        part.index.unlink(missing_ok=True)
        return 0
    publish_bytes(part.index, index_bytes(entries))
    return size


def _begin_sync(stream: BinaryIO, begin: int) -> int:
    """The disk begins to write what is in the file from there, while the next images are decoded; returns its end."""
    stream.flush()
    end = stream.tell()
    # Linux: what is not on the disk yet is not dropped, its way there begins.
    os.posix_fadvise(stream.fileno(), begin, end - begin, os.POSIX_FADV_DONTNEED)
    return end


def _blocks(examined: Iterable[tuple[RawSample, Examined]]) -> Iterator[list[tuple[RawSample, Examined]]]:
    """All of these in their order, in the blocks that are written together."""
    block, held = list[tuple[RawSample, Examined]](), 0
    for sample, found in examined:
        block.append((sample, found))
        held += len(found.image.data) if found.image else 0
        if len(block) == _TOGETHER or held >= _TOGETHER_BYTES:
            yield block
            block, held = [], 0
    yield block


def _add_sample(
    sample: RawSample, found: Examined, shard: int, tar: TarWriter, tables: _Tables
) -> tuple[IndexEntry, IndexEntry] | None:
    tables.quarantine.add(*found.rows)
    if found.record is None or found.image is None:
        tables.pictures.add(sample_row(sample, found.content))
        return None
    tables.pictures.add(sample_row(sample, found.content, len(tables.samples)))
    record, encoded = found.record, found.image
    tables.kept.update(record_counts(record))
    text = record.to_json()
    key = record.key
    image_name, json_name = f"{key}.{encoded.ext}", f"{key}.json"
    image, json_ = tar.add(image_name, encoded.data), tar.add(json_name, text)
    tables.examples.add(*example_rows(record, len(tables.samples)))
    row = {
        "key": key,
        "source": record.source,
        "picture_id": record.picture_id,
        "file_name": record.file_name,
        "coco_id": record.coco_id,
        "width": record.width,
        "height": record.height,
        "shard": shard,
        "image_ext": encoded.ext,
        "image_offset": image.offset,
        "image_length": image.length,
        "image_xxh3": image.xxh3,
        "json_offset": json_.offset,
        "json_length": json_.length,
        "json_xxh3": json_.xxh3,
        "splits": list(record.splits),
        "set": 0,
    }
    tables.samples.add(row)
    return (
        IndexEntry(encoded.ext, image.offset, image.length, image_name),
        IndexEntry("json", json_.offset, json_.length, json_name),
    )
