"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint
from tests.pipeline.training.ranks import finish, run, stands_still, start, train

HERE = Path(__file__).parent
TINY = ["--config", str(HERE / "tiny.yaml")]


def rows(run_folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]


def losses(run_folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(run_folder)}


def last_state(run_folder: Path) -> dict[str, Any]:
    found = checkpoints.newest(run_folder)
    assert found is not None
    return checkpoint.read(found)[0]


def drop_after(run_folder: Path, step: int) -> None:
    """Put a finished run back to where it stood after this step."""
    for folder in checkpoints.published(run_folder):
        if int(folder.name.removeprefix("step-")) > step:
            (folder / "COMMIT").unlink()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Path:
    """Eight steps on two processes with dropout on, ZeRO 1, without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(2, folder, [*TINY, *KEYS, "--data.folder", str(refcoco)])
    return folder


KEYS = ["--engine.zero", "1", "--model.affinity_dropout", "0.1", "--checkpoint.keep", "9", "--schedule.epochs", "1.6"]


@pytest.mark.parametrize(("zero", "world"), [pytest.param("1", 2, marks=pytest.mark.variant), ("3", 2)])
def test_the_losses_after_a_resume_are_those_of_the_undisturbed_run(
    undisturbed: Path, tmp_path: Path, refcoco: Path, zero: str, world: int
) -> None:
    folder = tmp_path / "run"
    command = [*TINY, *KEYS, "--data.folder", str(refcoco), "--engine.zero", zero]
    train(world, folder, command)
    whole, state = losses(folder), last_state(folder)
    assert len(whole) >= 8
    drop_after(folder, 4)
    output = train(world, folder, command)
    assert "resuming" in output[0]
    assert losses(folder) == whole
    # The rows from before are still there: the rate of every step that was taken again is that of the first time.
    rates = [(row["step"], row["lr"]) for row in rows(folder)]
    assert len(rates) > len(whole)
    assert {*rates} == {*rates[: len(whole)]}
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


_SHORT_SIGHTED = """
import os, sys
from laconvnet.launch import cli
from laconvnet.pipeline.runs import checkpoints
if os.environ["RANK"] == "1":
    checkpoints.survey = lambda run: iter(())
sys.exit(cli.main(sys.argv[1:]))
"""


def test_all_ranks_go_on_from_what_the_leading_one_sees(undisturbed: Path, tmp_path: Path, refcoco: Path) -> None:
    """On a file server another machine may not yet see what was published just now."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    whole = losses(folder)
    drop_after(folder, len(whole) - 2)
    (folder / "log.jsonl").unlink()
    run(2, ["-c", _SHORT_SIGHTED, "train", "--run", str(folder), *TINY, *KEYS, "--data.folder", str(refcoco)])
    found = losses(folder)
    assert 2 <= len(found) < 8
    assert found == {step: whole[step] for step in found}


def test_a_finished_run_is_left_as_it_is(undisturbed: Path, refcoco: Path) -> None:
    before = (undisturbed / "log.jsonl").read_bytes()
    left = undisturbed / "checkpoints" / ".step-00000001.dropped"  # killed after the last step, while it tidied up
    left.mkdir()
    output = train(2, undisturbed, [*TINY, *KEYS, "--data.folder", str(refcoco)])
    assert "complete" in output[0]
    assert (undisturbed / "log.jsonl").read_bytes() == before
    assert not left.exists()


def test_another_configuration_is_refused(undisturbed: Path, refcoco: Path) -> None:
    output = train(1, undisturbed, [*TINY, *KEYS, "--data.folder", str(refcoco), "--data.batch", "4"], expected=2)
    assert "config.yaml: data.batch is 8 in this run but 4 is asked for" in output[0]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_to_one_rank_stops_both_and_more_of_them_while_saving_are_harmless(
    tmp_path: Path, refcoco: Path, name: str
) -> None:
    """Schedulers send SIGUSR2, SIGTERM soon after, and each of them more than once."""
    folder = tmp_path / "run"
    command = ["train", "--run", str(folder), *TINY, *KEYS, "--data.folder", str(refcoco)]
    # Rank 1 alone is told after its second step; rank 0 then stands still in the middle of publishing.
    environment = {"WATCHED": str(tmp_path), "STOP_AFTER": f"2:{name}", "STOP_AT": "checkpoint:30"}
    started = start(2, [str(HERE / "watched.py"), *command, "--checkpoint.every", "1000"], **environment)
    assert stands_still(started)
    assert checkpoints.newest(folder) is None
    for number in (signal.SIGUSR2, signal.SIGTERM):
        for rank in started:
            os.kill(rank.pid, number)
    time.sleep(0.3)  # rank 1, which waits for rank 0, would be gone by then
    os.kill(started[0].pid, signal.SIGCONT)
    message = finish(started, expected=130)
    assert "stopped at step 2 of" in message[0]
    assert [folder.name for folder in checkpoints.published(folder)] == ["step-00000002"]
    assert last_state(folder)["step"] == max(losses(folder)) == 2


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path, refcoco: Path) -> None:
    output = train(2, tmp_path / "run", [*TINY, "--data.folder", str(refcoco), "--data.batch", "7"], expected=2)
    assert "data.batch: 7 does not divide among 2 processes" in output[0]
    assert not (tmp_path / "run").exists()


def test_run_helper_fails_on_another_exit_code(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit codes"):
        run(1, ["-c", "raise SystemExit(3)"])
