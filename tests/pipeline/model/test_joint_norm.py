"""Batch norm, sum and ReLU by the passes of `kernels.norm`: the layer of PyTorch, wherever and however it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from laconvnet.pipeline.model.joint_norm import JointBatchNorm
from laconvnet.pipeline.model.norm import BatchNorm
from laconvnet.pipeline.model.recompute import recomputed
from tests.pipeline.model.test_fused_norm import layer, maps, named, results

PASSES = ["norm_statistics", "norm_apply", "norm_backward_reduce", "norm_backward_apply"]


def joint(channels: int = 6) -> BatchNorm:
    norm = layer(False, channels)
    norm.as_on_gpu = True
    return norm


class Called(TorchDispatchMode):
    """The names of what was called, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        self.names.append(function.__name__.partition(".")[0])
        return function(*arguments, **(keywords or {}))


@contextmanager
def called() -> Iterator[list[str]]:
    with Called() as mode:
        yield mode.names


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_the_layer_of_pytorch(dtype: torch.dtype, with_sum: bool, relu: bool) -> None:
    x, beside, grad = maps(dtype)
    arguments = (x, beside if with_sum else None, relu, grad)
    with called() as names:
        ours = results(joint(), *arguments)
    theirs = results(layer(False), *arguments)
    assert [name for name in names if name.startswith("norm_")] == PASSES
    assert ours.keys() == theirs.keys() >= {"out", "x", "weight", "bias", "running_mean", "running_var"}
    tolerance = 1e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance, msg=named(name))
    assert ours["out"].is_contiguous(memory_format=torch.channels_last)
    assert ours["num_batches_tracked"] == 1


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
def test_gradients_are_those_of_finite_differences(with_sum: bool, on_gpu: bool) -> None:
    norm = joint().double()
    x, beside, _ = (each.requires_grad_() for each in maps(torch.float64, shape=(2, 6, 2, 2)))

    def output(x: Tensor, beside: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        apply: Callable[..., tuple[Tensor, ...]] = JointBatchNorm.apply
        return apply(weight, bias, norm.eps, x, beside if with_sum else None, True, on_gpu)[0]

    assert torch.autograd.gradcheck(output, (x, beside, norm.weight, norm.bias))


def test_types_that_differ() -> None:
    """Float64 parameters or maps are computed in float64; what is added in another type is added outside."""
    x, beside, grad = maps(torch.float32)
    wanted = results(layer(False), x, beside, True, grad)
    for norm in (joint(), joint().double()):
        mixed = results(norm, x.double(), beside, True, grad.double())
        for name in ("out", "x", "beside", "weight"):
            torch.testing.assert_close(mixed[name].float(), wanted[name].float(), rtol=1e-4, atol=1e-4)
    in_float64 = results(joint().double(), x, beside, True, grad)
    assert in_float64["out"].dtype == torch.float32
    torch.testing.assert_close(in_float64["out"], wanted["out"], rtol=1e-5, atol=1e-5)
    half = results(joint(), x.bfloat16(), beside, True, grad)
    assert half["out"].dtype == torch.float32, "as PyTorch adds the two"


def test_only_training_on_more_than_one_value_goes_by_the_passes() -> None:
    x, beside, _ = maps(torch.float32)
    frozen, evaluated = joint(), joint().eval()
    frozen.freeze()
    plain = layer(False)
    with called() as names:
        for norm in (frozen, evaluated, plain):
            norm(x, beside, relu=True)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            joint()(x[:1, :, :1, :1])
    assert not [name for name in names if name.startswith("norm_")]


def test_statistics_are_learned_once_where_activations_are_computed_again() -> None:
    x, beside, _ = maps(torch.float32)
    once, again = joint(), joint()
    once(x, beside, relu=True)
    # What comes behind keeps its result too: the second pass would else end before the statistics are learned.
    recomputed(lambda x, beside: again(x, beside, relu=True).exp(), x.requires_grad_(), beside).sum().backward()
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, again.get_buffer(name)), name


def test_what_is_kept_for_backward() -> None:
    """The input, and the output only where something was added: it is kept by whoever reads it anyway."""
    x, beside, _ = maps(torch.bfloat16)
    for added, extra in ((None, 0), (beside, 1)):
        found = joint()(x.requires_grad_(), added, relu=True).grad_fn.saved_tensors
        assert sum(t is not None and t.numel() == x.numel() for t in found) == 1 + extra


def test_compiles_to_one_graph() -> None:
    x, beside, grad = maps(torch.float32)
    norm, plain = joint(), joint()

    def step(norm: BatchNorm, x: Tensor, beside: Tensor) -> Tensor:
        out: Tensor = norm(x * 2, beside, relu=True) + norm(x, relu=True)
        return out

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    found = []
    for function, module in ((compiled, norm), (step, plain)):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, beside)]
        out = function(module, *leaves)
        out.backward(grad)
        found.append([out.detach(), *(leaf.grad for leaf in leaves), *module.buffers()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
