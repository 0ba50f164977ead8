"""One shard: written again where its chunk has changed, and committed last of all."""

from __future__ import annotations

import dataclasses
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from laconvnet.shards.build import writer
from laconvnet.shards.build.examine import Examined, examine
from laconvnet.shards.build.writer import Chunk, write_shard
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Record
from tests.shards.test_build import region, toy

PARTS = ("examples", "quarantine", "counts", "pictures", "samples")


@pytest.mark.parametrize("changes", [{"licence": "CC-BY"}, {"regions": (region("new", (1, 2, 10.5, 12)),)}])
def test_a_record_that_changed_is_taken_up_by_the_resumed_build(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Its image file is the same, to the byte."""
    samples = toy(tmp_path / "pictures")
    sizes = tuple(sample.image.stat().st_size for sample in samples[:3])
    (tmp_path / "parts").mkdir()
    write_shard(tmp_path, Chunk(0, tuple(samples[:3]), sizes))
    changed = dataclasses.replace(samples[1], record=dataclasses.replace(samples[1].record, **changes))
    write_shard(tmp_path, Chunk(0, (samples[0], changed, samples[2]), sizes))
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        (name,) = (name for name in tar.getnames() if name == f"{changed.record.key}.json")
        member = tar.extractfile(name)
        assert member is not None
        assert Record.from_json(member.read()) == changed.record


def test_a_shard_is_committed_when_all_of_it_and_all_its_names_are_on_the_disk(
    tmp_path: Path, reaching_disk: list[str]
) -> None:
    """A power failure may take what is not: a later build believes the commit, which is the table of samples."""
    samples, parts = toy(tmp_path / "pictures")[:3], tmp_path / "parts"
    parts.mkdir()
    write_shard(tmp_path, Chunk(0, tuple(samples), (1, 1, 1)))
    tables = {f"shard-000000.{name}.parquet": parts.name for name in PARTS}
    folders = {f"shard-000000.{ending}": tmp_path.name for ending in ("tar", "idx")} | tables
    steps = [(f"sync {name}", f"rename to {name}", f"sync {folder}") for name, folder in folders.items()]
    done = list(zip(*(reaching_disk[at::3] for at in range(3)), strict=True))
    assert sorted(done) == sorted(steps)
    assert done[-1] == steps[-1]


def test_the_commit_of_a_shard_goes_before_its_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = toy(tmp_path / "pictures")[:3]
    (tmp_path / "parts").mkdir()
    write_shard(tmp_path, Chunk(0, tuple(samples), (1, 1, 1)))
    left: list[str] = []

    def interrupted(*_: Any) -> None:
        left.extend(path.name for path in (tmp_path / "parts").iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("laconvnet.shards.build.writer._write_tar", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, Chunk(0, tuple(samples[:2]), (1, 1)))
    assert sorted(left) == [f"shard-000000.{name}.parquet" for name in sorted(PARTS[:-1])]


def test_a_shard_tells_how_many_images_it_has_done_when_it_is_there_already_too(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")[3:6]
    (tmp_path / "parts").mkdir()
    for chunk in (Chunk(0, tuple(samples), (1, 1, 1)), Chunk(1, (samples[2],), (1,))):  # one of them is broken
        assert [write_shard(tmp_path, chunk) for _ in range(2)] == [len(chunk.samples)] * 2


def test_the_bytes_are_the_same_however_many_images_and_rows_are_taken_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, found = toy(tmp_path / "pictures"), list[dict[str, bytes]]()
    for number, (images, size, rows) in enumerate([(32, 2**24, 1024), (1, 2**24, 1), (32, 1, 3)]):
        for name, value in (("_TOGETHER", images), ("_TOGETHER_BYTES", size), ("_ROWS_TOGETHER", rows)):
            monkeypatch.setattr(writer, name, value)
        out = tmp_path / str(number)
        (out / "parts").mkdir(parents=True)
        write_shard(out, Chunk(0, tuple(samples), (1,) * len(samples)))
        found.append({path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert len(found[0]) == 2 + len(PARTS)
    assert found[0] == found[1] == found[2]


def test_no_more_is_held_than_is_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, add, looked = toy(tmp_path / "pictures")[:5], writer._add_sample, list[str]()
    ahead: list[int] = []

    def look(sample: RawSample) -> Examined:
        looked.append(sample.record.key)
        return examine(sample)

    def added(sample: RawSample, *rest: Any) -> Any:
        ahead.append(len(looked) - looked.index(sample.record.key))
        return add(sample, *rest)

    monkeypatch.setattr(writer, "_add_sample", added)
    for number, (images, size) in enumerate([(2, 2**24), (32, 1)]):
        monkeypatch.setattr(writer, "_TOGETHER", images)
        monkeypatch.setattr(writer, "_TOGETHER_BYTES", size)
        (tmp_path / str(number) / "parts").mkdir(parents=True)
        write_shard(tmp_path / str(number), Chunk(0, tuple(samples), (1,) * 5), look=look)
        looked.clear()
    assert ahead == [2, 1, 2, 1, 1, 1, 1, 1, 1, 1]


def test_the_disk_begins_to_write_a_shard_while_its_images_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_TOGETHER", 2)
    samples, begun = toy(tmp_path / "pictures")[:4], list[tuple[int, int, int]]()

    def advised(file: int, begin: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        begun.append((begin, begin + length, os.fstat(file).st_size))

    monkeypatch.setattr(os, "posix_fadvise", advised)
    (tmp_path / "parts").mkdir()
    write_shard(tmp_path, Chunk(0, tuple(samples), (1,) * 4))
    (first, middle, size), (second, end, whole) = begun[:2]
    assert (first, middle, end) == (0, second, whole)
    assert 0 < middle == size < end
    assert (tmp_path / "shard-000000.tar").stat().st_size >= end


def test_of_the_rows_of_a_shard_few_are_kept_as_dictionaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_ROWS_TOGETHER", 2)
    rows, first = writer._Rows(pa.schema([("number", pa.int64())])), {"number": 1}
    holders = sys.getrefcount(first)
    rows.add(first)
    assert sys.getrefcount(first) > holders
    rows.add({"number": 2}, {"number": 3})
    assert sys.getrefcount(first) == holders
    rows.add({"number": 4})
    assert len(rows) == 4
    assert rows.table().to_pylist() == [{"number": number} for number in (1, 2, 3, 4)]
