"""Copies of sets in fsspec's memory: what comes out is the set or nothing, whatever is there and whatever changes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from laconvnet.launch.cli import main
from laconvnet.shards.build.builder import build
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import remote
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.sets.copy import copy
from laconvnet.shards.sets.verify import verify
from tests.messages import tells
from tests.shards.faulty import resealed
from tests.shards.test_build import ARGS, hashes, toy


@pytest.fixture
def store() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.fixture
def built(tmp_path: Path, store: Any) -> Path:
    build(toy(tmp_path / "pictures"), tmp_path / "set", **ARGS, shard_bytes=3000)
    return tmp_path / "set"


def test_names_with_blanks_and_a_last_slash_are_copied_there_and_back(built: Path, tmp_path: Path) -> None:
    copy(built, "memory://some/a set/", progress=False)
    copy("memory://some/a set", tmp_path / "back", progress=False)
    assert hashes(tmp_path / "back") == hashes(built)


@pytest.mark.parametrize("name", ["./../../evil.tar", "/evil.tar", "a/../../evil.tar", "", "a\0.tar", "evil", 7])
def test_a_manifest_does_not_choose_where_shards_go(built: Path, tmp_path: Path, store: Any, name: Any) -> None:
    manifest = Manifest.open(built)
    resealed(manifest, {**manifest.meta, "shards": [name, *manifest.meta["shards"][1:]]})
    for file in built.iterdir():
        store.pipe_file(f"/there/{file.name}", file.read_bytes())
    for end in ("tar", "idx"):
        store.pipe_file(f"/there/./../../evil.{end}", b"")
    before = set(tmp_path.rglob("*evil*"))
    with pytest.raises(InputError, match=r"^memory://there/manifest.parquet: holds shard .*, expected a relative path"):
        copy("memory://there", tmp_path / "some" / "out", progress=False)
    assert set(tmp_path.rglob("*evil*")) == before


def without_samples(meta: dict[str, Any]) -> None:
    del meta["tables"]["manifest.arrow"]


def without_a_column(meta: dict[str, Any]) -> None:
    del meta["tables"]["manifest.arrow"]["columns"]["key"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_samples, "tables without manifest.arrow"),
        (without_a_column, "checksums of other columns"),
        (lambda meta: meta["tables"]["manifest.arrow"].clear(), "manifest.arrow among tables as {}"),
        (lambda meta: meta["files"].update({"..": {"bytes": 1, "xxh3": ""}}), "a file '..' among files"),
        (lambda meta: meta.update(tables=[]), "tables \\[\\], expected an object"),
        (lambda meta: meta.update(files=[]), "files \\[\\], expected an object"),
        (lambda meta: meta.update(shards="a"), "shards 'a', expected a list"),
        (lambda meta: meta.update(sets="a"), "sets 'a', expected a list"),
        (lambda meta: meta.update(ledger=[]), "ledger \\[\\], expected an object"),
    ],
)
def test_facts_that_no_build_writes_are_told(built: Path, change: Callable[[Any], None], message: str) -> None:
    manifest = Manifest.open(built)
    meta = json.loads(json.dumps(manifest.meta))
    change(meta)
    resealed(manifest, meta)
    with pytest.raises(InputError, match=message):
        Manifest.open(built)


def test_a_set_that_is_built_again_while_it_is_copied_is_not_published(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from laconvnet.shards.format.remote import Folder

    put = Folder.put

    def changing(folder: Folder, file: Path, name: str) -> None:
        put(folder, file, name)
        if name == "shard-000001.tar":
            shutil.rmtree(built)
            build(toy(tmp_path / "pictures"), built, **ARGS | {"licence": "another"}, shard_bytes=3000)

    monkeypatch.setattr(Folder, "put", changing)
    with pytest.raises(InputError, match="was built again while it was copied"):
        copy(built, "memory://there", progress=False)
    monkeypatch.undo()
    assert not fsspec.filesystem("memory").exists("/there/manifest.parquet")


def test_shards_of_something_else_are_neither_taken_nor_written_over(built: Path, tmp_path: Path) -> None:
    copy(built, "memory://there", progress=False)
    out = tmp_path / "out"
    out.mkdir()
    other = bytes((built / "shard-000000.tar").stat().st_size)
    (out / "shard-000000.tar").write_bytes(other)
    with pytest.raises(InputError, match=r"holds shard-000000.tar, which no copy of this program began"):
        copy("memory://there", out, progress=False)
    assert (out / "shard-000000.tar").read_bytes() == other


def test_a_shard_that_is_gone_from_a_copy_is_copied_again(built: Path, tmp_path: Path) -> None:
    copy(built, "memory://there", progress=False)
    copy("memory://there", tmp_path / "out", progress=False)
    (tmp_path / "out" / "shard-000001.tar").unlink()
    copy("memory://there", tmp_path / "out", progress=False)
    assert verify(tmp_path / "out", full=True, progress=False)


def test_a_file_that_is_gone_from_the_store_is_told(built: Path, store: Any, capfd: pytest.CaptureFixture[str]) -> None:
    copy(built, "memory://there", progress=False)
    store.rm_file("/there/examples.arrow")
    assert main(["shards", "info", "memory://there"]) == 2
    assert tells(capfd.readouterr().err, "memory://there/examples.arrow: No such file")


@pytest.mark.parametrize(
    "command",
    [
        ["pretrain-set", "--inputs", "SET", "--out", "memory://there/merged"],
        ["pretrain-set", "--inputs", "memory://there=2", "--out", "OUT"],
        ["pretrain-set", "--inputs", "SET", "--exclude", "memory://there", "--out", "OUT"],
        ["build", "table", "--root", "SET", "--out", "memory://there/built"],
        ["preview", "SET", "--out", "memory://there/page.html"],
        ["copy", "SET", "--out", "file:///there"],
        ["info", "file:///there"],
    ],
)
def test_a_url_is_no_folder_of_that_name(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    names = {"SET": str(built), "OUT": str(tmp_path / "out")}
    assert main(["shards", *(names.get(word, word) for word in command)]) == 2
    assert tells(capfd.readouterr().err, "there", "expected a ")
    assert set(tmp_path.iterdir()) == before


def test_a_damaged_mirror_is_told_with_what_mends_it(built: Path) -> None:
    copy(built, "memory://there", progress=False)
    mirror = Manifest.open("memory://there").folder
    (mirror / "examples.arrow").write_bytes(b"")
    with pytest.raises(InputError, match=rf"delete {mirror}, which is fetched again from memory://there"):
        Manifest.open("memory://there")
    shutil.rmtree(mirror)
    assert Manifest.open("memory://there").folder == mirror


def test_a_full_disk_is_told_at_once_by_the_file_that_is_written(
    built: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(built, "memory://there", progress=False)
    Manifest.open("memory://there")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    monkeypatch.setattr(time, "sleep", lambda seconds: None if seconds == 0 else pytest.fail("it waits"))
    assert main(["shards", "copy", "memory://there", "--out", str(tmp_path / "out")]) == 1
    assert tells(capfd.readouterr().err, f"{tmp_path}/out/shard-000000.idx: No space left on device")


def test_a_url_with_a_query_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "info", "http://127.0.0.1:1/set?key=1"]) == 2
    assert tells(capfd.readouterr().err, "http://127.0.0.1:1/set?key=1", "expected the URL of a folder")


def test_a_set_that_comes_while_another_is_fetched_is_not_taken_for_it(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build(toy(tmp_path / "pictures"), tmp_path / "other", **ARGS | {"licence": "another"}, shard_bytes=3000)
    copy(built, "memory://there", progress=False)
    get = remote.Folder.get

    def changing(folder: remote.Folder, name: str, file: Path) -> None:
        fsspec.filesystem("memory").store.clear()
        copy(tmp_path / "other", "memory://there", progress=False)
        get(folder, name, file)

    with monkeypatch.context() as patch:
        patch.setattr(remote.Folder, "get", changing)
        with pytest.raises(InputError, match="memory://there: another set came there meanwhile"):
            Manifest.open("memory://there")
    assert Manifest.open("memory://there").fingerprint == other.fingerprint


def test_what_a_killed_copy_left_goes(built: Path, tmp_path: Path) -> None:
    copy(built, "memory://there", progress=False)
    out = tmp_path / "out"
    out.mkdir()
    for name, age in (("old", 3600), ("new", 0)):
        file = out / f".partial.12345678.{name}.tar"
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
    copy("memory://there", out, progress=False)
    assert [file.name for file in out.glob(".partial.*")] == [".partial.12345678.new.tar"]
