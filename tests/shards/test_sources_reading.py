"""The helpers of all sources, the masks and the registry."""

from __future__ import annotations

import errno
import json
import operator
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition
from laconvnet.shards.sources.masks import of_png, to_rle
from tests.shards.faulty import draw


def test_the_registry_knows_its_sources() -> None:
    assert list(sources.SOURCES) == [
        "refcoco",
        "refcoco+",
        "refcocog",
        "grefcoco",
        "referit",
        "visual_genome",
        "flickr30k",
        "clevr",
        "clevr_humans",
        "clevr_ref+",
        "vqav2",
        "snli_ve",
        "simrec",
        "table",
        "coco",
    ]
    for name, source in sources.SOURCES.items():
        assert sources.get(name) is source
        assert source.name == name
        assert source.title
        assert source.licence
        assert all(source.files)
    with pytest.raises(InputError, match=r"source 'refcoc': .* one of refcoco, refcoco\+"):
        sources.get("refcoc")


def test_the_size_of_an_image_by_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path, "a.jpg", size=(30, 20))
    assert reading.image_size(tmp_path / "a.jpg") == (30, 20)
    (tmp_path / "b.jpg").write_bytes(b"none")
    for name in ("b.jpg", "gone.jpg", ".", "x" * 300, "a.jpg/c.jpg"):
        assert reading.image_size(tmp_path / name) is None

    def unreadable(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("laconvnet.images.read_bytes", unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        reading.image_size(tmp_path / "a.jpg")
    monkeypatch.setattr("laconvnet.shards.sources.masks.read_bytes", unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        of_png(tmp_path / "a.png", "here")


def test_splits_and_partitions(tmp_path: Path) -> None:
    assert choose_splits(None, {"train", "val"}, tmp_path) == {"train", "val"}
    assert choose_splits(["val"], {"train", "val"}, tmp_path) == {"val"}
    with pytest.raises(InputError, match=r"--split test: .* expected one of train, val"):
        choose_splits(["val", "test"], {"train", "val"}, tmp_path)
    no_partition(None, "clevr")
    with pytest.raises(InputError, match="--partition unc: clevr has one partition"):
        no_partition("unc", "clevr")


def test_samples_tell_how_many_are_left() -> None:
    samples = Samples([None, None, None], 3)  # type: ignore[list-item]
    assert operator.length_hint(samples) == 3
    next(samples)
    assert operator.length_hint(samples) == 2
    assert len(list(samples)) == 2


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "..", "", "a\\..\\x", "a\0b", "."])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"here: file name .* leaves its folder"):
        reading.inside(tmp_path, name, "here")


def test_a_name_in_its_folder_is_kept(tmp_path: Path) -> None:
    assert reading.inside(tmp_path, "VG_100K/a..b.jpg", "here") == tmp_path / "VG_100K" / "a..b.jpg"


