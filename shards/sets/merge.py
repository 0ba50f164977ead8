"""A pretraining set: built sets put together by reference, without any image that a test will show.

Nothing is copied: the manifest refers to the shards of the inputs by relative path. An image is skipped when it
has a split other than "train" in any excluded set or in any of the inputs; excluded.parquet lists each with the
reason, and before the manifest is published the written tables are read back and searched for overlaps again.
Tables are read, filtered and written batch by batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laconvnet.files import publishing, remove_leftovers
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import (
    EXAMPLE_SCHEMA,
    EXCLUDED,
    MANIFEST,
    SAMPLE_SCHEMA,
    VERSION,
    Manifest,
    meta_fingerprint,
    open_writer,
    publish_tables,
    read_meta,
)
from laconvnet.shards.format.tables import Columns, MappedTable
from laconvnet.shards.sets.holdout import Identity, held_out, identities, manifest_identities, shared

Flags = NDArray[np.bool_]

EXCLUDED_SCHEMA = pa.schema(
    [
        pa.field("set", pa.int16(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("coco_id", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Where an image is held out: the set by name, and the split."""

    name: str
    split: str


def pretrain_set(inputs: list[tuple[Path, float]], exclude: list[Path], out: Path) -> Manifest:
    """Put the "train" examples of the inputs together, each input with its weight in the mixture, into ``out``.

    Images without an example left are skipped too. Raises InputError for a weight that is not positive, a set
    that cannot be opened, an ``out`` that holds something else, or an overlap that remains.
    """
    _check_arguments(inputs, out)
    options = _options(inputs, exclude, out)
    if (out / MANIFEST).exists():
        if read_meta(out).get("options") != options:
            raise InputError(
                f"{out}: holds a set made from other inputs, weights or exclusions, or these were built again since;"
                " give another --out or delete that folder"
            )
        return Manifest.open(out)

    sets = [Manifest.open(folder) for folder, _ in inputs]
    excluded = [Manifest.open(folder) for folder in exclude]
    for manifest in (*sets, *excluded):
        manifest.check_tables()  # or damage in one of version 2 would get a right checksum here
    held = _all_held_out([*sets, *excluded])
    reasons = [_reasons(manifest, held) for manifest in sets]
    shares = _shares(sets, reasons)
    if not any(share.used.any() for share in shares):
        raise InputError(
            f"{out}: no image is left of {', '.join(str(folder) for folder, _ in inputs)}; expected examples of split"
            " train whose images no excluded set holds out"
        )
    meta = {
        "version": VERSION,
        "source": "+".join(_names(sets)),
        "licence": "; ".join(dict.fromkeys(str(manifest.meta["licence"]) for manifest in sets)),
        "shards": [os.path.relpath(path.resolve(), out.resolve()) for one in sets for path in one.shard_paths],
        "sets": [
            {"name": name, "weight": float(weight)} for name, (_, weight) in zip(_names(sets), inputs, strict=True)
        ],
        "options": options,
        "quarantined": 0,
        "ledgers": _ledgers(sets),
        "excluded": sum(len(found) for found in reasons),
        "without_examples": sum(int((share.allowed & ~share.used).sum()) for share in shares),
    }
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    with publishing(out / EXCLUDED) as temporary, open_writer(temporary, EXCLUDED_SCHEMA) as writer:
        writer.write_table(_excluded_table(sets, reasons))
    folders = [*(folder for folder, _ in inputs), *exclude]
    samples = (part for share in shares for part in _samples(share))
    examples = (part for share in shares for part in _examples(share))
    publish_tables(out, samples, examples, meta, EXCLUDED, prove=partial(_prove, out, folders))
    return Manifest.open(out)


def _check_arguments(inputs: list[tuple[Path, float]], out: Path) -> None:
    if not inputs:
        raise InputError("--inputs: no set given; expected at least one folder")
    seen: set[Path] = set()
    for folder, weight in inputs:
        if not (weight > 0 and np.isfinite(weight)):
            raise InputError(f"{folder}: weight {weight}, expected a positive number")
        if folder.resolve() in seen:
            raise InputError(f"{folder}: given twice as input; raise its weight instead")
        seen.add(folder.resolve())
    if out.resolve() in seen:
        raise InputError(f"{out}: is an input; give another --out")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: not a folder; give another --out")


def _options(inputs: list[tuple[Path, float]], exclude: list[Path], out: Path) -> dict[str, Any]:
    """The options that decide the outcome: the sets by path and `meta_fingerprint`."""

    def entry(folder: Path) -> dict[str, Any]:
        digest = meta_fingerprint(read_meta(folder))
        return {"folder": os.path.relpath(folder.resolve(), out.resolve()), "xxh3": digest}

    options = {
        "inputs": [entry(folder) | {"weight": float(weight)} for folder, weight in inputs],
        "exclude": [entry(folder) for folder in exclude],
    }
    return dict(json.loads(json.dumps(options)))


def _names(sets: list[Manifest]) -> list[str]:
    """The sources, or the folders' names where two sets have the same source."""
    sources = [str(manifest.meta["source"]) for manifest in sets]
    return [
        source if sources.count(source) == 1 else manifest.folder.resolve().name
        for source, manifest in zip(sources, sets, strict=True)
    ]


