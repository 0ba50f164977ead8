"""The order of samples: a bijection an epoch, a mixture by weight, the same stream from any step on any world."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconvnet.pipeline.data.plan import Plan, Positions, draw, mix, permute, steps
from laconvnet.pipeline.errors import ConfigError

QUICK = settings(max_examples=40, deadline=None)
KEYS = st.integers(0, 2**64 - 1)
FAR = 10**12


def span(first: int, last: int) -> Positions:
    return np.arange(first, last, dtype=np.int64)


@QUICK
@given(size=st.integers(1, 600), key=KEYS)
def test_permute_is_a_bijection(size: int, key: int) -> None:
    image = permute(span(0, size), size, key)
    assert image.dtype == np.int64
    assert sorted(image.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 16, 17, 64, 65, 255, 256, 257, 1024, 1025, 4097])
def test_permute_is_a_bijection_at_every_border_of_the_bits(size: int) -> None:
    for key in range(5):
        assert sorted(permute(span(0, size), size, key).tolist()) == list(range(size))


@QUICK
@given(size=st.integers(2, 10**15), key=KEYS, data=st.data())
def test_permute_of_one_position_needs_no_other(size: int, key: int, data: st.DataObject) -> None:
    """Each position's image is a function of it alone: O(1), whatever is asked beside it."""
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8, unique=True))
    together = permute(np.array(positions, np.int64), size, key)
    alone = [int(permute(np.array([position], np.int64), size, key)[0]) for position in positions]
    assert together.tolist() == alone
    assert len(set(alone)) == len(positions)
    assert all(0 <= image < size for image in alone)


def test_permute_looks_random() -> None:
    size = 20_000
    images = [permute(span(0, size), size, key).astype(float) for key in (1, 2, 3)]
    here = np.arange(size)
    for image in images:
        # Of a uniform permutation: mean displacement N/3, no correlation with the order or between neighbours.
        assert np.abs(image - here).mean() == pytest.approx(size / 3, rel=0.03)
        assert abs(np.corrcoef(image, here)[0, 1]) < 0.03
        assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 0.03
        assert np.abs(np.diff(image)).mean() == pytest.approx(size / 3, rel=0.03)
        assert (image == here).sum() < 12  # one is expected
    for one, other in pairwise(images):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_small_permutations_come_in_all_orders() -> None:
    """All 24 orders of four items, each about as often."""
    seen = Counter(tuple(permute(span(0, 4), 4, mix(7, key)).tolist()) for key in range(2400))
    assert len(seen) == 24
    assert 50 < min(seen.values()) <= max(seen.values()) < 170


@QUICK
@given(st.lists(st.tuples(KEYS, KEYS), min_size=2, max_size=8, unique=True))
def test_mix_tells_its_values_and_their_order_apart(pairs: list[tuple[int, int]]) -> None:
    keys = {mix(*pair) for pair in pairs}
    assert len(keys) == len(pairs)
    assert all(0 <= key < 2**64 for key in keys)
    assert mix(*pairs[0]) == mix(*pairs[0])
    first, second = pairs[0]
    assert mix(first) != mix(first, second)
    if first != second:
        assert mix(first, second) != mix(second, first)


def test_draw_takes_every_alternative_about_as_often_and_only_those() -> None:
    items = span(0, 600)
    counts = 1 + items % 3
    taken = np.stack([draw(items, counts, mix(0, key)) for key in range(60)])
    assert (taken >= 0).all()
    assert (taken < counts).all()
    shares = np.bincount(taken[:, counts == 3].ravel(), minlength=3) / taken[:, counts == 3].size
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)
    assert draw(items[5:7], counts[5:7], 9).tolist() == draw(items, counts, 9)[5:7].tolist()


SETS = st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.3, 0.5, 1.0, 1.7, 2.0, 3.0])), min_size=1, max_size=4)


def plan_of(sets: list[tuple[int, float]], seed: int = 0) -> Plan:
    return Plan(tuple(size for size, _ in sets), tuple(weight for _, weight in sets), seed)


