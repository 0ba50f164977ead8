"""Damage of every kind is found and named by shard, key and offset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laconvnet.shards.build.builder import build
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest, publish_tables
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from laconvnet.shards.sets.merge import pretrain_set
from laconvnet.shards.sets.verify import verify


def built(
    folder: Path, name: str = "toy", splits: tuple[str, ...] = ("train",) * 4, file_name: str = "{name}{number}.jpg"
) -> Path:
    """Four images in two shards or so, one region and one question each."""
    samples = []
    for number, split in enumerate(splits):
        path = folder / f"{name}{number}.jpg"
        Image.effect_noise((40, 30 + number), 60 + len(name)).save(path)
        regions = (Region("r", split, ((1.25, 2, 30, 20.7),), (Expression("e", f"thing {number}"),)),)
        questions = (Question("q", split, "what?", "this", ("this",), "query"),)
        shown = file_name.format(name=name, number=number)
        samples.append(
            RawSample(Record(name, str(number), shown, 0, 0, "CC0", regions, questions), path),
        )
    build(samples, folder / name, source=name, licence="CC0", options={}, shard_bytes=2500, progress=False)
    return folder / name


def changed(table: pa.Table, name: str, change: Callable[[list[Any]], list[Any]]) -> pa.Table:
    field = table.schema.field(name)
    values = pa.array(change(table[name].to_pylist()), field.type)
    return table.set_column(table.schema.get_field_index(name), field, values)


def change_column(path: Path, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Change a column of manifest.parquet or examples.parquet as if the set had been built so."""
    manifest = Manifest.open(path.parent)
    both = {"manifest": manifest.samples.to_table(), "examples": manifest.examples.to_table()}
    both[path.stem] = changed(both[path.stem], name, change)
    publish_tables(path.parent, [both["manifest"]], [both["examples"]], manifest.meta)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


def test_a_good_set_passes_both_checks(tmp_path: Path) -> None:
    folder = built(tmp_path)
    expected = {"folder": str(folder), "samples": 4, "examples": 8, "against": []}
    report = verify(folder)
    assert report == expected | {"shards": len(list(folder.glob("*.tar"))), "full": False}
    assert verify(folder, full=True, progress=False) == report | {"full": True}


def test_a_truncated_tar_is_found_without_full(tmp_path: Path) -> None:
    folder = built(tmp_path)
    shard = folder / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"shard-000001.tar: shard of 1000 bytes"):
        verify(folder)


@pytest.mark.parametrize("name", ["manifest.arrow", "examples.arrow"])
def test_a_damaged_mapped_table_is_found_without_full(tmp_path: Path, name: str) -> None:
    folder = built(tmp_path)
    size = (folder / name).stat().st_size
    flip(folder / name, (folder / name).read_bytes().index(b"train"))  # a letter that nobody would miss
    with pytest.raises(InputError, match=rf"{name}: .*checksum .*manifest"):
        verify(folder)
    flip(folder / name, (folder / name).read_bytes().index(b"\x34rain"))
    for at in range(3, size, 97):  # wherever it is damaged, it is told, and nothing worse happens
        flip(folder / name, at)
        with pytest.raises(InputError, match=f"{name}: .*checksum"):
            verify(folder)
        flip(folder / name, at)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("manifest", "file_name", "file_name in rows 0 to 3 is not that of manifest.arrow"),
        ("examples", "x", "x in rows 0 to 7 is not that of examples.arrow"),
        ("examples", "answers", "answers in rows 0 to 7 is not that of examples.arrow"),
        ("examples", None, r"other columns than expected \(.*text"),
    ],
)
def test_a_published_table_other_than_the_mapped_one_is_found_without_full(
    tmp_path: Path, name: str, column: str | None, message: str
) -> None:
    folder = built(tmp_path)
    path = folder / f"{name}.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path)  # other bytes, the same rows
    if name == "manifest":  # which cannot hold its own checksum
        verify(folder)
    else:
        with pytest.raises(InputError, match=rf"1 problem\(s\): .*{name}.parquet: .*checksum"):
            verify(folder)
    again = changed(table, column, lambda v: [*v[:-2], v[-1], v[-2]]) if column else table.drop_columns(["text"])
    pq.write_table(again, path)
    with pytest.raises(InputError, match=rf"1 problem\(s\): .*{name}.parquet: {message}"):
        verify(folder)
    if name == "examples":
        pq.write_table(table.slice(0, 5), path)
        with pytest.raises(InputError, match=r"examples.parquet: 5 rows, examples.arrow has 8"):
            verify(folder)
        path.write_bytes(b"PAR1")
        with pytest.raises(InputError, match=r"examples.parquet: cannot be read as Parquet"):
            verify(folder)


