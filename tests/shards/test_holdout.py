"""By what a test image is kept out of a pretraining set: every identity, lost images, copies, and sets of before."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laconvnet.shards.build.builder import build
from laconvnet.shards.build.content import difference_hash
from laconvnet.shards.build.images import read_image_file
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import QUARANTINE, Manifest, publish_tables
from laconvnet.shards.format.pictures import PICTURE_SCHEMA
from laconvnet.shards.format.raw import Fault, RawSample
from laconvnet.shards.format.record import Expression, Record, Region
from laconvnet.shards.sets import holdout, merge
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.merge import pretrain_set
from laconvnet.shards.sets.near import Hashes, nearest
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.shards.copies import cropped, gray, resized
from tests.shards.faulty import annotation, built, draw, ref, refer
from tests.shards.older import without_pictures
from tests.shards.test_faults_flickr30k import flickr
from tests.shards.test_faults_questions import answered, vqa
from tests.shards.test_sources_visual_genome import _image, _thing, _write

SIZE = (120, 90)


def photograph(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Soft noise: as much light and shade as a photograph has, and no two alike."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 13, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def of(
    folder: Path,
    name: str,
    files: Iterable[tuple[Path, str]],
    ids: tuple[str, ...] = (),
    coco_id: int | None = None,
    options: dict[str, Any] | None = None,
) -> Path:
    """A set of these image files, each with an expression of that split."""
    samples = []
    for number, (path, split) in enumerate(files):
        regions = (Region("r", split, ((1, 1, 2, 2),), (Expression("e", f"thing {number}"),)),)
        record = Record(name, str(number), f"{name}-{path.name}", 0, 0, "CC0", regions, (), coco_id)
        samples.append(RawSample(record, path, ids=ids))
    build(samples, folder / name, source=name, licence="CC0", options=options or {}, progress=False)
    return folder / name


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def excluded(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "excluded.parquet").to_pylist())


def kept(inputs: list[Path], exclude: list[Path], out: Path) -> list[str]:
    manifest = pretrain_set([(folder, 1.0) for folder in inputs], exclude, out)
    return list(manifest.samples["key"].to_pylist())


def test_a_test_image_whose_file_was_missing_is_held_out(tmp_path: Path) -> None:
    """Image 2 of RefCOCO's testA is not there when the set is built; VQAv2 has it."""
    names = {number: f"COCO_train2014_{number:012}.jpg" for number in (1, 2, 3)}
    images = [{"id": number, "file_name": names[number], "width": 64, "height": 48} for number in (1, 2)]
    annotations = [annotation(10, 1), annotation(20, 2)]
    root = refer(tmp_path / "refer", [ref(1, 1, "testA"), ref(2, 2, "testA")], annotations, images)
    draw(root / "coco", names[1])
    refcoco, _ = built("refcoco", root, root / "coco")
    assert len(refcoco.samples) == 1
    questions = tmp_path / "vqa"
    draw(questions / "train2014", *names.values())
    for name, given in (
        ("v2_OpenEnded_mscoco_train2014_questions.json", {"questions": [vqa(n, n) for n in (1, 2, 3)]}),
        ("v2_mscoco_train2014_annotations.json", {"annotations": [answered(n, n) for n in (1, 2, 3)]}),
    ):
        (questions / name).write_text(json.dumps(given))
    vqav2, _ = built("vqav2", questions)
    assert kept([vqav2.folder], [refcoco.folder], tmp_path / "out") == ["vqav2-3"]
    assert [(row["key"], row["by"], row["distance"]) for row in excluded(tmp_path / "out")] == [
        ("vqav2-1", "COCO id", 0),
        ("vqav2-2", "COCO id", 0),
    ]
    with pytest.raises(InputError, match=r"2 problem\(s\): .*vqav2-1 .*vqav2-2 .*split testA of .*by COCO id 2"):
        verify(vqav2.folder, against=[refcoco.folder])
    assert verify(tmp_path / "out", full=True, against=[refcoco.folder], progress=False)["samples"] == 1


def with_comment(path: Path, original: Path) -> Path:
    data = original.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xfe\x00\x06more" + data[2:])
    return path


