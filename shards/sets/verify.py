"""Check a built set against itself, and against the sets it must not overlap with."""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from laconvnet.images import opened
from laconvnet.progress import Progress
from laconvnet.shards.build import jpeg
from laconvnet.shards.build.images import EXTENSIONS
from laconvnet.shards.errors import InputError, joined
from laconvnet.shards.format.checksums import REMEDY, file_facts
from laconvnet.shards.format.counts import summed
from laconvnet.shards.format.manifest import (
    COUNTS_MAP,
    EXAMPLES,
    EXAMPLES_MAP,
    EXCLUDED,
    FILES,
    KINDS,
    MANIFEST,
    QUARANTINE,
    SAMPLES_MAP,
    Manifest,
    count_examples,
)
from laconvnet.shards.format.record import Record
from laconvnet.shards.format.remote import spelled
from laconvnet.shards.format.rows import example_rows
from laconvnet.shards.format.tables import MappedTable
from laconvnet.shards.format.tar import BLOCK, INDEX_VERSION, padded
from laconvnet.shards.sets.accounts import ledger_problems, picture_problems, record_ledger_problems
from laconvnet.shards.sets.doubtful import DOUBTFUL
from laconvnet.shards.sets.holdout import HeldOut, known_images, say_what_splits_are_missing
from laconvnet.shards.sources.published import differences

_PROBLEMS = 10
_BOX_TOLERANCE = 0.01  # pixels: boxes are stored in 32 bits
_FORMAT_EXT = {"JPEG": "jpg", "PNG": "png"}
_RECORD_COLUMNS = ("key", "source", "picture_id", "file_name", "coco_id", "width", "height")
_BATCH = 256


def verify(folder: Path, full: bool = False, against: Sequence[Path] = (), progress: bool = True) -> dict[str, Any]:
    """Check a set; returns a report, or raises InputError naming shard, key and offset of the first problems.

    Always: sizes, indices, schemas, references and boxes, the checksums of the tables and of the files beside them, the
    counts of the texts, the table of pictures against that of the samples, that the mapped tables are the published
    ones, and that the ledger is that of the tables and of the quarantine. ``full``: every member's header and checksum,
    every record against its rows and the ledger, every image decoded.
    ``against``: no image of this set is in a split other than "train" of those sets, by anything that images are known
    by (`shards.sets.holdout`).
    ``published`` of the report is that of `shards.sets.info`: it informs, and is no problem.
    """
    manifest = Manifest.open(folder)
    _raise_first(folder, _table_problems(manifest))  # alone: what stands in a damaged table is not looked at
    _raise_first(folder, _quick_problems(manifest))
    if full:
        _raise_first(folder, _full_problems(manifest, progress))
        _raise_first(folder, record_ledger_problems(manifest))
    for other in against:
        _raise_first(folder, _overlaps(manifest, other))
    other_counts = differences(manifest.meta)
    return {
        "folder": spelled(folder),
        "samples": len(manifest.samples),
        "examples": len(manifest.examples),
        "shards": len(manifest.shard_paths),
        "full": full,
        "against": [str(other) for other in against],
        **({} if other_counts is None else {"published": other_counts}),
    }


def _raise_first(folder: Path, problems: Iterator[str]) -> None:
    found = list(islice(problems, _PROBLEMS))
    if found:
        more = ", and perhaps more" if len(found) == _PROBLEMS else ""
        raise InputError(f"{spelled(folder)}: {len(found)} problem(s){more}: {'; '.join(found)}")


def _table_problems(manifest: Manifest) -> Iterator[str]:
    for name, parquet, table in (
        (SAMPLES_MAP, MANIFEST, manifest.samples),
        (EXAMPLES_MAP, EXAMPLES, manifest.examples),
    ):
        try:
            table.check()
        except InputError as error:
            yield str(error)
            continue
        differences = list(_difference(manifest.folder / parquet, name, table))
        yield from differences
        if not differences:
            yield from _file_problems(manifest, parquet)
    for name in ("counted", "pictures"):  # the latter is not opened before
        try:
            table = getattr(manifest, name)
            if table is not None:
                table.check()
        except InputError as error:
            yield str(error)
    for name in (QUARANTINE, EXCLUDED, DOUBTFUL):
        yield from _file_problems(manifest, name)


