"""The manifest of a built set: its schemas, and the reader that is all the pipeline sees of this room.

A set is a folder. ``manifest.parquet`` has one row a sample (image) and is written last: its presence is the
commit. ``examples.parquet`` has one row an example (image x region x expression, or image x question).
Any sample is one ``pread`` away: shard, offset and length stand in its row.

The two are what is published. Beside them stand the same tables as ``manifest.arrow`` and ``examples.arrow``, which
processes map and read (`shards.format.tables`); the manifest records their sizes and checksums. ``counts.arrow`` has
what was counted of the examples' texts (`shards.format.counts`), ``pictures.arrow`` by what its images are known
(`shards.format.pictures`); not every set has them.

This is version 3. Version 2 recorded a mapped table's checksum as a whole, which no start could afford to compare, none
of its own facts nor of the other files, and numbered samples in 32 bits; it is still read.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from laconvnet.files import is_unreadable, publishing, retried
from laconvnet.shards.errors import InputError, joined
from laconvnet.shards.format import tables
from laconvnet.shards.format.checksums import REMEDY, file_facts, table_facts
from laconvnet.shards.format.counts import ANSWER as ANSWER  # these for the pipeline, which reads sets by this module
from laconvnet.shards.format.counts import COUNT_SCHEMA, COUNTED_COLUMNS, LIMIT_BYTES, counted, summed
from laconvnet.shards.format.counts import EXAMPLE as EXAMPLE
from laconvnet.shards.format.counts import TOKEN as TOKEN
from laconvnet.shards.format.counts import WORDLESS as WORDLESS
from laconvnet.shards.format.counts import split_tokens as split_tokens
from laconvnet.shards.format.facts import says_generated, wrong_facts
from laconvnet.shards.format.ledger import KINDS as _ENTRY_KINDS
from laconvnet.shards.format.ledger import Ledger as Ledger
from laconvnet.shards.format.ledger import account_of
from laconvnet.shards.format.ledger import lost_by_fault as lost_by_fault
from laconvnet.shards.format.mirror import mirrored, origin, repairable
from laconvnet.shards.format.pictures import PICTURE_SCHEMA
from laconvnet.shards.format.record import Record
from laconvnet.shards.format.remote import Folder as Folder
from laconvnet.shards.format.remote import spelled as spelled
from laconvnet.shards.format.remote import url_of
from laconvnet.shards.format.shard import Shard as Shard
from laconvnet.shards.format.tables import row_type as row_type
from laconvnet.shards.format.tar import padded as padded

_LOG = logging.getLogger(__name__)

VERSION, READ_TOO = 3, 2
MANIFEST, EXAMPLES = "manifest.parquet", "examples.parquet"
QUARANTINE, EXCLUDED = "quarantine.parquet", "excluded.parquet"
SAMPLES_MAP, EXAMPLES_MAP, COUNTS_MAP = "manifest.arrow", "examples.arrow", "counts.arrow"
PICTURES_MAP = "pictures.arrow"
PARTS, AGAIN = "parts", "again"  # folders of a build that is under way
META_KEY, META_CHECKSUM_KEY = b"laconvnet", b"laconvnet.xxh3"
_NEEDED = {"tables", "shards", "sets"}
FILES = "files"  # the fact that tells of files beside the mapped tables
KINDS = ("expression", "question")
Written = dict[str, tables.MappedTable]  # mapped tables by the names of their files
ENTRY_KINDS = _ENTRY_KINDS  # of a ledger


def _field(name: str, kind: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


SAMPLE_SCHEMA = pa.schema(
    [
        _field("key", pa.string()),
        _field("source", pa.string()),
        _field("picture_id", pa.string()),
        _field("file_name", pa.string()),
        _field("coco_id", pa.int64(), nullable=True),
        _field("width", pa.int32()),
        _field("height", pa.int32()),
        _field("shard", pa.int32()),
        _field("image_ext", pa.string()),
        _field("image_offset", pa.int64()),
        _field("image_length", pa.int64()),
        _field("image_xxh3", pa.uint64()),
        _field("json_offset", pa.int64()),
        _field("json_length", pa.int64()),
        _field("json_xxh3", pa.uint64()),
        _field("splits", pa.list_(pa.string())),
        _field("set", pa.int16()),
    ]
)
EXAMPLE_SCHEMA = pa.schema(
    [
        _field("sample", pa.int64()),
        _field("kind", pa.string()),
        _field("split", pa.string()),
        _field("region", pa.int32()),
        _field("item_id", pa.string()),
        _field("text", pa.string()),
        _field("answer", pa.string(), nullable=True),
        _field("answers", pa.list_(pa.string())),
        _field("family", pa.string(), nullable=True),
        _field("x", pa.float32()),
        _field("y", pa.float32()),
        _field("w", pa.float32()),
        _field("h", pa.float32()),
        _field("has_mask", pa.bool_()),
    ]
)
EXAMPLE_SCHEMA_2 = EXAMPLE_SCHEMA.set(0, _field("sample", pa.int32()))  # of version 2


def meta_bytes(meta: Mapping[str, Any]) -> bytes:
    """The facts of a set as manifest.parquet holds them: equal facts give equal bytes."""
    return json.dumps(meta, ensure_ascii=False, sort_keys=True).encode()


def schema_metadata(meta: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The schema metadata of manifest.parquet: the facts and their checksum, for nothing else checks a footer."""
    data = meta_bytes(meta)
    return {META_KEY: data, META_CHECKSUM_KEY: xxhash.xxh3_128_hexdigest(data).encode()}


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer with this room's one set of options, so that equal tables are equal files."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def publish_tables(
    folder: Path,
    samples: Iterable[pa.Table],
    examples: Iterable[pa.Table],
    meta: Mapping[str, Any],
    beside: Sequence[str] = (),
    counts: Iterable[pa.Table] | None = None,
    pictures: Iterable[pa.Table] | None = None,
    prove: Callable[[Written], None] | None = None,
) -> None:
    """Write the tables of a set, given in parts, the manifest last; ``meta`` gets the facts of the files.

    ``beside`` names files of the set that were written before, which are recorded too. ``counts`` are those of the
    parts of ``examples``; without them the examples are counted here. ``pictures`` are the parts of that table, which a
    set may be without. ``prove`` is given the mapped tables as they were written, and may raise before the manifest is
    published.
    """
    written: Written = {}
    found = {}
    for name, schema, parts in (
        (EXAMPLES_MAP, EXAMPLE_SCHEMA, examples),
        (SAMPLES_MAP, SAMPLE_SCHEMA, samples),
        (PICTURES_MAP, PICTURE_SCHEMA, pictures),
    ):
        if parts is None:
            (folder / name).unlink(missing_ok=True)  # of a build that was killed, on other samples
        else:
            found[name] = _publish_map(folder / name, schema, parts)
            written[name] = tables.mapped(folder / name, [schema], found[name])
    if prove:
        prove(written)
    total = summed(count_examples(written[EXAMPLES_MAP]) if counts is None else counts)
    if total is None:
        (folder / COUNTS_MAP).unlink(missing_ok=True)
        _LOG.warning("%s: no %s, it would be larger than %d bytes; trainings count", folder, COUNTS_MAP, LIMIT_BYTES)
    else:
        found[COUNTS_MAP] = _publish_map(folder / COUNTS_MAP, COUNT_SCHEMA, [total])
    _publish_parquet(folder / EXAMPLES, EXAMPLE_SCHEMA, written[EXAMPLES_MAP])
    files = {name: file_facts(folder / name) for name in (EXAMPLES, *beside)}
    schema = SAMPLE_SCHEMA.with_metadata(schema_metadata({**meta, "tables": found, FILES: files}))
    _publish_parquet(folder / MANIFEST, schema, written[SAMPLES_MAP])


