"""No image that a test shows is in a pretraining set: by COCO id, by file name, by bytes, with proof."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from laconvnet.shards.build.builder import build
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import tables
from laconvnet.shards.format.manifest import Manifest, publish_tables
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from laconvnet.shards.sets import merge
from laconvnet.shards.sets.holdout import identities
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.merge import pretrain_set
from tests.messages import tells


class Shown(NamedTuple):
    """An image of a toy set: file name, splits of its regions, COCO id, colour (its bytes)."""

    name: str
    splits: tuple[str, ...] = ("train",)
    coco_id: int | None = None
    colour: int | None = None


def built(folder: Path, source: str, images: Sequence[Shown], shard_bytes: int = 200) -> Path:
    folder = folder / source
    (folder / "pictures").mkdir(parents=True)
    samples = []
    for number, shown in enumerate(images):
        path = folder / "pictures" / f"{number}.png"
        colour = 1 + number + 20 * (sum(source.encode()) % 500) if shown.colour is None else shown.colour
        Image.new("RGB", (8, 8), (colour % 256, colour // 256, 0)).save(path)
        regions = tuple(
            Region(f"r{at}", split, ((1, 1, 2, 2),), (Expression(f"e{at}", f"{shown.name} {split}"),))
            for at, split in enumerate(shown.splits)
            if split != "silent"
        )
        questions = (
            (Question("q", shown.splits[0], "what?", "this"),) if number % 2 and shown.splits != ("silent",) else ()
        )
        record = Record(
            source, str(number), shown.name, 8, 8, f"licence of {source}", regions, questions, shown.coco_id
        )
        samples.append(RawSample(record, path))
    build(
        samples,
        folder / "set",
        source=source,
        licence=f"licence of {source}",
        options={},
        shard_bytes=shard_bytes,
        progress=False,
    )
    return folder / "set"


def excluded(out: Path) -> dict[str, str]:
    return {row["key"]: row["reason"] for row in pq.read_table(out / "excluded.parquet").to_pylist()}


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Visual Genome and COCO as inputs, RefCOCO as what must not be seen."""
    visual_genome = built(
        tmp_path,
        "visual_genome",
        [
            Shown("1.jpg", coco_id=100),
            Shown("2.jpg", coco_id=None),
            Shown("3.jpg", coco_id=300),
            Shown("4.jpg", coco_id=None, colour=7),
            Shown("5.jpg", splits=("train", "val")),
            Shown("6.jpg", splits=("silent",)),
        ],
    )
    coco = built(
        tmp_path,
        "coco",
        [Shown("000000000200.jpg"), Shown("000000000300.jpg"), Shown("000000000400.jpg", coco_id=400)],
    )
    refcoco = built(
        tmp_path,
        "refcoco",
        [
            Shown("COCO_train2014_000000000100.jpg", splits=("train", "testA")),
            Shown("COCO_train2014_000000000200_16.jpg", splits=("val",)),
            Shown("COCO_train2014_000000000300.jpg", splits=("train",)),
            Shown("2.jpg", splits=("testB",)),  # a bare number of another collection
            Shown("strange.jpg", splits=("test",), colour=7),
        ],
    )
    return visual_genome, coco, refcoco


