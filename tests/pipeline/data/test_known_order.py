"""The order of samples, value by value: a run that goes on under another version must find the order of its start."""

from __future__ import annotations

import numpy as np
import pytest

from laconvnet.pipeline.data.plan import Plan, Positions, draw, mix, permute, steps

SIZES, WEIGHTS, SEED = (7, 5, 0, 6), (1.0, 2.0, 1.0, 0.5), 3
BLOCKS = np.array([0, 3, 7, 9, 12, 14], np.int64)


def span(count: int) -> Positions:
    return np.arange(count, dtype=np.int64)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ((), 11400714819323198485),
        ((0,), 15590649930234121703),
        ((1, 2), 5640054598490828357),
        ((-1, 2**64 + 3), 6181946208449230266),
    ],
)
def test_keys(values: tuple[int, ...], key: int) -> None:
    assert mix(*values) == key


@pytest.mark.parametrize(
    ("key", "image"),
    [
        (5, [0]),
        (5, [1, 0]),
        (5, [2, 0, 1]),
        (6, [0, 3, 2, 1]),
        (7, [2, 3, 1, 0, 4]),
        (8, [7, 11, 9, 16, 14, 5, 1, 12, 2, 8, 15, 6, 13, 10, 3, 4, 0]),
    ],
)
def test_permutations(key: int, image: list[int]) -> None:
    found = permute(span(len(image)), len(image), key)
    assert found.dtype == np.int64
    assert found.tolist() == image


def test_a_permutation_of_very_many() -> None:
    found = permute(np.array([0, 1, 10**12], np.int64), 10**13, 9)
    assert found.tolist() == [1000724461140, 143788785478, 8553443273275]
    assert permute(span(0), 5, 1).tolist() == permute(span(0), 1, 1).tolist() == []


def test_draws() -> None:
    found = draw(span(12), np.full(12, 5), 3)
    assert found.dtype == np.int64
    assert found.tolist() == [1, 0, 4, 0, 4, 2, 2, 2, 2, 2, 3, 0]


def test_two_epochs_of_several_sets() -> None:
    items, epoch_passes = Plan(SIZES, WEIGHTS, SEED).items(span(40))
    assert items.tolist() == [
        *(7, 9, 8, 15, 4, 8, 9, 5, 10, 7, 3, 6, 2, 0, 10, 11, 16, 1, 14, 11),
        *(6, 12, 9, 10, 11, 7, 4, 3, 5, 8, 17, 8, 2, 11, 0, 7, 10, 9, 13, 1),
    ]
    assert epoch_passes.tolist() == [
        *(1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0),
        *(1, 0, 2, 2, 3, 2, 1, 1, 1, 2, 0, 3, 1, 2, 1, 3, 3, 3, 0, 1),
    ]


def test_two_epochs_of_several_sets_in_blocks_and_windows() -> None:
    items, epoch_passes = Plan(SIZES, WEIGHTS, SEED, 8, BLOCKS).items(span(40))
    assert items.tolist() == [
        *(5, 1, 0, 6, 3, 4, 2, 7, 8, 9, 9, 7, 10, 11, 10, 8, 11, 15, 16, 14),
        *(9, 9, 8, 11, 7, 12, 13, 10, 17, 10, 7, 11, 5, 6, 4, 3, 1, 2, 8, 0),
    ]
    assert epoch_passes.tolist() == [
        *(0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0),
        *(2, 3, 2, 2, 2, 0, 0, 2, 0, 3, 3, 3, 1, 1, 1, 1, 1, 1, 3, 1),
    ]


def test_epochs_that_end_where_a_block_ends() -> None:
    """A block of which nothing belongs to the epoch is none of those that are permuted."""
    items, epoch_passes = Plan((8, 6), (0.5, 1.0), SEED, 4, np.array([0, 2, 4, 6, 8, 11], np.int64)).items(span(20))
    assert items.tolist() == [2, 3, 11, 12, 9, 8, 10, 13, 4, 5, 9, 1, 8, 0, 12, 10, 13, 11, 6, 7]
    assert epoch_passes.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 0, 0]


def test_the_slice_of_a_rank_and_the_steps_of_a_run() -> None:
    plan = Plan(SIZES, WEIGHTS, SEED)
    items, epoch_passes = plan.step(2, 6, 1, 2)
    assert (items.tolist(), epoch_passes.tolist()) == ([11, 16, 1], [1, 0, 0])
    assert plan.shares == (7, 10, 0, 3)
    assert [steps(plan, 6, epochs) for epochs in (0.3, 0.31, 1, 1.5)] == [1, 2, 4, 5]


def test_two_layouts_are_kept_and_no_more() -> None:
    """For a step that reaches over the border of two epochs; a plan does not grow with the epochs."""
    plan = Plan(SIZES, WEIGHTS, SEED, 8, BLOCKS)
    plan.items(span(100))
    assert plan._layout.cache_info().currsize == 2  # type: ignore[attr-defined]
    assert "blocks" not in repr(plan)
    assert {plan, Plan(SIZES, WEIGHTS, SEED, 8, BLOCKS.copy())} == {plan}


def test_a_block_that_reaches_over_two_sets_is_none() -> None:
    with pytest.raises(AssertionError, match="one set"):
        Plan((3, 3), (1.0, 1.0), 0, 2, np.array([0, 2, 4], np.int64))
    assert Plan((3, 0, 3), (1.0, 1.0, 1.0), 0, 2, np.array([0, 3], np.int64)).epoch_length == 6
