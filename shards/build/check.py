"""A build without its shards: everything is read and looked at, and nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import length_hint
from typing import Any, NamedTuple

import pyarrow as pa

from laconvnet.progress import Progress
from laconvnet.shards.build.examine import examine, examine_annotations
from laconvnet.shards.build.plan import SHARD_BYTES, Planner
from laconvnet.shards.format.ledger import QUARANTINE_SCHEMA, Ledger, proved_ledger, record_counts
from laconvnet.shards.format.raw import Counts, RawSample


class Checked(NamedTuple):
    """The ledger, and the quarantine table, that a build would write."""

    ledger: Ledger
    quarantine: pa.Table


def check(samples: Iterable[RawSample], where: object, with_images: bool = True, progress: bool = True) -> Checked:
    """Look at all samples as `shards.build.builder.build` does; without images as far as the annotations tell.

    ``where`` is what a message calls the source. Raises InputError as `build`, where nothing can be used, and
    BuildError where entries are unaccounted for.
    """
    planner = Planner(samples, SHARD_BYTES, look=with_images)
    look = examine if with_images else examine_annotations
    rows: list[dict[str, Any]] = []
    kept: Counts = Counter()
    with Progress(total=length_hint(samples) or None, unit="image", desc="check", disable=not progress) as bar:
        for chunk in planner.chunks():
            for sample in chunk.samples:
                found = look(sample)
                rows += found.rows
                if found.record is not None:
                    kept.update(record_counts(found.record))
                bar.update()
    quarantine = pa.Table.from_pylist([*planner.quarantined, *rows], schema=QUARANTINE_SCHEMA)
    return Checked(proved_ledger(planner.read, kept, quarantine, where), quarantine)
