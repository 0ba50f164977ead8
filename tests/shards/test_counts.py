"""What a set counts of its texts: right however the examples are parted, the same bytes, and checked as the rest is."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laconvnet.shards.build.builder import build, build_task
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import counts as module
from laconvnet.shards.format import manifest as manifest_module
from laconvnet.shards.format.counts import ANSWER, COUNT_SCHEMA, EXAMPLE, TOKEN, WORDLESS, counted, summed
from laconvnet.shards.format.manifest import EXAMPLE_SCHEMA, KINDS, Manifest, count_examples, publish_tables
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.merge import pretrain_set
from laconvnet.shards.sets.verify import verify
from tests.shards.older import without_counts

FACTS: dict[str, Any] = {"source": "toy", "licence": "CC0", "options": {}, "progress": False}
ZSTD_FRAME = bytes.fromhex("28b52ffd")  # what a page of Parquet begins with here
TEXTS = ("the left cat", "the Left-most cat", " ?! ", "", "left  left", "- x", "猫", "…", "9", "Is it?\tno")
ANSWERS = ("yes", "No", "yes", None, "", "two words")


def raw(folder: Path, count: int = 9) -> list[RawSample]:
    """Images with texts of every kind, in splits of different numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        path = folder / f"{number}.png"
        noise = np.random.default_rng(number).integers(0, 255, (20, 20 + number, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        split = ("train", "train", "val")[number % 3]
        said = [TEXTS[(number + step) % len(TEXTS)] for step in range(4)]
        expressions = tuple(Expression(f"e{at}", text) for at, text in enumerate(said))
        questions = tuple(
            Question(f"q{at}", split, text, ANSWERS[(number + at) % len(ANSWERS)]) for at, text in enumerate(said[1:])
        )
        regions = (Region("r", split, ((1, 2, 5, 5),), expressions),)
        samples.append(RawSample(Record("toy", str(number), path.name, 0, 0, "CC0", regions, questions), path))
    return samples


def reference(table: pa.Table) -> set[tuple[Any, ...]]:
    """The rows that counts of these examples must have, by Python's means."""
    found: Counter[tuple[Any, ...]] = Counter()
    for row, example in enumerate(table.to_pylist()):
        of = (example["split"], example["kind"])
        found[(*of, "example", "", None)] += 1
        found.update((*of, "token", token, None) for token in example["text"].split(" "))
        if example["answer"] is not None:
            found[(*of, "answer", example["answer"], None)] += 1
        if not any(letter.isalnum() for letter in example["text"]):
            found[(*of, "wordless", example["text"], row)] += 1
    return {(*key, count) for key, count in found.items()}


def rows(table: pa.Table) -> set[tuple[Any, ...]]:
    return {tuple(row.values()) for row in table.to_pylist()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(raw(tmp_path / "raw"), tmp_path / "set", **FACTS, shard_bytes=1000)
    return tmp_path / "set"


def counts_of(folder: Path) -> pa.Table:
    table = Manifest.open(folder).counted
    assert table is not None
    return table.to_table()


def test_every_token_answer_and_wordless_text_is_counted(folder: Path) -> None:
    manifest, table = Manifest.open(folder), counts_of(folder)
    assert len(list(folder.glob("*.tar"))) > 3
    assert table.schema.equals(COUNT_SCHEMA)
    assert rows(table) == reference(manifest.examples.to_table())
    assert len(table) == len(rows(table)) > 60
    keys = [tuple(str(value) for value in row.values())[:4] for row in table.to_pylist()]
    assert keys == sorted(keys, key=lambda key: [part.encode() for part in key])
    wordless = {(row["split"], row["kind"], row["row"]): row["value"] for row in table.to_pylist() if row["row"]}
    for (split, kind, row), text in wordless.items():
        assert [manifest.example(row, name) for name in ("split", "kind", "text")] == [split, kind, text]


def test_the_manifest_tells_of_one_split_and_kind(folder: Path) -> None:
    manifest = Manifest.open(folder)
    expected = rows(counts_of(folder))
    for split, kind, what in ((s, k, w) for s in ("train", "val") for k in KINDS for w in (EXAMPLE, TOKEN, ANSWER)):
        found = manifest.counts(split, kind, what)
        assert found is not None
        wanted = {row[3:] for row in expected if row[:3] == (split, kind, what)}
        assert {(row["value"], row["row"], row["count"]) for row in found.to_pylist()} == wanted
    nothing = manifest.counts("test", "question", WORDLESS)
    assert nothing is not None
    assert len(nothing) == 0


@pytest.mark.parametrize("together", [1, 7, 2**20])
def test_counts_do_not_depend_on_how_examples_are_parted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(module, "_TOGETHER", together)
    table = Manifest.open(folder).examples.to_table()
    for size in (1, 5, len(table)):
        found = summed(counted(table.combine_chunks().to_batches(max_chunksize=size)))
        assert found is not None
        assert found.equals(counts_of(folder))


def test_a_build_in_tasks_one_that_was_stopped_and_one_begun_before_there_were_counts_give_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    samples = raw(tmp_path / "raw")
    for number in (2, 1):
        build_task(samples, tmp_path / "tasks", **FACTS, shard_bytes=1000, task=(number, 2))

    def broken() -> Iterator[RawSample]:
        yield from samples[:7]
        raise KeyboardInterrupt

    for name in ("stopped", "begun"):
        with pytest.raises(KeyboardInterrupt):
            build(broken(), tmp_path / name, **FACTS, shard_bytes=1000)
    for path in (tmp_path / "begun" / "parts").glob("*.counts.parquet"):
        path.unlink()
    for name in ("tasks", "stopped", "begun"):
        build(samples, tmp_path / name, **FACTS, shard_bytes=1000)
        for path in folder.iterdir():
            assert (tmp_path / name / path.name).read_bytes() == path.read_bytes(), (name, path.name)


def test_damaged_counts_of_a_shard_are_made_again(folder: Path, tmp_path: Path) -> None:
    samples, out = raw(tmp_path / "raw"), tmp_path / "out"
    build_task(samples, out, **FACTS, shard_bytes=1000, task=(1, 1))
    damaged = out / "parts" / "shard-000001.counts.parquet"
    data = bytearray(damaged.read_bytes())
    data[data.index(ZSTD_FRAME) + len(ZSTD_FRAME) + 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(InputError, match=r"shard-000001\.counts\.parquet: .*run the same build command again"):
        build(samples, out, **FACTS, shard_bytes=1000)
    build(samples, out, **FACTS, shard_bytes=1000)
    assert counts_of(out).equals(counts_of(folder))


def test_a_merged_set_counts_what_it_has(folder: Path, tmp_path: Path) -> None:
    other = raw(tmp_path / "more", 4)
    renamed = [RawSample(Record("more", *list(_fields(sample.record))[1:]), sample.image) for sample in other]
    build(renamed, tmp_path / "other", **{**FACTS, "source": "more"})
    merged = pretrain_set([(folder, 1.0), (tmp_path / "other", 0.5)], [], tmp_path / "both")
    table = counts_of(tmp_path / "both")
    assert rows(table) == reference(merged.examples.to_table())
    assert set(table["split"].to_pylist()) == {"train"}
    assert verify(tmp_path / "both", full=True, progress=False)["examples"] == len(merged.examples)


def _fields(record: Record) -> Iterator[Any]:
    return (getattr(record, name) for name in record.__slots__)


def test_a_set_without_counts_is_read_verified_and_merged(folder: Path, tmp_path: Path) -> None:
    expected = counts_of(folder)
    plain = without_counts(Path(shutil.copytree(folder, tmp_path / "older")))
    manifest = Manifest.open(plain)
    assert manifest.counted is None
    assert manifest.counts("train", "expression", TOKEN) is None
    assert info(plain) == info(folder)
    assert verify(plain, full=True, progress=False)["samples"] == 9
    merged = pretrain_set([(plain, 1.0)], [], tmp_path / "merged")
    assert merged.counted is not None
    kept = {row for row in rows(expected) if row[0] == "train" and row[2] != "wordless"}
    assert kept <= rows(counts_of(tmp_path / "merged"))
    # Built again it stays as it is: what was finished is not written anew.
    before = {path.name: path.read_bytes() for path in plain.iterdir()}
    build(raw(tmp_path / "raw"), plain, **FACTS, shard_bytes=1000)
    assert {path.name: path.read_bytes() for path in plain.iterdir()} == before


@pytest.mark.parametrize("column", ["value", "count", "row"])
def test_counts_that_are_not_those_of_the_texts_are_found_by_verify(folder: Path, column: str) -> None:
    """As if the set had been built so: its checksums are right."""
    manifest, table = Manifest.open(folder), counts_of(folder)
    values = table[column].to_pylist()
    at = next(at for at, value in enumerate(values) if value)
    values[at] = {"value": "zebra", "count": 99, "row": 0}[column]
    index = table.schema.get_field_index(column)
    wrong = table.set_column(index, COUNT_SCHEMA.field(column), pa.array(values, table.schema.field(column).type))
    samples, examples = manifest.samples.to_table(), manifest.examples.to_table()
    publish_tables(folder, [samples], [examples], manifest.meta, counts=[wrong])
    with pytest.raises(InputError, match=r"1 problem\(s\): .*counts\.arrow: .*examples\.arrow"):
        verify(folder)


def test_a_flipped_bit_of_the_counts_is_told_wherever_it_is(folder: Path) -> None:
    path = folder / "counts.arrow"
    for at in range(3, path.stat().st_size, 211):
        data = bytearray(path.read_bytes())
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        for read in (Manifest.open, info, verify):
            with pytest.raises(InputError, match=r"counts\.arrow: .*checksum"):
                read(folder)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
    path.unlink()
    with pytest.raises(InputError, match=r"counts\.arrow"):
        Manifest.open(folder)


def test_counts_that_would_be_larger_than_the_texts_are_worth_are_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At any parting, and what another build left there goes; a byte more of room, and they are there."""
    table = counts_of(folder)
    size = sum(module._ROW_BYTES + len(value.encode()) for value in table["value"].to_pylist())
    monkeypatch.setattr(module, "LIMIT_BYTES", size)
    for together in (1, 2**20):
        monkeypatch.setattr(module, "_TOGETHER", together)
        build(raw(tmp_path / "raw"), tmp_path / f"fits{together}", **FACTS, shard_bytes=1000)
        assert counts_of(tmp_path / f"fits{together}").equals(table)
        with monkeypatch.context() as patch:
            patch.setattr(module, "LIMIT_BYTES", size - 1)
            build_task(raw(tmp_path / "raw"), tmp_path / f"out{together}", **FACTS, shard_bytes=1000, task=(1, 1))
            (tmp_path / f"out{together}" / "counts.arrow").write_bytes(b"of another build")
            caplog.clear()
            build(raw(tmp_path / "raw"), tmp_path / f"out{together}", **FACTS, shard_bytes=1000)
            assert Manifest.open(tmp_path / f"out{together}").counted is None
            assert not (tmp_path / f"out{together}" / "counts.arrow").exists()
            assert "counts.arrow" in caplog.text
            assert verify(tmp_path / f"out{together}")["samples"] == 9


def test_an_empty_table_of_examples_has_no_counts(tmp_path: Path) -> None:
    samples = [
        RawSample(Record("toy", sample.record.picture_id, sample.record.file_name, 0, 0, "CC0"), sample.image)
        for sample in raw(tmp_path / "raw", 2)
    ]
    manifest = build(samples, tmp_path / "set", **FACTS)
    assert manifest.counted is not None
    assert len(manifest.counted) == 0
    assert verify(tmp_path / "set", full=True, progress=False)["examples"] == 0


def test_memory_of_counting_does_not_grow_with_the_number_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held at once is that of different tokens, not of texts."""
    monkeypatch.setattr(module, "_TOGETHER", 1000)
    held: list[int] = []
    added = module._added

    def watched(parts: list[pa.Table]) -> pa.Table:
        held.append(sum(len(part) for part in parts))
        return added(parts)

    blank = pa.nulls(500, pa.string())
    columns: dict[str, Any] = {field.name: pa.nulls(500, field.type) for field in EXAMPLE_SCHEMA}
    draw = np.random.default_rng(0)

    def batches() -> Iterator[pa.RecordBatch]:
        for _ in range(40):
            texts = [f"w{one} w{two}" for one, two in draw.integers(0, 300, (500, 2)).tolist()]
            same = {name: pa.array([value] * 500) for name, value in (("split", "train"), ("kind", "expression"))}
            yield pa.RecordBatch.from_pydict({**columns, **same, "text": pa.array(texts), "answer": blank})

    monkeypatch.setattr(module, "_added", watched)
    total = summed(counted(batches()))
    assert total is not None
    assert sum(total.filter(pa.compute.equal(total["what"], TOKEN))["count"].to_pylist()) == 40 * 1000
    assert max(held) < 3000 < 40 * 300
    # What is too large is given up as soon as that is known.
    monkeypatch.setattr(module, "LIMIT_BYTES", 1000)
    left = batches()
    assert summed(counted(left)) is None
    assert len(list(left)) > 30


def test_nothing_of_the_parts_is_left(folder: Path) -> None:
    assert not (folder / "parts").exists()
    assert manifest_module.COUNTS_MAP in Manifest.open(folder).meta["tables"]
    assert pq.read_table(folder / "examples.parquet").num_rows == len(Manifest.open(folder).examples)
    again = summed(count_examples(Manifest.open(folder).examples))
    assert again is not None
    assert again.equals(counts_of(folder))
