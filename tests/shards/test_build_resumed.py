"""Builds that were interrupted, killed, hung or were begun otherwise: the same command ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laconvnet.shards.build import builder as build_module
from laconvnet.shards.build.builder import build, build_task
from laconvnet.shards.build.writer import Chunk
from laconvnet.shards.errors import BuildError, InputError
from laconvnet.shards.format import manifest, tables
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from tests.shards.test_build import ARGS, hashes, quarantine, toy


@pytest.mark.parametrize("at", range(1, 7))
def test_a_build_interrupted_at_its_tables_leaves_no_litter_and_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At each of the four mapped and the two published files in turn."""
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"
    build(samples, tmp_path / "whole", **ARGS, shard_bytes=3000)
    writes = 0

    def interrupted(write: Any) -> Any:
        def called(*arguments: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == at:
                arguments[0].write_bytes(b"half")
                raise KeyboardInterrupt
            return write(*arguments)

        return called

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", interrupted(tables.write))
        # Only what this room publishes: the shards' own parts are written by another module's name.
        patch.setattr(manifest, "open_writer", interrupted(manifest.open_writer))
        with pytest.raises(KeyboardInterrupt):
            build(samples, out, **ARGS, shard_bytes=3000)
    assert writes == at
    assert [path.name for path in out.rglob("*") if path.name.startswith(".partial.")] == []
    assert not (out / "manifest.parquet").exists()
    with pytest.raises(InputError, match="left unfinished; run the same build command again"):
        Manifest.open(out)
    build(samples, out, **ARGS, shard_bytes=3000)
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_an_interrupted_build_leaves_no_litter_and_resumes_to_the_same_bytes(
    tmp_path: Path, workers: int, error: type[BaseException]
) -> None:
    samples = toy(tmp_path / "pictures")
    build(samples, tmp_path / "whole", **ARGS, shard_bytes=3000)
    out = tmp_path / "out"

    def broken() -> Iterator[RawSample]:
        yield from samples[:10]
        if workers == 2:
            while not (out / "parts" / "shard-000000.samples.parquet").exists():
                pass  # so that the shard looked at below is one that is finished
        raise error("stop")

    with pytest.raises(error, match="stop"):
        build(broken(), out, **ARGS, shard_bytes=3000, workers=workers)
    left = [path.name for path in out.rglob("*") if path.name.startswith(".partial.")]
    assert left == []
    assert not (out / "manifest.parquet").exists()
    with pytest.raises(InputError, match="left unfinished; run the same build command again"):
        Manifest.open(out)
    with pytest.raises(InputError, match="unfinished set built with shard_bytes 3000"):
        build(samples, out, **ARGS, shard_bytes=4000)
    first = (out / "shard-000000.tar").stat()
    build(samples, out, **ARGS, shard_bytes=3000, workers=workers)
    assert hashes(out) == hashes(tmp_path / "whole")
    assert (out / "shard-000000.tar").stat().st_ino == first.st_ino, "a finished shard is not written again"


def test_a_killed_build_resumes_to_the_same_bytes_and_its_workers_end(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")
    build(samples, tmp_path / "whole", **ARGS, shard_bytes=3000)
    out = tmp_path / "out"
    script = f"""
        import multiprocessing, os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_build
        def killed(samples, out):
            yield from samples[:10]
            while not list(out.glob("parts/*.samples.parquet")):
                pass
            for name in (".partial.1.shard-000009.tar", ".shard-000009.tar.1.tmp"):
                (out / name).write_bytes(b"half")
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            samples = test_build.toy(Path({str(tmp_path / "pictures")!r}))
            out = Path({str(out)!r})
            test_build.build(killed(samples, out), out, **test_build.ARGS, shard_bytes=3000, workers=2)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # communicate() returned, so the workers, which hold the other end of these pipes, have ended too.
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(done.stdout.split()) == 2
    build(samples, out, **ARGS, shard_bytes=3000)
    assert hashes(out) == hashes(tmp_path / "whole")


def test_an_image_that_changed_is_taken_up_by_the_resumed_build(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")
    whole = toy(tmp_path / "pictures")
    out = tmp_path / "out"

    def broken() -> Iterator[RawSample]:
        yield from samples
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(broken(), out, **ARGS, shard_bytes=3000)
    mended = whole[5].image
    Image.new("RGB", (32, 29)).save(mended)
    manifest = build(samples, out, **ARGS, shard_bytes=3000)
    assert "toy-5" in manifest.samples["key"].to_pylist()
    assert [row["key"] for row in quarantine(out)] == ["toy-7"]


def hang(out: Path, chunk: Chunk, threads: int) -> int:
    (out / f".partial.1.hang-{chunk.number}").touch()
    time.sleep(30)
    (out / "went-on").touch()
    return 0


def die(out: Path, chunk: Chunk, threads: int) -> int:
    os._exit(9)


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (hang, BuildError, "no shard was finished in 0 s; run the same command again"),
        (die, BuildError, "worker was killed, .*memory; run the same command again"),
    ],
)
def test_workers_that_hang_or_die_end_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any, error: type[Exception], message: str
) -> None:
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"
    monkeypatch.setattr(build_module, "write_shard", work)
    if work is hang:
        monkeypatch.setattr(build_module, "_DEADLINE_SECONDS", 0)
    with pytest.raises(error, match=message):
        build(samples, out, **ARGS, shard_bytes=3000, workers=2)
    assert not out.exists(), "neither litter nor a worker that goes on"


def test_shards_of_a_longer_plan_are_removed(tmp_path: Path) -> None:
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"
    build_task(samples, out, **ARGS, shard_bytes=3000, task=(1, 1))
    assert (out / "shard-000003.tar").exists()
    build(samples[:3], out, **ARGS, shard_bytes=3000)
    build(samples[:3], tmp_path / "short", **ARGS, shard_bytes=3000)
    assert hashes(out) == hashes(tmp_path / "short")


def test_a_tar_without_its_part_does_not_stand_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"

    def interrupted(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("laconvnet.shards.build.writer.publish_bytes", interrupted)  # the index, which follows the tar
        with pytest.raises(KeyboardInterrupt):
            build(samples, out, **ARGS)
    assert len(build(samples, out, **ARGS).samples) == 10