def test_items_are_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"a": 1.5}, {"b": 2}]))
    assert list(reading.read_items(path)) == [{"a": 1.5}, {"b": 2}]
    path.write_text(json.dumps({"info": [{}], "images": [{"id": 3}]}))
    assert list(reading.read_items(path, "images.item")) == [{"id": 3}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"broken JSON \('[^.\\]+'\); get"),
        ('[{"a": 1}, {"b"', r"broken JSON \('[^.\\]+'\); get"),
        ('[{"a": NaN}]', "broken JSON"),
        ('[{"a": ' + "9" * 5000 + "}]", "broken JSON"),
        ("[]", "holds no entries; expected an array of objects"),
        ("{}", "holds no entries; expected an array of objects"),
        ('[{"a": 1}, 2]', "item 1 is 2, expected an object"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(InputError, match=f"list.json: {message}"):
        list(reading.read_items(path))


def test_fields_are_checked() -> None:
    assert reading.field({"id": 3}, "here", int, "image_id", "id") == 3
    with pytest.raises(InputError, match="here: key 'image_id' or 'id' is missing"):
        reading.field({}, "here", int, "image_id", "id")
    with pytest.raises(InputError, match="here: key 'id' is True, expected int"):
        reading.field({"id": True}, "here", int, "id")
    with pytest.raises(InputError, match="here: key 'width' is 0, expected 1 to 65535"):
        reading.side({"width": 0}, "here", "width")
    with pytest.raises(InputError, match="here: key 'qas', element 1 is 2, expected an object"):
        reading.objects({"qas": [{}, 2]}, "here", "qas")
    with pytest.raises(InputError, match=r"here: text .* no valid Unicode"):
        reading.text("\ud800", "here")
    assert reading.text(" a \n b ", "here") == "a b"


@pytest.mark.parametrize(
    "bad", [[1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, float("nan")], [1, 2, 3, 10**400], [1, 2, 3, None]]
)
def test_a_box_is_four_finite_numbers(bad: list[object]) -> None:
    assert reading.box([1, 2.5, 3, 4], "here") == (1.0, 2.5, 3.0, 4.0)
    with pytest.raises(InputError, match=r"here: box .* expected four finite numbers"):
        reading.box(bad, "here")


@pytest.mark.parametrize("memory", [2**20, 30, 1])
def test_the_store_keeps_order(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_STORE_BYTES", memory)
    store = reading.CompressedStore()
    store.add("b", [1, {"c": "é"}])
    store.add("a", [2])
    store.add("b", [3])
    assert (list(store), len(store), store.get("b"), store.get("z")) == (["b", "a"], 2, [1, {"c": "é"}, 3], [])
    store.replace("b", [4])
    store.replace("a", [])
    assert (list(store), store.get("b"), store.get("a")) == (["b"], [4], [])
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="entry of 7 is nested too deeply"):
        store.add(7, deep)


def test_of_a_large_store_little_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its file goes with it."""
    monkeypatch.setattr(reading, "_STORE_BYTES", 1000)
    texts = [np.random.default_rng(number).bytes(10_000).hex() for number in range(100)]
    open_before = len(os.listdir("/proc/self/fd"))
    store = reading.CompressedStore()
    tracemalloc.start()
    for text in texts:
        store.add(0, [text])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000
    assert store.get(0) == texts
    del store
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_the_three_forms_of_a_mask_agree() -> None:
    square = [[2.0, 1.0, 5.0, 1.0, 5.0, 4.0, 2.0, 4.0], [7.0, 5.0, 9.0, 5.0, 9.0, 7.0]]
    rle = to_rle(square, 8, 10, "here")
    pixels = coco_mask.decode(rle)
    assert rle["size"] == [8, 10]
    assert isinstance(rle["counts"], str)
    assert pixels[1:4, 2:5].all()
    assert pixels[:, :2].sum() == 0
    assert 9 < pixels.sum() < 16
    column = pixels.flatten(order="F")
    edges = np.flatnonzero(np.diff(column)) + 1
    runs = np.diff([0, *edges, column.size]).tolist()
    assert to_rle({"size": [8, 10], "counts": runs}, 8, 10, "here") == rle
    assert to_rle(rle, 8, 10, "here") == rle


def test_a_compressed_mask_of_long_runs_survives() -> None:
    pixels = np.zeros((300, 400), np.uint8, order="F")
    pixels[10:200, 30:350] = 1
    pixels[50:60, 100:110] = 0
    rle = coco_mask.encode(pixels)
    got = to_rle({"size": [300, 400], "counts": rle["counts"].decode()}, 300, 400, "here")
    assert (coco_mask.decode(got) == pixels).all()


def test_an_outline_within_the_limit_is_a_mask() -> None:
    assert to_rle([[0, 0, 9, 0, 9, 7]] * 30, 8, 10, "here") == to_rle([[0, 0, 9, 0, 9, 7]], 8, 10, "here")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "segmentation None"),
        ([], r"segmentation \[\]"),
        ([[1, 2, 3, 4]], r"polygon \[1, 2, 3, 4\], expected"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon .* expected"),
        ([[1, 2, 3, 4, 5, "6"]], "polygon .* expected"),
        ([[1, 2, 3, 4, 5, 1e8]], "polygon .* lies far outside the 10x8 image"),
        ([5], "polygon 5, expected"),
        ([[0, 0, 9, 0, 9, 7]] * 1001, "segmentation of 1001 polygons, expected at most 1000"),
        ([[0, 0, 9, 0, 9, 7] * 41], "polygons with an outline of more than 1000 pixels"),
        ([[0, 0, 9, 0, 9, 7]] * 41, "polygons with an outline of more than 1000 pixels"),
        ({"size": [10, 8], "counts": [80]}, r"key 'size' of the mask is \[10, 8\], expected \[8, 10\]"),
        ({"size": [8, 10], "counts": [81]}, "key 'counts' of the mask does not add up to 10x8"),
        ({"size": [8, 10], "counts": [100, -20]}, "key 'counts'"),
        ({"size": [8, 10], "counts": "zzzzzzzzzz"}, "key 'counts'"),
        ({"size": [8, 10], "counts": 80}, "key 'counts'"),
        ({"size": [8, 10]}, "key 'counts'"),
    ],
)
def test_other_masks_are_refused(segmentation: object, message: str) -> None:
    with pytest.raises(InputError, match=f"here: {message}"):
        to_rle(segmentation, 8, 10, "here")
