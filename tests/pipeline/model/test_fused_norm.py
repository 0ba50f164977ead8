"""Batch norm, sum and ReLU by apex's kernels: the same layer as by PyTorch's, on any number of processes.

The kernels themselves run on a GPU only (tests/gpu); here a double keeps their contract, checks what it is given, and
everything around them is the real thing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import fused_norm
from laconvnet.pipeline.model.blocks.base import BlockConfig
from laconvnet.pipeline.model.blocks.laconv import LaConvBlock
from laconvnet.pipeline.model.norm import BatchNorm
from laconvnet.pipeline.model.recompute import recomputed
from laconvnet.pipeline.training import norms
from laconvnet.pipeline.training.engine import EngineConfig
from tests.pipeline.model import syncbn_double

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The double in the place of apex's extension, and the maps that went through it forward."""
    seen: list[Tensor] = []

    plain: Callable[..., Tensor] = syncbn_double.batchnorm_forward_c_last

    def forward(x: Tensor, *rest: object) -> Tensor:
        seen.append(x)
        return plain(x, *rest)

    monkeypatch.setattr(syncbn_double, "batchnorm_forward_c_last", forward)
    monkeypatch.setitem(sys.modules, fused_norm.EXTENSION, syncbn_double)
    return seen


def maps(dtype: torch.dtype, number: int = 3, shape: tuple[int, ...] = (4, 6, 5, 3)) -> list[Tensor]:
    some = torch.Generator().manual_seed(5)
    made = [torch.randn(shape, generator=some) * 2 + 1 for _ in range(number)]
    return [each.to(dtype).contiguous(memory_format=torch.channels_last) for each in made]


def named(name: str) -> Callable[[str], str]:
    return lambda message: f"{name}: {message}"


def layer(fused: bool, channels: int = 6) -> BatchNorm:
    norm = BatchNorm(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, channels))
        norm.bias.copy_(torch.linspace(1, -1, channels))
    norm.fused = fused
    return norm


def results(norm: BatchNorm, x: Tensor, beside: Tensor | None, relu: bool, grad: Tensor) -> dict[str, Tensor]:
    tensors = {"x": x, "beside": beside}
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in tensors.items() if leaf is not None}
    out = norm(leaves["x"], leaves.get("beside"), relu=relu)
    out.backward(grad)
    grads = {}
    for name, leaf in {**leaves, **dict(norm.named_parameters())}.items():
        assert leaf.grad is not None, name
        grads[name] = leaf.grad
    return {"out": out.detach(), **grads, **dict(norm.named_buffers())}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_is_the_layer_of_pytorch(kernels: list[Tensor], dtype: torch.dtype, with_sum: bool, relu: bool) -> None:
    x, beside, grad = maps(dtype)
    arguments = (x, beside if with_sum else None, relu, grad)
    ours, theirs = results(layer(True), *arguments), results(layer(False), *arguments)
    assert len(kernels) == 1
    assert ours.keys() == theirs.keys() >= {"out", "x", "weight", "bias", "running_mean", "running_var"}
    assert ("beside" in ours) == with_sum
    assert relu == (float(ours["out"].min()) == 0)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # half precision: PyTorch rounds before the sum as well
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance, msg=named(name))
    assert ours["out"].is_contiguous(memory_format=torch.channels_last)
    assert ours["num_batches_tracked"] == 1


def test_gradients_are_those_of_finite_differences(kernels: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_norm, "DTYPES", (torch.float64,))
    norm = layer(True).double()
    x, beside, _ = (each.requires_grad_() for each in maps(torch.float64, shape=(2, 6, 2, 2)))

    def output(x: Tensor, beside: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        apply: Callable[..., tuple[Tensor, ...]] = fused_norm.FusedBatchNorm.apply
        return apply(weight, bias, norm.eps, x, beside, True)[0]

    assert torch.autograd.gradcheck(output, (x, beside, norm.weight, norm.bias))
    assert kernels


def test_what_the_kernels_cannot_take_goes_by_pytorch(kernels: list[Tensor]) -> None:
    x, beside, _ = maps(torch.float32)
    assert fused_norm.takes(x, None)
    assert fused_norm.takes(x, beside)
    others = {
        "bfloat16": (x.bfloat16(), None),
        "channels first": (x.contiguous(), None),
        "a sum of another layout": (x, beside.contiguous()),
        "a sum of another type": (x, beside.half()),
        "a sum of another shape": (x, beside[:1]),
        "no picture": (x[:0], None),
        "one value a channel": (x[:1, :, :1, :1], None),
        "not a map": (x[:, :, 0, 0], None),
    }
    for name, arguments in others.items():
        assert not fused_norm.takes(*arguments), name
    wanted = layer(False)(others["bfloat16"][0], beside.bfloat16(), relu=True)
    assert torch.equal(layer(True)(others["bfloat16"][0], beside.bfloat16(), relu=True), wanted)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(True)(*others["one value a channel"])
    for norm in (layer(True).eval(), layer(True)):
        norm.freeze()
        norm(x, beside, relu=True)
    layer(True).eval()(x)
    assert not kernels


def test_statistics_are_learned_once_where_activations_are_computed_again(kernels: list[Tensor]) -> None:
    x, beside, _ = maps(torch.float32)
    once, again = layer(True), layer(True)
    once(x, beside, relu=True)
    recomputed(lambda x, beside: again(x, beside, relu=True), x.requires_grad_(), beside).sum().backward()
    assert len(kernels) == 3
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, again.get_buffer(name)), name


