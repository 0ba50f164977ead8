"""The keys of a build: the first that occurs twice is found wherever it was, in bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
import xxhash

from laconvnet.shards.build import keys as module
from laconvnet.shards.build.keys import KeySet
from laconvnet.shards.build.plan import Planner
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Record


def first_twice(groups: list[list[str]]) -> tuple[int, int] | None:
    """Group and place of the first key that was there before, by a set of all."""
    seen: set[str] = set()
    for number, group in enumerate(groups):
        for place, key in enumerate(group):
            if key in seen:
                return number, place
            seen.add(key)
    return None


def found_by_key_set(groups: list[list[str]]) -> tuple[int, int] | None:
    known = KeySet()
    for number, group in enumerate(groups):
        place = known.add(group)
        if place is not None:
            return number, place
    return None


@pytest.mark.parametrize("latest", [1, 7, 1 << 16])
def test_the_first_key_that_occurs_twice_is_found_wherever_it_was(latest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LATEST", latest)
    draw = random.Random(0)
    outcomes = set()
    for _ in range(300):
        count = draw.randrange(1, 120)
        keys = [f"key-{number}" for number in draw.sample(range(10**6), count)]
        for _ in range(draw.randrange(3)):
            keys.insert(draw.randrange(len(keys) + 1), draw.choice(keys))
        groups, at = [], 0
        while at < len(keys):
            size = draw.randrange(0, 12)
            groups.append(keys[at : at + size])
            at += size
        wanted = first_twice(groups)
        assert found_by_key_set(groups) == wanted
        outcomes.add(wanted is None)
    assert outcomes == {True, False}


def test_digests_that_share_a_half_are_different_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of 10^9 keys a few might: all runs have the same first half here."""
    monkeypatch.setattr(module, "_LATEST", 3)
    monkeypatch.setattr(xxhash, "xxh3_128_digest", lambda data: b"12345678" + data[-8:].rjust(8))
    known = KeySet()
    for number in range(40):
        assert known.add([f"k{number}"]) is None
    for number in range(40):
        assert known.add([f"k{number}"]) == 0
    assert known.add(["new"]) is None


def test_a_key_takes_sixteen_bytes_and_joining_less_than_forty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LATEST", 1 << 10)  # as small beside this number as the usual one beside a large build
    count, group = 200_000, 500
    known = KeySet()
    tracemalloc.start()
    try:
        for at in range(0, count, group):
            assert known.add([f"visual-genome-{number:09d}" for number in range(at, at + group)]) is None
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    assert known.nbytes <= 16 * count
    assert len(known._runs) <= 8
    assert peak < 40 * count
    assert known.add(["visual-genome-000000001"]) == 0


def raw(folder: Path, number: int) -> RawSample:
    return RawSample(Record("toy", str(number), f"{number}.jpg", 2, 2, "CC0"), folder / f"{number}.jpg")


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 9), (3, 5), (8, 9)])
def test_no_chunk_with_a_key_that_was_there_is_planned(first: int, second: int, missing: bool, tmp_path: Path) -> None:
    samples = [raw(tmp_path, number) for number in range(10)]
    for sample in samples:
        sample.image.write_bytes(b"12345")
    samples[second] = samples[first]
    if missing:
        samples[first].image.unlink()
    planner = Planner(samples, shard_bytes=10)
    planned = [int(sample.record.picture_id) for chunk in planner.chunks() for sample in chunk.samples]
    others = [number for number in range(10) if number != second and not (missing and number == first)]
    assert planned == others, "each image once"
    cause = "missing" if missing else "duplicate key"
    assert [(row["key"], row["cause"]) for row in planner.rows] == [(f"toy-{first}", cause)] * (1 + missing)


def test_an_image_for_whose_key_a_tar_has_no_room_is_set_aside(tmp_path: Path) -> None:
    """With `.json` behind it a name of the format has 100 bytes."""
    (tmp_path / "it.jpg").write_bytes(b"12345")
    records = [
        Record("toy", str(number) * (length - len("toy-")), "it.jpg", 0, 0, "CC0")
        for number, length in enumerate((95, 96), 1)
    ]
    planner = Planner([RawSample(record, tmp_path / "it.jpg") for record in records], shard_bytes=10)
    assert [len(sample.record.key) for chunk in planner.chunks() for sample in chunk.samples] == [95]
    (row,) = planner.rows
    assert (row["cause"], row["key"]) == ("key", records[1].key)
    assert "95 characters" in row["reason"]
