"""A pretraining set: built sets put together by reference, without any picture that a test will show.

Nothing is copied: the manifest refers to the shards of the inputs by relative path. A picture is left out when it
has a split other than "train" in any excluded set or in any of the inputs; excluded.parquet lists each with the
reason, and before the manifest is published the written tables are read back and searched for overlaps again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from shards.errors import InputError
from shards.identity import Identity, held_out, identities, manifest_identities
from shards.manifest import (
    EXAMPLE_SCHEMA,
    EXAMPLES,
    EXCLUDED,
    MANIFEST,
    META_KEY,
    SAMPLE_SCHEMA,
    VERSION,
    Manifest,
    meta_bytes,
    open_writer,
    read_meta,
)
from shards.publish import publishing, remove_temporaries, sync_folder

EXCLUDED_SCHEMA = pa.schema(
    [
        pa.field("set", pa.int16(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("coco_id", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
_ROW_GROUP = 2**16


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Where a picture is held out: the set by name, and the split."""

    name: str
    split: str


def pretrain_set(inputs: list[tuple[Path, float]], exclude: list[Path], out: Path) -> Manifest:
    """Put the "train" examples of the inputs together, each input with its weight in the mixture, into ``out``.

    Pictures without an example left are left out too. Raises InputError for a weight that is not positive, a set
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
    held = _all_held_out([*sets, *(Manifest.open(folder) for folder in exclude)])
    reasons = [_reasons(manifest, held) for manifest in sets]
    samples, examples, bare = _merged(sets, reasons)
    if not len(samples):
        raise InputError(
            f"{out}: no picture is left of {', '.join(str(folder) for folder, _ in inputs)}; expected examples of split"
            " train whose pictures no excluded set holds out"
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
        "excluded": sum(len(found) for found in reasons),
        "without_examples": bare,
    }
    out.mkdir(parents=True, exist_ok=True)
    remove_temporaries(out)
    _write(out / EXCLUDED, _excluded_table(sets, reasons), EXCLUDED_SCHEMA)
    _write(out / EXAMPLES, examples, EXAMPLE_SCHEMA)
    sync_folder(out)
    schema = SAMPLE_SCHEMA.with_metadata({META_KEY: meta_bytes(meta)})
    with publishing(out / MANIFEST) as temporary:
        with open_writer(temporary, schema) as writer:
            writer.write_table(samples.replace_schema_metadata(schema.metadata), _ROW_GROUP)
        _prove(temporary, out / EXAMPLES, [folder for folder, _ in inputs] + exclude)
    sync_folder(out)
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
    """What decides the outcome: the manifests by path and checksum."""

    def entry(folder: Path) -> dict[str, Any]:
        read_meta(folder)
        digest = xxhash.xxh3_128((folder / MANIFEST).read_bytes())
        digest.update((folder / EXAMPLES).read_bytes())
        return {"folder": os.path.relpath(folder.resolve(), out.resolve()), "xxh3": digest.hexdigest()}

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


def _all_held_out(sets: list[Manifest]) -> dict[Identity, HeldOut]:
    held: dict[Identity, HeldOut] = {}
    for manifest in sets:
        name = f"{manifest.meta['source']} ({manifest.folder})"
        for identity, split in held_out(manifest).items():
            held.setdefault(identity, HeldOut(name, split))
    return held


def _reasons(manifest: Manifest, held: dict[Identity, HeldOut]) -> dict[int, str]:
    """The rows of a set that must stay out, and why."""
    reasons = {}
    for row, known_by in enumerate(manifest_identities(manifest)):
        match = next((identity for identity in known_by if identity in held), None)
        if match is not None:
            where = held[match]
            reasons[row] = f"in split {where.split} of {where.name}, by {match[0]} {match[1]}"
    return reasons


def _merged(sets: list[Manifest], reasons: list[dict[int, str]]) -> tuple[pa.Table, pa.Table, int]:
    """The tables of the new set, and how many pictures were left out because no example was left for them."""
    samples, examples, bare = [], [], 0
    first_shard = first_sample = 0
    for number, (manifest, left_out) in enumerate(zip(sets, reasons, strict=True)):
        allowed = np.ones(len(manifest.samples), dtype=bool)
        allowed[list(left_out)] = False
        sample = manifest.examples["sample"].to_numpy()
        wanted = pc.equal(manifest.examples["split"], "train").to_numpy() & allowed[sample]
        used = np.zeros(len(allowed), dtype=bool)
        used[sample[wanted]] = True
        bare += int((allowed & ~used).sum())
        new_row = np.cumsum(used) - 1 + first_sample
        examples.append(_with_column(manifest.examples.filter(pa.array(wanted)), "sample", new_row[sample[wanted]]))
        rows = manifest.samples.filter(pa.array(used))
        rows = _with_column(rows, "shard", rows["shard"].to_numpy() + first_shard)
        samples.append(_with_column(rows, "set", np.full(len(rows), number)))
        first_sample += int(used.sum())
        first_shard += len(manifest.shard_paths)
    return pa.concat_tables(samples), pa.concat_tables(examples), bare


def _with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    index = table.schema.get_field_index(name)
    field = table.schema.field(name)
    return table.set_column(index, field, pa.array(values.astype(field.type.to_pandas_dtype()), field.type))


def _excluded_table(sets: list[Manifest], reasons: list[dict[int, str]]) -> pa.Table:
    tables = []
    for number, (manifest, left_out) in enumerate(zip(sets, reasons, strict=True)):
        rows = manifest.samples.select(["key", "file_name", "coco_id"]).take(pa.array(list(left_out), pa.int64()))
        columns = [
            pa.array([number] * len(left_out), pa.int16()),
            *rows.columns,
            pa.array(list(left_out.values()), "string"),
        ]
        tables.append(pa.table(columns, schema=EXCLUDED_SCHEMA))
    return pa.concat_tables(tables)


def _write(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    with publishing(path) as temporary, open_writer(temporary, schema) as writer:
        writer.write_table(table, _ROW_GROUP)


def _prove(samples_file: Path, examples_file: Path, folders: list[Path]) -> None:
    """Read the written tables back; raises InputError unless all is "train" and no picture is held out anywhere."""
    splits = pc.unique(pq.read_table(examples_file, columns=["split"])["split"]).to_pylist()
    if set(splits) - {"train"}:
        raise InputError(f"{examples_file}: splits {sorted(splits)} were written, expected only train; report this")
    written = pq.read_table(samples_file, columns=["key", "source", "file_name", "coco_id", "image_xxh3"]).to_pylist()
    for folder in folders:
        held = held_out(Manifest.open(folder))
        for row in written:
            known_by = identities(row["source"], row["file_name"], row["coco_id"], row["image_xxh3"])
            match = next((identity for identity in known_by if identity in held), None)
            if match is not None:
                raise InputError(
                    f"{samples_file.parent}: picture {row['key']} ({row['file_name']}) is in split {held[match]} of"
                    f" {folder}, by {match[0]} {match[1]}; the set was not published"
                )
