"""What a model makes of what people write: a stated outcome for each kind of text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import laconvnet
from laconvnet.launch import cli
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.text import Vocabulary, words
from laconvnet.pipeline.inference.evaluate import _words
from laconvnet.pipeline.inference.restore import restore

# What is written, the words that are read, and those of them that a model of English does not know.
KINDS = [
    ("THE RED CIRCLE", ["the", "red", "circle"], []),
    ("the red, 'round' circle!?", ["the", "red", "round", "circle"], ["round"]),
    ("left-most red/blue", ["left", "most", "red", "blue"], ["most"]),
    ("man\u2019s  caf\u00e9\tcafe\u0301\n", ["mans", "caf\u00e9", "caf\u00e9"], ["mans", "caf\u00e9"]),
    (
        "\u0431\u0435\u043b\u044b\u0439 \u043a\u0440\u0443\u0433",
        ["\u0431\u0435\u043b\u044b\u0439", "\u043a\u0440\u0443\u0433"],
        None,
    ),
    ("\u7ea2\u8272\u7684\u5706", ["\u7ea2\u8272\u7684\u5706"], None),  # what has no blanks is one word
    ("\u0627\u0644\u062f\u0627\u0626\u0631\u0629", ["\u0627\u0644\u062f\u0627\u0626\u0631\u0629"], None),
    ("the red \U0001f534", ["the", "red", "\U0001f534"], ["\U0001f534"]),
    ("red\x00\x1b[31m circle", ["red\x00\x1b[31m", "circle"], ["red\x00\x1b[31m"]),
]


@pytest.mark.parametrize(("text", "read", "unknown"), KINDS, ids=[str(at) for at in range(len(KINDS))])
def test_each_kind_of_text_is_read_as_it_is_told(
    trained: Path, images: list[Path], text: str, read: list[str], unknown: list[str] | None
) -> None:
    model = laconvnet.load(trained)
    found = model.words(text)
    assert list(found.read) == read
    assert list(found.unknown) == (list(dict.fromkeys(read)) if unknown is None else unknown)
    answer = model(images[0], text)
    assert answer.box is not None
    assert answer.unknown == found.unknown
    assert answer.draw().size[0] >= 320  # whatever the letters


def test_of_sixty_words_the_first_ones_are_read_and_the_others_are_told(
    trained: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = laconvnet.load(trained)
    text = " ".join(["the red circle"] * 20)
    long, first = model(images[0], [text, " ".join(words(text)[: len(model.words(text).read)])])
    read = restore(trained).config.data.words
    assert len(model.words(text).read) == read
    assert len(long.unread) == 60 - read
    assert (long.box, long.confidence, first.unread) == (first.box, first.confidence, ())
    assert cli.main(["predict", str(trained), "--image", str(images[0]), "--text", text]) == 0
    told = f"not read, beyond the {read} words of this run: the red circle the"
    assert told in capsys.readouterr().err
    assert cli.main(["explain", str(trained), "--image", str(images[0]), "--text", text]) == 0
    assert told in capsys.readouterr().err


def test_a_drawing_has_a_folder_made_for_it_and_a_name_that_says_how(
    trained: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["predict", str(trained), "--image", str(images[0]), "--text", "the red circle", "--out"]
    assert cli.main([*asked, str(tmp_path / "new" / "a.png")]) == 0
    assert (tmp_path / "new" / "a.png").is_file()
    assert cli.main([*asked, str(tmp_path / "a.xyz")]) == 2
    assert "a.xyz: not a format that can be drawn; expected a name such as a.png" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "  \n", "?!", "'"])
def test_what_holds_no_word_is_refused(trained: Path, images: list[Path], text: str) -> None:
    with pytest.raises(laconvnet.ConfigError, match="holds no word; expected at least one letter or digit"):
        laconvnet.load(trained)(images[0], text)


def test_an_evaluation_tells_the_share_of_unknown_words_and_of_cut_texts(trained: Path, sets: dict[str, Path]) -> None:
    assert json.loads((trained / "seen.json").read_text())["words"] == {"unknown": 0.0, "cut": 0.0}
    ready, examples = restore(trained), Examples.open(sets["refcoco"], "expression", "train")
    texts = [words(text) for text in examples.texts(examples.rows)]
    known = Vocabulary(tuple({"red", "circle", "left"}))
    short = replace(ready.config, data=replace(ready.config.data, words=3))
    read = [word for text in texts for word in text[:3]]
    assert _words(replace(ready, vocabulary=known, config=short), examples) == {
        "unknown": sum(word not in known.words for word in read) / len(read),
        "cut": sum(len(text) > 3 for text in texts) / len(texts),
    }
