"""A bit flipped anywhere in a set of version 3 ends what reads it in one error; version 2 says what it cannot tell."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from laconvnet.shards.build import join
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import manifest as module
from laconvnet.shards.format import tables
from laconvnet.shards.format.manifest import META_KEY, Manifest, read_meta
from laconvnet.shards.sets.info import info
from laconvnet.shards.sets.merge import pretrain_set
from laconvnet.shards.sets.verify import verify
from tests.shards.test_manifest import built
from tests.shards.version_2 import as_version_2

READERS: dict[str, Callable[[Path], object]] = {"open": Manifest.open, "info": info, "verify": verify}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "toy"))


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def places(path: Path, step: int) -> Iterator[tuple[int, int]]:
    """Every so many bytes of a file one bit, a different one each time."""
    size = path.stat().st_size
    yield from ((at, at // step % 8) for at in range(0, size, step))


def test_a_flipped_bit_of_a_manifest_never_gives_other_facts(folder: Path) -> None:
    path = folder / "manifest.parquet"
    facts = read_meta(folder)
    begin = path.read_bytes().index(META_KEY)
    refused = []
    for at in range(begin - 40, path.stat().st_size, 7):
        flip(path, at, at % 8)
        try:
            found = read_meta(folder)
        except InputError as error:
            refused.append(str(error))
        else:
            assert found == facts
        flip(path, at, at % 8)
    assert len(refused) > 100
    assert all("manifest.parquet" in message and "\n" not in message for message in refused)
    version = path.read_bytes().index(b'"version": 3') + len(b'"version": ')
    flip(path, version)  # 2: what would be read without checksums
    with pytest.raises(InputError, match=r"manifest.parquet: .*checksum"):
        read_meta(folder)


def test_a_copy_of_the_facts_for_other_readers_is_compared_by_verify(folder: Path) -> None:
    path = folder / "manifest.parquet"
    table = pq.read_table(path)
    schema = base64.b64encode(table.schema.with_metadata({META_KEY: b"{}"}).serialize().to_pybytes())
    with pq.ParquetWriter(path, table.schema.remove_metadata(), store_schema=False) as writer:
        writer.write_table(table.replace_schema_metadata(None))
        writer.add_key_value_metadata({**table.schema.metadata, b"ARROW:schema": schema})
    assert read_meta(folder)["version"] == 3
    with pytest.raises(InputError, match=r"manifest.parquet: its facts differ from their copy"):
        verify(folder)


def test_facts_without_their_checksum_are_refused(folder: Path) -> None:
    path = folder / "manifest.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({META_KEY: table.schema.metadata[META_KEY]}), path)
    with pytest.raises(InputError, match=r"manifest.parquet: the checksum .*gone"):
        read_meta(folder)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["manifest.arrow", "examples.arrow"])
def test_a_flipped_bit_of_a_mapped_table_ends_all_that_reads_it(folder: Path, name: str, read: str) -> None:
    for at, bit in places(folder / name, 211):
        flip(folder / name, at, bit)
        with pytest.raises(InputError, match=rf"{name}: the checksum of .* differs") as error:
            READERS[read](folder)
        assert "\n" not in str(error.value)
        flip(folder / name, at, bit)
    READERS[read](folder)


def test_a_long_table_is_compared_where_it_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it looks at the shards' columns only; info and verify look at all."""
    monkeypatch.setattr(tables, "WHOLE_BYTES", 0)
    data = (folder / "examples.arrow").read_bytes()
    flip(folder / "examples.arrow", data.index(b"the left one"))
    manifest = Manifest.open(folder)
    assert len(manifest.select("train", "expression")) == 9
    for read in (lambda: manifest.example(0, "text"), lambda: info(folder), lambda: verify(folder)):
        with pytest.raises(InputError, match=r"examples.arrow: .*'text' in batch 0"):
            read()