@pytest.mark.parametrize("together", [1, 3, 2**14])
def test_copies_of_a_test_image_stay_out_whatever_their_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """However many images are compared at once."""
    monkeypatch.setattr(holdout, "_TOGETHER", together)
    original = saved(tmp_path / "raw" / "test.jpg", photograph(0), quality=92)
    with Image.open(original) as image:
        shown = image.convert("RGB")
    copies = {
        "quality": saved(tmp_path / "raw" / "a.jpg", shown, quality=70),
        "half": saved(tmp_path / "raw" / "b.jpg", resized(0.5)(shown), quality=90),
        "comment": with_comment(tmp_path / "raw" / "c.jpg", original),
        "lossless": saved(tmp_path / "raw" / "d.png", shown),
        "gray": saved(tmp_path / "raw" / "e.jpg", gray(shown), quality=80),
        "cropped": saved(tmp_path / "raw" / "f.jpg", cropped(0.01, 0.01, 0.01, 0.01)(shown), quality=90),
        "same": Path(shutil.copy(original, tmp_path / "raw" / "g.jpg")),
    }
    stranger = saved(tmp_path / "raw" / "h.jpg", photograph(1), quality=90)
    ours = of(tmp_path, "ours", [(path, "train") for path in (*copies.values(), stranger)])
    theirs = of(tmp_path, "theirs", [(original, "val"), (stranger, "train")])
    assert kept([ours], [theirs], tmp_path / "out") == ["ours-7"]
    found = dict(zip(copies, excluded(tmp_path / "out"), strict=True))
    assert {name: row["by"] for name, row in found.items()} == {
        **dict.fromkeys(("quality", "half", "gray", "cropped"), "difference hash"),
        **dict.fromkeys(("comment", "lossless"), "pixels"),
        "same": "bytes",
    }
    assert 0 < found["half"]["distance"] <= holdout.SAME_WITHIN
    told = f"in split val of theirs ({theirs}), by difference hash {found['half']['distance']} bits of 256"
    assert found["half"]["reason"] == f"{told} from theirs-test.jpg"
    assert pq.read_table(tmp_path / "out" / "doubtful.parquet").num_rows == 0
    with pytest.raises(InputError, match=r"7 problem\(s\): .*by difference hash \d+ bits of 256 from theirs-test"):
        verify(ours, against=[theirs])
    assert verify(tmp_path / "out", full=True, against=[theirs, ours], progress=False)["samples"] == 1


def alike_in(what: str, folder: Path) -> tuple[RawSample, RawSample]:
    """An image of train and one of testB that have one identity in common."""
    images = {"difference hash": resized(1.5)(photograph(0)), "pixels": photograph(0), "bytes": photograph(0)}
    level = {"pixels": 1}.get(what, 6)
    theirs = saved(folder / "theirs.png", photograph(0), compress_level=6)
    ours = saved(folder / "ours.png", images.get(what, photograph(1)), compress_level=level)
    ids = ("flickr:16",) if what == "Flickr id" else ()
    coco_id = 139 if what == "COCO id" else None
    made = []
    for source, path, split in (("ours", ours, "train"), ("theirs", theirs, "testB")):
        name = "same.png" if what == "file name" else path.name
        regions = (Region("r", split, ((1, 1, 2, 2),), (Expression("e", "thing"),)),)
        made.append(RawSample(Record(source, "0", name, 0, 0, "CC0", regions, (), coco_id), path, ids=ids))
    return made[0], made[1]


