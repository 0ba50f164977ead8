"""COCO's format: captions of pictures and of boxes, categories with boxes and masks, in one file or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from laconvnet.shards import sources
from laconvnet.shards.build.brake import Brake
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Region
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.samples import SAMPLES, needs
from tests.shards.faulty import HEIGHT, TRIANGLE, WIDTH, account, annotation, built, draw, texts

IMAGES = [{"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT} for number in (1, 2)]
DATA = SAMPLES / "refer"


def write(
    path: Path, annotations: list[Any], images: list[Any] | None = None, categories: list[Any] | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    given = [{"id": 1, "name": "dog"}] if categories is None else categories
    path.write_text(json.dumps({"images": images or IMAGES, "annotations": annotations, "categories": given}))
    return path


def caption(id: Any, image_id: int, text: Any = "a dog runs", **more: Any) -> dict[str, Any]:
    return {"id": id, "image_id": image_id, "caption": text, **more}


def samples(root: Path, **options: Any) -> list[RawSample]:
    given = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("coco").samples(root, **given))


def test_captions_and_instances_of_one_picture_meet(tmp_path: Path) -> None:
    draw(tmp_path / "images", "1.jpg", "2.jpg")
    write(tmp_path / "annotations" / "instances_val.json", [annotation(7, 2), annotation(8, 1, segmentation=[])])
    write(tmp_path / "annotations" / "captions_val.json", [caption(7, 2)], categories=[])
    (tmp_path / "annotations" / "person_keypoints_val.json").write_text("{}")
    manifest, quarantine = built("coco", tmp_path / "annotations", tmp_path / "images")
    assert quarantine == []
    assert manifest.samples["splits"].to_pylist() == [["val"], ["val"]]
    whole = Region("caption-7", "val", ((0.0, 0.0, 64.0, 48.0),), (Expression("caption-7", "a dog runs"),))
    first, second = manifest.read_record(0), manifest.read_record(1)
    assert first.regions == (Region("8", "val", ((5, 5, 16, 16),), (Expression("8", "dog"),), None, "dog"),)
    assert second.regions[0] == whole
    assert second.regions[1].expressions == (Expression("7", "dog"),)
    assert coco_mask.area(second.regions[1].mask) == 225
    assert account(manifest, "val", "mask") == (1, 1, {})
    verify(manifest.folder, full=True, progress=False)


def test_a_caption_may_be_of_a_box_or_a_mask(tmp_path: Path) -> None:
    boxed = caption(1, 1, "the left dog", bbox=[1, 2, 3, 4], category_id=1)
    masked = caption("m", 1, "the right dog", segmentation=TRIANGLE)
    (sample,) = samples(write(tmp_path / "own.json", [boxed, masked]))
    first, second = sample.record.regions
    assert first == Region("1", "train", ((1.0, 2.0, 3.0, 4.0),), (Expression("1", "the left dog"),), None, "dog")
    assert (second.id, second.boxes, second.category) == ("m", ((5.0, 5.0, 15.0, 15.0),), None)


def test_crowds_are_left_out_by_the_rule(tmp_path: Path) -> None:
    runs = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    crowd = annotation(8, 1, iscrowd=1, segmentation=runs)
    draw(tmp_path, "1.jpg", "2.jpg")
    manifest, (row,) = built("coco", write(tmp_path / "own.json", [annotation(7, 1), crowd]), brake=Brake(strict=True))
    assert (row["kind"], row["id"], row["cause"]) == ("region", "8", "crowd")
    assert account(manifest, "train", "mask") == (2, 1, {"crowd": 1})
    assert account(manifest, "train", "box") == (2, 1, {"crowd": 1})


@pytest.mark.parametrize(
    ("given", "cause", "reason"),
    [
        (annotation(8, 5), "no picture", "key 'image_id' is 5, which 'images' does not list"),
        (annotation(8, 1) | {"image_id": "1"}, "field", "key 'image_id' is '1'"),
        (annotation(None, 1), "field", "annotation 1: key 'id' is None"),
        (annotation(8, 2, category_id=9), "no category", "key 'category_id' is 9"),
        (annotation(8, 2, category_id=None), "field", "has neither caption nor category_id"),
        (annotation(8, 2, bbox=[1, 2, "3", 4]), "box", "'3'"),
        (annotation(8, 2, bbox=[70, 2, 3, 4]), "box", "outside"),
        (annotation(8, 2, segmentation=[[1, 2]]), "polygon", "three points"),
        ({"id": 8, "image_id": 2, "category_id": 1}, "field", "has neither caption nor bbox nor segmentation"),
        (caption(8, 2, " "), "blank", "key 'caption' is empty"),
        (caption(8, 2, 5), "field", "key 'caption' is 5"),
    ],
)
def test_a_fault_of_an_annotation_takes_it_alone(tmp_path: Path, given: Any, cause: str, reason: str) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    manifest, rows = built("coco", write(tmp_path / "own.json", [annotation(7, 1), given]))
    assert texts(manifest) == {"7": "dog"}
    (row,) = (row for row in rows if row["kind"] == "region")
    assert row["cause"] == cause
    assert reason in row["reason"]
    assert account(manifest, "train", "expression") == (2, 1, {cause: 1})
    verify(manifest.folder, full=True, progress=False)


def test_ids_that_occur_twice(tmp_path: Path) -> None:
    given = [annotation(7, 1), annotation(8, 1), annotation(7, 1), annotation(9, 1), annotation(8, 2), annotation(9, 1)]
    draw(tmp_path, "1.jpg", "2.jpg")
    manifest, rows = built("coco", write(tmp_path / "own.json", given))
    assert texts(manifest) == {"7": "dog", "9": "dog"}
    assert account(manifest, "train", "region") == (6, 2, {"duplicate id": 4})
    reasons = [row["reason"] for row in rows if row["kind"] == "region"]
    assert sum("annotation 8 occurs twice, with other contents" in reason for reason in reasons) == 2
    assert sum("occurs twice, alike" in reason for reason in reasons) == 2


def test_images_that_cannot_be_used_take_their_annotations(tmp_path: Path) -> None:
    bad = [*IMAGES, {"id": 3, "file_name": "3.jpg", "width": "wide", "height": HEIGHT}, {"id": "4"}]
    path = write(tmp_path / "own.json", [annotation(7, 1), annotation(8, 3)], bad)
    draw(tmp_path, "1.jpg")
    manifest, (row,) = built("coco", path)
    assert tells(row["reason"], "image 3: key 'width' is 'wide'")
    assert account(manifest, "train", "region") == (2, 1, {"field": 1})
    other = [image | {"width": 100} for image in IMAGES]
    write(tmp_path / "two" / "instances_train.json", [annotation(7, 1), annotation(9, 2)])
    write(tmp_path / "two" / "captions_train.json", [caption(7, 1)], other[:1])
    draw(tmp_path / "two", "1.jpg", "2.jpg")
    manifest, rows = built("coco", tmp_path / "two")
    assert account(manifest, "train", "picture") == (2, 1, {"size": 1})
    assert tells(rows[0]["reason"], "1.jpg is of two sizes, 100x48 and 64x48")


def test_splits_and_folders_are_those_of_the_file_s_name(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        write(tmp_path / "anns" / f"instances_{part}.json", [annotation(7, 1)])
        draw(tmp_path / "images" / part, "1.jpg")
    first, second = samples(tmp_path / "anns", images=tmp_path / "images")
    assert (first.record.file_name, first.record.splits) == ("train2017/1.jpg", ("train",))
    assert second.image == tmp_path / "images" / "val2017" / "1.jpg"
    (only,) = samples(tmp_path / "anns", images=tmp_path / "images", splits=["val"])
    assert only.record.splits == ("val",)
    assert len(samples(tmp_path / "anns", with_images=False)) == 2
    (flat,) = samples(tmp_path / "anns" / "instances_val2017.json", images=tmp_path / "images" / "val2017")
    assert (flat.record.file_name, flat.record.splits) == ("1.jpg", ("val",))
    with pytest.raises(InputError, match=r"--split test: .* expected one of train, val"):
        samples(tmp_path / "anns", splits=["test"])


def test_the_split_is_that_of_the_folder_where_the_name_tells_none(tmp_path: Path) -> None:
    """As Roboflow exports: held-out images must not become train."""
    for folder, split in (("train", "train"), ("valid", "val"), ("Test", "test"), ("latest", "train")):
        table = write(tmp_path / folder / "_annotations.coco.json", [annotation(7, 1)])
        draw(tmp_path / folder, "1.jpg")
        for root in (table, table.parent):
            (one,) = samples(root)
            assert (one.record.file_name, one.record.splits) == ("1.jpg", (split,))
    with pytest.raises(InputError, match=r"no \*\.json there \(there are some in Test, latest, train, valid: give one"):
        samples(tmp_path)


def test_the_coco_id_is_kept_where_the_name_is_coco_s(tmp_path: Path) -> None:
    names = {42: "000000000042.jpg", 43: "COCO_val2014_000000000043.jpg", 44: "000000000045.jpg", 46: "46.jpg"}
    images = [{"id": id, "file_name": name, "width": 9, "height": 9} for id, name in names.items()]
    found = samples(write(tmp_path / "own.json", [annotation(id, id, segmentation=[]) for id in names], images))
    assert {sample.record.file_name: sample.record.coco_id for sample in found} == {
        names[42]: 42,
        names[43]: 43,
        names[44]: None,
        names[46]: None,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"own\.json: broken JSON"),
        ("{}", r"own\.json: holds no entries; expected an array under 'images'"),
        (json.dumps({"images": IMAGES}), "expected an array under 'annotations'"),
        (json.dumps({"images": [IMAGES[0] | {"file_name": "../1.jpg"}]}), r"'\.\./1\.jpg' leaves its folder"),
        (json.dumps({"images": IMAGES, "categories": [{"id": 1}]}), "category: key 'name' is missing"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(InputError, match=message):
        samples(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone: no such folder; .*COCO's format"):
        samples(tmp_path / "gone")
    with pytest.raises(InputError, match=r"no \*\.json there"):
        samples(tmp_path)
    write(tmp_path / "own.json", [annotation(7, 1)])
    with pytest.raises(InputError, match=r"gone: no such folder; .*--images"):
        samples(tmp_path, images=tmp_path / "gone")
    with pytest.raises(InputError, match="--partition x: coco has one partition only"):
        samples(tmp_path, partition="x")


@needs(DATA)
def test_real_instances_of_coco() -> None:
    """RefCOCO's instances.json is COCO's own format."""
    path = DATA / "refcoco" / "instances.json"
    real = json.loads(path.read_text())
    names = {one["id"]: one["name"] for one in real["categories"]}
    whole = {one["id"]: one for one in real["annotations"] if not one["iscrowd"]}
    sizes = {one["id"]: (one["height"], one["width"]) for one in real["images"]}
    found = {region.id: region for sample in samples(path, with_images=False) for region in sample.record.regions}
    assert found.keys() == set(map(str, whole))
    for id, given in whole.items():
        region = found[str(id)]
        assert region.expressions[0].text == names[given["category_id"]]
        assert region.boxes == (tuple(map(float, given["bbox"])),)
        pixels = np.zeros(sizes[given["image_id"]], np.uint8)
        for polygon in coco_mask.frPyObjects(given["segmentation"], *pixels.shape):
            pixels |= coco_mask.decode(polygon)
        np.testing.assert_array_equal(coco_mask.decode(region.mask), pixels)
