"""A pretraining set: built sets put together by reference, without any image that a test will show.

Nothing is copied: the manifest refers to the shards of the inputs by relative path. An image is skipped when it
has a split other than "train" in any excluded set or in any of the inputs, whether it was built there or lost;
excluded.parquet lists each with the reason, doubtful.parquet and doubtful.html what was kept though it looks like one.
Before the manifest is published the written tables are read back and searched for overlaps again. Tables are read,
filtered and written batch by batch.
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
from laconvnet.shards.format.facts import GENERATED, says_generated
from laconvnet.shards.format.manifest import (
    AGAIN,
    EXAMPLE_SCHEMA,
    EXAMPLES_MAP,
    EXCLUDED,
    MANIFEST,
    PARTS,
    PICTURES_MAP,
    SAMPLE_SCHEMA,
    SAMPLES_MAP,
    VERSION,
    Manifest,
    Written,
    meta_fingerprint,
    open_writer,
    publish_tables,
    read_meta,
)
from laconvnet.shards.format.pictures import NOT_STORED, PICTURE_SCHEMA
from laconvnet.shards.format.remote import url_of
from laconvnet.shards.format.tables import Columns
from laconvnet.shards.sets.doubtful import DOUBTFUL, Pair, publish_doubtful
from laconvnet.shards.sets.holdout import (
    TRAIN,
    HeldOut,
    Match,
    known_images,
    known_of,
    picture_tables,
    say_what_splits_are_missing,
)

Flags = NDArray[np.bool_]

EXCLUDED_SCHEMA = pa.schema(
    [
        pa.field("set", pa.int16(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("coco_id", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        pa.field("distance", pa.int16(), nullable=False),
    ]
)


def pretrain_set(inputs: list[tuple[Path, float]], exclude: list[Path], out: Path) -> Manifest:
    """Put the "train" examples of the inputs together, each input with its weight in the mixture, into ``out``.

    Images without an example left are skipped too. Raises InputError for a weight that is not positive, a set
    that cannot be opened, an ``out`` that holds something else, or an overlap that remains.
    """
    _check_arguments(inputs, exclude, out)
    options = _options(inputs, exclude, out)
    if (out / MANIFEST).exists():
        if read_meta(out).get("options") != options:
            raise InputError(
                f"{out}: holds a set made from other inputs, weights or exclusions, or these were built again since;"
                " give another --out or delete that folder"
            )
        return Manifest.open(out)

    opened = _opened([*(folder for folder, _ in inputs), *exclude])
    for manifest in opened.values():
        manifest.check_tables()  # or damage in one of version 2 would get a right checksum here
    for folder in exclude:
        say_what_splits_are_missing(opened[folder.resolve()])
    every = list(opened.values())
    sets, held = every[: len(inputs)], HeldOut(every)
    found = [_held_out(manifest, held) for manifest in sets]
    same = [matches for matches, _ in found]
    shares = _shares(sets, same)
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
        "excluded": sum(map(len, same)),
        "without_examples": sum(int((share.allowed & ~share.used).sum()) for share in shares),
    }
    pairs = (Pair(number, match) for number, (_, matches) in enumerate(found) for match in matches)
    doubtful = [pair for pair in pairs if shares[pair.number].used[pair.match.image.row]]
    meta["doubtful"] = len(doubtful)
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    with publishing(out / EXCLUDED) as temporary, open_writer(temporary, EXCLUDED_SCHEMA) as writer:
        writer.write_table(_excluded_table(sets, same, every))
    publish_doubtful(out, doubtful, every, [*map(_place, every)])
    publish_tables(
        out,
        (part for share in shares for part in _samples(share)),
        (part for share in shares for part in _examples(share)),
        meta,
        [EXCLUDED, DOUBTFUL],
        pictures=(part for share in shares for part in _pictures(share)),
        prove=partial(_prove, out, [manifest.folder for manifest in every]),
    )
    return Manifest.open(out)


def _check_arguments(inputs: list[tuple[Path, float]], exclude: list[Path], out: Path) -> None:
    for place in (*(folder for folder, _ in inputs), *exclude, out):
        if url := url_of(place):  # the set refers to the shards of others by relative paths
            raise InputError(f"{url}: expected a folder on this machine; a set comes here by `laconvnet shards copy`")
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
    if any((out / name).is_dir() for name in (PARTS, AGAIN)) or any(out.glob("shard-*.tar")):
        raise InputError(f"{out}: holds what a build has made; give another --out")


def _opened(folders: list[Path]) -> dict[Path, Manifest]:
    """The sets in these folders, each once, in their order."""
    opened: dict[Path, Manifest] = {}
    for folder in folders:
        if folder.resolve() not in opened:
            opened[folder.resolve()] = Manifest.open(folder)
    return opened


def _options(inputs: list[tuple[Path, float]], exclude: list[Path], out: Path) -> dict[str, Any]:
    """The options that decide the outcome: the sets by path and `meta_fingerprint`."""

    def entry(folder: Path) -> dict[str, Any]:
        digest = meta_fingerprint(read_meta(folder))
        return {"folder": os.path.relpath(folder.resolve(), out.resolve()), "xxh3": digest}

    options: dict[str, Any] = {
        "inputs": [entry(folder) | {"weight": float(weight)} for folder, weight in inputs],
        "exclude": [entry(folder) for folder in exclude],
    }
    options |= {GENERATED: True} if any(says_generated(read_meta(folder)) for folder, _ in inputs) else {}
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


def _place(manifest: Manifest) -> str:
    return f"{manifest.meta['source']} ({manifest.folder})"


def _held_out(manifest: Manifest, held: HeldOut) -> tuple[list[Match], list[Match]]:
    """The images of a set that must stay out, in its order, and the doubtful ones."""
    same, doubtful = held.find(known_images(manifest))
    return sorted(same, key=lambda match: match.image.row), doubtful


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


def _shares(sets: list[Manifest], same: list[list[Match]]) -> list[_Share]:
    shares = []
    first_shard = first_sample = 0
    for number, (manifest, skipped) in enumerate(zip(sets, same, strict=True)):
        allowed = np.ones(len(manifest.samples), dtype=bool)
        allowed[[match.image.row for match in skipped]] = False
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


def _pictures(share: _Share) -> Iterator[pa.Table]:
    new_row = np.cumsum(share.used) - 1 + share.first_sample
    for part in picture_tables(share.manifest):
        stored = part.filter(pc.not_equal(part["row"], NOT_STORED))
        rows = stored.filter(pa.array(share.used[stored["row"].to_numpy()]))
        yield _with_column(rows, PICTURE_SCHEMA.field("row"), new_row[rows["row"].to_numpy()])


def _with_column(table: pa.Table, field: pa.Field, values: Any) -> pa.Table:
    index = table.schema.get_field_index(field.name)
    return table.set_column(index, field, pa.array(values.astype(field.type.to_pandas_dtype()), field.type))


def _excluded_table(sets: list[Manifest], same: list[list[Match]], held_in: list[Manifest]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, (manifest, matches) in enumerate(zip(sets, same, strict=True)):
        coco_ids = manifest.sample_columns.values("coco_id", np.array([match.image.row for match in matches], np.int64))
        for match, coco_id in zip(matches, coco_ids, strict=True):
            image = {"set": number, "key": match.image.key, "file_name": match.image.file_name, "coco_id": coco_id}
            reason = match.told(_place(held_in[match.held.number]))
            rows.append(image | {"reason": reason, "by": match.by[0], "distance": match.distance})
    return pa.Table.from_pylist(rows, schema=EXCLUDED_SCHEMA)


def _prove(out: Path, folders: list[Path], written: Written) -> None:
    """Search the written tables; raises InputError unless all is "train" and no image is held out anywhere."""
    splits = pc.unique(written[EXAMPLES_MAP]["split"]).to_pylist()
    if set(splits) - {TRAIN}:
        raise InputError(f"{out}: splits {sorted(splits)} were written, expected only train; report this")
    pictures = (pa.table(batch) for batch in written[PICTURES_MAP].to_batches())
    same, _ = HeldOut([Manifest.open(folder) for folder in folders]).find(
        known_of(pictures, Columns(written[SAMPLES_MAP]), "")
    )
    if same:
        first = min(same, key=lambda match: match.image.row)
        where = first.told(str(folders[first.held.number]))
        raise InputError(f"{out}: image {first.image.key} ({first.image.file_name}) is {where}; not published")
