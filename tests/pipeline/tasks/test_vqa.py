"""Questions: the loss over the answers of training, accuracy over all and over each family."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.tasks.base import Sums, add
from laconvnet.pipeline.tasks.vqa import Vqa

ANSWERS = ("yes", "no", "2")


def task(answers: tuple[str, ...] = ANSWERS, soft: bool = False) -> Vqa:
    return Vqa(ModelConfig(task="vqa"), Vocabulary((), answers, soft))


def batch_of(answers: list[int] | list[list[float]]) -> Batch:
    nothing = torch.empty(0)
    sides = np.full(len(answers), 64)
    letterbox = Letterbox.fit(sides, sides, 64)
    return Batch(np.arange(len(answers)), nothing, nothing, nothing, torch.tensor(answers), letterbox)


class FakeExamples:
    """As much of the examples as scoring needs."""

    def __init__(
        self, truths: list[str | None], families: list[str | None], people: list[list[str]] | None = None
    ) -> None:
        self._truths, self._families = truths, families
        self._people = people or [[] for _ in truths]

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        return [f"q{row}" for row in rows]

    def human_answers(self, rows: NDArray[np.int64]) -> list[list[str]]:
        return [self._people[row] for row in rows]

    def answers(self, rows: NDArray[np.int64]) -> list[str | None]:
        return [self._truths[row] for row in rows]

    def families(self, rows: NDArray[np.int64]) -> list[str | None]:
        return [self._families[row] for row in rows]


def score(
    predicted: list[str], truths: list[str | None], families: list[str | None], people: list[list[str]] | None = None
) -> tuple[Sums, list[dict[str, Any]]]:
    answers: list[dict[str, Any]] = [{"answer": one, "score": 1.0} for one in predicted]
    examples = FakeExamples(truths, families, people)
    return task().score(answers, examples, np.arange(len(predicted))), answers  # type: ignore[arg-type]


def test_the_loss_is_the_mean_negative_log_likelihood() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [-2 + math.log(math.exp(1) + math.exp(2) + 1), math.log(3)]
    terms = task().loss(logits, batch_of([1, 2]))
    assert set(terms) == {"answer"}
    assert terms["answer"].item() == pytest.approx(sum(expected) / 2)


def test_the_loss_of_soft_answers_is_the_binary_cross_entropy_of_each() -> None:
    """Summed over the answers, the mean of the questions; the last has no learned answer."""
    logits = torch.tensor([[1.0, -2.0, 0.5], [30.0, 0.0, -1.0], [-3.0, 0.0, 2.0]], requires_grad=True)
    wanted = torch.tensor([[0.3, 1.0, 0.0], [0.9, 0.0, 0.6], [0.0, 0.0, 0.0]])
    right = torch.sigmoid(logits.detach().double())
    expected = -(wanted * right.log() + (1 - wanted) * (1 - right).log()).sum() / 3
    terms = task(soft=True).loss(logits, batch_of(wanted.tolist()))
    assert set(terms) == {"answer"}
    assert terms["answer"].item() == pytest.approx(expected.item(), rel=1e-5)
    terms["answer"].backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (right.float() - wanted) / 3)


def test_a_soft_answer_has_its_own_probability() -> None:
    logits = torch.tensor([[0.0, 3.0, 0.0], [-4.0, -9.0, -9.0]])
    answers = task(soft=True).answer(logits, batch_of([0, 0]))
    assert [answer["answer"] for answer in answers] == ["no", "yes"]
    assert [answer["score"] for answer in answers] == [
        pytest.approx(1 / (1 + math.exp(-value)), abs=1e-4) for value in (3, -4)
    ]


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
    assert [answer["question_id"] for answer in answers] == ["q0", "q1", "q2", "q3", "q4"]
    assert not any("accuracy" in answer for answer in answers)


def test_what_several_people_answered_is_scored_by_their_agreement() -> None:
    people = [
        [*["yes"] * 9, "no"],
        ["red", "Red.", "pink", "pink", "rose", "rose", "rose", "blue", "a rose", "dark red"],
        ["two"] * 10,  # all agree: compared as it was written
        [*["2"] * 9, "three"],
        [],
    ]
    truths: list[str | None] = ["yes", "rose", "two", "2", "left"]
    families: list[str | None] = ["yes/no", "other", "number", "number", None]
    sums, answers = score(["no", "red", "2", "two", "left"], truths, families, people)
    assert [answer.get("accuracy") for answer in answers] == [0.3, 0.6, 0.0, 1.0, None]
    assert [answer["correct"] for answer in answers] == [False, True, False, True, True]
    assert {name: pair.tolist() for name, pair in sums.items()} == {
        "accuracy": pytest.approx([2.9, 5]),
        "accuracy/yes/no": pytest.approx([0.3, 1]),
        "accuracy/other": pytest.approx([0.6, 1]),
        "accuracy/number": pytest.approx([1, 2]),
    }


def test_hidden_answers_are_not_counted_as_wrong() -> None:
    sums, answers = score(["yes", "no"], [None, "no"], ["exist", "exist"])
    assert {name: pair.tolist() for name, pair in sums.items()} == {"accuracy": [1, 1], "accuracy/exist": [1, 1]}
    assert "correct" not in answers[0]
    assert answers[0]["question_id"] == "q0", "the server that knows the answer asks for it"
    assert score(["yes"], [None], ["exist"])[0] == {}


def test_sums_of_batches_add_up_to_those_of_the_whole() -> None:
    draw = np.random.default_rng(0)
    predicted, truths = (draw.choice(ANSWERS, 40).tolist() for _ in range(2))
    families = draw.choice(["exist", "count", "query"], 40).tolist()
    whole, _ = score(predicted, truths, families)
    total: Sums = {}
    for first in (0, 7, 14, 39):
        last = {0: 7, 7: 14, 14: 39, 39: 40}[first]
        add(total, score(predicted[first:last], truths[first:last], families[first:last])[0])
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
