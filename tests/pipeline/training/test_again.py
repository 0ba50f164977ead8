"""Runs one after the other in one process, as in a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pipeline.training.ranks import run

HERE = Path(__file__).parent
_TWICE = """
import os, sys
from laconvnet.launch import cli
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    del os.environ[name]
run, mistaken, again, *arguments = sys.argv[1:]
before = dict(os.environ)
assert cli.main(["train", "--run", run, *arguments]) == 0
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert cli.main(["train", "--run", mistaken, *arguments, "--data.batch", "3", "--engine.accumulate", "2"]) == 2
assert cli.main(["train", "--run", again, *arguments, "--engine.zero", "0"]) == 0
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
"""


def test_a_run_leaves_its_process_ready_for_the_next(refcoco: Path, tmp_path: Path) -> None:
    """Another ZeRO stage, too, behind a mistake that ended one when its processes had already joined."""
    runs = [str(tmp_path / name) for name in ("first", "mistaken", "second")]
    run(1, ["-c", _TWICE, *runs, "--config", str(HERE / "tiny.yaml"), "--data.folder", str(refcoco)])
    first, second = (rows(tmp_path / name) for name in ("first", "second"))
    assert first[-1]["step"] == first[-1]["steps"] == second[-1]["step"]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
