"""The cache of a remote set's members: fetched once, never other bytes, never more than its limit, or left alone."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from laconvnet.launch.cli import main
from laconvnet.pipeline.data.cache import Cache, Known
from laconvnet.pipeline.data.loader import DataConfig, cache_of
from laconvnet.pipeline.data.reader import Reader
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import Manifest
from tests.messages import tells
from tests.pipeline.stores.test_s3 import TINY, losses
from tests.pipeline.stores.web import Web
from tests.pipeline.training.ranks import ROOT, train

LIMIT = 10**9


@pytest.fixture
def served(web: Web, sets: dict[str, Path], tmp_path: Path) -> str:
    shutil.copytree(sets["refcoco"], tmp_path / "served" / "refcoco")
    return f"{web.url}/refcoco"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def images(place: Path | str, cache: Cache | None = None) -> list[bytes]:
    manifest = Manifest.open(place)
    with Reader(manifest, threads=2, cache=cache) as reader:
        return [image.tobytes() for image in reader.read(np.arange(len(manifest.samples)))]


def known(data: bytes) -> Known:
    import xxhash

    return Known(xxhash.xxh3_64_intdigest(data), len(data))


def members(kept: Path) -> list[Path]:
    return sorted(path for path in kept.glob("*/*") if path.is_file())


def test_what_is_kept_is_not_fetched_again(web: Web, served: str, sets: dict[str, Path], kept: Path) -> None:
    expected = images(sets["refcoco"])
    assert images(served, Cache(kept, LIMIT)) == expected
    assert web.gets == len(expected)
    assert images(served, Cache(kept, LIMIT)) == expected
    assert web.gets == len(expected)


def test_the_second_epoch_of_a_run_asks_for_nothing(web: Web, served: str, kept: Path, tmp_path: Path) -> None:
    keys = ["--config", str(TINY), "--data.folder", served, "--data.cache", str(kept)]
    train(2, tmp_path / "one", [*keys, "--schedule.epochs", "1"])
    first = web.gets
    assert first > 10
    train(1, tmp_path / "two", [*keys, "--schedule.epochs", "2"])
    assert web.gets == first
    train(1, tmp_path / "none", [*keys[:4], "--schedule.epochs", "2"])
    assert web.gets > first
    assert losses(tmp_path / "two") == losses(tmp_path / "none")


@pytest.mark.parametrize("change", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-1]])
def test_what_was_changed_is_fetched_again(
    web: Web, served: str, sets: dict[str, Path], kept: Path, change: object
) -> None:
    expected = images(served, Cache(kept, LIMIT))
    for file in members(kept)[:3]:
        file.write_bytes(change(file.read_bytes()))  # type: ignore[operator]
    before = web.gets
    assert images(served, Cache(kept, LIMIT)) == expected
    assert web.gets == before + 3
    assert images(served, Cache(kept, LIMIT)) == expected
    assert web.gets == before + 3


def test_the_limit_holds_and_what_was_used_longest_ago_goes(kept: Path) -> None:
    cache = Cache(kept, 16 * 4096)
    texts = [bytes([number]) * 4000 for number in range(40)]
    for number, data in enumerate(texts):
        cache.put({known(data): data})
        os.utime(cache._file(known(data)), (number, number))
        cache.get(known(texts[0]))  # in use all the time
        assert sum(-(-file.stat().st_size // 4096) * 4096 for file in members(kept)) <= 16 * 4096
    assert cache.get(known(texts[0])) == texts[0]
    assert [cache.get(known(data)) for data in texts[-10:]] == texts[-10:]
    assert cache.get(known(texts[5])) is None


def test_what_is_larger_than_the_limit_is_not_kept(kept: Path) -> None:
    cache = Cache(kept, 4096)
    cache.put({known(bytes(9000)): bytes(9000)})
    assert cache.get(known(bytes(9000))) is None
    assert not members(kept)


def test_several_processes_share_one_limit(kept: Path) -> None:
    write = "import sys; from pathlib import Path; from tests.pipeline.stores.test_cache import Cache, known\n"
    write += "cache = Cache(Path(sys.argv[1]), 32 * 4096)\n"
    write += "for n in range(60): data = f'{sys.argv[2]}-{n}'.encode() * 300; cache.put({known(data): data})\n"
    ranks = [subprocess.Popen([sys.executable, "-c", write, str(kept), str(at)], cwd=ROOT) for at in range(3)]
    assert [rank.wait(120) for rank in ranks] == [0, 0, 0]
    assert 20 <= len(members(kept)) <= 32
    assert not list(kept.glob("*/*.partial"))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.pipeline.stores.test_cache import Cache, known
def killed(self, data):
    with self.open("wb") as stream:
        stream.write(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = killed
cache = Cache(Path(sys.argv[1]), 16 * 4096)
cache.put({known(b"a" * 5000): b"a" * 5000})
"""


def test_a_writer_that_is_killed_leaves_nothing_half(kept: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(kept)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [file.suffix for file in members(kept)] == [".partial"]
    cache = Cache(kept, 16 * 4096)
    assert cache.get(known(b"a" * 5000)) is None
    cache.put({known(b"a" * 5000): b"a" * 5000})
    assert cache.get(known(b"a" * 5000)) == b"a" * 5000
    for number in range(20):
        cache.put({known(bytes([number]) * 4000): bytes([number]) * 4000})
    assert not list(kept.glob("*/*.partial")), "it goes with the oldest"


def test_a_full_disk_is_said_once_and_training_reads_on(
    served: str, sets: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(kept, LIMIT)
    expected = images(sets["refcoco"])
    Manifest.open(served)  # its tables are on this machine now

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert images(served, cache) == expected
    assert images(served, cache) == expected
    assert capfd.readouterr().err == f"data.cache: {kept}: No space left on device: nothing more is kept there\n"
    assert not members(kept)


def test_a_folder_that_others_can_write_is_refused(kept: Path, served: str, tmp_path: Path, capfd: object) -> None:
    kept.mkdir()
    kept.chmod(0o777)
    with pytest.raises(ConfigError, match=r"^data\.cache: .*others can write it.*name a folder of your own"):
        Cache(kept, LIMIT)
    keys = ["--config", str(TINY), "--data.folder", served, "--data.cache", str(kept)]
    assert main(["train", "--run", str(tmp_path / "run"), *keys]) == 2
    assert tells(capfd.readouterr().err, f"data.cache: {kept}", "others can write it")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cache_gb": 0.0}, r"^data\.cache_gb: 0\.0: expected gigabytes, more than 0"),
        ({"cache_gb": float("nan")}, r"^data\.cache_gb: nan: expected"),
        ({"cache": "a", "streams": 4, "window": 9}, r"^data\.cache: a: with data\.streams whole shards"),
    ],
)
def test_caches_that_cannot_be_are_named(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig("folder", **keys)  # type: ignore[arg-type]


def test_without_a_folder_there_is_none(kept: Path) -> None:
    assert cache_of(DataConfig("folder")) is None
    assert cache_of(DataConfig("folder", cache=str(kept))) is not None
