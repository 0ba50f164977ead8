"""Two processes train one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.training.ranks import run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> dict[int, list[list[dict[str, Any]]]]:
    """The first steps on one and on two processes, as each rank saw them."""
    seen = {}
    for world in (1, 2):
        out = tmp_path_factory.mktemp(f"world{world}")
        run(world, [str(HERE / "worker.py"), str(out), str(HERE / "tiny.yaml"), "--data.folder", str(refcoco)])
        seen[world] = [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(world)]
    return seen


def distance(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The length of the difference of two gradients over that of the second."""
    assert some.keys() == others.keys()
    apart = sum(float((some[name] - others[name]).double().square().sum()) for name in some)
    return float((apart / sum(float(other.double().square().sum()) for other in others.values())) ** 0.5)


def test_the_ranks_share_the_batch(steps: dict[int, list[list[dict[str, Any]]]]) -> None:
    (alone,), (first, second) = steps[1], steps[2]
    for whole, left, right in zip(alone, first, second, strict=True):
        assert whole["rows"] == left["rows"] + right["rows"]
        assert set(left["rows"]).isdisjoint(right["rows"])


def test_both_ranks_hold_the_same_weights_after_each_step(steps: dict[int, list[list[dict[str, Any]]]]) -> None:
    first, second = steps[2]
    for step, (left, right) in enumerate(zip(first, second, strict=True)):
        assert left["state"].keys() == right["state"].keys()
        for name, tensor in left["state"].items():
            assert torch.equal(tensor, right["state"][name]), f"step {step}: {name} differs between the ranks"
    assert any(not torch.equal(first[0]["state"][name], first[1]["state"][name]) for name in first[0]["state"])


def test_the_gradient_is_that_of_one_process_on_the_joint_batch(steps: dict[int, list[list[dict[str, Any]]]]) -> None:
    (alone,), (first, second) = steps[1], steps[2]
    assert alone[0]["loss"] == pytest.approx((first[0]["loss"] + second[0]["loss"]) / 2, rel=1e-5)
    assert alone[0]["norm"] == pytest.approx(first[0]["norm"], rel=1e-2)
    apart = distance(first[0]["gradients"], alone[0]["gradients"])
    # Rounding alone, seen by reordering one process's batch, moves it by 0.3 % through the network's kinks.
    assert apart < 0.01


def test_half_the_batch_has_another_gradient(steps: dict[int, list[list[dict[str, Any]]]]) -> None:
    """Or the comparison above would hold without any communication."""
    first, second = steps[2]
    assert first[0]["loss"] != pytest.approx(second[0]["loss"], rel=1e-3)
