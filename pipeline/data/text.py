"""Words: splitting, and the vocabulary that travels with the checkpoint."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import split_tokens

PAD, UNKNOWN = 0, 1
_DROPPED = re.compile(r"[.,'!?\"()*#:;]")
_SPACED = re.compile(r"[-/]")
# What people write for these, typewritten or not: quotes, primes, ellipses and what has no width; dashes.
_ALSO_DROPPED = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u00b4\u2026\ufeff\u200b\u00ad"
_ALSO_SPACED = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_TYPEWRITTEN = str.maketrans(dict.fromkeys(_ALSO_DROPPED, "") | dict.fromkeys(_ALSO_SPACED, " "))
AUTHORS_RULE, RULE = 1, 2  # by which a vocabulary parts texts into words
# Texts that the authors' rule leaves nothing of, as a regular expression that Arrow's engine reads too.
EMPTY_TEXT = r"""^[\s.,'!?"()*#:;/-]*$"""


def words(text: str, rule: int = RULE) -> list[str]:
    """Lower-cased words; ``. , ' ! ? " ( ) * # : ;`` vanish, ``-`` and ``/`` part words (the authors' rule).

    So do their typographic forms by our ``rule``: "man\u2019s" is the word of "man's". An accent is part of its letter,
    however it is written (NFC).
    """
    if rule != AUTHORS_RULE and not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_TYPEWRITTEN)
    return _SPACED.sub(" ", _DROPPED.sub("", text.lower())).split()


@dataclass(frozen=True)
class Vocabulary:
    """Words and answers in the order of their numbers. Word 0 is padding, word 1 whatever is not known.

    ``soft`` answers are normalised, and several may be right to a degree: see `pipeline.data.answers`. ``rule`` is that
    of `words`: a run parts texts as it did when it began.
    """

    words: tuple[str, ...]
    answers: tuple[str, ...] = ()
    soft: bool = False
    rule: int = RULE

    def __len__(self) -> int:
        return len(self.words) + 2

    @classmethod
    def build(cls, texts: Iterable[str], answers: Iterable[str] = ()) -> Vocabulary:
        """Every word of these texts and every answer, the frequent ones first, ties by the alphabet."""
        return cls.of_counts(Counter(word for text in texts for word in words(text)), Counter(answers))

    @classmethod
    def of_counts(cls, words: Mapping[str, int], answers: Mapping[str, int]) -> Vocabulary:
        """As `build`, of words and answers that were counted."""
        return cls(_ranked(words), _ranked(answers))

    def encode(self, texts: list[str], length: int) -> NDArray[np.int64]:
        """Word numbers (B, length), cut or padded; a text without any word is refused with ConfigError."""
        tokens = np.full((len(texts), length), PAD, np.int64)
        for row, text in enumerate(texts):
            known = [self._numbers.get(word, UNKNOWN) for word in self.read(text, length)]
            if not known:
                raise ConfigError(f"expression {text!r}: holds no word; expected at least one letter or digit")
            tokens[row, : len(known)] = known
        return tokens

    def read(self, text: str, length: int) -> tuple[str, ...]:
        """The first `length` words of a text as they are numbered, known or not."""
        # Marks alone are no words, but what the authors' rule leaves of them is asked as something unknown.
        found = words(text, self.rule) or words(text, AUTHORS_RULE)
        return tuple(found[:length])

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that are not known, each once."""
        return tuple(dict.fromkeys(word for word in words(text, self.rule) if word not in self._numbers))

    def answer_number(self, answer: str | None) -> int:
        """The number of an answer; -1 for one that training never saw, which no prediction can match."""
        return -1 if answer is None else self._answers.get(answer, -1)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, 2)}

    @cached_property
    def _answers(self) -> dict[str, int]:
        return {answer: number for number, answer in enumerate(self.answers)}

    def to_json(self) -> str:
        fields = {"words": self.words, "answers": self.answers, "soft": self.soft, "rule": self.rule}
        return json.dumps(fields, ensure_ascii=False, indent=0)

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        fields = json.loads(text)
        # Vocabularies of before there were soft answers, or a second rule, do not say so.
        soft, rule = fields.get("soft", False), fields.get("rule", AUTHORS_RULE)
        return cls(tuple(fields["words"]), tuple(fields["answers"]), soft, rule)


def count_tokens(texts: Iterable[pa.Array]) -> Counter[str]:
    """How often each token, which is what stands between two blanks, occurs in arrays of texts."""
    found: Counter[str] = Counter()
    for array in texts:
        found.update(count_values(pc.list_flatten(split_tokens(array))))
    return found


def count_words(counted: Mapping[str, int], variant: Callable[[str], str] | None = None) -> Counter[str]:
    """How often each word occurs in texts whose tokens were counted; with a ``variant``, in the texts' variants, too.

    Different tokens are few, so this takes a sixth of the time that all texts would: the words of a text are those of
    its tokens. So must be those of a variant: it neither looks nor reaches across a blank.
    """
    found: Counter[str] = Counter()
    for token, count in counted.items():
        for text in (token, variant(token)) if variant else (token,):
            for word in words(text):
                found[word] += count
    return found


def count_values(array: pa.Array) -> dict[str, int]:
    """How often each value occurs in an array of strings; nulls are not counted."""
    counted = pc.value_counts(pc.drop_null(array))
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _ranked(counted: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(name for name, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0])))
