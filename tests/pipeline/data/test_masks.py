"""Masks from the annotation to the square: built into shards, read beside the images, letterboxed with them."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
from laconvnet.pipeline.data.masks import decode, encode, of_region
from laconvnet.pipeline.data.reader import Reader
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.build.builder import build
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.record import Record, Region
from laconvnet.shards.sets.verify import verify
from laconvnet.shards.sources import get
from tests.samples import SAMPLES, needs

REFER = SAMPLES / "refer"
CPU = torch.device("cpu")


def loader_of(examples: Examples, size: int, masks: bool = True, threads: int = 2) -> Loader:
    vocabulary = Vocabulary.build(examples.texts(examples.rows))
    return Loader(examples, vocabulary, DataConfig("unused", size=size, words=6, threads=threads), 64, CPU, masks)


def annotated(examples: Examples, instances: dict[str, Any], groups: dict[str, list[int]]) -> list[NDArray[np.uint8]]:
    """The mask of each example straight from the annotations that its region stands for, by pycocotools alone."""
    by_id = {entry["id"]: entry for entry in instances["annotations"]}
    found = []
    for row in examples.rows.tolist():
        entry = examples.manifest.examples.slice(row, 1).to_pylist()[0]
        record = examples.manifest.read_record(entry["sample"])
        mask = np.zeros((record.height, record.width), np.uint8)
        for ann_id in groups[record.regions[entry["region"]].id]:
            shapes = coco_mask.frPyObjects(by_id[ann_id]["segmentation"], record.height, record.width)
            mask |= coco_mask.decode(coco_mask.merge(shapes))
        found.append(mask)
    return found


def letterboxed(mask: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """PIL's nearest neighbour on the middle of a square: another transcription of the letterbox."""
    height, width = mask.shape
    scale = size / max(height, width)
    sides = max(1, round(width * scale)), max(1, round(height * scale))
    square = Image.new("L", (size, size))
    corner = (size - sides[0]) // 2, (size - sides[1]) // 2
    square.paste(Image.fromarray(mask).resize(sides, Image.Resampling.NEAREST), corner)
    return np.asarray(square)


def raw_of(built: Path) -> Path:
    return built.parent / "raw" / "grefcoco"


@pytest.mark.parametrize("size", [96, 64, 160])
def test_the_batch_has_the_annotated_masks_letterboxed(groups: Path, size: int) -> None:
    examples = Examples.open(groups, "expression", "val")
    instances = json.loads((raw_of(groups) / "instances.json").read_text())
    refs = json.loads((raw_of(groups) / "grefs(unc).json").read_text())
    of_ref = {str(ref["ref_id"]): [one for one in ref["ann_id"] if one >= 0] for ref in refs}
    expected = annotated(examples, instances, of_ref)
    with closing(loader_of(examples, size)) as loader:
        batch = loader.batch(Request(examples.rows))
    assert batch.masks is not None
    assert batch.masks.dtype == torch.uint8
    assert batch.masks.shape == (len(examples.rows), size, size)
    for mask, truth in zip(batch.masks.numpy(), expected, strict=True):
        np.testing.assert_array_equal(mask, letterboxed(truth, size))
    assert set(batch.masks.unique().tolist()) == {0, 1}, "hard labels"
    # The boxes are white on black: the mask lies where the image is bright.
    both = [index for index, text in enumerate(examples.texts(examples.rows)) if text == "both boxes"]
    unicorns = [index for index, text in enumerate(examples.texts(examples.rows)) if text == "a unicorn"]
    bright = batch.images.mean(1) > 0.8
    if size == 96:
        assert torch.equal(bright[both], batch.masks[both].bool())
    assert (bright[both] & batch.masks[both].bool()).sum() > 0.9 * bright[both].sum()
    assert not batch.masks[unicorns].any()
    assert torch.isnan(batch.boxes[unicorns]).all()
    assert len(unicorns) == 4


