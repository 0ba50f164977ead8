"""What the progress of a build counts, and that it is there unless the caller does without."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.shards.build.builder import build, build_task
from tests.shards.test_build import ARGS, toy


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_that_is_there_is_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("laconvnet.progress.SECONDS", 0.0)  # a line for every image
    samples = toy(tmp_path / "pictures")  # one of them has no file
    given = {name: value for name, value in ARGS.items() if name != "progress"}
    given |= {"shard_bytes": 3000, "workers": workers}
    build(samples, tmp_path / "new" / "out", **given)
    assert "shards: 11/12 image, " in capsys.readouterr().err
    build_task(samples, tmp_path / "task", **given, task=(1, 1))
    assert "shards: 11/? image, " in capsys.readouterr().err, "how many all tasks have together is not known"
    build(samples, tmp_path / "silent", **given, progress=False)
    build_task(samples, tmp_path / "quiet", **given, task=(1, 1), progress=False)
    assert capsys.readouterr().err == ""
