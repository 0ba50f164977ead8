"""Tables of tests as a manifest maps them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from laconvnet.shards.format import tables
from laconvnet.shards.format.checksums import table_facts


def as_mapped(table: pa.Table) -> tables.MappedTable:
    """The table, written and mapped; the file has no name any more."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "table.arrow"
        tables.write(file, table.schema, [table])
        return tables.mapped(file, [table.schema], table_facts(file))
