"""Steps that are not finite: seen on every rank, kept out of the weights, written down, run again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laconvnet.files import read_object
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint, guard
from tests.pipeline.training.ranks import run

HERE = Path(__file__).parent
TINY = ["--config", str(HERE / "tiny.yaml")]
FAULTY = str(HERE / "faulty.py")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def incident(folder: Path, step: int, rank: int) -> dict[str, Any]:
    return read_object(folder / "incidents" / f"step-{step:08d}" / f"rank-{rank}.json")


def test_a_finite_loss_passes_unchanged_and_another_poisons_its_gradient() -> None:
    weight = torch.tensor([2.0, -3.0], requires_grad=True)
    guard.poisoned((weight * weight).sum()).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0, -6.0]
    for bad in (torch.inf, torch.nan):
        (gradient,) = torch.autograd.grad(guard.poisoned(weight.sum() + bad), weight)
        assert not gradient.isfinite().any()


def test_patience_ends_a_run_that_skips(tmp_path: Path) -> None:
    watch = guard.Guard(guard.GuardConfig("skip", patience=2))
    watch.bad(tmp_path, 3, "not finite")
    watch.good()
    watch.bad(tmp_path, 5, "not finite")
    assert watch.skipped == 2  # how many states of them are kept goes by it
    with pytest.raises(TrainingError, match=r"step 6: not finite, 2 times.*laconvnet replay \S+ 6`"):
        watch.bad(tmp_path, 6, "not finite")
    with pytest.raises(TrainingError, match="step 0"):
        guard.Guard(guard.GuardConfig("stop")).bad(tmp_path, 0, "not finite")
    with pytest.raises(ConfigError, match=r"guard\.patience: 0"):
        guard.GuardConfig(patience=0)


def test_the_first_module_that_is_not_finite_is_named() -> None:
    inner = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(inner, torch.nn.ReLU()))
    with torch.no_grad():
        inner.bias.fill_(torch.inf)
    with guard.first_not_finite(model) as found:
        model(torch.ones(1, 2))
    assert found[0] == "1.0 (Linear)"
    with guard.first_not_finite(model[0]) as found:
        model(torch.ones(1, 2))
    assert found == []


def test_what_is_written_down_of_a_step_names_each_example_by_its_place_in_the_global_batch(refcoco: Path) -> None:
    examples = Examples.open(refcoco, "expression", "train")
    rows = examples.rows[[4, 1, 6]]
    batches: Any = [SimpleNamespace(rows=rows[:2]), SimpleNamespace(rows=rows[2:])]
    record = guard.describe(9, 16, batches, examples, {"loss": torch.tensor(0.5), "box": torch.tensor(0.25)})
    table = examples.manifest.examples.to_pylist()
    keys = examples.manifest.samples["key"].to_pylist()
    found = [
        {"place": place, "example": row, "sample": keys[table[row]["sample"]], "text": table[row]["text"]}
        for place, row in zip((16, 17, 18), rows.tolist(), strict=True)
    ]
    assert record == {"step": 9, "terms": {"loss": 0.5, "box": 0.25}, "examples": found}


@pytest.mark.parametrize("zero", ["0", "3"])
def test_a_loss_that_is_bad_on_one_rank_leaves_the_step_out_on_both(tmp_path: Path, refcoco: Path, zero: str) -> None:
    folder = tmp_path / "run"
    command = ["train", "--run", str(folder), *TINY, "--data.folder", str(refcoco), "--engine.zero", zero]
    run(2, [FAULTY, "loss", "4", "1", "--", *command, "--guard.policy", "skip"])
    log = rows(folder)
    assert [row["skipped"] for row in log] == [0, 0, 0, 0, *[1] * (len(log) - 4)]
    ours, theirs = incident(folder, 4, 0), incident(folder, 4, 1)
    assert torch.tensor(ours["terms"]["loss"]).isfinite()
    assert torch.tensor(theirs["terms"]["loss"]).isnan()
    assert (ours["world"], theirs["rank"]) == (2, 1)
    state, _ = checkpoint.read(checkpoints.newest(folder))  # type: ignore[arg-type]
    assert state["updates"] == state["step"] - 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    kept, _ = checkpoint.read(folder / "incidents" / "step-00000004" / "state")
    assert kept["updates"] == 4
    drawn = [example["example"] for record in (ours, theirs) for example in record["examples"]]
    assert len(set(drawn)) == 8


@pytest.mark.parametrize("kind", ["forward", "gradient"])
def test_a_bad_step_stops_the_run_and_its_replay_names_the_culprit(tmp_path: Path, refcoco: Path, kind: str) -> None:
    folder = tmp_path / "run"
    keys = [*TINY, "--data.folder", str(refcoco), "--engine.zero", "1"]
    place = "12" if kind == "forward" else "3"
    (output,) = run(1, [FAULTY, kind, place, "-", "--", "train", "--run", str(folder), *keys], expected=1)
    found = next((folder / "incidents").glob("step-*"))
    step = int(found.name[5:])
    assert f"laconvnet: step {step}: loss or gradient is not finite" in output
    assert "Traceback" not in output
    record = incident(folder, step, 0)
    names = [example["example"] for example in record["examples"]]
    if kind == "forward":
        assert 12 in names
        assert record["first_not_finite"].startswith("visual.stages.2")
    else:
        assert (step, record["first_not_finite"]) == (3, None)
        assert torch.tensor(record["terms"]["loss"]).isfinite()
    state, _ = checkpoint.read(found / "state")
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    # The fault of the gradient is in the third call of the loss; a replay calls it once.
    place = "12" if kind == "forward" else "0"
    (output,) = run(1, [FAULTY, kind, place, "-", "--", "replay", str(folder), str(step), "--json"])
    answer = json.loads(output.strip().splitlines()[-1])
    assert (answer["step"], answer["finite"]) == (step, False)
    if kind == "forward":
        assert answer["first_not_finite"].startswith("visual.stages.2")
    else:
        assert "_SteepBackward" in answer["anomaly"] or not torch.tensor(answer["gradient_norm"]).isfinite()
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == before


def test_a_sound_step_is_replayed_from_the_checkpoint_before_it(tmp_path: Path, refcoco: Path) -> None:
    folder = tmp_path / "run"
    keys = [*TINY, "--data.folder", str(refcoco), "--checkpoint.keep", "9"]
    run(1, ["-m", "laconvnet.launch.cli", "train", "--run", str(folder), *keys])
    (output,) = run(1, ["-m", "laconvnet.launch.cli", "replay", str(folder), "5", "--json"])
    answer = json.loads(output.strip().splitlines()[-1])
    assert answer["finite"]
    assert answer["from"].endswith("step-00000004")
    assert sum(answer["terms"].values()) == pytest.approx(rows(folder)[5]["loss"], rel=1e-6)
    (output,) = run(1, ["-m", "laconvnet.launch.cli", "replay", str(folder), "99"], expected=2)
    assert "step 99: this run has the steps 0 to" in output