@QUICK
@given(sets=SETS, seed=KEYS, epochs=st.integers(1, 5))
def test_each_item_is_shown_as_often_as_its_weight_says(sets: list[tuple[int, float]], seed: int, epochs: int) -> None:
    plan = plan_of(sets, seed)
    items, epoch_passes = plan.items(span(0, epochs * plan.epoch_length))
    shown = Counter(items.tolist())
    first = 0
    for (size, weight), share in zip(sets, plan.shares, strict=True):
        assert share == max(1, round(size * weight))
        times = [shown[item] for item in range(first, first + size)]
        exact = share * epochs / size  # an epoch shows a whole number of items of each set
        assert {*times} <= {int(np.floor(exact)), int(np.ceil(exact))}
        for item in range(first, first + size):
            assert sorted(epoch_passes[items == item].tolist()) == list(
                range(shown[item])
            )  # each visit has its own number
        first += size
    assert sum(shown.values()) == epochs * plan.epoch_length
    assert max(shown) < first


def test_weights_that_divide_are_exact() -> None:
    plan = Plan((10, 20, 7, 8), (0.5, 1.0, 2.0, 0.25), seed=3)
    assert plan.shares == (5, 20, 14, 2)
    for epoch in range(4):
        items, _ = plan.items(span(epoch * 41, (epoch + 1) * 41))
        shown = Counter(items.tolist())
        assert all(shown[item] == 1 for item in range(10, 30))
        assert all(shown[item] == 2 for item in range(30, 37))
        assert sum(shown[item] for item in range(10)) == 5
        assert sum(shown[item] for item in range(37, 45)) == 2
    halves = [set(plan.items(span(epoch * 41, (epoch + 1) * 41))[0].tolist()) & set(range(10)) for epoch in range(2)]
    assert halves[0] | halves[1] == set(range(10))


def test_a_small_set_of_small_weight_is_not_forgotten() -> None:
    plan = Plan((100, 1, 0, 2), (1.0, 0.2, 1.0, 0.2), seed=0)
    assert plan.shares == (100, 1, 0, 1)
    items, _ = plan.items(span(0, 2 * plan.epoch_length))
    assert Counter(items.tolist()) == Counter({**{item: 2 for item in range(101)}, 101: 1, 102: 1})


def test_sets_are_mixed_within_an_epoch() -> None:
    plan = Plan((1000, 1000), (1.0, 1.0), seed=1)
    items, _ = plan.items(span(0, 2000))
    for part in np.split(items, 10):
        assert 70 < (part < 1000).sum() < 130


def test_the_mixture_and_the_halves_are_drawn_anew_each_time() -> None:
    mixed = Plan((30, 30), (1.0, 1.0), seed=1)
    patterns = {tuple((mixed.items(span(epoch * 60, (epoch + 1) * 60))[0] < 30).tolist()) for epoch in range(6)}
    assert len(patterns) == 6
    halved = Plan((30,), (0.5,), seed=1)
    halves = {frozenset(halved.items(span(epoch * 15, (epoch + 1) * 15))[0].tolist()) for epoch in range(0, 12, 2)}
    assert len(halves) == 6


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_nothing_to_train_on_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"data: nothing to train on.*`shards info`"):
        Plan(sizes, (1.0,) * len(sizes), 0)


