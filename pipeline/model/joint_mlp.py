"""The MLP of a block and its two batch norms over all processes, by the passes of `kernels.mlp` and `kernels.norm`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import laconvnet.kernels.norm  # noqa: F401  (registers the operators)
from laconvnet.kernels.formats import channels_last
from laconvnet.kernels.mlp import weight_gradient
from laconvnet.pipeline.model.batch_statistics import global_statistics, global_sums


class JointMLP(torch.autograd.Function):
    """y + BN(relu(BN(y W1^T)) W2^T) for each pixel, on any number of processes, without the hidden map in memory.

    y (B, C, H, W), w1 (4C, C, 1, 1) and w2 (C, 4C, 1, 1), weight, bias and eps of the inner norm (4C,) and of the outer
    one (C,) -> the output, like y, and mean, variance and number of values a channel of the global batch, of what the
    inner norm is applied to and of what the outer one is. Two exchanges forward, two backward. In the backward pass
    what reaches y directly is added where the rest of its gradient is written.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, w1: Tensor, w2: Tensor, *norms: Any) -> tuple[Tensor, ...]:
        inner, inner_eps, outer, outer_eps = norms[:2], norms[2], norms[3:5], norms[5]
        y = channels_last(y)
        matrices = [each.flatten(1).to(y.dtype) for each in (w1, w2)]
        moments, own = torch.ops.laconv.mlp_statistics(y, matrices[0])
        of_inner = global_statistics(own.to(inner[0].dtype))
        narrow = torch.ops.laconv.mlp_forward(y, *matrices, *of_inner[:2], *inner, inner_eps)
        of_outer = global_statistics(torch.ops.laconv.norm_statistics(narrow).to(outer[0].dtype))
        out = torch.ops.laconv.norm_apply(narrow, y, *of_outer[:2], *outer, outer_eps, False)
        ctx.save_for_backward(y, narrow, moments, *matrices, *of_inner[:2], *inner, *of_outer[:2], *outer, of_inner[2])
        ctx.eps, ctx.likes = (inner_eps, outer_eps), [(each.shape, each.dtype) for each in (w1, w2)]
        ctx.mark_non_differentiable(*of_inner, *of_outer)
        return out, *of_inner, *of_outer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """The gradients of y (B, C, H, W), w1 and w2, and of both norms' weight and bias, from the output's."""
        y, narrow, moments, *rest, total = ctx.saved_tensors
        matrices, inner, outer = rest[:2], rest[2:6], rest[6:]
        inner_eps, outer_eps = ctx.eps
        grad = channels_last(grad)
        own, _ = torch.ops.laconv.norm_backward_reduce(grad, narrow, None, *outer, outer_eps, False)
        below = torch.ops.laconv.norm_backward_apply(grad, narrow, *outer, global_sums(own), total, outer_eps, False)
        own_inner, of_w2, with_y = torch.ops.laconv.mlp_backward_reduce(below, y, *matrices, *inner, inner_eps)
        sums = global_sums(own_inner)
        of_y = torch.ops.laconv.mlp_backward_apply(below, y, *matrices, *inner, sums, total, grad, inner_eps)
        mean, var, weight, _ = inner
        of_w1 = weight_gradient(with_y, moments, matrices[0], mean, var, weight, sums, total, inner_eps)
        of_matrices = (
            each.view(shape).to(dtype) for each, (shape, dtype) in zip((of_w1, of_w2), ctx.likes, strict=True)
        )
        of_norms = (each.chunk(2)[::-1] for each in (own_inner, own))  # weight, bias
        (of_weight, of_bias), (of_outer_weight, of_outer_bias) = of_norms
        return of_y, *of_matrices, of_weight, of_bias, None, of_outer_weight, of_outer_bias, None
