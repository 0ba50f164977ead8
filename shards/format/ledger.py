"""The ledger of a set: what became of every entry of its annotations.

For each split and kind of entry: read = kept + lost. ``read`` is what the source counted at the files, ``kept`` what
the records hold, and ``lost`` the sum over the rows of the quarantine table, by cause. The build proves the equation
and stores it in the manifest; `shards.sets.verify` proves it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from laconvnet.shards.errors import BuildError
from laconvnet.shards.format.raw import BY_RULE, Counts, Fault, RawSample, storable
from laconvnet.shards.format.record import Record, Region
from laconvnet.shards.format.tables import MappedTable

KINDS = ("picture", "region", "expression", "question", "mask", "box")
ITEMS = ("region", "expression", "question")  # what has an id of its own in the files

Ledger = dict[str, dict[str, dict[str, Any]]]  # by split and kind: read, kept, lost and changed by cause

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("region", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("cause", pa.string(), nullable=False),
        pa.field("changed", pa.bool_(), nullable=False),
        pa.field(
            "counts",
            pa.list_(
                pa.struct(
                    [
                        pa.field("split", pa.string(), nullable=False),
                        pa.field("kind", pa.string(), nullable=False),
                        pa.field("entries", pa.int64(), nullable=False),
                    ]
                )
            ),
            nullable=False,
        ),
    ]
)


def region_counts(region: Region) -> Counts:
    """The entries that a region is made of, itself among them."""
    found = {"region": 1, "expression": len(region.expressions), "box": len(region.boxes)}
    found["mask"] = int(region.mask is not None)
    return Counter({(region.split, kind): number for kind, number in found.items() if number})


def record_counts(record: Record) -> Counts:
    """The entries of a record: an image counts in each of its splits."""
    counts: Counts = Counter()  # filled by hand: there are millions
    for split in record.splits:
        counts[split, "picture"] = 1
    for region in record.regions:
        split = region.split
        counts[split, "region"] += 1
        counts[split, "expression"] += len(region.expressions)
        counts[split, "box"] += len(region.boxes)
        counts[split, "mask"] += region.mask is not None
    counts.update((question.split, "question") for question in record.questions)
    return counts


def sample_counts(sample: RawSample) -> Counts:
    """The entries of a raw sample, those that were lost among them."""
    counts = record_counts(sample.record)
    for fault in sample.faults:
        counts.update(_taken(fault))
    counts.update(dict.fromkeys(((split, "picture") for split in sample.splits - set(sample.record.splits)), 1))
    return counts


def _taken(fault: Fault) -> Counts:
    return Counter() if fault.changed else Counter({(fault.split, kind): number for kind, number in fault.takes})


def fault_row(fault: Fault, key: str) -> dict[str, Any]:
    """The row of the quarantine table for a fault of an entry."""
    counts = Counter({(fault.split, kind): number for kind, number in fault.takes})
    names = ("file", "region", "reason", "kind", "id", "cause", "changed")
    return _row({name: getattr(fault, name) for name in names} | {"key": key, "counts": _listed(counts)})


def picture_rows(sample: RawSample, kept: Record | None, cause: str = "", reason: str = "") -> Iterator[dict[str, Any]]:
    """The rows of a raw sample for the faults that came with it, and for the image in the splits that it is not in.

    ``kept`` is the record that is stored; None where the image itself is lost, with all that is known of it, for the
    cause and reason given. Without these the image is lost because nothing of it is left.
    """
    key = sample.record.key
    yield from (fault_row(fault, key) for fault in sample.faults)
    without = sample.splits - set(kept.splits if kept else ())
    if kept is not None and not without:
        return
    lost: Counts = record_counts(sample.record) if kept is None else Counter()
    lost.update({(split, "picture"): 1 for split in without if not lost[split, "picture"]})
    row = {"file": str(sample.image), "key": key, "region": None, "kind": "picture", "id": sample.record.picture_id}
    if not reason:
        first = min((fault for fault in sample.faults if not fault.changed), key=lambda fault: fault.cause in BY_RULE)
        cause, reason = first.cause, f"nothing of it is left in {', '.join(sorted(without))}: {first.reason}"
    yield _row(row | {"cause": cause, "reason": reason, "changed": False, "counts": _listed(lost)})


def _row(fields: dict[str, Any]) -> dict[str, Any]:
    """The row with texts that a table can hold."""
    return {name: storable(value) if isinstance(value, str) else value for name, value in fields.items()}


def _listed(counts: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [
        {"split": split, "kind": kind, "entries": number} for (split, kind), number in sorted(counts.items()) if number
    ]


def make_ledger(read: Counts, kept: Counts, quarantine: pa.Table) -> Ledger:
    """The ledger of these counts and of the rows of the quarantine table."""
    ledger: Ledger = {}
    for name, counts in (("read", read), ("kept", kept)):
        for (split, kind), number in counts.items():
            if number:
                _account(ledger, split, kind)[name] = number
    for (split, kind, cause, changed), number in sorted(quarantine_counts(quarantine).items()):
        _account(ledger, split, kind)["changed" if changed else "lost"][cause] = number
    return ledger


def proved_ledger(read: Counts, kept: Counts, quarantine: pa.Table, where: object) -> Ledger:
    """The ledger of these; raises BuildError where what was read is not what was kept and lost."""
    ledger = make_ledger(read, kept, quarantine)
    if wrong := imbalances(ledger):
        raise BuildError(f"{where}: entries are unaccounted for, which is a fault of this program: {'; '.join(wrong)}")
    return ledger


def faults_of(quarantine: pa.Table) -> pa.Table:
    """The rows of what was lost by a fault: neither changed and kept nor left out by a rule."""
    by_rule = pc.is_in(quarantine["cause"], pa.array(sorted(BY_RULE)))
    return quarantine.filter(pc.and_(pc.invert(quarantine["changed"]), pc.invert(by_rule)))


def _account(ledger: Ledger, split: str, kind: str) -> dict[str, Any]:
    return ledger.setdefault(split, {}).setdefault(kind, _empty())


def _empty() -> dict[str, Any]:
    return {"read": 0, "kept": 0, "lost": {}, "changed": {}}


def account_of(ledger: Ledger, split: str, kind: str) -> dict[str, Any]:
    """The account of a split and kind, with nothing in it where the ledger has none."""
    found: dict[str, Any] = ledger.get(split, {}).get(kind) or _empty()
    return found


def lost_by_fault(account: Mapping[str, Any]) -> dict[str, int]:
    """What was lost by a fault, by cause: what the rules of a data set leave out is not among it."""
    return {cause: number for cause, number in account["lost"].items() if cause not in BY_RULE}


def quarantine_counts(quarantine: pa.Table) -> Counter[tuple[str, str, str, bool]]:
    """Entries in a quarantine table by split, kind, cause and whether they were only changed."""
    found: Counter[tuple[str, str, str, bool]] = Counter()
    for batch in quarantine.select(["cause", "changed", "counts"]).to_batches():
        counts = batch["counts"]
        parents = pc.list_parent_indices(counts)
        entries = counts.flatten()
        table = pa.table(
            {
                "cause": batch["cause"].take(parents),
                "changed": batch["changed"].take(parents),
                **{name: entries.field(name) for name in ("split", "kind", "entries")},
            }
        )
        names = ["split", "kind", "cause", "changed"]
        for row in table.group_by(names).aggregate([("entries", "sum")]).to_pylist():
            found[tuple(row[name] for name in names)] += row["entries_sum"]
    return found


def table_counts(samples: MappedTable, examples: MappedTable) -> Counts:
    """The pictures, expressions and questions by split that the tables of a set hold."""
    found: Counts = Counter()
    for batch in samples.select(["splits"]).to_batches():
        for split in pc.value_counts(batch["splits"].flatten()).to_pylist():
            found[split["values"], "picture"] += split["counts"]
    for batch in examples.select(["split", "kind"]).to_batches():
        for row in pa.table(batch).group_by(["split", "kind"]).aggregate([([], "count_all")]).to_pylist():
            found[row["split"], row["kind"]] += row["count_all"]
    return found


def table_differences(ledger: Ledger, samples: MappedTable, examples: MappedTable) -> list[str]:
    """Where the tables hold other numbers of entries than the ledger says are kept, in words."""
    return kept_differences(ledger, table_counts(samples, examples), ("picture", "expression", "question"), "")


def kept_differences(ledger: Ledger, found: Counts, kinds: tuple[str, ...], where: str) -> list[str]:
    """Where there are other numbers of entries of these kinds than the ledger says are kept, in words."""
    entries = {*found, *((split, kind) for split in ledger for kind in kinds)}
    kept = {entry: account_of(ledger, *entry)["kept"] for entry in entries}
    return [
        f"split {split or 'unknown'}: {found[split, kind]} {kind} entries{where}, the ledger says {kept[split, kind]}"
        for split, kind in sorted(entries)
        if found[split, kind] != kept[split, kind]
    ]


def imbalances(ledger: Ledger) -> list[str]:
    """Where read is not kept + lost, in words."""
    return [
        f"split {split or 'unknown'}: {account['read']} {kind} entries were read, {account['kept']} kept and "
        f"{sum(account['lost'].values())} lost"
        for split, accounts in ledger.items()
        for kind, account in accounts.items()
        if account["read"] != account["kept"] + sum(account["lost"].values())
    ]
