"""Flickr30k Entities: real captions, boxes written in the documented layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Region
from tests.samples import SAMPLES, needs

DATA = SAMPLES / "flickr30k"
real = needs(DATA)

CAPTIONS = """[/EN#7/people/other A man] waves at [/EN#0/notvisual him] near [/EN#8/scene the sea] .

[/EN#9/other Two  dogs] follow [/EN#7/people the man] .
"""


def _object(names: str, *corners: int, flags: str = "") -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, corners, strict=False))
    inner = "".join(f"<name>{name}</name>" for name in names.split())
    return f"<object>{inner}{f'<bndbox>{box}</bndbox>' if corners else flags}</object>"


def _xml(*objects: str, width: object = 100, head: str = "") -> str:
    size = f"<size><width>{width}</width><height>80</height><depth>3</depth></size>"
    return f"{head}<annotation><filename>1.jpg</filename>{size}{''.join(objects)}</annotation>"


SCENE = _object("8", flags="<scene>1</scene><nobndbox>0</nobndbox>")
OBJECTS = (_object("7", 1, 1, 100, 80), SCENE, _object("0 9", 11, 21, 20, 40), _object("9 5", 31, 21, 40, 21))


def _write(root: Path, captions: str = CAPTIONS, xml: str = _xml(*OBJECTS), **lists: str) -> Path:
    for folder in ("Sentences", "Annotations", "flickr30k-images"):
        (root / folder).mkdir(parents=True)
    (root / "Sentences" / "1.txt").write_text(captions)
    (root / "Annotations" / "1.xml").write_text(xml)
    for split, ids in (lists or {"train": "1\n"}).items():
        (root / f"{split}.txt").write_text(ids)
    return root


def _samples(root: Path, **options: Any) -> list[RawSample]:
    options = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("flickr30k").samples(root, **options))


def test_a_chain_is_a_region_with_all_its_boxes_and_mentions(tmp_path: Path) -> None:
    root = _write(tmp_path)
    (sample,) = _samples(root)
    record = sample.record
    assert sample.image == root / "flickr30k-images" / "1.jpg"
    assert (record.picture_id, record.file_name, record.width, record.height) == ("1", "1.jpg", 100, 80)
    assert record.regions == (
        # Corners count from 1 and belong to the box: 1..100 covers an image 100 wide.
        Region(
            "7",
            "train",
            ((0.0, 0.0, 100.0, 80.0),),
            (Expression("1_0_0", "A man"), Expression("1_1_1", "the man")),
            category="people",
        ),
        Region(
            "9",
            "train",
            ((10.0, 20.0, 10.0, 20.0), (30.0, 20.0, 10.0, 1.0)),
            (Expression("1_1_0", "Two dogs"),),
            category="other",
        ),
        Region("5", "train", ((30.0, 20.0, 10.0, 1.0),)),
    )
    assert record.regions[1].box == (10.0, 20.0, 30.0, 20.0)


@real
def test_the_real_captions(tmp_path: Path) -> None:
    shutil.copytree(DATA / "Sentences", tmp_path / "Sentences")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "test.txt").write_text("6338542128\n")
    (tmp_path / "val.txt").write_text("4945942737\n")
    chains = {"4945942737": range(221796, 221805), "6338542128": range(253068, 253084)}
    for image, ids in chains.items():
        objects = [_object(str(chain), 1, 1, 2, 2) for chain in ids]
        (tmp_path / "Annotations" / f"{image}.xml").write_text(_xml(*objects))
    samples = _samples(tmp_path, images=DATA)
    assert [(s.record.picture_id, s.record.splits) for s in samples] == [
        ("6338542128", ("test",)),
        ("4945942737", ("val",)),
    ]
    assert all(sample.image.is_file() for sample in samples)
    football, girl = ([r for r in s.record.regions if r.expressions] for s in samples)
    assert sum(len(region.expressions) for region in girl) == 18
    assert sum(len(region.expressions) for region in football) == 21
    assert girl[0].id == "221796"
    assert [e.text for e in girl[0].expressions] == [
        "A girl",
        "A woman",
        "A girl",
        "A small girl",
        "A dark-haired girl",
    ]
    assert girl[0].category == "people"
    assert "him" not in {e.text for region in football for e in region.expressions}
    assert "a sunny , dry day" in {e.text for region in football for e in region.expressions}


def test_splits_choose_images(tmp_path: Path) -> None:
    root = _write(tmp_path, train="1\n", val="22\n")
    shutil.copy(root / "Sentences/1.txt", root / "Sentences/22.txt")
    shutil.copy(root / "Annotations/1.xml", root / "Annotations/22.xml")
    assert [s.record.picture_id for s in _samples(root)] == ["1", "22"]
    assert [s.record.picture_id for s in _samples(root, splits=["val"])] == ["22"]
    with pytest.raises(InputError, match=r"--split test: .* expected one of train, val"):
        _samples(root, splits=["test"])


def test_an_image_without_boxes_is_not_built(tmp_path: Path) -> None:
    root = _write(tmp_path, xml=_xml(SCENE), train="1\n2\n")
    shutil.copy(root / "Sentences/1.txt", root / "Sentences/2.txt")
    (root / "Annotations/2.xml").write_text(_xml(_object("7", 1, 1, 9, 9)))
    one, two = _samples(root)
    assert one.nothing_left
    assert {fault.cause for fault in one.faults} == {"no box"}
    assert [region.id for region in two.record.regions] == ["7"]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (_xml(_object("&b;", 1, 1, 2, 2), head=BOMB), "not the XML of Flickr30k Entities"),
        (_xml(_object("&a;", 1, 1, 2, 2), head=OUTSIDE), "not the XML of Flickr30k Entities"),
        (_xml(head="<!DOCTYPE x>"), "not the XML of Flickr30k Entities"),
        ("<annotation>", "not the XML of Flickr30k Entities"),
        ("<annotation/>", "element 'size' is missing"),
        (_xml(width="wide"), "element 'width' of 'size' is 'wide', expected a whole number"),
        (_xml(width=0), "key 'width' is 0"),
        (_xml(_object("7", 1, 1, 2)), "element 'ymax' of 'bndbox' is '', expected a whole number"),
        (_xml(_object("7", 5, 1, 4, 9)), "bndbox 5 1 4 9: its maximum lies before its minimum"),
        ("<a>" + " " * 2**20 + "</a>", "bytes, expected at most 1048576"),
    ],
)
def test_bad_xml_is_named(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"Annotations/1\.xml: .*{message}"):
        _samples(_write(tmp_path, xml=xml))


@pytest.mark.parametrize(
    "captions", ["[/EN#7 A man] waves .", "[/EN#x/people A man] waves .", "[/EN#7/people A man waves"]
)
def test_bad_markup_loses_its_sentence(tmp_path: Path, captions: str) -> None:
    (sample,) = _samples(_write(tmp_path, f"{captions}\n[/EN#7/people The man] sits ."))
    fault = sample.faults[0]
    assert (fault.kind, fault.id, fault.takes) == ("expression", "1_0", (("expression", 1),))
    assert "Sentences/1.txt: sentence 0: a phrase is not [/EN#" in fault.reason
    assert [one.id for one in sample.record.regions[0].expressions] == ["1_1_0"]


def test_captions_and_lists_are_bounded(tmp_path: Path) -> None:
    root = _write(tmp_path, "[/EN#1/a " * 8000)  # a phrase that ends nowhere, again and again
    with pytest.raises(InputError, match=r"Sentences/1\.txt: 72000 bytes, expected at most 65536"):
        _samples(root)
    with (root / "train.txt").open("a") as file:
        file.write("\n" * 2**24)
    with pytest.raises(InputError, match=r"train\.txt: \d+ bytes, expected at most 16777216"):
        _samples(root)


def test_captions_are_utf8(tmp_path: Path) -> None:
    root = _write(tmp_path)
    (root / "Sentences" / "1.txt").write_bytes(b"[/EN#7/people A man \xff] .")
    with pytest.raises(InputError, match=r"Sentences/1\.txt: not UTF-8 text"):
        _samples(root)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"train": "1\n../../etc/passwd\n"},
            "train.txt: line 2 is '../../etc/passwd', expected .*number",
        ),
        ({"train": "1\n", "test": "\n1\n"}, "test.txt: line 2: image 1 is in split train already"),
        ({"train": "1\n1\n"}, "train.txt: line 2: image 1 is in split train already"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sources.get("flickr30k").samples(_write(tmp_path, **lists), images=None, splits=None, partition=None)


def test_missing_files_are_named_before_the_first_sample(tmp_path: Path) -> None:
    def start(root: Path, **options: Any) -> None:
        sources.get("flickr30k").samples(root, **{"images": None, "splits": None, "partition": None, **options})

    with pytest.raises(InputError, match=r"Sentences: no such folder; .*change --root"):
        start(tmp_path)
    root = _write(tmp_path)
    (root / "Annotations" / "1.xml").unlink()
    with pytest.raises(InputError, match=r"Annotations/1\.xml: no such file; .*nor can any other"):
        _samples(root)
    (root / "flickr30k-images").rmdir()
    with pytest.raises(InputError, match=r"flickr30k-images: no such folder; .*--images"):
        start(root)
    (root / "train.txt").unlink()
    with pytest.raises(InputError, match=r"none of train\.txt, val\.txt, test\.txt; copy"):
        start(root)
    (root / "Annotations").rmdir()
    with pytest.raises(InputError, match=r"Annotations: no such folder; .*change --root"):
        start(root)
    with pytest.raises(InputError, match="--partition unc"):
        start(root, partition="unc")
