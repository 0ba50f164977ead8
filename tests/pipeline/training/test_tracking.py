"""bf16 and fp16 learn what fp32 learns, and clip what it clips."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint
from tests.pipeline.training.ranks import run
from tests.rounding import SEEDS, TIMES, assert_rounding, nudge

HERE = Path(__file__).parent
SMALL = ["--config", str(HERE / "tiny.yaml"), "--data.size", "32", "--data.batch", "4"]
LONG = ["--schedule.epochs", "12.1", "--schedule.warmup", "1.0", "--optimizer.lr", "1.0e-4", "--engine.zero", "1"]
LONG += ["--checkpoint.every", "1000"]  # the last one is read


def train(
    folder: Path, refcoco: Path, precision: str, *keys: str, stop_after: str = "", nudge: str = ""
) -> list[dict[str, Any]]:
    """A run in this precision; the rows of its log."""
    folder.mkdir(exist_ok=True)
    command = ["train", "--run", str(folder), *SMALL, "--data.folder", str(refcoco), "--engine.precision", precision]
    environment = {"WATCHED": str(folder), "STOP_AFTER": stop_after, "HALF": "1", "NUDGE": nudge}
    run(1, [str(HERE / "watched.py"), *command, *keys], expected=130 if stop_after else 0, **environment)
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def smoothed(rows: list[dict[str, Any]], width: int = 20) -> list[float]:
    """Means of the loss over windows of steps; a step that was left out has none."""
    windows = [rows[first : first + width] for first in range(0, len(rows), width)]
    return [fmean(row["loss"] for row in window if "loss" in row) for window in windows]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> list[float]:
    rows = train(tmp_path_factory.mktemp("runs") / "exact", refcoco, "fp32", *LONG)
    assert len(rows) == 200
    return smoothed(rows)


@pytest.fixture(scope="module")
def nudged(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> list[list[float]]:
    """The same in fp32 from weights a unit of bf16 elsewhere, which is the coarser of the two types."""
    place = tmp_path_factory.mktemp("nudged")
    nudges = {seed: nudge(seed, torch.bfloat16) for seed in SEEDS[:2]}
    return [smoothed(train(place / f"{seed}", refcoco, "fp32", *LONG, nudge=by)) for seed, by in nudges.items()]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.variant)])
def test_two_hundred_steps_track_fp32(
    tmp_path: Path, refcoco: Path, exact: list[float], nudged: list[list[float]], precision: str
) -> None:
    """With a rate at which weights in bf16 would hardly move: their rounding is as large as a step."""
    folder = tmp_path / "run"
    rows = train(folder, refcoco, precision, *LONG)
    assert exact[-1] < 0.88 * exact[0]
    found = smoothed(rows)
    assert found != exact
    # Means over windows drift less than single losses: a smaller multiple, far from weights in bf16 (16 % apart).
    assert_rounding(found, exact, nudged, times=3)
    state, _ = checkpoint.read(checkpoints.resolve(folder))
    kept = [*state["model"].values(), *(value for pair in state["moments"].values() for value in pair.values())]
    assert {tensor.dtype for tensor in kept if tensor.is_floating_point()} == {torch.float32}
    if precision == "fp16":
        assert 1 <= rows[-1]["skipped"] <= 16
        assert rows[-1]["loss_scale"] == 65536 / 2 ** rows[-1]["skipped"]
        assert state["updates"] == 200 - rows[-1]["skipped"]


Clipped = tuple[float, torch.Tensor]  # the norm of a first gradient, and that gradient as Adam was given it
CLIP = 0.05


def clipped(folder: Path, refcoco: Path, precision: str, *keys: str, nudge: str = "") -> Clipped:
    """Of one step: Adam's first moment after it is a tenth of the gradient that it was given."""
    keys = ("--optimizer.freeze_norms", "true", "--optimizer.clip", str(CLIP), *keys)
    (row,) = train(folder, refcoco, precision, *keys, stop_after="1:SIGTERM", nudge=nudge)
    state, _ = checkpoint.read(checkpoints.resolve(folder))
    assert state["updates"] == 1
    gradient = torch.cat([10 * moments["exp_avg"].flatten() for moments in state["moments"].values()])
    assert row["grad_norm"] > 10 * CLIP
    assert float(gradient.norm()) == pytest.approx(CLIP, rel=1e-3)  # by the rule, in fp32
    return row["grad_norm"], gradient


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> tuple[Clipped, list[Clipped]]:
    """In fp32, and so from weights a unit of fp16 elsewhere."""
    place = tmp_path_factory.mktemp("one-step")
    nudges = {seed: nudge(seed, torch.float16) for seed in SEEDS}
    controls = [clipped(place / f"{seed}", refcoco, "fp32", nudge=by) for seed, by in nudges.items()]
    return clipped(place / "exact", refcoco, "fp32"), controls


@pytest.mark.parametrize("zero", ["1", "2", "3"])
def test_clipping_sees_the_gradient_as_it_is_whatever_the_loss_scale(
    tmp_path: Path, refcoco: Path, one_step: tuple[Clipped, list[Clipped]], zero: str
) -> None:
    (norm, gradient), controls = one_step
    rounding = max(float((control - gradient).norm()) for _, control in controls)
    assert TIMES * rounding < CLIP / 2, "or any gradient would do"
    for precision, scale in (("fp32", "1.0"), ("fp16", "1.0"), ("fp16", "1024.0")):
        keys = ["--engine.zero", zero, "--engine.loss_scale", scale]
        found, given = clipped(tmp_path / f"{precision}-{scale}", refcoco, precision, *keys)
        assert_rounding([found], [norm], [[control] for control, _ in controls])
        assert float((given - gradient).norm()) < TIMES * rounding


def test_steps_left_out_are_counted_over_all_starts(tmp_path: Path, refcoco: Path) -> None:
    keys = ["--engine.zero", "1", "--engine.loss_scale", "4.0e+5", "--schedule.epochs", "0.4"]
    (*_, before) = train(tmp_path / "run", refcoco, "fp16", *keys, stop_after="4:SIGTERM")
    assert before["skipped"] > 0
    log = train(tmp_path / "run", refcoco, "fp16", *keys)
    assert [row["step"] for row in log] == [*range(1, len(log) + 1)]
    state, _ = checkpoint.read(checkpoints.resolve(tmp_path / "run"))
    assert log[-1]["skipped"] == len(log) - state["updates"] >= before["skipped"]
    assert log[-1]["loss_scale"] == 4e5 / 2 ** log[-1]["skipped"]
