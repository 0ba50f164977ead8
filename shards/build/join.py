"""The end of a build: the parts of all shards joined into the set's tables, the manifest last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laconvnet.files import is_unreadable, publishing, retried
from laconvnet.shards.build.brake import NO_BRAKE, Brake
from laconvnet.shards.build.writer import Part
from laconvnet.shards.errors import BuildError, InputError, joined
from laconvnet.shards.format.counts import COUNT_SCHEMA, counted
from laconvnet.shards.format.ledger import QUARANTINE_SCHEMA, proved_ledger, table_differences
from laconvnet.shards.format.manifest import (
    EXAMPLE_SCHEMA,
    EXAMPLES_MAP,
    PARTS,
    QUARANTINE,
    SAMPLE_SCHEMA,
    SAMPLES_MAP,
    Written,
    open_writer,
    publish_tables,
)
from laconvnet.shards.format.pictures import NOT_STORED, PICTURE_SCHEMA, picture_row
from laconvnet.shards.format.raw import Counts, Fault

_Names = tuple[str, str]  # key and file name of an image


@dataclass(frozen=True, slots=True)
class Lost:
    """What came into no shard: the rows of the quarantine and of the pictures; and which faults belong to no sample."""

    rows: list[dict[str, Any]]
    pictures: list[dict[str, Any]]
    faults: Sequence[Fault] = ()


def join_parts(
    out: Path,
    count: int,
    lost: Lost,
    read: Counts,
    meta: dict[str, Any],
    brake: Brake = NO_BRAKE,
) -> None:
    """Publish the set of shards 0..count-1; raises InputError where not one sample is usable, or the brake holds.

    Streams part by part. In the quarantine ``lost`` stands first, in the table of pictures last. ``read`` are the
    entries that the source has read: BuildError where they are not those that are kept and lost. Shards left from an
    earlier, longer plan are removed.
    """
    parts = [Part(out, number) for number in range(count)]
    sizes = [part.tar_bytes() for part in parts]
    assert None not in sizes, "every shard was written before this"
    usable = [part for part, size in zip(parts, sizes, strict=True) if size]
    quarantined = [pa.Table.from_pylist(lost.rows, schema=QUARANTINE_SCHEMA)]
    quarantined += [_read(part, "quarantine") for part in parts]
    quarantine = pa.concat_tables(quarantined)
    if not usable:
        of_images = quarantine.filter(pc.equal(quarantine["kind"], "picture"))
        first = pa.concat_tables([of_images, quarantine]).slice(0, 1).to_pylist()[0]
        for path in (out / PARTS).glob("shard-*.parquet"):  # nothing here is worth continuing
            path.unlink()
        raise InputError(f"{first['file']}: {first['reason']}; nor is any other image of this source usable")
    kept = sum((part.kept() for part in usable), Counter())
    ledger = proved_ledger(read, kept, quarantine, out)
    brake.judge(out, ledger, quarantine)
    _remove_stale(out, usable)

    with publishing(out / QUARANTINE) as temporary, open_writer(temporary, QUARANTINE_SCHEMA) as writer:
        writer.write_table(quarantine)
    facts = meta | {
        "shards": [part.tar.name for part in usable],
        "quarantined": int(pc.sum(pc.invert(quarantine["changed"])).as_py() or 0),
        "ledger": ledger,
    }

    def prove(written: Written) -> None:
        other = table_differences(ledger, written[SAMPLES_MAP], written[EXAMPLES_MAP])
        if other:
            raise BuildError(f"{out}: the tables do not hold what the ledger has, report this: {'; '.join(other)}")

    publish_tables(
        out,
        _samples(usable),
        _examples(usable),
        facts,
        beside=[QUARANTINE],
        counts=_counts(usable),
        pictures=_pictures(parts, lost),
        prove=prove,
    )


def _read(part: Part, name: str) -> pa.Table:
    """The part's share of a table; raises InputError where its pages are not those that were written."""
    path = part.table(name)
    try:
        return retried(path, lambda: pq.read_table(path, page_checksum_verification=True))
    except (OSError, pa.ArrowException) as error:
        if is_unreadable(error):
            raise
        part.table("samples").unlink(missing_ok=True)  # the commit: the next run writes this shard again
        raise InputError(f"{path}: damaged ({joined(error)}); run the same build command again") from error


