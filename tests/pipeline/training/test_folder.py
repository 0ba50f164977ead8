"""What a start finds in the folder of its run, and what it leaves there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.runs import folder
from laconvnet.pipeline.runs.files import publish_text
from laconvnet.pipeline.training import checkpoint

TINY = Path(__file__).parent / "tiny.yaml"


def test_a_start_sweeps_out_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    state = {"step": 4, "model": {}}
    kept = [checkpoint.folder_of(tmp_path, 4), tmp_path / "incidents" / "step-00000002" / "state"]
    for place in kept:
        checkpoint.save(place, state, "{}")
    left = [
        *(kept[0].with_name(name) for name in (".step-00000005.partial", ".step-00000002.dropped")),
        kept[1].with_name(".state.partial"),
    ]
    for place in left:
        place.mkdir()
        (place / "state.pt").write_bytes(b"half")
    files = [tmp_path / ".partial.config.yaml", kept[1].with_name(".partial.rank-0.json")]
    for file in files:
        file.write_text("half")
    folder.prepare(configuration.load(TINY, ["--data.folder", "x"]), tmp_path)
    assert not [place for place in (*left, *files) if place.exists()]
    assert all(checkpoint.is_whole(place) for place in kept)
    assert configuration.load(tmp_path / folder.CONFIG).data.folder == "x"


def test_a_file_has_its_name_only_when_its_bytes_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("sync"), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    publish_text(tmp_path / "config.yaml", "seed: 1\n")
    assert done == ["sync", "replace"]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.yaml", "seed: 1\n")]
