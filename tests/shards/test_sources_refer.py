"""RefCOCO, RefCOCO+ and RefCOCOg: exact on the real samples, strict on what is broken."""

from __future__ import annotations

import json
import operator
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco_mask

from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from tests.samples import SAMPLES, needs

DATA = SAMPLES / "refer"
real = needs(DATA)
SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]


def _samples(name: str, root: Path, images: Path | None = None, **options: Any) -> list[RawSample]:
    options = {"splits": None, "partition": None, **options}
    return list(sources.get(name).samples(root, images=images, **options))


def _ref(ref_id: int, image_id: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    return {
        "ref_id": ref_id,
        "ann_id": ref_id * 10,
        "image_id": image_id,
        "category_id": 1,
        "split": split,
        "file_name": f"COCO_train2014_{image_id}_{ref_id * 10}.jpg",
        "sentences": [{"sent_id": ref_id * 100, "sent": f"thing {ref_id}", "raw": "Thing!", "tokens": []}],
        **changes,
    }


def _write(root: Path, refs: list[dict[str, Any]], **changes: Any) -> Path:
    folder = root / "refcoco"
    folder.mkdir(parents=True)
    (root / "images" / "mscoco" / "images" / "train2014").mkdir(parents=True)
    instances = {
        "images": [{"id": id, "file_name": f"COCO_train2014_{id}.jpg", "width": 64, "height": 48} for id in (9, 2)],
        "annotations": [
            {"id": id * 10, "image_id": image, "category_id": 1, "bbox": [10, 10, 10, 10.5], "segmentation": SQUARE}
            for id, image in ((1, 9), (2, 9), (3, 2))
        ],
        "categories": [{"id": 1, "name": "vase"}],
        **changes,
    }
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 0))
    (folder / "instances.json").write_text(json.dumps(instances))
    return root


REFS = [_ref(2, 9, "val"), _ref(1, 9), _ref(3, 2, "testA")]


@real
@pytest.mark.parametrize(
    ("name", "partition", "splits", "images", "sentences"),
    [
        ("refcoco", "unc", {"train": 2, "val": 2, "testA": 2, "testB": 2}, 4, 23),
        ("refcoco", "google", {"train": 2, "val": 2, "test": 2}, 2, 17),
        ("refcoco+", "unc", {"train": 2, "val": 2, "testA": 2, "testB": 2}, 4, 25),
        ("refcocog", "google", {"train": 2, "val": 2}, 2, 8),
        ("refcocog", "umd", {"train": 2, "val": 2, "test": 2}, 3, 12),
    ],
)
def test_the_real_samples(
    tmp_path: Path, name: str, partition: str, splits: dict[str, int], images: int, sentences: int
) -> None:
    samples = _samples(name, DATA, tmp_path, partition=partition)
    records = [sample.record for sample in samples]
    regions = [region for record in records for region in record.regions]
    assert len(records) == images
    assert [int(record.picture_id) for record in records] == sorted(int(record.picture_id) for record in records)
    assert Counter(region.split for region in regions) == splits
    assert sum(len(region.expressions) for region in regions) == sentences
    for sample, record in zip(samples, records, strict=True):
        assert record.source == name
        assert record.coco_id == int(record.picture_id)
        assert record.file_name == f"COCO_train2014_{record.coco_id:012}.jpg"
        assert sample.image == tmp_path / record.file_name
        for region in record.regions:
            assert region.mask is not None
            assert region.mask["size"] == [record.height, record.width]
            x, y, w, h = coco_mask.toBbox(region.mask)
            assert region.box == pytest.approx((x, y, w, h), abs=2)


@real
@pytest.mark.parametrize(("name", "partition"), [("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")])
def test_the_default_partition(tmp_path: Path, name: str, partition: str) -> None:
    assert _samples(name, DATA, tmp_path) == _samples(name, DATA, tmp_path, partition=partition)


@real
def test_one_real_referent_in_full(tmp_path: Path) -> None:
    record = next(s.record for s in _samples("refcoco", DATA, tmp_path) if s.record.picture_id == "495169")
    region = next(region for region in record.regions if region.id == "7571")
    assert (record.width, record.height, region.split, region.category) == (640, 480, "testA", "person")
    assert [(e.id, e.text) for e in region.expressions] == [
        ("21565", "girl on the very left"),
        ("21566", "girl on left long blond hair"),  # raw has a comma
        ("21567", "left woman gray shirt"),  # raw has "grey"
    ]


@real
def test_a_sentence_that_occurs_twice_stays_twice(tmp_path: Path) -> None:
    samples = _samples("refcoco+", DATA, tmp_path)
    texts = Counter(e.text for s in samples for region in s.record.regions for e in region.expressions)
    assert texts["woman with scarf"] == 2
    assert texts["apples"] == 2


@real
def test_real_splits_choose_regions_and_images(tmp_path: Path) -> None:
    samples = _samples("refcoco", DATA, tmp_path, partition="google", splits=["val"])
    assert {s.record.picture_id: [r.id for r in s.record.regions] for s in samples} == {
        "460986": ["10506"],
        "510027": ["6278"],
    }


