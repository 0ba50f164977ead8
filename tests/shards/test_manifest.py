"""The reader of a built set: what it opens, what it refuses, and what `info` counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from PIL import Image

from laconvnet.shards.build.builder import build
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import tables
from laconvnet.shards.format.checksums import table_facts
from laconvnet.shards.format.manifest import (
    EXAMPLE_SCHEMA,
    EXAMPLE_SCHEMA_2,
    META_CHECKSUM_KEY,
    META_KEY,
    SAMPLE_SCHEMA,
    Manifest,
    meta_bytes,
    schema_metadata,
)
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.merge import pretrain_set


def built(folder: Path, name: str = "toy", coco_ids: tuple[int | None, ...] = (None, None, None)) -> Path:
    """Three images: regions in train and val, one region without a target, questions in train."""
    samples = []
    for number, coco_id in enumerate(coco_ids):
        path = folder / f"{name}{number}.png"
        Image.new("RGB", (20, 10), (number, sum(name.encode()) % 256, 0)).save(path)
        regions = (
            Region("a", "train", ((1, 1, 5, 5),), (Expression("0", "left"), Expression("1", "the left one"))),
            Region("b", "val" if number == 1 else "train", ((2.5, 1, 5, 5),), (Expression("2", "right"),)),
            Region("c", "train", (), (Expression("3", "nothing"),) if number == 2 else ()),
        )
        question = Question("q", "train", "what?", None) if number else None
        questions = (question,) if question else ()
        samples.append(
            RawSample(Record(name, str(number), path.name, 20, 10, "CC0", regions, questions, coco_id), path)
        )
    samples.append(RawSample(Record(name, "gone", "gone.png", 0, 0, "CC0"), folder / "gone.png"))
    options = {"split": ["train", "val"]}
    build(samples, folder / name, source=name, licence="CC0", options=options, shard_bytes=1, progress=False)
    return folder / name


def test_the_schemas_are_those_other_rooms_rely_on(tmp_path: Path) -> None:
    folder = built(tmp_path)
    samples, examples = pq.read_table(folder / "manifest.parquet"), pq.read_table(folder / "examples.parquet")
    assert samples.schema.equals(SAMPLE_SCHEMA)
    assert examples.schema.equals(EXAMPLE_SCHEMA)
    assert {field.name: str(field.type) for field in SAMPLE_SCHEMA} == {
        **{"key": "string", "source": "string", "picture_id": "string", "file_name": "string", "coco_id": "int64"},
        **{"width": "int32", "height": "int32", "shard": "int32", "image_ext": "string"},
        **{"image_offset": "int64", "image_length": "int64", "image_xxh3": "uint64"},
        **{"json_offset": "int64", "json_length": "int64", "json_xxh3": "uint64"},
        **{"splits": "list<element: string>", "set": "int16"},
    } | {"splits": str(SAMPLE_SCHEMA.field("splits").type)}
    assert {field.name: str(field.type) for field in EXAMPLE_SCHEMA if field.name != "answers"} == {
        **{"sample": "int64", "kind": "string", "split": "string", "region": "int32", "item_id": "string"},
        **{"text": "string", "answer": "string", "family": "string", "has_mask": "bool"},
        **{"x": "float", "y": "float", "w": "float", "h": "float"},
    }
    nullable = {field.name for schema in (SAMPLE_SCHEMA, EXAMPLE_SCHEMA) for field in schema if field.nullable}
    assert nullable == {"coco_id", "answer", "family"}
    meta = json.loads(samples.schema.metadata[META_KEY])
    assert {key: meta[key] for key in ("version", "source", "licence", "shards", "sets", "quarantined")} == {
        **{"version": 3, "source": "toy", "licence": "CC0", "quarantined": 1, "sets": [{"name": "toy", "weight": 1.0}]},
        "shards": ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"],
    }
    recorded = {**meta["files"], **meta["tables"]}
    mapped = {"examples.arrow", "manifest.arrow", "counts.arrow", "pictures.arrow"}
    assert set(recorded) == mapped | {"examples.parquet", "quarantine.parquet"}
    for name, found in recorded.items():
        data = (folder / name).read_bytes()
        assert (found["bytes"], found["xxh3"]) == (len(data), xxhash.xxh3_128_hexdigest(data))
    data = samples.schema.metadata[META_KEY]
    assert samples.schema.metadata[META_CHECKSUM_KEY].decode() == xxhash.xxh3_128_hexdigest(data)


def test_the_facts_of_a_set_are_the_bytes_that_every_version_writes() -> None:
    """Their checksum is the fingerprint by which a run knows its set again."""
    assert meta_bytes({"b": "é", "a": [1, None]}) == '{"a": [1, null], "b": "é"}'.encode()


def test_what_is_read_is_what_is_published_in_any_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (1, 2, 5, 100):
        monkeypatch.setattr(tables, "BATCH_ROWS", rows)
        place = tmp_path / str(rows)
        place.mkdir()
        manifest = Manifest.open(built(place))
        for table, name in ((manifest.samples, "manifest"), (manifest.examples, "examples")):
            published = pq.read_table(manifest.folder / f"{name}.parquet")
            assert table.schema.equals(published.schema)
            assert str(table.to_pylist()) == str(published.to_pylist())  # NaN is not NaN
            assert [len(part) for part in table["kind" if name == "examples" else "key"].chunks] == [
                min(rows, len(table) - first) for first in range(0, len(table), rows)
            ]
        assert manifest.select("train", "expression").tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10]
        assert manifest.select("val", "expression").tolist() == [5]


def test_select_gives_the_rows_of_a_split_and_kind(tmp_path: Path) -> None:
    manifest = Manifest.open(built(tmp_path))
    texts = manifest.examples["text"].to_pylist()
    train = manifest.select("train", "expression")
    assert train.dtype == np.int32
    assert [texts[row] for row in train] == [
        *["left", "the left one", "right", "left", "the left one"],
        *["left", "the left one", "right", "nothing"],
    ]
    assert [texts[row] for row in manifest.select("val", "expression")] == ["right"]
    assert [texts[row] for row in manifest.select("train", "question")] == ["what?", "what?"]
    assert manifest.select("test", "expression").tolist() == []
    with pytest.raises(InputError, match="kind 'caption', expected one of expression, question"):
        manifest.select("train", "caption")


def test_reading_checks_the_bytes(tmp_path: Path) -> None:
    folder = built(tmp_path)
    manifest = Manifest.open(folder)
    assert manifest.read_record(1).picture_id == "1"
    assert manifest.read_image(1) == (tmp_path / "toy1.png").read_bytes()
    shard = bytearray((folder / "shard-000001.tar").read_bytes())
    shard[manifest.samples["json_offset"][1].as_py() + 3] ^= 1
    (folder / "shard-000001.tar").write_bytes(shard)
    with pytest.raises(InputError, match=r"shard-000001.tar: json of toy-1 at offset \d+ .*checksum"):
        manifest.read_record(1)
    assert manifest.read_image(1) == (tmp_path / "toy1.png").read_bytes()


def test_what_is_no_set_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest.parquet .* expected .* 'shards build'"):
        Manifest.open(tmp_path)
    (tmp_path / "parts").mkdir()
    with pytest.raises(InputError, match="left unfinished; run the same build command again"):
        Manifest.open(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"manifest.parquet: not a manifest of this program"):
        Manifest.open(tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "manifest.parquet")
    with pytest.raises(InputError, match=r"manifest.parquet: not a manifest of this program"):
        Manifest.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1, expected 3; build the set again"),
        ({"shards": ["/etc/passwd"]}, "shard '/etc/passwd', expected a relative path"),
        ({"shards": ["shard-000000.tar"]}, "a shard number beyond its 1 shards"),
    ],
)
def test_other_versions_and_strange_shards_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = built(tmp_path)
    table = pq.read_table(folder / "manifest.parquet")
    meta = json.loads(table.schema.metadata[META_KEY]) | change
    pq.write_table(table.replace_schema_metadata(schema_metadata(meta)), folder / "manifest.parquet")
    with pytest.raises(InputError, match=message):
        Manifest.open(folder)


def test_other_columns_missing_and_truncated_shards_are_refused(tmp_path: Path) -> None:
    folder = built(tmp_path)
    shard = folder / "shard-000002.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:600])
    with pytest.raises(InputError, match=r"shard-000002.tar: .* 600 bytes, .* needs \d+; it is truncated"):
        Manifest.open(folder)
    shard.unlink()
    with pytest.raises(InputError, match=r"shard-000002.tar: shard of .* is missing"):
        Manifest.open(folder)
    shard.write_bytes(data)
    Manifest.open(folder)


def test_sample_numbers_of_32_bits_are_of_version_2_alone(tmp_path: Path) -> None:
    folder = built(tmp_path)
    manifest, path = Manifest.open(folder), folder / "examples.arrow"
    narrow = manifest.examples.to_table().cast(EXAMPLE_SCHEMA_2)
    path.unlink()
    tables.write(path, EXAMPLE_SCHEMA_2, [narrow])
    meta = manifest.meta | {"tables": {**manifest.meta["tables"], path.name: table_facts(path)}}
    samples = pq.read_table(folder / "manifest.parquet").replace_schema_metadata(schema_metadata(meta))
    pq.write_table(samples, folder / "manifest.parquet")
    with pytest.raises(InputError, match=r"examples.arrow: other columns .*sample: int32"):
        Manifest.open(folder)


@pytest.mark.parametrize("name", ["manifest.arrow", "examples.arrow"])
def test_missing_truncated_and_strange_mapped_tables_are_refused(tmp_path: Path, name: str) -> None:
    folder = built(tmp_path)
    path, data = folder / name, (folder / name).read_bytes()
    for other in (data[:-8], data + b"x", b""):
        path.write_bytes(other)
        message = f"{name}: .* {len(other)} bytes, .* {len(data)}; .*build the set again"
        with pytest.raises(InputError, match=message):
            Manifest.open(folder)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(InputError, match=rf"{name}: .*checksum .*build the set again"):
        Manifest.open(folder)
    path.unlink()
    with pytest.raises(InputError, match=rf"{name}: .* Arrow table \(.*No such file.*build the set again"):
        Manifest.open(folder)


def test_info_counts_in_all_and_by_split(tmp_path: Path) -> None:
    folder = built(tmp_path)
    found = info(folder)
    assert found.pop("ledger") == Manifest.open(folder).meta["ledger"]
    assert found == {
        **{"source": "toy", "licence": "CC0", "samples": 3, "pictures": 3, "weights": {"toy": 1.0}},
        **{"examples": 12, "expressions": 10, "questions": 2, "shards": 3, "quarantined": 1},
        "bytes": sum(path.stat().st_size for path in folder.glob("*.tar")),
        "by_split": {
            "train": {"samples": 3, "pictures": 3, "examples": 11, "expressions": 9, "questions": 2},
            "val": {"samples": 1, "pictures": 1, "examples": 1, "expressions": 1, "questions": 0},
        },
    }


def test_info_counts_an_image_of_two_sets_once(tmp_path: Path) -> None:
    one = built(tmp_path, "one", (11, None, 13))
    two = built(tmp_path, "two", (13, None, None))
    pretrain_set([(one, 1.0), (two, 2.0)], [], tmp_path / "both")
    counts = info(tmp_path / "both")
    assert (counts["samples"], counts["pictures"]) == (4, 3)
    assert counts["weights"] == {"one": 1.0, "two": 2.0}