@pytest.mark.parametrize("name", ["examples.parquet", "quarantine.parquet"])
def test_a_flipped_bit_of_a_file_beside_is_found_by_verify(folder: Path, name: str) -> None:
    for at, bit in places(folder / name, 307):
        flip(folder / name, at, bit)
        with pytest.raises(InputError, match=rf"1 problem\(s\): .*{name}"):
            verify(folder)
        flip(folder / name, at, bit)
    verify(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: cannot be read"):
        verify(folder)


def test_pages_of_the_published_tables_have_checksums_of_their_own(folder: Path, tmp_path: Path) -> None:
    """For other readers, and for manifest.parquet, which cannot hold the checksum of itself."""
    pretrain_set([(folder, 1.0)], [], tmp_path / "merged")
    for path in (*folder.glob("*.parquet"), tmp_path / "merged" / "excluded.parquet"):
        with pq.ParquetFile(path) as file:
            column = next(file.metadata.row_group(0).column(at) for at in range(file.metadata.num_columns))
            place = column.dictionary_page_offset or column.data_page_offset
        # The last bytes of the first page: its values.
        flip(path, place + column.total_compressed_size - 1)
        with pytest.raises(OSError, match="CRC"):
            pq.read_table(path, page_checksum_verification=True)


def test_a_flipped_bit_of_an_index_is_found_by_verify(folder: Path) -> None:
    """Whatever an index says follows from the manifest's rows, so that nothing more need be recorded of it."""
    manifest = Manifest.open(folder)
    index = manifest.shard_paths[0].with_suffix(".idx")
    for at, bit in places(index, 1):
        flip(index, at, bit)
        with pytest.raises(InputError, match=index.name):
            verify(folder)
        flip(index, at, bit)
    index.write_bytes(index.read_bytes() + b"\n")
    with pytest.raises(InputError, match=index.name):
        verify(folder)


def test_a_damaged_part_of_a_build_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = built(tmp_path)
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    shutil.rmtree(whole)
    plain = join.join_parts

    def damaged(out: Path, *arguments: Any) -> None:
        part = out / "parts" / "shard-000001.examples.parquet"
        flip(part, part.read_bytes().index(b"the left one"))  # "uhe left one" would decode as well
        plain(out, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("laconvnet.shards.build.builder.join_parts", damaged)
        with pytest.raises(InputError, match=r"shard-000001.examples.parquet: .*run the same build command again"):
            built(tmp_path)
    again = built(tmp_path)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == expected


def test_version_2_is_read_and_says_once_what_it_cannot_compare(
    folder: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_version_2(folder)
    caplog.clear()
    manifest = Manifest.open(folder)
    for _ in range(2):
        Manifest.open(folder)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    assert {str(folder / "manifest.parquet"), "2,", "3"} <= {word.strip(":") for word in line.split()} | {"2,"}
    assert str(manifest.examples.schema.field("sample").type) == "int32"
    new = Manifest.open(whole)
    assert str(manifest.examples.to_pylist()) == str(new.examples.to_pylist())
    assert manifest.samples.to_pylist() == new.samples.to_pylist()
    assert info(folder) == info(whole)
    assert verify(folder)["examples"] == 12
    assert manifest.read_record(1) == new.read_record(1)


def test_a_fingerprint_does_not_tell_where_raw_images_lay(tmp_path: Path) -> None:
    """The quarantine does, and training does not read it."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here, there = (Manifest.open(built(tmp_path / name)) for name in ("here", "there"))
    assert here.meta["files"]["quarantine.parquet"] != there.meta["files"]["quarantine.parquet"]
    assert here.fingerprint == there.fingerprint


def test_version_2_has_the_fingerprint_that_it_always_had(folder: Path) -> None:
    """Of the facts as they stand in the file."""
    as_version_2(folder)
    data = pq.read_schema(folder / "manifest.parquet").metadata[META_KEY]
    assert Manifest.open(folder).fingerprint == xxhash.xxh3_128_hexdigest(data)


@pytest.mark.parametrize("bits", [32, 64])
def test_version_2_has_sample_numbers_of_either_width(folder: Path, tmp_path: Path, bits: int) -> None:
    as_version_2(folder, pa.int64() if bits == 64 else pa.int32())
    assert str(Manifest.open(folder).examples.schema.field("sample").type) == f"int{bits}"
    verify(folder)
    merged = pretrain_set([(folder, 1.0)], [], tmp_path / "merged")
    assert str(merged.examples.schema.field("sample").type) == "int64"


def test_version_3_has_sample_numbers_of_64_bits_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.open(folder)
    narrow = module.EXAMPLE_SCHEMA_2
    monkeypatch.setattr(module, "EXAMPLE_SCHEMA", narrow)
    samples, examples = manifest.samples.to_table(), manifest.examples.to_table().cast(narrow)
    module.publish_tables(folder, [samples], [examples], manifest.meta)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"examples.arrow: other columns .*sample: int"):
        Manifest.open(folder)


def test_sets_of_both_versions_are_merged_as_two_of_version_3(tmp_path: Path) -> None:
    one, two = built(tmp_path, "one"), built(tmp_path, "two")
    expected = pretrain_set([(one, 1.0), (two, 0.5)], [], tmp_path / "both")
    as_version_2(one)
    mixed = pretrain_set([(one, 1.0), (two, 0.5)], [], tmp_path / "mixed")
    assert mixed.meta["version"] == 3
    assert set(mixed.meta["files"]) == {"doubtful.parquet", "examples.parquet", "excluded.parquet"}
    for name in ("manifest.arrow", "examples.arrow", "examples.parquet", "excluded.parquet"):
        assert (tmp_path / "mixed" / name).read_bytes() == (tmp_path / "both" / name).read_bytes()
    assert mixed.fingerprint != expected.fingerprint  # it is made from another build
    verify(tmp_path / "mixed", full=True, against=[one], progress=False)


@pytest.mark.parametrize("read", ["info", "verify", "input", "exclude", "against"])
def test_damage_of_version_2_is_found_where_all_is_read(folder: Path, tmp_path: Path, read: str) -> None:
    """Or a merged set would give it a right checksum."""
    as_version_2(folder)
    other = built(tmp_path, "other")
    flip(folder / "examples.arrow", (folder / "examples.arrow").read_bytes().index(b"the left one"))
    Manifest.open(folder)
    commands: dict[str, Callable[[], object]] = {
        "info": lambda: info(folder),
        "verify": lambda: verify(folder),
        "input": lambda: pretrain_set([(folder, 1.0), (other, 1.0)], [], tmp_path / "merged"),
        "exclude": lambda: pretrain_set([(other, 1.0)], [folder], tmp_path / "merged"),
        "against": lambda: verify(other, against=[folder]),
    }
    with pytest.raises(InputError, match=r"examples.arrow: the checksum of the file"):
        commands[read]()
    assert not (tmp_path / "merged").exists()


def test_a_build_of_version_2_that_was_finished_is_left_as_it_is(tmp_path: Path) -> None:
    folder = as_version_2(built(tmp_path))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    built(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
