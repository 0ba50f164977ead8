"""What a start finds in the folder of its run, and what it leaves there."""

from __future__ import annotations

from pathlib import Path

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.runs import checkpoints, folder
from laconvnet.pipeline.runs.layout import CONFIG
from laconvnet.pipeline.training import checkpoint

TINY = Path(__file__).parent / "tiny.yaml"


def test_a_start_sweeps_out_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    state = {"step": 4, "model": {}}
    kept = [checkpoint.folder_of(tmp_path, 4), tmp_path / "incidents" / "step-00000002" / "state"]
    for place in kept:
        checkpoint.save(place, state, "{}")
    left = [
        *(kept[0].with_name(name) for name in (".partial.00000001.step-00000005", ".step-00000002.dropped")),
        kept[1].with_name(".partial.00000001.state"),
    ]
    for place in left:
        place.mkdir()
        (place / "state.pt").write_bytes(b"half")
    names = (".partial.00000001.config.yaml", ".partial.config.yaml", ".partial.00000001.environment.json")
    files = [*(tmp_path / name for name in names), kept[1].with_name(".partial.rank-0.json")]
    for file in files:
        file.write_text("half")
    others = tmp_path / ".partial.00000001.job.json"  # of what has started this run, and may still be at it
    others.write_text("half")
    folder.prepare(configuration.load(TINY, ["--data.folder", "x"]), tmp_path)
    assert not [place for place in (*left, *files) if place.exists()]
    assert others.exists()
    assert all(checkpoints.is_whole(place) for place in kept)
    assert configuration.load(tmp_path / CONFIG).data.folder == "x"
