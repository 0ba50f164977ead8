"""The ledger of a set, proved again: against its tables, its quarantine and its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.checksums import REMEDY
from laconvnet.shards.format.ledger import (
    KINDS,
    Ledger,
    account_of,
    imbalances,
    kept_differences,
    make_ledger,
    record_counts,
    table_differences,
)
from laconvnet.shards.format.manifest import MANIFEST, PICTURES_MAP, QUARANTINE, Manifest
from laconvnet.shards.format.pictures import NOT_STORED
from laconvnet.shards.format.raw import Counts


def ledger_problems(manifest: Manifest) -> Iterator[str]:
    """What is wrong with the ledger in sums, kept entries and lost ones; nothing is known of a set of before.

    A set that was put together has the ledgers of its parts, whose tables are elsewhere: their sums are looked at.
    """
    if "excluded" in manifest.meta:
        for part in manifest.meta.get("ledgers", {}).values():
            yield from _told(manifest, imbalances(part))
        return
    try:
        quarantine = manifest.quarantine()
    except InputError as error:
        yield str(error)
        return
    ledger = manifest.meta.get("ledger")
    if ledger is None:
        if len(quarantine) != manifest.meta.get("quarantined", len(quarantine)):
            expected = manifest.meta["quarantined"]
            yield f"{manifest.folder / QUARANTINE}: {len(quarantine)} rows, the manifest says {expected}; {REMEDY}"
        return
    yield from _told(manifest, imbalances(ledger))
    yield from _told(manifest, table_differences(ledger, manifest.samples, manifest.examples))
    found = make_ledger(Counter(), Counter(), quarantine)
    yield from _told(manifest, _other_losses(ledger, found))


def record_ledger_problems(manifest: Manifest) -> Iterator[str]:
    """Where the records hold other entries than the ledger says are kept: regions, masks and boxes are in no table."""
    if "ledger" not in manifest.meta:
        return
    ledger: Ledger = manifest.meta["ledger"]
    found: Counts = Counter()
    for row in range(len(manifest.samples)):
        found.update(record_counts(manifest.read_record(row)))
    yield from _told(manifest, kept_differences(ledger, found, KINDS, " in the records"))


def picture_problems(manifest: Manifest) -> Iterator[str]:
    """Where the table of pictures is not that of the samples, or names others than the ledger says were read."""
    if manifest.pictures is None:
        return
    pictures, where = manifest.pictures.to_table(), f"{manifest.folder / PICTURES_MAP}: "
    stored = pictures.filter(pc.not_equal(pictures["row"], NOT_STORED))
    if not np.array_equal(stored["row"].to_numpy(), np.arange(len(manifest.samples))):
        yield f"{where}its rows are not those of the {len(manifest.samples)} samples in their order; {REMEDY}"
        return
    for name in ("key", "file_name"):
        if not stored[name].equals(manifest.samples[name]):
            yield f"{where}column {name!r} is not that of the samples; {REMEDY}"
    both = zip(stored["splits"].to_pylist(), manifest.samples["splits"].to_pylist(), strict=True)
    if not all(set(kept) <= set(annotated) for annotated, kept in both):
        yield f"{where}an image lacks a split that its sample has; {REMEDY}"
    if "ledger" in manifest.meta:
        yield from (f"{where}{problem}; {REMEDY}" for problem in _other_pictures(manifest.meta["ledger"], pictures))


def _other_pictures(ledger: Ledger, pictures: pa.Table) -> Iterator[str]:
    found = Counter(pc.list_flatten(pictures["splits"]).to_pylist())
    for split in sorted({*ledger, *found}):
        read = account_of(ledger, split, "picture")["read"]
        if found[split] != read:
            yield f"split {split or 'unknown'}: {found[split]} images, the ledger says {read} were read"


def _other_losses(ledger: Ledger, found: Ledger) -> Iterator[str]:
    for split in sorted({*ledger, *found}):
        for kind in KINDS:
            said, is_so = (account_of(one, split, kind) for one in (ledger, found))
            for what in ("lost", "changed"):
                if said[what] != is_so[what]:
                    where = f"split {split or 'unknown'}: {kind} entries {what}: {is_so[what]} in {QUARANTINE}"
                    yield f"{where}, the ledger says {said[what]}"


def _told(manifest: Manifest, problems: Iterable[str]) -> Iterator[str]:
    for problem in problems:
        yield f"{manifest.folder / MANIFEST}: ledger: {problem}; {REMEDY}"
