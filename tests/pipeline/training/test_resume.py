"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import finish, run, start, train

from pipeline.training import checkpoint

HERE = Path(__file__).parent
TINY = ["--config", str(HERE / "tiny.yaml")]


def losses(run_folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def last_state(run_folder: Path) -> dict[str, Any]:
    found = checkpoint.newest(run_folder)
    assert found is not None
    return checkpoint.read(found)[0]


def drop_after(run_folder: Path, step: int) -> None:
    """Put a finished run back to where it stood after this step."""
    for folder in checkpoint.published(run_folder):
        if int(folder.name.removeprefix("step-")) > step:
            (folder / "COMMIT").unlink()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Path:
    """Eight steps on two processes with dropout on, ZeRO 1, without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(2, folder, [*TINY, *KEYS, "--data.folder", str(refcoco)])
    return folder


KEYS = ["--engine.zero", "1", "--model.affinity_dropout", "0.1", "--checkpoint.keep", "9", "--schedule.epochs", "1.6"]


@pytest.mark.parametrize(("zero", "world"), [("1", 2), ("3", 2)])
def test_the_losses_after_a_resume_are_those_of_the_undisturbed_run(
    undisturbed: Path, tmp_path: Path, refcoco: Path, zero: str, world: int
) -> None:
    folder = tmp_path / "run"
    command = [*TINY, *KEYS, "--data.folder", str(refcoco), "--engine.zero", zero]
    train(world, folder, command)
    whole, state = losses(folder), last_state(folder)
    assert len(whole) >= 8
    drop_after(folder, 4)
    told = train(world, folder, command)
    assert "resuming" in told[0]
    assert losses(folder) == whole
    again = last_state(folder)
    assert again["step"] == state["step"]
    for name, tensor in state["model"].items():
        assert torch.equal(tensor, again["model"][name]), name
    for name, tensor in state["ema"].items():
        assert torch.equal(tensor, again["ema"][name]), name
    for name, moments in state["moments"].items():
        assert torch.equal(moments["exp_avg_sq"], again["moments"][name]["exp_avg_sq"]), name
    if zero == "1":
        assert whole == losses(undisturbed)


@pytest.mark.parametrize(("zero", "world"), [("0", 1), ("2", 1), ("3", 2)])
def test_another_number_of_processes_and_another_stage_go_on(
    undisturbed: Path, tmp_path: Path, refcoco: Path, zero: str, world: int
) -> None:
    folder = tmp_path / "run"
    command = [*TINY, *KEYS, "--data.folder", str(refcoco), "--model.affinity_dropout", "0"]
    train(2, folder, command)
    whole = losses(folder)
    drop_after(folder, 4)
    train(world, folder, [*command, "--engine.zero", zero])
    resumed = losses(folder)
    # The step after the resume holds what was restored, not what rounding has grown to later.
    assert resumed[5] == pytest.approx(whole[5], rel=1e-4)
    assert resumed[6] == pytest.approx(whole[6], rel=3e-2)


def test_a_finished_run_is_left_as_it_is(undisturbed: Path, refcoco: Path) -> None:
    before = (undisturbed / "log.jsonl").read_bytes()
    told = train(2, undisturbed, [*TINY, *KEYS, "--data.folder", str(refcoco)])
    assert "complete" in told[0]
    assert (undisturbed / "log.jsonl").read_bytes() == before


def test_another_configuration_is_refused(undisturbed: Path, refcoco: Path) -> None:
    told = train(1, undisturbed, [*TINY, *KEYS, "--data.folder", str(refcoco), "--data.batch", "4"], expected=2)
    assert "config.yaml: data.batch is 8 in this run but 4 is asked for" in told[0]


def test_a_signal_to_one_rank_stops_both_at_one_step(tmp_path: Path, refcoco: Path) -> None:
    folder = tmp_path / "run"
    command = [*TINY, *KEYS, "--data.folder", str(refcoco), "--checkpoint.every", "1000"]
    started = start(2, ["-m", "launch.cli", "train", "--run", str(folder), *command, "--schedule.epochs", "200"])
    deadline = time.monotonic() + 120
    while not (folder / "log.jsonl").exists() or not (folder / "log.jsonl").read_text():
        assert time.monotonic() < deadline, finish(started)
        time.sleep(0.1)
    os.kill(started[1].pid, signal.SIGTERM)
    told = finish(started, expected=130)
    state = last_state(folder)
    assert f"stopped at step {state['step']} of" in told[0]
    assert max(losses(folder)) == state["step"]


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path, refcoco: Path) -> None:
    told = train(2, tmp_path / "run", [*TINY, "--data.folder", str(refcoco), "--data.batch", "7"], expected=2)
    assert "data.batch: 7 does not divide among 2 processes" in told[0]
    assert not (tmp_path / "run").exists()


def test_bf16_trains_in_bf16_with_whole_weights(tmp_path: Path, refcoco: Path) -> None:
    folder = tmp_path / "run"
    keys = ["--data.folder", str(refcoco), "--engine.precision", "bf16", "--engine.zero", "1"]
    train(1, folder, [*TINY, *keys])
    state = last_state(folder)
    assert {tensor.dtype for tensor in state["model"].values() if tensor.is_floating_point()} == {torch.float32}
    values = list(losses(folder).values())
    exact = tmp_path / "exact"
    train(1, exact, [*TINY, "--data.folder", str(refcoco), "--engine.zero", "1"])
    reference = list(losses(exact).values())
    assert values != reference
    assert values == pytest.approx(reference, rel=0.1)


def test_run_helper_fails_on_another_exit_code(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit codes"):
        run(1, ["-c", "raise SystemExit(3)"])
