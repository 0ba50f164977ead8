"""Answers of several people to one question: how they are compared, and what they teach (VQAv2's rules).

The rules are those of visualqa.org/evaluation.html, and where it is silent those of the data set's own evaluation code
(GT-Vision-Lab/VQA, vqaEval.py as of March 2021): answers are compared as `normalised` leaves them, but as they were
written where all people wrote the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laconvnet.pipeline.data.text import Vocabulary

# All but apostrophe, colon and period: "girl's" is no plural, 2:50 is a time.
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset(("a", "an", "the"))
_DIGITS = "none zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(max(position - 1, 0)) for position, word in enumerate(_DIGITS.split())}
# What gets its apostrophe back. Not here are those that lack it to be another word (she'd, we'll, we're) and those that
# begin with I: the evaluation looks for these in capitals, after it has made all letters small.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_APOSTROPHES = {
    whole[:position] + whole[position + 1 :]: whole
    for whole in _CONTRACTIONS.split()
    for position, letter in enumerate(whole)
    if letter == "'"
}


@lru_cache(1 << 16)
def normalised(answer: str) -> str:
    """The answer in small letters, without articles, number words as digits, missing apostrophes back in contractions.

    A mark of punctuation becomes a blank; it vanishes where one of its kind stands beside a blank, and so do all in an
    answer with a comma between digits. A period stays before a digit only.
    """
    text = _on_one_line(answer)
    close = _THOUSANDS.search(text) is not None
    marks = {ord(mark): "" if close or f"{mark} " in text or f" {mark}" in text else " " for mark in _MARKS}
    words = _PERIOD.sub("", text.translate(marks)).lower().split()
    counted = (_NUMBERS.get(word, word) for word in words)
    return " ".join(_APOSTROPHES.get(word, word) for word in counted if word not in _ARTICLES)


def _on_one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def agreement(matches: int, people: int) -> float:
    """What an answer that ``matches`` of so many people gave is worth: min(matches / 3, 1) among all but one of them.

    It is the mean over the person that is left out. Of ten people 1, 2, 3 and 4 or more give 0.3, 0.6, 0.9 and 1,
    which MCAN has as a table (Yu et al. 2019). One person alone is right.
    """
    if people == 1:
        return float(matches)
    return (matches * min(max(matches - 1, 0) / 3, 1) + (people - matches) * min(matches / 3, 1)) / people


def accuracy(answer: str, people: Sequence[str]) -> float:
    """VQAv2's accuracy of an answer to a question that these people answered, from 0 to 1."""
    answer, *people = map(_on_one_line, (answer, *people))
    if len(set(people)) > 1:
        answer, *people = map(normalised, (answer, *people))
    return agreement(people.count(answer), len(people))


def worth(answer: str, truth: str, people: Sequence[str]) -> float:
    """The score of an answer, from 0 to 1: `accuracy` where several people answered, else whether it is the truth."""
    return accuracy(answer, people) if people else float(answer == truth)


def learned(answers: Mapping[str, int], minimum: int) -> dict[str, int]:
    """The answers to learn, normalised, and how many questions have each: ``minimum`` or more.

    ``answers`` are the chosen ones, one a question, by how many questions have them (MCAN: 3,129 that more than 8
    questions of train and val have).
    """
    found: Counter[str] = Counter()
    for answer, count in answers.items():
        found[normalised(answer)] += count
    return {answer: count for answer, count in found.items() if count >= minimum}


def targets(by_question: Sequence[Sequence[str]], vocabulary: Vocabulary) -> NDArray[Any]:
    """The targets of training that these answers make, those of one question after another.

    Numbers (B,) int64 of the one answer each, -1 for none and for an unknown one. For a vocabulary of soft answers the
    `agreement` on every known one, (B, answers) float32; all is zero where none is known.
    """
    if not vocabulary.soft:
        return np.array([vocabulary.answer_number(*answers) if answers else -1 for answers in by_question], np.int64)
    scores = np.zeros((len(by_question), len(vocabulary.answers)), np.float32)
    for row, people in enumerate(by_question):
        for answer, matches in Counter(people).items():
            if (number := vocabulary.answer_number(answer)) >= 0:
                scores[row, number] = agreement(matches, len(people))
    return scores


def unlearned(people: pa.ListArray, vocabulary: Vocabulary) -> int:
    """How many of the questions that people answered have no known answer: they teach that nothing is right."""
    encoded = pc.list_flatten(people).dictionary_encode()
    known = np.array([vocabulary.answer_number(normalised(text)) >= 0 for text in encoded.dictionary.to_pylist()], bool)
    question_of = pc.list_parent_indices(people).to_numpy()
    return len(np.unique(question_of)) - len(np.unique(question_of[known[encoded.indices.to_numpy()]]))