def _file_problems(manifest: Manifest, name: str) -> Iterator[str]:
    """A file beside the mapped tables against what the manifest recorded of it; version 2 recorded nothing."""
    recorded = manifest.meta.get(FILES, {}).get(name)
    path = manifest.folder / name
    try:
        if recorded is not None and file_facts(path) != recorded:
            yield f"{path}: its checksum differs from the manifest's; {REMEDY}"
    except OSError as error:
        yield f"{path}: cannot be read ({error.strerror}); {REMEDY}"


def _difference(path: Path, name: str, table: MappedTable) -> Iterator[str]:
    """Where a Parquet file first differs from the mapped table of this name."""
    first = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(table.schema):
                wrong = sorted(set(map(str, file.schema_arrow)) ^ set(map(str, table.schema)))
                yield f"{path}: other columns than expected ({'; '.join(wrong)})"
                return
            again = file.schema_arrow.metadata or {}  # a copy of the facts, which Arrow's readers take
            if any((file.metadata.metadata or {}).get(key) != value for key, value in again.items()):
                yield f"{path}: its facts differ from their copy in its Arrow schema; {REMEDY}"
                return
            for batch in file.iter_batches():
                theirs = table.slice(first, len(batch))
                for column in table.column_names:
                    if not _bits(pa.chunked_array([batch[column]])).equals(_bits(theirs[column])):
                        yield f"{path}: {column} in rows {first} to {first + len(batch) - 1} is not that of {name}"
                        return
                first += len(batch)
    except (OSError, pa.ArrowException) as error:
        yield f"{path}: cannot be read as Parquet ({joined(error)})"
        return
    if first != len(table):
        yield f"{path}: {first} rows, {name} has {len(table)}"


