"""SimREC's files: the layout that its data_process.py writes, made here by the same steps from refs and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.samples import SAMPLES, needs
from tests.shards.faulty import HEIGHT, WIDTH, account, built, draw, texts

PIXELS = np.zeros((HEIGHT, WIDTH), np.uint8)
PIXELS[5:20, 5:20] = 1
PIXELS[10:12, 10:12] = 2  # where polygons overlap the original sums them
DATA = SAMPLES / "refer"


def item(iid: Any, mask_id: Any, *refs: Any, **changes: Any) -> dict[str, Any]:
    return {"iid": iid, "bbox": [5.0, 5.0, 15.0, 15.0], "cat_id": 0, "refs": list(refs), "mask_id": mask_id, **changes}


ITEMS = {
    "train": [item(1, 10, "one", "the one"), item(2, 20, "two")],
    "val": [item(1, 30, "x"), item(1, 31, "z"), item(1, 30, "y")],
}


def write(root: Path, given: Any = ITEMS, name: str = "refcoco", masks: dict[int, Any] | None = None) -> Path:
    (root / "anns").mkdir(parents=True, exist_ok=True)
    (root / "masks" / name).mkdir(parents=True, exist_ok=True)
    (root / "anns" / f"{name}.json").write_text(json.dumps(given))
    for mask_id in (10, 20, 30, 31):
        np.save(root / "masks" / name / f"{mask_id}.npy", PIXELS)
    for mask_id, pixels in (masks or {}).items():
        np.save(root / "masks" / name / f"{mask_id}.npy", pixels)
    draw(root / "images" / "train2014", *(f"COCO_train2014_{number:012d}.jpg" for number in (1, 2)))
    return root


def samples(root: Path, **options: Any) -> list[RawSample]:
    given = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("simrec").samples(root, **given))


def test_items_become_regions_of_their_texts(tmp_path: Path) -> None:
    manifest, quarantine = built("simrec", write(tmp_path / "data"))
    assert quarantine == []
    assert texts(manifest) == {"10-0": "one", "10-1": "the one", "20-0": "two", "30-0": "x", "30-1": "y", "31-0": "z"}
    assert manifest.samples["key"].to_pylist() == ["simrec-refcoco-1", "simrec-refcoco-2"]
    assert manifest.samples["coco_id"].to_pylist() == [1, 2]
    region = manifest.read_record(1).regions[0]
    assert (region.id, region.split, region.boxes) == ("20", "train", ((5, 5, 15, 15),))
    np.testing.assert_array_equal(coco_mask.decode(region.mask), PIXELS > 0)
    assert account(manifest, "val", "region") == (2, 2, {})
    assert account(manifest, "train", "mask") == (2, 2, {})
    verify(manifest.folder, full=True, progress=False)


def test_both_layouts_and_the_choice_among_several(tmp_path: Path) -> None:
    root = write(tmp_path / "data")
    (root / "anns" / "refcocog").mkdir()
    (root / "anns" / "refcocog" / "refcocog.json").write_text(json.dumps({"train": [item(1, 10, "g")]}))
    with pytest.raises(InputError, match=r"anns: holds several data sets; .* with one of refcoco, refcocog"):
        samples(root)
    with pytest.raises(InputError, match=r"--partition umd is not there; .* refcoco, refcocog"):
        samples(root, partition="umd")
    (sample,) = samples(root, partition="refcocog")
    assert sample.record.regions[0].expressions == (Expression("10-0", "g"),)
    assert sample.record.picture_id == "refcocog-1"
    assert len(samples(root, partition="refcoco", splits=["val"])) == 1
    with pytest.raises(
        InputError, match=r"--split test: .*refcoco\.json has no such split; expected one of train, val"
    ):
        samples(root, partition="refcoco", splits=["test"])


def test_referit_has_names_and_numbers_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, {"train": [item(7, 10, "it")]}, name="refclef")
    draw(tmp_path / "images" / "refclef", "7.jpg")
    (sample,) = samples(tmp_path)
    assert sample.image == tmp_path / "images" / "refclef" / "7.jpg"
    assert sample.record.coco_id is None


def test_images_elsewhere(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "images" / "train2014").rename(tmp_path / "images" / "coco")
    assert samples(tmp_path)[0].image == tmp_path / "images" / "coco" / "COCO_train2014_000000000001.jpg"
    (tmp_path / "images" / "coco").rename(tmp_path / "mine")
    with pytest.raises(InputError, match=r"train2014: no such folder; .*--images"):
        samples(tmp_path)
    assert len(samples(tmp_path, with_images=False)) == 2
    assert samples(tmp_path, images=tmp_path / "mine")[0].image.is_file()


def test_without_masks_regions_have_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write(tmp_path / "data")
    (root / "masks").rename(root / "elsewhere")
    manifest, quarantine = built("simrec", root)
    assert quarantine == []
    assert "mask" not in manifest.meta["ledger"]["train"]
    assert tells(caplog.messages[0], "masks/refcoco: no such folder", "no masks")


class Planted:
    """What a pickle would call."""

    def __reduce__(self) -> Any:
        return Path("/nowhere/planted").touch, ()


@pytest.mark.parametrize(
    ("mask", "cause", "reason"),
    [
        (np.array([Planted()], dtype=object), "mask", "is no array of numbers"),
        (np.zeros((4, 4, 3), np.uint8), "mask", "(4, 4, 3)"),
        (np.zeros((4, 4)), "mask", "float64"),
        (np.zeros((0, 4), np.uint8), "mask", "0 pixels"),
        (np.zeros((10, 10), np.uint8), "mask", "mask of size [10, 10]"),
    ],
)
def test_a_mask_that_is_none_takes_its_region(tmp_path: Path, mask: Any, cause: str, reason: str) -> None:
    manifest, rows = built("simrec", write(tmp_path / "data", masks={20: mask}))
    assert account(manifest, "train", "region") == (2, 1, {cause: 1})
    (row,) = (row for row in rows if row["kind"] == "region")
    assert (row["id"], row["cause"]) == ("20", cause)
    assert reason in row["reason"]


def test_a_mask_that_claims_more_than_there_is(tmp_path: Path) -> None:
    root = write(tmp_path / "data")
    path = root / "masks" / "refcoco" / "20.npy"
    head = "{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 60000), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + b"\x01" * 99)
    manifest, _ = built("simrec", root)
    assert account(manifest, "train", "region") == (2, 1, {"mask": 1})
    path.unlink()
    manifest, _ = built("simrec", root.rename(tmp_path / "again"))
    assert account(manifest, "train", "region") == (2, 1, {"no file": 1})


def test_masks_have_as_many_pixels_as_an_image_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path)
    monkeypatch.setattr("laconvnet.shards.sources.simrec.MAX_PIXELS", HEIGHT * WIDTH)
    assert not any(sample.faults for sample in samples(root))
    monkeypatch.setattr("laconvnet.shards.sources.simrec.MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(InputError, match=r"has 3072 pixels, expected 1 to 3071"):
        samples(root)


@pytest.mark.parametrize(
    ("given", "cause", "reason"),
    [
        (item("2", 20, "two"), "field", "train 1: key 'iid' is '2'"),
        (item(-2, 20, "two"), "field", "key 'iid' is -2"),
        (item(None, 20) | {"refs": 5}, "field", "key 'iid' is None"),
        (item(2, "20", "two"), "field", "key 'mask_id' is '20'"),
        (item(2, 20, "two", bbox=[1, 2, 3]), "box", "[1, 2, 3]"),
        (item(2, 20, bbox=None), "field", "key 'bbox' is None"),
        (item(2, 20) | {"refs": "two"}, "field", "key 'refs' is 'two'"),
    ],
)
def test_a_fault_of_an_item_takes_it_alone(tmp_path: Path, given: Any, cause: str, reason: str) -> None:
    manifest, rows = built("simrec", write(tmp_path / "data", {"train": [ITEMS["train"][0], given]}))
    assert texts(manifest) == {"10-0": "one", "10-1": "the one"}
    assert account(manifest, "train", "region") == (2, 1, {cause: 1})
    number = len(given["refs"]) if isinstance(given["refs"], list) else 0
    assert account(manifest, "train", "expression") == (2 + number, 2, {cause: number} if number else {})
    (row,) = (row for row in rows if row["kind"] == "region")
    assert reason in row["reason"]
    verify(manifest.folder, full=True, progress=False)


def test_a_text_without_words_is_lost_alone(tmp_path: Path) -> None:
    given = {"train": [item(1, 10, "one", " ", 5, "two")]}
    manifest, rows = built("simrec", write(tmp_path / "data", given))
    assert texts(manifest) == {"10-0": "one", "10-3": "two"}
    assert {(row["id"], row["cause"]) for row in rows} == {("10-1", "blank"), ("10-2", "field")}


def test_a_mask_id_of_two_boxes_is_lost(tmp_path: Path) -> None:
    given = {"train": ITEMS["train"], "val": [item(1, 30, "x"), item(1, 30, "y", bbox=[1, 2, 3, 4])]}
    manifest, rows = built("simrec", write(tmp_path / "data", given))
    assert account(manifest, "val", "expression") == (2, 0, {"duplicate id": 2})
    assert any("val 0: mask_id 30 has another bbox in val 1" in row["reason"] for row in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"refcoco\.json: begins with start_array, expected an object"),
        ("{", r"refcoco\.json: broken JSON"),
        ('{"train": []}', "holds no entries; expected an array under 'train'"),
        ('{"train": ' + "[" * 100, "nested more than 64 deep"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path)
    (tmp_path / "anns" / "refcoco.json").write_text(content)
    with pytest.raises(InputError, match=message):
        samples(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"anns: no such folder; .*SimREC's data folder"):
        samples(tmp_path)
    (tmp_path / "anns").mkdir()
    with pytest.raises(InputError, match=r"none of refcoco\.json, refcoco\+\.json"):
        samples(tmp_path)


@needs(DATA)
def test_real_refs_by_the_steps_of_data_process(tmp_path: Path) -> None:
    """The same regions as from the files of REFER, of which SimREC's program makes its own."""
    options: dict[str, Any] = {"images": tmp_path, "splits": None, "partition": None}
    refer = [sample.record for sample in sources.get("refcoco").samples(DATA, **options)]
    made: dict[str, list[Any]] = {}
    masks = tmp_path / "masks" / "refcoco"
    masks.mkdir(parents=True)
    for record in refer:
        for region in record.regions:
            np.save(masks / f"{region.id}.npy", coco_mask.decode(region.mask))
            sents = [one.text for one in region.expressions]
            each = [sents] if region.split == "train" else [[sent] for sent in sents]
            made.setdefault(region.split, []).extend(
                {"iid": record.coco_id, "bbox": region.boxes[0], "cat_id": 0, "refs": refs, "mask_id": int(region.id)}
                for refs in each
            )
    (tmp_path / "anns").mkdir()
    (tmp_path / "anns" / "refcoco.json").write_text(json.dumps(made))
    found = [sample.record for sample in samples(tmp_path, images=tmp_path)]
    assert [record.coco_id for record in found] == [record.coco_id for record in refer]
    for ours, theirs in zip(found, refer, strict=True):
        assert {(one.id, one.split, one.boxes, str(one.mask)) for one in ours.regions} == {
            (one.id, one.split, one.boxes, str(one.mask)) for one in theirs.regions
        }
        for one, other in zip(
            sorted(ours.regions, key=lambda region: region.id),
            sorted(theirs.regions, key=lambda region: region.id),
            strict=True,
        ):
            assert [each.text for each in one.expressions] == [each.text for each in other.expressions]
