"""A set of version 3 as it was written before sets counted their texts, or knew their images."""

from __future__ import annotations

from pathlib import Path

from laconvnet.shards.format import manifest as module
from laconvnet.shards.format.manifest import (
    COUNTS_MAP,
    MANIFEST,
    PICTURES_MAP,
    SAMPLE_SCHEMA,
    Manifest,
    schema_metadata,
)


def without_counts(folder: Path) -> Path:
    """Write the facts of the set in this folder again, without those of its counts, and remove these."""
    return _without(folder, COUNTS_MAP)


def without_pictures(folder: Path) -> Path:
    """As `without_counts`, of the table of pictures."""
    return _without(folder, PICTURES_MAP)


def _without(folder: Path, table: str) -> Path:
    manifest = Manifest.open(folder)
    facts = {name: found for name, found in manifest.meta["tables"].items() if name != table}
    schema = SAMPLE_SCHEMA.with_metadata(schema_metadata({**manifest.meta, "tables": facts}))
    module._publish_parquet(folder / MANIFEST, schema, manifest.samples)
    (folder / table).unlink()
    return folder
