"""Shards read as streams: each example once, in one order on any number of processes, by webdataset's own reader."""

from __future__ import annotations

import inspect
import shutil
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from laconvnet.pipeline.data import streams as module
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.loader import DataConfig
from laconvnet.pipeline.data.plan import Plan
from laconvnet.pipeline.data.reader import Reader
from laconvnet.pipeline.data.streams import Streams
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import Shard
from tests.pipeline.data.test_window import SETS, span

STREAMS, WINDOW, BATCH = 6, 5, 12


def plan_of(sets: list[tuple[list[int], float]], window: int, streams: int, seed: int = 0) -> Plan:
    lengths = [length for blocks, _ in sets for length in blocks]
    starts = np.cumsum([0, *lengths[:-1]])
    sizes, weights = tuple(sum(blocks) for blocks, _ in sets), tuple(weight for _, weight in sets)
    return Plan(sizes, weights, seed, window, starts, streams)


@settings(max_examples=40, deadline=None)
@given(
    sets=SETS,
    window=st.sampled_from([1, 3, 16, 10_000]),
    streams=st.sampled_from([1, 2, 6, 12]),
    epochs=st.integers(1, 4),
)
def test_each_item_comes_as_often_as_its_weight_says(
    sets: list[tuple[list[int], float]], window: int, streams: int, epochs: int
) -> None:
    plan = plan_of(sets, window, streams)
    whole = plan_of(sets, window, 0)
    for epoch in range(epochs):
        here = span(epoch * plan.epoch_length, (epoch + 1) * plan.epoch_length)
        found, other = (
            Counter(zip(*(part.tolist() for part in one.items(here)), strict=True)) for one in (plan, whole)
        )
        assert found == other, "the same items in the same epoch passes, in another order"


@settings(max_examples=20, deadline=None)
@given(sets=SETS, window=st.sampled_from([1, 3, 16]), turn=st.integers(1, 3), step=st.integers(0, 100))
def test_the_order_is_the_same_on_every_world(
    sets: list[tuple[list[int], float]], window: int, turn: int, step: int
) -> None:
    plan, batch = plan_of(sets, window, 6), 6 * turn
    alone = plan.step(step, batch, 0, 1)
    for world in (2, 3, 6):
        ranks = [plan.step(step, batch, rank, world) for rank in range(world)]
        for part in (0, 1):
            assert np.concatenate([one[part] for one in ranks]).tolist() == alone[part].tolist()
    together = np.sort(np.concatenate(plan.items(span(step * batch, (step + 1) * batch))))
    assert np.sort(np.concatenate(alone)).tolist() == together.tolist(), "a step is its positions, in another order"


