"""Batch norm, sum and ReLU as the textbook has them, in float64: what the passes of `kernels.norm` are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


@dataclass
class Given:
    """Maps (B, C, ...) of one type, and weight and bias (C,)."""

    x: Tensor
    beside: Tensor | None
    grad: Tensor
    weight: Tensor
    bias: Tensor
    relu: bool
    slope: float = 0.0  # of the ReLU below zero

    def changed(self, maps: Callable[[Tensor], Tensor], channels: Callable[[Tensor], Tensor] | None = None) -> Given:
        """The same after a change of each map and, by a change of their own or none, of weight and bias."""
        weight, bias = (self.weight, self.bias) if channels is None else map(channels, (self.weight, self.bias))
        beside = None if self.beside is None else maps(self.beside)
        return Given(maps(self.x), beside, maps(self.grad), weight, bias, self.relu, self.slope)


@dataclass
class Found:
    """What the passes give, one after the other; own statistics (2 C + 1), sums (2 C)."""

    statistics: Tensor
    out: Tensor
    sums: Tensor
    grad_beside: Tensor | None
    grad_x: Tensor


def given(shape: tuple[int, ...], dtype: torch.dtype, with_sum: bool, relu: bool, device: str = "cpu") -> Given:
    """Random maps, channels last, whose channels have means and spreads of their own."""
    some = torch.Generator().manual_seed(shape[1] * 7 + shape[0])

    def made() -> Tensor:
        values = torch.randn(shape, generator=some).transpose(1, -1)
        channels = torch.arange(shape[1])
        values = values * (1 + channels % 3) + (channels % 5 - 2.0)
        return values.to(dtype).transpose(1, -1).to(device).contiguous(memory_format=torch.channels_last)

    x, beside, grad = made(), made() if with_sum else None, made()
    weight, bias = (torch.randn(shape[1], generator=some).to(device) for _ in range(2))
    return Given(x, beside, grad, weight, bias, relu)


def exactly(these: Given) -> Found:
    """In float64, and without the gradients' closed form: by autograd."""
    x, weight, bias = (tensor.double().requires_grad_() for tensor in (these.x, these.weight, these.bias))
    beside = None if these.beside is None else these.beside.double().requires_grad_()
    dims = [dim for dim in range(x.dim()) if dim != 1]
    broad = [1, -1, *[1] * (x.dim() - 2)]
    mean = x.mean(dims)
    var = (x - mean.view(broad)).square().mean(dims)
    out = (x - mean.view(broad)) / (var + EPS).sqrt().view(broad) * weight.view(broad) + bias.view(broad)
    out = out if beside is None else out + beside
    out = F.leaky_relu(out, these.slope) if these.relu else out
    inputs = [x, weight, bias] + ([] if beside is None else [beside])
    grad_x, grad_weight, grad_bias, *added = torch.autograd.grad(out, inputs, these.grad.double())
    count = mean.new_full((1,), x.numel() // x.shape[1])
    statistics = torch.cat([mean, var, count]).detach()
    sums = torch.cat([grad_bias, grad_weight])
    return Found(statistics, out.detach(), sums, added[0] if added else None, grad_x)
