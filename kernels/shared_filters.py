"""LaConv with one filter for all pixels of a picture (v2 Tab. 10 "language only"): an ordinary grouped convolution.

filters = cond W + b with cond (B, M, 1, 1) is one set of k*k*g numbers a picture; no map of them is ever made. Every
channel of every picture becomes a group of one convolution, in the type that is accumulated in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.backend import Backend
from kernels.reference import accumulation_dtype


def forward(
    way: Backend,
    x: Tensor,
    cond: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    groups: int,
    dropout_p: float,
    seed: Tensor | None,
    interleaved: bool,
) -> Tensor:
    if not x.numel():
        return torch.empty_like(x)
    filters = _filters(way, cond, weight, bias, dropout_p, seed)
    kernels = _by_channel(filters, x.shape[1], kernel_size, groups, interleaved)
    out = F.conv2d(_one_picture(x), kernels, padding=kernel_size // 2, groups=len(kernels))
    return torch.empty_like(x).copy_(out.view(x.shape))


def backward(
    way: Backend,
    grad: Tensor,
    x: Tensor,
    cond: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    groups: int,
    dropout_p: float,
    seed: Tensor | None,
    interleaved: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, cond, weight and bias; those of weight and bias in at least float32."""
    dtype = accumulation_dtype(x.dtype)
    if not x.numel():
        return (
            torch.empty_like(x),
            torch.zeros_like(cond),
            torch.zeros_like(weight, dtype=dtype),
            weight.new_zeros(weight.shape[0], dtype=dtype),
        )
    filters = _filters(way, cond, weight, bias, dropout_p, seed)
    kernels = _by_channel(filters, x.shape[1], kernel_size, groups, interleaved)
    reach = kernel_size // 2
    found, grad_kernels, _ = torch.ops.aten.convolution_backward(
        _one_picture(grad),
        _one_picture(x),
        kernels,
        None,
        [1, 1],
        [reach, reach],
        [1, 1],
        False,
        [0, 0],
        len(kernels),
        [True, True, False],
    )
    by_group = grad_kernels.reshape(len(x), *_split(x.shape[1], groups, interleaved), kernel_size**2)
    by_tap = by_group.sum(1 if interleaved else 2).transpose(1, 2)  # (B, k*k, g)
    grad_filters = by_tap.reshape(len(x), -1, 1, 1)
    if dropout_p > 0.0:
        assert seed is not None
        way.dropout_(grad_filters, seed, 0, dropout_p)
    upper = grad_filters.flatten(1)
    grad_cond = (upper @ weight.to(dtype)).view(cond.shape)
    return (
        torch.empty_like(x).copy_(found.view(x.shape)),
        torch.empty_like(cond).copy_(grad_cond),
        upper.t() @ cond.flatten(1).to(dtype),
        upper.sum(0),
    )


def _filters(
    way: Backend, cond: Tensor, weight: Tensor, bias: Tensor | None, dropout_p: float, seed: Tensor | None
) -> Tensor:
    """(B, M, 1, 1) -> (B, k*k*g), dropped."""
    dtype = accumulation_dtype(cond.dtype)
    filters = F.linear(cond.flatten(1).to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    if dropout_p > 0.0:
        assert seed is not None
        way.dropout_(filters[:, :, None, None], seed, 0, dropout_p)
    return filters


def _one_picture(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (1, B*C, H, W): pictures become channels."""
    return x.to(accumulation_dtype(x.dtype)).reshape(1, -1, *x.shape[2:])


def _split(channels: int, groups: int, interleaved: bool) -> tuple[int, int]:
    return (channels // groups, groups) if interleaved else (groups, channels // groups)


def _by_channel(filters: Tensor, channels: int, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    """(B, k*k*g) -> (B*C, 1, k, k)."""
    by_group = filters.view(len(filters), kernel_size**2, groups).transpose(1, 2)  # (B, g, k*k)
    shape = (len(filters), *_split(channels, groups, interleaved), kernel_size**2)
    spread = by_group.unsqueeze(1 if interleaved else 2).expand(shape)
    return spread.reshape(-1, 1, kernel_size, kernel_size)
