"""A set as version 2 of the manifest wrote it: without checksums of blocks, of its facts, of other files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from laconvnet.shards.format import tables
from laconvnet.shards.format.checksums import file_facts
from laconvnet.shards.format.manifest import (
    COUNTS_MAP,
    EXAMPLE_SCHEMA,
    EXAMPLE_SCHEMA_2,
    FILES,
    META_KEY,
    PICTURES_MAP,
    SAMPLE_SCHEMA,
    Manifest,
    meta_bytes,
)


def as_version_2(folder: Path, sample_numbers: pa.DataType | None = None) -> Path:
    """Write the set in this folder again; sample numbers have 32 bits, unless another type is given."""
    manifest = Manifest.open(folder)
    for name in (COUNTS_MAP, PICTURES_MAP):
        (folder / name).unlink(missing_ok=True)
    schema = EXAMPLE_SCHEMA if sample_numbers == pa.int64() else EXAMPLE_SCHEMA_2
    found = {}
    for name, table in (
        ("manifest", manifest.samples.to_table().cast(SAMPLE_SCHEMA)),
        ("examples", manifest.examples.to_table().cast(schema)),
    ):
        (folder / f"{name}.arrow").unlink()
        tables.write(folder / f"{name}.arrow", table.schema, [table])
        found[f"{name}.arrow"] = file_facts(folder / f"{name}.arrow")
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    meta = {name: fact for name, fact in manifest.meta.items() if name != FILES} | {"version": 2, "tables": found}
    samples = pq.read_table(folder / "manifest.parquet").replace_schema_metadata({META_KEY: meta_bytes(meta)})
    pq.write_table(samples, folder / "manifest.parquet", compression="zstd")
    return folder
