"""What the columns of a table mean, and what is missing of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.shards.errors import InputError
from laconvnet.shards.sources.table.columns import columns
from tests.messages import tells

PATH = Path("own.csv")


@pytest.mark.parametrize(
    ("header", "used"),
    [
        (["picture", "expression", "box"], {"picture": "picture", "expression": "expression", "box": "box"}),
        (["File-Name", "Text", "BBox"], {"picture": "File-Name", "expression": "Text", "box": "BBox"}),
        (
            ["image", "caption", "x", "y", "w", "h"],
            {"picture": "image", "expression": "caption", "b0": "x", "b1": "y", "b2": "w", "b3": "h"},
        ),
        (
            ["image", "caption", "height", "width", "y", "x"],
            {"picture": "image", "expression": "caption", "b0": "x", "b1": "y", "b2": "width", "b3": "height"},
        ),
        (
            ["path", "phrase", "ymax", "xmax", "ymin", "xmin"],
            {"picture": "path", "expression": "phrase", "b0": "xmin", "b1": "ymin", "b2": "xmax", "b3": "ymax"},
        ),
        (["path", "sentence", "segmentation"], {"picture": "path", "expression": "sentence", "mask": "segmentation"}),
        (["image", "question"], {"picture": "image", "question": "question"}),
    ],
)
def test_columns_are_known_by_their_names(header: list[str], used: dict[str, str]) -> None:
    found = columns(header, PATH)
    assert found.used == used
    assert found.unknown == ()
    assert bool(found.corners) == ("xmin" in header)


def test_columns_that_mean_nothing_are_told() -> None:
    """The width and height of a picture beside the corners of a box are such, for they may be of either."""
    header = ["filename", "width", "height", "class", "text", "xmin", "ymin", "xmax", "ymax", "Unnamed: 0"]
    found = columns(header, PATH)
    assert found.unknown == ("width", "height", "Unnamed: 0")
    assert found.named["category"] == "class"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (["text", "box"], ("no column picture", "found text, box", "file_name")),
        (["picture", "box"], ("no column expression or question", "found picture, box", "caption", "question")),
        (["picture", "text"], ("no box and no mask for column 'text'", "found picture, text", "x,y,w,h", "mask")),
        (["picture", "text", "x", "y", "w"], ("no box and no mask", "found picture, text, x, y, w")),
        ([], ("found no column",)),
        (["picture", "text", "caption", "box"], ("'text' and 'caption'", "both tell the expression")),
        (["picture", "text", "box", "x1", "y1", "x2", "y2"], ("'box' and 'x1, y1, x2, y2'", "all tell the box")),
        (["picture", "text", "box", "Text"], ("column 'text' is there twice",)),
    ],
)
def test_a_header_that_will_not_do_is_named(header: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        columns(header, PATH)
    assert tells(str(caught.value), "own.csv", *words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("header", "mark"), [("picture;text;box", "';'"), ("picture\ttext", r"'\t'"), ("a,b", "','")])
def test_a_header_with_other_marks_is_told(header: str, mark: str) -> None:
    with pytest.raises(InputError) as caught:
        columns([header], PATH)
    assert tells(str(caught.value), "no column picture", f"found {header}, with {mark} between names")
    with pytest.raises(InputError) as caught:
        columns(["text", "a;b"], PATH)
    assert "between names" not in str(caught.value)


def test_answers_are_hidden_where_no_column_tells_them() -> None:
    assert not columns(["image", "question"], PATH).has_answers
    assert columns(["image", "question", "answer"], PATH).has_answers
    assert columns(["image", "question", "answers"], PATH).has_answers