def _publish_map(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> dict[str, Any]:
    with publishing(path) as temporary:
        tables.write(temporary, schema, parts)
        return table_facts(temporary)


def count_examples(examples: tables.MappedTable) -> Iterator[pa.Table]:
    """The counts (`shards.format.counts`) of each batch of a table of examples."""
    return counted(examples.select(COUNTED_COLUMNS).to_batches())


def _publish_parquet(path: Path, schema: pa.Schema, table: tables.MappedTable) -> None:
    with publishing(path) as temporary, open_writer(temporary, schema) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


@dataclass(frozen=True)
class Manifest:
    """A built set, opened and checked; rows of ``examples`` refer to rows of ``samples`` by number.

    ``meta`` holds version, source, licence, shards, sets (name and weight), options, quarantined (rows of entries and
    images that were lost), ledger (`shards.format.ledger`; sets of before have none), and the facts of the mapped
    tables and of other files. Rows in any order are taken by `sample_columns` and `example_columns`. ``counted`` is the
    table behind `counts`, None in a set that has none.

    No value of a table comes out of here before the bytes it stands in were compared with the checksum in ``meta``
    (version 2: before nothing was compared but the sizes of the files).
    """

    folder: Path
    meta: dict[str, Any]
    samples: tables.MappedTable
    examples: tables.MappedTable
    shard_paths: list[Path]
    counted: tables.MappedTable | None = None
    store: Folder | None = None

    @classmethod
    def open(cls, folder: Path | str, shards_too: bool = True) -> Manifest:
        """Open a set; raises InputError where it is missing, unfinished, of another version, or its shards are.

        Of a set at a URL all but the shards is fetched, once a machine (`shards.format.mirror`); ``folder`` is then
        that mirror, and ``store`` where the shards are.

        To look at the shards takes a call of the file system each, and a walk over the samples' table. A process
        beside which another does so on the same machine may leave it (``shards_too`` False): what is missing or
        truncated it then finds where it reads, for bytes are compared with their length and checksum.
        """
        folder = local_folder(folder)
        with repairable(folder):
            manifest = cls._of(folder)
        if shards_too:
            manifest._check_shards()
        return manifest

    @classmethod
    def _of(cls, folder: Path) -> Manifest:
        meta = read_meta(folder)
        numbered = (EXAMPLE_SCHEMA, EXAMPLE_SCHEMA_2)[: 1 + (meta["version"] == READ_TOO)]
        samples = tables.mapped(folder / SAMPLES_MAP, [SAMPLE_SCHEMA], meta["tables"][SAMPLES_MAP])
        examples = tables.mapped(folder / EXAMPLES_MAP, numbered, meta["tables"][EXAMPLES_MAP])
        counts = meta["tables"].get(COUNTS_MAP)
        counted = tables.mapped(folder / COUNTS_MAP, [COUNT_SCHEMA], counts) if counts else None
        return cls(
            folder, meta, samples, examples, [folder / shard for shard in meta["shards"]], counted, origin(folder)
        )

    @cached_property
    def sample_columns(self) -> tables.Columns:
        return tables.Columns(self.samples)

    @cached_property
    def example_columns(self) -> tables.Columns:
        return tables.Columns(self.examples)

    @cached_property
    def pictures(self) -> tables.MappedTable | None:
        """By what the images are known, those that were lost too; None in a set that was built without.

        Opened when it is first asked for, because training never does; raises InputError as `open`.
        """
        facts = self.meta["tables"].get(PICTURES_MAP)
        return tables.mapped(self.folder / PICTURES_MAP, [PICTURE_SCHEMA], facts) if facts else None

    @property
    def fingerprint(self) -> str:
        """Of all that training reads of the set: ``meta`` names the checksums that it is compared with."""
        return meta_fingerprint(self.meta)

    @property
    def generated(self) -> bool:
        """Whether images of the set are generated ones, in the layout of the data set that it is named after."""
        return says_generated(self.meta)

    def select(self, split: str, kind: str) -> tables.Rows:
        """The rows (N,) of ``examples`` of one split ("train", "val", ...) and kind ("expression" or "question").

        Ascending, in the type of `row_type`. Raises InputError for another kind.
        """
        if kind not in KINDS:
            raise InputError(f"{self.folder}: kind {kind!r}, expected one of {', '.join(KINDS)}")
        dtype = row_type(len(self.examples))
        found = [np.empty(0, dtype)]
        first = 0
        for batch in self.examples.select(["split", "kind"]).to_batches():
            wanted = pc.and_(pc.equal(batch["split"], split), pc.equal(batch["kind"], kind))
            rows = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
            found.append((first + rows).astype(dtype))
            first += len(batch)
        return np.concatenate(found)

    def counts(self, split: str, kind: str, what: str) -> pa.Table | None:
        """What was counted of one split and kind at the build: ``value``, ``row`` and ``count`` of each.

        ``what`` is one of those of `shards.format.counts`. None where the set was built without counts.
        """
        if self.counted is None:
            return None
        wanted = (pc.field("split") == split) & (pc.field("kind") == kind) & (pc.field("what") == what)
        found = [COUNT_SCHEMA.empty_table()]
        found += [pa.table(batch).filter(wanted) for batch in self.counted.to_batches()]
        return pa.concat_tables(found).select(["value", "row", "count"])

    def read_record(self, row: int) -> Record:
        """The record of a row of ``samples``; raises InputError naming shard, key and offset on other bytes."""
        return Record.from_json(self.read_member(row, "json"))

    def read_image(self, row: int) -> bytes:
        """The encoded image of a row of ``samples``; raises InputError as `read_record`."""
        return self.read_member(row, "image")

    def read_member(self, row: int, member: str) -> bytes:
        """The checked bytes of the "image" or "json" of a row of ``samples``."""
        names = ("shard", *(f"{member}_{part}" for part in ("offset", "length", "xxh3")))
        number, offset, length, xxh3 = (self.sample(row, name) for name in names)
        shard = self.shard(number)
        data = shard.read(length, offset)
        if xxhash.xxh3_64_intdigest(data) != xxh3:
            raise InputError(
                f"{shard}: {member} of {self.sample(row, 'key')} at offset {offset} has another checksum"
                " than the manifest; the shard is damaged, delete the set and build it again"
            )
        return data

    def shard(self, number: int) -> Shard:
        """A shard by its number, here or at its URL."""
        return Shard(self.folder, self.meta["shards"][number], self.store)

    def sample(self, row: int, name: str) -> Any:
        """One column of a row of ``samples``, as Python's value."""
        return self.sample_columns.value(name, row)

    def example(self, row: int, name: str) -> Any:
        """One column of a row of ``examples``, as Python's value."""
        return self.example_columns.value(name, row)

    def losses(self, split: str, kind: str) -> dict[str, int] | None:
        """How many entries of a split and kind were lost when this set was built, by cause; None where it does not say.

        What the rules of a data set leave out is not lost. Of a set that was put together, the parts' losses together.
        """
        ledgers = [self.meta["ledger"]] if "ledger" in self.meta else list(self.meta.get("ledgers", {}).values())
        found: Counter[str] = Counter()
        for ledger in ledgers:
            found.update(lost_by_fault(account_of(ledger, split, kind)))
        return dict(found) if ledgers else None

    def quarantine(self) -> pa.Table:
        """The rows of the quarantine table; raises InputError where it is gone or not the one that was written."""
        path = self.folder / QUARANTINE
        try:
            if file_facts(path) != self.meta.get(FILES, {}).get(QUARANTINE, file_facts(path)):
                raise InputError(f"{path}: its checksum differs from the manifest's; {REMEDY}")
            return retried(path, lambda: pq.read_table(path, page_checksum_verification=True))
        except (OSError, pa.ArrowException) as error:
            if is_unreadable(error):
                raise
            raise InputError(f"{path}: cannot be read ({joined(error)}); {REMEDY}") from error

    def check_tables(self) -> None:
        """Compare all bytes of the mapped tables, in either version; raises InputError naming the file."""
        for table in filter(None, (self.samples, self.examples, self.counted, self.pictures)):
            table.check()

    def _check_shards(self) -> None:
        needed = np.zeros(len(self.shard_paths), np.int64)
        columns = [f"{member}_{part}" for member in ("image", "json") for part in ("offset", "length")]
        for batch in self.samples.select(["shard", *columns]).to_batches():
            shard, *ends = (column.to_numpy() for column in batch.columns)
            if shard.min() < 0 or shard.max() >= len(self.shard_paths):
                raise InputError(f"{self.folder / MANIFEST}: a shard number beyond its {len(self.shard_paths)} shards")
            for offset, length in (ends[:2], ends[2:]):
                np.maximum.at(needed, shard, offset + length)
        for number, size in enumerate(needed.tolist()):
            shard = self.shard(number)
            try:
                found = shard.size()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise InputError(f"{shard}: shard of {self.folder} is missing ({joined(error)})") from error
            if found < size:
                raise InputError(f"{shard}: shard of {found} bytes, the manifest needs {size}; it is truncated")


def local_folder(place: Path | str) -> Path:
    """The folder of a set, for a URL that of its mirror. Raises InputError where no finished set is at the URL."""
    url = url_of(place)
    return mirrored(Folder(url), MANIFEST, _beside_shards) if url else Path(place)


def is_there(place: Path | str) -> bool:
    """Whether a finished set is in a folder or at a URL."""
    url = url_of(place)
    return Folder(url).exists(MANIFEST) if url else (Path(place) / MANIFEST).is_file()


def _beside_shards(folder: Path) -> dict[str, dict[str, Any]]:
    """The facts of all files of a set but the shards and the manifest, which the folder holds."""
    meta = read_meta(folder)
    return {**meta["tables"], **meta.get(FILES, {})}


def meta_fingerprint(meta: Mapping[str, Any]) -> str:
    """The fingerprint of a set: another build of it, or of a set that it refers to, has another one.

    Not of the files that training does not read: the quarantine tells where the raw images lay, and Parquet's bytes
    which version of its library wrote them.
    """
    return xxhash.xxh3_128_hexdigest(meta_bytes({name: fact for name, fact in meta.items() if name != FILES}))


def read_meta(folder: Path) -> dict[str, Any]:
    """The metadata of a finished set, compared with its checksum.

    Raises InputError that tells a missing set from an unfinished and from a damaged one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / PARTS).is_dir() or (folder / AGAIN).is_dir():
            raise InputError(f"{folder}: the build was left unfinished; run the same build command again")
        raise InputError(f"{folder}: no {MANIFEST} here; expected a folder that 'shards build' or 'pretrain-set' wrote")
    try:
        found = retried(path, lambda: pq.read_metadata(path)).metadata or {}
        data, checksum = found[META_KEY], found.get(META_CHECKSUM_KEY)
        damaged = checksum is not None and xxhash.xxh3_128_hexdigest(data).encode() != checksum
        meta = {} if damaged else dict(json.loads(data))
        version = None if damaged else meta["version"]
        lacking = _NEEDED - meta.keys()
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        if is_unreadable(error):
            raise
        raise InputError(f"{path}: not a manifest of this program, or damaged ({joined(error)}); {REMEDY}") from error
    if damaged or (version == VERSION and checksum is None):
        raise InputError(f"{path}: the checksum of its facts is another one or gone; the file is damaged: {REMEDY}")
    if version not in (VERSION, READ_TOO):
        raise InputError(f"{path}: version {version!r}, expected {VERSION}; build the set again")
    if lacking:
        raise InputError(f"{path}: tells nothing of {', '.join(sorted(lacking))}; {REMEDY}")
    if wrong := wrong_facts(meta, (SAMPLES_MAP, EXAMPLES_MAP)):
        raise InputError(f"{path}: holds {wrong}; {REMEDY}")
    if version == READ_TOO:
        _say_what_is_not_checked(path.absolute())
    return meta


@cache  # a line of each set in a process
def _say_what_is_not_checked(path: Path) -> None:
    _LOG.warning(
        "%s: version %d: a run compares its tables by size alone (shards verify and shards info do by checksum), its "
        "own facts and the other files cannot be compared; build the set again in another folder for version %d",
        path,
        READ_TOO,
        VERSION,
    )
