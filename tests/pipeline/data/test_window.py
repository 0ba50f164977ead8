"""The local order: blocks of neighbours permuted, then windows; still each item as often as its weight says."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.loader import DataConfig
from laconvnet.pipeline.data.plan import Plan, Positions
from laconvnet.pipeline.errors import ConfigError

QUICK = settings(max_examples=40, deadline=None)
# Of each set: the items of its blocks, and its weight.
SETS = st.lists(
    st.tuples(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.sampled_from([0.3, 0.5, 1.0, 1.7, 2.0, 3.0])),
    min_size=1,
    max_size=3,
)
WINDOW = st.sampled_from([1, 2, 7, 16, 50, 10_000])


def span(first: int, last: int) -> Positions:
    return np.arange(first, last, dtype=np.int64)


def plan_of(sets: list[tuple[list[int], float]], window: int, seed: int = 0) -> Plan:
    lengths = [length for blocks, _ in sets for length in blocks]
    starts = np.cumsum([0, *lengths[:-1]])
    return Plan(tuple(sum(blocks) for blocks, _ in sets), tuple(weight for _, weight in sets), seed, window, starts)


@QUICK
@given(sets=SETS, window=WINDOW, seed=st.integers(0, 2**64 - 1), epochs=st.integers(1, 5))
def test_each_item_is_shown_as_often_as_its_weight_says(
    sets: list[tuple[list[int], float]], window: int, seed: int, epochs: int
) -> None:
    plan = plan_of(sets, window, seed)
    items, epoch_passes = plan.items(span(0, epochs * plan.epoch_length))
    shown = Counter(items.tolist())
    first = 0
    for size, share in zip(plan.sizes, plan.shares, strict=True):
        exact = share * epochs / size
        for item in range(first, first + size):
            assert shown[item] in (int(np.floor(exact)), int(np.ceil(exact)))
            assert sorted(epoch_passes[items == item].tolist()) == list(range(shown[item]))
        first += size
    assert sum(shown.values()) == epochs * plan.epoch_length


@QUICK
@given(sets=SETS, window=WINDOW, positions=st.lists(st.integers(0, 10**12), min_size=1, max_size=8))
def test_a_position_needs_no_other(sets: list[tuple[list[int], float]], window: int, positions: list[int]) -> None:
    plan = plan_of(sets, window)
    together = plan.items(np.array(positions, np.int64))
    alone = [plan_of(sets, window).items(np.array([position], np.int64)) for position in positions]
    for part in (0, 1):
        assert together[part].tolist() == [int(one[part][0]) for one in alone]


@settings(max_examples=20, deadline=None)
@given(sets=SETS, window=WINDOW, share=st.integers(1, 3), first=st.integers(0, 100))
def test_the_stream_is_the_same_on_every_world(
    sets: list[tuple[list[int], float]], window: int, share: int, first: int
) -> None:
    plan, batch = plan_of(sets, window), 12 * share
    whole = plan.items(span(first * batch, (first + 1) * batch))
    for world in (1, 2, 3, 4):
        ranks = [plan.step(first, batch, rank, world) for rank in range(world)]
        for part in (0, 1):
            assert np.concatenate([one[part] for one in ranks]).tolist() == whole[part].tolist()


def test_neighbours_in_the_stream_lie_in_few_blocks() -> None:
    plan = plan_of([([100] * 50, 1.0)], 500)
    items, _ = plan.items(span(0, 5000))
    blocks = [np.unique(part // 100) for part in np.split(items, 10)]
    assert [len(one) for one in blocks] == [5] * 10, "a window is five whole blocks"
    assert np.concatenate(blocks).tolist() != list(range(50))
    everywhere = Plan((5000,), (1.0,), 0).items(span(0, 500))[0]
    assert len(np.unique(everywhere // 100)) == 50
    # Within a window the order is mixed, and each window in its own way.
    ranks = [np.argsort(np.argsort(part)) for part in np.split(items, 10)]
    assert all(abs(np.corrcoef(rank, np.arange(500))[0, 1]) < 0.2 for rank in ranks)
    assert len({tuple(rank.tolist()) for rank in ranks}) == 10


def test_blocks_of_several_sets_stand_among_each_other() -> None:
    plan = plan_of([([10] * 40, 1.0), ([10] * 20, 2.0)], 100)
    items, epoch_passes = plan.items(span(0, 800))
    shares = [(part < 400).mean() for part in np.split(items, 4)]
    assert all(0.2 < share < 0.8 for share in shares)
    assert set(epoch_passes[items < 400].tolist()) == {0}
    assert set(epoch_passes[items >= 400].tolist()) == {0, 1}


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        plan = plan_of([([10] * 5, 1.0)], 20, seed)
        return tuple(plan.items(span(epoch * 50, (epoch + 1) * 50))[0].tolist())

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    blocks = {tuple(dict.fromkeys(item // 10 for item in one[:20])) for one in orders}
    assert len(blocks) > 4, "the blocks come in another order, not only what is in a window"


def test_sets_of_one_size_are_permuted_each_in_its_own_way() -> None:
    plan = plan_of([([2] * 20, 0.5), ([2] * 20, 0.5)], 10, seed=1)
    items = plan.items(span(0, plan.epoch_length))[0]
    first, second = (set(items[items < 40].tolist()), set((items[items >= 40] - 40).tolist()))
    assert len(first) == len(second) == 20
    assert first != second


def test_the_sets_stand_among_each_other_anew_in_each_epoch() -> None:
    """That blocks of one set come in another order hides it where one order mixes the sets in every epoch."""
    plan = plan_of([([3] * 12, 1.0), ([3] * 12, 1.0)], 3)
    items = [plan.items(span(epoch * 72, (epoch + 1) * 72))[0] for epoch in range(4)]
    assert len({tuple((one[::3] < 36).tolist()) for one in items}) == 4


def test_which_half_of_a_set_is_shown_is_drawn_anew_each_time() -> None:
    plan = plan_of([([2] * 20, 0.5)], 10, seed=1)
    halves = [frozenset(plan.items(span(epoch * 20, (epoch + 1) * 20))[0].tolist()) for epoch in range(12)]
    assert [one | other for one, other in zip(halves[::2], halves[1::2], strict=True)] == [frozenset(range(40))] * 6
    assert len({*halves}) == 12


def test_a_window_is_mixed_anew_in_each_epoch_and_unlike_its_neighbour() -> None:
    plan = plan_of([([50], 1.0)], 25)
    windows = np.split(plan.items(span(0, 100))[0], 4)
    orders = [np.argsort(one).tolist() for one in windows]
    assert len({str(one) for one in orders}) == 4


def test_without_a_window_nothing_changes() -> None:
    """The order of runs that were begun before there was any other."""
    known = [7, 9, 8, 1, 4, 8, 9, 5, 10, 7, 3, 6, 2, 0, 10, 11, 11]
    assert Plan((7, 5), (1.0, 2.0), 3).items(span(0, 17))[0].tolist() == known
    assert plan_of([([3, 4], 1.0), ([5], 2.0)], 0, 3).items(span(0, 17))[0].tolist() == known


def test_the_table_is_of_blocks_and_not_of_items() -> None:
    starts = np.arange(0, 1_000_000_000, 500_000, dtype=np.int64)
    plan = Plan((1_000_000_000,), (1.0,), 0, 4_000_000, starts)
    tracemalloc.start()
    items, _ = plan.step(10**12 // 64, 64, 0, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert len(set(items.tolist())) == 64
    assert len(set((items // 500_000).tolist())) <= 9


def test_the_blocks_of_a_set_are_the_parts_of_its_shards(sets: dict[str, Path]) -> None:
    for name, kind in (("refcoco", "expression"), ("merged", "expression"), ("clevr", "question")):
        examples = Examples.open(sets[name], kind, "train")  # type: ignore[arg-type]
        items = Items.of(examples, 0, window=8)
        assert items.plan.window == 8
        table = examples.manifest.samples
        samples = examples.samples(items.first)
        lying = list(zip(*(table[key].to_numpy()[samples].tolist() for key in ("set", "shard")), strict=True))
        borders = [0, *(at for at in range(1, len(lying)) if lying[at] != lying[at - 1])]
        assert items.plan.blocks.tolist() == borders
        assert len(borders) > 1
        length = items.plan.epoch_length
        shown = Counter(items.plan.step(1, length, 0, 1)[0].tolist())
        assert shown.keys() <= set(range(len(items.first)))
        if name != "merged":
            assert set(shown.values()) == {1}
            assert len(shown) == length


@pytest.mark.parametrize("window", [-1, -100])
def test_a_window_that_is_none_is_named(window: int) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.window: {window}: expected a number of examples, or 0"):
        DataConfig("folder", window=window)
