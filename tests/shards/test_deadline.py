"""A build of one worker, which is the process itself, ends where an image or the file system holds it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from laconvnet.shards.build.builder import build
from tests.messages import tells
from tests.shards.test_build import ARGS, hashes, toy


# A system call gives the interpreter's lock up; a decoder may keep it, and then no Python runs any more.
@pytest.mark.parametrize(
    ("stuck", "parts"),
    [
        ("time.sleep(600)", ["laconvnet: ", "not finished in 1 s", "the same command"]),
        ("sum(range(10**12))", ["Timeout", "in caught"]),
    ],
)
def test_a_build_without_workers_that_hangs_ends_with_a_line_and_goes_on(
    tmp_path: Path, stuck: str, parts: list[str]
) -> None:
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"
    build(samples, tmp_path / "whole", **ARGS, shard_bytes=3000)
    script = f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_build
        from laconvnet.shards.build import builder, deadline, examine
        read = examine.read_image_file
        def caught(path, *rest):
            if path.stem == sys.argv[1]:
                {stuck}
            return read(path, *rest)
        examine.read_image_file = caught
        builder._DEADLINE_SECONDS = deadline._GRACE_SECONDS = 1
        samples = test_build.toy(Path({str(tmp_path / "pictures")!r}))
        test_build.build(samples, Path({str(out)!r}), **test_build.ARGS, shard_bytes=3000)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", samples[8].image.stem],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert tells(done.stderr, *parts)
    assert ("Timeout" in done.stderr) == ("Timeout" in parts)
    finished = {path: path.stat().st_ino for path in out.glob("shard-*.tar")}
    assert finished
    build(samples, out, **ARGS, shard_bytes=3000)
    assert hashes(out) == hashes(tmp_path / "whole")
    assert {path: path.stat().st_ino for path in finished} == finished, "finished shards are not written again"
