"""The tutorial on SLURM, run from its page on a SLURM of this machine."""

from __future__ import annotations

import json
from pathlib import Path

from laconvnet.launch import cli
from laconvnet.launch.graph.stages import read
from laconvnet.launch.status import status
from tests.docs.pages import DOCS, ROOT, untold, walk
from tests.slurm.suite import Work


def test_the_tutorial(work: Work) -> None:
    folder = work.folder
    (folder / "configs").symlink_to(ROOT / "configs")
    assert cli.main(["shards", "generate", "--out", f"{folder}/raw", "--pictures", "64", "--seed", "1", "--json"]) == 0
    work.out = folder / "runs/refcoco"

    def wait(done: str) -> None:
        if "launch" in done and "--dry-run" not in done:
            stages = read(Path("refcoco.yaml")).stages
            assert work.ended(*stages) == {stage.name: ("done", None) for stage in stages}

    shown = walk(DOCS / "tutorials/slurm.md", folder, wait)
    assert "#SBATCH --array=0-3" in shown
    assert "4/4" in shown, "status tells of the array's tasks"
    assert "2 steps of 64 examples on 2 process(es)" in shown, "logs show what the ranks have said"
    shards = {f"refcoco/{file.name}" for file in work.out.glob("shares-*/refcoco/*")}
    assert not untold(work.out, {"val.json", "val.answers.jsonl", *shards})
    assert {row["state"] for row in status(work.out)} == {"done"}
    (scores,) = work.out.glob("eval-*/val.json")
    assert json.loads(scores.read_text())["examples"] == 35