def test_generated_polygons_reach_the_batch(sets: dict[str, Path]) -> None:
    """The generator's RefCOCO+, by the tables of its own raw files."""
    examples = Examples.open(sets["refcoco+"], "expression", "val")
    folder = sets["refcoco+"].parent / "raw" / "refer" / "refcoco+"
    instances = json.loads((folder / "instances.json").read_text())
    manifest = examples.manifest
    shapes = {
        (entry["image_id"], *entry["bbox"]): entry["segmentation"]
        for entry in instances["annotations"]  # boxes tell the shapes of an image apart
    }
    with closing(loader_of(examples, 64, threads=1)) as loader:
        batch = loader.batch(Request(examples.rows[:40]))
    assert batch.masks is not None
    for row, mask in zip(examples.rows[:40].tolist(), batch.masks.numpy(), strict=True):
        entry = manifest.examples.slice(row, 1).to_pylist()[0]
        image_id = int(manifest.samples["picture_id"][entry["sample"]].as_py())
        polygons = shapes[(image_id, *(entry[side] for side in "xywh"))]
        truth = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 64, 64)))
        assert truth.any()
        np.testing.assert_array_equal(mask, truth)


@needs(REFER)
def test_real_annotations_reach_the_batch(tmp_path: Path) -> None:
    instances = json.loads((REFER / "refcocog" / "instances.json").read_text())
    for image in instances["images"]:  # the samples come without images
        Image.new("RGB", (image["width"], image["height"]), "gray").save(tmp_path / image["file_name"])
    samples = list(get("refcocog").samples(REFER, images=tmp_path, splits=None, partition=None))
    build(samples, tmp_path / "built", source="refcocog", licence="x", options={}, progress=False)
    examples = Examples.open(tmp_path / "built", "expression", "train")
    polygons_of = {
        (str(entry["image_id"]), tuple(np.array(entry["bbox"], np.float32).tolist())): entry["segmentation"]
        for entry in instances["annotations"]
    }
    with closing(loader_of(examples, 416)) as loader:
        batch = loader.batch(Request(examples.rows))
    assert batch.masks is not None
    assert len(batch.masks) > 1
    for row, mask in zip(examples.rows.tolist(), batch.masks.numpy(), strict=True):
        entry = examples.manifest.examples.slice(row, 1).to_pylist()[0]
        sample = examples.manifest.samples.slice(entry["sample"], 1).to_pylist()[0]
        polygons = polygons_of[sample["picture_id"], tuple(entry[side] for side in "xywh")]
        shapes = coco_mask.frPyObjects(polygons, sample["height"], sample["width"])
        truth = coco_mask.decode(coco_mask.merge(shapes))
        assert truth.any()
        np.testing.assert_array_equal(mask, letterboxed(truth, 416))


