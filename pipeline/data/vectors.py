"""Word vectors from the text files that GloVe, word2vec and fastText write, plain or gzipped."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from laconvnet.pipeline.data.text import PAD, Vocabulary
from laconvnet.pipeline.errors import ConfigError

# A vector of 300 takes some 3,000 characters; a kilobyte of gzip can be a line of gigabytes.
_LINE_MAX = 2**16
_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True)
class _Header:
    """The first line of word2vec's and fastText's files: how many words follow, and how wide their vectors are."""

    words: int
    width: int

    @classmethod
    def of(cls, first: str, second: str) -> _Header | None:
        """The header that a file's first line is, None where it is a word and a vector of one value.

        Both are two numbers: it is a header where the line after it is as wide as it says, and not itself so narrow.
        """
        fields = first.split()
        if len(fields) != 2 or not all(field.isascii() and field.isdigit() for field in fields):
            return None
        header = cls(int(fields[0]), int(fields[1]))
        return header if header.width > 1 and len(_fields(second)) - 1 >= header.width else None


def read_vectors(path: Path, wanted: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """The vectors, (D,) each, of those wanted words that a file of a word and its vector a line knows.

    Values stand behind blanks or tabs; a header (words, width), as word2vec and fastText write it, is recognised.
    Raises ConfigError for a missing file, a line of another width, numbers that are not finite, fewer lines than the
    header says, and a file that knows no word.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; expected GloVe's text, a word and its vector a line, or .gz of it; data.vectors "
            "null learns the vectors in its place"
        )
    found: dict[str, NDArray[np.float32]] = {}
    width = 0
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as stream:
            for number, line, width in _rows(path, stream):
                word, *values = _fields(line)
                surplus = len(values) - width
                if surplus > 0 and not _is_number(values[surplus - 1]):
                    continue  # an entry with blanks in it, as GloVe 840B has (". . ."); no word of ours has any
                if surplus or not values:
                    expected = width or "a word and its vector"
                    reason = f"{len(values)} values, expected {expected}; is the file whole?"
                    raise ConfigError(f"{path}: line {number}: {reason}")
                if word in wanted:
                    found[word] = np.array(values, np.float32)
    except ConfigError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read as GloVe text ({error}); is the file whole?") from error
    if not found:
        raise ConfigError(f"{path}: knows none of the {len(wanted)} words of the vocabulary; is it a GloVe file?")
    if not all(np.isfinite(vector).all() for vector in found.values()):
        raise ConfigError(f"{path}: holds values that are not finite numbers; get the file again")
    return found


def vectors_of(vocabulary: Vocabulary, found: Mapping[str, NDArray[np.float32]], seed: int = 0) -> NDArray[np.float32]:
    """Word vectors (words, D), one for each of `len(vocabulary)` numbers, of those that were `found`, (D,) each.

    Words without one get a normal vector of the found ones' standard deviation, drawn from ``seed``; padding is zero.
    """
    known = np.stack(list(found.values()))
    vectors = np.random.default_rng(seed).normal(0, known.std(), (len(vocabulary), known.shape[1])).astype(np.float32)
    vectors[PAD] = 0
    for number, word in enumerate(vocabulary.words, 2):
        if word in found:
            vectors[number] = found[word]
    return vectors


def _rows(path: Path, stream: IO[str]) -> Iterator[tuple[int, str, int]]:
    """The lines behind a header, if there is one: each one's number in the file, the line, and the vectors' width."""
    lines = enumerate(iter(lambda: stream.readline(_LINE_MAX + 1), ""), 1)
    begin = list(islice(lines, 2))
    header = _Header.of(begin[0][1], begin[1][1]) if len(begin) == 2 else None
    width, count = header.width if header else 0, 0
    for number, line in chain(begin[1:] if header else begin, lines):
        if len(line) > _LINE_MAX:
            reason = f"more than {_LINE_MAX} characters, expected a word and its vector"
            raise ConfigError(f"{path}: line {number}: {reason}")
        width, count = width or len(_fields(line)) - 1, count + 1
        yield number, line, width
    if header and count < header.words:
        raise ConfigError(f"{path}: line 1: says {header.words} words, {count} follow; is the file whole?")


def _fields(line: str) -> list[str]:
    """A word and its values. Other blanks than these two may be part of a word, and are in GloVe's."""
    return _BLANKS.split(line.rstrip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
