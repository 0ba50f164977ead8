"""The passes of batch norm in PyTorch's operators for a CPU; what each takes and gives: `kernels.norm`.

They take bfloat16 and float16 maps beside float32 statistics as they are and compute in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_backward = torch.ops.aten.native_batch_norm_backward


def statistics(x: Tensor, relu_before: bool = False) -> Tensor:
    """x (B, C, ...) -> (2 C + 1): means, variances, number of values a channel; of relu(x) with `relu_before`."""
    channels = x.shape[1]
    x = F.relu(x) if relu_before else x
    own = x.new_zeros(2 * channels + 1, dtype=statistics_dtype(x))
    if x.numel():
        # Running statistics, to be thrown away: by their type the operator knows that of its results.
        running = own.new_zeros(2, channels)
        own[:channels], own[channels:-1] = torch.batch_norm_update_stats(x, running[0], running[1], 0.0)
        own[-1] = x.numel() // channels
    return own


def statistics_dtype(x: Tensor) -> torch.dtype:
    """What the statistics of a map of any shape are computed and held in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def combine(every: Tensor) -> Tensor:
    """(processes, 2*C + 1), the statistics of each -> (2*C + 1,), those of all together.

    Combined like this they are exact and do not cancel (Chan, Golub and LeVeque 1983).
    """
    channels = every.shape[1] // 2
    means, variances, counts = every.split([channels, channels, 1], 1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    var = (counts * (variances + (means - mean).square())).sum(0) / total
    return torch.cat([mean, var, total])


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
    if not x.numel():  # PyTorch's CPU kernels divide by the number of values
        return torch.empty_like(x)
    out = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    return finished(out, beside, relu, slope)


def finished(out: Tensor, beside: Tensor | None, relu: bool, slope: float) -> Tensor:
    """relu?(beside + out), in place, (B, C, ...)."""
    if beside is not None:
        out += beside
    if not relu:
        return out
    return F.leaky_relu_(out, slope) if slope else F.relu_(out)


def gated(grad: Tensor, sign: Tensor, slope: float) -> Tensor:
    """The gradient before the ReLU, from that behind it and what has the sign of its input, (B, C, ...)."""
    aten = torch.ops.aten
    found: Tensor = (
        aten.leaky_relu_backward(grad, sign, slope, True) if slope else aten.threshold_backward(grad, sign, 0)
    )
    return found


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
    by_result = relu and out is not None
    if relu:
        sign = apply(x, None, mean, var, weight, bias, eps, False) if out is None else out
        grad = gated(grad, sign, slope)
    sums = mean.new_zeros(2 * len(mean))
    if x.numel():
        _, of_weight, of_bias = _backward(grad, x, weight, mean, var, None, None, False, eps, [False, True, True])
        torch.cat([of_bias, of_weight], out=sums)
    return sums, grad if by_result else x.new_empty(0)


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
    if relu:
        sign = apply(x, None, mean, var, weight, bias, eps, False)
        grad = gated(grad, sign, slope)
    of_bias, of_weight = (sums / count).chunk(2)
    inverse = torch.rsqrt(var + eps)
    scale = weight * inverse
    tilt = -scale * inverse * of_weight
    level = -scale * of_bias - tilt * mean
    broad = [1, len(mean), *[1] * (x.dim() - 2)]
    wide = torch.addcmul(level.view(broad), x, tilt.view(broad))
    return torch.empty_like(x).copy_(wide.addcmul_(grad, scale.view(broad)))
