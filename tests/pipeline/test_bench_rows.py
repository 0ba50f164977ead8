"""What a row says of the rounds behind it."""

from __future__ import annotations

import random

import pytest

from laconvnet.pipeline.bench.rows import interval, rows_of
from laconvnet.pipeline.bench.training import loop_rows


@pytest.mark.parametrize(("number", "ranks"), [(1, (1, 1)), (5, (1, 5)), (9, (1, 9)), (25, (7, 19)), (100, (40, 61))])
def test_the_interval_of_a_median_is_of_these_ranks(number: int, ranks: tuple[int, int]) -> None:
    values = random.Random(number).sample(range(1, number + 1), number)
    assert interval(values) == ranks


def test_the_interval_holds_the_median_in_95_of_100_cases() -> None:
    draw = random.Random(7)
    held = 0
    for _ in range(1000):
        low, high = interval([draw.expovariate(1.0) for _ in range(40)])
        held += low <= 0.6931 <= high
    assert 940 <= held <= 985


def test_a_row_tells_what_comes_on_top_round_by_round() -> None:
    plain, more = rows_of({"plain": [1, 2, 4, 8], "more": [1.1, 2.4, 4.0, 9.6]}, "plain", "ms")
    assert (plain["over_percent"], plain["over_low"], plain["over_high"]) == (0, 0, 0)
    assert more["over_percent"] == pytest.approx(15)
    assert (more["over_low"], more["over_high"]) == pytest.approx((0, 20))
    assert more["ratio"] == pytest.approx(3 / 3.2)


def test_steps_that_report_count_as_often_as_they_come() -> None:
    """Four plain steps 1 % slower, a fifth 11 %: 3 % in all, however slow the machine is at each."""
    lines = []
    for step in range(25):
        bare = 0.1 * (1 + step % 7)
        slower = 1.11 if step % 5 == 4 else 1.01
        lines.append({"step": step, "bare": bare / 1.05, "averaged": bare, "loop": bare * slower})
    rows = {row["name"]: row for row in loop_rows(lines, 5)}
    assert rows["loop"]["over_percent"] == pytest.approx(3)
    assert (rows["loop"]["over_low"], rows["loop"]["over_high"]) == pytest.approx((3, 3))
    assert rows["bare"]["over_percent"] == pytest.approx(100 / 1.05 - 100)
    assert {row["rounds"] for row in rows.values()} == {20}  # those up to the first report warm up
    assert rows["loop"]["ratio"] == pytest.approx(rows["bare, with averages"]["median"] / rows["loop"]["median"])