def _bits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column whose equal values compare equal: NaN does not."""
    if not pa.types.is_floating(column.type):
        return column
    return pa.chunked_array([chunk.view(pa.int32()) for chunk in column.chunks], pa.int32())


def _quick_problems(manifest: Manifest) -> Iterator[str]:
    yield from _sample_problems(manifest)
    yield from _example_problems(manifest)
    yield from _count_problems(manifest)
    yield from picture_problems(manifest)
    yield from ledger_problems(manifest)
    for number in range(len(manifest.shard_paths)):
        yield from _index_problems(manifest, number)


def _sample_problems(manifest: Manifest) -> Iterator[str]:
    samples = manifest.samples
    columns = {name: samples[name].to_numpy() for name in ("width", "height", "set", "image_offset", "json_offset")}
    image_end = columns["image_offset"] + -(-samples["image_length"].to_numpy() // BLOCK) * BLOCK
    ext = np.array(samples["image_ext"].to_pylist(), dtype=object)
    keys = samples["key"].to_pylist()
    wrong = {
        "a size that is not positive": (columns["width"] <= 0) | (columns["height"] <= 0),
        "a set number beyond the sets": (columns["set"] < 0) | (columns["set"] >= len(manifest.meta["sets"])),
        f"an extension other than {', '.join(EXTENSIONS)}": ~np.isin(ext, EXTENSIONS),
        "an offset that is no multiple of 512": columns["image_offset"] % BLOCK != 0,
        "a record that does not follow its image": columns["json_offset"] != image_end + BLOCK,
    }
    for what, rows in wrong.items():
        for row in np.flatnonzero(rows):
            yield f"{_where(manifest, int(row), 'image')}: {what}"
    if len(set(keys)) != len(keys):
        yield f"{len(keys) - len(set(keys))} keys occur twice"


def _example_problems(manifest: Manifest) -> Iterator[str]:
    examples = manifest.examples
    sample = examples["sample"].to_numpy()
    outside = (sample < 0) | (sample >= len(manifest.samples))
    if outside.any():
        yield f"example {np.flatnonzero(outside)[0]}: sample {sample[outside][0]} of {len(manifest.samples)}"
        return
    if (np.diff(sample) < 0).any():
        yield f"example {np.flatnonzero(np.diff(sample) < 0)[0] + 1}: examples are not in the order of their samples"
    kind = np.array(examples["kind"].to_pylist(), dtype=object)
    region = examples["region"].to_numpy()
    x, y, w, h = (examples[name].to_numpy() for name in "xywh")
    width, height = (manifest.samples[name].to_numpy()[sample] for name in ("width", "height"))
    none = np.isnan(x) & np.isnan(y) & np.isnan(w) & np.isnan(h)
    inside = (x >= 0) & (y >= 0) & (w > 0) & (h > 0)
    inside &= (x + w <= width + _BOX_TOLERANCE) & (y + h <= height + _BOX_TOLERANCE)
    wrong = {
        f"a kind other than {', '.join(KINDS)}": ~np.isin(kind, KINDS),
        "a region number that does not fit its kind": (region >= 0) != (kind == "expression"),
        "a box that is not inside its image": ~(inside | none),
    }
    for what, rows in wrong.items():
        for row in np.flatnonzero(rows):
            yield f"example {row} of {_where(manifest, int(sample[row]), 'image')}: {what}"


def _count_problems(manifest: Manifest) -> Iterator[str]:
    if manifest.counted is None:
        return
    again = summed(count_examples(manifest.examples))
    if again is None or not again.equals(manifest.counted.to_table()):
        yield f"{manifest.folder / COUNTS_MAP}: other counts than those of the texts in {EXAMPLES_MAP}; {REMEDY}"


def _index_problems(manifest: Manifest, number: int) -> Iterator[str]:
    """What the DALI index of one shard says, against the rows; a set made by reference may use some rows only."""
    shard = manifest.shard(number)
    path = f"{str(shard).removesuffix('.tar')}.idx"
    try:
        text = shard.index().decode()
        version, *lines = text.splitlines()
    except (OSError, ValueError) as error:
        yield f"{path}: index cannot be read ({error})"
        return
    rows = np.flatnonzero(manifest.samples["shard"].to_numpy() == number)
    if version != f"{INDEX_VERSION} {len(lines)}":
        yield f"{path}: first line {version!r}, expected '{INDEX_VERSION} {len(lines)}'"
    if not _by_reference(manifest) and len(lines) != len(rows):
        yield f"{path}: {len(lines)} samples, the manifest has {len(rows)}"
    known = set(lines)
    names = ("key", "image_ext", "image_offset", "image_length", "json_offset", "json_length")
    columns = [manifest.sample_columns.values(name, rows) for name in names]
    expected = []
    for row, key, ext, *at in zip(rows, *columns, strict=True):
        line = f"{ext} {at[0]} {at[1]} {key}.{ext} json {at[2]} {at[3]} {key}.json"
        if line not in known:
            yield f"{path}: no line {line!r}, as row {row} of the manifest has it"
        expected.append(line)
    if not _by_reference(manifest) and known == set(expected) and text != "\n".join([version, *expected, ""]):
        yield f"{path}: its lines are not in the order of the manifest's rows; {REMEDY}"


def _full_problems(manifest: Manifest, progress: bool) -> Iterator[str]:
    count = len(manifest.samples)
    first_example = np.searchsorted(manifest.examples["sample"].to_numpy(), np.arange(count + 1))
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor() as pool,  # decoders run without the interpreter's lock
        Progress(total=count, unit="image", desc="verify", disable=not progress) as bar,
    ):
        warnings.simplefilter("ignore")
        for start in range(0, count, _BATCH):
            rows = range(start, min(start + _BATCH, count))
            for problems in pool.map(lambda row: list(_row_problems(manifest, row, first_example)), rows):
                yield from problems
            bar.update(len(rows))


def _row_problems(manifest: Manifest, number: int, first_example: Any) -> Iterator[str]:
    row = manifest.samples.slice(number, 1).to_pylist()[0]
    begin = row["image_offset"] - BLOCK
    blob = manifest.shard(row["shard"]).read(row["json_offset"] + row["json_length"] - begin, begin)
    contents = {}
    for member, ext in (("image", row["image_ext"]), ("json", "json")):
        start = row[f"{member}_offset"] - row["image_offset"] + BLOCK
        length = row[f"{member}_length"]
        contents[member] = blob[start : start + length]
        where = _where(manifest, number, member)
        try:
            header = tarfile.TarInfo.frombuf(blob[start - BLOCK : start], "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            yield f"{where}: damaged tar header ({error})"
        else:
            if (header.name, header.size) != (f"{row['key']}.{ext}", length):
                yield f"{where}: tar header of {header.name!r}, {header.size} bytes, expected {length}"
        if any(blob[start + length : start + padded(length)]):
            yield f"{where}: padding is not zero"
        if xxhash.xxh3_64_intdigest(contents[member]) != row[f"{member}_xxh3"]:
            yield f"{where}: checksum differs from the manifest's"
            return  # what follows would only say so again
    yield from (f"{_where(manifest, number, 'image')}: {what}" for what in _image_problems(contents["image"], row))
    examples = manifest.examples.slice(first_example[number], first_example[number + 1] - first_example[number])
    found = _record_problems(contents["json"], row, examples.to_pylist(), _by_reference(manifest))
    yield from (f"{_where(manifest, number, 'json')}: {what}" for what in found)


def _image_problems(data: bytes, row: dict[str, Any]) -> Iterator[str]:
    try:
        with opened(data) as image:
            if image.size != (row["width"], row["height"]):
                yield f"an image of {image.size}, expected {(row['width'], row['height'])}"
            elif _FORMAT_EXT.get(str(image.format)) != row["image_ext"]:
                yield f"a {image.format} under the extension {row['image_ext']}"
            elif image.format == "JPEG":
                fault = jpeg.fault(data)
                if fault is not None:
                    yield f"cannot be decoded: {fault}"
            else:
                image.load()
    except Exception as error:  # decoders raise nearly anything on malformed bytes
        yield f"cannot be decoded: {type(error).__name__}: {error}"


def _record_problems(
    data: bytes, row: dict[str, Any], examples: list[dict[str, Any]], by_reference: bool
) -> Iterator[str]:
    try:
        record = Record.from_json(data)
        expected = example_rows(record, 0)
    except ValueError as error:
        yield str(error)
        return
    for name in _RECORD_COLUMNS:
        if getattr(record, name) != row[name]:
            yield f"{name} is {getattr(record, name)!r}, in the manifest {row[name]!r}"
    if list(record.splits) != row["splits"]:
        yield f"splits are {list(record.splits)}, in the manifest {row['splits']}"
    if by_reference:
        expected = [example for example in expected if example["split"] == "train"]
    if [_comparable(example) for example in expected] != [_comparable(example) for example in examples]:
        yield f"{len(examples)} examples that are not the record's {len(expected)}"


def _comparable(example: dict[str, Any]) -> dict[str, Any]:
    box = np.array([example[name] for name in "xywh"], np.float32)
    return example | {"sample": 0, "x": box.tobytes(), "y": 0, "w": 0, "h": 0}


def _overlaps(manifest: Manifest, other: Path) -> Iterator[str]:
    against = Manifest.open(other)
    against.check_tables()
    say_what_splits_are_missing(against)
    same, _ = HeldOut([against]).find(known_images(manifest))
    yield from (f"image {match.image.key} ({match.image.file_name}) is {match.told(str(other))}" for match in same)


def _by_reference(manifest: Manifest) -> bool:
    return "excluded" in manifest.meta


def _where(manifest: Manifest, row: int, member: str) -> str:
    row_of = {name: manifest.sample(row, name) for name in ("shard", "key", f"{member}_offset")}
    return f"{manifest.shard(row_of['shard'])}: {row_of['key']} {member} at offset {row_of[f'{member}_offset']}"
