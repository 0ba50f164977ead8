"""What the bar of a build counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.shards.build.builder import build
from tests.shards.test_build import ARGS, toy


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_that_is_there_is_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    samples = toy(tmp_path / "pictures")  # one of them has no file
    given = {**ARGS, "progress": True, "total": len(samples), "shard_bytes": 3000, "workers": workers}
    build(samples, tmp_path / "out", **given)
    assert "| 11/12 [" in capsys.readouterr().err
    build(samples, tmp_path / "silent", **{**given, "progress": False})
    assert capsys.readouterr().err == ""
