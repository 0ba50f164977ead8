"""Faults of single entries: each goes to quarantine by itself, with its reason, and the rest is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco_mask

from laconvnet.shards.errors import InputError
from tests.messages import tells
from tests.shards.faulty import REFS, TRIANGLE, account, annotation, built, ref, refer, texts

OTHER_SIZE = {"size": [10, 10], "counts": [100]}


def refer_with(root: Path, **changes: Any) -> Path:
    """Annotation 20, of ref 2 on image 2, is another one."""
    return refer(root, REFS, [annotation(10, 1), annotation(20, 2) | changes, annotation(30, 3)])


@pytest.mark.parametrize(
    ("changes", "cause", "reason"),
    [
        ({"segmentation": []}, "polygon", "segmentation [], expected polygons"),
        ({"segmentation": None}, "polygon", "segmentation None"),
        ({"segmentation": [[5, 5, 20, 20]]}, "polygon", "three points or more"),
        ({"segmentation": [["5", "5", "9", "5", "9", "9"]]}, "polygon", "'5'"),
        ({"segmentation": "abc"}, "polygon", "'abc'"),
        ({"segmentation": {"size": [48, 64], "counts": "52203"}}, "mask", "does not add up to 64x48"),
        ({"segmentation": OTHER_SIZE}, "mask", "[10, 10]"),
        ({"bbox": [5, 5, "16", 16]}, "box", "'16'"),
        ({"bbox": [5, None, 16, 16]}, "box", "None"),
        ({"bbox": None}, "field", "key 'bbox' is None"),
        ({"bbox": [5, 5, 0, 16]}, "box", "no area"),
        ({"category_id": "1"}, "field", "key 'category_id' is '1'"),
        ({"category_id": 9}, "no category", "key 'category_id' is 9"),
        ({"image_id": 3}, "no picture", "key 'image_id' is 3, the ref's is 2"),
    ],
)
def test_a_fault_of_one_annotation_takes_its_ref(
    tmp_path: Path, changes: dict[str, Any], cause: str, reason: str
) -> None:
    root = refer_with(tmp_path / "raw", **changes)
    manifest, rows = built("refcoco", root, root / "images")
    assert texts(manifest) == {"100": "square 1", "300": "square 3"}
    assert account(manifest, "train", "region") == (2, 1, {cause: 1})
    assert account(manifest, "train", "expression") == (2, 1, {cause: 1})
    (row,) = (row for row in rows if row["kind"] == "region")
    assert (row["id"], row["key"], row["cause"]) == ("2", "refcoco-2", cause)
    assert reason in row["reason"]


@pytest.mark.parametrize(
    ("given", "cause", "reason"),
    [
        (ref(2, 5), "no picture", "key 'image_id' is 5"),
        (ref(2, 2, ann_id=70), "no annotation", "key 'ann_id' is 70"),
        (ref(2, 2) | {"sentences": None}, "field", "ref 1: key 'sentences' is None"),
        (ref(2, 2) | {"image_id": "2"}, "field", "ref 1: key 'image_id' is '2'"),
    ],
)
def test_a_fault_of_one_ref_takes_it_alone(tmp_path: Path, given: Any, cause: str, reason: str) -> None:
    root = refer(tmp_path / "raw", [REFS[0], given, REFS[2]])
    manifest, rows = built("refcoco", root, root / "images")
    assert texts(manifest) == {"100": "square 1", "300": "square 3"}
    assert account(manifest, "train", "region") == (2, 1, {cause: 1})
    (row,) = (row for row in rows if row["kind"] == "region")
    assert (row["id"], row["cause"]) == ("2", cause)
    assert reason in row["reason"]


def test_a_ref_of_unknown_split_is_told_and_counted(tmp_path: Path) -> None:
    root = refer(tmp_path / "raw", [REFS[0], ref(2, 2) | {"split": None}, REFS[2]])
    manifest, rows = built("refcoco", root, root / "images")
    assert account(manifest, "", "region") == (1, 0, {"field": 1})
    assert account(manifest, "train", "region") == (1, 1, {})
    assert [(row["kind"], row["id"]) for row in rows] == [("region", "2")]


def test_an_image_that_cannot_be_used_takes_its_refs(tmp_path: Path) -> None:
    sizes = {"width": 64, "height": 48}
    images: list[dict[str, Any]] = [{"id": number, "file_name": f"{number}.jpg", **sizes} for number in (1, 2, 3, 3)]
    images[1]["width"] = "64"
    images[3]["file_name"] = "other.jpg"
    root = refer(tmp_path / "raw", REFS, images=images)
    manifest, rows = built("refcoco", root, root / "images")
    assert texts(manifest) == {"100": "square 1"}
    assert account(manifest, "train", "picture") == (2, 0, {"duplicate id": 1, "field": 1})
    assert account(manifest, "train", "expression") == (2, 0, {"duplicate id": 1, "field": 1})
    reasons = {row["id"]: row["reason"] for row in rows if row["kind"] == "picture"}
    assert tells(reasons["2"], "image 2", "key 'width' is '64'")
    assert tells(reasons["3"], "image 3 occurs twice", "3.jpg", "other.jpg")


def test_ids_of_two_contents_take_all_that_refer_to_them(tmp_path: Path) -> None:
    annotations = [annotation(10, 1), annotation(20, 2), annotation(30, 3), annotation(20, 2, bbox=[9, 9, 5, 5])]
    refs = [*REFS, ref(4, 2, ann_id=20), ref(5, 1, "val", ann_id=10), ref(5, 1, "val", ann_id=10, sentences=[])]
    root = refer(tmp_path / "raw", refs, annotations)
    manifest, rows = built("refcoco", root, root / "images")
    assert texts(manifest) == {"100": "square 1", "300": "square 3"}
    assert account(manifest, "train", "region") == (3, 1, {"duplicate id": 2})
    assert account(manifest, "val", "region") == (3, 1, {"duplicate id": 2})
    reasons = [row["reason"] for row in rows if row["kind"] == "region" and row["id"] in ("2", "4")]
    assert len(reasons) == 2
    assert all(tells(reason, "annotation 20", "[5, 5, 16, 16]", "[9, 9, 5, 5]") for reason in reasons)


def test_the_same_twice_is_kept_once(tmp_path: Path) -> None:
    annotations = [annotation(10, 1), annotation(20, 2), annotation(30, 3), annotation(20, 2)]
    root = refer(tmp_path / "raw", [*REFS, REFS[1]], annotations)
    manifest, rows = built("refcoco", root, root / "images")
    assert texts(manifest) == {"100": "square 1", "200": "square 2", "300": "square 3"}
    assert account(manifest, "train", "region") == (3, 2, {"duplicate id": 1})
    assert tells(rows[0]["reason"], "ref_id 2 occurs twice", "alike")


def test_a_line_beside_a_polygon_is_left_out_of_the_mask(tmp_path: Path) -> None:
    root = refer_with(tmp_path / "raw", segmentation=[*TRIANGLE, [5, 5, 40, 40], []])
    manifest, rows = built("refcoco", root, root / "images")
    assert texts(manifest) == {"100": "square 1", "200": "square 2", "300": "square 3"}
    (region,) = manifest.read_record(1).regions
    assert coco_mask.area(region.mask) == 225
    (row,) = rows
    assert (row["kind"], row["id"], row["cause"], row["changed"], row["region"]) == ("mask", "20", "polygon", True, "2")
    assert manifest.meta["ledger"]["train"]["mask"]["changed"] == {"polygon": 1}


def test_faults_of_a_file_stop_before_the_first_shard(tmp_path: Path) -> None:
    root = refer(tmp_path / "raw", REFS, [annotation(10 * number, number, bbox=None) for number in (1, 2, 3)])
    with pytest.raises(InputError, match=r"annotation 10 of ref_id 1: key 'bbox' is None.*nor can any other entry"):
        built("refcoco", root, root / "images")
    assert not (tmp_path / "raw-set").exists()
