"""Two processes train one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.training.ranks import run
from tests.rounding import SEEDS, TIMES, assert_rounding

HERE = Path(__file__).parent


Step = dict[str, Any]


def seen(out: Path, refcoco: Path, world: int, *keys: str, **environment: str) -> list[list[Step]]:
    """The first steps as each rank saw them."""
    worker = [str(HERE / "worker.py"), str(out), str(HERE / "tiny.yaml"), "--data.folder", str(refcoco), *keys]
    run(world, worker, 0, **environment)
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> dict[int, list[list[Step]]]:
    """The first steps on one and on two processes."""
    return {world: seen(tmp_path_factory.mktemp(f"world{world}"), refcoco, world) for world in (1, 2)}


@pytest.fixture(scope="module")
def reordered(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> list[Step]:
    """The first step of one process that adds up the same batch in other orders: what rounding alone makes of it."""
    places = {seed: tmp_path_factory.mktemp(f"order{seed}") for seed in SEEDS}
    return [seen(place, refcoco, 1, ORDER=str(seed))[0][0] for seed, place in places.items()]


def distance(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The length of the difference of two gradients over that of the second."""
    assert some.keys() == others.keys()
    apart = sum(float((some[name] - others[name]).double().square().sum()) for name in some)
    return float((apart / sum(float(other.double().square().sum()) for other in others.values())) ** 0.5)


def test_the_ranks_share_the_batch(steps: dict[int, list[list[Step]]]) -> None:
    (alone,), (first, second) = steps[1], steps[2]
    for whole, left, right in zip(alone, first, second, strict=True):
        assert whole["rows"] == left["rows"] + right["rows"]
        assert set(left["rows"]).isdisjoint(right["rows"])


def test_both_ranks_hold_the_same_weights_after_each_step(steps: dict[int, list[list[Step]]]) -> None:
    first, second = steps[2]
    for step, (left, right) in enumerate(zip(first, second, strict=True)):
        assert left["state"].keys() == right["state"].keys()
        for name, tensor in left["state"].items():
            assert torch.equal(tensor, right["state"][name]), f"step {step}: {name} differs between the ranks"
    assert any(not torch.equal(first[0]["state"][name], first[1]["state"][name]) for name in first[0]["state"])


def check(loss: float, norm: float, gradients: dict[str, torch.Tensor], alone: Step, reordered: list[Step]) -> None:
    """That a step's loss, norm and gradient are those of one process up to rounding, each by itself."""
    for key, found in (("loss", loss), ("norm", norm)):
        assert_rounding([found], [alone[key]], [[step[key]] for step in reordered])
    rounding = max(distance(step["gradients"], alone["gradients"]) for step in reordered)
    assert distance(gradients, alone["gradients"]) < TIMES * rounding


def test_the_gradient_is_that_of_one_process_on_the_joint_batch(
    steps: dict[int, list[list[Step]]], reordered: list[Step]
) -> None:
    (alone,), (first, second) = steps[1], steps[2]
    assert all(sorted(step["rows"]) == sorted(alone[0]["rows"]) != step["rows"] for step in reordered)
    joint = (first[0]["loss"] + second[0]["loss"]) / 2
    check(joint, first[0]["norm"], first[0]["gradients"], alone[0], reordered)


def test_half_the_batch_has_another_gradient(
    tmp_path: Path, refcoco: Path, steps: dict[int, list[list[Step]]], reordered: list[Step]
) -> None:
    """Or the comparison above would hold without any communication, or for any gradient."""
    (alone,), (first, _) = steps[1], steps[2]
    half = seen(tmp_path, refcoco, 1, "--data.batch", str(len(first[0]["rows"])))[0][0]
    assert half["rows"] == first[0]["rows"]
    for key in ("loss", "norm", "gradients"):
        mixed = alone[0] | {key: half[key]}
        with pytest.raises(AssertionError):
            check(mixed["loss"], mixed["norm"], mixed["gradients"], alone[0], reordered)
