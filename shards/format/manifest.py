"""The manifest of a built set: its schemas, and the reader that is all the pipeline sees of this room.

A set is a folder. ``manifest.parquet`` has one row a sample (image) and is written last: its presence is the
commit. ``examples.parquet`` has one row an example (image x region x expression, or image x question).
Any sample is one ``pread`` away: shard, offset and length stand in its row.

The two are what is published. Beside them stand the same tables as ``manifest.arrow`` and ``examples.arrow``, which
processes map and read (`shards.format.tables`); the manifest records their sizes and checksums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from laconvnet.files import publishing
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import tables
from laconvnet.shards.format.record import Record
from laconvnet.shards.format.tables import row_type as row_type  # for the pipeline, which reads sets by this module

VERSION = 2
MANIFEST, EXAMPLES = "manifest.parquet", "examples.parquet"
QUARANTINE, EXCLUDED = "quarantine.parquet", "excluded.parquet"
SAMPLES_MAP, EXAMPLES_MAP = "manifest.arrow", "examples.arrow"
PARTS = "parts"
META_KEY = b"laconvnet"
KINDS = ("expression", "question")


def _field(name: str, kind: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


SAMPLE_SCHEMA = pa.schema(
    [
        _field("key", pa.string()),
        _field("source", pa.string()),
        _field("picture_id", pa.string()),
        _field("file_name", pa.string()),
        _field("coco_id", pa.int64(), nullable=True),
        _field("width", pa.int32()),
        _field("height", pa.int32()),
        _field("shard", pa.int32()),
        _field("image_ext", pa.string()),
        _field("image_offset", pa.int64()),
        _field("image_length", pa.int64()),
        _field("image_xxh3", pa.uint64()),
        _field("json_offset", pa.int64()),
        _field("json_length", pa.int64()),
        _field("json_xxh3", pa.uint64()),
        _field("splits", pa.list_(pa.string())),
        _field("set", pa.int16()),
    ]
)
EXAMPLE_SCHEMA = pa.schema(
    [
        _field("sample", pa.int32()),
        _field("kind", pa.string()),
        _field("split", pa.string()),
        _field("region", pa.int32()),
        _field("item_id", pa.string()),
        _field("text", pa.string()),
        _field("answer", pa.string(), nullable=True),
        _field("answers", pa.list_(pa.string())),
        _field("family", pa.string(), nullable=True),
        _field("x", pa.float32()),
        _field("y", pa.float32()),
        _field("w", pa.float32()),
        _field("h", pa.float32()),
        _field("has_mask", pa.bool_()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        _field("file", pa.string()),
        _field("key", pa.string()),
        _field("region", pa.string(), nullable=True),
        _field("reason", pa.string()),
    ]
)


def meta_bytes(meta: dict[str, Any]) -> bytes:
    """The schema metadata of manifest.parquet: equal facts give equal bytes."""
    return json.dumps(meta, ensure_ascii=False, sort_keys=True).encode()


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer with this room's one set of options, so that equal tables are equal files."""
    return pq.ParquetWriter(path, schema, compression="zstd")


def publish_tables(
    folder: Path,
    samples: Iterable[pa.Table],
    examples: Iterable[pa.Table],
    meta: dict[str, Any],
    prove: Callable[[pa.Table, pa.Table], None] | None = None,
) -> None:
    """Write the tables of a set, given in parts, the manifest last; ``meta`` gets the facts of the mapped ones.

    ``prove`` is given both tables as they were written, and may raise before the manifest is published.
    """
    written, found = {}, {}
    for name, schema, parts in ((EXAMPLES_MAP, EXAMPLE_SCHEMA, examples), (SAMPLES_MAP, SAMPLE_SCHEMA, samples)):
        with publishing(folder / name) as temporary:
            tables.write(temporary, schema, parts)
            found[name] = tables.facts(temporary)
        written[name] = tables.mapped(folder / name, schema, found[name]["bytes"])
    if prove:
        prove(written[SAMPLES_MAP], written[EXAMPLES_MAP])
    _publish_parquet(folder / EXAMPLES, EXAMPLE_SCHEMA, written[EXAMPLES_MAP])
    schema = SAMPLE_SCHEMA.with_metadata({META_KEY: meta_bytes(meta | {"tables": found})})
    _publish_parquet(folder / MANIFEST, schema, written[SAMPLES_MAP])


def _publish_parquet(path: Path, schema: pa.Schema, table: pa.Table) -> None:
    with publishing(path) as temporary, open_writer(temporary, schema) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