@pytest.mark.parametrize(
    ("member", "at", "message"),
    [
        ("image", 300, r"toy-1 image at offset \d+: checksum differs"),
        ("json", 10, r"toy-1 json at offset \d+: checksum differs"),
        ("image", -510, r"toy-1 image at offset \d+: (damaged tar header|tar header of)"),
        ("json", -510, r"toy-1 json at offset \d+: (damaged tar header|tar header of)"),
    ],
)
def test_a_flipped_byte_is_found_with_full(tmp_path: Path, member: str, at: int, message: str) -> None:
    folder = built(tmp_path)
    manifest = Manifest.open(folder)
    shard = manifest.shard_paths[manifest.samples["shard"][1].as_py()]
    flip(shard, manifest.samples[f"{member}_offset"][1].as_py() + at)
    verify(folder)
    with pytest.raises(InputError, match=f"{shard.name}: {message}"):
        verify(folder, full=True, progress=False)


@pytest.mark.parametrize(
    ("file", "column", "change", "message"),
    [
        ("manifest", "width", lambda v: [0, *v[1:]], "toy-0 image at offset 512: a size that is not positive"),
        ("manifest", "image_ext", lambda v: ["gif", *v[1:]], "toy-0 .*: an extension other than jpg, png"),
        ("manifest", "set", lambda v: [*v[:-1], 1], "toy-3 .*: a set number beyond the sets"),
        ("manifest", "json_offset", lambda v: [v[0] - 512, *v[1:]], "toy-0 .*: a record that does not follow"),
        ("manifest", "image_offset", lambda v: [v[0] + 1, *v[1:]], "toy-0 .*: an offset that is no multiple of 512"),
        ("manifest", "key", lambda v: [v[1], *v[1:]], "1 keys occur twice"),
        ("manifest", "key", lambda v: ["toy-9", *v[1:]], r"shard-000000.idx: no line 'jpg 512 \d+ toy-9.jpg json"),
        ("manifest", "splits", lambda v: [["val"], *v[1:]], "split train: 3 picture entries, the ledger says 4"),
        ("examples", "split", lambda v: ["val", *v[1:]], "split val: 1 expression entries, the ledger says 0"),
        ("examples", "sample", lambda v: [*v[:-1], 4], "example 7: sample 4 of 4"),
        ("examples", "sample", lambda v: [3, *v[1:]], "example 1: examples are not in the order"),
        ("examples", "kind", lambda v: ["caption", *v[1:]], "example 0 of .*toy-0 .*: a kind other than"),
        ("examples", "region", lambda v: [-1, *v[1:]], "example 0 of .*: a region number that does not fit"),
        ("examples", "w", lambda v: [38.8, *v[1:]], "example 0 of .*: a box that is not inside its image"),
        ("examples", "x", lambda v: [-0.5, *v[1:]], "example 0 of .*: a box that is not inside its image"),
        ("examples", "h", lambda v: [0, *v[1:]], "example 0 of .*: a box that is not inside its image"),
    ],
)
def test_wrong_tables_are_found_without_full(
    tmp_path: Path, file: str, column: str, change: Callable[[list[Any]], list[Any]], message: str
) -> None:
    folder = built(tmp_path)
    change_column(folder / f"{file}.parquet", column, change)
    with pytest.raises(InputError, match=message):
        verify(folder)


@pytest.mark.parametrize(
    ("file", "column", "change", "message"),
    [
        ("manifest", "picture_id", lambda v: ["9", *v[1:]], "toy-0 json .*: picture_id is '0', in the manifest '9'"),
        ("manifest", "height", lambda v: [60, *v[1:]], r"toy-0 image .*: an image of \(40, 30\), expected \(40, 60\)"),
        ("examples", "text", lambda v: ["other", *v[1:]], "toy-0 json .*: 2 examples that are not the record's 2"),
        ("examples", "h", lambda v: [20.6, *v[1:]], "toy-0 json .*: 2 examples that are not the record's 2"),
        ("examples", "answer", lambda v: [None, "that", *v[2:]], "toy-0 json .*: 2 examples that are not the record's"),
    ],
)
def test_rows_that_disagree_with_their_records_are_found_with_full(
    tmp_path: Path, file: str, column: str, change: Callable[[list[Any]], list[Any]], message: str
) -> None:
    folder = built(tmp_path)
    change_column(folder / f"{file}.parquet", column, change)
    verify(folder)
    with pytest.raises(InputError, match=message):
        verify(folder, full=True, progress=False)