def test_images_lie_where_the_refer_tool_looks(tmp_path: Path) -> None:
    root = _write(tmp_path, REFS)
    samples = sources.get("refcoco").samples(root, images=None, splits=None, partition=None)
    assert operator.length_hint(samples) == 2
    got = list(samples)
    assert [sample.image for sample in got] == [
        root / "images/mscoco/images/train2014" / f"COCO_train2014_{id}.jpg" for id in (2, 9)
    ]
    region = got[1].record.regions[1]
    assert (region.id, region.boxes, region.category) == ("1", ((10.0, 10.0, 10.0, 10.5),), "vase")
    assert [r.id for r in got[1].record.regions] == ["2", "1"]


def test_blank_sentences_are_lost_and_named(tmp_path: Path) -> None:
    sentences = [{"sent_id": 1, "sent": " \t"}, {"sent_id": 2, "sent": " left  vase "}, {"sent_id": 3, "sent": ""}]
    root = _write(tmp_path, [_ref(1, 9, sentences=sentences)])
    (sample,) = _samples("refcoco", root)
    assert [(e.id, e.text) for e in sample.record.regions[0].expressions] == [("2", "left vase")]
    assert [(fault.kind, fault.id, fault.region, fault.cause) for fault in sample.faults] == [
        ("expression", "1", "1", "blank"),
        ("expression", "3", "1", "blank"),
    ]
    assert all("refs(unc).p" in fault.reason for fault in sample.faults)


@pytest.mark.parametrize("form", ["plain", "compressed"])
def test_masks_as_run_lengths(tmp_path: Path, form: str) -> None:
    (polygon,) = _samples("refcoco", _write(tmp_path / "a", [_ref(1, 9)]))
    expected = polygon.record.regions[0].mask
    assert expected is not None
    pixels = coco_mask.decode(expected).flatten(order="F").tolist()
    runs = [0]
    for before, value in zip([0, *pixels], pixels, strict=False):
        if value != before:
            runs.append(0)
        runs[-1] += 1
    segmentation = {"size": [48, 64], "counts": runs} if form == "plain" else expected
    annotation = {"id": 10, "image_id": 9, "category_id": 1, "bbox": [10, 10, 10, 10.5], "segmentation": segmentation}
    (sample,) = _samples("refcoco", _write(tmp_path / "b", [_ref(1, 9)], annotations=[annotation]))
    assert sample.record.regions[0].mask == expected


@pytest.mark.parametrize(
    ("refs", "changes", "message"),
    [
        ([_ref(1, 5)], {}, r"refs\(unc\)\.p: ref_id 1: key 'image_id' is 5, .*instances\.json"),
        ([_ref(1, 9, ann_id=7)], {}, r"refs\(unc\)\.p: ref_id 1: key 'ann_id' is 7, .*instances\.json"),
        ([_ref(1, 2)], {}, "annotation 10 of ref_id 1: key 'image_id' is 9, .* 2"),
        ([_ref(1, 9), _ref(1, 9, ann_id=20)], {}, "ref_id 1 occurs twice, with other contents: .*10.* and .*20"),
        ([_ref(1, 9)], {"categories": [{"id": 4, "name": "cup"}]}, "key 'category_id' is 1, which 'categories'"),
        ([_ref(1, 9)], {"images": []}, "instances.json: .*no entries; expected .*'images'"),
        (
            [_ref(1, 9)],
            {"images": [{"id": 9, "file_name": "../../etc/passwd", "width": 64, "height": 48}]},
            "file name '../../etc/passwd' leaves its folder",
        ),
        (
            [_ref(1, 9)],
            {"images": [{"id": 9, "file_name": "/etc/passwd", "width": 64, "height": 48}]},
            "file name '/etc/passwd' leaves its folder",
        ),
        (
            [_ref(1, 9)],
            {"images": [{"id": 9, "file_name": "x.jpg", "width": 10**9, "height": 48}]},
            "image 9: key 'width' is 1000000000",
        ),
        (
            [_ref(1, 9)],
            {"annotations": [{"id": 10, "image_id": 9, "category_id": 1, "bbox": [1, 2], "segmentation": SQUARE}]},
            "annotation 10 of ref_id 1: box .* expected four",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, refs: list[Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _samples("refcoco", _write(tmp_path, refs, **changes))
    assert "\n" not in str(caught.value)


def test_missing_files_are_named_before_the_first_sample(tmp_path: Path) -> None:
    def start(root: Path, **options: Any) -> None:
        sources.get("refcoco").samples(root, **{"images": None, "splits": None, "partition": None, **options})

    with pytest.raises(InputError, match=r"nowhere/refcoco: no such folder; .*change --root"):
        start(tmp_path / "nowhere")
    root = _write(tmp_path, REFS)
    with pytest.raises(InputError, match=r"--partition google: .*refs\(google\)\.p .*expected one of unc"):
        start(root, partition="google")
    with pytest.raises(InputError, match=r"--split test: .*refs\(unc\)\.p has .* one of testA, train, val"):
        start(root, splits=["test"])
    with pytest.raises(InputError, match=r"elsewhere: no such folder; .* --images"):
        start(root, images=tmp_path / "elsewhere")
    (root / "images/mscoco/images/train2014").rmdir()
    with pytest.raises(InputError, match=r"images/mscoco/images/train2014: no such folder; .* --images"):
        start(root)
    (root / "refcoco/instances.json").unlink()
    with pytest.raises(InputError, match=r"instances\.json: no such file"):
        start(root)
