"""CLEVR-Ref+: expressions, the objects of their programs, and masks that run along the rows."""

from __future__ import annotations

import json
import operator
import re
from itertools import groupby
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

WIDTH, HEIGHT = 480, 320
# Object 1 has the first pixel of the image; object 2 stands partly behind object 0.
BOXES = ((100, 50, 60, 40), (0, 0, 30, 20), (150, 60, 50, 50))
SHAPES = ("cube", "sphere", "cube")


def _pixels(number: int) -> NDArray[np.uint8]:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    x, y, w, h = BOXES[number]
    pixels[y : y + h, x : x + w] = 1
    if number == 2:
        pixels[_pixels(0) == 1] = 0
    return pixels


def _runs(pixels: NDArray[np.uint8]) -> str:
    """Runs of 0 and 1 in turn, row by row, the first of 0, as the authors' generator writes them."""
    found = [(int(value), len(list(same))) for value, same in groupby(pixels.flatten().tolist())]
    return ",".join(str(length) for _, length in ([(0, 0)] if found[0][0] else []) + found)


def _scene(image: int, split: str = "val", **changes: Any) -> dict[str, Any]:
    return {
        "image_index": image,
        "image_filename": f"CLEVR_{split}_{image:06}.png",
        "objects": [
            {"idx": number, "shape": shape, "color": "red", "size": "large", "material": "metal"}
            for number, shape in enumerate(SHAPES, start=1)
        ],
        "obj_bbox": {str(number): list(box) for number, box in enumerate(BOXES, start=1)},
        "obj_mask": {str(number + 1): _runs(_pixels(number)) for number in range(len(BOXES))},
        **changes,
    }


def _refexp(image: int, objects: Any, text: str = "The thing", split: str = "val", **changes: Any) -> dict[str, Any]:
    program = [
        {"type": "scene", "inputs": [], "_output": [0, 1, 2], "value_inputs": []},
        {"type": "filter_color", "inputs": [0], "_output": objects, "value_inputs": ["red"]},
    ]
    name = f"CLEVR_{split}_{image:06}"
    place = {"split": split, "image_filename": f"{name}.png", "image": name, "image_index": image}
    return {**place, "refexp": text, "program": program, "refexp_index": 0, "refexp_family_index": 1, **changes}


def _write(root: Path, refexps: list[Any], scenes: list[Any], split: str = "val") -> Path:
    for name, key, entries in (("refexps", "refexps", refexps), ("scenes", "scenes", scenes)):
        (root / name).mkdir(parents=True, exist_ok=True)
        path = root / name / f"clevr_ref+_{split}_{name}.json"
        path.write_text(json.dumps({"info": {"split": split}, key: entries}))
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    return root


def _samples(root: Path, **options: Any) -> list[RawSample]:
    options = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("clevr_ref+").samples(root, **options))


