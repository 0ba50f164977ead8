"""Batch normalisation: float32 whatever the cast, and N processes equal one on the global batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from laconvnet.pipeline.model import batch_statistics
from laconvnet.pipeline.model.norm import BatchNorm


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stays_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, exact = BatchNorm(4).to(dtype), nn.BatchNorm2d(4)
    assert {t.dtype for t in (*norm.parameters(), norm.running_mean, norm.running_var)} == {torch.float32}
    x = (torch.randn(8, 4, 5, 5) * 3 + 1).to(dtype)
    out, wanted = norm(x), exact(x.float())
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-3)
    torch.testing.assert_close(norm.running_var, exact.running_var)
    with torch.autocast("cpu", dtype):
        assert norm(x).dtype == dtype
    assert norm.double().weight.dtype == torch.float64


def test_has_the_state_of_the_ordinary_layer() -> None:
    ordinary, norm = nn.BatchNorm2d(4), BatchNorm(4)
    x = torch.randn(8, 4, 5, 5)
    ordinary(x)
    norm.load_state_dict(ordinary.state_dict())
    torch.testing.assert_close(norm.eval()(x), ordinary.eval()(x))
    assert norm.num_batches_tracked == 1


def joint_batch(side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(side)
    # The mean is large against the spread: naive sums of squares would lose it in float32.
    x = torch.randn(5, 3, side, side, generator=generator) + 300.0
    return x, torch.randn(5, 3, side, side, generator=generator)


def run(norm: BatchNorm, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for step in range(2):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        out.backward(grad)
        assert leaf.grad is not None
        result |= {f"out{step}": out.detach(), f"grad{step}": leaf.grad}
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    return result | {"weight": norm.weight.grad, "bias": norm.bias.grad} | dict(norm.named_buffers())


def fresh() -> BatchNorm:
    norm = BatchNorm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        norm.running_mean.fill_(290.0)
    return norm


def process(rank: int, folder: str, splits: list[list[slice]], gathered: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    batch_statistics.GATHERED = gathered
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = []
    for side, parts in zip((4, 1, 4), splits, strict=True):
        x, grad = joint_batch(side)
        results.append(run(fresh(), x[parts[rank]], grad[parts[rank]]))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("gathered", [2, 1], ids=["gathered", "summed"])
def test_two_processes_equal_one(tmp_path: Path, gathered: int) -> None:
    # Uneven shares; one sample of 1x1 maps on a process, which no single process could normalise; a process without
    # samples.
    splits = [[slice(0, 2), slice(2, 5)], [slice(0, 1), slice(1, 5)], [slice(0, 0), slice(0, 5)]]
    mp.spawn(process, args=(str(tmp_path), splits, gathered), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for side, a, b in zip((4, 1, 4), first, second, strict=True):
        one: dict[str, Any] = run(fresh(), *joint_batch(side))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(a[name], one[name])
            assert torch.equal(a[name], b[name]), "every process holds the same statistics"
        for name in ("out0", "out1", "grad0", "grad1"):
            torch.testing.assert_close(torch.cat([a[name], b[name]]), one[name], rtol=1e-3, atol=1e-3)
        for name in ("weight", "bias"):
            torch.testing.assert_close(a[name] + b[name], one[name], rtol=1e-3, atol=1e-3)


def test_one_value_a_channel_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm(3)(torch.zeros(1, 3, 1, 1))
