"""A set behind a web server that fails: waited out, or told in one line; never other bytes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from laconvnet.launch.cli import main
from laconvnet.pipeline.data.reader import Reader
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.errors import InputError
from laconvnet.shards.format import remote
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.sets.copy import copy
from tests.messages import tells
from tests.pipeline.stores.web import Fault, Web, busy, other, reset, short, slow


@pytest.fixture
def served(web: Web, sets: dict[str, Path], tmp_path: Path) -> str:
    shutil.copytree(sets["refcoco"], tmp_path / "served" / "refcoco")
    return f"{web.url}/refcoco"


def images(place: Path | str) -> list[bytes]:
    manifest = Manifest.open(place)
    with Reader(manifest, threads=2) as reader:
        return [image.tobytes() for image in reader.read(np.arange(len(manifest.samples)))]


@pytest.mark.parametrize("fault", [reset, slow, short, busy])
def test_a_fault_is_waited_out(
    fault: Fault, web: Web, served: str, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.01, 0.01))
    Manifest.open(served)
    web.faults += [fault] * 3
    assert images(served) == images(sets["refcoco"])
    assert web.failed == 3


@pytest.mark.parametrize("fault", [reset, short, busy])
def test_one_that_stays_is_told(
    fault: Fault, web: Web, served: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.01, 0.01))
    Manifest.open(served)
    web.faults += [fault] * 10_000
    with pytest.raises(OSError, match=r"failed 3 times, at last: ") as caught:
        images(served)
    assert str(caught.value.filename).startswith(f"{served}/shard-")
    web.of = ".parquet"
    assert main(["shards", "info", served]) == 1  # no fault of the user
    assert tells(capfd.readouterr().err, f"{served}/manifest.parquet", "failed 3 times")


def test_other_bytes_are_refused(web: Web, served: str) -> None:
    Manifest.open(served)
    web.faults += [other]
    with pytest.raises(ConfigError, match="are not those that were written"):
        images(served)


def test_a_server_without_ranges_is_told_at_once(web: Web, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Manifest.open(served)
    web.ranges = False
    manifest = Manifest.open(served)
    assert manifest.folder == first.folder, "what is known of the set does not need ranges"
    monkeypatch.setattr(time, "sleep", lambda seconds: None if seconds == 0 else pytest.fail("it waits"))
    with pytest.raises(OSError, match=r"more than the range that was asked for; set data.streams"):
        manifest.read_image(0)


def test_tables_are_fetched_once_and_anew_where_the_set_is_another(
    web: Web, served: str, sets: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    first = Manifest.open(served)
    web.of = ".arrow"
    web.faults += [busy] * 100
    assert Manifest.open(served).folder == first.folder
    assert web.failed == 0
    assert len(list(cache.glob("set-*"))) == 1
    web.faults.clear()
    shutil.rmtree(tmp_path / "served" / "refcoco")
    shutil.copytree(sets["clevr"], tmp_path / "served" / "refcoco")
    assert Manifest.open(served).fingerprint == Manifest.open(sets["clevr"]).fingerprint


def test_a_table_that_is_not_the_manifests_is_refused(served: str, tmp_path: Path, cache: Path) -> None:
    table = tmp_path / "served" / "refcoco" / "examples.arrow"
    table.write_bytes(table.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match=r"examples.arrow: .* the set's manifest says"):
        Manifest.open(served)
    assert not list(cache.glob("set-*"))


def test_a_cache_that_others_can_write_is_not_read(served: str, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(InputError, match=r"others can write it .*; let LACONVNET_SET_CACHE name a folder of your own"):
        Manifest.open(served)


def test_a_user_without_a_home_is_told_what_to_do(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.delenv("LACONVNET_SET_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match=r"home directory.*let LACONVNET_SET_CACHE name a folder"):
        Manifest.open(served)


def test_a_manifest_does_not_choose_where_its_files_go(
    served: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    from laconvnet.shards.format import manifest

    listed: Callable[[Path], dict[str, object]] = lambda folder: {"../away": {}}  # noqa: E731
    monkeypatch.setattr(manifest, "_beside_shards", listed)
    with pytest.raises(InputError, match=r"names a file '../away', expected a name alone"):
        Manifest.open(served)
    assert not (cache / "away").exists()


def test_a_web_server_is_not_written_to(web: Web, sets: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="a web server is read from only"):
        copy(sets["refcoco"], f"{web.url}/new")


def test_a_server_that_is_down_has_no_set_missing(
    web: Web, served: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "PAUSES_SECONDS", (0.01, 0.01))
    web.down = True
    assert main(["shards", "info", served]) == 1  # no fault of the user
    assert tells(capfd.readouterr().err, f"{served}/manifest.parquet", "failed 3 times", "503")
    assert main(["shards", "info", "http://127.0.0.1:1/set"]) == 1
    assert tells(capfd.readouterr().err, "failed 3 times", "127.0.0.1:1")


def test_what_a_killed_process_left_in_the_cache_goes(served: str, cache: Path) -> None:
    mirror = Manifest.open(served).folder
    mirror.rename(cache / f".partial.12345678.{mirror.name}")
    assert Manifest.open(served).folder == mirror
    assert not list(cache.glob(".partial.*"))
