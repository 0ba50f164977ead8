"""Bytes by their place in the shards: the right ones, in order, or an error that names the place."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconvnet.files import pread
from laconvnet.pipeline.data.reader import Reader
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import Manifest


def descriptors() -> set[str]:
    """The shards that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the listing's own
            continue
    return {name for name in found if name.endswith(".tar")}


@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_come_in_the_order_requested(sets: dict[str, Path], threads: int) -> None:
    manifest = Manifest.open(sets["refcoco"])
    assert len(manifest.shard_paths) > 1
    rows = np.random.default_rng(0).permutation(len(manifest.samples))
    wanted = np.concatenate([rows, rows[:5], rows[:1]])
    with Reader(manifest, threads) as reader:
        for part in (wanted, wanted[::-1], wanted[3:4]):
            data = reader.read(part)
            assert [one.tobytes() for one in data] == [manifest.read_image(int(row)) for row in part]
            assert all(one.dtype == np.uint8 for one in data)


def test_a_merged_set_reads_from_the_shards_of_its_inputs(sets: dict[str, Path]) -> None:
    manifest = Manifest.open(sets["merged"])
    rows = np.arange(len(manifest.samples))
    with Reader(manifest) as reader:
        assert [one.tobytes() for one in reader.read(rows)] == [manifest.read_image(int(row)) for row in rows]


def test_the_system_hears_of_all_that_is_read_before_the_first_of_it_is(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, int]] = []
    read: list[tuple[int, int]] = []

    def advise(file: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        assert not read
        heard.append((offset, length))

    def reading(file: int, shard: Path, length: int, offset: int) -> bytes:
        read.append((offset, length))
        return pread(file, shard, length, offset)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr("laconvnet.pipeline.data.reader.pread", reading)
    manifest = Manifest.open(sets["refcoco"])
    rows = np.random.default_rng(0).permutation(len(manifest.samples))
    with Reader(manifest) as reader:
        reader.read(rows)
    assert heard == read
    assert len(read) == len(rows)


@pytest.fixture
def damaged(sets: dict[str, Path], tmp_path: Path) -> Manifest:
    """A copy of a set with one byte of the image of sample 7 flipped."""
    folder = tmp_path / "damaged"
    shutil.copytree(sets["refcoco"], folder)
    manifest = Manifest.open(folder)
    row = manifest.samples.slice(7, 1).to_pylist()[0]
    with manifest.shard_paths[row["shard"]].open("r+b") as shard:
        shard.seek(row["image_offset"] + row["image_length"] // 2)
        byte = shard.read(1)[0]
        shard.seek(-1, os.SEEK_CUR)
        shard.write(bytes([byte ^ 0x10]))
    return manifest


@pytest.mark.parametrize("threads", [1, 3])
def test_a_flipped_byte_is_named(damaged: Manifest, threads: int) -> None:
    row = damaged.samples.slice(7, 1).to_pylist()[0]
    with Reader(damaged, threads) as reader:
        assert len(reader.read(np.array([6, 8]))) == 2
        with pytest.raises(ConfigError) as caught:
            reader.read(np.arange(10))
        assert len(reader.read(np.array([6, 8]))) == 2  # the others can still be had
    message = str(caught.value)
    assert "\n" not in message
    assert str(damaged.shard_paths[row["shard"]]) in message
    assert repr(row["key"]) in message
    assert f"offset {row['image_offset']}:" in message
    assert f"shards verify {damaged.folder} --full" in message


def test_a_shard_cut_off_after_opening_is_named(damaged: Manifest) -> None:
    last = damaged.samples.slice(len(damaged.samples) - 1, 1).to_pylist()[0]
    with Reader(damaged) as reader:
        os.truncate(damaged.shard_paths[last["shard"]], last["image_offset"] + 1)
        with pytest.raises(ConfigError, match=last["key"]):
            reader.read(np.array([len(damaged.samples) - 1]))


def test_files_are_opened_once_and_closed(sets: dict[str, Path]) -> None:
    manifest = Manifest.open(sets["refcoco"])
    before, threads = descriptors(), threading.active_count()
    reader = Reader(manifest, 2)
    assert descriptors() == before
    first = int(manifest.samples["shard"][0].as_py())
    reader.read(np.array([0]))
    assert descriptors() - before == {str(manifest.shard_paths[first])}
    for _ in range(3):
        reader.read(np.arange(len(manifest.samples)))
    assert descriptors() - before == {str(path) for path in manifest.shard_paths}
    reader.close()
    assert descriptors() == before
    assert threading.active_count() == threads
    reader.close()  # of what may be another file's number by now


def test_a_file_that_is_still_being_read_stays_open(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes the reader meanwhile: the next file that is opened would be given its number, and be read."""
    manifest = Manifest.open(sets["refcoco"])
    before, opened = descriptors(), []
    reader = Reader(manifest)

    def closed_meanwhile(*asked: Any) -> bytes:
        reader.close(0)
        opened.append(descriptors() - before)
        return pread(*asked)

    monkeypatch.setattr("laconvnet.pipeline.data.reader.pread", closed_meanwhile)
    assert [one.tobytes() for one in reader.read(np.array([0]))] == [manifest.read_image(0)]
    assert opened == [{str(manifest.shard_paths[manifest.samples["shard"][0].as_py()])}]
    reader.close()
    assert descriptors() == before


def test_an_error_closes_the_files_too(damaged: Manifest) -> None:
    with pytest.raises(ConfigError, match="sample"), Reader(damaged, 2) as reader:
        reader.read(np.arange(10))
    assert not any(str(damaged.folder) in name for name in descriptors())


def test_no_more_files_stay_open_than_the_system_grants(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.open(sets["refcoco"])
    shards = manifest.samples["shard"].to_numpy()
    assert len(manifest.shard_paths) > 3
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    before = descriptors()
    one_of_each = np.unique(shards, return_index=True)[1]
    with Reader(manifest) as reader:
        for row in one_of_each:
            reader.read(np.array([row]))
        names = [str(path) for path in manifest.shard_paths]
        assert descriptors() - before == {*names[-2:]}, "those used last"
        reader.read(one_of_each[-2:-1])
        reader.read(one_of_each[:1])
        assert descriptors() - before == {names[-2], names[0]}
        stored = [manifest.read_image(row) for row in range(len(shards))]
        assert [one.tobytes() for one in reader.read(np.arange(len(shards)))] == stored
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with Reader(manifest) as reader:
        for row in one_of_each:
            reader.read(np.array([row]))
        assert len(descriptors() - before) == len(manifest.shard_paths)