def _samples(parts: list[Part]) -> Iterator[pa.Table]:
    column = SAMPLE_SCHEMA.get_field_index("shard")
    for number, part in enumerate(parts):
        table = _read(part, "samples")
        shard = pa.array(np.full(len(table), number, np.int32))
        yield table.set_column(column, SAMPLE_SCHEMA.field("shard"), shard)


def _examples(parts: list[Part]) -> Iterator[pa.Table]:
    first_sample = 0
    for part in parts:
        table = _read(part, "examples")
        sample = pa.array(table["sample"].to_numpy() + first_sample, pa.int64())
        yield table.set_column(0, EXAMPLE_SCHEMA.field("sample"), sample)
        first_sample += pq.read_metadata(part.table("samples")).num_rows


def _counts(parts: list[Part]) -> Iterator[pa.Table]:
    column = COUNT_SCHEMA.get_field_index("row")
    first = 0
    for part in parts:
        if part.table("counts").exists():
            table = _read(part, "counts")
            yield table.set_column(column, COUNT_SCHEMA.field("row"), pc.add(table["row"], first))
        else:  # written by a version that did not count
            yield from counted(_read(part, "examples").to_batches(), first)
        first += pq.read_metadata(part.table("examples")).num_rows


def _pictures(parts: list[Part], lost: Lost) -> Iterator[pa.Table]:
    """Of every part, for an image that is lost is known too; with the splits of faults that belong to no sample."""
    unseen = _named_by_faults(lost.faults)
    more = {names: row["splits"] for names, row in unseen.items()}
    column = PICTURE_SCHEMA.get_field_index("row")
    first_sample = 0
    for part in parts:
        table = _read(part, "pictures")
        stored = pc.not_equal(table["row"], NOT_STORED)
        row = pc.if_else(stored, pc.add(table["row"], first_sample), table["row"])
        yield _with_splits(table.set_column(column, PICTURE_SCHEMA.field("row"), row), more, unseen)
        first_sample += pq.read_metadata(part.table("samples")).num_rows
    yield _with_splits(pa.Table.from_pylist(lost.pictures, schema=PICTURE_SCHEMA), more, unseen)
    yield pa.Table.from_pylist(list(unseen.values()), schema=PICTURE_SCHEMA)


def _named_by_faults(faults: Iterable[Fault]) -> dict[_Names, dict[str, Any]]:
    """The rows of images that faults speak of, with the splits of all faults of one."""
    found: dict[_Names, dict[str, Any]] = {}
    for fault in faults:
        if fault.kind == "picture" and fault.key:
            row = picture_row(fault.key, fault.named.file_name, fault.named.ids, filter(None, [fault.split]))
            first = found.setdefault(_names(row), row)
            first["splits"] = sorted({*first["splits"], *row["splits"]})
    return found


def _names(row: dict[str, Any]) -> _Names:
    return row["key"], row["file_name"]


def _with_splits(pictures: pa.Table, more: dict[_Names, list[str]], unseen: dict[_Names, dict[str, Any]]) -> pa.Table:
    """These pictures, with ``more`` splits; what is among them is not ``unseen``."""
    if not more:  # of nearly all sets, and there are millions of rows
        return pictures
    rows = pictures.to_pylist()
    for row in rows:
        if _names(row) in more:
            row["splits"] = sorted({*row["splits"], *more[_names(row)]})
            unseen.pop(_names(row), None)
    return pa.Table.from_pylist(rows, schema=PICTURE_SCHEMA)


def _remove_stale(out: Path, usable: list[Part]) -> None:
    wanted = {path for part in usable for path in (part.tar, part.index)}
    for path in (*out.glob("shard-*.tar"), *out.glob("shard-*.idx")):
        if path not in wanted:
            path.unlink()
