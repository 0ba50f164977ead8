"""The measure of rounding lets another order of summation pass and stops real faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.pipeline.training.ranks import run
from tests.rounding import SEEDS, allowed, apart, assert_rounding, nudge, nudged

ROOT = Path(__file__).resolve().parents[3]
TINY = ["--config", str(Path(__file__).parent / "tiny.yaml"), "--schedule.epochs", "0.5"]
FROZEN = ["--engine.zero", "1", "--optimizer.freeze_norms", "true"]
# Adam whose first moment is never updated after the first step.
FORGETFUL = """
import sys
import torch
from laconvnet.launch import cli

step = torch.optim.Adam.step

def forgetful(self, *given):
    kept = {weight: state["exp_avg"].clone() for weight, state in self.state.items() if "exp_avg" in state}
    step(self, *given)
    for weight, moment in kept.items():
        self.state[weight]["exp_avg"].copy_(moment)

torch.optim.Adam.step = forgetful
sys.exit(cli.main(sys.argv[1:]))
"""
Measured = tuple[list[float], list[list[float]]]


def losses(
    folder: Path, data: Path, keys: list[str], script: tuple[str, ...], world: int = 1, nudge: str = ""
) -> list[float]:
    command = ["train", "--run", str(folder), *TINY, *FROZEN, "--data.folder", str(data), *keys]
    run(world, [*script, *command], NUDGE=nudge)
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Measured:
    place, script = tmp_path_factory.mktemp("measured"), (str(ROOT / "tests" / "rounding.py"),)
    plain = losses(place / "plain", refcoco, [], script)
    return plain, [losses(place / f"{seed}", refcoco, [], script, nudge=nudge(seed)) for seed in SEEDS]


def test_another_order_of_summation_passes(tmp_path: Path, refcoco: Path, measured: Measured) -> None:
    assert_rounding(losses(tmp_path / "run", refcoco, [], ("-m", "laconvnet.launch.cli"), world=2), *measured)


@pytest.mark.parametrize(
    ("keys", "script"),
    [
        (["--optimizer.lr", "1.01e-3"], ("-m", "laconvnet.launch.cli")),  # of 1e-3
        (["--optimizer.betas", "[0.9, 0.99]"], ("-m", "laconvnet.launch.cli")),  # of 0.999
        ([], ("-c", FORGETFUL)),
    ],
    ids=["rate", "second moment", "first moment"],
)
def test_a_fault_does_not(
    tmp_path: Path, refcoco: Path, measured: Measured, keys: list[str], script: tuple[str, ...]
) -> None:
    with pytest.raises(AssertionError, match="rounding explains"):
        assert_rounding(losses(tmp_path / "run", refcoco, keys, script), *measured)


def test_a_nudge_moves_every_weight_by_one_unit_in_the_last_place() -> None:
    plain = torch.nn.Linear(50, 50)
    before = [weight.detach().clone() for weight in plain.parameters()]
    again, other = (nudged(torch.nn.Linear(50, 50), 1), nudged(torch.nn.Linear(50, 50), 2))
    assert len(list(again.parameters())) == len(list(other.parameters()))
    for dtype in (torch.float32, torch.float16):
        moved = nudged(plain, 1, dtype)
        for weight, old in zip(moved.parameters(), before, strict=True):
            steps = ((weight.detach() - old) / old).abs() / torch.finfo(dtype).eps
            assert float(steps.min()) >= 0.5
            assert float(steps.max()) <= 1.5
            with torch.no_grad():
                weight.copy_(old)


def test_what_is_allowed_follows_the_farthest_control_so_far() -> None:
    plain = [1.0, 2.0, 4.0]
    assert apart([1.0, 2.2, 3.0], plain) == pytest.approx([0, 0.1, 0.25])
    assert allowed(plain, [[1.0, 2.02, 4.0], [1.001, 2.0, 4.0]], 10) == pytest.approx([0.01, 0.1, 0.1])
    assert allowed(plain, [plain]) == [10 * torch.finfo(torch.float32).eps] * 3
    with pytest.raises(AssertionError, match=r"number 1 is .* apart"):
        assert_rounding([1.0, 2.3, 4.0], plain, [[1.0, 2.02, 4.0]])
    with pytest.raises(AssertionError):
        assert_rounding([1.0], plain, [plain])
