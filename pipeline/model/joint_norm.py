"""Batch norm over all processes, what is added to it and the ReLU, by the passes of `kernels.norm`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import laconvnet.kernels.norm  # noqa: F401  (registers the operators)
from laconvnet.pipeline.model.batch_statistics import global_statistics, global_sums


def takes(x: Tensor, beside: Tensor | None) -> bool:
    """Whether what is added to x (B, C, ...) can be added in the same pass."""
    return beside is None or (beside.shape == x.shape and beside.dtype == x.dtype)


class JointBatchNorm(torch.autograd.Function):
    """relu(beside + BN(x)), ``beside`` and the ReLU if wanted, on any number of processes.

    ``slope`` is what the ReLU multiplies numbers below zero by; None: no ReLU.

    weight and bias (C,), x and beside (B, C, ...) -> the output (B, C, ...) in the type of x, and of the global batch
    mean and variance (C,) and the number of values a channel, a scalar. One exchange forward, one backward.
    ``on_gpu``, as suits the kernels there: maps are laid channels last once, in place of in each pass, and so is the
    output; where nothing is added, the backward pass computes the sign of the ReLU's input again in place of reading
    the output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        x: Tensor,
        beside: Tensor | None,
        slope: float | None,
        on_gpu: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if on_gpu:
            x, beside = _channels_last(x), None if beside is None else _channels_last(beside)
        values = _values(x, weight)
        own = torch.ops.laconv.norm_statistics(values).to(weight.dtype)
        mean, var, total = global_statistics(own)
        relu = (slope is not None, slope or 0.0)
        added = None if beside is None else _values(beside, weight)
        out = torch.ops.laconv.norm_apply(values, added, mean, var, weight, bias, eps, *relu).to(x.dtype)
        by_result = relu[0] and not (on_gpu and beside is None)
        ctx.save_for_backward(x, out if by_result else None, mean, var, weight, bias, total)
        ctx.eps, ctx.relu, ctx.on_gpu = eps, relu, on_gpu
        ctx.mark_non_differentiable(mean, var, total)
        return out, mean, var, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, Tensor, Tensor | None, None, None]:
        """The gradients of weight and bias (C,), x and beside (B, C, ...), from that of the output, (B, C, ...)."""
        x, out, *channels, total = ctx.saved_tensors
        weight = channels[2]
        if ctx.on_gpu:
            grad = _channels_last(grad)
        values, above = _values(x, weight), _values(grad, weight)
        sign = None if out is None else _values(out, weight)
        own, masked = torch.ops.laconv.norm_backward_reduce(above, values, sign, *channels, ctx.eps, *ctx.relu)
        if sign is not None:
            above = masked
        sums = global_sums(own)
        again = (ctx.relu[0] and sign is None, ctx.relu[1])
        grad_x = torch.ops.laconv.norm_backward_apply(above, values, *channels, sums, total, ctx.eps, *again)
        grad_bias, grad_weight = own.chunk(2)
        grad_beside = above.to(x.dtype) if ctx.needs_input_grad[4] else None
        return grad_weight, grad_bias, None, grad_x.to(x.dtype), grad_beside, None, None


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)


def _values(x: Tensor, weight: Tensor) -> Tensor:
    """Maps are computed with in their own type, but for float64, which goes with float64 alone."""
    return x.to(weight.dtype) if torch.float64 in (x.dtype, weight.dtype) else x
