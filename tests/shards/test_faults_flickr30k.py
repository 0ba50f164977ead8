"""Faults of single entries of Flickr30k Entities, and phrases that its rules leave out: each is counted and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.shards.build.brake import Brake
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.shards.faulty import account, built, draw, texts

SENTENCES = "[/EN#1/people A man] stands .\n[/EN#2/other A red square] lies there .\n"
SCENE = "<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object>"


def thing(chain: int, *corners: object) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, corners, strict=True))
    return f"<object><name>{chain}</name><bndbox>{inside}</bndbox></object>"


def xml(*objects: str, size: str = "<width>64</width><height>48</height>") -> str:
    return f"<annotation><size>{size}</size>{''.join(objects)}</annotation>"


XML = xml(thing(1, 1, 1, 30, 40), thing(2, 6, 6, 21, 21))


def flickr(root: Path, sentences: str | bytes | None = SENTENCES, boxes: str | None = XML) -> Path:
    """Image 1 of train is whole, image 2 of val is as given; None for a file that is not there."""
    for folder in ("Sentences", "Annotations"):
        (root / folder).mkdir(parents=True)
    for split, image in (("train", "1"), ("val", "2")):
        (root / f"{split}.txt").write_text(f"{image}\n")
    (root / "Sentences" / "1.txt").write_text(SENTENCES)
    (root / "Annotations" / "1.xml").write_text(XML)
    if sentences is not None:
        (root / "Sentences" / "2.txt").write_bytes(sentences.encode() if isinstance(sentences, str) else sentences)
    if boxes is not None:
        (root / "Annotations" / "2.xml").write_text(boxes)
    draw(root / "flickr30k-images", "1.jpg", "2.jpg")
    return root


def test_phrases_without_a_box_are_counted_and_named(tmp_path: Path) -> None:
    captions = "[/EN#1/people A man] with [/EN#2/other a hat] in [/EN#3/scene a park] near [/EN#0/notvisual it] .\n"
    root = flickr(tmp_path / "raw", captions, xml(thing(1, 0, 0, 64, 60), SCENE))
    manifest, rows = built("flickr30k", root)
    assert account(manifest, "val", "expression") == (4, 1, {"no box": 3})
    assert {row["id"]: row["region"] for row in rows if row["cause"] == "no box"} == {
        "2_0_1": "2",
        "2_0_2": "3",
        "2_0_3": "0",
    }
    reasons = {row["id"]: row["reason"] for row in rows if row["cause"] == "no box"}
    assert tells(reasons["2_0_2"], "a park", "scene", "2.xml")
    (clipped,) = (row for row in rows if row["changed"])
    assert (clipped["kind"], clipped["region"], clipped["key"]) == ("box", "1", "flickr30k-2")
    assert tells(clipped["reason"], "[-1.0, -1.0, 65.0, 61.0]", "[0, 0, 64.0, 48]")
    built("flickr30k", root, brake=Brake(strict=True))  # by the data set's own rule, which is no fault
    verify(manifest.folder, full=True, progress=False)


def test_an_image_of_which_no_phrase_has_a_box_is_lost_by_the_same_rule(tmp_path: Path) -> None:
    manifest, rows = built("flickr30k", flickr(tmp_path / "raw", boxes=xml(SCENE)))
    assert account(manifest, "val", "picture") == (1, 0, {"no box": 1})
    assert account(manifest, "val", "expression") == (2, 0, {"no box": 2})
    assert {row["key"] for row in rows} == {"flickr30k-2"}


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ((30, 1, 1, 40), "bndbox 30 1 1 40: its maximum lies before its minimum"),
        (("", 1, 30, 40), "element 'xmin' of 'bndbox' is ''"),
        (("ten", 1, 30, 40), "element 'xmin' of 'bndbox' is 'ten'"),
    ],
)
def test_a_bad_box_takes_its_chain(tmp_path: Path, corners: tuple[object, ...], reason: str) -> None:
    boxes = xml(thing(1, 1, 1, 9, 9), thing(1, *corners), thing(2, 6, 6, 21, 21))
    manifest, rows = built("flickr30k", flickr(tmp_path / "raw", boxes=boxes))
    assert {id for id in texts(manifest) if id.startswith("2_")} == {"2_1_0"}
    assert account(manifest, "val", "region") == (2, 1, {"box": 1})
    assert account(manifest, "val", "box") == (3, 1, {"box": 2})
    assert account(manifest, "val", "expression") == (2, 1, {"box": 1})
    (row,) = rows
    assert (row["kind"], row["id"], row["file"].rsplit("/", 1)[1]) == ("region", "1", "2.xml")
    assert reason in row["reason"]


@pytest.mark.parametrize(
    ("sentences", "boxes", "cause", "phrases", "reason"),
    [
        (SENTENCES, None, "no file", 2, "2.xml: no such file"),
        (None, XML, "no file", 0, "2.txt: no such file"),
        (SENTENCES, "<annotation>", "broken file", 2, "2.xml: not the XML"),
        (b"[/EN#1/people A man \xff] .", XML, "broken file", 0, "2.txt: not UTF-8"),
        (SENTENCES, xml(thing(1, 1, 1, 9, 9), size="<width>wide</width>"), "size", 2, "'width' of 'size' is 'wide'"),
        ("no phrase here .", xml(SCENE), "no box", 0, "neither a box here nor a phrase"),
    ],
)
def test_an_image_without_its_files_is_lost_alone(
    tmp_path: Path, sentences: str | None, boxes: str | None, cause: str, phrases: int, reason: str
) -> None:
    manifest, rows = built("flickr30k", flickr(tmp_path / "raw", sentences, boxes))
    assert manifest.samples["key"].to_pylist() == ["flickr30k-1"]
    assert account(manifest, "val", "picture") == (1, 0, {cause: 1})
    if phrases:
        assert account(manifest, "val", "expression") == (phrases, 0, {cause: phrases})
    (row,) = rows
    assert (row["kind"], row["id"], row["key"]) == ("picture", "2", "flickr30k-2")
    assert reason in row["reason"]


def test_lines_end_at_a_line_feed_alone(tmp_path: Path) -> None:
    captions = "[/EN#1/people A man\u2028in a\x85coat] stands .\r\n[/EN#2/other A red square] lies there .\r\n"
    root = flickr(tmp_path / "raw", captions)
    (root / "val.txt").write_text("2\r\n\u2028")
    manifest, rows = built("flickr30k", root)
    assert rows == []
    found = texts(manifest)
    assert (found["2_0_0"], found["2_1_0"]) == ("A man in a coat", "A red square")


def test_a_phrase_without_words_is_lost_alone(tmp_path: Path) -> None:
    manifest, rows = built("flickr30k", flickr(tmp_path / "raw", "[/EN#1/people  ] and [/EN#2/other a square]"))
    assert account(manifest, "val", "expression") == (2, 1, {"blank": 1})
    assert [(row["id"], row["region"], row["cause"]) for row in rows] == [("2_0_0", "1", "blank")]
