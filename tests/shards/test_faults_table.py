"""Faults of rows of own tables: each is lost alone, with the table, the row and the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.shards.faulty import TRIANGLE, account, built, draw, texts
from tests.shards.tables import row, write

GOOD = row("a.jpg", "good")
PICTURES = ("a.jpg", "b.jpg")


def lost(tmp_path: Path, *rows: dict[str, Any], name: str = "own.csv") -> tuple[Any, list[dict[str, Any]]]:
    """The set of a good row and these, and its quarantine but for what says that nothing is left of a picture."""
    manifest, quarantine = built("table", write(tmp_path / name, [GOOD, *rows], *PICTURES))
    verify(manifest.folder, full=True, progress=False)
    return manifest, [one for one in quarantine if one["kind"] != "picture"]


@pytest.mark.parametrize(
    ("given", "cause", "reason"),
    [
        ({"text": " "}, "blank", "the expression is empty"),
        ({"text": None}, "blank", "the expression is empty"),
        ({"box": ["x", 2, 3, 4]}, "box", "['x', 2, 3, 4], expected four finite numbers"),
        ({"box": [1, 2, float("nan"), 4]}, "box", "expected four finite numbers"),
        ({"box": [1, 2, 3]}, "box", "[1, 2, 3], expected four finite numbers"),
        ({"box": [1, 2, -3, 4]}, "box", "[1.0, 2.0, -3.0, 4.0] (x, y, w, h) has no area"),
        ({"box": [1, 2, 3, 0]}, "box", "has no area"),
        ({"box": [0.5, 0.25, 0.5, 0.25]}, "box", "expected pixels, not shares of the picture"),
        ({"box": "("}, "box", "[], expected four finite numbers"),
        ({"box": [100, 2, 3, 4]}, "box", "lies outside the image of 64x48"),
        ({"box": None}, "box", "neither a box nor a mask"),
        ({"mask": "{"}, "field", "mask '{' is broken JSON"),
        ({"mask": {"size": [10, 10], "counts": [100]}}, "mask", "mask of size [10, 10]"),
        ({"mask": {"size": [48, 64], "counts": "52203"}}, "mask", "does not add up to 64x48"),
        ({"mask": {"size": [48], "counts": "4"}}, "mask", "key 'size' of the mask is [48]"),
        ({"mask": [[5, 5, 20, 20]]}, "polygon", "three points or more"),
        ({"mask": "gone.png"}, "no file", "gone.png"),
        ({"mask": "../gone.png"}, "path", "'../gone.png' leaves its folder"),
        ({"mask": "a.jpg"}, "mask", "is a JPEG of mode RGB, expected a PNG"),
        ({"mask": "own.csv"}, "mask", "cannot be decoded"),
        ({"mask": "m" * 300}, "no file", "File name too long"),
        ({"picture": None}, "no picture", "no picture is given"),
        ({"picture": "../b.jpg"}, "path", "'../b.jpg' leaves its folder"),
        ({"picture": "/b.jpg"}, "path", "leaves its folder; expected a path below"),
        ({"picture": "in\\b.jpg"}, "path", "leaves its folder; expected a path below"),
        ({"picture": "https://a.org/b.jpg"}, "path", "picture 'https://a.org/b.jpg' is a URL"),
        ({"split": None}, "split", "column 'split' is empty"),
        ({"image_width": 64, "image_height": None}, "field", "key 'image_height' is None"),
        ({"image_width": "wide", "image_height": 48}, "field", "key 'image_width' is 'wide'"),
    ],
)
def test_a_fault_of_a_row_takes_it_alone(tmp_path: Path, given: dict[str, Any], cause: str, reason: str) -> None:
    bad = row("b.jpg", split="train")
    bad["expression"] = given.get("text", "bad")
    given = {name: cell for name, cell in given.items() if name != "text"}
    rows = [{**GOOD, "split": "train", "mask": None, "image_width": None, "image_height": None}, bad | given]
    manifest, quarantine = built("table", write(tmp_path / "own.csv", rows, *PICTURES))
    verify(manifest.folder, full=True, progress=False)
    assert texts(manifest) == {"own-2": "good"}
    (one,) = (one for one in quarantine if one["kind"] != "picture")
    assert (one["kind"], one["id"], one["cause"]) == ("region", "own-3", cause)
    assert reason in one["reason"]
    split = "" if cause == "split" else "train"
    read, kept, losses = account(manifest, split, "expression")
    assert (read - kept, losses) == (1, {cause: 1})
    if "outside" not in reason and "mask of size" not in reason:  # which the builder finds, with the image
        assert one["file"] == str(tmp_path / "own.csv")
        assert "own.csv: row 3: " in one["reason"]


@pytest.mark.parametrize(
    ("given", "cause", "reason"),
    [
        ({"question": " "}, "blank", "the question is empty"),
        ({"answer": None}, "no answer", "no answer"),
        ({"answer": " ", "answers": "||"}, "no answer", "no answer"),
        ({"answer": None, "answers": "[1"}, "field", "answers '[1' is broken JSON"),
        ({"answer": None, "answers": "[[1]]"}, "field", "expected a list of texts"),
        ({"picture": None}, "no picture", "no picture is given"),
    ],
)
def test_a_fault_of_a_question_takes_it_alone(tmp_path: Path, given: dict[str, Any], cause: str, reason: str) -> None:
    rows = [
        {"picture": "a.jpg", "question": "Who?", "answer": "me", "answers": None} | change for change in ({}, given)
    ]
    manifest, quarantine = built("table", write(tmp_path / "own.csv", rows, *PICTURES))
    verify(manifest.folder, full=True, progress=False)
    assert texts(manifest) == {"own-2": "Who?"}
    (one,) = quarantine
    assert (one["kind"], one["id"], one["cause"]) == ("question", "own-3", cause)
    assert "own.csv: row 3: " in one["reason"]
    assert reason in one["reason"]
    assert account(manifest, "train", "question") == (2, 1, {cause: 1})


def test_a_row_with_an_expression_and_a_question_is_neither(tmp_path: Path) -> None:
    manifest, (one,) = lost(tmp_path, row("a.jpg", "both", question="Who?"))
    assert (one["kind"], one["cause"]) == ("question", "field")
    assert texts(manifest) == {"own-2": "good"}


def test_rows_of_another_shape_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"picture": "a.jpg", "text": "good", "box": [1, 2, 3, 4]}\n[1]\n')
    draw(tmp_path, "a.jpg")
    manifest, (one,) = built("table", tmp_path / "train.jsonl")
    assert (one["kind"], one["id"], one["cause"], one["key"]) == ("expression", "train-2", "row", "")
    assert tells(one["reason"], "train.jsonl: line 2: [1] is no object")
    assert account(manifest, "train", "region") == (2, 1, {"row": 1})
    assert account(manifest, "train", "box") == (1, 1, {})
    (tmp_path / "val.csv").write_text("picture,question,answer\na.jpg,Who?,me\na.jpg\n")
    manifest, (one,) = built("table", tmp_path / "val.csv")
    assert account(manifest, "val", "question") == (2, 1, {"row": 1})
    assert (one["kind"], one["id"]) == ("question", "val-3")
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "train.csv").write_text("picture,question,answer\na.jpg,Who?,me\na.jpg\n")
    (tmp_path / "both" / "val.csv").write_text("picture,question,answer\na.jpg,Who?,me\na.jpg\n")
    manifest, _ = built("table", tmp_path / "both", tmp_path, splits=["val"])
    assert set(manifest.meta["ledger"]) == {"val"}


def test_an_expression_is_lost_alone_of_a_region_that_has_others(tmp_path: Path) -> None:
    rows = [row("b.jpg", "one", region=7), row("b.jpg", None, region=7), row("b.jpg", "two", region=7)]
    manifest, (one,) = lost(tmp_path, *rows)
    assert texts(manifest) == {"own-2": "good", "own-3": "one", "own-5": "two"}
    assert (one["kind"], one["id"], one["region"], one["cause"]) == ("expression", "own-4", "7", "blank")
    assert account(manifest, "train", "region") == (2, 2, {})
    assert account(manifest, "train", "expression") == (4, 3, {"blank": 1})


def test_a_region_without_a_usable_expression_is_lost_once(tmp_path: Path) -> None:
    manifest, (one,) = lost(tmp_path, row("a.jpg", None, region=7), row("a.jpg", " ", region=7))
    assert (one["kind"], one["id"]) == ("region", "7")
    assert account(manifest, "train", "expression") == (3, 1, {"blank": 2})
    assert account(manifest, "train", "region") == (2, 1, {"blank": 1})


@pytest.mark.parametrize(
    ("changes", "cause", "reason"),
    [
        ({"box": [5, 5, 6, 6]}, "duplicate id", "region '7' has another box than in"),
        ({"mask": [[6, 6, 9, 6, 9, 9]]}, "duplicate id", "region '7' has another mask than in"),
    ],
)
def test_a_region_of_two_contents_is_lost(tmp_path: Path, changes: dict[str, Any], cause: str, reason: str) -> None:
    rows = [row("b.jpg", "one", region=7, mask=TRIANGLE), row("b.jpg", "two", region=7, mask=TRIANGLE) | changes]
    manifest, (one,) = lost(tmp_path, *rows)
    assert texts(manifest) == {"own-2": "good"}
    assert (one["kind"], one["id"], one["cause"]) == ("region", "7", cause)
    assert tells(one["reason"], reason, "row 3", "row 4")
    assert account(manifest, "train", "expression") == (3, 1, {cause: 2})
    assert account(manifest, "train", "mask") == (1, 0, {cause: 1})


def test_a_region_in_two_splits_is_lost_in_both(tmp_path: Path) -> None:
    rows = [row("b.jpg", text, region=7, split=split) for text, split in (("x", "val"), ("y", "train"), ("z", "val"))]
    manifest, quarantine = built("table", write(tmp_path / "own.csv", [GOOD | {"split": "train"}, *rows], *PICTURES))
    verify(manifest.folder, full=True, progress=False)
    assert texts(manifest) == {"own-2": "good"}
    assert account(manifest, "val", "expression") == (2, 0, {"split": 2})
    assert account(manifest, "val", "region") == (1, 0, {"split": 1})
    assert account(manifest, "train", "expression") == (2, 1, {"split": 1})
    assert account(manifest, "val", "picture") == (1, 0, {"split": 1})
    assert all(tells(one["reason"], "region '7' is in splits 'val' and 'train'") for one in quarantine)


def test_a_row_without_a_split_is_told_whatever_is_chosen(tmp_path: Path) -> None:
    rows = [row("a.jpg", text, split=split) for text, split in (("x", "val"), ("y", "train"), ("z", None))]
    path = write(tmp_path / "own.csv", rows, *PICTURES)
    manifest, (one,) = built("table", path, splits=["val"])
    assert texts(manifest) == {"own-2": "x"}
    assert (one["id"], one["cause"]) == ("own-4", "split")
    assert account(manifest, "", "expression") == (1, 0, {"split": 1})
    assert "train" not in manifest.meta["ledger"]


def test_ids_that_occur_twice(tmp_path: Path) -> None:
    rows = [
        row("b.jpg", "same", id="p"),
        row("a.jpg", "one", id="q"),
        row("b.jpg", "same", id="p"),
        row("b.jpg", "other", id="q"),
        row("b.jpg", "fine", id="r"),
    ]
    manifest, quarantine = lost(tmp_path, *rows)
    assert texts(manifest) == {"own-2": "good", "p": "same", "r": "fine"}
    assert {(one["id"], one["kind"]) for one in quarantine} == {("p", "expression"), ("q", "region")}
    assert len(quarantine) == 3
    assert account(manifest, "train", "expression") == (6, 3, {"duplicate id": 3})
    assert {one["reason"].partition("own.csv: ")[2] for one in quarantine} == {
        "row 4: its id is that of row 6 too, with other contents",
        "row 5: its id is that of row 3 too, alike",
        "row 6: its id is that of row 4 too, with other contents",
    }


def test_ids_are_a_table_s_own(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "two" / f"{split}.csv", [row("a.jpg", split, id=1)], "a.jpg")
    manifest, quarantine = built("table", tmp_path / "two")
    assert quarantine == []
    assert manifest.examples["item_id"].to_pylist() == ["1", "1"]


def test_a_picture_of_two_sizes_is_lost(tmp_path: Path) -> None:
    rows = [row("b.jpg", image_width=64, image_height=height) for height in (48, 49)]
    manifest, quarantine = built("table", write(tmp_path / "own.csv", [GOOD, *rows], *PICTURES))
    assert texts(manifest) == {"own-2": "good"}
    assert account(manifest, "train", "picture") == (2, 1, {"size": 1})
    assert tells(quarantine[0]["reason"], "row 3: the picture is of another size than in", "row 4")
    assert {one["key"] for one in quarantine} == {"table-b_jpg"}


def test_a_picture_of_another_size_than_is_told_is_lost(tmp_path: Path) -> None:
    manifest, quarantine = built(
        "table", write(tmp_path / "own.csv", [GOOD, row("b.jpg", image_width=48, image_height=64)], *PICTURES)
    )
    assert account(manifest, "train", "picture") == (2, 1, {"size": 1})
    assert tells(quarantine[0]["reason"], "for 48x64, the image is 64x48")


def test_a_line_beside_a_polygon_is_told(tmp_path: Path) -> None:
    manifest, (one,) = lost(tmp_path, row("b.jpg", "bent", mask=[*TRIANGLE, [5, 5, 40, 40]]))
    assert (one["kind"], one["cause"], one["changed"]) == ("mask", "polygon", True)
    assert manifest.meta["ledger"]["train"]["mask"]["changed"] == {"polygon": 1}
    assert texts(manifest) == {"own-2": "good", "own-3": "bent"}


def test_masks_that_say_nothing(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "black.png")
    Image.new("RGBA", (64, 48)).save(tmp_path / "alpha.png")
    rows = [{"picture": "a.jpg", "text": "it", "mask": name} for name in ("black.png", "alpha.png")]
    good = {"picture": "a.jpg", "text": "good", "mask": TRIANGLE}
    _, quarantine = built("table", write(tmp_path / "own.csv", [good, *rows], "a.jpg"))
    assert [one["cause"] for one in quarantine] == ["mask", "mask"]
    assert tells(quarantine[0]["reason"], "no pixel of the mask is set")
    assert tells(quarantine[1]["reason"], "alpha.png", "RGBA")
