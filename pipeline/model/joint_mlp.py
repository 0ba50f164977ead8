"""The MLP of a block around its hidden batch norm, over all processes, by the passes of `kernels.mlp`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from laconvnet.kernels.mlp import takes, weight_gradient
from laconvnet.pipeline.model.batch_statistics import global_statistics, global_sums

__all__ = ["JointMLP", "takes"]


class JointMLP(torch.autograd.Function):
    """relu(BN(y W1^T)) W2^T for each pixel, on any number of processes, without the hidden map in memory.

    weight and bias of the norm (4C,), y (B, C, H, W), w1 (4C, C, 1, 1) and w2 (C, 4C, 1, 1) -> the output, like y, and
    of the hidden map of the global batch mean and variance (4C,) and the number of values a channel, a scalar. One
    exchange forward, one backward.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, eps: float, y: Tensor, w1: Tensor, w2: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        matrices = [each.flatten(1).to(y.dtype) for each in (w1, w2)]
        moments, own = torch.ops.laconv.mlp_statistics(y, matrices[0])
        mean, var, total = global_statistics(own.to(weight.dtype))
        out = torch.ops.laconv.mlp_forward(y, *matrices, mean, var, weight, bias, eps)
        ctx.save_for_backward(y, *matrices, mean, var, weight, bias, total, moments)
        ctx.eps, ctx.shapes, ctx.dtypes = eps, (w1.shape, w2.shape), (w1.dtype, w2.dtype)
        ctx.mark_non_differentiable(mean, var, total)
        return out, mean, var, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """The gradients of weight and bias (4C,), y (B, C, H, W), w1 and w2, from that of the output, (B, C, H, W)."""
        y, w1, w2, *channels, total, moments = ctx.saved_tensors
        own, of_w2, with_y = torch.ops.laconv.mlp_backward_reduce(grad, y, w1, w2, *channels, ctx.eps)
        sums = global_sums(own)
        of_y = torch.ops.laconv.mlp_backward_apply(grad, y, w1, w2, *channels, sums, total, ctx.eps)
        of_w1 = weight_gradient(with_y, moments, w1, *channels[:3], sums, total, ctx.eps)
        of_matrices = (
            each.view(shape).to(dtype)
            for each, shape, dtype in zip((of_w1, of_w2), ctx.shapes, ctx.dtypes, strict=True)
        )
        of_bias, of_weight = own.chunk(2)
        return of_weight, of_bias, None, of_y, *of_matrices