def test_held_out_images_stay_out_and_the_rest_is_there(sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    visual_genome, coco, refcoco = sets
    out = tmp_path / "out"
    manifest = pretrain_set([(visual_genome, 2), (coco, 1.5)], [refcoco], out)
    assert manifest.samples["key"].to_pylist() == ["visual_genome-1", "visual_genome-2", "coco-1", "coco-2"]
    reasons = excluded(out)
    assert set(reasons) == {"visual_genome-0", "visual_genome-3", "visual_genome-4", "coco-0"}
    assert reasons["visual_genome-0"] == f"in split testA of refcoco ({refcoco}), by COCO id 100"
    assert tells(reasons["coco-0"], "val", f"refcoco ({refcoco})", "COCO id 200")
    assert tells(reasons["visual_genome-3"], "test", f"refcoco ({refcoco})", "bytes")
    assert tells(reasons["visual_genome-4"], "val", f"visual_genome ({visual_genome})", "file name")
    assert (manifest.meta["excluded"], manifest.meta["without_examples"]) == (4, 1)
    found = info(out)
    assert (found["excluded"], found["without_examples"], found["doubtful"]) == (4, 1, 0)
    assert manifest.meta["sets"] == [{"name": "visual_genome", "weight": 2.0}, {"name": "coco", "weight": 1.5}]
    assert manifest.meta["source"] == "visual_genome+coco"
    assert manifest.meta["licence"] == "licence of visual_genome; licence of coco"
    rows = pq.read_table(out / "excluded.parquet").to_pylist()
    assert rows[-1] | {"reason": ""} == {
        **{"set": 1, "key": "coco-0", "file_name": "000000000200.jpg", "coco_id": None, "reason": ""},
        **{"by": "COCO id", "distance": 0},
    }


def test_nothing_is_copied_and_every_example_leads_to_its_record(sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    visual_genome, coco, refcoco = sets
    out = tmp_path / "elsewhere" / "out"
    manifest = pretrain_set([(visual_genome, 1), (coco, 1)], [refcoco], out)
    tables = {f"{name}.arrow" for name in ("counts", "examples", "manifest", "pictures")}
    published = {f"{name}.parquet" for name in ("doubtful", "examples", "excluded", "manifest")}
    assert {path.name for path in out.iterdir()} == tables | published | {"doubtful.html"}
    assert manifest.meta["shards"][0] == os.path.join("..", "..", "visual_genome", "set", "shard-000000.tar")
    assert manifest.samples["set"].to_pylist() == [0, 0, 1, 1]
    seen = []
    for example in manifest.examples.to_pylist():
        record = manifest.read_record(example["sample"])
        assert record.key == manifest.samples["key"][example["sample"]].as_py()
        if example["kind"] == "expression":
            assert record.regions[example["region"]].expressions[0].text == example["text"]
        seen.append((record.key, example["kind"], example["split"]))
    assert seen == [
        ("visual_genome-1", "expression", "train"),
        ("visual_genome-1", "question", "train"),
        ("visual_genome-2", "expression", "train"),
        ("coco-1", "expression", "train"),
        ("coco-1", "question", "train"),
        ("coco-2", "expression", "train"),
    ]
    assert manifest.read_image(3) == (coco.parent / "pictures" / "2.png").read_bytes()


def test_the_same_bytes_whatever_the_batches_of_the_inputs(
    sets: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filters and new row numbers go over the borders of batches."""
    folders, whole = [], pretrain_set([(sets[0], 2), (sets[1], 1)], [sets[2]], tmp_path / "whole")
    for rows in (1, 2, 3):
        monkeypatch.setattr(tables, "BATCH_ROWS", rows)
        for folder in sets:
            manifest = Manifest.open(folder)
            meta = {name: value for name, value in manifest.meta.items() if name != "tables"}
            assert manifest.pictures is not None
            pictures = [manifest.pictures.to_table()]
            parts = [manifest.samples.to_table()], [manifest.examples.to_table()]
            publish_tables(folder, *parts, meta, pictures=pictures)
            assert Manifest.open(folder).samples["key"].num_chunks == -(-len(manifest.samples) // rows)
        monkeypatch.undo()
        made = pretrain_set([(sets[0], 2), (sets[1], 1)], [sets[2]], tmp_path / f"out{rows}")
        assert str(made.examples.to_pylist()) == str(whole.examples.to_pylist())
        folders.append(made.folder)
    names = ("manifest.arrow", "examples.arrow", "pictures.arrow", "examples.parquet", "excluded.parquet")
    for name in names:
        assert {(folder / name).read_bytes() for folder in folders} == {(whole.folder / name).read_bytes()}


def test_the_proof_fails_where_the_exclusion_is_taken_away(
    sets: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visual_genome, coco, refcoco = sets
    monkeypatch.setattr(merge, "_held_out", lambda *_: ([], []))
    with pytest.raises(InputError, match=r"visual_genome-0 \(1.jpg\) .*split testA of .*by COCO id 100; not published"):
        pretrain_set([(visual_genome, 1), (coco, 1)], [refcoco], tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    with pytest.raises(InputError, match=r"coco-0 \(000000000200.jpg\) .*split val of .*by COCO id 200"):
        pretrain_set([(coco, 1)], [refcoco], tmp_path / "out")
    assert [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".partial.")] == []


def test_the_same_command_again_writes_nothing_and_another_is_refused(
    sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    visual_genome, coco, refcoco = sets
    out = tmp_path / "out"
    pretrain_set([(visual_genome, 1), (coco, 1)], [refcoco], out)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}
    again = pretrain_set([(visual_genome, 1), (coco, 1)], [refcoco], out)
    assert len(again.samples) == 4
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()} == before
    for inputs, exclude in (
        ([(visual_genome, 2.0), (coco, 1.0)], [refcoco]),
        ([(visual_genome, 1.0)], [refcoco]),
        ([(visual_genome, 1.0), (coco, 1.0)], []),
    ):
        with pytest.raises(InputError, match="holds a set made from other inputs, weights or exclusions"):
            pretrain_set(inputs, exclude, out)


def test_mistakes_are_named(sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    visual_genome, coco, refcoco = sets
    out = tmp_path / "out"
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=rf"coco/set: weight {weight}, expected a positive number"):
            pretrain_set([(visual_genome, 1), (coco, weight)], [refcoco], out)
    with pytest.raises(InputError, match="given twice as input"):
        pretrain_set([(coco, 1), (coco, 1)], [refcoco], out)
    with pytest.raises(InputError, match="no set given"):
        pretrain_set([], [refcoco], out)
    with pytest.raises(InputError, match="is an input; give another --out"):
        pretrain_set([(coco, 1)], [refcoco], coco)
    with pytest.raises(InputError, match=r"pictures: no manifest.parquet here"):
        pretrain_set([(coco, 1)], [refcoco.parent / "pictures"], out)
    only = built(tmp_path, "only", [Shown("a.jpg", splits=("val",))])
    with pytest.raises(InputError, match="no image is left of"):
        pretrain_set([(only, 1)], [], out)
    assert not out.exists()


def test_two_sets_of_one_source_are_told_apart_by_folder(tmp_path: Path) -> None:
    first = built(tmp_path / "a", "coco", [Shown("x.jpg", colour=1)])
    second = built(tmp_path / "b", "coco", [Shown("y.jpg", colour=2)])
    first = first.rename(first.parent / "first")
    second = second.rename(second.parent / "second")
    manifest = pretrain_set([(first, 1), (second, 3)], [], tmp_path / "out")
    assert manifest.meta["sets"] == [{"name": "first", "weight": 1.0}, {"name": "second", "weight": 3.0}]


@pytest.mark.parametrize(
    ("source", "file_name", "coco_id", "expected"),
    [
        ("coco", "COCO_val2014_000000123456.jpg", None, ("COCO id", "123456")),
        ("vqav2", "train2014/COCO_train2014_000000123456.jpg", None, ("COCO id", "123456")),
        ("refcoco", "COCO_train2014_000000123456_5.jpg", None, ("COCO id", "123456")),
        ("coco", "000000123456.jpg", None, ("COCO id", "123456")),
        ("visual_genome", "1.jpg", 123456, ("COCO id", "123456")),
        ("visual_genome", "1.jpg", None, ("file name", "visual_genome/1")),
        ("referit", "1.jpg", None, ("file name", "referit/1")),
        ("flickr30k", "4945942737.jpg", None, ("Flickr id", "4945942737")),
        ("snli_ve", "flickr30k-images\\4945942737.JPG", None, ("Flickr id", "4945942737")),
        ("clevr_humans", "CLEVR_val_000001.png", None, ("file name", "clevr_val_000001")),
    ],
)
def test_what_an_image_is_known_by(source: str, file_name: str, coco_id: int | None, expected: tuple[str, str]) -> None:
    assert identities(source, file_name, coco_id, 255)[0] == expected
    assert identities(source, file_name, coco_id, 255)[-1] == ("bytes", "00000000000000ff")


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from(["train", "val", "testA"])), min_size=1, max_size=6, unique=True
    ),
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["train", "val", "testA"])), min_size=1, max_size=6),
)
def test_exactly_the_images_held_out_nowhere_are_kept(
    tmp_path_factory: pytest.TempPathFactory, ours: list[tuple[int, str]], theirs: list[tuple[int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("sets")
    mine = built(folder, "mine", [Shown(f"m{at}.jpg", (split,), number) for at, (number, split) in enumerate(ours)])
    other = built(
        folder,
        "other",
        [Shown(f"COCO_val2014_{number:012d}.jpg", (split,)) for number, split in theirs],
    )
    held = {number for number, split in [*ours, *theirs] if split != "train"}
    wanted = [f"mine-{at}" for at, (number, _) in enumerate(ours) if number not in held]
    if wanted:
        manifest: Manifest = pretrain_set([(mine, 1)], [other], folder / "out")
        assert manifest.samples["key"].to_pylist() == wanted
    else:
        with pytest.raises(InputError, match="no image is left"):
            pretrain_set([(mine, 1)], [other], folder / "out")


@pytest.mark.parametrize("name", ["parts", "again", "shard-000000.tar"])
def test_a_build_that_goes_on_is_not_written_into(tmp_path: Path, name: str) -> None:
    folder = built(tmp_path, "a", [Shown("a")])
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    with pytest.raises(InputError, match="out: holds what a build has made; give another --out"):
        pretrain_set([(folder, 1.0)], [], out)
    assert len(list(out.iterdir())) == 1
