"""Faults of single questions and expressions of CLEVR, CLEVR-Humans, CLEVR-Ref+, VQAv2 and SNLI-VE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from laconvnet.shards.errors import InputError
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.shards.faulty import account, built, draw, texts


def asked(number: int, image: int, **changes: Any) -> dict[str, Any]:
    """A question of CLEVR."""
    fields = {
        "question_index": number,
        "image_filename": f"CLEVR_val_{image:06}.png",
        "question": f"How many {number}?",
    }
    return fields | {"answer": "2", "program": [{"function": "count"}]} | changes


def clevr(root: Path, questions: list[Any], name: str = "questions/CLEVR_val_questions.json") -> Path:
    (root / name).parent.mkdir(parents=True)
    (root / name).write_text(json.dumps({"questions": questions}))
    draw(root / "images" / "val", "CLEVR_val_000001.png", "CLEVR_val_000002.png")
    return root


@pytest.mark.parametrize(
    ("changes", "cause", "reason"),
    [
        ({"question": None}, "field", "key 'question' is None"),
        ({"question": " "}, "blank", "key 'question' is empty"),
        ({"answer": 2}, "field", "key 'answer' is 2"),
        ({"program": []}, "field", "key 'program' is empty"),
        ({"program": [{"function": "sing"}]}, "field", "'sing'"),
    ],
)
def test_a_bad_question_of_clevr_is_lost_alone(tmp_path: Path, changes: Any, cause: str, reason: str) -> None:
    root = clevr(tmp_path / "raw", [asked(0, 1), asked(1, 1), asked(2, 2) | changes])
    manifest, rows = built("clevr", root)
    assert set(texts(manifest)) == {"val-0", "val-1"}
    assert account(manifest, "val", "question") == (3, 2, {cause: 1})
    assert account(manifest, "val", "picture") == (2, 1, {cause: 1})
    question, picture = rows
    assert (question["kind"], question["id"], question["key"]) == ("question", "val-2", "clevr-CLEVR_val_000002")
    assert reason in question["reason"]
    assert (picture["kind"], picture["key"]) == ("picture", "clevr-CLEVR_val_000002")
    verify(manifest.folder, full=True, progress=False)


def test_a_question_of_no_image_is_lost_alone(tmp_path: Path) -> None:
    manifest, rows = built("clevr", clevr(tmp_path / "raw", [asked(0, 1), asked(1, 2, image_filename=7)]))
    assert account(manifest, "val", "question") == (2, 1, {"field": 1})
    assert account(manifest, "val", "picture") == (1, 1, {})
    assert [(row["id"], row["key"]) for row in rows] == [("val-1", "")]


def test_numbers_of_two_questions_are_lost_and_of_one_kept_once(tmp_path: Path) -> None:
    questions = [asked(0, 1), asked(1, 1), asked(1, 2), asked(0, 1), asked(1, 1, question="What?")]
    manifest, rows = built("clevr", clevr(tmp_path / "raw", questions))
    assert set(texts(manifest)) == {"val-0"}
    assert account(manifest, "val", "question") == (5, 1, {"duplicate id": 4})
    assert account(manifest, "val", "picture") == (2, 1, {"duplicate id": 1})
    (first, *_) = (row for row in rows if row["id"] == "val-1")
    assert tells(first["reason"], "val-1 occurs twice", "'How many 1?' of image CLEVR_val_000001.png", "_000002.png")
    verify(manifest.folder, full=True, progress=False)


def test_a_bad_question_of_clevr_humans_is_lost_alone(tmp_path: Path) -> None:
    root = clevr(tmp_path / "raw", [asked(0, 1), asked(0, 2, question="")], "CLEVR-Humans-val.json")
    manifest, rows = built("clevr_humans", root)
    assert account(manifest, "val", "question") == (2, 1, {"blank": 1})
    assert {row["kind"] for row in rows} == {"question", "picture"}


def test_names_that_differ_in_a_dot(tmp_path: Path) -> None:
    root = clevr(tmp_path / "raw", [asked(0, 1), asked(1, 1, image_filename="CLEVR_val.000001.png")])
    draw(root / "images" / "val", "CLEVR_val.000001.png")
    manifest, rows = built("clevr", root)
    assert account(manifest, "val", "picture") == (2, 1, {"duplicate key": 1})
    assert account(manifest, "val", "question") == (2, 1, {"duplicate key": 1})
    assert tells(rows[0]["reason"], "clevr-CLEVR_val_000001", "twice")


def spoken(image: int, *objects: int, **changes: Any) -> dict[str, Any]:
    """An expression of CLEVR-Ref+."""
    name = f"CLEVR_val_{image:06}.png"
    return {"image_filename": name, "refexp": "The thing", "program": [{"_output": list(objects)}], **changes}


def scene(image: int, width: int, height: int, **changes: Any) -> dict[str, Any]:
    """Two objects: the upper and the lower half of an image."""
    half = width * height // 2
    return {
        "image_filename": f"CLEVR_val_{image:06}.png",
        "objects": [{"shape": "cube"}, {"shape": "cube"}],
        "obj_bbox": {"1": [0, 0, width, height // 2], "2": [0, height // 2, width, height // 2]},
        "obj_mask": {"1": f"0,{half},{half}", "2": f"{half},{half}"},
        **changes,
    }


def clevr_ref(root: Path, refexps: list[Any], scenes: list[Any], *sizes: tuple[int, int]) -> Path:
    for name, key, entries in (("refexps", "refexps", refexps), ("scenes", "scenes", scenes)):
        (root / name).mkdir(parents=True)
        (root / name / f"clevr_ref+_val_{name}.json").write_text(json.dumps({key: entries}))
    for number, size in enumerate(sizes, start=1):
        draw(root / "images" / "val", f"CLEVR_val_{number:06}.png", size=size)
    return root


def test_a_mask_has_the_size_of_its_image(tmp_path: Path) -> None:
    sizes = ((320, 240), (64, 48), (320, 240))
    scenes = [scene(number, *size) for number, size in enumerate(sizes, start=1)]
    root = clevr_ref(tmp_path / "raw", [spoken(1, 0), spoken(2, 1), spoken(3, 0, 1)], scenes, *sizes)
    manifest, rows = built("clevr_ref+", root)
    assert rows == []
    records = [manifest.read_record(row) for row in range(3)]
    assert [record.regions[0].mask["size"] for record in records] == [[240, 320], [48, 64], [240, 320]]  # type: ignore[index]
    assert [(record.width, record.height) for record in records] == list(sizes)
    upper = coco_mask.decode(records[0].regions[0].mask)
    np.testing.assert_array_equal(upper, np.repeat([1, 0], 120)[:, None] * np.ones((1, 320)))
    verify(manifest.folder, full=True, progress=False)


@pytest.mark.parametrize(
    ("changes", "cause", "reason"),
    [
        ({"obj_mask": {"1": "0,20,20", "2": "1536,1536"}}, "mask", "runs that add up to the 64x48 pixels"),
        ({"obj_mask": {"2": "1536,1536"}}, "field", "key '1' is missing"),
        ({"obj_bbox": {"1": [None, 0, 9, 9], "2": [0, 24, 64, 24]}}, "box", "None"),
        ({"obj_bbox": {"1": [0, 0, 0, 0], "2": [0, 24, 64, 24]}}, "box", "no area"),
    ],
)
def test_a_bad_object_takes_the_expressions_for_it(tmp_path: Path, changes: Any, cause: str, reason: str) -> None:
    scenes = [scene(1, 64, 48) | changes, scene(2, 64, 48)]
    root = clevr_ref(tmp_path / "raw", [spoken(1, 0, 1), spoken(1, 1), spoken(2, 0)], scenes, (64, 48), (64, 48))
    manifest, rows = built("clevr_ref+", root)
    assert set(texts(manifest)) == {"val-1", "val-2"}
    for kind, read, lost in (("region", 3, 1), ("expression", 3, 1), ("mask", 3, 1), ("box", 4, 2)):
        assert account(manifest, "val", kind) == (read, read - lost, {cause: lost})
    (row,) = rows
    assert (row["kind"], row["id"]) == ("region", "val-0")
    assert reason in row["reason"]


def test_scenes_that_lack_and_come_twice(tmp_path: Path) -> None:
    scenes = [scene(1, 64, 48), scene(1, 64, 48), {"image_filename": None}]
    root = clevr_ref(tmp_path / "raw", [spoken(1, 0), spoken(2, 0, 1)], scenes, (64, 48), (64, 48))
    manifest, rows = built("clevr_ref+", root)
    assert account(manifest, "val", "picture") == (2, 1, {"no scene": 1})
    assert account(manifest, "val", "box") == (3, 1, {"no scene": 2})
    assert [row["cause"] for row in rows] == ["duplicate id", "field", "no scene"]
    assert rows[2]["key"] == "clevr_ref+-CLEVR_val_000002"


def vqa(number: int, image: int, **changes: Any) -> dict[str, Any]:
    return {"question_id": number, "image_id": image, "question": f"What {number}?", **changes}


def answered(number: int, image: int, **changes: Any) -> dict[str, Any]:
    fields = {"question_id": number, "image_id": image, "answer_type": "other", "multiple_choice_answer": "cat"}
    return fields | {"answers": [{"answer": "cat"}] * 10} | changes


def vqav2(root: Path, questions: list[Any], annotations: list[Any]) -> Path:
    root.mkdir()
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": questions}))
    (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    draw(root / "val2014", *(f"COCO_val2014_{number:012}.jpg" for number in (1, 2)))
    return root


ASKED = [vqa(10, 1), vqa(11, 1), vqa(20, 2)]
ANSWERED = [answered(10, 1), answered(11, 1), answered(20, 2)]


@pytest.mark.parametrize(
    ("questions", "annotations", "read", "cause", "reason"),
    [
        ([*ASKED[:2], vqa(20, 2, question=None)], ANSWERED, 3, "field", "key 'question' is None"),
        ([*ASKED[:2], vqa(20, 2, question=" ")], ANSWERED, 3, "blank", "key 'question' is empty"),
        (ASKED, ANSWERED[:2], 3, "no answer", "question_id 20 of this split has no annotation"),
        (ASKED, [*ANSWERED[:2], answered(20, 2, answers=[])], 3, "field", "key 'answers' holds 0"),
        (ASKED, [*ANSWERED[:2], answered(20, 1)], 3, "no picture", "key 'image_id' is 1, the question's is 2"),
        (ASKED, [*ANSWERED, answered(20, 2, answer_type="number")], 3, "duplicate id", "its annotation occurs twice"),
        (ASKED[:2], ANSWERED, 3, "no question", "question_id 20: is asked nowhere"),
    ],
)
def test_a_bad_question_or_annotation_of_vqav2_is_lost_alone(
    tmp_path: Path, questions: Any, annotations: Any, read: int, cause: str, reason: str
) -> None:
    manifest, rows = built("vqav2", vqav2(tmp_path / "raw", questions, annotations))
    assert set(texts(manifest)) == {"10", "11"}
    assert account(manifest, "val", "question") == (read, 2, {cause: 1})
    (row,) = (row for row in rows if row["kind"] == "question")
    assert (row["id"], row["cause"]) == ("20", cause)
    assert reason in row["reason"]
    verify(manifest.folder, full=True, progress=False)


def test_an_annotation_that_comes_twice_alike_changes_nothing(tmp_path: Path) -> None:
    manifest, rows = built("vqav2", vqav2(tmp_path / "raw", ASKED, [*ANSWERED, ANSWERED[2]]))
    assert account(manifest, "val", "question") == (3, 3, {})
    assert [(row["id"], row["cause"], row["changed"]) for row in rows] == [("20", "duplicate id", True)]


def test_a_question_id_of_two_contents_is_lost_with_its_annotation(tmp_path: Path) -> None:
    manifest, _ = built("vqav2", vqav2(tmp_path / "raw", [*ASKED, vqa(20, 1)], ANSWERED))
    assert set(texts(manifest)) == {"10", "11"}
    assert account(manifest, "val", "question") == (4, 2, {"duplicate id": 2})


def pair(number: int, image: str, **changes: Any) -> dict[str, Any]:
    fields = {"Flickr30K_ID": image, "pairID": f"{image}#{number}", "sentence2": f"Thing {number}."}
    return fields | {"gold_label": "neutral"} | changes


def snli(root: Path, pairs: list[Any]) -> Path:
    root.mkdir()
    (root / "snli_ve_dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in pairs))
    draw(root / "flickr30k_images", "1.jpg", "2.jpg")
    return root


@pytest.mark.parametrize(
    ("given", "cause", "reason"),
    [
        (pair(3, "1", gold_label="-"), "no label", "disagree"),
        (pair(3, "1", gold_label="maybe"), "field", "'maybe'"),
        (pair(3, "1", sentence2=" "), "blank", "key 'sentence2' is empty"),
        (pair(3, "1", sentence2="\ud800"), "text", "no valid Unicode"),
        (pair(3, "1", pairID=3), "field", "key 'pairID' is 3"),
        ([1], "field", "expected an object"),
    ],
)
def test_a_bad_pair_of_snli_ve_is_lost_alone(tmp_path: Path, given: Any, cause: str, reason: str) -> None:
    pairs = [pair(1, "1"), given, pair(2, "2", sentence2="A\u2028b.\x85c")]
    manifest, rows = built("snli_ve", snli(tmp_path / "raw", pairs))
    assert texts(manifest) == {"1#1": "Thing 1.", "2#2": "A b. c"}
    assert account(manifest, "val", "question") == (3, 2, {cause: 1})
    (row,) = rows
    assert (row["kind"], row["id"]) == ("question", "line 2")
    assert reason in row["reason"]


def test_a_file_of_which_no_question_can_be_used_stops_before_the_first_shard(tmp_path: Path) -> None:
    root = clevr(tmp_path / "raw", [asked(0, 1, question=None), asked(1, 2, question=None)])
    with pytest.raises(
        InputError, match=r"val_questions\.json: question val-0: key 'question' is None, .*; nor can any"
    ):
        built("clevr", root)
    assert not (tmp_path / "raw-set").exists()
