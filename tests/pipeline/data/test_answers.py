"""Answers of several people: how they are compared, what one is worth, what is learned of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconvnet.pipeline.data.answers import accuracy, agreement, learned, normalised, targets, unlearned
from laconvnet.pipeline.data.text import Vocabulary
from tests.samples import SAMPLES, needs

DICTIONARY = SAMPLES / "vqa_answers" / "answer_dict.json"
ANSWERS = ("yes", "no", "2", "left", "right")
SOFT = Vocabulary((), ANSWERS, soft=True)


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("Yes", "yes"),
        ("  a Dog\n", "dog"),
        ("the\tAnchor and an anvil", "anchor and anvil"),
        ("two", "2"),
        ("None", "0"),
        ("ten of one", "10 of 1"),
        ("twenty one", "twenty 1"),
        ("dont", "don't"),
        ("DONT know", "don't know"),
        ("its", "its"),  # a word of its own
        ("shed", "shed"),
        ("oclock", "o'clock"),
        ("couldnt've couldn'tve", "couldn't've couldn't've"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("yes.", "yes"),
        ("U.S.A.", "usa"),
        ("2.5 ft.", "2.5 ft"),
        (".5", ".5"),
        ("100,978", "100978"),
        ("red/white", "red white"),
        ("red/ white", "red white"),
        ("a-b -c", "ab c"),  # one hyphen beside a blank: both vanish
        ("black, white", "black white"),
        ("1,000-2", "10002"),  # a comma between digits: every mark vanishes
        ("what?!", "what"),
        ("(none)", "0"),
        ("t-shirt", "t shirt"),
        ("the", ""),
        ("", ""),
    ],
)
def test_what_answers_are_compared_as(written: str, compared: str) -> None:
    assert normalised(written) == compared


@needs(DICTIONARY)
def test_every_answer_of_mcans_dictionary_is_as_it_is_compared() -> None:
    answers = list(json.loads(DICTIONARY.read_text())[0])
    assert len(answers) == 3129
    assert [answer for answer in answers if normalised(answer) != answer] == []


@pytest.mark.parametrize(("matches", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_what_an_answer_of_some_of_ten_is_worth(matches: int, worth: float) -> None:
    assert agreement(matches, 10) == pytest.approx(worth, abs=1e-12)


@given(st.lists(st.sampled_from(["cat", "dog", "cats", "2"]), min_size=2, max_size=12), st.sampled_from(["cat", "2"]))
def test_accuracy_is_the_mean_over_the_subsets_without_one(people: list[str], answer: str) -> None:
    subsets = [people[:skipped] + people[skipped + 1 :] for skipped in range(len(people))]
    scores = [min(Fraction(subset.count(answer), 3), Fraction(1)) for subset in subsets]
    assert accuracy(answer, people) == pytest.approx(float(sum(scores) / len(scores)), abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "people", "expected"),
    [
        ("yes", ["yes"] * 10, 1),
        ("no", ["yes"] * 10, 0),
        ("Two", ["two"] * 8 + ["2", "three"], 1),
        ("2", ["two"] * 10, 0),  # all wrote the same, so nothing is normalised
        ("Yes", ["yes"] * 10, 0),
        (" yes\n", ["yes "] * 10, 1),
        ("cat", ["a cat", "cat.", *["dog"] * 8], 0.6),
        ("t shirt", ["t-shirt", *["shirt"] * 9], 0.3),
        ("left", ["left"], 1),
        ("left", ["right"], 0),
    ],
)
def test_accuracy_by_hand(answer: str, people: list[str], expected: float) -> None:
    assert accuracy(answer, people) == pytest.approx(expected, abs=1e-12)


def test_only_answers_of_enough_questions_are_learned() -> None:
    chosen = ["yes"] * 5 + ["Two", "2", "two."] + ["no"] * 2 + ["a"] * 3
    assert learned(Counter(chosen), 3) == {"yes": 5, "2": 3, "": 3}
    assert sorted(learned(Counter(chosen), 1)) == ["", "2", "no", "yes"]


def test_soft_targets() -> None:
    people = [
        [*["yes"] * 6, *["no"] * 2, "2", "never seen"],
        [*["2"] * 3, *["unseen"] * 7],
        ["unseen"] * 10,
        [],
        ["no"],
    ]
    found = targets(people, SOFT)
    assert found.dtype == np.float32
    expected = np.zeros((5, 5))
    expected[0, :3] = 1, 0.6, 0.3
    expected[1, 2], expected[4, 1] = 0.9, 1
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_the_number_of_the_one_answer() -> None:
    found = targets([["no"], ["never seen"], [], ["yes"]], replace(SOFT, soft=False))
    assert found.dtype == np.int64
    assert found.tolist() == [1, -1, -1, 0]


def test_questions_without_a_learned_answer_are_counted() -> None:
    people = pa.array([["Yes.", "maybe"], ["maybe"] * 3, [], ["perhaps", "two"], ["perhaps"]], pa.list_(pa.string()))
    assert unlearned(people, SOFT) == 2
    assert unlearned(people, replace(SOFT, answers=("nothing",))) == 4
    assert unlearned(people[1:3], SOFT) == 1
    assert unlearned(people[2:3], SOFT) == 0


def test_a_vocabulary_says_that_its_answers_are_soft() -> None:
    assert Vocabulary.from_json(SOFT.to_json()) == SOFT
    assert not Vocabulary.from_json(json.dumps({"words": ["a"], "answers": ["b"]})).soft