def test_the_content_in_full(tmp_path: Path) -> None:
    refexps = [
        _refexp(4, [0], "The  left thing"),
        _refexp(2, [1]),
        _refexp(4, [0, 2], "Any cubes"),
        _refexp(4, [2, 1, 2]),
    ]
    root = _write(tmp_path, refexps, [_scene(2), _scene(3), _scene(4)])
    samples = sources.get("clevr_ref+").samples(root, images=None, splits=None, partition=None)
    assert operator.length_hint(samples) == 2
    got = list(samples)
    assert [sample.record.picture_id for sample in got] == ["CLEVR_val_000002", "CLEVR_val_000004"]
    record = got[1].record
    assert (record.source, record.file_name) == ("clevr_ref+", "CLEVR_val_000004.png")
    assert (record.width, record.height, record.coco_id, record.questions) == (WIDTH, HEIGHT, None, ())
    assert record.licence == "CC BY 4.0"
    assert got[1].image == root / "images" / "val" / "CLEVR_val_000004.png"
    one, cubes, mixed = record.regions
    assert [region.id for region in record.regions] == ["val-0", "val-2", "val-3"]
    assert {region.split for region in record.regions} == {"val"}
    assert [(expression.id, expression.text) for expression in one.expressions] == [("val-0", "The left thing")]
    assert (one.boxes, one.category) == (((100.0, 50.0, 60.0, 40.0),), "cube")
    assert (cubes.boxes, cubes.category) == (((100.0, 50.0, 60.0, 40.0), (150.0, 60.0, 50.0, 50.0)), "cube")
    assert cubes.box == (100.0, 50.0, 100.0, 60.0)
    assert (len(mixed.boxes), mixed.category) == (2, None), "an object that is named twice is there once"
    assert one.mask is not None
    assert one.mask["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(coco_mask.decode(one.mask), _pixels(0))
    np.testing.assert_array_equal(coco_mask.decode(cubes.mask), _pixels(0) | _pixels(2))
    np.testing.assert_array_equal(coco_mask.decode(mixed.mask), _pixels(1) | _pixels(2))
    np.testing.assert_array_equal(coco_mask.decode(got[0].record.regions[0].mask), _pixels(1))


def test_a_hidden_object_has_an_empty_mask(tmp_path: Path) -> None:
    masks = _scene(1)["obj_mask"] | {"1": str(WIDTH * HEIGHT)}
    (sample,) = _samples(_write(tmp_path, [_refexp(1, [0])], [_scene(1, obj_mask=masks)]))
    assert coco_mask.decode(sample.record.regions[0].mask).sum() == 0


def test_an_image_is_the_same_one_in_clevr(tmp_path: Path) -> None:
    (sample,) = _samples(_write(tmp_path, [_refexp(1, [0])], [_scene(1)]))
    record = sample.record
    assert identities(record.source, record.file_name, record.coco_id, 1) == identities(
        "clevr", "CLEVR_val_000001.png", None, 1
    )
    assert record.key == "clevr_ref+-CLEVR_val_000001"


def test_splits_are_chosen_and_images_may_lie_elsewhere(tmp_path: Path) -> None:
    root = _write(tmp_path, [_refexp(1, [0])], [_scene(1)])
    _write(root, [_refexp(1, [0], split="train")], [_scene(1, "train")], "train")
    assert [sample.record.splits for sample in _samples(root)] == [("train",), ("val",)]
    (root / "images").rename(tmp_path / "elsewhere")
    (sample,) = _samples(root, splits=["val"], images=tmp_path / "elsewhere")
    assert sample.image == tmp_path / "elsewhere" / "val" / "CLEVR_val_000001.png"
    with pytest.raises(InputError, match=r"--split test: .* no such split; expected one of train, val"):
        _samples(root, splits=["test"])
    with pytest.raises(InputError, match=r"images/train: no such folder; .*split train .*--images"):
        _samples(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_filename": None}, "expression val-1: key 'image_filename' is None, expected str"),
        ({"refexp": " "}, "expression val-1: key 'refexp' is empty; get the file again"),
        ({"refexp": 3}, "expression val-1: key 'refexp' is 3, expected str"),
        ({"program": []}, "expression val-1: key 'program' is empty, expected .*functions"),
        ({"program": None}, "expression val-1: key 'program' is None, expected list"),
        ({"program": [{}]}, "val-1: .*program.*last function: key '_output' is missing"),
        ({"program": [{"_output": 1}]}, "val-1: .*program.*last function: key '_output' is 1"),
        ({"program": [{"_output": []}]}, r"program's last '_output' is \[\], expected .*objects"),
        ({"program": [{"_output": [-1]}]}, r"the program's last '_output' is \[-1\], expected"),
        ({"program": [{"_output": [True]}]}, r"the program's last '_output' is \[True\], expected"),
        ({"program": [{"_output": ["1"]}]}, r"the program's last '_output' is \['1'\], expected"),
    ],
)
def test_expressions_that_do_not_fit_are_lost_alone(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    root = _write(tmp_path, [_refexp(0, [0]), _refexp(1, [0], **changes)], [_scene(0), _scene(1)])
    samples = sources.get("clevr_ref+").samples(root, images=None, splits=None, partition=None)
    (sample,) = list(samples)
    assert [region.id for region in sample.record.regions] == ["val-0"]
    assert samples.account is not None
    fault = samples.account.faults[0]
    assert (fault.kind, fault.id, fault.split) == ("region", "val-1", "val")
    assert re.search(rf"clevr_ref\+_val_refexps\.json: .*{message}", fault.reason)


def test_a_file_name_that_leaves_its_folder_ends_the_build(tmp_path: Path) -> None:
    root = _write(tmp_path, [_refexp(0, [0]), _refexp(1, [0], image_filename="../x.png")], [])
    with pytest.raises(InputError, match=r"expression val-1: file name '../x.png' leaves its folder"):
        sources.get("clevr_ref+").samples(root, images=None, splits=None, partition=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_filename": 3}, "scene: key 'image_filename' is 3, expected str"),
        ({"image_filename": "other.png"}, r"no scene of CLEVR_val_000001\.png, .*clevr_ref\+_val_refexps"),
        ({"objects": [{}]}, r"CLEVR_val_000001\.png: has 1 objects, .*val-0 .*number 2"),
        ({"objects": [{}, {}, {}]}, "object 2: key 'shape' is missing"),
        ({"obj_bbox": {}}, r"scene of CLEVR_val_000001\.png: obj_bbox: key '3' is missing"),
        ({"obj_bbox": {"3": [1, 2]}}, r"obj_bbox 3: box \[1, 2\], expected four finite numbers"),
        ({"obj_bbox": None}, "key 'obj_bbox' is None, expected dict"),
        ({"obj_mask": {}}, "obj_mask: key '3' is missing"),
        ({"obj_mask": {"3": "1,2"}}, "obj_mask 3 is '1,2', expected runs .*480x320"),
        ({"obj_mask": {"3": "153600,-1,1"}}, "obj_mask 3 is '153600,-1,1', expected runs"),
        ({"obj_mask": {"3": "9" * 30}}, "obj_mask 3 is '9+.*', expected runs"),
        ({"obj_mask": {"3": "x"}}, "obj_mask 3 is 'x', expected runs"),
        ({"obj_mask": {"3": [153600]}}, r"obj_mask: key '3' is \[153600\], expected str"),
    ],
)
def test_scenes_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    root = _write(tmp_path, [_refexp(1, [2])], [_scene(1, **changes)])
    with pytest.raises(InputError, match=rf"clevr_ref\+_val_scenes\.json: .*{message}") as caught:
        _samples(root)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"refexps: no such folder; expected refexps/clevr_ref\+_<split>_refexps\.json"
    ):
        _samples(tmp_path)
    (tmp_path / "refexps").mkdir()
    with pytest.raises(InputError, match=r"refexps: no clevr_ref\+_<split>_refexps\.json there; change --root"):
        _samples(tmp_path)
    root = _write(tmp_path, [_refexp(1, [0])], [_scene(1)])
    with pytest.raises(InputError, match=r"--partition unc: clevr_ref\+ has one partition only"):
        _samples(root, partition="unc")
    (root / "scenes" / "clevr_ref+_val_scenes.json").unlink()
    with pytest.raises(InputError, match=r"clevr_ref\+_val_scenes\.json: no such file; .* refexps"):
        _samples(root)