def test_a_laconv_block_trains_the_same(kernels: list[Tensor]) -> None:
    config = BlockConfig(dim=8, condition=8, groups=2, packing=2, kernel_size=3, words=6, heads=2)
    torch.manual_seed(3)
    block = LaConvBlock(replace(config, affinity_dropout=0.0, filter_dropout=0.0))
    move: Callable[..., LaConvBlock] = block.to
    move(memory_format=torch.channels_last)
    x, grad = maps(torch.float32, 2, (2, 8, 6, 6))
    words, mask = torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.bool)
    found = []
    for fuse in (False, True):
        norms.prepare(block, fuse, freeze=False)
        block.zero_grad()
        out = block(x, words, mask)
        out.backward(grad)
        grads = [weight.grad for weight in block.parameters() if weight.grad is not None]
        assert len(grads) == len(list(block.parameters()))
        found.append([out.detach(), *(one.clone() for one in grads)])
    assert len(kernels) >= 3  # behind the operator, and both of the MLP
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def share(rank: int, part: int) -> tuple[Tensor, Tensor, Tensor]:
    """The part of the global batch that a process has: five images in all, cut in a way of ``part``."""
    cut = (slice(0, 2), slice(2, 5)) if part < 2 else (slice(0, 0), slice(0, 5))
    x, beside, grad = (each[cut[rank]] for each in maps(torch.float32, shape=(5, 6, 3, 3)))
    # In part 1 the second process has a map that the kernels cannot take.
    return (x.contiguous() if part == 1 and rank == 1 else x), beside, grad


def process(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    sys.modules[fused_norm.EXTENSION] = syncbn_double
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for part in range(3):
        x, beside, grad = share(rank, part)
        found.append(results(layer(True), x, beside, True, grad))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_equal_one_whichever_implementation_each_takes(tmp_path: Path) -> None:
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    x, beside, grad = maps(torch.float32, shape=(5, 6, 3, 3))
    one = results(layer(False), x, beside, True, grad)
    for a, b in zip(first, second, strict=True):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(a[name], one[name])
            assert torch.equal(a[name], b[name]), "every process holds the same statistics"
        for name in ("out", "x", "beside"):
            torch.testing.assert_close(torch.cat([a[name], b[name]]), one[name], rtol=1e-4, atol=1e-4)
        for name in ("weight", "bias"):
            torch.testing.assert_close(a[name] + b[name], one[name], rtol=1e-4, atol=1e-4)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "has_apex", lambda extension: extension == fused_norm.EXTENSION)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("config", "device", "why"),
    [
        (EngineConfig(precision="fp16"), GPU, None),
        (EngineConfig(precision="fp32"), GPU, None),
        (EngineConfig(precision="fp32"), CPU, "it runs on a GPU only"),
        (EngineConfig(precision="bf16"), GPU, "its kernels do not know bf16"),
        (EngineConfig(precision="fp16", compile=True), GPU, "torch.compile would have to stop"),
    ],
)
def test_auto_takes_it_where_it_can_and_apex_says_why_not(config: EngineConfig, device: torch.device, why: str) -> None:
    assert norms.fused(config, device) == (why is None)
    assert not norms.fused(EngineConfig(**{**vars(config), "norms": "torch"}), device)
    requested = EngineConfig(**{**vars(config), "norms": "apex"})
    if why is None:
        assert norms.fused(requested, device)
    else:
        with pytest.raises(ConfigError, match=rf"engine\.norms: 'apex': {why}.*; use 'auto' or 'torch'"):
            norms.fused(requested, device)


def test_without_apex_it_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "has_apex", lambda extension: False)
    assert not norms.fused(EngineConfig(precision="fp16"), GPU)
    with pytest.raises(ConfigError, match=r"engine\.norms: 'apex': .*apex.*; use 'auto' or 'torch'"):
        norms.fused(EngineConfig(precision="fp16", norms="apex"), GPU)
