"""Raw data sets at URLs: the set is that of the same files on a disk, and a store that fails loses no image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import s3fs

from laconvnet.launch.cli import main
from laconvnet.shards.format import remote
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.synthetic import generate
from tests.messages import tells
from tests.pipeline.stores.web import Fault, Web, busy, reset, short
from tests.shards.test_build import hashes


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("raw")
    generate(place, pictures=8, size=48, progress=False)
    return place


@pytest.fixture(autouse=True)
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LACONVNET_RAW_CACHE", str(tmp_path / "fetched"))
    return tmp_path / "fetched"


def built(source: str, out: Path, *options: str, code: int = 0) -> Path:
    assert main(["shards", "build", source, "--out", str(out), "--workers", "1", *options]) == code
    return out


def images_of(root: Path) -> Path:
    (folder,) = {path.parent for path in (root / "refer").rglob("*.jpg")} | {
        path.parent for path in (root / "refer").rglob("*.png")
    }
    return folder


@pytest.mark.parametrize(("source", "folder"), [("refcoco", "refer"), ("clevr", "clevr"), ("visual_genome",) * 2])
def test_a_root_in_a_store_gives_the_same_set(
    raw: Path, bucket: str, tmp_path: Path, source: str, folder: str, fetched: Path
) -> None:
    s3fs.S3FileSystem().put(str(raw / folder), f"{bucket}/raw/{source}", recursive=True)
    here = built(source, tmp_path / "here", "--root", str(raw / folder))
    there = built(source, tmp_path / "there", "--root", f"{bucket}/raw/{source}")
    # The quarantine names files where they lie now.
    told = {"quarantine.parquet", "manifest.parquet"}
    assert {name: digest for name, digest in hashes(there).items() if name not in told} == {
        name: digest for name, digest in hashes(here).items() if name not in told
    }
    assert Manifest.open(there).fingerprint == Manifest.open(here).fingerprint
    assert len(Manifest.open(there).samples) >= 8
    assert fetched.stat().st_mode & 0o077 == 0


def test_images_of_a_web_server_through_its_faults(
    raw: Path, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.01, 0.01, 0.01))
    shutil.copytree(images_of(raw), tmp_path / "served" / "images")
    web.of = ("jpg", "png")
    web.faults += [reset, busy, short]
    here = built("refcoco", tmp_path / "here", "--root", str(raw / "refer"))
    options = ("--root", str(raw / "refer"), "--images", f"{web.url}/images")
    assert hashes(built("refcoco", tmp_path / "there", *options)) == hashes(here)
    assert web.failed == 3
    before = web.gets
    assert hashes(built("refcoco", tmp_path / "again", *options)) == hashes(here)
    assert web.gets == before, "what was fetched once is here"


def test_an_image_that_is_not_there_is_lost_and_comes_back(raw: Path, web: Web, tmp_path: Path) -> None:
    shutil.copytree(images_of(raw), tmp_path / "served" / "images")
    gone = sorted((tmp_path / "served" / "images").iterdir())[0]
    gone.rename(tmp_path / "aside")
    options = ("--root", str(raw / "refer"), "--images", f"{web.url}/images")
    there = built("refcoco", tmp_path / "there", *options)
    rows = [row for row in Manifest.open(there).quarantine().to_pylist() if row["kind"] == "picture"]
    assert [(row["cause"], Path(row["file"]).name or gone.name) for row in rows] == [("missing", gone.name)]
    (tmp_path / "aside").rename(gone)
    here = built("refcoco", tmp_path / "here", "--root", str(raw / "refer"))
    assert hashes(built("refcoco", there, *options)) == hashes(here)


@pytest.mark.parametrize("fault", [reset, busy, short])
def test_a_server_that_cannot_be_reached_ends_the_build(
    raw: Path, web: Web, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.01,))
    shutil.copytree(images_of(raw), tmp_path / "served" / "images")
    web.of = ("jpg", "png")
    web.faults += [fault] * 10_000
    options = ("--root", str(raw / "refer"), "--images", f"{web.url}/images")
    built("refcoco", tmp_path / "out", *options, code=1)
    assert tells(capfd.readouterr().err, f"{web.url}/images/", "failed 2 times")
    assert not (tmp_path / "out").exists()
    web.faults.clear()
    here = built("refcoco", tmp_path / "here", "--root", str(raw / "refer"))
    assert hashes(built("refcoco", tmp_path / "out", *options)) == hashes(here)


def test_annotations_that_were_changed_or_removed_are_fetched_again(
    raw: Path, bucket: str, tmp_path: Path, fetched: Path
) -> None:
    store = s3fs.S3FileSystem()
    store.put(str(raw / "clevr"), f"{bucket}/clevr", recursive=True)
    built("clevr", tmp_path / "one", "--root", f"{bucket}/clevr")
    name = "questions/CLEVR_val_questions.json"
    here = next(fetched.rglob(Path(name).name))
    assert here.exists()
    store.rm(f"{bucket}/clevr/{name}")
    built("clevr", tmp_path / "two", "--root", f"{bucket}/clevr")
    assert not here.exists()
    store.put(str(raw / "clevr" / name), f"{bucket}/clevr/{name}")
    built("clevr", tmp_path / "three", "--root", f"{bucket}/clevr")
    assert hashes(tmp_path / "three") == hashes(tmp_path / "one") != hashes(tmp_path / "two")


def test_what_cannot_be_a_root_is_told(web: Web, bucket: str, tmp_path: Path, fetched: Path, capfd: Any) -> None:
    built("refcoco", tmp_path / "out", "--root", web.url, code=2)
    assert tells(capfd.readouterr().err, web.url, "a web server lists no files")
    built("refcoco", tmp_path / "out", "--root", f"{bucket}/nothing", code=2)
    assert tells(capfd.readouterr().err, f"{bucket}/nothing", "no annotations are listed there")
    fetched.chmod(0o777)
    built("refcoco", tmp_path / "out", "--root", f"{bucket}/nothing", code=2)
    assert tells(capfd.readouterr().err, "others can write it", "LACONVNET_RAW_CACHE")
    assert not (tmp_path / "out").exists()


def test_check_reads_there_too(raw: Path, web: Web, tmp_path: Path, capfd: Any) -> None:
    shutil.copytree(images_of(raw), tmp_path / "served" / "images")
    options = ["--root", str(raw / "refer"), "--images", f"{web.url}/images"]
    assert main(["shards", "check", "refcoco", *options]) == 0
    shutil.rmtree(tmp_path / "served" / "images")
    assert main(["shards", "check", "refcoco", *options, "--annotations-only"]) == 0
    capfd.readouterr()
