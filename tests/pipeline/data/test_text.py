"""Words: the authors' rule, a vocabulary whose numbers never move, vectors from GloVe's own files."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconvnet.pipeline.data.examples import Examples, Kind
from laconvnet.pipeline.data.flip import flip_words
from laconvnet.pipeline.data.text import (
    AUTHORS_RULE,
    EMPTY_TEXT,
    PAD,
    UNKNOWN,
    Vocabulary,
    count_tokens,
    count_values,
    count_words,
    words,
)
from laconvnet.pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The man in RED", ["the", "man", "in", "red"]),
        ("Man's, hat!", ["mans", "hat"]),
        ('a "b" (c) *d* #e: f; g? h.', ["a", "b", "c", "d", "e", "f", "g", "h"]),
        ("left-most and/or top", ["left", "most", "and", "or", "top"]),
        ("t-shirt -- it's / no.1", ["t", "shirt", "its", "no1"]),
        ("2nd from left, 12 o'clock", ["2nd", "from", "left", "12", "oclock"]),
        ("  two\tblanks \n here\u00a0too ", ["two", "blanks", "here", "too"]),
        ("Ünïcode CAFÉ 猫 naïve", ["ünïcode", "café", "猫", "naïve"]),
        ("[kept] & <kept> $5 50% a_b", ["[kept]", "&", "<kept>", "$5", "50%", "a_b"]),
        (".,'!?\"()*#:;", []),
        ("- / -", []),
        ("", []),
    ],
)
def test_the_authors_rule(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_words_of_words_are_the_same_words(text: str) -> None:
    found = words(text)
    assert all(found)
    assert not set(".,'!?\"()*#:;-/ ") & set("".join(found))
    again = words(" ".join(found))
    assert again == [word.lower() for word in found]  # lower() itself is not always idempotent


def test_numbers_go_by_frequency_then_alphabet() -> None:
    vocabulary = Vocabulary.build(["red cat", "a red dog", "the red cat", "Zebra"], ["no", "yes", "yes", "maybe"])
    assert vocabulary.words == ("red", "cat", "a", "dog", "the", "zebra")
    assert vocabulary.answers == ("yes", "maybe", "no")
    assert len(vocabulary) == 8
    assert [vocabulary.answer_number(answer) for answer in ("yes", "no", "never", None)] == [0, 2, -1, -1]


def test_numbers_do_not_depend_on_the_order_of_the_texts() -> None:
    texts = [f"{left} {right}" for left in "abcde" for right in "bcd"]
    shuffled = random.Random(3).sample(texts, len(texts))
    assert Vocabulary.build(texts, texts) == Vocabulary.build(shuffled, shuffled)


_SPOKEN = st.one_of(st.text(max_size=30), st.from_regex(r"((left|Right|TOP-left|o'clock|\s|İΣ|-)[ .,]?){0,8}"))


@settings(max_examples=300, deadline=None)
@given(st.lists(_SPOKEN, max_size=8), st.integers(1, 4), st.booleans())
def test_words_of_arrays_are_those_of_their_texts(texts: list[str], cut: int, mirrored: bool) -> None:
    """By the rule itself, text by text: blanks of every kind, letters whose case follows from their neighbours."""
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    variants = [variant for text in texts for variant in ((text, flip_words(text)) if mirrored else (text,))]
    wanted = Counter(word for text in variants for word in words(text))
    arrays = [pa.array(texts[at : at + cut], pa.string()) for at in range(0, len(texts), cut)]
    assert count_words(count_tokens(arrays), flip_words if mirrored else None) == wanted
    assert Vocabulary.of_counts(wanted, {}) == Vocabulary.build(variants)


def test_values_are_counted_but_for_nulls() -> None:
    assert count_values(pa.array(["a", None, "b", "a"])) == {"a": 2, "b": 1}
    assert count_values(pa.array([None], pa.string())) == {}


def test_texts_are_cut_and_padded() -> None:
    vocabulary = Vocabulary.build(["red cat red cat red dog"])
    tokens = vocabulary.encode(["the cat", "Red! dog-cat", "red red red cat dog"], 4)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[UNKNOWN, 3, PAD, PAD], [2, 4, 3, PAD], [2, 2, 2, 3]]
    assert (PAD, UNKNOWN) == (0, 1)


@pytest.mark.parametrize("text", ["", "  ", "?!", "- / ."])
def test_a_text_without_words_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Vocabulary.build(["red cat"]).encode(["red", text], 4)
    assert repr(text) in str(caught.value)
    assert "letter or digit" in str(caught.value)


@pytest.mark.parametrize(("source", "kind"), [("refcoco", "expression"), ("clevr", "question")])
def test_the_training_split_alone_makes_the_vocabulary(sets: dict[str, Path], source: str, kind: Kind) -> None:
    from laconvnet.pipeline.training.start import _vocabulary

    training = Examples.open(sets[source], kind, "train")
    vocabulary = _vocabulary(training, Vocabulary(()))
    spoken = {word for text in training.texts(training.rows) for word in words(text)}
    assert set(vocabulary.words) == spoken
    answers = training.answers(training.rows)
    assert set(vocabulary.answers) == (set(answers) if kind == "question" else set())
    tokens = vocabulary.encode(training.texts(training.rows), 30)
    assert UNKNOWN not in tokens


def test_a_word_of_a_test_split_alone_is_unknown(sets: dict[str, Path]) -> None:
    from laconvnet.pipeline.training.start import _vocabulary

    training = Examples.open(sets["visual_genome"], "expression", "train")
    few = Examples(training.manifest, training.kind, training.split, training.rows[:3])
    vocabulary = _vocabulary(few, Vocabulary(()))
    rest = {word for text in training.texts(training.rows[3:]) for word in words(text)} - set(vocabulary.words)
    assert rest
    assert (vocabulary.encode(sorted(rest), 1) == UNKNOWN).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), max_size=8, unique=True), st.lists(st.text(max_size=6), unique=True))
def test_json_brings_everything_back(some: list[str], answers: list[str]) -> None:
    vocabulary = Vocabulary(tuple(some), tuple(answers))
    again = Vocabulary.from_json(vocabulary.to_json())
    assert again == vocabulary
    assert (again.words, again.answers) == (tuple(some), tuple(answers))
    assert [again.answer_number(answer) for answer in answers] == list(range(len(answers)))


@pytest.mark.parametrize("text", ["", "?", " ... ", "-/-", "(*#)", '"!"', "a", "é", "7", "&", "red?", "- x"])
def test_what_counts_as_an_empty_text_is_what_has_no_words(text: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    (found,) = pc.match_substring_regex(pa.array([text]), EMPTY_TEXT).to_pylist()
    assert found == (not words(text))


# --- Typographic marks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the man\u2019s \u201cred\u201d hat\u2026", ["the", "mans", "red", "hat"]),
        ("left\u2013hand side\u2014here", ["left", "hand", "side", "here"]),
        ("cafe\u0301", ["caf\u00e9"]),  # a letter and an accent, or both in one
        ("caf\u00e9", ["caf\u00e9"]),
        ("\ufeffred\u200b hat", ["red", "hat"]),
        ("soft\u00adener", ["softener"]),
    ],
)
def test_typographic_marks_are_those_of_a_typewriter(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert [word for token in text.split(" ") for word in words(token)] == expected  # as texts are counted
    before = words(text, AUTHORS_RULE)
    assert (before == expected) is (text == "caf\u00e9")


def test_a_vocabulary_of_before_goes_on_by_the_rule_it_began_with() -> None:
    old = Vocabulary.from_json('{"words": ["man\u2019s", "mans"], "answers": [], "soft": false}')
    assert old.encode(["the man\u2019s"], 2).tolist() == [[UNKNOWN, 2]]
    assert Vocabulary.from_json(old.to_json()) == old
    new = Vocabulary(old.words)
    assert new.encode(["the man\u2019s"], 2).tolist() == [[UNKNOWN, 3]]
    assert Vocabulary.from_json(new.to_json()) == new


def test_marks_alone_are_asked_as_something_unknown() -> None:
    """They are examples, as they always were: a run of before must find the same ones."""
    assert words("\u2019") == []
    assert Vocabulary(("red",)).encode(["\u2019"], 2).tolist() == [[UNKNOWN, PAD]]
    with pytest.raises(ConfigError, match="holds no word"):
        Vocabulary(("red",)).encode(["'"], 2)
