"""The MLP with a batch norm in its middle as the textbook has it, in float64, and its passes one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from laconvnet.kernels.mlp import weight_gradient

EPS = 1e-5


@dataclass
class Given:
    """Maps (B, C, H, W) and matrices of one type, and the norm's weight and bias (4 C,)."""

    y: Tensor
    grad: Tensor
    beside: Tensor | None  # what the gradient of y is added to
    w1: Tensor
    w2: Tensor
    weight: Tensor
    bias: Tensor

    def changed(self, change: Callable[[Tensor], Tensor], *names: str) -> Given:
        """The same after a change of these, by default of all."""
        values = vars(self)
        return Given(**{name: change(values[name]) if name in (names or values) else values[name] for name in values})


@dataclass
class Found:
    """What all passes give together."""

    mean: Tensor
    var: Tensor
    out: Tensor
    of_y: Tensor
    of_w1: Tensor
    of_w2: Tensor
    of_weight: Tensor
    of_bias: Tensor


def given(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu", offset: float = 0.5) -> Given:
    """Random maps (B, C, H, W), channels last, of this shape."""
    some = torch.Generator().manual_seed(sum(shape))

    def made(*sizes: int, scale: float = 1.0) -> Tensor:
        return torch.randn(sizes, generator=some) * scale

    channels, hidden = shape[1], 4 * shape[1]
    maps = [made(*shape).to(memory_format=torch.channels_last) for _ in range(3)]
    y = maps[0] * (1 + torch.arange(channels) % 3).view(-1, 1, 1) + offset
    matrices = made(hidden, channels, scale=channels**-0.5), made(channels, hidden, scale=hidden**-0.5)
    y, grad, beside, w1, w2 = (each.to(device, dtype) for each in (y, *maps[1:], *matrices))
    return Given(y, grad, beside, w1, w2, made(hidden).to(device), made(hidden).to(device))


def every_pass(kernels: Any, these: Given) -> Found:
    """The passes as `pipeline.model.joint_mlp` runs them, alone in the world."""
    matrices = (these.y, these.w1, these.w2)
    moments, own = kernels.mlp_statistics(these.y, these.w1)
    hidden = len(these.w1)
    mean, var, count = own[:hidden], own[hidden:-1], own[-1:]
    channels = (mean, var, these.weight, these.bias)
    out = kernels.mlp_forward(*matrices, *channels, EPS)
    sums, of_w2, with_y = kernels.mlp_backward_reduce(these.grad, *matrices, *channels, EPS)
    of_y = kernels.mlp_backward_apply(these.grad, *matrices, *channels, sums, count, these.beside, EPS)
    of_w1 = weight_gradient(with_y, moments, these.w1, *channels[:3], sums, count, EPS)
    of_bias, of_weight = sums.chunk(2)
    return Found(mean, var, out, of_y, of_w1, of_w2, of_weight, of_bias)


def exactly(these: Given) -> Found:
    """In float64 and by autograd."""
    inputs = [tensor.double().requires_grad_() for tensor in (these.y, these.w1, these.w2, these.weight, these.bias)]
    y, w1, w2, weight, bias = inputs
    hidden = y.movedim(1, -1).flatten(0, 2) @ w1.T
    mean, var = hidden.mean(0), hidden.var(0, correction=0)
    out = ((hidden - mean) * (var + EPS).rsqrt() * weight + bias).relu() @ w2.T
    out = out.view(y.movedim(1, -1).shape).movedim(-1, 1)
    of_y, of_w1, of_w2, of_weight, of_bias = torch.autograd.grad(out, inputs, these.grad.double())
    of_y = of_y if these.beside is None else of_y + these.beside.double()
    return Found(mean.detach(), var.detach(), out.detach(), of_y, of_w1, of_w2, of_weight, of_bias)


def errors(found: Found, exact: Found) -> dict[str, float]:
    """By name: the largest deviation, as a share of the largest exact value."""
    result = {}
    for field in fields(Found):
        one, right = getattr(found, field.name), getattr(exact, field.name)
        assert one.shape == right.shape, field.name
        assert not one.isnan().any(), field.name
        result[field.name] = float((one.double() - right).abs().max() / right.abs().max().clamp_min(1e-30))
    return result
