"""One run on one, two, four and one processes, under another ZeRO stage each time.

What each start has put in its places is exactly what the one before has saved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.runs.layout import step_of
from laconvnet.pipeline.training import checkpoint
from tests.pipeline.training.ranks import run
from tests.rounding import SEEDS, assert_rounding, nudge

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
KEYS = ["--data.size", "32", "--schedule.epochs", "1.3", "--checkpoint.every", "100", "--checkpoint.keep", "9"]
HAND_OVERS = (3, 6, 9)
WORLDS = (1, 2, 4, 1)


def walk(
    place: Path, refcoco: Path, precision: str, worlds: tuple[int, ...], stages: tuple[str, ...], nudge: str = ""
) -> Path:
    """A run that is handed over after the steps of HAND_OVERS; `start-N` beside it is what each start has written."""
    folder = place / "run"
    given = ["train", "--run", str(folder), "--config", str(HERE / "tiny.yaml"), "--data.folder", str(refcoco), *KEYS]
    # Low enough for no overflow, which depends on how large a part of the batch a process has; doubled every two steps.
    scale = ["--engine.loss_scale", "16.0", "--engine.loss_scale_growth", "2"] if precision == "fp16" else []
    for number, (world, stage) in enumerate(zip(worlds, stages, strict=True)):
        watched = place / f"start-{number}"
        watched.mkdir(parents=True)
        last = number + 1 == len(worlds)
        environment = {
            "WATCHED": str(watched),
            "KEEP_BEGUN": "1",
            "HALF": "1" if precision == "fp16" else "",
            "NUDGE": nudge,
        }
        environment |= {} if last else {"STOP_AFTER": f"{HAND_OVERS[number]}:SIGTERM"}
        keys = ["--engine.zero", stage, "--engine.precision", precision, *scale]
        run(world, [str(HERE / "watched.py"), *given, *keys], expected=0 if last else 130, **environment)
    return folder


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def rows(place: Path, starts: int, worlds: tuple[int, ...]) -> dict[int, list[int]]:
    """The examples of each step, those of all ranks together."""
    found: dict[int, list[int]] = {}
    for start in range(starts):
        for rank in range(worlds[start]):
            for line in (place / f"start-{start}" / f"rank-{rank}.jsonl").read_text().splitlines():
                row = json.loads(line)
                if "step" in row:
                    assert not row["held"], "a checkpoint that was taken in is let go of"
                    found.setdefault(row["step"], []).extend(row["rows"])
    return found


def assert_same(loaded: Any, saved: Any, name: str) -> None:
    if isinstance(saved, dict):
        assert loaded.keys() == saved.keys(), name
        for key in saved:
            assert_same(loaded[key], saved[key], f"{name}.{key}")
    elif isinstance(saved, torch.Tensor):
        assert loaded.dtype == saved.dtype, name
        assert torch.equal(loaded, saved), name
    else:
        assert loaded == saved, name


@pytest.mark.parametrize(
    ("precision", "stages"),
    [("fp32", ("0", "2", "3", "1")), pytest.param("fp16", ("1", "3", "2", "1"), marks=pytest.mark.variant)],
)
def test_a_run_walks_over_worlds_and_stages(
    tmp_path: Path, refcoco: Path, precision: str, stages: tuple[str, ...]
) -> None:
    undisturbed = logged(walk(tmp_path / "whole", refcoco, precision, (1,), stages[:1]))
    folder = walk(tmp_path / "walk", refcoco, precision, WORLDS, stages)
    walked = logged(folder)
    assert rows(tmp_path / "walk", 4, WORLDS) == rows(tmp_path / "whole", 1, (1,))
    for key in ("step", "lr", "loss_scale"):
        assert [row[key] for row in walked] == [row[key] for row in undisturbed], key
    for start, step in enumerate(HAND_OVERS, 1):
        saved, _ = checkpoint.read(checkpoint.folder_of(folder, step))
        loaded = torch.load(tmp_path / "walk" / f"start-{start}" / f"begun-{step}.pt", weights_only=True)
        assert loaded.pop("adam_steps") == [saved["updates"]]
        assert_same(loaded, saved, f"step {step}")
    assert [step_of(path) for path in checkpoints.published(folder)] == [*HAND_OVERS, len(walked)]
    # Only the order of summation differs; the network's kinks make more of it step by step.
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    nudges = {f"nudge-{seed}": nudge(seed, dtype) for seed in SEEDS}
    controls = [logged(walk(tmp_path / name, refcoco, precision, (1,), stages[:1], by)) for name, by in nudges.items()]
    found, plain, *nudged = [[row["loss"] for row in log] for log in (walked, undisturbed, *controls)]
    assert_rounding(found, plain, nudged)
