"""Faults of single entries of Visual Genome, and what its rules leave out: each is counted and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconvnet.shards.build.brake import Brake
from laconvnet.shards.errors import InputError
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.shards.faulty import account, built, draw, texts


def image(number: int, **changes: Any) -> dict[str, Any]:
    return {"image_id": number, "width": 64, "height": 48, "coco_id": None, **changes}


def region(number: int, **changes: Any) -> dict[str, Any]:
    return {"region_id": number, "x": 5, "y": 5, "width": 16, "height": 16, "phrase": f"thing {number}", **changes}


def question(number: int, **changes: Any) -> dict[str, Any]:
    return {"qa_id": number, "question": "What?", "answer": "A thing.", **changes}


def thing(number: int, *names: Any, x: Any = 5, **changes: Any) -> dict[str, Any]:
    return {"object_id": number, "x": x, "y": 5, "w": 9, "h": 9, "names": list(names), **changes}


def genome(root: Path, images: list[Any] | None = None, **files: list[Any]) -> Path:
    """Images 1 and 2 with these annotations of image 1, a sound region of image 2 beside them."""
    root.mkdir()
    draw(root / "VG_100K", "1.jpg", "2.jpg")
    (root / "image_data.json").write_text(json.dumps(images or [image(1), image(2)]))
    contents = {"region_descriptions": [], **files}
    for name, entries in contents.items():
        key = {"region_descriptions": "regions", "question_answers": "qas"}.get(name, name)
        content = [{"image_id": 1, key: entries}]
        content += [{"image_id": 2, key: [region(201)]}] if key == "regions" else []
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("given", "cause", "reason"),
    [
        (region(150, x=None), "box", "None"),
        (region(150, width="16"), "box", "'16'"),
        (region(150, phrase=None), "field", "key 'phrase' is None"),
        (region(150, phrase=" "), "blank", "key 'phrase' is empty"),
        ({key: value for key, value in region(150).items() if key != "phrase"}, "field", "'phrase' is missing"),
        (region(150, x=70), "box", "outside the image"),
    ],
)
def test_a_fault_of_one_region_takes_it_alone(tmp_path: Path, given: Any, cause: str, reason: str) -> None:
    root = genome(tmp_path / "raw", region_descriptions=[region(101), given, region(102)])
    manifest, rows = built("visual_genome", root)
    assert set(texts(manifest)) == {"101", "102", "201"}
    assert account(manifest, "train", "region") == (4, 3, {cause: 1})
    assert account(manifest, "train", "expression") == (4, 3, {cause: 1})
    (row,) = rows
    assert (row["kind"], row["id"], row["key"]) == ("region", "150", "visual_genome-1")
    assert reason in row["reason"]


def test_an_entry_that_is_no_object_or_has_no_id_is_lost_alone(tmp_path: Path) -> None:
    root = genome(tmp_path / "raw", region_descriptions=[None, region(101), region(102) | {"region_id": "102"}])
    manifest, rows = built("visual_genome", root)
    assert set(texts(manifest)) == {"101", "201"}
    assert [(row["id"], row["cause"]) for row in rows] == [("unknown", "field"), ("102", "field")]


def test_a_question_without_answer_is_lost_alone(tmp_path: Path) -> None:
    asked = [question(1), question(2, answer="."), question(3, question=4)]
    manifest, rows = built("visual_genome", genome(tmp_path / "raw", question_answers=asked))
    assert account(manifest, "train", "question") == (3, 1, {"blank": 1, "field": 1})
    assert {row["id"]: row["cause"] for row in rows} == {"2": "blank", "3": "field"}


def test_ids_of_two_contents_are_lost_and_of_one_kept_once(tmp_path: Path) -> None:
    entries = [region(101), region(101, x=9), region(102), region(102)]
    manifest, rows = built("visual_genome", genome(tmp_path / "raw", region_descriptions=entries))
    assert set(texts(manifest)) == {"102", "201"}
    assert account(manifest, "train", "region") == (5, 2, {"duplicate id": 3})
    assert [row["id"] for row in rows] == ["101", "101", "102"]
    assert tells(rows[0]["reason"], "region 101 occurs twice", "5.0", "9.0")


def test_annotations_of_an_image_that_is_not_listed_or_cannot_be_used(tmp_path: Path) -> None:
    root = genome(tmp_path / "raw", [image(1, width="64"), image(2)], region_descriptions=[region(101), region(102)])
    manifest, rows = built("visual_genome", root)
    assert account(manifest, "train", "picture") == (2, 1, {"field": 1})
    assert account(manifest, "train", "expression") == (3, 1, {"field": 2})
    (row,) = rows
    assert (row["kind"], row["id"], row["key"]) == ("picture", "1", "visual_genome-1")
    assert tells(row["reason"], "image_data.json", "image 1", "'64'")


def test_objects_that_are_merged_ambiguous_nameless_or_bad(tmp_path: Path) -> None:
    objects = [thing(1, "cup"), thing(2, "cup", x=30), thing(3, "table"), thing(4), thing(5, "lamp", x=None)]
    attributes = [thing(1, "cup", attributes=["red"]), thing(2, "cup", x=30), thing(3, "table"), thing(6, "mug", 3)]
    root = genome(tmp_path / "raw", objects=objects, attributes=attributes)
    manifest, rows = built("visual_genome", root)
    assert texts(manifest) == {"201": "thing 201", "object-1-0": "red cup", "object-3-0": "table"}
    merged = {"merged": 3, "box": 1, "field": 1}
    assert account(manifest, "train", "region") == (10, 5, merged)
    assert account(manifest, "train", "box") == (10, 5, merged)
    lost = {"merged": 3, "ambiguous": 1, "blank": 1, "box": 1, "field": 1}
    assert account(manifest, "train", "expression") == (10, 3, lost)
    told = {row["cause"]: row for row in rows}
    assert told["ambiguous"]["id"] == "object-2"
    assert told["merged"]["id"] == "object-1 object-2 object-3"
    assert told["blank"]["id"] == "object-4"
    assert (told["box"]["id"], told["field"]["id"]) == ("5", "6")
    assert tells(told["ambiguous"]["reason"], "image 1", "cup")
    verify(manifest.folder, full=True, progress=False)
    with pytest.raises(InputError) as strict:
        built("visual_genome", root, brake=Brake(strict=True))
    assert tells(str(strict.value), "3 faults", "object 5")
    assert "ambiguous" not in str(strict.value)


def test_attributes_of_version_1_0_under_one_id(tmp_path: Path) -> None:
    def own(name: str, x: int) -> dict[str, Any]:
        return {"id": 7, "x": x, "y": 5, "w": 9, "h": 9, "object_names": [name], "attributes": ["red"]}

    manifest, rows = built("visual_genome", genome(tmp_path / "raw", attributes=[own("cup", 5), own("mug", 30)]))
    assert account(manifest, "train", "region") == (3, 1, {"duplicate id": 2})
    assert tells(rows[0]["reason"], "attribute-7 occurs twice", "'cup'", "'mug'")


def test_a_file_of_which_no_entry_has_its_list_stops_before_the_first_shard(tmp_path: Path) -> None:
    root = genome(tmp_path / "raw", objects=[thing(1, "cup")])
    (root / "objects.json").write_text(json.dumps([{"image_id": 1, "things": []}, {"image_id": 2, "things": []}]))
    with pytest.raises(InputError, match=r"objects\.json: image 1: key 'objects' is missing; nor has any other"):
        built("visual_genome", root)
    assert not (tmp_path / "raw-set").exists()
