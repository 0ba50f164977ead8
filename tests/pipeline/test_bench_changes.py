"""What counts as a change between two files of rows, and the page of them."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest

from laconvnet.kernels.bench import spread
from laconvnet.pipeline.bench.changes import by_id, changes, notch, regressions
from laconvnet.pipeline.bench.page import anchor, page


def row(name: str, median: float | None, spread: float | None = 1.0, rounds: int | None = 4, **more: Any) -> Any:
    measured = {"median": median, "spread": spread, "rounds": rounds}
    return {"bench": "infer", "name": name, "unit": "ms", **measured, **more}


def test_the_notch_of_a_median() -> None:
    assert notch(row("a", 10)) == pytest.approx((10 - 0.785, 10 + 0.785))
    before = {"bench": "infer", "name": "a", "median": 10, "spread": 1}
    assert notch(before) == pytest.approx((10 - 1.57 / math.sqrt(3), 10 + 1.57 / math.sqrt(3)))
    assert notch(row("a", 10, 0.0, 1)) is None
    assert notch(row("a", None, None, None)) is None


def test_chance_alone_seldom_changes_a_row() -> None:
    draw = random.Random(3)

    def measured() -> dict[str, Any]:
        values = [draw.gauss(10, 1) for _ in range(15)]
        measurement: dict[str, Any] = row("a", statistics.median(values), spread(values), 15)
        return measurement

    verdicts = [changes([measured()], [measured()])[0]["change"] for _ in range(1000)]
    assert 1 <= 1000 - verdicts.count("no") <= 80


def test_rows_are_met_by_id_and_the_last_counts() -> None:
    old = [row("same", 10, ratio=2.0), row("slower", 10), row("faster", 10), row("once", 10, 0.0, 1), row("gone", 1)]
    new = [
        row("new", 1),
        row("same", 99),
        row("same", 10.5, ratio=3.0),
        row("slower", 13),
        row("faster", 7),
        row("once", 20),
    ]
    found = {one["id"]: one for one in changes(old, new)}
    assert {name.split("/")[-1]: one["change"] for name, one in found.items()} == {
        "same": "no",
        "slower": "worse",
        "faster": "better",
        "once": None,
        "gone": "only old",
        "new": "only new",
    }
    same = found["infer/same"]
    assert (same["old"], same["new"], same["ratio"]) == (10, 10.5, pytest.approx(1.05))
    assert (same["old_to_baseline"], same["new_to_baseline"]) == (2, 3)
    assert (found["infer/gone"]["new"], found["infer/new"]["old"]) == (None, None)
    assert [one["id"] for one in regressions(found.values(), 29)] == ["infer/slower"]
    assert not regressions(found.values(), 31)


def test_from_nothing_to_something_is_worse_than_any_per_cent() -> None:
    (found,) = changes([row("exact", 0, 0.0)], [row("exact", 3, 0.0)])
    assert (found["change"], found["ratio"]) == ("worse", None)
    assert regressions([found], 1000)


def test_the_page_has_an_anchor_a_row_and_tells_the_runs() -> None:
    output: dict[str, Any] = {
        "date": "2026-03-01T10:00:00+00:00",
        "command": "laconvnet bench infer",
        "commit": "a" * 40,
        "dirty": True,
    }
    output |= {"versions": {"torch": "2.0", "laconvnet": "1"}, "load": 0.5, "device": "P, 2 threads"}
    kept = row("laconv", 1.23456, q1=1.0, q3=2.0, ratio=3.0, baseline="unfold", note="a|b", **output)
    files = {"2026-03-01-m": [row("laconv", 9, **output), kept], "2026-02-01-m": [row("laconv", 1000.0)]}
    drawn = page(files)
    target = anchor("2026-03-01-m", next(iter(by_id([kept]))))
    assert target == "2026-03-01-m/infer/laconv/cpu2"
    (line,) = [line for line in drawn.splitlines() if f'<a id="{target}"></a>' in line]
    cells = [cell.strip() for cell in line.replace("\\|", "!").strip("|").split("|")]
    assert cells[0].endswith("infer/laconv/cpu2")
    assert cells[1:] == ["1.235 ms", "1 to 2", "4", "unfold", "3", "a!b"]
    assert drawn.index("## 2026-03-01-m") < drawn.index("## 2026-02-01-m")
    (run,) = [line for line in drawn.splitlines() if line.startswith("* `laconvnet bench infer`")]
    for fact in (output["date"], "aaaaaaaaaaaa, with changes", "torch 2.0", "laconvnet 1", "load 0.5", "P, 2 threads"):
        assert fact in run
    assert "1,000 ms" in drawn