def test_from_the_files_to_a_verified_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = [_scene(1), _scene(2, obj_bbox=_scene(2)["obj_bbox"] | {"1": [0, 0, 0, 0]})]
    refexps = [_refexp(1, [0, 2]), _refexp(2, [0]), _refexp(2, [1])]
    root = _write(tmp_path / "raw", refexps, scenes)
    for number in (1, 2):
        image = Image.new("RGBA", (WIDTH, HEIGHT), (number, 0, 0, 255))
        image.save(root / "images" / "val" / f"CLEVR_val_{number:06}.png")
    out = tmp_path / "set"
    build = ["shards", "build", "clevr_ref+", "--root", str(root), "--out", str(out), "--json"]
    assert cli.main(build) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["expressions"], result["quarantined"]) == (2, 2, 1), (
        "an object out of sight has no box"
    )
    manifest = Manifest.open(out)
    row = manifest.examples.to_pylist()[0]
    assert [row[name] for name in ("text", "split", "x", "y", "w", "h", "has_mask")] == [
        *("The thing", "val"),
        *(100.0, 50.0, 100.0, 60.0),
        True,
    ]
    np.testing.assert_array_equal(coco_mask.decode(manifest.read_record(0).regions[0].mask), _pixels(0) | _pixels(2))
    assert cli.main(["shards", "verify", str(out), "--full"]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert cli.main(build) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
