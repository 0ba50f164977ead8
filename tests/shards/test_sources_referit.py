"""ReferIt: REFER's layout under the name refclef, on images whose numbers are not COCO's."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from laconvnet.launch import cli
from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.sets.holdout import identities

WIDTH, HEIGHT = 48, 36


def _pixels(*boxes: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y, w, h in boxes:
        pixels[y : y + h, x : x + w] = 1
    return pixels


def _runs(*box: int) -> dict[str, Any]:
    """A box as the run lengths of instances.json: compressed, the counts as text."""
    rle = coco_mask.encode(np.asfortranarray(_pixels(box)))  # type: ignore[arg-type]
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def _annotation(id: Any, image: int, *segmentation: Any, **changes: Any) -> dict[str, Any]:
    shape = {"bbox": [4, 3, 20, 10], "segmentation": list(segmentation), "area": 200}
    return {"id": id, "image_id": image, "category_id": 7, **shape, **changes}


ANNOTATIONS = [_annotation(251, 25, _runs(4, 3, 20, 10)), _annotation(252, 25, _runs(0, 0, 5, 5), _runs(9, 9, 4, 4))]


def _ref(ref_id: Any, ann_id: Any, split: str | None = "train", **changes: Any) -> dict[str, Any]:
    sentence = {"sent_id": 10, "sent": f"rock {ref_id}", "raw": "Rock!", "tokens": ["rock"]}
    place = {"image_id": 25, "category_id": 7, "file_name": f"25_{ann_id}.jpg", "split": split, "sent_ids": [1]}
    return {"ref_id": ref_id, "ann_id": ann_id, "sentences": [sentence], **place, **changes}


def _write(root: Path, refs: list[dict[str, Any]], annotations: Any = ANNOTATIONS, partition: str = "berkeley") -> Path:
    (root / "refclef").mkdir(parents=True, exist_ok=True)
    (root / "images" / "saiapr_tc-12").mkdir(parents=True, exist_ok=True)
    (root / "refclef" / f"refs({partition}).p").write_bytes(pickle.dumps(refs, 0))
    instances = {
        "images": [{"id": 25, "file_name": "25.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "rock"}],
    }
    (root / "refclef" / "instances.json").write_text(json.dumps(instances))
    return root


def _samples(root: Path, **options: Any) -> list[RawSample]:
    options = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("referit").samples(root, **options))


def test_the_content_in_full(tmp_path: Path) -> None:
    root = _write(tmp_path, [_ref(1, 251), _ref(2, 252, "test")])
    (sample,) = _samples(root)
    assert sample.image == root / "images" / "saiapr_tc-12" / "25.jpg"
    record = sample.record
    assert (record.source, record.picture_id, record.file_name) == ("referit", "25", "25.jpg")
    assert (record.width, record.height, record.splits) == (WIDTH, HEIGHT, ("test", "train"))
    assert "SAIAPR" in sources.get("referit").title
    assert record.licence == sources.get("referit").licence
    assert "IAPR TC-12" in record.licence
    one, parts = record.regions
    assert (one.id, one.split, one.boxes) == ("1", "train", ((4.0, 3.0, 20.0, 10.0),))
    assert one.category is None, "the file's contradict what is said"
    assert [(expression.id, expression.text) for expression in one.expressions] == [("10", "rock 1")]
    assert one.mask is not None
    assert one.mask["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(coco_mask.decode(one.mask), _pixels((4, 3, 20, 10)))
    np.testing.assert_array_equal(coco_mask.decode(parts.mask), _pixels((0, 0, 5, 5), (9, 9, 4, 4)))


def test_a_number_is_no_coco_id(tmp_path: Path) -> None:
    """Image 25 of IAPR TC-12 is not image 25 of COCO, nor of Visual Genome or Flickr30k."""
    (sample,) = _samples(_write(tmp_path, [_ref(1, 251)]))
    record = sample.record
    assert record.coco_id is None
    known_by = identities(record.source, record.file_name, record.coco_id, 255)
    assert known_by == (("file name", "referit/25"), ("bytes", "00000000000000ff"))
    for source, coco_id in (("refcoco", 25), ("coco", 25), ("visual_genome", None), ("flickr30k", None)):
        assert not set(known_by) & set(identities(source, "25.jpg", coco_id, 256))


def test_the_partitions(tmp_path: Path) -> None:
    root = _write(tmp_path, [_ref(1, 251), _ref(2, 252, "val")])
    refs = [_ref(3, 251, "testA"), _ref(4, 252, "testAB"), _ref(5, 252, "testC")]
    _write(root, refs, partition="unc")
    assert [region.id for region in _samples(root)[0].record.regions] == ["1", "2"], "berkeley by default"
    assert _samples(root, partition="unc")[0].record.splits == ("testA", "testAB", "testC")
    (sample,) = _samples(root, partition="unc", splits=["testA"])
    assert [region.id for region in sample.record.regions] == ["3"], "a label is a split of its own"
    with pytest.raises(InputError, match=r"--split test: .*refs\(berkeley\)\.p has .* one of train, val"):
        _samples(root, splits=["test"])
    with pytest.raises(InputError, match=r"--partition umd: .*refs\(umd\)\.p .*one of berkeley, unc"):
        _samples(root, partition="umd")


def test_annotations_may_have_names(tmp_path: Path) -> None:
    annotations = [_annotation("25_1", 25, _runs(4, 3, 20, 10)), _annotation("25_2", 25, _runs(0, 0, 5, 5))]
    (sample,) = _samples(_write(tmp_path, [_ref(1, "25_2"), _ref(2, "25_1")], annotations))
    np.testing.assert_array_equal(coco_mask.decode(sample.record.regions[0].mask), _pixels((0, 0, 5, 5)))
    np.testing.assert_array_equal(coco_mask.decode(sample.record.regions[1].mask), _pixels((4, 3, 20, 10)))
    with pytest.raises(InputError, match=r"refs\(berkeley\)\.p: ref_id 1: key 'ann_id' is 25_3, which"):
        _samples(_write(tmp_path, [_ref(1, "25_3")], annotations))
    with pytest.raises(InputError, match=r"instances\.json: annotation: key 'id' is None, expected .*number.*name"):
        _samples(_write(tmp_path, [_ref(1, "25_3")], [_annotation(None, 25)]))


SENTENCES = [{"sent_id": 1, "sent": "rock"}]


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ([], r"holds \[\], expected a list of refs"),
        ({"a": 1}, "holds {'a': 1}, expected a list of refs"),
        ([3], "ref 0: is 3, expected a dict"),
        ([_ref(1, True)], "ref 0: key 'ann_id' is True, expected int or str"),
        ([_ref(1, 251, image_id="25")], "ref 0: key 'image_id' is '25', expected int"),
        ([_ref(1, 251, None)], "ref 0: key 'split' is None, expected str"),
        ([_ref(1, 251, sentences=None)], "ref 0: key 'sentences' is None, expected list"),
        ([_ref(1, 251), _ref(1, 252)], "ref_id 1 occurs twice, with other contents: .*get the original file"),
    ],
)
def test_other_refs_are_refused(tmp_path: Path, refs: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"refs\(berkeley\)\.p: {message}") as caught:
        _samples(_write(tmp_path, refs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ref", "kind", "id", "reason"),
    [
        (_ref("2", 251), "region", "2", "ref 1: key 'ref_id' is '2', expected int"),
        (3, "region", "ref 1", "ref 1: is 3, expected a dict"),
        (_ref(2, 251, sentences=[3]), "expression", "sentence 0 of ref_id 2", "ref 1, sentence 0: is 3, expected"),
        (_ref(2, 251, sentences=[*SENTENCES, {"sent_id": 2}]), "expression", "2", "sentence 1: key 'sent' is missing"),
        (_ref(2, 251, sentences=[{"sent": "a"}]), "expression", "sentence 0 of ref_id 2", "key 'sent_id' is missing"),
    ],
)
def test_a_fault_of_one_ref_is_told_of_it_alone(tmp_path: Path, ref: Any, kind: str, id: str, reason: str) -> None:
    samples = sources.get("referit").samples(
        _write(tmp_path, [_ref(1, 251), ref]), images=None, splits=None, partition=None
    )
    (sample,) = list(samples)
    assert samples.account is not None
    (fault,) = (*sample.faults, *samples.account.faults)
    assert (fault.kind, fault.id) == (kind, id)
    assert reason in fault.reason
    assert [region.id for region in sample.record.regions] == ["1", "2"][: 1 + (kind == "expression")]


def test_a_list_that_is_meant_over_and_over_is_refused(tmp_path: Path) -> None:
    shared = SENTENCES * 1000
    refs = [_ref(number, 251, sentences=shared) for number in range(300)]
    with pytest.raises(InputError, match=r"key 'sentences' repeats .*get the original"):
        _samples(_write(tmp_path, refs))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([{"size": [36], "counts": "x"}], r"key 'size' of the mask is \[36\], expected \[height, width\]"),
        ([{"size": [0, 48], "counts": "x"}], "key 'size' is 0, expected 1 to 65535 pixels"),
        ([{"size": ["36", 48], "counts": "x"}], "key 'size' is '36', expected int"),
        ([{"counts": "x"}], "segmentation: key 'size' is missing"),
        ([_runs(0, 0, 5, 5), {"size": [48, 36], "counts": [1728]}], r"key 'size' of the mask is \[48, 36\]"),
        ([_runs(0, 0, 5, 5), [1, 2, 3, 4]], "polygon 1, expected"),
        ([{"size": [36, 48], "counts": [1]}], "key 'counts' of the mask does not add up to 48x36"),
        ([], r"segmentation \[\], expected polygons or run lengths"),
        (None, "segmentation None"),
    ],
)
def test_other_masks_are_refused(tmp_path: Path, segmentation: Any, message: str) -> None:
    annotation = _annotation(251, 25, segmentation=segmentation)
    with pytest.raises(InputError, match=rf"instances\.json: annotation 251 of ref_id 1: {message}") as caught:
        _samples(_write(tmp_path, [_ref(1, 251)], [annotation]))
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refclef: no such folder; .*refclef/refs\(\.\.\.\)\.p"):
        _samples(tmp_path)
    root = _write(tmp_path, [_ref(1, 251)])
    (root / "images" / "saiapr_tc-12").rmdir()
    with pytest.raises(InputError, match=r"saiapr_tc-12: no such folder; .*SAIAPR TC-12 .*--images"):
        _samples(root)
    (sample,) = _samples(root, images=tmp_path)
    assert sample.image == tmp_path / "25.jpg"
    (root / "refclef" / "instances.json").unlink()
    with pytest.raises(InputError, match=r"refclef/instances\.json: no such file; .*refs\(berkeley\)"):
        _samples(root)
    (root / "refclef" / "refs(berkeley).p").unlink()
    with pytest.raises(InputError, match=r"--partition berkeley: .*refs\(\.\.\.\)\.p .*get the annotations"):
        _samples(root)


def test_from_the_files_to_a_verified_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mask that was drawn on an image of another size takes its region into quarantine, and nothing else."""
    other = {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}
    annotations = [*ANNOTATIONS, _annotation(253, 25, other)]
    root = _write(tmp_path / "raw", [_ref(1, 251), _ref(2, 252, "test"), _ref(3, 253)], annotations)
    Image.new("RGB", (WIDTH, HEIGHT), (9, 99, 199)).save(root / "images" / "saiapr_tc-12" / "25.jpg")
    out = tmp_path / "set"
    build = ["shards", "build", "referit", "--root", str(root), "--out", str(out), "--json"]
    assert cli.main(build) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["expressions"], result["quarantined"]) == (1, 2, 1)
    assert [region.id for region in Manifest.open(out).read_record(0).regions] == ["1", "2"]
    assert Manifest.open(out).samples["coco_id"].to_pylist() == [None]
    assert cli.main(["shards", "verify", str(out), "--full"]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert cli.main(build) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