def test_exchanged_splits_are_found_with_full(tmp_path: Path) -> None:
    folder = built(tmp_path, splits=("train", "val", "val", "val"))
    change_column(folder / "manifest.parquet", "splits", lambda v: [v[1], v[0], *v[2:]])
    verify(folder)
    with pytest.raises(InputError, match=r"splits are \['train'\], in the manifest \['val'\]"):
        verify(folder, full=True, progress=False)


def test_an_image_that_does_not_decode_is_found_even_with_a_right_checksum(tmp_path: Path) -> None:
    import xxhash

    folder = built(tmp_path)
    row = Manifest.open(folder).samples.slice(0, 1).to_pylist()[0]
    shard = bytearray((folder / "shard-000000.tar").read_bytes())
    start = row["image_offset"] + row["image_length"] // 2
    end = row["image_offset"] + row["image_length"]
    shard[start:end] = bytes(end - start)
    (folder / "shard-000000.tar").write_bytes(shard)
    digest = xxhash.xxh3_64_intdigest(bytes(shard[row["image_offset"] : end]))
    change_column(folder / "manifest.parquet", "image_xxh3", lambda v: [digest, *v[1:]])
    with pytest.raises(InputError, match="toy-0 image at offset 512: cannot be decoded"):
        verify(folder, full=True, progress=False)


def test_the_index_is_checked(tmp_path: Path) -> None:
    folder = built(tmp_path)
    index = folder / "shard-000000.idx"
    good = index.read_text()
    index.write_text(good.replace("v1.2", "v1.1"))
    with pytest.raises(InputError, match=r"shard-000000.idx: first line 'v1.1 \d', expected 'v1.2"):
        verify(folder)
    index.write_text(good.replace(" 512 ", " 1024 ", 1))
    with pytest.raises(InputError, match=r"shard-000000.idx: no line 'jpg 512"):
        verify(folder)
    index.write_text("\n".join(["v1.2 1", *good.splitlines()[1:2]]) + "\n")
    with pytest.raises(InputError, match=r"shard-000000.idx: 1 samples, the manifest has \d"):
        verify(folder)
    index.unlink()
    with pytest.raises(InputError, match=r"shard-000000.idx: index cannot be read"):
        verify(folder)


def test_the_number_of_problems_reported_is_bounded(tmp_path: Path) -> None:
    folder = built(tmp_path, splits=("train",) * 15)
    change_column(folder / "manifest.parquet", "width", lambda v: [0] * len(v))
    with pytest.raises(InputError, match=r"10 problem\(s\), and perhaps more") as error:
        verify(folder)
    assert str(error.value).count("not positive") == 10


@pytest.mark.parametrize(
    ("theirs", "by"),
    [("COCO_train2014_00000000000{number}.jpg", "COCO id 2"), ("folder/Ours{number}.PNG", "file name ours2")],
)
def test_images_of_another_sets_tests_are_named(tmp_path: Path, theirs: str, by: str) -> None:
    ours = built(tmp_path, "ours", file_name="00000000000{number}.jpg" if "COCO" in theirs else "{name}{number}.jpg")
    other = built(tmp_path, "other", splits=("train", "train", "testA", "train"), file_name=theirs)
    assert verify(ours, against=[ours])["against"] == [str(ours)]
    with pytest.raises(InputError, match=rf"1 problem\(s\): .*ours-2 .*split testA of .*, by {by}"):
        verify(ours, against=[other])


def test_a_set_made_by_reference_is_verified_in_full(tmp_path: Path) -> None:
    one = built(tmp_path, "one", splits=("train", "val", "train", "train"))
    two = built(tmp_path, "three")
    both = tmp_path / "both"
    pretrain_set([(one, 1.0), (two, 1.0)], [], both)
    report = verify(both, full=True, against=[one], progress=False)
    assert (report["samples"], report["examples"]) == (7, 14)