@dataclass(frozen=True)
class Manifest:
    """A built set, opened and checked; rows of ``examples`` refer to rows of ``samples`` by number.

    ``meta`` holds version, source, licence, shards, sets (name and weight), options, quarantined, and the facts of the
    mapped tables. Rows in any order are taken by `sample_columns` and `example_columns`.
    """

    folder: Path
    meta: dict[str, Any]
    samples: pa.Table
    examples: pa.Table
    shard_paths: list[Path]

    @classmethod
    def open(cls, folder: Path | str) -> Manifest:
        """Open a set; raises InputError where it is missing, unfinished, of another version, or its shards are."""
        folder = Path(folder)
        meta = read_meta(folder)
        sizes = {name: found["bytes"] for name, found in meta["tables"].items()}
        samples = tables.mapped(folder / SAMPLES_MAP, SAMPLE_SCHEMA, sizes[SAMPLES_MAP])
        examples = tables.mapped(folder / EXAMPLES_MAP, EXAMPLE_SCHEMA, sizes[EXAMPLES_MAP])
        if any(Path(shard).is_absolute() for shard in meta["shards"]):
            raise InputError(f"{folder / MANIFEST}: shards must be relative paths, found an absolute one; build again")
        manifest = cls(folder, meta, samples, examples, [folder / shard for shard in meta["shards"]])
        manifest._check_shards()
        return manifest

    @cached_property
    def sample_columns(self) -> tables.Columns:
        return tables.Columns(self.samples)

    @cached_property
    def example_columns(self) -> tables.Columns:
        return tables.Columns(self.examples)

    @property
    def fingerprint(self) -> str:
        """Of all that the set is: ``meta`` names the checksums of its tables."""
        return meta_fingerprint(self.meta)

    def select(self, split: str, kind: str) -> tables.Rows:
        """The rows (N,) of ``examples`` of one split ("train", "val", ...) and kind ("expression" or "question").

        Ascending, in the type of `row_type`. Raises InputError for another kind.
        """
        if kind not in KINDS:
            raise InputError(f"{self.folder}: kind {kind!r}, expected one of {', '.join(KINDS)}")
        dtype = row_type(len(self.examples))
        found = [np.empty(0, dtype)]
        first = 0
        for batch in self.examples.select(["split", "kind"]).to_batches():
            wanted = pc.and_(pc.equal(batch["split"], split), pc.equal(batch["kind"], kind))
            rows = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
            found.append((first + rows).astype(dtype))
            first += len(batch)
        return np.concatenate(found)

    def read_record(self, row: int) -> Record:
        """The record of a row of ``samples``; raises InputError naming shard, key and offset on other bytes."""
        return Record.from_json(self.read_member(row, "json"))

    def read_image(self, row: int) -> bytes:
        """The encoded image of a row of ``samples``; raises InputError as `read_record`."""
        return self.read_member(row, "image")

    def read_member(self, row: int, member: str) -> bytes:
        """The checked bytes of the "image" or "json" of a row of ``samples``."""
        offset, length, xxh3 = (self.samples[f"{member}_{part}"][row].as_py() for part in ("offset", "length", "xxh3"))
        shard = self.shard_paths[self.samples["shard"][row].as_py()]
        with shard.open("rb") as stream:
            data = os.pread(stream.fileno(), length, offset)
        if xxhash.xxh3_64_intdigest(data) != xxh3:
            raise InputError(
                f"{shard}: {member} of {self.samples['key'][row].as_py()} at offset {offset} has another checksum"
                " than the manifest; the shard is damaged, delete the set and build it again"
            )
        return data

    def _check_shards(self) -> None:
        needed = np.zeros(len(self.shard_paths), np.int64)
        columns = [f"{member}_{part}" for member in ("image", "json") for part in ("offset", "length")]
        for batch in self.samples.select(["shard", *columns]).to_batches():
            shard, *ends = (column.to_numpy() for column in batch.columns)
            if shard.min() < 0 or shard.max() >= len(self.shard_paths):
                raise InputError(f"{self.folder / MANIFEST}: a shard number beyond its {len(self.shard_paths)} shards")
            for offset, length in (ends[:2], ends[2:]):
                np.maximum.at(needed, shard, offset + length)
        for path, size in zip(self.shard_paths, needed, strict=True):
            try:
                found = path.stat().st_size
            except OSError as error:
                raise InputError(f"{path}: shard of {self.folder} is missing ({error.strerror})") from error
            if found < size:
                raise InputError(f"{path}: shard of {found} bytes, the manifest needs {size}; it is truncated")


def meta_fingerprint(meta: dict[str, Any]) -> str:
    """The fingerprint of a set: another build of it, or of a set that it refers to, has another one."""
    return xxhash.xxh3_128_hexdigest(meta_bytes(meta))


def read_meta(folder: Path) -> dict[str, Any]:
    """The metadata of a finished set; raises InputError that tells a missing set from an unfinished one."""
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / PARTS).is_dir():
            raise InputError(f"{folder}: the build was left unfinished; run the same build command again")
        raise InputError(f"{folder}: no {MANIFEST} here; expected a folder that 'shards build' or 'pretrain-set' wrote")
    try:
        schema = pq.read_schema(path)
        meta = json.loads((schema.metadata or {})[META_KEY])
        version = meta["version"]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a manifest of this program ({error}); build the set again") from error
    if version != VERSION:
        raise InputError(f"{path}: version {version!r}, expected {VERSION}; build the set again")
    return dict(meta)