def test_a_batch_without_masks_reads_no_record(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = Examples.open(groups, "expression", "train")

    def refuse(*_: object) -> None:
        raise AssertionError("a record was read")

    monkeypatch.setattr(Reader, "masks", refuse)
    monkeypatch.setattr(Record, "from_json", refuse)
    with closing(loader_of(examples, 64, masks=False)) as loader:
        assert loader.batch(Request(examples.rows[:4])).masks is None


def test_masks_of_the_stored_images_read_each_record_once(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = Examples.open(groups, "expression", "train")
    instances = json.loads((raw_of(groups) / "instances.json").read_text())
    refs = json.loads((raw_of(groups) / "grefs(unc).json").read_text())
    of_ref = {str(ref["ref_id"]): [one for one in ref["ann_id"] if one >= 0] for ref in refs}
    expected = annotated(examples, instances, of_ref)
    read: list[int] = []
    original = Manifest.read_record

    def noted(self: Manifest, row: int) -> Record:
        read.append(row)
        return original(self, row)

    monkeypatch.setattr(Manifest, "read_record", noted)
    for mask, truth in zip(examples.masks(examples.rows), expected, strict=True):
        np.testing.assert_array_equal(mask, truth)
    assert sorted(read) == sorted(set(examples.samples(examples.rows).tolist()))


def test_the_built_set_has_examples_without_a_box_but_with_a_mask(groups: Path) -> None:
    assert verify(groups, full=True, progress=False)["examples"] == 8 * 5
    table = Manifest.open(groups).examples.to_pylist()
    assert all(entry["has_mask"] for entry in table)
    unicorns = [entry for entry in table if entry["text"] == "a unicorn"]
    assert len(unicorns) == 8
    assert all(np.isnan([entry[side] for side in "xywh"]).all() for entry in unicorns)
    both = next(entry for entry in table if entry["text"] == "both boxes")
    assert [both[side] for side in "xywh"] == [8, 10, 80, 20], "the box around both"


def test_a_task_s_needs_are_checked_with_the_numbers(groups: Path, sets: dict[str, Path]) -> None:
    grouped = Examples.open(groups, "expression", "val")
    grouped.check(with_masks=True, without_target=True)
    message = rf"^{groups}: split 'val': 4 of 20 expressions .*model\.task grec"
    with pytest.raises(ConfigError, match=message):
        grouped.check(with_masks=True, without_target=False)
    bare = Examples.open(sets["visual_genome"], "expression", "train")
    bare.check(with_masks=False, without_target=False)
    count = len(bare.rows)
    with pytest.raises(ConfigError, match=rf"split 'train': {count} of {count} expressions have no mask"):
        bare.check(with_masks=True, without_target=False)
    with pytest.raises(ConfigError, match=r"region 0: holds no mask"), closing(loader_of(bare, 64)) as loader:
        loader.batch(Request(bare.rows[:1]))


@pytest.fixture
def damaged(groups: Path, tmp_path: Path) -> Manifest:
    """A copy of the set with one byte of the record of sample 0 changed."""
    shutil.copytree(groups, tmp_path / "damaged")
    manifest = Manifest.open(tmp_path / "damaged")
    row = manifest.samples.slice(0, 1).to_pylist()[0]
    with manifest.shard_paths[row["shard"]].open("r+b") as shard:
        shard.seek(row["json_offset"] + 20)
        shard.write(b"#")
    return manifest


@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_record_is_named(damaged: Manifest, threads: int) -> None:
    row = damaged.samples.slice(0, 1).to_pylist()[0]
    with Reader(damaged, threads) as reader:
        assert len(reader.read(np.array([0]))) == 1, "the image is whole"
        with pytest.raises(ConfigError, match=rf"sample '{row['key']}' at offset {row['json_offset']}: "):
            reader.masks(np.array([1, 0]), np.array([0, 0]))
        assert [mask.shape for mask in reader.masks(np.array([1, 2]), np.array([2, 3]))] == [(96, 64), (64, 96)]


def blob(height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.asarray((rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (height / 3) ** 2, np.uint8)


def test_encoding_is_undone_by_decoding() -> None:
    for mask in (blob(30, 50), np.zeros((7, 5), np.uint8), np.ones((4, 6), np.uint8)):
        rle = encode(mask > 0)
        assert json.loads(json.dumps(rle)) == rle
        assert rle["size"] == list(mask.shape)
        np.testing.assert_array_equal(decode(rle, *mask.shape), mask)
        np.testing.assert_array_equal(coco_mask.decode(rle), mask)


@pytest.mark.parametrize(
    "rle",
    [
        None,
        {"size": [30, 50]},
        {"size": [50, 30], "counts": "P2"},
        {"size": [10**9, 10**9], "counts": "P2"},
        {"size": [30, 50], "counts": [0, 1500]},
        {"size": [30, 50], "counts": "o"},  # the run goes on behind the end of the text
        {"size": [30, 50], "counts": "0\x00"},
        {"size": [30, 50], "counts": "0~"},
        {"size": [30, 50], "counts": "0\n"},
    ],
)
def test_what_is_no_mask_is_refused(rle: Any) -> None:
    with pytest.raises(ConfigError, match="holds no mask of a 50x30 image"):
        decode(rle, 30, 50)


def test_runs_beyond_the_image_are_refused() -> None:
    longer = encode(np.ones((300, 500)))["counts"]
    with pytest.raises(ConfigError, match="a mask of 50x30 pixels whose runs do not fit it"):
        decode({"size": [30, 50], "counts": longer}, 30, 50)


def test_a_region_without_a_mask_is_named() -> None:
    regions = (Region("r", "train", ((1, 1, 5, 5),), mask=encode(blob(20, 30))), Region("s", "train", ()))
    record = Record("odd", "7", "7.jpg", 30, 20, "CC0", regions)
    np.testing.assert_array_equal(of_region(record, 0), blob(20, 30))
    for number in (1, 2, -1):
        with pytest.raises(ConfigError, match=rf"^odd-7: region {number}: holds no mask of a 30x20 image; verify"):
            of_region(record, number)


def test_the_inside_of_the_letterbox_is_the_image() -> None:
    square = Letterbox.fit(np.array([96, 33, 64]), np.array([64, 64, 64]), 64)
    for index, (height, width) in enumerate(((64, 96), (64, 33), (64, 64))):
        covered = square.mask(index, np.ones((height, width), np.uint8))
        rows, columns = square.inside(index)
        assert covered[rows, columns].all()
        assert covered.sum() == covered[rows, columns].size
