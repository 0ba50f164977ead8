"""gRefCOCO: groups of referents, none among them, in the layout of its authors."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from tests.samples import SAMPLES, needs

DATA = SAMPLES / "refer"
LEFT = [[2.0, 4.0, 10.0, 4.0, 10.0, 14.0, 2.0, 14.0]]
RIGHT = [[20.0, 4.0, 30.0, 4.0, 30.0, 14.0, 20.0, 14.0]]
OVERLAPPING = [[6.0, 8.0, 24.0, 8.0, 24.0, 12.0, 6.0, 12.0]]


def _annotation(id: int, segmentation: Any, category: int = 1, **changes: Any) -> dict[str, Any]:
    xs, ys = segmentation[0][::2], segmentation[0][1::2]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    shape = {"bbox": box, "segmentation": segmentation, "iscrowd": 0}
    return {"id": id, "image_id": 9, "category_id": category, **shape, **changes}


ANNOTATIONS = [_annotation(1, LEFT), _annotation(2, RIGHT, 2), _annotation(3, OVERLAPPING)]


def _ref(ref_id: int, ann_id: Any, **changes: Any) -> dict[str, Any]:
    sentences = [{"sent_id": 100 * ref_id, "sent": f"thing {ref_id}", "raw": "Thing!", "tokens": []}]
    fields = {"category_id": [1], "file_name": "x.jpg", "no_target": ann_id == [-1]}
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": 9,
        "split": "train",
        "sentences": sentences,
        **fields,
        **changes,
    }


def _write(root: Path, refs: Any, annotations: list[dict[str, Any]] = ANNOTATIONS) -> Path:
    folder = root / "grefcoco"
    folder.mkdir(parents=True)
    (root / "images" / "train2014").mkdir(parents=True)
    instances = {
        "images": [{"id": 9, "file_name": "COCO_train2014_9.jpg", "width": 40, "height": 24}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "vase"}, {"id": 2, "name": "cup"}],
    }
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(instances))
    return root


def _samples(root: Path, images: Path | None = None, **options: Any) -> list[RawSample]:
    options = {"splits": None, "partition": None, **options}
    return list(sources.get("grefcoco").samples(root, images=images, **options))


def _pixels(segmentation: Any) -> Any:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, 24, 40)))


def test_a_group_is_one_region_with_all_boxes_and_the_union_of_the_masks(tmp_path: Path) -> None:
    refs = [_ref(1, [1, 2]), _ref(2, [1, 3], split="val"), _ref(3, [2]), _ref(4, [-1], split="val"), _ref(5, 1)]
    (sample,) = _samples(_write(tmp_path, refs))
    assert sample.image == tmp_path / "images/train2014/COCO_train2014_9.jpg"
    record = sample.record
    assert (record.source, record.coco_id, record.splits) == ("grefcoco", 9, ("train", "val"))
    both, touching, one, none, bare = record.regions
    assert both.boxes == ((2.0, 4.0, 8.0, 10.0), (20.0, 4.0, 10.0, 10.0))
    assert both.category is None, "a vase and a cup"
    assert [expression.text for expression in both.expressions] == ["thing 1"]
    np.testing.assert_array_equal(coco_mask.decode(both.mask), _pixels(LEFT) | _pixels(RIGHT))
    np.testing.assert_array_equal(coco_mask.decode(touching.mask), _pixels(LEFT) | _pixels(OVERLAPPING))
    assert (touching.category, one.category) == ("vase", "cup")
    np.testing.assert_array_equal(coco_mask.decode(one.mask), _pixels(RIGHT))
    assert none.boxes == ()
    assert none.mask is not None
    assert none.mask["size"] == [24, 40]
    assert coco_mask.decode(none.mask).sum() == 0
    assert none.category is None
    assert bare.boxes == ((2.0, 4.0, 8.0, 10.0),)


def test_a_crowd_in_a_group_is_skipped_as_its_authors_do(tmp_path: Path) -> None:
    crowd = _annotation(2, RIGHT, iscrowd=1)
    (sample,) = _samples(_write(tmp_path / "a", [_ref(1, [1, 2])], [ANNOTATIONS[0], crowd]))
    (region,) = sample.record.regions
    assert region.boxes == ((2.0, 4.0, 8.0, 10.0),)
    np.testing.assert_array_equal(coco_mask.decode(region.mask), _pixels(LEFT))
    (fault,) = sample.faults
    assert (fault.kind, fault.id, fault.cause, fault.takes) == ("box", "2", "crowd", (("box", 1),))
    crowds = [_annotation(1, LEFT, iscrowd=1), crowd]
    with pytest.raises(InputError, match=r"ref_id 1: .* crowd; nor can any other"):
        _samples(_write(tmp_path / "b", [_ref(1, [1, 2])], crowds))


@needs(DATA)
def test_groups_of_real_annotations(tmp_path: Path) -> None:
    real = json.loads((DATA / "refcoco" / "instances.json").read_text())
    image = next(one for one in real["images"] if one["id"] == 495169)
    members = [one for one in real["annotations"] if one["image_id"] == image["id"] and not one.get("iscrowd")]
    assert len(members) > 2
    ids = [one["id"] for one in members]
    root = _write(tmp_path, [_ref(1, ids, image_id=image["id"]), _ref(2, [-1], image_id=image["id"])])
    (root / "grefcoco" / "instances.json").write_text(json.dumps(real))
    (sample,) = _samples(root)
    group, nothing = sample.record.regions
    assert len(group.boxes) == len(members)
    sides = image["height"], image["width"]
    union = np.zeros(sides, np.uint8)
    for one in members:
        for polygon in coco_mask.frPyObjects(one["segmentation"], *sides):
            union |= coco_mask.decode(polygon)
    np.testing.assert_array_equal(coco_mask.decode(group.mask), union)
    assert nothing.boxes == ()


def test_the_images_may_lie_where_refer_has_them(tmp_path: Path) -> None:
    root = _write(tmp_path, [_ref(1, [1])])
    (root / "images" / "train2014").rmdir()
    with pytest.raises(InputError, match=r"images/mscoco/images/train2014: no such folder; .* --images"):
        _samples(root)
    (root / "images/mscoco/images/train2014").mkdir(parents=True)
    samples = sources.get("grefcoco").samples(root, images=None, splits=["train"], partition="unc")
    assert operator.length_hint(samples) == 1
    assert next(samples).image == root / "images/mscoco/images/train2014/COCO_train2014_9.jpg"


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ([_ref(1, [])], r"grefs\(unc\)\.json: ref 0: key 'ann_id' is \[\], expected .*annotation ids"),
        ([_ref(1, [1, -1])], r"ref 0: key 'ann_id' is \[1, -1\], expected"),
        ([_ref(1, ["1"])], r"ref 0: key 'ann_id' is \['1'\], expected"),
        ([_ref(1, [True])], r"ref 0: key 'ann_id' is \[True\], expected"),
        ([_ref(1, None)], "ref 0: key 'ann_id' is None, expected"),
        ([_ref(1, [1, 7])], r"ref_id 1: key 'ann_id' is 7, .*instances\.json"),
        ([_ref(1, [1], image_id=4)], r"ref_id 1: key 'image_id' is 4, .*instances\.json"),
        ([_ref(1, [1]), _ref(1, [2])], "ref_id 1 occurs twice"),
        ([_ref(1, [1], split=3)], "ref 0: key 'split' is 3, expected str"),
        ([_ref(1, [1], sentences="no")], "ref 0: key 'sentences' is 'no', expected list"),
        ([3], r"grefs\(unc\)\.json: item 0 is 3, expected an object"),
        ({}, r"grefs\(unc\)\.json: .*no entries; expected an array"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, refs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _samples(_write(tmp_path, refs))
    assert "\n" not in str(caught.value)


def test_a_sentence_without_text_is_lost_alone(tmp_path: Path) -> None:
    sentences = [{"sent_id": 1}, {"sent_id": 2, "sent": "both"}]
    (sample,) = _samples(_write(tmp_path, [_ref(1, [1], sentences=sentences)]))
    assert [expression.id for expression in sample.record.regions[0].expressions] == ["2"]
    (fault,) = sample.faults
    assert (fault.kind, fault.id, fault.region, fault.split, fault.cause) == ("expression", "1", "1", "train", "field")
    assert "ref 0, sentence 0: key 'sent' is missing" in fault.reason


def test_another_image_s_annotation_is_refused(tmp_path: Path) -> None:
    wrong = _annotation(2, RIGHT, image_id=8)
    with pytest.raises(InputError, match=r"annotation 2 of ref_id 1: key 'image_id' is 8, .* 9"):
        _samples(_write(tmp_path, [_ref(1, [1, 2])], [ANNOTATIONS[0], wrong]))


def test_the_missing_partition_is_reported_with_those_there_are(tmp_path: Path) -> None:
    root = _write(tmp_path, [_ref(1, [1])])
    message = r"--partition umd: .*grefs\(umd\)\.json .*expected one of unc"
    with pytest.raises(InputError, match=message):
        _samples(root, partition="umd")
