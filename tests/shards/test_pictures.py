"""By what a set knows its images: a row for each that the annotations name, stored or lost, and its content."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from PIL import Image

from laconvnet.shards.build.builder import build, build_task
from laconvnet.shards.build.images import read_image_file
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest, publish_tables
from laconvnet.shards.format.pictures import PICTURE_SCHEMA, Content, ids_of, name_of
from laconvnet.shards.format.raw import Fault, RawSample
from laconvnet.shards.format.record import Record
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.verify import verify
from tests.samples import SAMPLES, needs
from tests.shards.faulty import REFS, annotation, built, draw, ref, refer
from tests.shards.older import without_pictures
from tests.shards.test_build import ARGS, hashes, toy
from tests.shards.test_faults_flickr30k import flickr
from tests.shards.test_faults_questions import answered, asked, clevr, clevr_ref, pair, scene, snli, spoken, vqa, vqav2
from tests.shards.test_sources_visual_genome import _image, _thing, _write

CONTENT = ("file_bytes", "file_xxh3", "pixels_xxh3", "dhash")


def rows(manifest: Manifest) -> list[dict[str, Any]]:
    assert manifest.pictures is not None
    return manifest.pictures.to_pylist()


def by_key(manifest: Manifest) -> dict[str, dict[str, Any]]:
    found = rows(manifest)
    assert len({row["key"] for row in found}) == len(found)
    return {row["key"]: row for row in found}


def photograph(seed: int = 0, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """Blurred noise: as many edges as a photograph has, and no two of one seed alike."""
    noise = np.random.default_rng(seed).integers(0, 255, (16, 17, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def test_every_image_has_a_row_whether_it_was_stored_or_lost(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")  # 5 is truncated, 7 is missing
    gone = Fault("region", "x", "testB", "blank", "no words", "refs.p", (("region", 1),))
    empty = Record("toy", "empty", "empty.jpg", 0, 0, "CC0")
    trained = dataclasses.replace(gone, split="train")
    twice = dataclasses.replace(samples[1].record, file_name="COCO_val2014_000000000139.jpg")
    samples += [
        RawSample(empty, samples[0].image, (gone,)),
        RawSample(dataclasses.replace(empty, picture_id="none"), tmp_path / "none.jpg", (gone,)),
        RawSample(dataclasses.replace(empty, picture_id="trained"), samples[0].image, (trained,)),
        dataclasses.replace(samples[2], record=dataclasses.replace(samples[2].record, picture_id="size", width=9)),
        dataclasses.replace(samples[3], record=dataclasses.replace(samples[3].record, picture_id="k" * 99)),
        RawSample(twice, samples[1].image, ids=("flickr:16",)),
    ]
    samples[0] = dataclasses.replace(samples[0], faults=(gone,))
    manifest = build(samples, tmp_path / "out", **ARGS, shard_bytes=3000)
    found = rows(manifest)
    assert manifest.pictures is not None
    assert manifest.pictures.schema.equals(PICTURE_SCHEMA)
    used = [number for number in range(12) if number not in (5, 7)]
    assert [row["key"] for row in found if row["row"] >= 0] == [f"toy-{number}" for number in used]
    assert [row["row"] for row in found if row["row"] >= 0] == list(range(len(used)))
    lost = {row["key"]: row for row in found if row["row"] == -1 and row["file_name"] != twice.file_name}
    assert set(lost) == {"toy-5", "toy-7", "toy-empty", "toy-none", "toy-trained", "toy-size", f"toy-{'k' * 99}"}
    (second,) = (row for row in found if row["file_name"] == twice.file_name)
    assert (second["key"], second["row"], second["ids"]) == ("toy-1", -1, ["coco:139", "flickr:16"])
    unread = dict.fromkeys(CONTENT)
    for key in ("toy-7", "toy-none", "toy-trained", f"toy-{'k' * 99}"):
        assert {name: lost[key][name] for name in CONTENT} == unread
    data = samples[5].image.read_bytes()
    assert {name: lost["toy-5"][name] for name in CONTENT} == unread | {
        "file_bytes": 700,
        "file_xxh3": xxhash.xxh3_64_intdigest(data),
    }
    stored = found[used.index(2)]
    assert all(stored[name] for name in CONTENT)
    assert {name: lost["toy-size"][name] for name in CONTENT} == {name: stored[name] for name in CONTENT}
    # Nothing of it is left, but in a split that others may not train on.
    assert {name: lost["toy-empty"][name] for name in CONTENT} == {name: found[0][name] for name in CONTENT}
    assert found[0]["splits"] == ["testB", "train", "val"]
    assert lost["toy-empty"]["splits"] == ["testB"]
    assert lost["toy-7"]["splits"] == lost["toy-5"]["splits"] == ["train"]
    assert manifest.samples["splits"].to_pylist()[0] == ["train", "val"]


def test_a_build_in_tasks_or_with_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")
    build(samples, tmp_path / "whole", **ARGS, shard_bytes=3000)
    assert "pictures.arrow" in hashes(tmp_path / "whole")
    for number in (2, 1):
        build_task(samples, tmp_path / "tasks", **ARGS, shard_bytes=3000, task=(number, 2))
    (tmp_path / "tasks" / "parts" / "shard-000001.pictures.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"shard-000001\.pictures\.parquet: damaged .*run the same build command"):
        build(samples, tmp_path / "tasks", **ARGS, shard_bytes=3000)
    build(samples, tmp_path / "tasks", **ARGS, shard_bytes=3000, workers=2)
    assert hashes(tmp_path / "tasks") == hashes(tmp_path / "whole")


def test_a_shard_is_written_again_where_an_id_has_changed(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")[:3]
    build_task(samples, tmp_path / "out", **ARGS, task=(1, 1))
    samples[1] = dataclasses.replace(samples[1], ids=("flickr:7",))
    assert rows(build(samples, tmp_path / "out", **ARGS))[1]["ids"] == ["flickr:7"]


def content(path: Path, image: Image.Image, **options: Any) -> Content:
    image.save(path, **options)
    return read_image_file(path).content


def test_the_pixels_of_a_lossless_copy_are_the_same_and_its_file_is_not(tmp_path: Path) -> None:
    first = content(tmp_path / "a.jpg", photograph(), quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        decoded = image.convert("RGB")
    copies = [
        content(tmp_path / "b.png", decoded),
        content(tmp_path / "c.webp", decoded, lossless=True),
        content(tmp_path / "d.bmp", decoded),
        content(tmp_path / "e.tiff", decoded),
        content(tmp_path / "f.png", decoded.convert("RGBA")),
    ]
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "g.jpg").write_bytes(data[:2] + b"\xff\xfe\x00\x06copy" + data[2:])
    copies.append(read_image_file(tmp_path / "g.jpg").content)
    for copy in copies:
        assert (copy.pixels_xxh3, copy.dhash) == (first.pixels_xxh3, first.dhash)
    assert len({copy.file_xxh3 for copy in [first, *copies]}) == 1 + len(copies)
    assert content(tmp_path / "h.png", photograph(1)).pixels_xxh3 != first.pixels_xxh3
    assert first.file_bytes == len(data)
    assert first.file_xxh3 == xxhash.xxh3_64_intdigest(data)


def test_gray_is_gray_in_one_channel_or_in_three_and_a_shape_is_part_of_the_pixels(tmp_path: Path) -> None:
    gray = photograph().convert("L")
    one, three = content(tmp_path / "a.png", gray), content(tmp_path / "b.png", gray.convert("RGB"))
    assert one.pixels_xxh3 == three.pixels_xxh3
    jpeg = content(tmp_path / "c.jpg", gray, quality=90)
    with Image.open(tmp_path / "c.jpg") as image:
        assert content(tmp_path / "d.png", image).pixels_xxh3 == jpeg.pixels_xxh3
    flat = Image.new("L", (20, 10), 9)
    turned = content(tmp_path / "f.png", flat.resize((10, 20)))
    assert content(tmp_path / "e.png", flat).pixels_xxh3 != turned.pixels_xxh3


@pytest.mark.parametrize("has_regions", [True, False])
def test_pixels_are_those_of_the_upright_image(tmp_path: Path, has_regions: bool) -> None:
    """Whether it is stored upright, or as the file has it."""
    upright = photograph()
    for orientation, turn in ((6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright.transpose(turn).save(tmp_path / "turned.png", exif=exif)
        turned = read_image_file(tmp_path / "turned.png", has_regions=has_regions).content
        assert turned.pixels_xxh3 == content(tmp_path / "upright.png", upright).pixels_xxh3
        upright.transpose(turn).save(tmp_path / "turned.jpg", exif=exif, quality=90)
        kept = read_image_file(tmp_path / "turned.jpg", has_regions=has_regions).content
        with Image.open(tmp_path / "turned.jpg") as image:
            back = image.convert("RGB").transpose({6: Image.Transpose.ROTATE_270}.get(orientation, turn))
        assert kept.pixels_xxh3 == content(tmp_path / "back.png", back).pixels_xxh3


@needs(SAMPLES)
def test_the_pixels_of_real_images_are_those_that_pil_decodes() -> None:
    """By libjpeg twice: of simplejpeg's and of PIL's."""
    paths = [path for name in ("coco", "visual_genome", "vqav2", "snli_ve") for path in (SAMPLES / name).glob("*.jpg")]
    assert len(paths) > 12
    for path in paths:
        with Image.open(path) as image:
            copy = io.BytesIO()
            image.convert("RGB").save(copy, "BMP")
        shown = xxhash.xxh3_64(f"{image.width}x{image.height}".encode() + np.asarray(Image.open(copy)).tobytes())
        assert read_image_file(path).content.pixels_xxh3 == shown.intdigest(), path


def test_a_tiny_image_has_no_difference_hash(tmp_path: Path) -> None:
    for size, has_one in (((16, 16), False), ((17, 15), False), ((17, 16), True)):
        assert (content(tmp_path / "a.png", photograph(size=size)).dhash is not None) == has_one


def test_a_difference_hash_tells_which_cell_is_lighter_than_the_one_to_its_left(tmp_path: Path) -> None:
    cells = np.random.default_rng(1).integers(0, 255, (16, 17), dtype=np.uint8)
    found = content(tmp_path / "a.png", Image.fromarray(cells.repeat(5, 0).repeat(6, 1)))
    assert found.dhash == np.packbits(np.diff(cells.astype(int), axis=1) > 3).tobytes()
    tall = content(tmp_path / "b.png", Image.fromarray(cells.repeat(260, 0).repeat(2, 1)))
    assert tall.dhash == found.dhash


@pytest.mark.parametrize(
    ("source", "file_name", "ids", "expected", "name"),
    [
        ("refcoco", "COCO_train2014_000000000139.jpg", (None, None), ["coco:139"], None),
        ("coco", "val2017/000000000139.jpg", (None, None), ["coco:139"], None),
        ("refcoco", "COCO_train2014_000000000139_5.jpg", (None, 7), ["coco:139", "flickr:7"], None),
        ("visual_genome", "25.jpg", (139, 2), ["coco:139", "flickr:2"], "visual_genome/25"),
        ("visual_genome", "25.jpg", (None, None), [], "visual_genome/25"),
        ("coco", "COCO_val2014_000000000139.jpg", (140, None), ["coco:139", "coco:140"], None),
        ("flickr30k", "1000092795.jpg", (None, None), ["flickr:1000092795"], "flickr30k/1000092795"),
        ("snli_ve", "images\\1000092795.JPG", (None, None), ["flickr:1000092795"], "flickr30k/1000092795"),
        ("clevr", "CLEVR_val_000001.png", (None, None), [], "clevr_val_000001"),
        ("refcoco", "", (139, None), ["coco:139"], None),
    ],
)
def test_ids_and_names(
    source: str, file_name: str, ids: tuple[int | None, int | None], expected: list[str], name: str | None
) -> None:
    assert list(ids_of(source, file_name, *ids)) == expected
    assert name_of(source, file_name) == name


def test_ids_of_images_that_are_stored(tmp_path: Path) -> None:
    sizes = {"width": 64, "height": 48}
    addresses = ("http://farm4.staticflickr.com/3214/3138762291_f8d1391a71_z.jpg", "", 5)
    images = [
        {"id": number, "file_name": f"{number}.jpg", **sizes, "flickr_url": url}
        for number, url in enumerate(addresses, start=1)
    ]
    of_refcoco, _ = built("refcoco", refer(tmp_path / "refer", REFS, images=images), tmp_path / "refer" / "images")
    assert [row["ids"] for row in rows(of_refcoco)] == [["coco:1", "flickr:3138762291"], ["coco:2"], ["coco:3"]]
    pictures = [_image(1, coco_id=9, flickr_id=8), _image(2, flickr_id=None), _image(3, flickr_id="x")]
    objects = [{"image_id": number, "objects": [_thing(number, ["cat"])]} for number in (1, 2, 3, 4)]
    root = _write(tmp_path / "vg", pictures, objects=objects)
    draw(root / "VG_100K", "1.jpg", "2.jpg", "3.jpg", size=(100, 80))
    found = by_key(built("visual_genome", root)[0])
    assert {key: (row["ids"], row["row"]) for key, row in found.items()} == {
        "visual_genome-1": (["coco:9", "flickr:8"], 0),
        "visual_genome-2": ([], 1),
        "visual_genome-3": ([], -1),
        "visual_genome-4": ([], -1),
    }
    assert found["visual_genome-4"]["file_name"] == "4.jpg"


def lost_flickr(root: Path) -> tuple[str, Path]:
    return "flickr30k", flickr(root, boxes=None)


def lost_snli(root: Path) -> tuple[str, Path]:
    return "snli_ve", snli(root, [pair(1, "1"), pair(2, "2", gold_label="-")])


def lost_clevr(root: Path) -> tuple[str, Path]:
    return "clevr", clevr(root, [asked(1, 1), asked(2, 2, question=" ")])


def lost_clevr_ref(root: Path) -> tuple[str, Path]:
    return "clevr_ref+", clevr_ref(root, [spoken(1, 0), spoken(2, 0)], [scene(1, 64, 48)], (64, 48), (64, 48))


def lost_vqav2(root: Path) -> tuple[str, Path]:
    return "vqav2", vqav2(root, [vqa(1, 1), vqa(2, 2, question=" ")], [answered(1, 1)])


def lost_refcoco(root: Path) -> tuple[str, Path]:
    return "refcoco", refer(root, [ref(1, 1), ref(2, 99, "testA")], [annotation(10, 1), annotation(20, 99)])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lost_flickr, ("flickr30k-2", "2.jpg", ["flickr:2"], ["val"])),
        (lost_snli, ("snli_ve-2", "2.jpg", ["flickr:2"], ["val"])),
        (lost_clevr, ("clevr-CLEVR_val_000002", "CLEVR_val_000002.png", [], ["val"])),
        (lost_clevr_ref, ("clevr_ref+-CLEVR_val_000002", "CLEVR_val_000002.png", [], ["val"])),
        (lost_vqav2, ("vqav2-2", "COCO_val2014_000000000002.jpg", ["coco:2"], ["val"])),
        (lost_refcoco, ("refcoco-99", "", ["coco:99"], ["testA"])),
    ],
)
def test_an_image_of_which_the_source_makes_no_sample_is_known(
    tmp_path: Path, make: Callable[[Path], tuple[str, Path]], expected: tuple[str, str, list[str], list[str]]
) -> None:
    source, root = make(tmp_path / "raw")
    images = root / "images" if source == "refcoco" else None
    manifest, _ = built(source, root, images)
    row = by_key(manifest)[expected[0]]
    assert (row["key"], row["file_name"], row["ids"], row["splits"]) == expected
    assert [row[name] for name in ("row", *CONTENT)] == [-1, *[None] * 4]
    assert verify(manifest.folder)["samples"] == len(manifest.samples)


def test_a_split_that_was_lost_whole_is_among_those_of_an_image_that_was_stored(tmp_path: Path) -> None:
    root = snli(tmp_path / "raw", [pair(1, "1"), pair(2, "2")])
    lines = (root / "snli_ve_dev.jsonl").read_text().splitlines()
    (root / "snli_ve_test.jsonl").write_text(f"{lines[1]}\n{lines[0].replace('neutral', '-')}\n")
    manifest, _ = built("snli_ve", root)
    assert manifest.samples["splits"].to_pylist() == [["val"], ["test", "val"]]
    assert [row["splits"] for row in rows(manifest)] == [["test", "val"], ["test", "val"]]
    assert verify(manifest.folder)["samples"] == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(toy(tmp_path / "pictures"), tmp_path / "set", **ARGS, shard_bytes=3000)
    return tmp_path / "set"


def test_a_set_without_the_table_is_read_and_verified(folder: Path, tmp_path: Path) -> None:
    older = without_pictures(Path(shutil.copytree(folder, tmp_path / "older")))
    assert Manifest.open(older).pictures is None
    assert info(older) == info(folder)
    assert verify(older, full=True, progress=False)["samples"] == 10


def _changed(table: pa.Table, at: int, **values: Any) -> pa.Table:
    found = table.to_pylist()
    found[at] |= values
    return pa.Table.from_pylist(found, schema=PICTURE_SCHEMA)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.slice(1), "rows are not those of the 10 samples"),
        (lambda table: _changed(table, 3, row=7), "rows are not those of the 10 samples"),
        (lambda table: _changed(table, 3, key="toy-33"), "column 'key'"),
        (lambda table: _changed(table, 3, file_name="33.jpg"), "column 'file_name'"),
        (lambda table: _changed(table, 3, splits=["testA"]), "lacks a split"),
        (lambda table: table.slice(0, len(table) - 1), "split train: 11 images, the ledger says 12 were read"),
    ],
)
def test_a_table_that_is_not_that_of_the_samples_is_found_by_verify(
    folder: Path, change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    """As if the set had been built so: its checksums are right."""
    manifest = Manifest.open(folder)
    assert manifest.pictures is not None
    both = [manifest.samples.to_table()], [manifest.examples.to_table()]
    pictures = change(manifest.pictures.to_table())
    publish_tables(folder, *both, manifest.meta, ["quarantine.parquet"], pictures=[pictures])
    with pytest.raises(InputError, match=rf"pictures\.arrow: .*{told}"):
        verify(folder)


def test_a_flipped_bit_is_told_by_those_who_read_the_table(folder: Path) -> None:
    path = folder / "pictures.arrow"
    for at in range(3, path.stat().st_size, 311):
        data = bytearray(path.read_bytes())
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        Manifest.open(folder)  # as a training does
        for read in (info, verify):
            with pytest.raises(InputError, match=r"pictures\.arrow: .*checksum"):
                read(folder)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
    path.unlink()
    for read in (info, verify):
        with pytest.raises(InputError, match=r"pictures\.arrow"):
            read(folder)