@settings(max_examples=25, deadline=None)
@given(sets=SETS, share=st.integers(1, 4), first=st.integers(0, 300))
def test_the_stream_is_the_same_on_every_world(sets: list[tuple[int, float]], share: int, first: int) -> None:
    plan, batch = plan_of(sets, seed=5), 12 * share
    whole = plan.items(span(first * batch, (first + 3) * batch))
    for world in (1, 2, 3, 4):
        ranks = [[plan.step(step, batch, rank, world) for rank in range(world)] for step in range(first, first + 3)]
        for part in (0, 1):
            assert np.concatenate([one[part] for step in ranks for one in step]).tolist() == whole[part].tolist()
            assert {len(one[part]) for step in ranks for one in step} == {batch // world}


@settings(max_examples=20, deadline=None)
@given(sets=SETS, batch=st.integers(1, 24), cuts=st.lists(st.integers(1, 9), min_size=3, max_size=4))
def test_a_run_broken_off_again_and_again_sees_the_undisturbed_stream(
    sets: list[tuple[int, float]], batch: int, cuts: list[int]
) -> None:
    """Each piece comes from a new plan, as in a new process, and the pieces reach over epoch borders."""
    total = sum(cuts)
    undisturbed = plan_of(sets).items(span(0, total * batch))[0].tolist()
    seen: list[int] = []
    done = 0
    for cut in cuts:
        again = plan_of(sets)
        for step in range(done, done + cut):
            seen += again.step(step, batch, 0, 1)[0].tolist()
        done += cut
    assert seen == undisturbed


def test_any_position_is_found_without_what_stands_before_it() -> None:
    plan = Plan((3_000_000_000, 40_000_000), (1.0, 2.0), seed=0)
    tracemalloc.start()
    items, epoch_passes = plan.step(FAR // 64, 64, 0, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert (items >= 0).all()
    assert (items < 3_040_000_000).all()
    assert len(set(items.tolist())) == 64
    epoch = FAR // plan.epoch_length
    assert set(epoch_passes.tolist()) <= {epoch, 2 * epoch, 2 * epoch + 1}


@pytest.mark.parametrize("window", [0, 1_000_000])
def test_a_large_run_shows_the_same_samples_once_in_any_world_and_no_rank_holds_them(window: int) -> None:
    """Steps in the midst of an epoch of 10^9 samples, in shards of some 2,400, by up to 8,000 ranks of 16."""
    samples, worlds = 10**9, (1, 8, 500, 8000)
    batch = 16 * max(worlds)
    plan = Plan((samples,), (1.0,), 0, window, np.arange(0, samples, 2440, dtype=np.int64))
    step = samples // batch // 2
    alone = plan.step(step, batch, 0, 1)[0]  # begins the epoch: its table of shards is made once
    assert len(np.unique(alone)) == batch
    assert alone.min() >= 0
    assert alone.max() < samples
    for world in worlds:
        for rank in range(0, world, -(-world // 100)):
            wanted = alone[rank * batch // world : (rank + 1) * batch // world]
            assert np.array_equal(plan.step(step, batch, rank, world)[0], wanted)
    tracemalloc.start()
    plan.step(step + 1, batch, worlds[-1] - 1, worlds[-1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_far_along_an_epoch_is_still_each_item_once() -> None:
    plan = Plan((997,), (1.0,), seed=0)
    first = FAR // 997 * 997
    items, epoch_passes = plan.items(span(first, first + 997))
    assert sorted(items.tolist()) == list(range(997))
    assert set(epoch_passes.tolist()) == {first // 997}


def test_seeds_and_epochs_differ() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        items: list[int] = Plan((50,), (1.0,), seed).items(span(epoch * 50, (epoch + 1) * 50))[0].tolist()
        return items

    orders = [order(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({tuple(one) for one in orders}) == len(orders)
    assert order(2, 3) == order(2, 3)


@pytest.mark.parametrize(
    ("items", "batch", "epochs", "expected"),
    [(10, 5, 1, 2), (10, 4, 1, 3), (10, 4, 2, 5), (10, 4, 0.25, 1), (3, 8, 2, 1)],
)
def test_steps_complete_the_last_epoch(items: int, batch: int, epochs: float, expected: int) -> None:
    found = steps(Plan((items,), (1.0,), 0), batch, epochs)
    assert found == expected
    assert found * batch >= items * epochs > (found - 1) * batch


def test_sets_of_one_size_are_permuted_each_in_its_own_way() -> None:
    """Of two halves of sets that were permuted alike one would be the other's."""
    plan = Plan((40, 40), (0.5, 0.5), seed=1)
    items = plan.items(span(0, plan.epoch_length))[0]
    first, second = (set(items[items < 40].tolist()), set((items[items >= 40] - 40).tolist()))
    assert len(first) == len(second) == 20
    assert first != second