@pytest.mark.parametrize("what", ["difference hash", "pixels", "bytes", "COCO id", "Flickr id", "file name"])
def test_each_identity_alone_keeps_an_image_out_and_the_proof_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    made = alike_in(what, tmp_path)
    ours, theirs = (tmp_path / sample.record.source for sample in made)
    for sample, out in zip(made, (ours, theirs), strict=True):
        build([sample], out, source=out.name, licence="CC0", options={}, progress=False)
    with pytest.raises(InputError, match="no image is left"):
        pretrain_set([(ours, 1.0)], [theirs], tmp_path / "out")
    with pytest.raises(InputError, match=rf"1 problem.*ours-0 .*split testB of .*by {what} "):
        verify(ours, against=[theirs])
    monkeypatch.setattr(merge, "_held_out", lambda *_: ([], []))
    with pytest.raises(InputError, match=rf"ours-0 .*split testB of .*by {what} .*not published"):
        pretrain_set([(ours, 1.0)], [theirs], tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_an_image_of_visual_genome_is_known_by_its_id_of_flickr(tmp_path: Path) -> None:
    """Image 2 of Flickr30k's val has lost its annotations, image 1 is of train."""
    flickr30k, _ = built("flickr30k", flickr(tmp_path / "flickr", boxes=None))
    pictures = [_image(number, flickr_id=flickr_id) for number, flickr_id in ((1, 1), (2, 2), (3, None), (4, 9))]
    objects = [{"image_id": number, "objects": [_thing(number, ["cat"])]} for number in (1, 2, 3, 4)]
    root = _write(tmp_path / "vg", pictures, objects=objects)
    draw(root / "VG_100K", *(f"{number}.jpg" for number in (1, 2, 3, 4)), size=(100, 80))
    visual_genome, _ = built("visual_genome", root)
    found = kept([visual_genome.folder], [flickr30k.folder], tmp_path / "out")
    assert found == ["visual_genome-1", "visual_genome-3", "visual_genome-4"]
    (row,) = excluded(tmp_path / "out")
    assert (row["key"], row["by"]) == ("visual_genome-2", "Flickr id")
    assert tells(row["reason"], "split val of flickr30k", "by Flickr id 2")


def with_hashes(folder: Path, hashes: Callable[[int], bytes]) -> None:
    """Write the set in this folder again with these hashes, by row."""
    manifest = Manifest.open(folder)
    assert manifest.pictures is not None
    rows = [row | {"dhash": hashes(number)} for number, row in enumerate(manifest.pictures.to_pylist())]
    parts = [manifest.samples.to_table()], [manifest.examples.to_table()]
    pictures = [pa.Table.from_pylist(rows, schema=PICTURE_SCHEMA)]
    publish_tables(folder, *parts, manifest.meta, [QUARANTINE], pictures=pictures)


def test_the_limits_are_those_that_are_told(tmp_path: Path) -> None:
    """32 bits are a copy, 33 and 48 are doubtful, 49 a stranger."""
    paths = [saved(tmp_path / "raw" / f"{number}.png", photograph(number)) for number in range(5)]
    ours = of(tmp_path, "ours", [(path, "train") for path in paths[1:]])
    theirs = of(tmp_path, "theirs", [(paths[0], "test")])
    first = difference_hash(np.asarray(photograph(0)))
    assert first is not None
    bits = (32, 33, 48, 49)
    number = int.from_bytes(first)
    with_hashes(ours, lambda row: (number ^ ((1 << bits[row]) - 1)).to_bytes(32))
    assert kept([ours], [theirs], tmp_path / "out") == ["ours-1", "ours-2", "ours-3"]
    assert [(row["key"], row["distance"]) for row in excluded(tmp_path / "out")] == [("ours-0", 32)]
    doubtful = pq.read_table(tmp_path / "out" / "doubtful.parquet").to_pylist()
    assert [(row["key"], row["distance"]) for row in doubtful] == [("ours-1", 33), ("ours-2", 48)]
    assert verify(tmp_path / "out", against=[theirs])["samples"] == 3


def test_flat_images_are_not_copies_of_each_other(tmp_path: Path) -> None:
    """Nor of what is drawn on their ground: they are told by their pixels alone."""
    gray_ground = Image.new("RGB", SIZE, (120, 120, 120))
    dotted = gray_ground.copy()
    dotted.paste((200, 30, 30), (50, 40, 60, 50))
    test = saved(tmp_path / "raw" / "test.png", gray_ground)
    paths = [
        saved(tmp_path / "raw" / "lighter.png", Image.new("RGB", SIZE, (121, 121, 121))),
        saved(tmp_path / "raw" / "dotted.jpg", dotted, quality=60),
        saved(tmp_path / "raw" / "same.png", gray_ground, compress_level=1),
    ]
    assert read_image_file(test).content.dhash == bytes(32)
    ours = of(tmp_path, "ours", [(path, "train") for path in paths])
    assert kept([ours], [of(tmp_path, "theirs", [(test, "val")])], tmp_path / "out") == ["ours-0", "ours-1"]
    assert [(row["key"], row["by"]) for row in excluded(tmp_path / "out")] == [("ours-2", "pixels")]
    assert pq.read_table(tmp_path / "out" / "doubtful.parquet").num_rows == 0


def test_a_lost_image_is_known_by_its_content_where_its_file_was_read(tmp_path: Path) -> None:
    """Its annotations were of another size; the copy is compressed anew."""
    test = saved(tmp_path / "raw" / "test.png", photograph(0))
    regions = (Region("r", "val", ((1, 1, 2, 2),), (Expression("e", "thing"),)),)
    lost = RawSample(Record("theirs", "0", "test.png", 5, 5, "CC0", regions), test)
    whole = RawSample(
        Record("theirs", "1", "other.png", 0, 0, "CC0", regions), saved(tmp_path / "raw" / "o.png", photograph(9))
    )
    manifest = build([lost, whole], tmp_path / "theirs", source="theirs", licence="CC0", options={}, progress=False)
    assert len(manifest.samples) == 1
    copies = [(saved(tmp_path / "raw" / f"{seed}.jpg", photograph(seed), quality=60), "train") for seed in (0, 4)]
    assert kept([of(tmp_path, "ours", copies)], [tmp_path / "theirs"], tmp_path / "out") == ["ours-1"]


def test_an_image_that_was_lost_with_its_split_is_held_out(tmp_path: Path) -> None:
    """It may be one of a test; one that is stored and has nothing to show is of no split either, and may stay."""
    path = saved(tmp_path / "raw" / "a.png", photograph(0))
    gone = Fault("region", "x", "", "field", "no split", "refs.p", (("region", 1),))
    lost = RawSample(Record("theirs", "0", "0.png", 0, 0, "CC0"), path, (gone,), ("flickr:1",))
    silent = RawSample(Record("theirs", "1", "1.png", 0, 0, "CC0"), path, ids=("flickr:2",))
    build([lost, silent], tmp_path / "theirs", source="theirs", licence="CC0", options={}, progress=False)
    sets = [
        of(tmp_path, f"ours{number}", [(saved(tmp_path / "raw" / f"{number}.png", photograph(number)), "train")], ids)
        for number, ids in ((1, ("flickr:1",)), (2, ("flickr:2",)))
    ]
    assert kept(sets, [tmp_path / "theirs"], tmp_path / "out") == ["ours2-0"]
    (row,) = excluded(tmp_path / "out")
    assert tells(row["reason"], "in split unknown of theirs", "by Flickr id 1")


def test_a_set_that_is_given_twice_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an input and to exclude: its hashes are searched once."""
    paths = [saved(tmp_path / "raw" / f"{seed}.png", photograph(seed)) for seed in range(3)]
    ours = of(tmp_path, "ours", [(paths[0], "train"), (paths[1], "val")])
    theirs = of(tmp_path, "theirs", [(paths[2], "val")])
    searched: list[int] = []

    def watched(queries: Hashes, others: Hashes, within: int) -> Any:
        searched.append(len(others))
        return nearest(queries, others, within)

    monkeypatch.setattr(holdout, "nearest", watched)
    assert kept([ours], [ours, theirs, theirs], tmp_path / "out") == ["ours-0"]
    assert searched == [2, 2]  # and once more for the proof


def test_a_set_of_before_is_known_by_its_samples_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holdout._say_what_is_not_known.cache_clear()
    test = saved(tmp_path / "raw" / "test.png", photograph(0))
    copies = [
        Path(shutil.copy(test, tmp_path / "raw" / "same.png")),
        saved(tmp_path / "raw" / "half.jpg", photograph(0)),
    ]
    ours = of(tmp_path, "ours", [(path, "train") for path in copies])
    theirs = without_pictures(of(tmp_path, "theirs", [(test, "val")]))
    with caplog.at_level(logging.WARNING):
        assert kept([ours], [theirs], tmp_path / "out") == ["ours-1"]
    assert [row["by"] for row in excluded(tmp_path / "out")] == ["bytes"]
    told = [record.getMessage() for record in caplog.records if str(theirs) in record.getMessage()]
    assert len(told) == 1
    assert tells(told[0], "before sets knew their images", "lost", "Flickr")
    # As an input, too; what is put together has a table again.
    assert kept([without_pictures(ours)], [theirs], tmp_path / "older") == ["ours-1"]
    again = Manifest.open(tmp_path / "older").pictures
    assert again is not None
    assert [(row["key"], row["row"], row["dhash"]) for row in again.to_pylist()] == [("ours-1", 0, None)]
    assert verify(tmp_path / "older", full=True, progress=False)["samples"] == 1


def test_a_set_that_was_built_with_some_splits_says_what_it_does_not_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [saved(tmp_path / "raw" / f"{seed}.png", photograph(seed)) for seed in (0, 1)]
    ours = of(tmp_path, "ours", [(paths[0], "train")], options={"split": ["train"]})
    part = of(tmp_path, "part", [(paths[1], "val")], options={"split": ["train", "val"]})
    whole = of(tmp_path, "whole", [(paths[1], "val")], options={"split": None})
    with caplog.at_level(logging.WARNING):
        pretrain_set([(ours, 1.0)], [part, whole], tmp_path / "out")
    (told,) = (record.getMessage() for record in caplog.records)
    assert tells(told, str(part), "--split train val", "held-out images of other splits")
    caplog.clear()
    verify(ours, against=[part, whole])
    assert str(part) in caplog.text
    assert str(whole) not in caplog.text


def test_the_pictures_of_a_merged_set_are_those_of_its_samples(tmp_path: Path) -> None:
    paths = [saved(tmp_path / "raw" / f"{seed}.png", photograph(seed)) for seed in range(5)]
    one = of(tmp_path, "one", [(paths[0], "train"), (paths[1], "val"), (paths[2], "train")])
    two = of(tmp_path, "two", [(paths[1], "train"), (paths[3], "train"), (tmp_path / "raw" / "none.png", "train")])
    merged = pretrain_set([(one, 1.0), (two, 1.0)], [], tmp_path / "out")
    assert merged.pictures is not None
    rows = merged.pictures.to_pylist()
    assert [(row["key"], row["row"]) for row in rows] == [("one-0", 0), ("one-2", 1), ("two-1", 2)]
    assert [row["pixels_xxh3"] for row in rows] == [
        read_image_file(paths[number]).content.pixels_xxh3 for number in (0, 2, 3)
    ]
    # Put together again, and compared with others, it is known by the same.
    third = of(tmp_path, "third", [(saved(tmp_path / "raw" / "copy.jpg", photograph(3), quality=70), "testA")])
    with pytest.raises(InputError, match=r"1 problem\(s\): .*two-1 .*by difference hash"):
        verify(tmp_path / "out", against=[third])


def test_images_are_counted_once_where_a_chain_of_identities_joins_them(tmp_path: Path) -> None:
    """A and B have nothing in common but C, which comes last."""
    paths = [saved(tmp_path / "raw" / f"{seed}.png", photograph(seed)) for seed in range(4)]
    sets = [
        of(tmp_path, "a", [(paths[0], "train")], ids=("flickr:1",)),
        of(tmp_path, "b", [(paths[1], "train")], coco_id=2),
        of(tmp_path, "c", [(paths[2], "train")], ids=("flickr:1",), coco_id=2),
        of(tmp_path, "d", [(paths[3], "train"), (saved(tmp_path / "raw" / "d.bmp", photograph(3)), "train")]),
    ]
    pretrain_set([(folder, 1.0) for folder in sets], [], tmp_path / "out")
    found = info(tmp_path / "out")
    assert (found["samples"], found["pictures"]) == (5, 2)