def test_a_stream_is_a_stretch_of_shards() -> None:
    plan = plan_of([([20] * 30, 1.0)], 40, 6)
    items = np.stack([plan.step(step, 12, 0, 1)[0] for step in range(50)])
    shards = [np.unique(part // 20) for part in np.split(items, 6, axis=1)]
    assert [len(one) for one in shards] == [5] * 6
    assert sorted(np.concatenate(shards).tolist()) == list(range(30))
    orders = [part.ravel()[:40] for part in np.split(items, 6, axis=1)]
    assert len({tuple(np.argsort(one).tolist()) for one in orders}) == 6, "each is mixed in its own way"


def test_the_windows_of_a_stream_are_its_positions() -> None:
    plan = plan_of([([7] * 5, 1.0)], 4, 6)  # 35 examples: no multiple of the streams
    for first, stop in ((0, 20), (3, 17)):
        for number in range(6):
            windows = list(plan.windows(number, first, stop))
            assert np.concatenate(windows).tolist() == (np.arange(first, stop) * 6 + number).tolist()
            for window in windows:
                epochs, places = plan.places(window)
                assert len(set(epochs.tolist())) == 1
                assert np.ptp(places) < 4


@pytest.fixture(scope="module", params=["refcoco", "merged"])
def items(request: pytest.FixtureRequest, sets: dict[str, Path]) -> Items:
    return Items.of(Examples.open(sets[request.param], "expression", "train"), 0, WINDOW, STREAMS)


def streams_of(items: Items, steps: range, rank: int = 0, world: int = 1, masks: bool = False) -> Streams:
    return Streams(items, BATCH, steps, rank, world, masks, patience=20.0)


def shown(items: Items, steps: range, rank: int, world: int) -> list[list[tuple[int, bytes]]]:
    """The example rows and images of each step, as this rank reads them."""
    found = []
    with closing(streams_of(items, steps, rank, world)) as streams:
        for step in steps:
            rows = items.step(step, BATCH, rank, world)
            images = streams.read(items.examples.samples(rows))
            found.append(list(zip(rows.tolist(), [image.tobytes() for image in images], strict=True)))
    return found


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_together_show_each_example_once_an_epoch_with_its_image(items: Items, world: int) -> None:
    length = items.plan.epoch_length
    total = -(-2 * length // BATCH)
    ranks = [shown(items, range(total), rank, world) for rank in range(world)]
    steps = [[one for rank in ranks for one in rank[step]] for step in range(total)]
    assert [[row for row, _ in step] for step in steps] == [items.step(at, BATCH, 0, 1).tolist() for at in range(total)]
    with Reader(items.examples.manifest) as reader:
        for step in steps:
            samples = items.examples.samples(np.array([row for row, _ in step]))
            assert [image for _, image in step] == [image.tobytes() for image in reader.read(samples)]
    if set(items.plan.weights) == {1.0}:
        epoch = [row for step in steps for row, _ in step][: length // BATCH * BATCH]
        assert len({row for row in epoch}) == len(epoch), "no example twice in an epoch"


@pytest.mark.parametrize("first", [1, 3, 7])
def test_a_resumed_run_shows_what_was_left(items: Items, first: int) -> None:
    whole = [shown(items, range(12), rank, 2) for rank in range(2)]
    assert [shown(items, range(first, 12), rank, 2) for rank in range(2)] == [rank[first:] for rank in whole]
    ranks = [shown(items, range(first, 12), rank, 3) for rank in range(3)]
    again = [[one for rank in ranks for one in rank[at]] for at in range(12 - first)]
    assert again == [[one for rank in whole for one in rank[at]] for at in range(first, 12)], "on three processes, too"


def test_masks_are_those_of_the_records(sets: dict[str, Path]) -> None:
    items = Items.of(Examples.open(sets["refcoco"], "expression", "train"), 0, WINDOW, STREAMS)
    with closing(streams_of(items, range(3), masks=True)) as streams, Reader(items.examples.manifest) as reader:
        for step in range(3):
            rows = items.step(step, BATCH, 0, 1)
            samples, regions = items.examples.samples(rows), items.examples.regions(rows)
            streams.read(samples)
            found, expected = streams.masks(samples, regions), reader.masks(samples, regions)
            assert [mask.tolist() for mask in found] == [mask.tolist() for mask in expected]
            assert any(mask.any() for mask in found)


def test_a_shard_is_opened_once_and_read_by_webdataset_alone(items: Items, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()
    open_shard = Shard.open
    read: list[object] = []
    expand = webdataset.tariterators.tar_file_expander

    def noted(shard: Shard) -> object:
        opened[str(shard)] += 1
        return open_shard(shard)

    def expanded(*given: object, **named: object) -> object:
        read.append(given)
        return expand(*given, **named)

    monkeypatch.setattr(Shard, "open", noted)
    monkeypatch.setattr(webdataset.tariterators, "tar_file_expander", expanded)
    monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("not by its place"))
    shown(items, range(items.plan.epoch_length // BATCH), 0, 1)
    assert len(read) == opened.total()
    blocks = len(items.plan.blocks) * max(1, int(max(items.plan.weights)))
    assert opened.total() <= blocks + STREAMS, "a stream cuts a shard at either end at most"
    assert len(opened) == len({str(items.examples.manifest.shard(int(one))) for one in _shards(items)})


def _shards(items: Items) -> list[int]:
    found, _ = items.plan.items(span(0, items.plan.epoch_length // BATCH * BATCH))
    samples = items.examples.samples(items.first[found])
    return sorted(set(items.examples.manifest.sample_columns.numbers("shard", samples).tolist()))


def test_no_more_than_two_windows_are_held(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    items = Items.of(Examples.open(sets["refcoco"], "expression", "train"), 0, 4, 1)
    made: list[int] = []
    of_shard = module._Stream._of_shard

    def noted(stream: object, rows: object) -> object:
        for held in of_shard(stream, rows):  # type: ignore[arg-type]
            made.append(held.sample)
            yield held

    monkeypatch.setattr(module._Stream, "_of_shard", noted)
    with closing(Streams(items, 1, range(60), 0, 1, False, patience=20.0)) as streams:
        for step in range(20):
            samples = items.examples.samples(items.step(step, 1, 0, 1))
            streams.read(samples)
            window = step - step % 4
            begun = {int(items.examples.samples(items.step(at, 1, 0, 1))[0]) for at in range(window + 4)}
            assert len(set(made) - begun) <= 4 + 2, "those ahead, one that waits for a place, one just made"
            held = inspect.getgeneratorlocals(streams._streams[0]._shown)["held"]
            assert len(held) <= 4


def test_closing_ends_the_threads(items: Items) -> None:
    streams = streams_of(items, range(10))
    assert any(thread.name == "loader" for thread in threading.enumerate())
    streams.close(20.0)
    assert not any(thread.name == "loader" for thread in threading.enumerate())


@pytest.fixture
def damaged(sets: dict[str, Path], tmp_path: Path) -> Items:
    """Items of a copy, whose first shard can be changed."""
    shutil.copytree(sets["refcoco"], tmp_path / "set")
    return Items.of(Examples.open(tmp_path / "set", "expression", "train"), 0, WINDOW, 1)


def read_all(items: Items) -> None:
    steps = range(items.plan.epoch_length // BATCH)
    with closing(Streams(items, BATCH, steps, 0, 1, False, patience=20.0)) as streams:
        for step in steps:
            streams.read(items.examples.samples(items.step(step, BATCH, 0, 1)))


def test_other_bytes_are_refused_with_their_place(damaged: Items) -> None:
    shard, row = damaged.examples.manifest.shard_paths[0], damaged.examples.manifest.samples.slice(0, 1).to_pylist()[0]
    with shard.open("r+b") as stream:
        stream.seek(row["image_offset"] + 9)
        stream.write(b"\xff\x00")
    with pytest.raises(ConfigError, match=rf"{shard}: sample '{row['key']}' at offset .*not those that were written"):
        read_all(damaged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:5000], r"ends after 5000 of \d+ bytes"),
        (lambda data: b"\x1f\x8b" + data[2:], "it is compressed, expected a plain tar"),
        (lambda data: bytes(len(data)), r"\d+ samples are not in it, or not whole"),
        (lambda data: data.replace(b".jpg", b".gif").replace(b".png", b".gif"), "."),
    ],
)
def test_a_shard_that_is_another_file_is_told(damaged: Items, change: object, message: str) -> None:
    shard = damaged.examples.manifest.shard_paths[0]
    shard.write_bytes(change(shard.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ConfigError, match=rf"^{shard}: .*{message}.*; the shard is not the one that was written"):
        read_all(damaged)


def test_a_shard_that_is_gone_is_told(damaged: Items) -> None:
    damaged.examples.manifest.shard_paths[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-000000\.tar"):
        read_all(damaged)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"streams": -1}, r"^data\.streams: -1: expected a number of streams, or 0"),
        ({"streams": 4}, r"^data\.window: 0: with data\.streams expected"),
        ({"streams": 5, "window": 9, "batch": 8}, r"^data\.streams: 5: expected a divisor of data\.batch, 8"),
    ],
)
def test_streams_that_cannot_be_are_named(keys: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig("folder", **keys)  # type: ignore[arg-type]


def test_processes_share_the_streams(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from laconvnet.pipeline.config import TrainConfig
    from laconvnet.pipeline.training.session import Source

    config = TrainConfig(DataConfig(str(sets["refcoco"]), batch=12, window=8, streams=6))
    for world, fits in ((1, True), (3, True), (4, False)):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        if fits:
            assert Source.open(config).items.plan.streams == 6
        else:
            with pytest.raises(ConfigError, match=r"^data\.streams: 6: expected a multiple of the 4 processes"):
                Source.open(config)
