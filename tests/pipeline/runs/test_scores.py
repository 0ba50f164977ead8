"""What checkpoints are compared by, and how the comparison stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconvnet.pipeline.runs.scores import Criterion, in_short, in_words, scores_of, standing, validations
from laconvnet.pipeline.tasks import TASKS

ROW = {
    "step": 4,
    "metric": "miou",
    "split": "val",
    "score": 0.5,
    "best": 0.5,
    "best_step": 4,
    "waited": 0,
    "ends": False,
}


@pytest.mark.parametrize("task", TASKS)
def test_more_of_what_a_task_is_scored_by_is_better(task: str) -> None:
    assert TASKS[task].metrics
    assert all(Criterion(metric, "val").rises for metric in TASKS[task].metrics)
    assert all(Criterion(f"{metric}/exist", "val").rises for metric in TASKS[task].metrics)


@pytest.mark.parametrize("name", ["loss", "box", "mask", "answer", "grad_norm"])
def test_less_of_what_training_reports_is_better(name: str) -> None:
    assert not Criterion(name).rises
    assert Criterion(name).best({1: 3.0, 2: 1.0, 3: 2.0}) == 2


def test_the_best_is_the_earliest_of_equal_ones() -> None:
    assert Criterion("acc@0.5", "val").best({1: 0.2, 2: 0.7, 3: 0.7, 4: 0.1}) == 2
    assert Criterion("loss").best({1: 0.2, 2: 0.1, 3: 0.1}) == 2
    assert Criterion("loss").best({}) is None


def test_how_it_stands_is_of_what_came_until_then() -> None:
    criterion = Criterion("miou", "val")
    scores = {10: 0.1, 20: 0.3, 30: 0.3, 40: 0.2, 50: 0.9}
    found = [standing(criterion, scores, step) for step in scores]
    assert [stands and (stands.best_step, stands.best, stands.waited) for stands in found] == [
        (10, 0.1, 0),
        (20, 0.3, 0),
        (20, 0.3, 1),
        (20, 0.3, 2),
        (50, 0.9, 0),
    ]
    assert standing(criterion, scores, 45) is None


def test_a_step_that_was_validated_again_counts_once_and_what_is_no_validation_not_at_all(tmp_path: Path) -> None:
    assert validations(tmp_path) == []
    strange: list[dict[str, Any]] = [ROW | {name: "x"} for name in ("step", "score", "best", "best_step", "waited")]
    strange += [ROW | {"split": None}, ROW | {"metric": 3}, ROW | {"score": float("nan")}]
    rows: list[dict[str, Any]] = [ROW | {"step": 9}, ROW, ROW | {"score": 0.7}, ROW | {"step": 2, "split": "testA"}]
    lines = [json.dumps(row) for row in (*rows, *strange)]
    (tmp_path / "validations.jsonl").write_text("\n".join(lines) + '\n{"step": 5, "met')
    found = validations(tmp_path)
    assert [(row["step"], row["score"]) for row in found] == [(2, 0.5), (4, 0.7), (9, 0.5)]
    assert scores_of(found, Criterion("miou", "val")) == {4: 0.7, 9: 0.5}
    assert scores_of(found, Criterion("miou", "testA")) == {2: 0.5}
    assert scores_of(found, Criterion("acc@0.5", "val")) == {}


def test_a_validation_in_words() -> None:
    assert in_words(ROW) == "validated 0.5000 miou on val at step 4, the best so far"
    later = ROW | {"step": 8, "score": 0.25, "waited": 2, "ends": True}
    told = in_words(later)
    assert "0.2500 miou on val at step 8, best 0.5000 at step 4" in told
    assert told.endswith("ends here")
    assert in_short(ROW) == "0.500 at 4, best 0.500 at 4"
    assert in_short(later) == "0.250 at 8, best 0.500 at 4, ended early"