def _ledgers(sets: list[Manifest]) -> dict[str, Any]:
    """What became of the entries of each part when it was built, by its name; parts of parts have both names."""
    found = {}
    for name, manifest in zip(_names(sets), sets, strict=True):
        if "ledger" in manifest.meta:
            found[name] = manifest.meta["ledger"]
        found |= {f"{name}/{part}": ledger for part, ledger in manifest.meta.get("ledgers", {}).items()}
    return found


def _all_held_out(sets: list[Manifest]) -> dict[Identity, HeldOut]:
    held: dict[Identity, HeldOut] = {}
    for manifest in sets:
        name = f"{manifest.meta['source']} ({manifest.folder})"
        for identity, split in held_out(manifest).items():
            held.setdefault(identity, HeldOut(name, split))
    return held


def _reasons(manifest: Manifest, held: dict[Identity, HeldOut]) -> dict[int, str]:
    """The rows of a set that must stay out, and why."""
    return {
        row: f"in split {where.split} of {where.name}, by {what} {value}"
        for row, (what, value), where in shared(manifest_identities(manifest), held)
    }


@dataclass(frozen=True, slots=True)
class _Share:
    """Input ``number``: which of its images (flags) may be used and which are, and where it begins in the new set."""

    manifest: Manifest
    number: int
    allowed: Flags
    used: Flags
    first_shard: int
    first_sample: int

    def wanted(self, examples: pa.RecordBatch) -> Flags:
        """Whether each of these examples is trained on."""
        train = pc.equal(examples["split"], "train").to_numpy(zero_copy_only=False)
        return np.asarray(train & self.allowed[examples["sample"].to_numpy()])


def _shares(sets: list[Manifest], reasons: list[dict[int, str]]) -> list[_Share]:
    shares = []
    first_shard = first_sample = 0
    for number, (manifest, skipped) in enumerate(zip(sets, reasons, strict=True)):
        allowed = np.ones(len(manifest.samples), dtype=bool)
        allowed[list(skipped)] = False
        share = _Share(manifest, number, allowed, np.zeros_like(allowed), first_shard, first_sample)
        for batch in manifest.examples.select(["split", "sample"]).to_batches():
            share.used[batch["sample"].to_numpy()[share.wanted(batch)]] = True
        shares.append(share)
        first_sample += int(share.used.sum())
        first_shard += len(manifest.shard_paths)
    return shares


def _samples(share: _Share) -> Iterator[pa.Table]:
    first = 0
    for batch in share.manifest.samples.to_batches():
        rows = pa.table(batch.filter(pa.array(share.used[first : first + len(batch)])))
        rows = _with_column(rows, SAMPLE_SCHEMA.field("shard"), rows["shard"].to_numpy() + share.first_shard)
        yield _with_column(rows, SAMPLE_SCHEMA.field("set"), np.full(len(rows), share.number))
        first += len(batch)


def _examples(share: _Share) -> Iterator[pa.Table]:
    new_row = np.cumsum(share.used) - 1 + share.first_sample
    for batch in share.manifest.examples.to_batches():
        rows = pa.table(batch.filter(pa.array(share.wanted(batch))))
        yield _with_column(rows, EXAMPLE_SCHEMA.field("sample"), new_row[rows["sample"].to_numpy()])


def _with_column(table: pa.Table, field: pa.Field, values: Any) -> pa.Table:
    index = table.schema.get_field_index(field.name)
    return table.set_column(index, field, pa.array(values.astype(field.type.to_pandas_dtype()), field.type))


def _excluded_table(sets: list[Manifest], reasons: list[dict[int, str]]) -> pa.Table:
    parts = []
    for number, (manifest, skipped) in enumerate(zip(sets, reasons, strict=True)):
        rows = np.array(list(skipped), np.int64)
        known = [manifest.sample_columns.values(name, rows) for name in ("key", "file_name", "coco_id")]
        columns = [[number] * len(skipped), *known, list(skipped.values())]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, EXCLUDED_SCHEMA, strict=True)]
        parts.append(pa.table(arrays, schema=EXCLUDED_SCHEMA))
    return pa.concat_tables(parts)


def _prove(out: Path, folders: list[Path], samples: MappedTable, examples: MappedTable) -> None:
    """Search the written tables; raises InputError unless all is "train" and no image is held out anywhere."""
    splits = pc.unique(examples["split"]).to_pylist()
    if set(splits) - {"train"}:
        raise InputError(f"{out}: splits {sorted(splits)} were written, expected only train; report this")
    written = list(samples.select(["source", "file_name", "coco_id", "image_xxh3"]).to_batches())
    columns = Columns(samples)
    for folder in folders:
        known = (identities(**row) for batch in written for row in batch.to_pylist())
        for row, (what, value), split in shared(known, held_out(Manifest.open(folder))):
            key, name = (columns.value(column, row) for column in ("key", "file_name"))
            where = f"in split {split} of {folder}, by {what} {value}"
            raise InputError(f"{out}: image {key} ({name}) is {where}; the set was not published")
