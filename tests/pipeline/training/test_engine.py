"""What the engine's switches may change: memory and speed, and nothing else than rounding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint
from tests.pipeline.training.ranks import run
from tests.rounding import SEEDS, assert_rounding, nudge

HERE = Path(__file__).parent
ROUNDING = str(HERE.parents[1] / "rounding.py")
# What batch norm makes of a rounding would hide all but gross faults.
FROZEN = ["--engine.zero", "1", "--optimizer.freeze_norms", "true"]
Measured = tuple[list[float], list[list[float]]]  # the losses of a run, and of the same from nudged weights
TINY = ["--config", str(HERE / "tiny.yaml"), "--schedule.epochs", "0.5"]


def losses(
    folder: Path,
    refcoco: Path,
    *keys: str,
    script: tuple[str, ...] = ("-m", "laconvnet.launch.cli"),
    **environment: str,
) -> list[float]:
    run(1, [*script, "train", "--run", str(folder), *TINY, "--data.folder", str(refcoco), *keys], 0, **environment)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]  # a step that was left out has none


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> list[float]:
    return losses(tmp_path_factory.mktemp("runs") / "plain", refcoco, "--engine.zero", "1")


def nudged(place: Path, refcoco: Path, dtype: torch.dtype, *keys: str) -> list[list[float]]:
    return [
        losses(place / f"{dtype}-{seed}", refcoco, *keys, script=(ROUNDING,), NUDGE=nudge(seed, dtype))
        for seed in SEEDS
    ]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Measured:
    place = tmp_path_factory.mktemp("frozen")
    return losses(place / "plain", refcoco, *FROZEN), nudged(place, refcoco, torch.float32, *FROZEN)


def test_recomputed_activations_change_nothing(tmp_path: Path, refcoco: Path, plain: list[float]) -> None:
    keys = ["--engine.zero", "1", "--engine.recompute", "[1, 3, 5]", "--model.filter_dropout", "0.0"]
    assert losses(tmp_path / "run", refcoco, *keys)[:3] == plain[:3]
    state, _ = checkpoint.read(checkpoints.newest(tmp_path / "run"))  # type: ignore[arg-type]
    counted = {int(value) for name, value in state["model"].items() if name.endswith("num_batches_tracked")}
    assert counted == {state["step"]}


@pytest.mark.parametrize(("zero", "offload"), [("2", "optimizer"), ("3", "all")])
def test_offloaded_state_changes_nothing_but_rounding(
    tmp_path: Path, refcoco: Path, frozen: Measured, zero: str, offload: str
) -> None:
    found = losses(tmp_path / "run", refcoco, *FROZEN, "--engine.zero", zero, "--engine.offload", offload)
    assert_rounding(found, *frozen)


def test_micro_batches_add_up_to_the_step(tmp_path: Path, refcoco: Path, frozen: Measured) -> None:
    # Batch norm sees one micro-batch at a time: frozen, the two ways compute the same.
    assert_rounding(losses(tmp_path / "cut", refcoco, *FROZEN, "--engine.accumulate", "4"), *frozen)
    state, _ = checkpoint.read(checkpoints.newest(tmp_path / "cut"))  # type: ignore[arg-type]
    assert all(
        torch.equal(value, torch.zeros_like(value))
        for name, value in state["model"].items()
        if name.endswith("running_mean")
    )


def test_fp16_overflows_are_counted_and_the_scale_falls(tmp_path: Path, refcoco: Path) -> None:
    folder = tmp_path / "run"
    keys = ["--engine.zero", "1", "--engine.precision", "fp16", "--engine.loss_scale", "2.0e+5"]
    script = (str(HERE / "half.py"),)
    losses(folder, refcoco, *keys, "--schedule.epochs", "2", script=script)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert 1 <= log[-1]["skipped"] < len(log) - 2
    assert log[-1]["loss_scale"] == 2e5 / 2 ** log[-1]["skipped"]
    assert not (folder / "incidents").exists()
    state, _ = checkpoint.read(checkpoints.newest(folder))  # type: ignore[arg-type]
    assert state["updates"] == len(log) - log[-1]["skipped"]
    assert state["loss_scale"]["cur_scale"] == log[-1]["loss_scale"]


def test_fp16_without_overflow_is_near_fp32(tmp_path: Path, refcoco: Path, frozen: Measured) -> None:
    keys = [*FROZEN, "--engine.precision", "fp16", "--engine.loss_scale", "64.0"]
    near, (plain, _) = losses(tmp_path / "run", refcoco, *keys, script=(str(HERE / "half.py"),)), frozen
    assert near != plain
    assert_rounding(near, plain, nudged(tmp_path, refcoco, torch.float16, *FROZEN))


def test_an_overflow_at_the_floor_ends_the_run_in_one_line(tmp_path: Path, refcoco: Path) -> None:
    command = ["train", "--run", str(tmp_path / "run"), *TINY, "--data.folder", str(refcoco)]
    keys = ["--engine.precision", "fp16", "--engine.zero", "1"]
    floor = ["--engine.loss_scale", "1.0e+12", "--engine.loss_scale_floor", "1.0e+12"]
    (output,) = run(1, [str(HERE / "half.py"), *command, *keys, *floor], expected=1)
    assert "laconvnet: fp16 overflowed at the lowest loss scale, 1e+12" in output
    assert "Traceback" not in output


def test_what_cannot_run_leaves_no_folder(tmp_path: Path, refcoco: Path) -> None:
    command = ["train", "--run", str(tmp_path / "run"), *TINY, "--data.folder", str(refcoco)]
    for keys, why in (
        (["--engine.norms", "apex", "--engine.compile", "true"], "engine.norms: 'apex': "),
        (
            ["--optimizer.implementation", "apex", "--engine.offload", "optimizer", "--engine.zero", "1"],
            "'apex': runs on",
        ),
    ):
        (output,) = run(1, ["-m", "laconvnet.launch.cli", *command, *keys], expected=2)
        assert why in output
        assert not (tmp_path / "run").exists()
