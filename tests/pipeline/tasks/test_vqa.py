"""Questions: cross entropy over the answers of training, accuracy over all and over each family."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data.examples import Examples
from pipeline.data.geometry import Letterbox
from pipeline.data.loader import Batch
from pipeline.data.text import Vocabulary
from pipeline.model import ModelConfig
from pipeline.tasks.base import Sums, add
from pipeline.tasks.vqa import Vqa

ANSWERS = ("yes", "no", "2")


def task(answers: tuple[str, ...] = ANSWERS) -> Vqa:
    return Vqa(ModelConfig(task="vqa"), 64, Vocabulary((), answers))


def batch_of(answers: list[int]) -> Batch:
    nothing = torch.empty(0)
    sides = np.full(len(answers), 64)
    letterbox = Letterbox.fit(sides, sides, 64)
    return Batch(np.arange(len(answers)), nothing, nothing, nothing, torch.tensor(answers), letterbox)


class Asked:
    """As much of the examples as scoring needs."""

    def __init__(self, truths: list[str | None], families: list[str | None]) -> None:
        self._truths, self._families = truths, families

    def answers(self, rows: NDArray[np.int64]) -> list[str | None]:
        return [self._truths[row] for row in rows]

    def families(self, rows: NDArray[np.int64]) -> list[str | None]:
        return [self._families[row] for row in rows]


def score(given: list[str], truths: list[str | None], families: list[str | None]) -> tuple[Sums, list[dict[str, Any]]]:
    answers: list[dict[str, Any]] = [{"answer": one, "score": 1.0} for one in given]
    return task().score(answers, Asked(truths, families), np.arange(len(given))), answers  # type: ignore[arg-type]


def test_the_loss_is_the_mean_negative_log_likelihood() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [-2 + math.log(math.exp(1) + math.exp(2) + 1), math.log(3)]
    terms = task().loss(logits, batch_of([1, 2]))
    assert set(terms) == {"answer"}
    assert terms["answer"].item() == pytest.approx(sum(expected) / 2)


def test_the_answer_is_the_likeliest_word_with_its_probability() -> None:
    answers = task().answer(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 9.0]], dtype=torch.bfloat16), batch_of([0, 0]))
    assert [answer["answer"] for answer in answers] == ["no", "2"]
    assert answers[0]["score"] == pytest.approx(math.exp(3) / (2 + math.exp(3)), abs=1e-4)


def test_accuracy_over_all_and_by_family() -> None:
    sums, answers = score(
        ["yes", "no", "2", "2", "yes"], ["yes", "yes", "2", "3", "yes"], ["exist", "exist", "count", "count", None]
    )
    assert {name: pair.tolist() for name, pair in sums.items()} == {
        "accuracy": [3, 5],
        "accuracy/exist": [1, 2],
        "accuracy/count": [1, 2],
    }
    assert [answer["correct"] for answer in answers] == [True, False, True, False, True]
    assert answers[3]["truth"] == "3", "an answer that training never saw is wrong, not left out"
    assert answers[3]["family"] == "count"


def test_hidden_answers_are_not_counted_as_wrong() -> None:
    sums, answers = score(["yes", "no"], [None, "no"], ["exist", "exist"])
    assert {name: pair.tolist() for name, pair in sums.items()} == {"accuracy": [1, 1], "accuracy/exist": [1, 1]}
    assert "correct" not in answers[0]
    assert score(["yes"], [None], ["exist"])[0] == {}


def test_sums_of_batches_add_up_to_those_of_the_whole() -> None:
    draw = np.random.default_rng(0)
    given, truths = (draw.choice(ANSWERS, 40).tolist() for _ in range(2))
    families = draw.choice(["exist", "count", "query"], 40).tolist()
    whole, _ = score(given, truths, families)
    total: Sums = {}
    for first in (0, 7, 14, 39):
        last = {0: 7, 7: 14, 14: 39, 39: 40}[first]
        add(total, score(given[first:last], truths[first:last], families[first:last])[0])
    assert total.keys() == whole.keys()
    assert all(total[name].tolist() == whole[name].tolist() for name in whole)
    assert sum(total[f"accuracy/{family}"][1] for family in ("exist", "count", "query")) == total["accuracy"][1] == 40


def test_a_split_with_answers_and_one_without(sets: dict[str, Path]) -> None:
    training, hidden = (Examples.open(sets["clevr"], "question", split) for split in ("train", "test"))
    truths = training.answers(training.rows)
    answers: list[dict[str, Any]] = [{"answer": truth} for truth in truths]
    sums = task().score(answers, training, training.rows)
    assert sums["accuracy"].tolist() == [len(truths)] * 2
    families = [name for name in sums if name.startswith("accuracy/")]
    assert len(families) > 2
    assert sum(sums[name][1] for name in families) == len(truths)
    assert task().score([{"answer": "yes"} for _ in hidden.rows], hidden, hidden.rows) == {}
