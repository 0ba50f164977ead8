"""Word vectors from the files that GloVe, word2vec and fastText write."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from laconvnet.pipeline.data.text import PAD, UNKNOWN, Vocabulary
from laconvnet.pipeline.data.vectors import read_vectors, vectors_of
from laconvnet.pipeline.errors import ConfigError
from tests.samples import SAMPLES, needs

GLOVE = SAMPLES / "glove"
real = needs(GLOVE)


def vector_file(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


VOCABULARY = Vocabulary(("the", "man", "zyzzyx", "of"))


def load(path: Path, vocabulary: Vocabulary, seed: int = 0) -> tuple[NDArray[np.float32], int]:
    """The vectors of a vocabulary from a file, and how many of its words the file knows."""
    found = read_vectors(path, vocabulary.words)
    return vectors_of(vocabulary, found, seed), len(found)


@real
@pytest.mark.parametrize(("width", "plain"), [(100, False), (300, False), (300, True)])
def test_glove_as_it_is_distributed(tmp_path: Path, width: int, plain: bool) -> None:
    path = GLOVE / f"glove.6B.{width}d.sample.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    expected = {line.split(" ")[0]: np.array(line.split(" ")[1:], np.float32) for line in lines}
    if plain:
        path = vector_file(tmp_path / "glove.txt", lines)
    vectors, found = load(path, VOCABULARY)
    assert vectors.shape == (6, width)
    assert vectors.dtype == np.float32
    assert "zyzzyx" not in expected
    assert found == sum(word in expected for word in VOCABULARY.words)
    assert not vectors[PAD].any()
    for number, word in enumerate(VOCABULARY.words, 2):
        if word in expected:
            np.testing.assert_array_equal(vectors[number], expected[word])


def test_words_without_a_vector_get_one_of_the_same_spread(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [f"w{number} " + " ".join(f"{value:.4f}" for value in draw.normal(0, 0.3, 50)) for number in range(40)]
    path = vector_file(tmp_path / "v.txt", rows)
    vocabulary = Vocabulary(tuple(f"w{number}" for number in range(20)) + tuple(f"x{number}" for number in range(40)))
    vectors, found = load(path, vocabulary, seed=1)
    assert found == 20
    assert vectors[22:].std() == pytest.approx(0.3, rel=0.05)
    assert vectors[UNKNOWN].std() > 0.1
    assert len(np.unique(vectors[22:, 0])) == 40
    np.testing.assert_array_equal(load(path, vocabulary, seed=1)[0], vectors)
    other, _ = load(path, vocabulary, seed=2)
    np.testing.assert_array_equal(other[2:22], vectors[2:22])
    assert not np.array_equal(other[22:], vectors[22:])


def test_entries_with_blanks_are_passed_over(tmp_path: Path) -> None:
    """GloVe 840B has such: `. . .` and `at name@domain.com` are one word each."""
    lines = ["the 1 2 3", ". . . 4 5 6", "at name@domain.com 7 8 9", "7 1 1 1", "of 10 11 12"]
    vectors, found = load(vector_file(tmp_path / "v.txt", lines), VOCABULARY)
    assert found == 2
    assert vectors[[2, 5]].tolist() == [[1, 2, 3], [10, 11, 12]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["the 1 2 3", "of 1 2"], "line 2: 2 values, expected 3"),
        (["the 1 2 3", "man 1 2 3 4"], "line 2: 4 values, expected 3"),
        (["the 1 2 3", "of 1 2 3", ""], "line 3: 0 values, expected 3"),
        (["the", "of"], "line 1: 0 values, expected a word and its vector"),
        (["the 1 two 3"], "could not convert"),
        (["the 1 nan 3"], "not finite"),
        (["the 1 2 inf"], "not finite"),
        (["elsewhere 1 2 3", "nowhere 1 2 3"], "knows none of the 4 words"),
        (["400000 3", "the 1 2 3"], "line 1: says 400000 words, 1 follow"),
        (["2 3", "the 1 2 3 4", "of 1 2 3"], "line 2: 4 values, expected 3"),
        (["3 4", "the 1 2 3"], "line 2: 3 values, expected 1"),
        (["the 1 2 3", "of 1 2 " + "3" * 2**16], "line 2: more than 65536 characters"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    path = vector_file(tmp_path / "v.txt", lines)
    with pytest.raises(ConfigError) as caught:
        load(path, VOCABULARY)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt: no such file; expected GloVe.*; data\.vectors null learns"):
        load(tmp_path / "none.txt", VOCABULARY)
    with pytest.raises(ConfigError, match=r"no such file"):
        load(tmp_path, VOCABULARY)


def _gzipped() -> bytes:
    draw = np.random.default_rng(0)
    rows = [f"w{number} " + " ".join(f"{value:.5f}" for value in draw.normal(size=20)) for number in range(300)]
    return gzip.compress("\n".join(["the " + "1 " * 19 + "1", *rows]).encode())


@pytest.mark.parametrize("fault", ["cut", "flipped", "garbled", "not gzip", "empty"])
def test_a_damaged_archive_is_one_line_of_error(tmp_path: Path, fault: str) -> None:
    whole = _gzipped()
    flipped = bytearray(whole)
    for place in range(len(whole) // 2, len(whole) // 2 + 40):
        flipped[place] ^= 0xFF
    data = {
        "cut": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "garbled": whole[:10] + b"\xff" * 40,  # behind the header, what no deflate block begins with
        "not gzip": b"the 1 2 3\n",
        "empty": b"",
    }[fault]
    path = tmp_path / "v.txt.gz"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(path, VOCABULARY)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b"the 1 2 3\n\xff\xfe\x00 1 2 3\n")
    with pytest.raises(ConfigError, match=r"cannot be read as GloVe text.*is the file whole"):
        load(path, VOCABULARY)


VALUES = [[0.5, 1, 2], [3, 4, 5.25]]


@pytest.mark.parametrize(
    "text",
    [
        "the 0.5 1 2\nof 3 4 5.25\n",
        "2 3\nthe 0.5 1 2\nof 3 4 5.25\n",  # word2vec's header
        "2 3\nthe 0.5 1 2 \nof 3 4 5.25 \n",  # as fastText ends its lines
        "2 3\r\nthe 0.5 1 2\r\nof 3 4 5.25\r\n",
        "the\t0.5\t1\t2\nof\t3\t4\t5.25\n",
        "the\t0.5 1 2\nof\t3 4 5.25\n",
        "the  0.5 1  2\nof 3 4 5.25",
        "\ufeffthe 0.5 1 2\nof 3 4 5.25\n",
        "the 0.5 1 2\n\u2028 1 1 1\n\x85 1 1 1\nof 3 4 5.25\n",  # GloVe has such words; they end no line
        "2 3\n7 1 1 1\nthe 0.5 1 2\nof 3 4 5.25\n",  # more than it says: some tools count so
    ],
)
def test_each_way_to_write_vectors_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(text.encode())
    vectors, found = load(path, Vocabulary(("the", "of", "zyzzyx")))
    assert found == 2
    assert vectors[2:4].tolist() == VALUES


def test_a_first_word_that_is_a_number_is_no_header(tmp_path: Path) -> None:
    path = vector_file(tmp_path / "v.txt", ["7 4", "the 2", "of 3"])
    vectors, found = load(path, Vocabulary(("the", "7")))
    assert (found, vectors[2:4].tolist()) == (2, [[2.0], [4.0]])
