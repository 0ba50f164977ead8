"""The passes of batch norm by PyTorch's own CUDA kernels, those of nn.SyncBatchNorm, in the input's type.

They serve where the compiled kernels are not to be had, and float64. What each takes and gives: `kernels.norm`. Of the
family, `batch_norm_stats` is left out for `batch_norm_update_stats`, which is the same kernel but gives the variance
instead of 1 / sqrt(var + eps), and `batch_norm_gather_stats_with_counts` since processes exchange variances.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.plain.norm import combine, finished, gated, statistics_dtype

__all__ = ["apply", "backward_apply", "backward_reduce", "combine", "statistics"]


def statistics(x: Tensor, relu_before: bool = False) -> Tensor:
    """x (B, C, ...) -> (2 C + 1): means, variances, number of values a channel; of relu(x) with `relu_before`."""
    channels = x.shape[1]
    x = F.relu(x) if relu_before else x
    if not x.numel():
        return x.new_zeros(2 * channels + 1, dtype=statistics_dtype(x))
    mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    # Filled on the device: a number that is copied there would be waited for, at every norm.
    return torch.cat([mean, var, mean.new_full((1,), x.numel() // channels)])


def apply(
    x: Tensor,
    beside: Tensor | None,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    relu: bool,
    slope: float = 0.0,
) -> Tensor:
    """relu?(beside + BN(x)), (B, C, ...)."""
    if not x.numel():
        return torch.empty_like(x)
    return finished(torch.batch_norm_elemt(x, weight, bias, mean, torch.rsqrt(var + eps), eps), beside, relu, slope)


def backward_reduce(
    grad: Tensor,
    x: Tensor,
    out: Tensor | None,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    relu: bool,
    slope: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(2 C): the gradients of bias and weight; with `out` and relu also the gradient before that, else (0,)."""
    if not x.numel():
        return mean.new_zeros(2 * len(mean)), torch.empty_like(x) if relu and out is not None else x.new_empty(0)
    if relu:
        sign = apply(x, None, mean, var, weight, bias, eps, False) if out is None else out
        grad = gated(grad, sign, slope)
    inverse = torch.rsqrt(var + eps)
    *_, of_weight, of_bias = torch.batch_norm_backward_reduce(grad, x, mean, inverse, weight, False, True, True)
    return torch.cat([of_bias, of_weight]), grad if relu and out is not None else x.new_empty(0)


def backward_apply(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    sums: Tensor,
    count: Tensor,
    eps: float,
    relu: bool,
    slope: float = 0.0,
) -> Tensor:
    """The gradient of x (B, C, ...), `sums` (2 C) and `count` (one number) being those of all processes."""
    if not x.numel():
        return torch.empty_like(x)
    if relu:
        sign = apply(x, None, mean, var, weight, bias, eps, False)
        grad = gated(grad, sign, slope)
    inverse = torch.rsqrt(var + eps)
    of_grad, of_grad_and_x = sums.chunk(2)[0], sums.chunk(2)[1] / inverse
    return torch.batch_norm_backward_elemt(
        grad, x, mean, inverse, weight, of_grad, of_grad_and_x, count.to(torch.int32).view(1)
    )
